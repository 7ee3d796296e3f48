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

from darts.loop.optimisation import architecture_optimiser, weight_optimiser
from darts.loop.optimiser_state import load_optimiser, optimiser_schema, optimiser_state_dict
from darts.loop.run_state import RunState
from darts.loop.tracking import Tracker
from darts.methods.method import EDGES
from darts.methods.schedule import CandidateMask, Stage
from darts.methods.weight_gradient import operation_of
from darts.models.building import drawing_candidates
from darts.models.cost import CostModel
from darts.models.mixture import Mixture, Moment
from darts.models.settings import Engine, MemorySettings
from darts.models.several import own_name
from darts.models.supernet import SearchDropout
from darts.runtime import distributed
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.device import Step, placed
from darts.runtime.errors import UserError
from darts.runtime.schema import FINITE, At, Length, OneOf, Part, Row, Schema, Within, exactly, like, like_tensor
from darts.runtime.seeding import ambient, generator
from darts.search.build import AnySupernet, SearchedData, build_supernet
from darts.search.carry import carry_schema, own_carry, own_pass, whole_carry
from darts.search.compute import count_passes
from darts.search.preferences import alpha_at, scores_at
from darts.search.settings import SearchSettings
from darts.spaces.genotype import Genotype
from darts.spaces.table import Table
from darts.tasks.task import Batch, Task

REMEMBERING = ("schedule", "weight_gradient")  # the places of a method whose parts remember something


def _no_memory() -> dict[str, dict[str, Any]]:
    return {place: {} for place in REMEMBERING}


