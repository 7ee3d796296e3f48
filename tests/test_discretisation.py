"""The published discretisation rule on hand-made scores."""

from __future__ import annotations

import torch

from darts.methods.discretisation import StrongestEdges
from darts.methods.relaxation import Softmax
from darts.spaces.genotype import Edge
from darts.spaces.published import published
from darts.spaces.search_space import CELL_TYPES, SearchSpace
from tests.conftest import space_of

SPACE = space_of("hand-made", 2, 2, ["none", "skip_connect", "sep_conv_3x3"])


def nodes(scores: list[list[float]], space: SearchSpace = SPACE):
    return StrongestEdges().genotype({"normal": torch.tensor(scores)}, space).cells["normal"].nodes


def test_the_strongest_edges_stay_in_order_of_strength():
    found = nodes([[0.1, 0.2, 0.7], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    assert found[0] == (Edge("skip_connect", 1), Edge("sep_conv_3x3", 0))
    assert found[1] == (Edge("sep_conv_3x3", 1), Edge("skip_connect", 0))


def test_none_is_never_chosen_and_does_not_count():
    found = nodes([[0.98, 0.01, 0.01], [0.9, 0.02, 0.08], [0.9, 0.06, 0.04], [0.1, 0.5, 0.4], [0.95, 0.01, 0.04]])
    assert found[0] == (Edge("sep_conv_3x3", 1), Edge("skip_connect", 0))
    assert found[1] == (Edge("skip_connect", 1), Edge("skip_connect", 0))


def test_ties_go_to_the_first_operation_and_the_lower_input():
    third = [1 / 3, 1 / 3, 1 / 3]
    found = nodes([third, third, third, third, third])
    assert found == ((Edge("skip_connect", 0), Edge("skip_connect", 1)),) * 2
    found = nodes([third, third, third, [0.2, 0.2, 0.6], third])
    assert found[1] == (Edge("sep_conv_3x3", 1), Edge("skip_connect", 0))


def test_one_edge_a_node_can_be_kept():
    space = space_of("hand-made", 2, 1, ["none", "skip_connect", "sep_conv_3x3"])
    assert nodes([[0, 0.4, 0.6], [0, 0.7, 0.3], [0, 0.5, 0.5], [0, 0.5, 0.5], [0, 0.1, 0.9]], space) == (
        (Edge("skip_connect", 1),),
        (Edge("sep_conv_3x3", 2),),
    )


def test_alphas_made_from_a_published_cell_give_it_back(darts_space):
    for name in ("darts_v1", "darts_v2", "snas", "pdarts", "pc_darts"):
        genotype = published(name)
        alpha = {kind: torch.zeros(14, 8) for kind in CELL_TYPES}
        for kind, cell in genotype.cells.items():
            for node, edges in enumerate(cell.nodes):
                for rank, edge in enumerate(edges):
                    row = darts_space.incoming(node)[edge.source]
                    alpha[kind][row, darts_space.candidates.index(edge.operation)] = 3 - rank
        scores = {kind: Softmax().scores(matrix, torch.ones(14, 8, dtype=torch.bool)) for kind, matrix in alpha.items()}
        found = StrongestEdges().genotype(scores, darts_space)
        assert found.cells == dict(genotype.cells)


def test_rows_of_the_architecture_parameters_stand_in_the_published_order(darts_space):
    assert darts_space.edges()[:6] == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (0, 2)]
    assert [len(darts_space.incoming(node)) for node in range(4)] == [2, 3, 4, 5]
    assert [darts_space.incoming(node)[0] for node in range(4)] == [0, 2, 5, 9]


def test_softmax_rows_sum_to_one_and_its_gradient_is_right():
    alpha = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    active = torch.ones(5, 3, dtype=torch.bool)
    torch.testing.assert_close(Softmax().weights(alpha, active, 0.0).weights.sum(1), torch.ones(5).double())
    assert torch.autograd.gradcheck(lambda a: Softmax().weights(a, active, 0.0).weights, alpha)
