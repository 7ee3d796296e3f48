"""Average pooling: the gradient that is used on a GPU, on the CPU, where PyTorch's own is right."""

from __future__ import annotations

import pytest
import torch

from darts.models.pooling import AveragePool, _Averaged


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 2, 2), (2, 2, 0)])
def test_output_and_derivatives_are_those_of_pytorch(kernel, stride, padding, layout):
    pool = AveragePool(kernel, stride, padding)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    own, library = _Averaged.apply(x, pool), pool(x)
    assert torch.equal(own, library)
    gradient = torch.randn_like(own)
    (of_own,), (of_library,) = (torch.autograd.grad(result, x, gradient) for result in (own, library))
    assert torch.equal(of_own, of_library)
    assert of_own.stride() == of_library.stride() == x.stride()
    assert torch.autograd.gradcheck(lambda x: _Averaged.apply(x, pool), x)
    assert torch.autograd.gradgradcheck(lambda x: _Averaged.apply(x, pool), x)
