"""Operations of a found network in training, on a CPU, as one function: a whole cell is one call of C each way.

A computation is given maps and has nodes. A node is the sum of its steps, and a step an operation of a given map or of
an earlier node, whose output may be multiplied by a factor for each image (drop-path). The result is some of the nodes,
side by side in the channels, and each of them is written where it lies there. In the backward pass the gradients that
reach a map add up while they are written. Forward and backward are one program each (compiled/program.py), so that
nothing between two maps of a cell is done by Python or by autograd. Hooks of the layers are not called.

On a GPU the modules compute: there these operators would be 500 launches more for the published network, and a
twentieth fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from darts.models.compiled import operators, program
from darts.models.fused.libraries import computed_in_c, laid_out
from darts.models.fused.maps import refuse_second_derivatives
from darts.models.kernels.rows import new_map, rows

WEIGHTS, RUNNING, KEPT = range(3)  # places in the counts of an operation

Shape = tuple[int, int, int]  # of an image of a map: channels, height, width
Gradients = tuple[Tensor | None, Sequence[Tensor]]  # of an operation's input, if it is wanted, and of its weights


class Target(NamedTuple):
    """The map that an operation writes, by what it multiplies each image of its output, and what it adds to that."""

    into: Tensor
    factors: Tensor | None = None  # (batch,)
    added: Tensor | None = None


class Operation(Protocol):
    """What a step does, by operators that a program may have. Those that do the same are equal, and have one hash."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many weights and running statistics it is given, and how many tensors it keeps for its gradient."""

    def shape(self, image: Shape, weights: Sequence[Tensor], running: Sequence[Tensor]) -> Shape | None:
        """Of its output; None where it cannot be computed of such maps and tensors."""

    def forward(
        self, target: Target, image: Tensor, weights: Sequence[Tensor], running: Sequence[Tensor]
    ) -> list[Tensor]:
        """Writes the target; returns what its gradient needs, all made here."""

    def backward(
        self, gradient: Tensor, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor], wanted: Wanted
    ) -> Gradients:
        """From its output's gradient, and what the forward pass was given and has kept."""


class Wanted(NamedTuple):
    """Whether the gradient of an operation's input is wanted, and what is added to it."""

    image: bool
    added: Tensor | None


class Layers(Protocol):
    """An operation with the tensors that it has now."""

    @property
    def operation(self) -> Operation | None:
        """None where the modules are to compute."""

    @property
    def weights(self) -> Sequence[Tensor]:
        """Those that are trained."""

    @property
    def running(self) -> Sequence[Tensor]:
        """Statistics that the forward pass moves."""


class Step(NamedTuple):
    """Layers, what their input is (the number of a given map, or of a node, which come after), and of which node."""

    layers: Layers
    source: int
    node: int
    path: int | None = None  # the row of factors that its output is multiplied by


class Computation:
    """Steps, those of a node one after the other; `result`: the nodes side by side; `maps`: how many are given."""

    def __init__(self, maps: int, steps: Sequence[Step], result: Sequence[int]) -> None:
        self.maps, self.steps, self.result = maps, steps, tuple(result)

    def __call__(self, maps: Sequence[Tensor], factors: Tensor | None = None) -> Tensor | None:
        """The result, with batch norms by the batch's statistics, which move the running ones.

        `factors`: a row for each path of the steps, (paths, batch). None where the modules are to compute.
        """
        if not all(map(computed_in_c, maps)):
            return None
        if factors is not None:
            if factors.requires_grad or factors.shape[1:] != maps[0].shape[:1]:
                return None
            factors = factors.to(torch.float32).contiguous()
        steps = tuple([(step.layers.operation, *step[1:]) for step in self.steps])
        if any(operation is None for operation, *_ in steps):
            return None
        weights = [weight for step in self.steps for weight in step.layers.weights]
        running = [buffer for step in self.steps for buffer in step.layers.running]
        result: Tensor | None = _Computed.apply(_Plan(len(maps), steps, self.result), running, factors, *maps, *weights)
        return result

    @property
    def is_whole(self) -> bool:
        """Whether every map and node reaches the result: there is no gradient of others."""
        reached = set(self.result)
        for step in reversed(self.steps):
            if step.node in reached:
                reached.add(step.source)
        return reached >= {step.node for step in self.steps} | set(range(self.maps))