@dataclass(kw_only=True)
class SearchState(RunState):
    """Everything a search works on; a checkpoint holds what changes, and what must be the same on resuming."""

    settings: SearchSettings
    data: SearchedData
    device: torch.device
    stage: Stage
    active: CandidateMask  # by cell type, edge and candidate: false where it has been removed
    supernet: AnySupernet = field(init=False)
    alpha: dict[str, nn.Parameter] = field(init=False)  # cell type -> (edges, candidates); with edge weights more
    weight_optimiser: torch.optim.Optimizer = field(init=False)
    architecture_optimiser: torch.optim.Optimizer = field(init=False)
    masks: dict[str, Tensor] = field(init=False)  # `active` as tensors on the device
    memory: dict[str, dict[str, Any]] = field(default_factory=_no_memory)  # what each part remembers, by its place
    inner_step: int = 0  # of the weight steps within a step of the search, from 0
    carry: dict[str, Tensor] = field(default_factory=dict)  # by split, of a sequence: what its next batch begins with
    passes: int = 0  # of the present step, where each has random numbers of its own
    chosen_epoch: int | None = None  # whose genotype is the result, where that is not the last one's
    actions: dict[bool, Step] = field(default_factory=dict)  # by whether alpha moves: the step, recorded on CUDA
    experiment: dict[str, Any] = field(default_factory=dict)  # what must be the same where the search is resumed
    costs: CostModel | None = None  # where the network's cost is limited
    devices: dict[str, CostModel] = field(default_factory=dict)  # those that alpha is learnt for
    table: Table | None = None  # where one knows the true accuracies

    @property
    def task(self) -> Task:
        """What is learned."""
        return self.data.task

    def continued(self, split: str, batch: Batch) -> Batch:
        """A batch of a split that begins with what the batch before it left."""
        return self.task.continued(batch, self.carry.get(split))

    def keep_carry(self, split: str, carry: Tensor | None) -> None:
        """Keep what a batch of a split leaves for the next one."""
        if carry is not None:
            self.carry[split] = carry

    def fixed_weights_of_unrolled_step(self) -> frozenset[int]:
        """The weights, by position, that an unrolled step leaves as they are: an embedding, where settings say so."""
        names = [name for name, _ in self.supernet.named_parameters()]
        return frozenset(at for at, name in enumerate(names) if name in self.supernet.fixed_in_unrolled_step)

    def state_dict(self) -> dict[str, Any]:
        """Weights, alpha and both optimisers, and what must be the same when they are loaded."""
        return {
            "settings": self.experiment,
            "split": self.data.split.digest(),
            "stage": self.stage.number,
            "active": self.active,
            "supernet": self.supernet.to_reference(self.supernet.state_dict()),
            "alpha": {name: matrix.detach() for name, matrix in self.alpha.items()},
            "momentum": self.supernet.to_reference(self.momentum()),
            "architecture_optimiser": optimiser_state_dict(self.architecture_optimiser),
            "memory": self.memory,
            "chosen_epoch": self.chosen_epoch,
            **whole_carry(self.data, self.carry),
        }

    def schema(self) -> Schema:
        """What a checkpoint of this search must hold."""
        method, weights = self.settings.method, self.supernet.to_reference(self.supernet.state_dict())
        parameters = self.supernet.to_reference(dict(self.supernet.named_parameters()))
        memory = {
            "schedule": method.schedule.memory_schema(self.settings.space),
            "weight_gradient": method.weight_gradient.memory_schema(),
        }
        return {
            "split": str,
            "supernet": like(weights),
            "alpha": like({name: matrix.detach() for name, matrix in self.alpha.items()}),
            "momentum": Part({name: like_tensor(weight) for name, weight in parameters.items()}),
            "architecture_optimiser": optimiser_schema(self.architecture_optimiser),
            "memory": memory,
            "chosen_epoch": (None, At(1, self.tracker.epochs)),
            **carry_schema(self.data, self.settings),
        }

    def line_schema(self) -> Schema:
        """What an epoch's line of history.jsonl must hold."""
        space = self.settings.space
        edges, columns, kinds = len(space.edges()), len(space.candidates), space.cell_types
        edge = Row((At(0, space.nodes - 1), OneOf(tuple(space.candidates)), At(0, space.nodes + space.layout.inputs)))
        metric = self.task.metric
        measured = {"loss": FINITE, metric.name: Within(metric.least, metric.most)}
        numbers = {f"{split}/{name}": schema for split in ("train", "valid") for name, schema in measured.items()}
        mixture = dict.fromkeys(kinds, Length(edges, Length(columns, FINITE)))
        return {"epoch": int, **numbers, "mixture": mixture, "cells": {kind: [edge] for kind in kinds}}

    def may_have_ended(self, saved: dict[str, Any]) -> bool:
        """Whether a search with this state can have ended before its last epoch."""
        budget = self.settings.budget
        return budget.minutes is not None or budget.macs is not None or saved["chosen_epoch"] is not None

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned; `UserError` where the images on disk are no longer the same."""
        if saved["split"] != self.data.split.digest():
            raise UserError("the training data have changed since this search began; give another hydra.run.dir")
        self.supernet.load_state_dict(self.supernet.from_reference(saved["supernet"]))
        with torch.no_grad():
            for name, matrix in self.alpha.items():
                matrix.copy_(saved["alpha"][name])
        self.load_momentum(saved["momentum"])
        load_optimiser(self.architecture_optimiser, saved["architecture_optimiser"])
        self.memory, self.chosen_epoch = saved["memory"], saved["chosen_epoch"]
        self.carry = own_carry(saved, self.device)

    def momentum(self) -> dict[str, Tensor]:
        """The momentum of the supernet's weights by name; empty before the first step."""
        state = self.weight_optimiser.state
        found = {}
        for name, weight in self.supernet.named_parameters():
            buffer = state[weight].get("momentum_buffer")
            if buffer is not None:
                found[name] = buffer
        return found

    def load_momentum(self, reference: Mapping[str, Tensor]) -> None:
        """Take up momentum under the reference supernet's names."""
        try:
            momentum = self.supernet.from_reference(reference)
        except KeyError as error:
            raise UserError(f"the checkpoint's momentum lacks {error}") from None
        for name, weight in self.supernet.named_parameters():
            if name in momentum:
                buffer = torch.empty_like(weight).copy_(momentum[name])
                self.weight_optimiser.state[weight]["momentum_buffer"] = buffer

    def deterministic_mixture(self) -> Mixture:
        """The present mixture weights without noise and without a gradient, for evaluation."""
        settings = self.settings
        with torch.no_grad():
            alpha = alpha_at(self, self.alpha)
            return settings.method.mixture(alpha, self.masks, self.moment(0), settings.space, deterministic=True)

    def scores(self) -> dict[str, Tensor]:
        """What discretisation ranks at present."""
        return scores_at(self)

    def genotype(self) -> Genotype:
        """The present genotype."""
        return self.settings.method.discretisation.genotype(self.scores(), self.settings.space)

    def regularisation(self, alpha: Mapping[str, Tensor], moment: Moment) -> list[Tensor]:
        """The terms that are added to the architecture loss: the method's, and that of the cost limits."""
        method, space = self.settings.method, self.settings.space
        own = method.penalty(alpha, moment, space)
        terms = [] if own is None else [own]
        if self.costs is not None and self.costs.limits:
            scores = {kind: method.relaxation.scores(alpha[kind], self.masks[kind]) for kind in space.cell_types}
            terms.append(self.costs.penalty(scores))
        return terms

    def active_operations(self) -> int:
        """How many candidates are active, over all cell types and edges."""
        return sum(sum(row) for rows in self.active.values() for row in rows)

    def moment(self, steps: int) -> Moment:
        """How far the search is; stages that a method adds after search.epochs are at its end."""
        epochs = self.settings.search.epochs
        done = self.epoch + (self.step / steps if steps else 0)
        return Moment(min(1.0, done / epochs), min(self.epoch, epochs - 1), epochs)

    def stage_progress(self, steps: int) -> float:
        """The fraction of the present stage that is done."""
        return (self.epoch - self.stage.first + self.step / steps) / (self.stage.last - self.stage.first)

    def draws(self) -> bool:
        """Whether a step draws random numbers: the method, the supernet's dropout or a candidate."""
        drawing = drawing_candidates(self.settings.space)
        return self.settings.method.random or self.supernet.draws or bool(drawing)

    def noise(self, purpose: str, by_process: bool = False) -> AbstractContextManager[None]:
        """Within the block random numbers are those of this step and purpose, however often it is entered.

        `by_process`: and of this process, for what is drawn for its images.
        """
        if self.draws():
            own = [distributed.rank()] if by_process and distributed.rank() and not self.task.is_sequence else []
            inner = [self.inner_step] if self.inner_step else []
            return ambient(self.settings.seed, purpose, self.epoch, self.step, *own, *inner, *own_pass(self))
        return nullcontext()

    def cells(self) -> dict[str, int]:
        """By cell type, how many cells the supernet has."""
        return dict(Counter(self.supernet.kinds))


