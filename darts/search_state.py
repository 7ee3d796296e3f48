"""What a search works on, how it begins, and how it goes from one stage to the next."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts import parallel
from darts.checkpoint import Checkpoints
from darts.commands import SearchSettings
from darts.config import identity
from darts.constraints import CostModel
from darts.data import SearchData
from darts.errors import UserError
from darts.execution import Graphed, placed
from darts.fused.supernet import FusedSupernet
from darts.genotype import Genotype
from darts.method import EDGES
from darts.mixture import Mixture, Progress
from darts.nasbench201 import Table
from darts.operations import candidate
from darts.progress import RunState
from darts.schedule import Left, Stage
from darts.seeding import ambient, generator
from darts.settings import Engine, MemorySettings
from darts.spaces import InputShape, plan_cells
from darts.supernet import Mixing, SkipDropout, Supernet
from darts.synchronised import synchronise
from darts.tracking import Tracker
from darts.training import architecture_optimiser, weight_optimiser


@dataclass(kw_only=True)
class SearchState(RunState):
    """Everything a search works on; a checkpoint holds exactly what changes."""

    settings: SearchSettings
    data: SearchData
    device: torch.device
    stage: Stage
    left: Left  # the candidates that are left, by cell type, edge and candidate
    supernet: Supernet = field(init=False)
    alpha: dict[str, nn.Parameter] = field(init=False)  # cell type -> (edges, candidates); with edge weights more
    weight_optimiser: torch.optim.Optimizer = field(init=False)
    architecture_optimiser: torch.optim.Optimizer = field(init=False)
    masks: dict[str, Tensor] = field(init=False)  # `left` on the device
    memory: dict[str, Any] = field(default_factory=dict)  # what the method's parts remember
    chosen_epoch: int | None = None  # whose genotype is the result, where that is not the last one's
    actions: dict[bool, Graphed] = field(default_factory=dict)  # by whether alpha moves: the step, recorded on CUDA
    costs: CostModel | None = None  # where the network's cost is limited
    table: Table | None = None  # where one knows the true accuracies

    def contents(self) -> dict[str, Any]:
        """Weights, alpha and both optimisers, and what must be the same when they are taken up."""
        return {
            "settings": identity(self.settings),
            "split": self.data.split.digest(),
            "stage": self.stage.number,
            "left": self.left,
            "supernet": self.supernet.to_plain(self.supernet.state_dict()),
            "alpha": {name: matrix.detach() for name, matrix in self.alpha.items()},
            "momentum": self.supernet.to_plain(self.momentum()),
            "architecture_optimiser": self.architecture_optimiser.state_dict(),
            "memory": self.memory,
            "chosen_epoch": self.chosen_epoch,
        }

    def take(self, contents: dict[str, Any]) -> None:
        """Go on from what `contents` gave; `UserError` where the images on disk are no longer the same."""
        if contents["split"] != self.data.split.digest():
            raise UserError("the training images have changed since this search began; give another hydra.run.dir")
        self.supernet.load_state_dict(self.supernet.from_plain(contents["supernet"]))
        with torch.no_grad():
            for name, matrix in self.alpha.items():
                matrix.copy_(contents["alpha"][name])
        self.take_momentum(contents["momentum"])
        self.architecture_optimiser.load_state_dict(contents["architecture_optimiser"])
        self.memory, self.chosen_epoch = contents["memory"], contents["chosen_epoch"]

    def momentum(self) -> dict[str, Tensor]:
        """The momentum of the supernet's weights by name; empty before the first step."""
        state = self.weight_optimiser.state
        held = {name: state[weight].get("momentum_buffer") for name, weight in self.supernet.named_parameters()}
        return {name: buffer for name, buffer in held.items() if buffer is not None}

    def take_momentum(self, plain: Mapping[str, Tensor]) -> None:
        """Take up momentum in the plain layout."""
        momentum = self.supernet.from_plain(plain)
        for name, weight in self.supernet.named_parameters():
            if name in momentum:
                held = torch.empty_like(weight).copy_(momentum[name])
                self.weight_optimiser.state[weight]["momentum_buffer"] = held

    def settled(self) -> Mixture:
        """The present mixture weights without noise and without a gradient, for evaluation."""
        settings = self.settings
        with torch.no_grad():
            return settings.method.mixture(self.alpha, self.masks, self.progress(0), settings.space, settled=True)

    def scores(self) -> dict[str, Tensor]:
        """What discretisation ranks at present."""
        return self.settings.method.scores(self.alpha, self.masks, self.settings.space)

    def genotype(self) -> Genotype:
        """The present genotype."""
        return self.settings.method.discretisation.genotype(self.scores(), self.settings.space)

    def penalties(self, alpha: Mapping[str, Tensor], progress: Progress) -> list[Tensor]:
        """What alpha pays for besides errors."""
        method, space = self.settings.method, self.settings.space
        own = method.penalty(alpha, progress, space)
        penalties = [] if own is None else [own]
        if self.costs is not None:
            scores = {kind: method.relaxation.scores(alpha[kind], self.masks[kind]) for kind in space.cell_types}
            penalties.append(self.costs.penalty(scores))
        return penalties

    def operations_left(self) -> int:
        """How many candidates are left, over all cell types and edges."""
        return sum(sum(row) for rows in self.left.values() for row in rows)

    def progress(self, steps: int) -> float:
        """The share of search.epochs that is done; stages that a method adds after them are at its end."""
        done = self.epoch + (self.step / steps if steps else 0)
        return min(1.0, done / self.settings.search.epochs)

    def stage_progress(self, steps: int) -> float:
        """The share of the present stage that is done."""
        return (self.epoch - self.stage.first + self.step / steps) / (self.stage.last - self.stage.first)

    def noise(self, purpose: str, by_process: bool = False) -> AbstractContextManager[None]:
        """Within the block random numbers are those of this step and purpose, however often it is entered.

        `by_process`: and of this process, for what is drawn for its images.
        """
        names = self.settings.space.candidates
        if self.settings.method.random or any(candidate(name).random for name in names):
            own = [parallel.number()] if by_process and parallel.number() else []
            return ambient(self.settings.seed, purpose, self.epoch, self.step, *own)
        return nullcontext()

    def cells(self) -> dict[str, int]:
        """By cell type, how many cells the supernet has."""
        return dict(Counter(self.supernet.kinds))

    def skip_connections(self) -> Iterator[SkipDropout]:
        """Those that drop values."""
        return (module for module in self.supernet.modules() if isinstance(module, SkipDropout))


