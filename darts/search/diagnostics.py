"""What a search looks like from inside: how decided the mixtures are, and the known signs of a collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from darts.spaces.genotype import Genotype
from darts.spaces.search_space import SearchSpace


def entropy(mixture: Tensor) -> float:
    """Mean over the edges of the entropy of their mixture weights, in nats; log(candidates) where nothing is decided.

    `mixture`: (edges, candidates); rows are divided by their sums, rows of zeros left out.
    """
    total = mixture.sum(dim=1, keepdim=True)
    rows = (mixture / total)[total[:, 0] > 0]
    return float(-(rows * rows.clamp_min(1e-30).log()).sum(dim=1).mean())


def search_metrics(
    scores: Mapping[str, Tensor], genotype: Genotype, before: Mapping[str, Any] | None
) -> dict[str, float]:
    """By cell type the entropy, the skip connections, and how many edges are new since the cells `before`."""
    metrics = {f"entropy/{kind}": entropy(matrix) for kind, matrix in scores.items()}
    metrics |= {f"skips/{kind}": genotype.skips(kind) for kind in genotype.cells}
    now = edge_lists(genotype)
    return metrics | {f"changes/{kind}": changes(now[kind], before[kind]) for kind in now if before is not None}


def collapsed(genotype: Genotype) -> bool:
    """Whether half of the normal cell's edges or more are skip connections: the known end of a failed search.

    Of a recurrent cell: whether half of its activations or more are the identity.
    """
    kind = first_kind(genotype)
    return 2 * genotype.skips(kind) >= len(genotype.cells[kind].operations())


def first_kind(genotype: Genotype) -> str:
    """The cell type that is looked at for a collapse: normal where there is one."""
    return next(iter(genotype.cells))


def edge_lists(genotype: Genotype) -> dict[str, list[list[Any]]]:
    """By cell type the edges as [node, operation, input], as history.jsonl holds them."""
    found = {}
    for kind, cell in genotype.cells.items():
        found[kind] = [[node, *edge] for node, edges in enumerate(cell.nodes) for edge in edges]
    return found


def changes(now: Sequence[Sequence[Any]], before: Sequence[Sequence[Any]]) -> int:
    """How many of the edges there are now were not there before."""
    return len({tuple(edge) for edge in now} - {tuple(edge) for edge in before})


def discrete_mixture(genotype: Genotype, space: SearchSpace, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mixture weights that select a genotype in the supernet: 1 where an edge stays with its operation."""
    found = {kind: torch.zeros_like(matrix) for kind, matrix in like.items()}
    for kind, cell in genotype.cells.items():
        for row, column in space.places(cell):
            found[kind][row, column] = 1
    return found


def dominant_eigenvalue(
    product: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator, steps: int = 12
) -> float:
    """The largest eigenvalue of a symmetric matrix that is known by its products with vectors, by Lanczos iteration.

    `like`: a vector of the matrix's size, device and precision. Exact with as many steps as it has entries.
    """
    vector = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, like.numel())):
        following = product(basis[-1].to(like)).cpu().double()
        diagonal.append(float(following @ basis[-1]))
        for _ in range(2):  # twice, or rounding brings known directions back
            for known in basis:
                following -= (following @ known) * known
        norm = float(following.norm())
        if norm < 1e-10 * max(1e-30, abs(diagonal[0])):
            break
        off_diagonal.append(norm)
        basis.append(following / norm)
    upper = torch.diag(torch.tensor(off_diagonal[: len(diagonal) - 1], dtype=torch.float64), 1)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + upper + upper.T
    return float(torch.linalg.eigvalsh(matrix)[-1])
