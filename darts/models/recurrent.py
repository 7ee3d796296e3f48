"""Language models whose recurrent cell is searched: supernet and retrained network (Liu et al. 2019, section 3.1.2).

Every node of the cell has one predecessor s_j and is s_j + c * (f(h) - s_j), with (sigmoid^-1(c), h) a linear map of
s_j that all predecessors of the node share. The activation f and the predecessor are what is searched. Sizes are
written T (time steps of a piece), B (columns of text side by side), n (units) and V (words of the vocabulary).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.models.activations import activation
from darts.models.batch_norm import move_statistics_by_all
from darts.models.mixture import Mixture, MixtureWeights
from darts.models.recurrent_scan import FUNCTIONS, Loop, Norm, scan
from darts.models.supernet import SupernetBase
from darts.runtime import distributed
from darts.spaces.genotype import Cell, Genotype
from darts.spaces.search_space import RECURRENT, SearchSpace
from darts.tasks.language import TextInput, TextOutput
from darts.tasks.settings import LanguageSettings

INITIAL = 0.04  # every weight is drawn from the uniform distribution between minus this and this, as published


class Dropouts(NamedTuple):
    """Probabilities with which values are dropped in training; each mask holds for all time steps of a piece."""

    embedding: float = 0.0  # whole words of the vocabulary (Gal and Ghahramani 2016, section 4.2)
    inputs: float = 0.0  # values of the embedded words
    cell_input: float = 0.0  # values of the same as the cell reads them
    hidden: float = 0.0  # values of the states, wherever the cell reads one
    output: float = 0.0  # values of the cell's output, before the decoder


NO_DROPOUT = Dropouts()


def dropouts_of(language: LanguageSettings) -> Dropouts:
    """The probabilities that settings name."""
    return Dropouts(
        language.dropout_embedding,
        language.dropout_inputs,
        language.dropout_cell_input,
        language.dropout_hidden,
        language.dropout_output,
    )


class Masks(NamedTuple):
    """What is multiplied with, 0 or 1 / (1 - probability); None where nothing is dropped."""

    embedding: Tensor | None = None  # (V, 1)
    inputs: Tensor | None = None  # (1, B, n)
    cell_input: Tensor | None = None  # (1, B, n)
    hidden: Tensor | None = None  # (B, n)
    output: Tensor | None = None  # (1, B, n)


class RecurrentWeights(nn.Module):
    """The weights of a cell, the same for the supernet's and for a found one."""

    def __init__(self, units: int, nodes: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(2 * units, 2 * units).uniform_(-INITIAL, INITIAL))  # of (input, state)
        each = [torch.empty(units, 2 * units).uniform_(-INITIAL, INITIAL) for _ in range(nodes)]
        self.nodes = nn.ParameterList(nn.Parameter(weight) for weight in each)