def new_state(
    settings: SearchSettings,
    data: SearchData,
    device: torch.device,
    folder: Path,
    saved: Mapping[str, Any] | None = None,
) -> SearchState:
    """A search before its first step, or with the supernet of a checkpoint's stage."""
    space = settings.space
    stages = settings.method.schedule.stages(settings.search.epochs, space)
    state = SearchState(
        settings=settings,
        data=data,
        device=device,
        stage=stages[saved["stage"] if saved else 0],
        left=saved["left"] if saved else {kind: space.allowed(kind) for kind in space.cell_types},
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, stages[-1].last, device),
        minutes=settings.checkpoint.minutes,
    )
    begin(state)
    return state


def begin(state: SearchState) -> None:
    """Give the search the supernet, alpha and optimisers with which its present stage begins."""
    settings = state.settings
    begin_supernet(state)
    state.alpha = new_alpha(state)
    rule = settings.architecture_optimiser
    state.architecture_optimiser = architecture_optimiser(state.alpha.values(), rule, settings.graphs)


def begin_supernet(state: SearchState) -> None:
    """Give the search a supernet of what is left, with new weights, and their optimiser."""
    settings = state.settings
    state.actions.clear()
    state.masks = {kind: torch.tensor(rows, device=state.device) for kind, rows in state.left.items()}
    state.supernet = build_supernet(settings, state.data.shape, state.stage, state.left)
    placed(state.supernet, state.device)
    rule = settings.weight_optimiser
    state.weight_optimiser = weight_optimiser(state.supernet.parameters(), rule, settings.graphs)