def new_state(
    settings: SearchSettings,
    data: SearchedData,
    device: torch.device,
    folder: Path,
    saved: Mapping[str, Any] | None = None,
) -> SearchState:
    """A search before its first step, or with the supernet of a checkpoint's stage."""
    space = settings.space
    stages = settings.method.schedule.stages(settings.search.epochs, space)
    number, active = 0, {kind: space.allowed(kind) for kind in space.cell_types}
    if saved is not None:
        number, active = saved["stage"], saved["active"]
    state = SearchState(
        settings=settings,
        data=data,
        device=device,
        stage=stages[number],
        active=active,
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, stages[-1].last, device, settings.logger),
        minutes=settings.checkpoint.minutes,
    )
    begin(state)
    return state


def stage_schema(settings: SearchSettings) -> Schema:
    """What a checkpoint must say of its stage, which decides what supernet the rest belongs to."""
    space, stages = settings.space, settings.method.schedule.stages(settings.search.epochs, settings.space)
    mask = Length(len(space.edges()), Length(len(space.candidates), bool))
    return {"stage": At(0, len(stages) - 1), "active": exactly(dict.fromkeys(space.cell_types, mask))}


def begin(state: SearchState) -> None:
    """Give the search the supernet, alpha and optimisers with which its present stage begins."""
    settings = state.settings
    begin_supernet(state)
    state.alpha = new_alpha(state)
    rule = settings.architecture_optimiser
    state.architecture_optimiser = architecture_optimiser(state.alpha.values(), rule, settings.graphs)


