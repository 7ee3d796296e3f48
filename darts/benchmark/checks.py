"""Whether a GPU computes what the CPU computes in float64: rows of `python -m darts.benchmark gpu=correctness`."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from darts.benchmark.cases import as_originally, random_search_data, random_train_data
from darts.benchmark.measure import roofline, seconds
from darts.benchmark.settings import BenchmarkSettings
from darts.loop.optimisation import set_learning_rate
from darts.loop.settings import taken_over
from darts.methods.hypergradient import FiniteDifference, FirstOrder
from darts.models import layout
from darts.models.fused.folding import folded_once
from darts.models.settings import Engine
from darts.runtime.device import Graphed, autocast, map_type, set_precision
from darts.runtime.settings import Precision
from darts.search import loop as search
from darts.search.state import SearchState, new_state
from darts.spaces.published import published
from darts.tasks.batches import Preparation, SearchData
from darts.tasks.task import Batch
from darts.train import retraining as retrain
from darts.train.settings import FROM_SCRATCH, FinalSettings

Found = dict[str, Any]
Tensors = dict[str, Tensor]
CPU = torch.device("cpu")
ORDERS = {"first order": FirstOrder(), "second order": FiniteDifference(0.01)}
LIMITS = {Precision.fp32: 1e-3, Precision.tf32: 0.1, Precision.bf16: 0.5}  # of errors of gradients, relative
TIMES = 5  # as large as the CPU's own error in float32 an error may be: finite differences lose digits anywhere
STEPS = 20  # that are compared with as many replays
WARM_UP = 3  # steps before a recording


def correctness_rows(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Found]]:
    """By row name, what measures it. Sizes are small, for the CPU in float64."""
    small = dataclasses.replace(
        settings,
        network=dataclasses.replace(settings.network, channels=min(settings.network.channels, 16), cells=4),
        search=dataclasses.replace(settings.search, batch_size=min(settings.search.batch_size, 4)),
        retrained=dataclasses.replace(settings.retrained, channels=min(settings.retrained.channels, 8), cells=4),
        train=dataclasses.replace(settings.train, batch_size=min(settings.train.batch_size, 8)),
    )
    precisions = [p for p in Precision if device.type == "cuda" or p is Precision.fp32]
    rows: dict[str, Callable[[], Found]] = {"ceilings": partial(ceilings, device)}
    layout.choose_layout(device, map_type(settings.precision), folder)
    if device.type == "cuda":
        for name, precision in itertools.product(layout.CHOICES, (Precision.fp32, Precision.bf16)):
            own = _changed(small, "first order", Engine.fused, precision)
            rows[f"maps {name}, {precision.value}"] = partial(in_layout, own, device, folder, name)
    for order, engine, precision in itertools.product(ORDERS, Engine, precisions):
        own = _changed(small, order, engine, precision)
        rows[f"{order}, {engine.value}, {precision.value}"] = partial(step_errors, own, device, folder)
    for engine, precision in itertools.product(Engine, precisions):
        own = _changed(small, "first order", engine, precision)
        rows[f"evaluation, {engine.value}, {precision.value}"] = partial(evaluation_error, own, device, folder)
    for precision in precisions:
        own = dataclasses.replace(small, precision=precision)
        rows[f"retraining, {precision.value}"] = partial(retraining_errors, own, device, folder)
    for order, engine in itertools.product(ORDERS, Engine):
        own = _changed(small, order, engine, Precision.fp32)
        rows[f"resuming, {order}, {engine.value}"] = partial(resuming, own, device, folder)
        if device.type == "cuda":
            rows[f"no waiting, {order}, {engine.value}"] = partial(no_waiting, own, device, folder)
            rows[f"replays, {order}, {engine.value}"] = partial(replays, own, device, folder)
    if device.type == "cuda":
        own = _changed(small, "first order", Engine.fused, Precision.bf16)
        rows["replays, first order, fused, bf16"] = partial(replays, own, device, folder)
        rows["replays, retraining"] = partial(retraining_replays, small, device, folder)
    return rows


def _changed(settings: BenchmarkSettings, order: str, engine: Engine, precision: Precision) -> BenchmarkSettings:
    method = dataclasses.replace(settings.method, hypergradient=ORDERS[order])
    return dataclasses.replace(settings, method=method, engine=engine, precision=precision)


def ceilings(device: torch.device) -> Found:
    """What the machine can do: products, a copy, and how long a kernel that does nothing takes."""
    set_precision(Precision.fp32)
    exact = roofline(device, torch.float32)
    found: Found = {"GB/s": exact.gigabytes, "fp32 Tflop/s": exact.gflops / 1e3}
    if device.type == "cuda":
        set_precision(Precision.tf32)
        found["tf32 Tflop/s"] = roofline(device, torch.float32).gflops / 1e3
        found["bf16 Tflop/s"] = roofline(device, torch.bfloat16).gflops / 1e3
        set_precision(Precision.fp32)
    small, calls = torch.zeros(8, device=device), 2000

    def launches() -> None:
        for _ in range(calls):
            small.add_(1)

    launches()
    found["us a launch"] = 1e6 * min(seconds(launches, device) for _ in range(3)) / calls
    if device.type == "cuda":
        recorded = Graphed(lambda x: {"x": [x.add_(1) for _ in range(calls)][-1]}, True)
        for _ in range(WARM_UP + 1):
            recorded(small)
        found["us a launch in a graph"] = 1e6 * min(seconds(lambda: recorded(small), device) for _ in range(3)) / calls
    return found


class InFloat64(Preparation):
    """Images in float64."""

    def normalised(self, pixels: Tensor, labels: Tensor) -> Batch:
        batch = super().normalised(pixels, labels)
        return Batch(batch.inputs.double(), batch.targets)


def first_state(settings: BenchmarkSettings, device: torch.device, folder: Path, double: bool = False) -> SearchState:
    """A search of random images before its first step; in float64 by the library's own kernels."""
    set_precision(settings.precision)
    state = new_state(settings, random_search_data(settings, device), device, folder)
    if double:
        as_originally(state.supernet.double())
        for matrix in state.alpha.values():
            matrix.data = matrix.data.double()
        data = cast(SearchData, state.data)
        for part in (data.train, data.valid):
            part.preparation = InFloat64(**vars(part.preparation))
    return state