class LanguageModel(SupernetBase):
    """Embedding, one recurrent cell, and a decoder that shares the embedding's weights.

    A subclass says in `step` how the cell goes from one state to the next.
    """

    def __init__(self, vocabulary: int, units: int, nodes: int, dropouts: Dropouts = NO_DROPOUT) -> None:
        super().__init__()
        self.dropouts = dropouts
        self.draws = any(dropouts)
        self.embedding = nn.Parameter(torch.empty(vocabulary, units).uniform_(-INITIAL, INITIAL))
        self.cell = RecurrentWeights(units, nodes)
        self.decoder_bias = nn.Parameter(torch.zeros(vocabulary))

    def step(self, state: Tensor, mask: Tensor | None, weights: MixtureWeights | None) -> Tensor:
        """Return the cell's output (B, n) from its first state (B, n); `mask` multiplies every state that is read."""
        raise NotImplementedError

    def forward(self, text: TextInput, mixture: Mixture | None = None) -> TextOutput:
        """Return the logits of each next word; `mixture` is for a supernet only."""
        words, hidden = text
        masks = self._masks(words.shape[1]) if self.training else Masks()
        if hidden is None:
            hidden = self.embedding.new_zeros(words.shape[1], self.embedding.shape[1])
        embedded = F.embedding(words, times(self.embedding, masks.embedding))
        read = times(times(embedded, masks.inputs), masks.cell_input)
        weights = None if mixture is None else mixture[RECURRENT]
        activations = self._unrolled(read, hidden, masks.hidden, weights)
        dropped = times(activations, masks.output)
        logits = F.linear(dropped, self.embedding, self.decoder_bias)
        return TextOutput(logits, activations[-1], activations, dropped)

    def _unrolled(self, read: Tensor, hidden: Tensor, mask: Tensor | None, weights: MixtureWeights | None) -> Tensor:
        """The cell's outputs (T, B, n) at all time steps."""
        of_input, of_state = self.cell.first.chunk(2)
        outputs = []
        for from_input in read @ of_input:  # the product of all time steps at once
            gate, value = (from_input + times(hidden, mask) @ of_state).chunk(2, dim=-1)
            first = hidden + gate.sigmoid() * (value.tanh() - hidden)
            hidden = self.step(first, mask, weights)
            outputs.append(hidden)
        return torch.stack(outputs)

    def _masks(self, columns: int) -> Masks:
        """Draw the masks of a piece; those of the whole batch, of which a process takes its columns."""
        words, units = self.embedding.shape
        rates = self.dropouts
        whole = int(distributed.all_reduce_numbers([columns])[0])
        own = distributed.shard(torch.arange(whole)).to(self.embedding.device)
        row = self._mask(rates.embedding, words, 1)
        inputs, cell_input, hidden, output = (
            self._mask(rate, whole, units) for rate in (rates.inputs, rates.cell_input, rates.hidden, rates.output)
        )
        of_columns = (None if mask is None else mask[own] for mask in (inputs, cell_input, hidden, output))
        return Masks(row, *of_columns)

    def _mask(self, rate: float, rows: int, width: int) -> Tensor | None:
        if rate == 0:
            return None
        kept = torch.empty(rows, width, dtype=self.embedding.dtype, device=self.embedding.device)
        return kept.bernoulli_(1 - rate) / (1 - rate)


class RecurrentNetwork(LanguageModel):
    """The language model of a found cell, for retraining."""

    def __init__(self, genotype: Genotype, vocabulary: int, units: int, dropouts: Dropouts = NO_DROPOUT) -> None:
        found: Cell = genotype.cells[RECURRENT]
        super().__init__(vocabulary, units, len(found.nodes), dropouts)
        self.found = found
        self.functions = [activation(edges[0].operation) for edges in found.nodes]

    def step(self, state: Tensor, mask: Tensor | None, weights: MixtureWeights | None = None) -> Tensor:
        states = [state]
        for (edge,), function, weight in zip(self.found.nodes, self.functions, self.cell.nodes, strict=True):
            source = states[edge.source]
            gate, value = (times(source, mask) @ weight).chunk(2, dim=-1)
            states.append(source + gate.sigmoid() * (function(value) - source))
        joined = [states[node] for node in self.found.concat]
        return torch.stack(joined).mean(0)


