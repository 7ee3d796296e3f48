"""What a search looks like from inside: how decided the mixtures are, and the known signs of a collapse."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from darts.genotype import Genotype


def entropy(mixture: Tensor) -> float:
    """Mean over the edges of the entropy of their mixture weights, in nats; log(candidates) where nothing is decided.

    `mixture`: (edges, candidates), rows sum to 1.
    """
    return float(-(mixture * mixture.clamp_min(1e-30).log()).sum(dim=1).mean())


def search_figures(mixture: Mapping[str, Tensor], genotype: Genotype) -> dict[str, float]:
    """Entropy and number of skip connections of every cell type, by name."""
    figures = {f"entropy/{kind}": entropy(matrix) for kind, matrix in mixture.items()}
    return figures | {f"skips/{kind}": genotype.skips(kind) for kind in genotype.cells}
