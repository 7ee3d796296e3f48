"""Networks against the counts of the original definitions, and one-hot supernets against discrete cells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary
from darts.models.mixture import dense_mixture
from darts.models.network import AuxiliaryHead, Network, build_network, drop_path_scales
from darts.models.operations import OPERATIONS, FactorisedReduction, candidate, search_operation
from darts.models.supernet import Supernet
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.spaces.search_space import CELL_TYPES, InputShape, SearchSpace, plan_cells

CIFAR = InputShape(3, 32, 10)


@pytest.mark.parametrize(
    "channels, cells, parameters, macs", [(16, 8, 1_930_618, 300.3), (8, 5, 394_210, 61.6), (4, 3, 72_854, 15.5)]
)
def test_supernets_have_the_counted_size(darts_space: SearchSpace, channels, cells, parameters, macs):
    supernet = Supernet(plan_cells(cells, channels, darts_space.multipliers()), darts_space, CIFAR, 0)
    mixture = dense_mixture({kind: torch.full((14, 8), 1 / 8) for kind in CELL_TYPES})
    assert count_parameters(supernet) == parameters
    assert round(count_macs(supernet, torch.zeros(1, 3, 32, 32), mixture) / 1e6, 1) == macs


@pytest.mark.parametrize(
    "name, channels, cells, parameters, with_auxiliary, macs",
    [
        ("darts_v1", 36, 20, 3_169_414, 3_645_840, 501.0),
        ("darts_v2", 36, 20, 3_349_342, 3_825_768, 528.4),
        ("darts_v2", 16, 8, 246_106, 681_572, 43.4),
        ("nasnet", 36, 20, 3_830_950, 4_288_944, 603.5),
        ("amoebanet", 36, 20, 3_145_078, 3_603_072, 488.9),
        ("pdarts", 36, 20, 3_433_798, 3_910_224, 532.2),
        ("pc_darts", 36, 20, 3_634_678, 4_111_104, 556.7),
    ],
)
def test_networks_have_the_counted_size(name, channels, cells, parameters, with_auxiliary, macs):
    network = build_network(published(name), cells, channels, 0, CIFAR)
    assert count_parameters_without_auxiliary(network) == parameters
    assert count_parameters(network) == with_auxiliary
    assert round(count_macs(network, torch.zeros(1, 3, 32, 32)) / 1e6, 1) == macs


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(8, 8), (7, 9), (1, 1), (5, 6)])
def test_operations_give_the_rounded_up_size(name, stride, height, width):
    operation = candidate(name).build(6, stride, True).eval()
    out = operation(torch.randn(2, 6, height, width))
    assert out.shape == (2, 6, -(-height // stride), -(-width // stride))


def test_the_odd_half_of_a_factorised_reduction_reads_the_shifted_pixels():
    layer = FactorisedReduction(2, 4, affine=False).eval()
    x = torch.rand(1, 2, 6, 6)
    expected = torch.cat(
        [F.conv2d(x, layer.even.weight, stride=2), F.conv2d(x[:, :, 1:, 1:], layer.odd.weight, stride=2)], dim=1
    )  # the original's form, even sizes
    torch.testing.assert_close(layer(x), layer.norm(expected))


def test_batch_norms_of_the_supernet_have_no_parameters_but_in_the_stem(darts_space):
    supernet = Supernet(plan_cells(3, 4, darts_space.multipliers()), darts_space, CIFAR, 0)
    affine = [name for name, layer in supernet.named_modules() if isinstance(layer, nn.BatchNorm2d) and layer.affine]
    assert affine == ["stem.1"]


def test_pools_are_normalised_only_in_search():
    assert isinstance(search_operation("max_pool_3x3", 4, 1)[1], nn.BatchNorm2d)
    assert isinstance(candidate("max_pool_3x3").build(4, 1, True), nn.MaxPool2d)
    assert not candidate("avg_pool_3x3").build(4, 1, True).count_include_pad


def test_an_unknown_operation_is_named():
    with pytest.raises(UserError, match="'sep_conv_9x9' is unknown; did you mean 'sep_conv_"):
        candidate("sep_conv_9x9")


def paired_networks(space: SearchSpace, genotype) -> tuple[Supernet, Network, dict[str, torch.Tensor]]:
    """A supernet and a genotype's network that share all weights, and the mixture that selects the genotype."""
    plans = plan_cells(4, 4, space.multipliers())
    shape = InputShape(3, 9, 5)
    supernet = Supernet(plans, space, shape, 0).double()
    network = build_network(genotype, 4, 4, 0, shape).double()
    network.stem, network.classifier = supernet.stem, supernet.classifier
    mixture = {kind: torch.zeros(len(space.edges()), len(space.candidates)).double() for kind in CELL_TYPES}
    for plan, searched, discrete in zip(plans, supernet.cells, network.cells, strict=True):
        discrete.inputs = searched.inputs
        position = 0
        for node, edges in enumerate(genotype.cells[plan.kind].nodes):
            for edge in edges:
                row, column = space.incoming(node)[edge.source], space.candidates.index(edge.operation)
                mixture[plan.kind][row, column] = 1
                discrete.operations[position] = searched.edges[row].operations[str(column)]
                position += 1
    return supernet, network, dense_mixture(mixture)


