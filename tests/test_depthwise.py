"""Depthwise convolutions: the library's function, and gradients that agree with it and with differences."""

from __future__ import annotations

import pytest
import torch

from darts.models import depthwise
from darts.models.depthwise import Depthwise

SIZES = [(6, 6), (5, 7), (2, 2), (1, 1), (9, 4), (3, 12)]


def layer_and_input(kernel: int, stride: int, dilation: int, size: tuple[int, int], batch: int):
    torch.manual_seed(0)
    layer = Depthwise(3, kernel, stride, dilation).double()
    return layer, torch.randn(batch, 3, *size).double().requires_grad_()


@pytest.mark.parametrize("batch", [3, 4])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_function_and_gradients_are_the_librarys(kernel, dilation, stride, size, batch):
    layer, x = layer_and_input(kernel, stride, dilation, size, batch)
    out = layer(x)
    slope = torch.randn_like(out)
    found = torch.autograd.grad(out, [x, layer.weight], slope)
    plain = torch.nn.Conv2d.forward(layer, x)
    expected = torch.autograd.grad(plain, [x, layer.weight], slope)
    torch.testing.assert_close(out, plain)
    for own, library in zip(found, expected, strict=True):
        torch.testing.assert_close(own, library, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 2), (5, 1, 1), (3, 2, 1), (5, 2, 1)])
def test_first_and_second_gradients_are_those_of_differences(kernel, stride, dilation):
    layer, x = layer_and_input(kernel, stride, dilation, (4, 5), 2)

    def function(x, weight):
        return depthwise._FastGradient.apply(x, weight, stride, dilation)

    assert torch.autograd.gradcheck(function, (x, layer.weight))
    assert torch.autograd.gradgradcheck(function, (x, layer.weight))


def test_channels_last_inputs_give_the_same():
    layer, x = layer_and_input(5, 1, 2, (8, 8), 2)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    gradients = [torch.autograd.grad(layer(image).square().sum(), [image, layer.weight]) for image in (x, last)]
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_the_library_can_be_asked_for():
    layer, x = layer_and_input(3, 1, 2, (6, 6), 2)
    assert "_FastGradient" in type(layer(x).grad_fn).__name__
    layer.library = True
    assert "Convolution" in type(layer(x).grad_fn).__name__
