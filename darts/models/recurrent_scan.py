"""The time loop of a recurrent supernet as one function with a gradient of its own.

The same numbers as `RecurrentSupernet` computes, with fewer operators and without autograd's: per node two products
for all of its predecessors, activations written where the gradient reads them, batch norm over the rows, and running
statistics moved once for all time steps. Sizes are T, B, n as in recurrent.py, and E edges; a node has k predecessors.

With p_jf the mixture weights of edge j, P_j their sum over f, c_j its gate and h_j its value, a node is

    sum_j P_j s_j + c_j d_j        d_j = sum_f p_jf f(h_j) - P_j s_j

and given g, the gradient in it, with u_j = c_j g:

    dp_jf = <u_j, f(h_j)> + dP_j       dP_j = <g, s_j> - <u_j, s_j>     dc_j = g d_j
    dh_j  = u_j sum_f p_jf f'(h_j)     ds_j = g P_j (1 - c_j), and what comes back through the products

All that does not depend on g is computed for all edges of a time step at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.models.fused.maps import refuse_second_derivatives

aten = torch.ops.aten
FUNCTIONS = ("tanh", "sigmoid", "relu", "identity")  # in the order of the mixture's columns


class Norm(NamedTuple):
    """How states are normalised: by their own statistics over the rows, or by running ones."""

    own: bool
    mean: Tensor | None  # (n,), the running one
    variance: Tensor | None
    eps: float


class Loop(NamedTuple):
    """What a time loop computes with besides tensors that are differentiated."""

    norm: Norm
    mask: Tensor | None  # (B, n), times every state that is read
    differentiated: bool  # whether a gradient will be asked for: then all time steps are kept


class Seen(NamedTuple):
    """What states were normalised by: means and (biased) variances (T, states, n)."""

    means: Tensor
    variances: Tensor


def scan(
    loop: Loop, from_input: Tensor, hidden: Tensor, of_state: Tensor, mixture: Tensor, nodes: list[Tensor]
) -> tuple[Tensor, Seen]:
    """The cell's outputs (T, B, n) at all time steps.

    `from_input`: (T, B, 2n), the input's part of the first product; `hidden`: (B, n); `of_state`: (n, 2n); `mixture`:
    (edges, 4), the weights of `FUNCTIONS`; `nodes`: a matrix (n, 2n) each.
    """
    outputs, means, variances = _Scan.apply(loop, from_input, hidden, of_state, mixture, *nodes)
    return outputs, Seen(means, variances)


class _Step(NamedTuple):
    """A time step's part of what the gradient needs; of what belongs to edges a part for each node, (k, B, n)."""

    states: Tensor  # (nodes + 1, B, n), normalised
    each: tuple[Tensor, ...]  # the same, (B, n) each
    known: list[Tensor]  # by node the states that it reads
    read: tuple[Tensor, ...]  # each state times the mask
    rows: list[Tensor]  # by node the same, (k B, n)
    deviations: tuple[Tensor, ...]  # (n,) each, 1 / standard deviation
    gates: tuple[Tensor, ...]
    tanh: tuple[Tensor, ...]
    sigmoid: tuple[Tensor, ...]
    value: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]  # d_j
    whole: tuple[Tensor, Tensor, Tensor]  # gates, values (3: tanh, sigmoid, value) and rest of all edges


class _Kept(NamedTuple):
    """What the gradient needs of all time steps."""

    steps: list[_Step]
    first: Tensor  # (T, 3, B, n): the state before, its gate and value
    before: Tensor  # (T, B, n), the state before times the mask


