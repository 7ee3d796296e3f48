"""The fused supernet against the reference supernet: the same function, gradients, statistics and search."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from darts.models.batch_norm import frozen_statistics
from darts.models.fused.folding import RunningStatistics, fold, folded_once
from darts.models.fused.maps import Before, Operand, convolved, mapped, moments, sum_of_maps
from darts.models.fused.supernet import FusedSupernet
from darts.models.mixture import dense_mixture
from darts.models.operations import OPERATIONS
from darts.models.supernet import Supernet
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.search_space import CELL_TYPES, InputShape, SearchSpace, plan_cells
from tests.conftest import CANDIDATES, TINY_SEARCH, composed, some, space_of

DETERMINISTIC = [name for name in OPERATIONS if name != "noise"]
SUBSETS = [[name] for name in DETERMINISTIC if name != "none"] + [
    ["none", "skip_connect"],
    ["max_pool_3x3", "avg_pool_3x3", "none"],
    ["sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"],
    ["dil_conv_3x3", "dil_conv_5x5", "sep_conv_3x3"],
    ["conv_7x1_1x7", "skip_connect", "dil_conv_3x3"],
    list(CANDIDATES),
    DETERMINISTIC,
]


def supernets(space: SearchSpace, channels: int = 4, cells: int = 3, dtype=torch.float64):
    torch.manual_seed(0)
    plans = plan_cells(cells, channels, space.multipliers())
    reference = Supernet(plans, space, InputShape(3, 8, 5), 0).to(dtype)
    return reference, FusedSupernet(copy.deepcopy(reference))


def alphas(space: SearchSpace, dtype=torch.float64) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    shape = len(space.edges()), len(space.candidates)
    return {
        kind: torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype).requires_grad_() for kind in CELL_TYPES
    }


def results(supernet, space, images, labels):
    """Outputs, gradients of alpha, images and weights, and state, by the reference names."""
    alpha = alphas(space, images.dtype)
    images = images.clone().requires_grad_()
    logits = supernet(images, dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alpha.items()}))
    weights = dict(supernet.named_parameters())
    loss = F.cross_entropy(logits, labels)
    inputs = [images, *alpha.values(), *weights.values()]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    by_weight = supernet.to_reference(dict(zip(weights, gradients[3:], strict=True)))
    return {
        "logits": logits.detach(),
        "images": gradients[0],
        **{f"alpha {kind}": gradient for kind, gradient in zip(alpha, gradients[1:3], strict=True)},
        **{f"gradient {name}": gradient for name, gradient in by_weight.items()},
        **{f"state {name}": value for name, value in supernet.to_reference(supernet.state_dict()).items()},
    }


def assert_alike(space, size=(8, 8), channels=4, dtype=torch.float64, tolerance=1e-9, prepare=lambda s: None):
    draws = torch.Generator().manual_seed(5)
    images = torch.randn(6, 3, *size, generator=draws, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 5, (6,), generator=draws)
    found = []
    for supernet in supernets(space, channels, dtype=dtype):
        prepare(supernet)
        found.append(results(supernet, space, images, labels))
    reference, fused = found
    assert reference.keys() == fused.keys()
    for name, expected in reference.items():
        largest = max(float(expected.abs().max()), 1e-3)  # a mean of zero has no relative error
        difference = float((fused[name] - expected).abs().max())
        assert difference <= tolerance * largest, (name, difference / largest)


@pytest.mark.parametrize("candidates", SUBSETS, ids=lambda names: "+".join(names))
def test_every_candidate_subset_in_training(candidates):
    assert_alike(space_of("darts", 2, 2, candidates))


@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_every_number_of_nodes(nodes):
    assert_alike(space_of("darts", nodes, 2, list(CANDIDATES)))


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12), (4, 4)])
@pytest.mark.parametrize("channels", [2, 3, 5, 16])
def test_odd_sizes_and_channel_counts(size, channels):
    assert_alike(space_of("darts", 2, 2, list(CANDIDATES)), size, channels)


@pytest.mark.parametrize("candidates", [DETERMINISTIC, ["skip_connect"], ["max_pool_3x3", "sep_conv_5x5"]])
def test_evaluation_mode_uses_the_running_statistics(candidates):
    def a_step_then_evaluate(supernet):
        space = space_of("darts", 2, 2, candidates)
        draws = torch.Generator().manual_seed(8)
        images = torch.randn(6, 3, 8, 8, generator=draws, dtype=torch.float64)
        supernet(images, dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alphas(space).items()}))
        supernet.eval()

    assert_alike(space_of("darts", 2, 2, candidates), prepare=a_step_then_evaluate)


@pytest.mark.parametrize("batch", [3, 8, 16])
@pytest.mark.parametrize(("channels", "outputs"), [(4, 4), (8, 16), (40, 40)])
@pytest.mark.parametrize("side", [3, 8])
def test_each_group_of_a_map_goes_through_its_own_matrix(batch, channels, outputs, side):
    """However the library is given the pixels: against a product of matrices, for a map whose pixels are odd too."""
    numbers = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3 * channels, side, side, generator=numbers, dtype=torch.float64)
    matrices = torch.randn(3, outputs, channels, generator=numbers, dtype=torch.float64)
    constants = torch.randn(3, outputs, generator=numbers, dtype=torch.float64)
    grouped = image.unflatten(1, (3, channels))
    expected = torch.einsum("bgchw,goc->bgohw", grouped, matrices) + constants[:, :, None, None]
    for layout in (torch.channels_last, torch.contiguous_format):
        found = mapped(image.contiguous(memory_format=layout), matrices, constants)
        torch.testing.assert_close(found, expected.flatten(1, 2), rtol=1e-12, atol=1e-12)
        assert found.is_contiguous(memory_format=layout)


def test_few_images_on_one_thread_do_not_take_the_slow_convolution():
    """PyTorch then gives groups of 1x1 convolutions to its own loop, one group after another."""
    threads = torch.get_num_threads()
    image = torch.randn(8, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(1)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
            mapped(image, torch.randn(4, 16, 16))
    finally:
        torch.set_num_threads(threads)
    names = {event.key for event in watched.key_averages()}
    assert "aten::conv2d" in names and not any("slow" in name for name in names)


def test_what_is_folded_once_gives_the_same_bits_for_every_batch(darts_space):
    _, fused = supernets(darts_space)
    draws = torch.Generator().manual_seed(8)
    images = [torch.randn(6, 3, 8, 8, generator=draws, dtype=torch.float64) for _ in range(2)]
    mixtures = [{kind: alpha.detach() * factor for kind, alpha in alphas(darts_space).items()} for factor in (1, 2)]
    fused(images[0], dense_mixture(mixtures[0]))  # moves the running statistics
    fused.eval()
    for mixture in map(dense_mixture, mixtures):  # each block folds anew
        with torch.no_grad():
            plain = [fused(batch, mixture) for batch in images]
            with folded_once(fused):
                kept = [fused(batch, mixture) for batch in images]
        assert all(torch.equal(one, other) for one, other in zip(plain, kept, strict=True))


def test_frozen_statistics_stand_still_and_the_batch_still_normalises(darts_space):
    reference, fused = supernets(darts_space)
    before = {name: value.clone() for name, value in fused.named_buffers()}
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    mixture = dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alphas(darts_space).items()})
    with frozen_statistics(fused):
        frozen = fused(images, mixture)
    assert all(torch.equal(before[name], value) for name, value in fused.named_buffers())
    torch.testing.assert_close(frozen, reference(images, mixture))
    fused(images, mixture)
    assert any(not torch.equal(before[name], value) for name, value in fused.named_buffers())


def test_float32_agrees_to_1e_4(darts_space):
    assert_alike(darts_space, dtype=torch.float32, tolerance=1e-4)


def test_a_mixture_that_is_not_a_softmax(darts_space):
    reference, fused = supernets(darts_space)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    one_hot = {kind: F.one_hot(alpha.argmax(-1), 8).double() for kind, alpha in alphas(darts_space).items()}
    any_numbers = {kind: alpha.detach() for kind, alpha in alphas(darts_space).items()}
    for matrices in (one_hot, any_numbers):
        mixture = dense_mixture(matrices)
        torch.testing.assert_close(fused(images, mixture), reference(images, mixture))


def test_weights_go_to_the_reference_layout_and_back(darts_space):
    reference, fused = supernets(darts_space)
    state = fused.state_dict()
    as_plain = fused.to_reference(state)
    assert as_plain.keys() == reference.state_dict().keys()
    assert all(torch.equal(value, as_plain[name]) for name, value in reference.state_dict().items())
    again = fused.from_reference(as_plain)
    assert again.keys() == state.keys()
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_the_fused_supernet_computes_less(darts_space):
    def convolutions(supernet):
        calls = []
        from torch.utils._python_dispatch import TorchDispatchMode

        class Count(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                calls.append("convolution" in str(function))
                return function(*args, **(kwargs or {}))

        images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        mixture = dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alphas(darts_space).items()})
        with Count():
            supernet(images, mixture)
        return sum(calls)

    reference, fused = supernets(darts_space)
    assert convolutions(fused) < convolutions(reference) / 3


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 1), (3, 2, 2)])
@pytest.mark.parametrize("deep", [False, True])
def test_gradients_of_the_stacked_convolution_are_those_of_differences(kernel, stride, dilation, deep):
    torch.manual_seed(0)
    edges, channels = 2, 3
    shape = (3, edges * channels if deep else channels, 5, 4)
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(edges, channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    folded = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 3), (2, 3))]

    def function(image, weight, *before):
        result, found = convolved(image, Before(*before) if deep else None, weight, (stride, dilation), True)
        return result, found.mean, found.covariance

    assert torch.autograd.gradcheck(function, (image, weight, *(folded if deep else ())))


def test_gradients_of_the_sum_are_those_of_differences():
    torch.manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(shared, shared_matrices, image, matrices, constants):
        return sum_of_maps([Operand(shared, shared_matrices, None)] * 2, [Operand(image, matrices, constants)])

    assert torch.autograd.gradcheck(
        function, (tensor(2, 3, 4, 3), tensor(2, 4, 3), tensor(2, 6, 4, 3), tensor(2, 4, 3), tensor(2, 4))
    )


def test_folding_is_a_linear_map_a_batch_norm_and_a_scale():
    torch.manual_seed(0)
    image = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    matrices = torch.randn(2, 4, 3, dtype=torch.float64)
    scales = torch.tensor([0.3, -2.0], dtype=torch.float64)
    statistics = RunningStatistics(2, 4).double()
    folded = fold(matrices, scales, moments(image), statistics)
    found = mapped(image, folded[0].flatten(0, 1)[None], folded[1])
    for index, (matrix, scale) in enumerate(zip(matrices, scales, strict=True)):
        norm = torch.nn.BatchNorm2d(4, affine=False).double()
        expected = scale * norm(F.conv2d(image, matrix[:, :, None, None]))
        torch.testing.assert_close(found[:, 4 * index : 4 * index + 4], expected)
        torch.testing.assert_close(statistics.running_mean[index], norm.running_mean)
        torch.testing.assert_close(statistics.running_var[index], norm.running_var)


def test_a_second_derivative_through_the_fused_maps_is_refused_not_wrong(darts_space):
    _, fused = supernets(darts_space)
    alpha = alphas(darts_space)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    loss = fused(images, dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alpha.items()})).square().sum()
    with pytest.raises(RuntimeError, match="second ones need engine=reference"):
        torch.autograd.grad(loss, list(alpha.values()), create_graph=True)


@pytest.mark.parametrize("engine", [0, 1], ids=["reference", "fused"])
@pytest.mark.parametrize("borrowed", [False, True], ids=["own weights", "borrowed weights"])
def test_checkpointed_cells_give_the_same_gradients_and_statistics(engine, borrowed, tiny_space):
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    found = []
    for again in (False, True):
        supernet = supernets(tiny_space)[engine]
        supernet.activation_checkpointing = again
        alpha = alphas(tiny_space)
        mixture = dense_mixture({kind: matrix.softmax(-1) for kind, matrix in alpha.items()})
        weights = {name: weight.detach() * 1.5 if borrowed else weight for name, weight in supernet.named_parameters()}
        weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        loss = functional_call(supernet, weights, (images, mixture)).square().sum()
        gradients = torch.autograd.grad(loss, [*alpha.values(), *weights.values()], materialize_grads=True)
        found.append([loss, *gradients, *supernet.buffers()])
    for kept, computed_again in zip(*found, strict=True):
        assert torch.equal(kept, computed_again)


def followed(folder, engine: str, steps: int, *overrides: str, dtype=torch.float64):
    """The alphas and the losses of so many steps of a search from one seed."""
    overrides = (f"engine={engine}", "architecture_optimiser.learning_rate=3e-3", *overrides)
    folder = folder / "_".join(overrides)
    state = search.start_or_resume(composed("search", *TINY_SEARCH, *overrides), folder)
    state.supernet.to(dtype)
    for matrix in state.alpha.values():
        matrix.data = matrix.data.to(dtype)
    losses = []
    batches = zip(*(half.shuffled(0, 0, steps) for half in (state.data.train, state.data.valid)), strict=True)
    for train, valid in batches:
        train, valid = (batch._replace(inputs=batch.inputs.to(dtype)) for batch in (train, valid))
        sums = search_steps.architecture_step(state, train, valid) | search_steps.weight_step(state, train)
        losses.append(float(sums["train/loss"].total) / sums["train/loss"].count)
    return {kind: matrix.detach().clone() for kind, matrix in state.alpha.items()}, losses


@pytest.mark.parametrize("case", some([("darts", 40), ("darts", 100), ("darts_second_order", 40)], ("darts", 40)))
def test_many_steps_lead_to_the_same_alphas(case, tmp_path):
    method, steps = case
    # Training is chaotic: at the usual learning rate a change of one part in 1e14 grows to the size of the alphas
    # within a hundred steps, in the reference supernet too. Small steps without momentum leave room to compare.
    calm = f"method={method}", "weight_optimiser.learning_rate=2e-3", "weight_optimiser.momentum=0"
    reference, fused = (followed(tmp_path, engine, steps, *calm)[0] for engine in ("reference", "fused"))
    for kind in CELL_TYPES:
        assert (reference[kind] - fused[kind]).abs().max() < 1e-6
        assert fused[kind].abs().max() > 0.05  # they moved


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path):
    exact, rounded = (
        torch.tensor(followed(tmp_path, "fused", 200, f"precision={precision}", dtype=torch.float32)[1])
        for precision in ("fp32", "bf16")
    )
    windows = exact.view(10, 20).mean(1), rounded.view(10, 20).mean(1)
    noise = exact.view(10, 20).std(1) / 20**0.5  # of a window's mean
    assert not torch.equal(exact, rounded)
    assert ((windows[0] - windows[1]).abs() < 4 * noise).all()
    assert exact[-20:].mean() < exact[:20].mean() - 0.1  # there was something to learn


def test_a_checkpoint_of_one_engine_resumes_in_the_other(tmp_path):
    overrides = [*TINY_SEARCH, "search.epochs=2"]

    def state(engine):
        return search.start_or_resume(composed("search", *overrides, f"engine={engine}"), tmp_path)

    for first, second in itertools.permutations(("fused", "reference")):
        begun = state(first)
        search.search_epoch(begun)
        begun.save()
        taken = state(second)
        assert type(taken.supernet) is not type(begun.supernet)
        ours = begun.supernet.to_reference(begun.supernet.state_dict())
        theirs = taken.supernet.to_reference(taken.supernet.state_dict())
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        momentum = begun.supernet.to_reference(begun.momentum()), taken.supernet.to_reference(taken.momentum())
        assert momentum[0].keys() == momentum[1].keys() != set()
        assert all(torch.equal(value, momentum[1][name]) for name, value in momentum[0].items())
        (tmp_path / "checkpoints" / "last.pt").unlink()
        (tmp_path / "checkpoints" / "previous.pt").unlink(missing_ok=True)