def begin_supernet(state: SearchState) -> None:
    """Give the search a supernet of the active candidates, with new weights, and their optimiser."""
    settings = state.settings
    state.actions.clear()
    state.masks = {kind: torch.tensor(rows, device=state.device) for kind, rows in state.active.items()}
    state.supernet = build_supernet(settings, state.data.shape, state.stage, state.active)
    placed(state.supernet, state.device)
    count_passes(state.supernet, state.tracker)
    rule = settings.weight_optimiser
    state.weight_optimiser = weight_optimiser(state.supernet.parameters(), rule, settings.graphs)


def new_alpha(state: SearchState) -> dict[str, nn.Parameter]:
    """Architecture parameters at the start: small normal numbers."""
    settings, space = state.settings, state.settings.space
    draws = generator(settings.seed, "alpha", *([state.stage.number] if state.stage.number else []))
    shapes: dict[str, tuple[int, ...]] = {
        kind: settings.method.preference.shape(len(space.edges()), len(space.candidates)) for kind in space.cell_types
    }
    if settings.method.channels.edge_weights:
        shapes |= {EDGES + kind: (len(space.edges()),) for kind in space.cell_types}
    return {
        name: nn.Parameter((settings.search.initial_alpha * torch.randn(shape, generator=draws)).to(state.device))
        for name, shape in shapes.items()
    }


# Variants


def dropouts(state: SearchState) -> Iterator[SearchDropout]:
    """What drops values, or whole edges, of the supernet."""
    return (module for module in state.supernet.modules() if isinstance(module, SearchDropout))


def reference_supernet(state: SearchState) -> AnySupernet:
    """The search's supernet itself where the engine is the reference, else a reference one with the same weights."""
    if all(getattr(module, "twice_differentiable", True) for module in state.supernet.modules()):
        return state.supernet
    memory = MemorySettings(activation_checkpointing=False)
    settings = dataclasses.replace(state.settings, engine=Engine.reference, memory=memory)
    reference = build_supernet(settings, state.data.shape, state.stage, state.active)
    reference.to(next(state.supernet.parameters()))
    reference.load_state_dict(state.supernet.to_reference(state.supernet.state_dict()))
    count_passes(reference, state.tracker)
    return reference


def enter_stage(state: SearchState, active: CandidateMask, stage: Stage) -> None:
    """Change to a stage, or to fewer candidates; what remains keeps weights and momentum, unless it starts afresh."""
    if active == state.active and stage == state.stage:
        return
    old_stage, supernet = state.stage, state.supernet
    momentum = supernet.to_reference(state.momentum())
    weights = supernet.to_reference(supernet.state_dict())
    state.active, state.stage = active, stage
    if stage.fresh and stage != old_stage:
        begin(state)
        return
    widening = Widening(state.settings.seed, stage.number)
    begin_supernet(state)
    new = state.supernet.to_reference(state.supernet.state_dict())
    kept = {name: widening.inherited(name, weights[name], new[name]) if name in weights else new[name] for name in new}
    state.supernet.load_state_dict(state.supernet.from_reference(kept))
    if stage.fresh_momentum and stage != old_stage:
        return
    state.load_momentum({name: widening.inherited(name, m, new[name]) for name, m in momentum.items() if name in new})


@dataclass(frozen=True)
class Widening:
    """How the tensors of a supernet become wider: channels drawn uniformly are copied behind those that are there.

    As in the code of Chen et al. 2021 (DrNAS) nothing is divided by the number of copies, and momentum is copied like
    the weights. The copies are drawn once for each operation, so that its layers agree.
    """

    seed: int
    stage: int

    def inherited(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        """The old tensor in the new one's shape; `name` is its reference name."""
        for axis, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
            if before != after:
                operation = own_name(operation_of(name))
                draws = generator(self.seed, f"widening {operation}", self.stage, before, after)
                copies = torch.randint(before, (after - before,), generator=draws)
                old = widened(old, axis, copies)
        return old


def widened(tensor: Tensor, axis: int, copies: Tensor) -> Tensor:
    """The tensor with some of its entries along an axis repeated behind all of them."""
    return torch.cat([tensor, tensor.index_select(axis, copies.to(tensor.device))], dim=axis)
