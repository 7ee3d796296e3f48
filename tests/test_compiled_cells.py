"""A found cell's operations in C: whole networks and single operations against their modules in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from darts.models.batch_norm import SynchronisedBatchNorm2d, frozen_statistics
from darts.models.compiled import library, program
from darts.models.fused import computation, norms, plain, preparation, separable
from darts.models.fused.computation import Computation, Layers, Step
from darts.models.fused.libraries import is_norm
from darts.models.network import build_network, drop_path_scales
from darts.models.operations import FactorisedReduction, candidate, relu_conv_norm
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from tests import kernel_cases as cases

pytestmark = pytest.mark.skipif(not library.available(), reason="there is no C compiler that can be used")
SEPARABLE = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "sep_conv_7x7"
SIZES = [  # channels, stride, sides, images
    (16, 1, (9, 4), 3), (32, 2, (8, 5), 2), (20, 1, (1, 6), 17), (4, 2, (5, 5), 1), (64, 1, (10, 11), 2),
    (64, 1, (2, 2), 5), (8, 2, (2, 3), 9), (16, 1, (4, 3), 3),
]  # fmt: skip
WIDTHS = [  # of input and output, sides, images
    (64, 16, (8, 8), 3), (48, 16, (7, 5), 2), (24, 8, (9, 4), 1), (256, 64, (4, 3), 5), (12, 24, (1, 9), 2),
    (20, 40, (12, 13), 17),
]  # fmt: skip
CASES = [
    *[("separable", name, *size, alone) for name in SEPARABLE for size in SIZES for alone in (True, False)],
    *[("plain", name, *size, False) for name in ("max_pool_3x3", "avg_pool_3x3") for size in SIZES],
    *[("plain", "skip_connect", *size, False) for size in SIZES if size[:2] != (4, 2)],  # 2 and 2 channels
    *[
        ("prepared", name, *widths, alone)
        for name in ("relu_conv_norm", "FactorisedReduction")
        for widths in WIDTHS
        for alone in (True, False)
    ],
    *[("normed", name, *size) for name in ("norm", "norm and relu") for size in [(48, (9, 8), 3), (4, (1, 5), 2)]],
]
LIMIT = 5e-6
SKIP = plain.layers_of(nn.Identity())


@pytest.fixture(params=library.LANES)
def lanes(request, monkeypatch):
    """Vectors of at most so many floats, as on other processors."""
    monkeypatch.setattr(library, "widest", lambda: request.param)
    return request.param


def check(kind, name, *sizes):
    """Output, gradients and running statistics by hand are those of the modules in float64."""
    torch.manual_seed(0)
    checks = {"separable": check_step, "plain": check_step, "prepared": check_prepared, "normed": check_normed}
    checks[kind](name, *sizes)


def check_step(name, channels, stride, sides, images, alone):
    check_summed(
        drawn(candidate(name).build(channels, stride, True)), laid_out(torch.randn(images, channels, *sides)), alone
    )


def check_prepared(name, inner, outer, sides, images, alone):
    build = {"relu_conv_norm": relu_conv_norm, "FactorisedReduction": FactorisedReduction}[name]
    check_summed(drawn(build(inner, outer, True)), laid_out(torch.randn(images, inner, *sides)), alone)


def check_summed(own, image, alone):
    """By itself, or times drop-path's factors, between two other maps that are added."""
    output = own(image)
    if alone:
        require_same(own, lambda given: by_itself(own)([given]), lambda modules, given: modules(given), [image])
        return
    factors, others = torch.rand(len(image)), [torch.randn_like(output) for _ in range(2)]

    def expected(modules: nn.Module, *given: Tensor) -> Tensor:
        return given[1] + modules(given[0]) * factors.double()[:, None, None, None] + given[2]

    whole = Computation(3, [Step(SKIP, 1, 3), Step(layers_of(own), 0, 3, 0), Step(SKIP, 2, 3)], [3])
    require_same(own, lambda *given: whole(given, factors[None]), expected, [image, *others])


def check_normed(name, channels, sides, images):
    own = drawn(nn.Sequential(nn.BatchNorm2d(channels), *([nn.ReLU()] if name == "norm and relu" else [])))
    image = laid_out(torch.randn(images, channels, *sides) + 3)
    require_same(own, lambda given: norms.in_turn(own, given), lambda modules, given: modules(given), [image])


def layers_of(own: nn.Module) -> Layers:
    return separable.layers_of(own) or preparation.layers_of(own) or plain.layers_of(own)


def by_itself(own: nn.Module) -> Computation:
    return Computation(1, [Step(layers_of(own), 0, 1)], [1])


def drawn(module: nn.Module) -> nn.Module:
    for weight in module.parameters():
        nn.init.normal_(weight)
    return module


