"""Whole cells in C against their modules in float64: which nodes there are, what they are joined to, what is wanted."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from darts.models.compiled import call, library, operators, program
from darts.models.fused import computation, plain
from darts.models.fused.computation import Computation, Step
from darts.models.network import DiscreteCell, drop_path_scales
from darts.models.operations import candidate, relu_conv_norm
from darts.spaces.genotype import Cell, Edge
from darts.spaces.search_space import CellPlan
from tests.test_compiled_cells import LIMIT, drawn, errors_of, laid_out, layers_of

pytestmark = pytest.mark.skipif(not library.available(), reason="there is no C compiler that can be used")
SEP, DIL, SKIP, MOST, MEAN = "sep_conv_3x3", "dil_conv_5x5", "skip_connect", "max_pool_3x3", "avg_pool_3x3"
CELLS = {
    "all kinds": Cell(
        (
            (Edge(SEP, 0), Edge(SKIP, 1)),
            (Edge(MOST, 2), Edge(DIL, 0), Edge(MEAN, 1)),
            (Edge(SKIP, 3), Edge(SKIP, 2)),
            (Edge(SKIP, 0),),
        ),
        (2, 3, 4, 5),
    ),
    "nodes within": Cell(
        ((Edge(SEP, 0), Edge(MEAN, 1)), (Edge(DIL, 2), Edge(SKIP, 2)), (Edge(MOST, 3), Edge(SEP, 1))), (4,)
    ),
    "in another order": Cell(((Edge(SEP, 1), Edge(DIL, 0)), (Edge(SEP, 0), Edge(SKIP, 2))), (3, 2)),
    "one input": Cell(((Edge(SKIP, 0),), (Edge(SEP, 0), Edge(MOST, 1)), (Edge(SKIP, 2), Edge(SKIP, 0))), (3,), 1),
}
KINDS = [("one input", False, False)]
KINDS += [(name, *how) for name in list(CELLS)[:3] for how in ((False, False), (True, False), (False, True))]


def cell_of(name, reduces=False, halved=False, always=()):
    """With 8 channels, after inputs of 12 and 16; `halved`: the older input has twice the sides."""
    inputs = (12, 16) if CELLS[name].inputs == 2 else (8, 8)
    own = DiscreteCell(CellPlan("reduction" if reduces else "normal", 8, inputs, halved), CELLS[name], always)
    own.train_by_hand(True)
    return drawn(own), inputs


def maps_of(inputs, halved=False, images=5, sides=(7, 6)):
    twice = (2 * sides[0] - 1, 2 * sides[1]) if halved else sides
    return [laid_out(torch.randn(images, inputs[0], *twice)), laid_out(torch.randn(images, inputs[1], *sides))]


def least_errors(name, reduces=False, halved=False, always=(), draws=4):
    """Of several draws: where a ReLU's input has another sign in float64 gradients jump, as they do not in all."""
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        own, inputs = cell_of(name, reduces, halved, always)
        maps = maps_of(inputs, halved)[2 - CELLS[name].inputs :]
        scales = drop_path_scales(own.paths(), 5, 0.3, torch.Generator().manual_seed(seed))

        def by_hand(*given: Tensor, own=own, scales=scales) -> Tensor:
            return own(given[0], given[-1], scales)

        def expected(modules: nn.Module, *given: Tensor, scales=scales) -> Tensor:
            modules.train_by_hand(False)
            return modules(given[0], given[-1], scales.double())

        found.append(errors_of(own, by_hand, expected, maps))
    return min(found, key=lambda errors: max(errors.values()))


@pytest.fixture
def calls(monkeypatch):
    """What has been a program's call."""
    found, run = [], program.run
    monkeypatch.setattr(program, "run", lambda function, *given: found.append(function) or run(function, *given))
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_cell_is_that_of_its_modules(kind, calls):
    errors = least_errors(*kind)
    assert max(errors.values()) <= 2 * LIMIT, errors
    assert calls == [computation._forward, computation._backward] * 4  # one each way


def test_operations_that_every_edge_carries():
    errors = least_errors("all kinds", always=[SKIP, SEP])
    assert max(errors.values()) <= 2 * LIMIT, errors


def test_one_map_as_both_inputs():
    torch.manual_seed(0)
    own, _ = cell_of("all kinds")
    own.inputs[1] = drawn(relu_conv_norm(12, 8, True))
    own.train_by_hand(True)
    image = maps_of((12, 12))[1]
    errors = errors_of(own, lambda x: own(x, x, None), lambda modules, x: by_modules(modules)(x, x, None), [image])
    assert max(errors.values()) <= 2 * LIMIT, errors


def by_modules(own):
    own.train_by_hand(False)
    return own