def new_alpha(state: SearchState) -> dict[str, nn.Parameter]:
    """Architecture parameters at the start: small normal numbers."""
    settings, space = state.settings, state.settings.space
    draws = generator(settings.seed, "alpha", *([state.stage.number] if state.stage.number else []))
    shapes: dict[str, tuple[int, ...]] = {
        kind: (len(space.edges()), len(space.candidates)) for kind in space.cell_types
    }
    if settings.method.channels.edge_weights:
        shapes |= {EDGES + kind: (len(space.edges()),) for kind in space.cell_types}
    return {
        name: nn.Parameter((settings.search.initial_alpha * torch.randn(shape, generator=draws)).to(state.device))
        for name, shape in shapes.items()
    }


def build_supernet(settings: SearchSettings, shape: InputShape, stage: Stage, left: Left) -> Supernet:
    """The supernet of a stage, with the weights of its seed; the same weights for both engines."""
    network, space, method = settings.network, settings.space, settings.method
    mixing = Mixing(left, method.beside.operations, method.channels.share(stage.number), method.beside.drops_skips)
    cells = network.cells + stage.more_cells
    plans = plan_cells(cells, network.channels, space.multipliers(), space.layout)
    with ambient(settings.seed, "weights", *([stage.number] if stage.number else [])):
        supernet = Supernet(plans, space, shape, network.stem_reductions, mixing)
    if settings.engine is Engine.fused and not method.relaxation.sampled:  # one operation an edge: nothing to fuse
        supernet = FusedSupernet(supernet)
    supernet.checkpoint_cells = settings.memory.checkpoint_cells
    synchronise(supernet)
    return supernet


def plain_twin(state: SearchState) -> Supernet:
    """The search's supernet itself if it is plain, else a plain one with the same weights."""
    if not isinstance(state.supernet, FusedSupernet):
        return state.supernet
    settings = dataclasses.replace(state.settings, engine=Engine.plain, memory=MemorySettings(checkpoint_cells=False))
    twin = build_supernet(settings, state.data.shape, state.stage, state.left)
    twin.to(next(state.supernet.parameters()))
    twin.load_state_dict(state.supernet.to_plain(state.supernet.state_dict()))
    return twin


def go_on(state: SearchState, left: Left, stage: Stage) -> None:
    """Go over to a stage, or to fewer candidates: what stays keeps its weights and momentum, unless all begins anew."""
    if left == state.left and stage == state.stage:
        return
    old_stage, supernet, momentum = state.stage, state.supernet, state.supernet.to_plain(state.momentum())
    weights = supernet.to_plain(supernet.state_dict())
    state.left, state.stage = left, stage
    if stage.fresh and stage != old_stage:
        begin(state)
        return
    begin_supernet(state)
    new = state.supernet.to_plain(state.supernet.state_dict())
    state.supernet.load_state_dict(state.supernet.from_plain({n: inherited(weights.get(n), t) for n, t in new.items()}))
    same = {n: m for n, m in momentum.items() if n in new and new[n].shape == m.shape}
    state.take_momentum(same)


def inherited(old: Tensor | None, new: Tensor) -> Tensor:
    """The old tensor in the new one's shape; `new` itself where there is no old one.

    Where it gets wider its channels repeat (Chen et al. 2016, Net2Net): along the inputs of a convolution the copies of
    a channel share its weight.
    """
    if old is None or old.shape == new.shape:
        return new if old is None else old
    for axis, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
        if before != after:
            index = torch.arange(after, device=old.device) % before
            old = old.index_select(axis, index)
            if axis == 1:
                copies = torch.bincount(index, minlength=before)[index].to(old)
                old = old / copies.view([-1 if i == 1 else 1 for i in range(old.dim())])
    return old
