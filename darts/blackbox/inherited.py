"""Architectures judged by the weights of a trained supernet, without training them (Bender et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from darts.checkpoint import Checkpoints
from darts.commands import EvaluationSettings
from darts.config import identity
from darts.data import Batch, SearchData
from darts.errors import UserError
from darts.execution import placed
from darts.genotype import Genotype
from darts.mixture import Paths
from darts.modules import frozen_statistics
from darts.settings import NetworkSettings
from darts.spaces import SearchSpace, plan_cells
from darts.supernet import Supernet
from darts.training import correct

SAME = (
    "space.",
    "dataset.",
    "search.weight_share",
    "seed",
)  # what decides which images trained which weights


def trained_supernet(
    folder: Path, size: NetworkSettings, settings: EvaluationSettings, data: SearchData, device: torch.device
) -> Supernet:
    """The supernet of a finished search's last checkpoint, in its plain form.

    Its half of the images must be this search's, or the weights would have seen what judges them.
    """
    state = Checkpoints(folder).load() if folder.is_dir() else None
    if state is None or "supernet" not in state:
        raise UserError(f"evaluator.supernet is {str(folder)!r}; it must be the folder of a search by gradients")
    stored, present = state["settings"], identity(settings)
    differing = [key for key in sorted(stored) if key.startswith(SAME) and stored[key] != present.get(key)]
    if differing:
        key = differing[0]
        raise UserError(f"evaluator.supernet {folder}: its {key} is {stored[key]!r}, here it is {present.get(key)!r}")
    plans = plan_cells(size.cells, size.channels, settings.space.multipliers(), settings.space.layout)
    supernet = Supernet(plans, settings.space, data.shape, size.stem_reductions)
    try:
        supernet.load_state_dict(state["supernet"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:150] if "\n" in str(error) else str(error)[:150]
        raise UserError(
            f"evaluator.supernet {folder}: not the whole supernet of space {settings.space.name!r} with "
            f"evaluator.network ({reason})"
        ) from None
    placed(supernet, device)
    return supernet


def path_of(genotype: Genotype, space: SearchSpace) -> dict[str, Paths]:
    """The mixture that opens a genotype's operations with weight 1 and computes nothing else."""
    found = {}
    for kind, cell in genotype.cells.items():
        weights = torch.zeros(len(space.edges()), len(space.candidates))
        computed: list[list[int]] = [[] for _ in space.edges()]
        for row, column in space.places(cell):
            weights[row, column] = 1
            computed[row].append(column)
        found[kind] = Paths(weights, computed)
    return found


@torch.no_grad()
def path_accuracy(
    supernet: Supernet, genotype: Genotype, space: SearchSpace, batches: Iterable[Batch], batch_statistics: bool
) -> float:
    """Share of right answers (0 to 1) of a genotype's path through a supernet, whose state stays as it is."""
    first = next(supernet.parameters())
    mixture = {kind: Paths(path.weights.to(first), path.computed) for kind, path in path_of(genotype, space).items()}
    right = seen = 0
    supernet.train(batch_statistics)
    with frozen_statistics(supernet):
        for images, labels in batches:
            right += int(correct(supernet(images, mixture), labels))
            seen += len(labels)
    return right / seen