def laid_out(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def require_same(own, by_hand, expected, tensors):
    for what, error in errors_of(own, by_hand, expected, tensors).items():
        assert error <= LIMIT, (what, error)


def errors_of(own, by_hand, expected, tensors):
    """`expected` is given the modules in float64; `tensors`: what both are functions of."""
    right = copy.deepcopy(own).double()
    before = copy.deepcopy(own.state_dict())
    tensors = [tensor.requires_grad_() for tensor in tensors]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    output, due = by_hand(*tensors), expected(right, *wide)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    due.backward(gradient.double())
    errors = {"output": cases.error(output, due)}
    for at, (one, two) in enumerate(zip(tensors, wide, strict=True)):
        errors[f"input {at}"] = cases.error(one.grad, two.grad)
    for (name, one), two in zip(own.named_parameters(), right.parameters(), strict=True):
        errors[name] = cases.error(one.grad, two.grad)
    for name, one in own.named_buffers():
        errors[name] = cases.error(1 + one, 1 + right.get_buffer(name))
        assert not torch.equal(one, before[name]), name  # they have moved
    return errors


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operation_is_that_of_its_modules(case, lanes):
    check(*case)


@pytest.mark.parametrize("name", ["darts_v2", "pc_darts"])
def test_a_network_is_that_of_its_modules(name):
    """Cells of both kinds, drop-path, an auxiliary head, sides that halve to odd numbers.

    Where a ReLU's input has another sign in float64 gradients jump: not in every draw, as a fault would.
    """
    used, run, largest = set(), program.run, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "run", lambda function, *given: used.add(function) or run(function, *given))
        for seed in range(5):
            errors = network_errors(name, seed)
            assert errors["output"] <= 1e-5
            largest.append(max(errors.values()))
    assert sorted(largest)[1] <= 2e-5, largest
    parts = norms, computation
    assert used == {function for part in parts for function in (part._forward, part._backward)}


def network_errors(name, seed):
    torch.manual_seed(seed)
    own = build_network(published(name), 3, 16, 0, InputShape(3, (18, 14), 10))
    own.to(memory_format=torch.channels_last)
    own.train_by_hand()
    scales = drop_path_scales(own.paths(), 12, 0.3, torch.Generator().manual_seed(1))

    def by_hand(given: Tensor) -> Tensor:
        return torch.cat(own.training_logits(given, scales))

    def expected(modules: nn.Module, given: Tensor) -> Tensor:
        modules.train_by_hand(False)
        return torch.cat(modules.training_logits(given, scales.double()))

    return errors_of(own, by_hand, expected, [laid_out(torch.randn(12, 3, 18, 14))])


def of_either(kind):
    """Modules, and what computes them by hand."""
    if kind == "separable":
        own = drawn(candidate("sep_conv_3x3").build(8, 1, True))
        return own, lambda image: by_itself(own)([image])
    if kind == "normed":
        own = drawn(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
        return own, lambda image: norms.normed_by_hand(own[0], image, True)
    own = drawn(relu_conv_norm(8, 8, True))
    return own, lambda image: by_itself(own)([image])


EITHER = pytest.mark.parametrize("kind", ["separable", "prepared", "normed"])


@EITHER
def test_statistics_stand_still_where_they_are_frozen(kind):
    own, by_hand = of_either(kind)
    image, before = laid_out(torch.randn(3, 8, 5, 4)), copy.deepcopy(own.state_dict())
    with frozen_statistics(own):
        found = by_hand(image)
        torch.testing.assert_close(found, own(image))
    assert all(torch.equal(own.state_dict()[name], value) for name, value in before.items())


@EITHER
def test_the_modules_compute_what_is_not_a_batch_norm_of_this_batch(kind):
    own, by_hand = of_either(kind)
    image = laid_out(torch.randn(3, 8, 5, 4))
    assert by_hand(image) is not None
    assert by_hand(image.double()) is None and by_hand(image[:, :, :0]) is None
    with library.switched_off():
        assert by_hand(image) is None
    norm = next(layer for layer in own if type(layer) is nn.BatchNorm2d)
    norm.eval()
    assert by_hand(image) is None
    norm.train()
    norm.__class__ = SynchronisedBatchNorm2d
    assert separable.layers_of(own) is None and preparation.layers_of(own) is None and not is_norm(norm)


def test_other_layers_are_not_taken_for_these():
    plain = nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
    assert preparation.layers_of(nn.Sequential(*plain)) is not None
    others = [
        [nn.ReLU(), nn.Conv2d(4, 4, 1), plain[2]],  # a bias
        [nn.ReLU(), nn.Conv2d(4, 4, 1, 2, bias=False), plain[2]],
        [nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False), plain[2]],
        [nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2, bias=False), plain[2]],
        [*plain[:2], nn.BatchNorm2d(4, affine=False)],
        [*plain[:2], nn.BatchNorm2d(4, momentum=None)],
        [*plain[:2], nn.BatchNorm2d(4, track_running_stats=False)],
        [nn.ReLU6(), *plain[1:]],
        [*plain, nn.ReLU()],
    ]
    assert [preparation.layers_of(nn.Sequential(*layers)) for layers in others] == [None] * len(others)
    assert preparation.layers_of(FactorisedReduction(4, 7, True)) is None  # 3 and 4 channels
    assert separable.layers_of(nn.Sequential(*plain)) is None