def _buffers(steps: int, nodes: int, like: Tensor, masked: bool) -> _Kept:
    """Memory for all time steps; `like`: (B, n). Views are made here, once: they cost as much as small operators."""
    (rows, units), new = like.shape, like.new_empty
    counts = list(range(1, nodes + 1))
    edges = sum(counts)
    states = new(steps, nodes + 1, rows, units)
    read = torch.empty_like(states) if masked else states
    gates, rest = new(steps, edges, rows, units), new(steps, edges, rows, units)
    values, deviations = new(steps, 3, edges, rows, units), new(steps, nodes + 1, units)
    found = []
    for step in range(steps):
        own, tanh = states[step], values[step]
        found.append(
            _Step(
                states=own,
                each=own.unbind(),
                known=[own[:count] for count in counts],
                read=read[step].unbind(),
                rows=[read[step, :count].view(-1, units) for count in counts],
                deviations=deviations[step].unbind(),
                gates=gates[step].split(counts),
                tanh=tanh[0].split(counts),
                sigmoid=tanh[1].split(counts),
                value=tanh[2].split(counts),
                rest=rest[step].split(counts),
                whole=(gates[step], values[step], rest[step]),
            )
        )
    return _Kept(found, new(steps, 3, rows, units), new(steps, rows, units))


def contiguous(parts: Sequence[Tensor]) -> list[Tensor]:
    """Each in memory of its own."""
    return [part.contiguous() for part in parts]


def columns_of(mixture: Tensor) -> list[Tensor]:
    """The weights (edges, 1, 1) of each function."""
    return [column[:, None, None] for column in mixture.unbind(1)]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loop: Loop, from_input: Tensor, hidden: Tensor, of_state: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixture, *nodes = weights
        run = _Run(loop, mixture, nodes, len(from_input), hidden)
        outputs = run.outputs(from_input, hidden, of_state)
        ctx.run = run
        ctx.save_for_backward(of_state, *weights)
        ctx.mark_non_differentiable(run.seen.means, run.seen.variances)
        return outputs, *run.seen

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor, _: Tensor, __: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        of_state, *_weights = ctx.saved_tensors  # all are saved, so that a change in place is noticed
        back = _Back(ctx.run, ctx.needs_input_grad[4:])
        into_input, hidden = back.through_steps(grad_outputs, of_state)
        into_state = None
        if ctx.needs_input_grad[3]:
            into_state = ctx.run.kept.before.flatten(0, 1).t() @ into_input.flatten(0, 1)
        weights = [None if pair is None else torch.cat(pair, dim=1) for pair in back.weights]
        return None, into_input, hidden, into_state, back.of_mixture(), *weights


class _Run:
    """A time loop forward, with what its gradient needs."""

    def __init__(self, loop: Loop, mixture: Tensor, nodes: list[Tensor], steps: int, like: Tensor) -> None:
        counts, count = list(range(1, len(nodes) + 1)), len(nodes)
        self.loop, self.mixture, self.total = loop, mixture, mixture.sum(1)
        self.halves = [contiguous(weight.chunk(2, dim=1)) for weight in nodes]
        self.slots = steps if loop.differentiated else 1
        self.kept = _buffers(self.slots, count, like, loop.mask is not None)
        self.columns = [columns_of(rows) for rows in mixture.split(counts)]
        self.sums = self.total.split(counts)
        self.seen = Seen(*like.new_zeros(2, steps, count + 1, like.shape[1]))
        scratch = like.new_empty(2, count, *like.shape)
        self.scratch = [scratch[:, :count].unbind() for count in counts]

    def outputs(self, from_input: Tensor, hidden: Tensor, of_state: Tensor) -> Tensor:
        """The cell's outputs (T, B, n)."""
        kept, mask = self.kept, self.loop.mask
        found = hidden.new_empty(len(from_input), *hidden.shape)
        for number in range(len(from_input)):
            at = number % self.slots
            step, before, (old, gate, value) = kept.steps[at], kept.before[at], kept.first[at]
            old.copy_(hidden)
            before.copy_(hidden) if mask is None else torch.mul(hidden, mask, out=before)
            products = torch.addmm(from_input[number], before, of_state).chunk(2, dim=1)
            torch.sigmoid(products[0], out=gate)
            torch.tanh(products[1], out=value)
            means, variances = self.seen.means[number].unbind(), self.seen.variances[number].unbind()
            self._normalise(step, 0, torch.lerp(hidden, value, gate), (means[0], variances[0]))
            for node in range(len(self.halves)):
                self._normalise(step, node + 1, self._node(step, node), (means[node + 1], variances[node + 1]))
            hidden = torch.mean(step.states[1:], dim=0, out=found[number])
        return found

    def _node(self, step: _Step, node: int) -> Tensor:
        """A node (B, n) before it is normalised."""
        gates, tanh, sigmoid, value = step.gates[node], step.tanh[node], step.sigmoid[node], step.value[node]
        rest, (positive, gated), total = step.rest[node], self.scratch[node], self.sums[node]
        units = gates.shape[-1]
        torch.mm(step.rows[node], self.halves[node][0], out=gates.view(-1, units))
        torch.mm(step.rows[node], self.halves[node][1], out=value.view(-1, units))
        gates.sigmoid_()
        torch.tanh(value, out=tanh)
        torch.sigmoid(value, out=sigmoid)
        torch.clamp(value, min=0, out=positive)
        of_tanh, of_sigmoid, of_relu, of_value = self.columns[node]
        torch.mul(tanh, of_tanh, out=rest)
        rest.addcmul_(sigmoid, of_sigmoid).addcmul_(positive, of_relu).addcmul_(value, of_value)
        rest.addcmul_(step.known[node], total[:, None, None], value=-1)
        found = torch.mul(gates, rest, out=gated).sum(0)
        found.view(-1).addmv_(step.known[node].view(node + 1, -1).t(), total)
        return found

    def _normalise(self, step: _Step, node: int, state: Tensor, seen: tuple[Tensor, Tensor]) -> None:
        """Write a state normalised, and times the mask, to where the next nodes read it."""
        norm, own = self.loop.norm, step.each[node]
        if norm.own:
            mean, variance = seen
            torch.mean(state, 0, out=mean)
            torch.sub(state, mean, out=own)
            torch.mean(own.square(), 0, out=variance)
        elif norm.mean is None or norm.variance is None:
            raise TypeError("running statistics are missing")
        else:
            variance = norm.variance
            torch.sub(state, norm.mean, out=own)
        own.mul_(torch.rsqrt(variance + norm.eps, out=step.deviations[node]))
        if self.loop.mask is not None:
            torch.mul(own, self.loop.mask, out=step.read[node])