class RecurrentSupernet(LanguageModel):
    """The language model whose cell mixes every activation on every edge, in the paper's form."""

    def __init__(self, space: SearchSpace, vocabulary: int, units: int, dropouts: Dropouts = NO_DROPOUT) -> None:
        super().__init__(vocabulary, units, space.nodes, dropouts)
        self.space = space
        self.kinds = [RECURRENT]
        self.norm = nn.BatchNorm2d(units, affine=False)  # one for the first state, all nodes and all time steps

    def step(self, state: Tensor, mask: Tensor | None, weights: MixtureWeights | None) -> Tensor:
        if weights is None:
            raise TypeError("a supernet is called with a mixture")
        states = self.normalised(state)[None]  # (1, B, n), and one more for every node
        for node, weight in enumerate(self.cell.nodes):
            gates, values = (times(states, mask) @ weight).chunk(2, dim=-1)
            incoming = self.space.incoming(node)
            mixed = self.mixed(states, gates.sigmoid(), values, weights.weights[incoming.start : incoming.stop])
            states = torch.cat([states, self.normalised(mixed)[None]])
        return states[1:].mean(0)

    def mixed(self, states: Tensor, gates: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """Return a node (B, n): the sum over its edges of the weighted sum of all activations.

        `states`, `gates`, `values`: (edges, B, n); `weights`: (edges, candidates).
        """
        total = torch.zeros_like(states[0])
        for column, name in enumerate(self.space.candidates):
            if name != "none":
                moved = states + gates * (activation(name)(values) - states)
                total = total + (weights[:, column, None, None] * moved).sum(0)
        return total

    def normalised(self, state: Tensor) -> Tensor:
        """Return a state (B, n) through the batch norm, which sees each unit as a channel."""
        return self.norm(state[:, :, None, None])[:, :, 0, 0]


class AlgebraicSupernet(RecurrentSupernet):
    """The same function with less to compute: a node is sum_j P_j s_j + c_j (sum_f p_jf f(h_j) - P_j s_j).

    p_jf are the mixture weights of edge j without none, and P_j their sum.
    """

    def mixed(self, states: Tensor, gates: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        named = [column for column, name in enumerate(self.space.candidates) if name != "none"]
        scaled = weights[:, named].sum(1)[:, None, None] * states
        activated = torch.zeros_like(values)
        for column in named:
            activated = activated + weights[:, column, None, None] * activation(self.space.candidates[column])(values)
        return torch.addcmul(scaled, gates, activated - scaled).sum(0)


class ScannedSupernet(AlgebraicSupernet):
    """The same function, its time loop one operation with a gradient of its own (recurrent_scan.py).

    Where batch norms look at several processes' rows, and with activations that a plug-in brings, the loop of its base.
    """

    twice_differentiable = False

    def _unrolled(self, read: Tensor, hidden: Tensor, mask: Tensor | None, weights: MixtureWeights | None) -> Tensor:
        named = [name for name in self.space.candidates if name != "none"]
        plain = type(self.norm) is nn.BatchNorm2d and len(hidden) > 1  # a single row has no statistics
        if weights is None or not plain or not set(named) <= set(FUNCTIONS):
            return super()._unrolled(read, hidden, mask, weights)
        zeros = torch.zeros_like(weights.weights[:, 0])
        columns = [weights.weights[:, self.space.candidates.index(f)] if f in named else zeros for f in FUNCTIONS]
        of_input, of_state = self.cell.first.chunk(2)
        norm = self.norm
        own = norm.training or norm.running_mean is None
        statistics = Norm(own, norm.running_mean, norm.running_var, norm.eps)
        loop = Loop(statistics, mask, differentiated=torch.is_grad_enabled())
        outputs, seen = scan(loop, read @ of_input, hidden, of_state, torch.stack(columns, 1), list(self.cell.nodes))
        if own and norm.training and norm.track_running_stats and norm.running_mean is not None:
            move_statistics_by_all(norm, seen.means.flatten(0, 1), seen.variances.flatten(0, 1), len(hidden))
        return outputs


def times(value: Tensor, mask: Tensor | None) -> Tensor:
    """Return the value times a mask, where there is one."""
    return value if mask is None else value * mask


class RecurrentMacs:
    """The multiply-adds of a call of a language model: the same whatever the mixture, for every product is computed."""

    def __init__(self, units: int, vocabulary: int, products: int) -> None:
        self.of_one_word = macs_of_a_word(units, vocabulary, products)

    def of_call(self, text: TextInput, mixture: Mixture | None = None) -> int:
        """Of a piece of text."""
        return text.words.numel() * self.of_one_word


def macs_of_a_word(units: int, vocabulary: int, products: int) -> int:
    """Multiply-adds for one word: the cell's first product, `products` of its nodes, and the decoder."""
    return 4 * units**2 + products * 2 * units**2 + units * vocabulary
