"""Fine-tuning: a trained network that goes on with other images, its new classifier alone at first, then all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from darts.models.network import Network
from darts.models.settings import NetworkSettings
from darts.runtime.errors import UserError
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import known_spaces
from darts.spaces.search_space import CELL_TYPES, SearchSpace
from darts.tasks.file_content import path_digest
from darts.tasks.settings import ImageFolderDataset, LabelledDataset, require_labelled
from darts.train.saved import frame_of, read_network, require_alike, weights_file
from darts.train.settings import FinalSettings

HEADS = ("classifier.", "auxiliary.")  # how the names of their weights begin


@dataclass(frozen=True)
class Start:
    """The trained network that a fine-tuning begins with."""

    path: Path
    described: dict[str, Any]  # what the file says, without its weights
    weights: dict[str, Tensor]
    genotype: Genotype

    def to_json(self) -> dict[str, Any]:
        """What the result and weights.pt say of it."""
        described = self.described
        return {
            "weights": str(self.path),
            "content": path_digest(self.path),
            "dataset": described["dataset"],
            "class_names": described["class_names"],
        }


def read_start(path: Path) -> Start:
    """Read the weights.pt that a fine-tuning begins with; `UserError` for a file that is none."""
    network, described = read_network(path, "start_from")
    genotype = from_json(described["genotype"], origin=str(path))
    rest = {key: value for key, value in described.items() if key != "weights"}
    return Start(path.resolve(), rest, network.state_dict(), genotype)


def started(settings: FinalSettings) -> tuple[FinalSettings, Genotype]:
    """The settings of a fine-tuning with the size of the given network, and images prepared as it has learnt them.

    `settings.start_from` is a weights.pt, its folder, or `latest`; it becomes the file itself. Also returns the
    network's cell. `UserError` where the data cannot have its channels.
    """
    start = read_start(weights_file(settings.start_from or "", settings.runs, "start_from"))
    size = start.described["network"]
    network = NetworkSettings(**{name: size[name] for name in ("channels", "cells", "stem_reductions")})
    dataset = _prepared_alike(require_labelled(settings.dataset), start)
    space = _space_of(settings.space, start)
    return replace(settings, start_from=str(start.path), network=network, dataset=dataset, space=space), start.genotype


def _space_of(given: SearchSpace, start: Start) -> SearchSpace:
    """The given network's space, where that says what networks have besides cells; else the one of settings."""
    frame = frame_of(start.genotype, start.described["network"])
    own = known_spaces().get(start.genotype.space, given)
    if frame.chain is not None:
        return replace(own, chain=frame.chain, nodes=frame.chain.layers, edge_candidates=None)
    of_both_types = set(CELL_TYPES) <= set(start.genotype.cells)
    return own if frame.always or not (of_both_types or start.genotype.cells.keys() == {"normal"}) else given


def _prepared_alike(dataset: LabelledDataset, start: Start) -> LabelledDataset:
    require_alike(dataset, start.described, start.path, "start_from")
    channels = start.described["input"]["channels"]
    changes: dict[str, Any] = {}
    if isinstance(dataset, ImageFolderDataset):
        if dataset.channels not in (None, channels):
            told = f"{start.path} takes {channels} channels; leave dataset.channels out"
            raise UserError(f"dataset.channels is {dataset.channels}: {told}")
        changes["channels"] = channels
    if dataset.mean is None:
        changes |= {"mean": start.described["mean"], "std": start.described["std"]}
    return replace(dataset, **changes)


def take_up(network: Network, start: Start, classes: list[str]) -> None:
    """Load the given network's weights into a new one; its classifier only where it has the same classes, in any order.

    The head in the middle is kept where both have one and the classes are the same. `UserError` for data with another
    number of channels.
    """
    own, given = network.state_dict(), start.weights
    known = start.described["class_names"] or []
    same_classes = sorted(known) == sorted(classes)
    order = [known.index(name) for name in classes] if same_classes else []
    stem = next(name for name in own if name.startswith("stem."))  # the first convolution's weights
    if own[stem].shape != given[stem].shape:
        raise UserError(f"start_from: {start.path} takes {given[stem].shape[1]} channels; the images have "
                        f"{own[stem].shape[1]}")  # fmt: skip
    taken = {}
    for name, value in own.items():
        kept = name in given and (same_classes or not name.startswith(HEADS))
        taken[name] = given[name] if kept else value
        if kept and name.rpartition(".")[0].endswith("classifier"):  # a row a class
            taken[name] = given[name][order]
    network.load_state_dict(taken)


def train_heads_alone(network: Network, alone: bool) -> None:
    """Let the gradient reach the classifier and the head in the middle only, or everything."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not alone or name.startswith(HEADS))


def training_mode(network: Network, heads_alone: bool) -> None:
    """Set the modes of an epoch: below heads that are trained alone, batch norms use and keep their statistics."""
    network.train()
    if not heads_alone:
        return
    for name, module in network.named_children():
        if f"{name}." not in HEADS:
            module.eval()


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that the gradient reaches."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
