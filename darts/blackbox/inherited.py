"""Architectures judged by the weights of a trained supernet, without training them (Bender et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from darts.blackbox.settings import EvaluationSettings
from darts.loop.record import experiment
from darts.models.batch_norm import frozen_statistics
from darts.models.building import ImageSupernet, plain_supernet
from darts.models.mixture import MixtureWeights
from darts.models.settings import NetworkSettings
from darts.models.supernet import Mixing
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.device import placed
from darts.runtime.errors import UserError
from darts.runtime.schema import JSON, SchemaError, require_schema
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import SearchSpace
from darts.tasks.batches import SearchData
from darts.tasks.task import Batch, correct

SAME = (
    "space.",
    "dataset.",
    "search.train_fraction",
    "seed",
)  # what decides which images trained which weights


def trained_supernet(
    folder: Path, size: NetworkSettings, settings: EvaluationSettings, data: SearchData, device: torch.device
) -> ImageSupernet:
    """The supernet of a finished search's last checkpoint, as a reference supernet.

    Its split of the images must be this search's, or the weights would have seen what judges them.
    """
    state = (Checkpoints(folder).load() if folder.is_dir() else None) or {}
    if state and not (folder / "genotype.json").exists():
        raise UserError(f"evaluator.supernet is {str(folder)!r}; it must be a search that has ended: resume it first")
    try:
        require_schema(state, {"settings": {str: JSON}, "supernet": {str: torch.Tensor}})
    except SchemaError:
        allowed = "the folder of a search by gradients"
        raise UserError(f"evaluator.supernet is {str(folder)!r}; it must be {allowed}") from None
    stored, present = state["settings"], experiment(settings)
    differing = [key for key in sorted(stored) if key.startswith(SAME) and stored[key] != present.get(key)]
    if differing:
        key = differing[0]
        raise UserError(f"evaluator.supernet {folder}: its {key} is {stored[key]!r}, here it is {present.get(key)!r}")
    space = settings.space
    supernet = plain_supernet(
        space, size.cells, size.channels, size.stem_reductions, data.shape, Mixing(edge_extras=space.always)
    )
    try:
        supernet.load_state_dict(state["supernet"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:150] if "\n" in str(error) else str(error)[:150]
        raise UserError(
            f"evaluator.supernet {folder}: not the whole supernet of space {space.name!r} with "
            f"evaluator.network ({reason})"
        ) from None
    placed(supernet, device)
    return supernet


def path_of(genotype: Genotype, space: SearchSpace) -> dict[str, MixtureWeights]:
    """The mixture that opens a genotype's operations with weight 1 and computes nothing else."""
    found = {}
    for kind, cell in genotype.cells.items():
        weights = torch.zeros(len(space.edges()), len(space.candidates))
        computed: list[list[int]] = [[] for _ in space.edges()]
        for row, column in space.places(cell):
            weights[row, column] = 1
            computed[row].append(column)
        kept = (weights.sum(1, keepdim=True) > 0).to(weights)
        found[kind] = MixtureWeights(weights, computed).with_columns([kept] * len(space.always))
    return found


@torch.no_grad()
def path_accuracy(
    supernet: ImageSupernet, genotype: Genotype, space: SearchSpace, batches: Iterable[Batch], batch_statistics: bool
) -> float:
    """Accuracy (0 to 1) of a genotype's path through a supernet, whose state stays as it is."""
    first = next(supernet.parameters())
    mixture = {kind: path.with_weights(path.weights.to(first)) for kind, path in path_of(genotype, space).items()}
    right = seen = 0
    supernet.train(batch_statistics)
    with frozen_statistics(supernet):
        for images, labels in batches:
            right += int(correct(supernet(images, mixture), labels))
            seen += len(labels)
    return right / seen