def test_what_does_not_reach_the_result_is_left_to_the_modules(calls):
    """A node that is neither joined nor read has no gradient; and an input that no node reads."""
    for nodes, concat in [
        (((Edge(SEP, 0), Edge(SEP, 1)), (Edge(SEP, 0), Edge(SKIP, 1))), (3,)),
        (((Edge(SEP, 1),), (Edge(SKIP, 2),)), (2, 3)),
    ]:
        own = DiscreteCell(CellPlan("normal", 8, (8, 8), False), Cell(nodes, concat), ())
        own.train_by_hand(True)
        due = copy.deepcopy(own)
        due.train_by_hand(False)
        assert own.whole_by_hand is None
        maps = maps_of((8, 8))
        for cell in (own, due):
            cell(*maps, None).square().sum().backward()
        for (name, one), two in zip(own.named_parameters(), due.parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None), name
            assert one.grad is None or torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-3), name
        assert computation._forward in calls  # its operations are computed one by one


def test_an_operation_that_is_not_computed_by_hand_leaves_the_others_as_they_are(calls):
    nodes = ((Edge(SEP, 0), Edge("conv_7x1_1x7", 1)), (Edge(MOST, 2), Edge(SEP, 0)))
    own = DiscreteCell(CellPlan("normal", 8, (8, 8), False), Cell(nodes, (2, 3)), ())
    own.train_by_hand(True)
    assert own.whole_by_hand is None
    own(*maps_of((8, 8)), None)
    assert calls == [computation._forward] * 4  # two inputs and two separable convolutions


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=2)), ids=str)
def test_gradients_of_the_maps_of_which_they_are_wanted(wanted):
    torch.manual_seed(0)
    own, inputs = cell_of("all kinds")
    maps = maps_of(inputs)
    found = []
    for asked in (wanted, (True, True)):
        given = [image.clone().requires_grad_(one) for image, one in zip(maps, asked, strict=True)]
        own.zero_grad()
        own(*given, None).square().sum().backward()
        assert [image.grad is not None for image in given] == list(asked)
        found.append([*[image.grad for image in given], *[weight.grad for weight in own.parameters()]])
    for one, other in zip(*found, strict=True):
        assert one is None or torch.equal(one, other)


def test_weights_that_are_not_trained_have_no_gradient():
    own, inputs = cell_of("all kinds")
    frozen = next(own.operations.parameters()).requires_grad_(False)
    own(*maps_of(inputs), None).sum().backward()
    assert [weight.grad is None for weight in own.parameters()].count(True) == 1 and frozen.grad is None


@pytest.mark.parametrize("stride", [1, 2])
def test_of_equals_the_first_is_the_largest(stride):
    """So that the gradient goes where PyTorch's goes."""
    pool = candidate(MOST).build(8, stride, True)
    image = laid_out(torch.randint(0, 2, (3, 8, 7, 6)).float())
    due, own = (image.clone().requires_grad_() for _ in range(2))
    pool(due).square().sum().backward()
    Computation(1, [Step(layers_of(pool), 0, 1)], [1])([own]).square().sum().backward()
    assert torch.equal(own.grad, due.grad)


@pytest.mark.parametrize("pool", [
    nn.MaxPool2d(3, 2, 1, dilation=2), nn.MaxPool2d(3, 2, 0), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.MaxPool2d((3, 5), 1, (1, 2)), nn.MaxPool2d(2, 2, 1), nn.AvgPool2d(3, 1, 1),
    nn.MaxPool2d(3, 1, 1, return_indices=True),
], ids=str)  # fmt: skip
def test_other_pools_are_not_taken_for_these(pool):
    assert plain.layers_of(pool) is None


def test_a_program_is_bit_for_bit_the_function_whose_maps_share_no_memory(monkeypatch):
    torch.manual_seed(0)
    own, inputs = cell_of("all kinds", reduces=True)
    maps, scales = [image.requires_grad_() for image in maps_of(inputs, images=16)], torch.rand(own.paths(), 16)
    found = []
    for run in (program.run, lambda function, plan, *tensors: function(plan, *tensors)):
        monkeypatch.setattr(program, "run", run)
        for tensor in (*maps, *own.parameters()):
            tensor.grad = None
        output = own(*maps, scales)
        output.square().sum().backward()
        found.append([output, *[tensor.grad for tensor in (*maps, *own.parameters())]])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_memory_is_shared_by_maps_that_are_not_needed_at_once():
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 2, 40):
        firsts = torch.randint(0, 50, (count,), generator=generator).sort().values.tolist()
        lengths = torch.randint(0, 12, (count,), generator=generator).tolist()
        sizes = torch.randint(0, 1000, (count,), generator=generator).tolist()
        needed = [program._Needed(at, at + more, size) for at, more, size in zip(firsts, lengths, sizes, strict=True)]
        offsets, whole = program._shared_memory(needed)
        places = [(at, at + own.bytes) for at, own in zip(offsets, needed, strict=True)]
        assert all(at % program.ALIGNMENT == 0 and end <= whole for at, end in places)
        for (one, place), (other, beside) in itertools.combinations(zip(needed, places, strict=True), 2):
            at_once = one.first <= other.last and other.first <= one.last
            assert not at_once or place[1] <= beside[0] or beside[1] <= place[0]
        assert whole <= sum(own.bytes + program.ALIGNMENT for own in needed)
    in_turn = [program._Needed(at, at, 64) for at in range(9)]
    assert program._shared_memory(in_turn) == ([0] * 9, 64)