def test_a_one_hot_mixture_is_the_discrete_cell(darts_space):
    import random

    supernet, network, mixture = paired_networks(darts_space, darts_space.sample(random.Random(3)))
    images = torch.randn(4, 3, 9, 9).double()
    torch.testing.assert_close(supernet(images, mixture), network(images))


def test_the_supernet_is_the_weighted_sum_of_its_operations(tiny_space):
    supernet = Supernet(plan_cells(3, 4, tiny_space.multipliers()), tiny_space, InputShape(3, 8, 5), 0).double()
    mixed = supernet.cells[0].edges[0]
    x, weights = torch.randn(2, 4, 8, 8).double(), torch.rand(4).double()
    expected = sum(weights[i] * operation(x) for i, operation in enumerate(mixed.operations.values()))
    torch.testing.assert_close(mixed(x, weights), expected)


def test_drop_path_drops_samples_at_its_rate_and_keeps_the_mean():
    scales = drop_path_scales(50, 4000, 0.3, torch.Generator().manual_seed(0))
    assert set(scales.unique().tolist()) == {0.0, scales.max().item()}
    assert abs(scales.mean().item() - 1) < 0.01
    assert abs((scales == 0).float().mean().item() - 0.3) < 0.01


def test_drop_path_spares_the_identity_and_nothing_else():
    network = build_network(published("darts_v1"), 3, 4, 0, InputShape(3, 8, 5)).eval()
    cell = network.cells[0]  # a normal cell
    state = torch.randn(2, 12, 8, 8)
    scales = torch.ones(8, 2)
    skips = [index for index, operation in enumerate(cell.operations) if isinstance(operation, nn.Identity)]
    assert len(skips) == 3
    dropped = scales.clone()
    dropped[skips] = 0
    torch.testing.assert_close(cell(state, state, dropped), cell(state, state, scales))
    assert not torch.equal(cell(state, state, 0 * scales), cell(state, state, scales))


def test_drop_path_of_zero_changes_nothing():
    network = build_network(published("darts_v2"), 3, 4, 0, InputShape(3, 8, 5))
    images = torch.randn(4, 3, 8, 8)
    scales = drop_path_scales(network.paths(), 4, 0.0, torch.Generator())
    assert network.paths() == 24
    with torch.no_grad():
        torch.testing.assert_close(network.training_logits(images, scales), network.training_logits(images, None))


@pytest.mark.parametrize("size", [8, 7, 4, 14, 2])
def test_the_auxiliary_head_takes_any_size(size):
    assert AuxiliaryHead(6, 5)(torch.randn(3, 6, size, size)).shape == (3, 5)


def test_the_auxiliary_head_reads_the_published_cell():
    assert build_network(published("darts_v2"), 20, 4, 0, CIFAR).auxiliary_after == 13


@pytest.mark.parametrize("size", [28, 33, 45])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reductions", [0, 1, 3])
def test_odd_sizes_and_grey_images_pass(size, channels, reductions, tiny_space):
    shape = InputShape(channels, size, 7)
    images = torch.randn(2, channels, size, size)
    network = build_network(published("darts_v2"), 3, 4, reductions, shape)
    assert network.training_logits(images, None)[1].shape == (2, 7)
    supernet = Supernet(plan_cells(3, 4, tiny_space.multipliers()), tiny_space, shape, reductions)
    mixture = dense_mixture({kind: torch.full((5, 4), 0.25) for kind in CELL_TYPES})
    assert supernet(images, mixture).shape == (2, 7)