def replaced(own, what):
    """The modules with one tensor as they would not have been built with."""
    norm = next(layer for layer in own if type(layer) is nn.BatchNorm2d)
    changes = {
        "strided scale": lambda: setattr(norm, "weight", nn.Parameter(torch.randn(8, 2)[:, 0])),
        "strided mean": lambda: setattr(norm, "running_mean", torch.randn(8, 2)[:, 0]),
        "short mean": lambda: setattr(norm, "running_mean", torch.randn(4)),
        "wide scale": lambda: setattr(norm, "weight", nn.Parameter(torch.randn(16))),
        "no count": lambda: setattr(norm, "num_batches_tracked", None),
        "count of float32": lambda: setattr(norm, "num_batches_tracked", torch.zeros(())),
        "double shift": lambda: setattr(norm, "bias", nn.Parameter(torch.randn(8).double())),
        "weights elsewhere": lambda: norm.to("meta"),
        "padding": lambda: setattr(next(x for x in own if type(x) is nn.Conv2d), "padding", (1, 1)),
    }
    changes[what]()


@pytest.mark.parametrize("what", [
    "strided scale", "strided mean", "short mean", "wide scale", "no count", "count of float32", "double shift",
    "weights elsewhere", "padding",
])  # fmt: skip
@EITHER
def test_tensors_that_c_would_misread_are_left_to_the_modules(kind, what):
    if (kind, what) == ("normed", "padding"):
        return
    own, by_hand = of_either(kind)
    replaced(own, what)
    image = laid_out(torch.randn(3, 8, 5, 4))
    if kind == "normed":
        assert not is_norm(own[0]) or by_hand(image) is None
    else:
        assert layers_of(own) is None or by_hand(image) is None


def test_drop_path_scales_of_any_kind():
    own, _ = of_either("separable")
    image, step = laid_out(torch.randn(3, 8, 5, 4)), Step(separable.layers_of(own), 0, 1, 0)
    scaled = Computation(1, [step], [1])
    with frozen_statistics(own):
        plain = own(image)
        for factors in (
            torch.rand(3, 4)[:, 1],
            torch.rand(1).expand(3),
            torch.rand(3).double(),
            torch.tensor([0, 1, 3]),
        ):
            due = plain * factors.float()[:, None, None, None]
            torch.testing.assert_close(scaled([image], factors[None]), due, rtol=1e-4, atol=1e-5)
        assert scaled([image], torch.rand(1, 3, requires_grad=True)) is None
        assert scaled([image], torch.rand(1, 4)) is None and scaled([image], torch.rand(3)) is None
        assert scaled([image[:, :4]]) is None
        summed = Computation(2, [step._replace(node=2), Step(SKIP, 1, 2)], [2])
        assert summed([image, image]) is not None
        assert summed([image, image[:, :, :4]]) is None and summed([image, image[:2]]) is None


@EITHER
def test_saved_maps_may_be_brought_back_in_another_layout(kind):
    _, by_hand = of_either(kind)
    found = []
    for hooks in (lambda t: t, lambda t: t.contiguous()):
        image = laid_out(torch.linspace(-1, 1, 480).view(3, 8, 5, 4)).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, hooks):
            by_hand(image).square().sum().backward()
        found.append(image.grad)
    assert torch.equal(*found)


@EITHER
def test_autocast_is_left_to_the_modules(kind):
    _, by_hand = of_either(kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert by_hand(laid_out(torch.randn(3, 8, 5, 4))) is None


@EITHER
def test_a_second_derivative_is_refused(kind):
    _, by_hand = of_either(kind)
    image = laid_out(torch.randn(3, 8, 5, 4)).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(by_hand(image).square().sum(), image, create_graph=True)


@EITHER
def test_not_a_number_goes_on(kind):
    own, by_hand = of_either(kind)
    image = laid_out(torch.randn(3, 8, 5, 4))
    image[1, 2, 3, 1] = float("nan")
    assert torch.equal(by_hand(image).isnan(), own(image).isnan()) and own(image).isnan().any()


@EITHER
def test_a_single_pixel_has_no_variance(kind):
    _, by_hand = of_either(kind)
    with pytest.raises(ValueError, match=r"more than one pixel; got maps of \(1, 8, 1, 1\)"):
        by_hand(torch.zeros(1, 8, 1, 1))


@EITHER
def test_bits_depend_neither_on_threads_nor_on_how_an_image_lies(kind):
    torch.manual_seed(0)
    own, by_hand = of_either(kind)
    wide = laid_out(torch.randn(40, 24, 17, 16))
    before, found = torch.get_num_threads(), []
    for threads, image in ((1, wide[:, 8:16]), (2, wide[:, 8:16]), (3, wide[:, 8:16].contiguous())):
        torch.set_num_threads(threads)
        image = image.detach().requires_grad_()
        output = by_hand(image)
        own.zero_grad()
        output.square().sum().backward()
        found.append([output, image.grad, *(weight.grad.clone() for weight in own.parameters())])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))