class _Back:
    """The gradient of a time loop, time step by time step from the last one on."""

    def __init__(self, run: _Run, wanted: tuple[bool, ...]) -> None:
        """`wanted`: for the mixture and for each node, whether the gradient in its weights is."""
        self.kept, self.loop, self.halves, self.total = run.kept, run.loop, run.halves, run.total
        self.mixture_wanted = wanted[0]
        self.weights: list[list[Tensor] | None] = []
        for pair, needed in zip(run.halves, wanted[1:], strict=True):
            zeros = list(map(torch.zeros_like, pair)) if needed else None
            self.weights.append(zeros)
        states, edges = run.kept.steps[0].states, len(run.mixture)
        nodes = len(states) - 1
        counts = list(range(1, nodes + 1))
        new = states.new_empty
        self.states = torch.empty_like(states)  # gradients in the states of a step
        self.each = self.states.unbind()
        self.known = [self.states[:count] for count in counts]
        self.given = new(nodes, *states.shape[1:])  # in the nodes before their norms
        self.of_nodes = self.given.unbind()
        whole = new(7, edges, *states.shape[1:])
        self.whole = whole.unbind()
        self.parts = [part.split(counts) for part in self.whole]
        self.products = new(3, edges, *states.shape[1:])
        ends = [(source, target) for target, count in enumerate(counts) for source in range(count)]
        self.sources, self.targets = torch.tensor(ends, device=states.device).unbind(1)  # by edge
        self.columns = columns_of(run.mixture)
        self.of_functions = torch.zeros_like(run.mixture)  # <u_j, f(h_j)>
        self.of_gated_states = torch.zeros_like(run.total)  # <u_j, s_j>
        self.of_states = new(nodes, nodes + 1).zero_()  # <g, s_j>

    def through_steps(self, outputs: Tensor, of_state: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients in the input's part of the first products (T, B, 2n) and in the state at the begin (B, n)."""
        steps, rows, units = self.kept.before.shape
        into_input = outputs.new_empty(steps, rows, 2 * units)
        hidden = torch.zeros_like(outputs[0])
        for number in reversed(range(steps)):
            into_first = self._through_nodes(self.kept.steps[number], outputs[number] + hidden)
            old, gate, value = self.kept.first[number]
            passed = into_first * gate
            gates, values = into_input[number].chunk(2, dim=1)
            aten.sigmoid_backward(into_first * (value - old), gate, grad_input=gates)
            aten.tanh_backward(passed, value, grad_input=values)
            through = into_input[number] @ of_state.t()
            hidden = into_first - passed + (through if self.loop.mask is None else through * self.loop.mask)
        return into_input, hidden

    def _through_nodes(self, step: _Step, output: Tensor) -> Tensor:
        """The gradient in the first state before its norm, given that in the cell's output, both (B, n)."""
        nodes = len(self.halves)
        self._prepare(step)
        self.each[0].zero_()
        self.states[1:] = output / nodes
        for node in reversed(range(nodes)):
            self._normalised(step, node + 1, self.of_nodes[node])
            self._through(step, node)
        if self.mixture_wanted:
            self._add_products(step)
        return self._normalised(step, 0, torch.empty_like(output))

    def _prepare(self, step: _Step) -> None:
        """What a node's gradient is multiplied with, for all edges: in values, in gates, in the states directly."""
        gates, (tanh, sigmoid, value), rest = step.whole
        of_values, of_gates, of_known, other, *_ = self.whole
        of_tanh, of_sigmoid, of_relu, of_value = self.columns
        torch.mul(tanh, tanh, out=of_values).mul_(-of_tanh).add_(of_tanh + of_value)
        torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1, out=other)
        of_values.addcmul_(other, of_sigmoid).addcmul_(torch.gt(value, 0, out=other), of_relu).mul_(gates)
        aten.sigmoid_backward(rest, gates, grad_input=of_gates)  # dc, before the sigmoid
        torch.mul(gates, -self.total[:, None, None], out=of_known).add_(self.total[:, None, None])

    def _normalised(self, step: _Step, state: int, out: Tensor) -> Tensor:
        """The gradient in a state before its norm."""
        given, deviation = self.each[state], step.deviations[state]
        if not self.loop.norm.own:
            return torch.mul(given, deviation, out=out)
        own = step.each[state]
        along = (given * own).mean(0)
        return torch.sub(given, given.mean(0), out=out).addcmul_(own, along, value=-1).mul_(deviation)

    def _through(self, step: _Step, node: int) -> None:
        """Add the gradients of a node's predecessors and weights."""
        given, into = self.of_nodes[node], self.known[node]
        of_values, of_gates, of_known, back, into_values, into_gates, _ = (part[node] for part in self.parts)
        units = given.shape[-1]
        into.addcmul_(of_known, given)
        gates = torch.mul(of_gates, given, out=into_gates).view(-1, units)
        values = torch.mul(of_values, given, out=into_values).view(-1, units)
        through = torch.mm(gates, self.halves[node][0].t(), out=back.view(-1, units))
        through.addmm_(values, self.halves[node][1].t())
        into.add_(back) if self.loop.mask is None else into.addcmul_(back, self.loop.mask)
        weights = self.weights[node]
        if weights is not None:
            weights[0].addmm_(step.rows[node].t(), gates)
            weights[1].addmm_(step.rows[node].t(), values)

    def _add_products(self, step: _Step) -> None:
        """Add a time step's part of the mixture's gradient."""
        gates, values, _ = step.whole
        *_, other, moved = self.whole
        torch.index_select(self.given, 0, self.targets, out=moved).mul_(gates)  # u
        each = torch.mul(values, moved, out=self.products).sum((2, 3))  # tanh, sigmoid, value
        self.of_functions[:, :2] += each[:2].t()
        self.of_functions[:, 3] += each[2]
        self.of_functions[:, 2] += torch.clamp(values[2], min=0, out=other).mul_(moved).sum((1, 2))
        self.of_gated_states += torch.index_select(step.states, 0, self.sources, out=other).mul_(moved).sum((1, 2))
        self.of_states.addmm_(self.given.flatten(1), step.states.flatten(1).t())

    def of_mixture(self) -> Tensor | None:
        """The gradient in the mixture (E, 4)."""
        if not self.mixture_wanted:
            return None
        in_totals = self.of_states[self.targets, self.sources] - self.of_gated_states
        return self.of_functions + in_totals[:, None]