def raw_batches(state: SearchState, steps: int) -> list[list[Tensor]]:
    """What so many steps are given."""
    batches = itertools.islice(search.batches_of_steps(state, 0, 0, 10**9), steps)
    return [[tensor for raw in raws for tensor in raw] for raws in batches]


def take_steps(state: SearchState, batches: Sequence[Sequence[Tensor]]) -> Tensors:
    """Take steps at a learning rate that falls; what the last one measured and left."""
    action = search.step_action(state, search.moves_alpha(state, stage_progress=1 - 1e-9))
    now = torch.zeros(2, device=state.device)
    set_precision(state.settings.precision)
    rate = state.settings.weight_optimiser.learning_rate
    measured: Mapping[str, Any] = {}
    for number, tensors in enumerate(batches):
        set_learning_rate(state.weight_optimiser, rate * (1 - number / (2 * len(batches))))
        measured = action(now, *tensors)
    losses = [mean.total / mean.count for name, mean in measured.items() if name.endswith("loss")]
    return {"loss": torch.stack(losses), **left_by(state)}


def left_by(state: SearchState) -> Tensors:
    """Weights, their gradients and those of alpha, by the reference supernet's names."""
    weights = dict(state.supernet.named_parameters())
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    found = {f"weight {n}": w for n, w in state.supernet.to_reference(weights).items()}
    found |= {f"gradient {n}": w for n, w in state.supernet.to_reference(gradients).items()}
    found |= {f"alpha {name}": matrix for name, matrix in state.alpha.items()}
    found |= {f"slope {name}": matrix.grad for name, matrix in state.alpha.items() if matrix.grad is not None}
    return {name: tensor.detach().to("cpu", torch.float64) for name, tensor in found.items()}