def test_what_the_function_has_no_use_for_is_remembered(monkeypatch):
    monkeypatch.setattr(program, "_programs", {})
    asked = []

    def refuses(plan, image):
        asked.append(image)

    image = laid_out(torch.randn(2, 4, 3, 3))
    assert program.run(refuses, None, image) is None and program.run(refuses, None, image) is None
    assert len(asked) == 1 and operators.scaled_sum(image).shape == image.shape
    assert program.run(refuses, None, image.to("meta")) is None and len(asked) == 1


@pytest.mark.parametrize("into", [(2, 4, 3, 2), (1, 4, 3, 3), (2, 8, 3, 3)])
def test_a_map_is_written_only_where_it_fits(into):
    with pytest.raises(ValueError, match="is written into one that lies as rows"):
        operators.scaled_sum(laid_out(torch.randn(2, 4, 3, 3)), into=laid_out(torch.empty(into)))
    with pytest.raises(ValueError, match="is written into one that lies as rows"):
        operators.scaled_sum(laid_out(torch.randn(2, 4, 3, 3)), into=torch.empty(2, 4, 3, 3))


def test_replaced_layers_are_seen():
    torch.manual_seed(0)
    own, inputs = cell_of("all kinds")
    maps = maps_of(inputs)
    own(*maps, None)
    for change in (
        lambda: own.operations.__setitem__(0, drawn(candidate("sep_conv_5x5").build(8, 1, True))),
        lambda: own.operations[0].__setitem__(2, drawn(nn.Conv2d(8, 8, 1, bias=False))),
        lambda: setattr(own.inputs[0], "2", drawn(nn.BatchNorm2d(8))),
        lambda: own.operations.__setitem__(1, nn.ReLU()),  # which is none that is computed by hand
    ):
        change()
        found, due = own(*maps, None), by_modules(copy.deepcopy(own))(*maps, None)
        torch.testing.assert_close(found, due, rtol=1e-4, atol=1e-4)
        assert (own.whole_by_hand is None) == isinstance(own.operations[1], nn.ReLU)


@pytest.mark.parametrize("change", [
    {"momentum": None}, {"running_mean": None, "running_var": None, "num_batches_tracked": None},
    {"weight": None, "bias": None},
], ids=str)  # fmt: skip
def test_other_batch_norms_are_left_to_the_modules(change):
    own, inputs = cell_of("all kinds")
    for name, value in change.items():
        setattr(own.operations[0][3], name, value)
    maps = maps_of(inputs)
    due = by_modules(copy.deepcopy(own))(*maps, None)
    torch.testing.assert_close(own(*maps, None), due, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 9])
def test_kernels_of_other_sides_are_left_to_the_modules(side):
    own, _ = cell_of("in another order")
    own.operations[0][1].weight = nn.Parameter(torch.randn(8, 1, side, side))
    assert (
        Computation(1, [Step(layers_of(own.operations[0]), 0, 1)], [1])([laid_out(torch.randn(2, 8, 12, 12))]) is None
    )


def test_signs_that_pytorch_has_turned_alone():
    torch.manual_seed(0)
    own, inputs = cell_of("all kinds")
    older, newer = maps_of(inputs)
    found = own(torch._neg_view(older), newer, None)
    torch.testing.assert_close(found, own(-older, newer, None))


def test_a_gradient_of_another_type_is_refused():
    class Own(Tensor):
        pass

    own, inputs = cell_of("all kinds")
    output = own(*maps_of(inputs), None)
    with pytest.raises(TypeError, match="take Tensor and Parameter on cpu; got Own on cpu, Param"):
        output.backward(torch.ones_like(output).as_subclass(Own))


def test_constants_have_one_address_for_all_threads():
    assert call.doubles(0.5, 0.25) is call.doubles(0.5, 0.25)
    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            found = list(pool.map(lambda _, number=number: call.doubles(0.125, number), range(8)))
            assert len({id(own) for own in found}) == 1