class _Plan(NamedTuple):
    """What a computation does, without its tensors."""

    maps: int
    steps: tuple[Any, ...]  # operation, source, node, path
    result: tuple[int, ...]

    @property
    def inner(self) -> list[int]:
        """The nodes that are no part of the result."""
        nodes = dict.fromkeys(node for _, _, node, _ in self.steps)
        return [node for node in nodes if node not in self.result]


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, running: Sequence[Tensor], factors: Tensor | None, *tensors: Tensor
    ) -> Tensor | None:
        maps = [rows(image).map for image in tensors[: plan.maps]]
        weights = tensors[plan.maps :]
        made = program.run(_forward, plan, factors, *maps, *weights, *running)
        if made is None:
            return None
        ctx.plan = plan
        ctx.save_for_backward(factors, *maps, *weights, *made)
        return made[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        wanted = ctx.needs_input_grad[3 : 3 + ctx.plan.maps]
        saved = laid_out(ctx.saved_tensors, len(grad_output))
        found = iter(program.required(_backward, (ctx.plan, wanted), rows(grad_output).map, *saved))
        return None, None, None, *[next(found) if one else None for one in wanted], *found


def _forward(plan: _Plan, factors: Tensor | None, *tensors: Tensor) -> list[Tensor] | None:
    """The result, nodes that are no part of it, and what each step has kept; None where a step cannot be computed."""
    maps, others = tensors[: plan.maps], iter(tensors[plan.maps :])
    weights, running = (_of_steps(plan, others, kind) for kind in (WEIGHTS, RUNNING))
    shapes = _shapes(plan, maps, weights, running)
    if shapes is None:
        return None
    result, inner = _new_nodes(plan, maps[0], shapes)
    values = _values(plan, maps, result, inner)
    kept: list[Tensor] = []
    sums: dict[int, Tensor] = {}
    for at, (operation, source, node, path) in enumerate(plan.steps):
        is_last = all(other != node for _, _, other, _ in plan.steps[at + 1 :])
        into = values[node] if is_last else new_map(values[node], values[node].shape[1])
        target = Target(into, _row(factors, path), sums.get(node))
        kept += operation.forward(target, values[source], weights[at], running[at])
        sums[node] = into
    return [result, *inner, *kept]


def _backward(
    plan_and_wanted: tuple[_Plan, Sequence[bool]], gradient: Tensor, factors: Tensor | None, *tensors: Tensor
) -> list[Tensor]:
    """Gradients of the maps of which they are wanted, a flag for each, and of all weights."""
    plan, wanted = plan_and_wanted
    maps, others = tensors[: plan.maps], iter(tensors[plan.maps :])
    weights, result = _of_steps(plan, others, WEIGHTS), next(others)
    values = _values(plan, maps, result, [next(others) for _ in plan.inner])
    kept = _of_steps(plan, others, KEPT)
    gradients = dict(zip(plan.result, gradient.chunk(len(plan.result), dim=1), strict=True))
    of_weights: list[Tensor] = []
    for at, (operation, source, node, path) in reversed(list(enumerate(plan.steps))):
        own, factor = gradients[node], _row(factors, path)
        if factor is not None:
            own = operators.scaled_sum(own, factor)
        asked = Wanted(source >= plan.maps or wanted[source], gradients.get(source))
        of_image, found = operation.backward(own, values[source], weights[at], kept[at], asked)
        of_weights = [*found, *of_weights]
        if of_image is not None:
            gradients[source] = of_image
    return [*[gradients[number] for number, one in enumerate(wanted) if one], *of_weights]


def _row(factors: Tensor | None, path: int | None) -> Tensor | None:
    return None if factors is None or path is None else factors[path]


def _of_steps(plan: _Plan, tensors: Iterator[Tensor], kind: int) -> list[list[Tensor]]:
    """By step, the next of the tensors; `kind`: WEIGHTS, RUNNING or KEPT."""
    return [list(islice(tensors, operation.counts[kind])) for operation, *_ in plan.steps]


def _shapes(
    plan: _Plan, maps: Sequence[Tensor], weights: Sequence[Sequence[Tensor]], running: Sequence[Sequence[Tensor]]
) -> dict[int, Shape] | None:
    """Of images of all maps and nodes; None where a step cannot be computed, or two do not give the same."""
    shapes: dict[int, Shape] = {number: (*image.shape[1:],) for number, image in enumerate(maps)}
    for at, (operation, source, node, _) in enumerate(plan.steps):
        shape = operation.shape(shapes[source], weights[at], running[at])
        if shape is None or shapes.setdefault(node, shape) != shape:
            return None
    fits = len({len(image) for image in maps}) == 1 == len({shapes[node] for node in plan.result})
    return shapes if fits else None


def _new_nodes(plan: _Plan, like: Tensor, shapes: Mapping[int, Shape]) -> tuple[Tensor, list[Tensor]]:
    """The result, and the nodes that are no part of it."""
    channels, *sides = shapes[plan.result[0]]
    inner = [new_map(like, shapes[node][0], shapes[node][1:]) for node in plan.inner]
    return new_map(like, len(plan.result) * channels, (sides[0], sides[1])), inner


def _values(plan: _Plan, maps: Sequence[Tensor], result: Tensor, inner: Sequence[Tensor]) -> dict[int, Tensor]:
    """Maps and nodes by their numbers."""
    parts = zip(plan.result, result.chunk(len(plan.result), dim=1), strict=True)
    return {**dict(enumerate(maps)), **dict(zip(plan.inner, inner, strict=True)), **dict(parts)}