def error(found: Mapping[str, Tensor], right: Mapping[str, Tensor], kind: str) -> float:
    """‖found - right‖ / ‖right‖ over all tensors of a kind; NaN is passed on."""
    names = {name for name in right if name.startswith(kind)}
    if names != {name for name in found if name.startswith(kind)}:
        raise ValueError(f"there are other tensors: {set(found) ^ set(right)}")
    distance = sum(float((found[name].cpu().double() - right[name].cpu().double()).square().sum()) for name in names)
    return float((distance / sum(float(right[name].double().square().sum()) for name in names)) ** 0.5)


def judged(errors: Found, limits: float | Found) -> Found:
    """The errors, and whether each is within its limit, or the limit of all."""
    each = limits if isinstance(limits, dict) else dict.fromkeys(errors, limits)
    return {**errors, "right": all(errors[name] <= each[name] for name in errors)}


_kept_results: dict[str, Any] = {}  # what the CPU computes in float64, by what it depends on


def _kept(name: str, compute: Callable[[], Tensors]) -> Tensors:
    if name not in _kept_results:
        _kept_results[name] = compute()
    found: Tensors = _kept_results[name]
    return found


KINDS = {"loss": "loss", "weights": "gradient", "alpha": "slope"}  # what is compared, and how its tensors begin


def step_errors(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """One step's loss and gradients against those of the reference engine on the CPU in float64."""
    plain = dataclasses.replace(settings, engine=Engine.reference, precision=Precision.fp32, graphs=False)

    def one_step(own: BenchmarkSettings, place: torch.device, double: bool) -> Tensors:
        state = first_state(own, place, folder, double)
        return take_steps(state, raw_batches(state, 1))

    right = _kept(f"step {settings.method}", lambda: one_step(plain, CPU, True))
    single = _kept(f"float32 step {settings.method}", lambda: one_step(plain, CPU, False))
    found, least = one_step(settings, device, False), LIMITS[settings.precision]
    kinds = {name: kind for name, kind in KINDS.items() if any(tensor.startswith(kind) for tensor in right)}
    limits = {name: max(least, TIMES * error(single, right, kind)) for name, kind in kinds.items()}
    return judged({name: error(found, right, kind) for name, kind in kinds.items()}, limits)


def in_layout(settings: BenchmarkSettings, device: torch.device, folder: Path, choice: str) -> Found:
    """The first-order step of the fused engine with maps that lie so."""
    with layout.used(choice):
        return step_errors(settings, device, folder)


def evaluation_error(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """The supernet's answer to a batch, batch norms folded once, against the CPU's in float64."""

    def answer(own: BenchmarkSettings, place: torch.device, double: bool) -> Tensors:
        state = first_state(own, place, folder, double)
        images = next(cast(SearchData, state.data).valid.in_order()).inputs
        mixture = state.deterministic_mixture()
        state.supernet.eval()
        with torch.no_grad(), autocast(place, own.precision), folded_once(state.supernet):
            return {"answer": state.supernet(images, mixture)}

    plain = dataclasses.replace(settings, engine=Engine.reference, precision=Precision.fp32)
    right = _kept("evaluation", lambda: answer(plain, CPU, True))
    return judged({"answer": error(answer(settings, device, False), right, "answer")}, LIMITS[settings.precision])


def first_retraining(settings: BenchmarkSettings, device: torch.device, folder: Path, graphs: bool = False) -> Any:
    """A retraining on random images, in an epoch that drops paths."""
    own = taken_over(FinalSettings, settings, network=settings.retrained, **FROM_SCRATCH)
    own.graphs = graphs
    set_precision(settings.precision)
    state = retrain.new_state(own, published(settings.genotype), random_train_data(settings, device), folder)
    state.epoch = 1  # in the first one no path is dropped
    return state


def _retrained(state: Any, steps: int) -> Tensors:
    raws = state.data.train.shuffled_raw(0, 0, 10**9)
    measured: Mapping[str, Any] = {}
    for _ in range(steps):
        raw = next(raws)
        measured = state.train_step(*raw, *retrain.drop_path(state, len(raw.labels)))
    mean = measured["train/loss"]
    found = {"loss": mean.total / mean.count}
    for name, weight in state.network.named_parameters():
        found |= {f"weight {name}": weight.detach().cpu(), f"gradient {name}": weight.grad.cpu()}
    return found


def retraining_errors(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """One step of retraining against the CPU in float64."""
    plain = dataclasses.replace(settings, precision=Precision.fp32)

    def in_float64() -> Tensors:
        state = first_retraining(plain, CPU, folder)
        as_originally(state.network.double())
        kept = state.data
        preparation = InFloat64(**vars(kept.preparation))
        kept.train.preparation = preparation
        state.data = dataclasses.replace(kept, preparation=preparation)
        return _retrained(state, 1)

    right = _kept("retraining", in_float64)
    single = _kept("float32 retraining", lambda: _retrained(first_retraining(plain, CPU, folder), 1))
    found, least = _retrained(first_retraining(settings, device, folder), 1), LIMITS[settings.precision]
    kinds = {"loss": "loss", "weights": "gradient"}
    limits = {name: max(least, TIMES * error(single, right, kind)) for name, kind in kinds.items()}
    return judged({name: error(found, right, kind) for name, kind in kinds.items()}, limits)


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """What a logger warns of within the block."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger(name).removeHandler(handler)


def no_waiting(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """A step within which the host may not wait for the GPU: PyTorch raises where it does."""
    state = first_state(dataclasses.replace(settings, graphs=True), device, folder)
    state.settings = settings  # not recorded, by the optimisers of a recorded step
    batches = raw_batches(state, 3)
    take_steps(state, batches[:2])
    action, now = search.step_action(state, True), torch.zeros(2, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        action(now, *batches[2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"right": True}


def replays(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """Steps replayed from a graph against the same steps unrecorded, and the latter against themselves."""

    def run(graphs: bool) -> Tensors:
        state = first_state(dataclasses.replace(settings, graphs=True), device, folder)
        state.settings = dataclasses.replace(settings, graphs=graphs)  # the optimisers are those of graphs in both
        return take_steps(state, raw_batches(state, WARM_UP + STEPS))

    return _compared(run)


def retraining_replays(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """The same of retraining."""

    def run(graphs: bool) -> Tensors:
        state = first_retraining(settings, device, folder, graphs=True)
        if not graphs:
            state.train_step.calls_to_go = -1
        return _retrained(state, WARM_UP + STEPS)

    return _compared(run)


def _compared(run: Callable[[bool], Tensors]) -> Found:
    with warnings_of("darts.runtime.device") as told:
        unrecorded, again, recorded = run(False), run(False), run(True)
    noise, difference = error(again, unrecorded, "weight"), error(recorded, unrecorded, "weight")
    right = not told and difference <= max(2 * noise, 1e-6)
    return {"weights": difference, "unrecorded again": noise, "right": right, **({"told": told[0]} if told else {})}


def resuming(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """The step after a checkpoint, of the run itself and of runs that take it up elsewhere: the weights' difference."""
    graphs = device.type == "cuda"
    first = first_state(dataclasses.replace(settings, graphs=graphs), device, folder)
    batches = raw_batches(first, WARM_UP + 2)
    take_steps(first, batches[:-1])
    saved = copy.deepcopy(first.state_dict())
    right = take_steps(first, batches[-1:])
    other = next(engine for engine in Engine if engine is not settings.engine)
    places = {
        "without graphs": (dataclasses.replace(settings, graphs=False), device),
        "other engine": (dataclasses.replace(settings, graphs=False, engine=other), device),
        "on the CPU": (dataclasses.replace(settings, graphs=False), CPU),
    }
    errors = {}
    for name, (own, place) in places.items():
        state = first_state(own, place, folder)
        state.load_state_dict(copy.deepcopy(saved))
        found = take_steps(state, [[tensor.to(place) for tensor in batches[-1]]])
        errors[name] = error(found, right, "weight")
    if graphs:  # and back: what was begun without graphs goes on with them
        state = first_state(dataclasses.replace(settings, graphs=True), device, folder)
        state.load_state_dict(copy.deepcopy(saved))
        errors["with graphs"] = error(take_steps(state, batches[-1:]), right, "weight")
    return judged(errors, 1e-4)
