"""All candidates on all edges that leave one state, computed together.

What is the same on every edge is computed once (ReLU, pools and their batch norm, the pixels of a skip connection);
what differs by weights only is stacked along the channels (depthwise convolutions, 1x1 convolutions); a candidate that
is neither runs as its reference modules. Weights are the reference supernet's, stacked: every stacked tensor knows the
names of its rows there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.models.batch_norm import normalised
from darts.models.depthwise import Depthwise
from darts.models.fused.folding import RunningStatistics, fold, over_all_processes
from darts.models.fused.libraries import library_for
from darts.models.fused.maps import Before, Operand, convolved, moments, sum_of_maps
from darts.models.operations import FactorisedReduction, Zero, every_second
from darts.runtime.reduction import Part, run_in_step

Columns = Sequence[Tensor]  # by candidate its mixture weight on each edge, (K,)
Operations = Sequence[Mapping[int, nn.Module]]  # the reference supernet's, by edge and column; the same columns on each


POOLS = nn.MaxPool2d, nn.AvgPool2d
WIDEST_KERNEL, WIDEST_POOL = 7, 15  # that by_hand.py takes; a pool's pixels are numbered in a byte


class Row(NamedTuple):
    """The place of a row of a stacked tensor in the reference supernet."""

    edge: int  # among the edges of this source
    column: int
    name: str  # within the operation


def rows_of(edges: int, columns: Sequence[int], name: str) -> list[Row]:
    """The same tensor of these candidates on every edge: by edge, then candidate."""
    return [Row(edge, column, name) for edge in range(edges) for column in columns]


class Stacked(nn.Module):
    """Weights of several reference operations, stacked; `rows` says by tensor name whose."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[Row] | Row] = {}  # a single row is not stacked

    def stack(self, name: str, operations: Operations, rows: list[Row]) -> nn.Parameter:
        """A parameter with these rows; the caller assigns it to `name`."""
        self.rows[name] = rows
        return nn.Parameter(torch.stack([operations[e][c].get_parameter(inner).detach() for e, c, inner in rows]))

    def statistics(self, name: str, operations: Operations, rows: list[Row]) -> RunningStatistics:
        """The running statistics of these batch norms; the caller assigns them to `name`."""
        norms = [operations[row.edge][row.column].get_submodule(row.name) for row in rows]
        first = cast(nn.BatchNorm2d, norms[0])
        mean, channels = first.running_mean, first.num_features
        if mean is None:
            like = next(operations[rows[0].edge][rows[0].column].parameters(), torch.empty(0))
            return RunningStatistics(len(rows), channels, tracked=False).to(like)
        stacked = RunningStatistics(len(rows), channels).to(mean)
        for buffer, value in stacked.named_buffers():
            self.rows[f"{name}.{buffer}"] = [row._replace(name=f"{row.name}.{buffer}") for row in rows]
            value.copy_(torch.stack([norm.get_buffer(buffer) for norm in norms]))
        return stacked


class Convolutions(Stacked):
    """Candidates of one family, one or two blocks ReLU, depthwise, 1x1, batch norm of one stride and dilation.

    Stacked by edge, then candidate; smaller kernels are in the middle of the largest. The last 1x1 convolutions of an
    edge's candidates are folded into one.
    """

    def __init__(self, columns: list[int], operations: Operations) -> None:
        super().__init__()
        self.columns, self.edges = columns, len(operations)
        first = operations[0][columns[0]]
        self.steps = [
            (layer.stride[0], layer.dilation[0]) for layer in first.children() if isinstance(layer, Depthwise)
        ]
        self.kernels = nn.ParameterDict()
        self.matrices, self.norms = nn.ParameterDict(), nn.ModuleDict()
        for block in map(str, range(len(self.steps))):
            depthwise, pointwise, norm = (str(4 * int(block) + layer) for layer in (1, 2, 3))
            for column in columns:
                own = rows_of(self.edges, [column], f"{depthwise}.weight")
                self.kernels[f"{block}_{column}"] = self.stack(f"kernels.{block}_{column}", operations, own)
            matrices = rows_of(self.edges, columns, f"{pointwise}.weight")
            self.matrices[block] = self.stack(f"matrices.{block}", operations, matrices)
            norms = rows_of(self.edges, columns, norm)
            self.norms[block] = self.statistics(f"norms.{block}", operations, norms)

    def forward(self, source: Tensor, rectified: Tensor, mixture: Columns) -> Part[Operand]:
        """The last depthwise map (batch, K n C, H, W), and the folded map to the edges' sums: (K, C, n C), (K, C).

        `rectified`: the source after ReLU; n: how many candidates the family has.
        """
        image, before = rectified, None  # the latter: what the last block's batch norm makes of its convolution
        scales = torch.stack([mixture[column] for column in self.columns], dim=1).flatten()
        for block, steps in enumerate(self.steps):
            norm = cast(RunningStatistics, self.norms[str(block)])
            image, own = convolved(image, before, self._kernel(block), steps, norm.by_batch)
            measured = yield from over_all_processes(own, norm)
            last = block == len(self.steps) - 1
            matrices, weights = self.matrices[str(block)].flatten(2), scales if last else None
            number = len(self.columns) if last else 1
            before = Before(*fold(matrices, weights, measured, norm, number))
        return Operand(image, *cast(Before, before))

    def _kernel(self, block: int) -> Tensor:
        """(K n, C, 1, k, k), k that of the largest kernel."""
        kernels = [self.kernels[f"{block}_{column}"] for column in self.columns]
        largest = max(kernel.shape[-1] for kernel in kernels)
        around = [(largest - kernel.shape[-1]) // 2 for kernel in kernels]
        padded = [F.pad(k, (a, a, a, a)) if a else k for k, a in zip(kernels, around, strict=True)]
        return torch.stack(padded, dim=1).flatten(0, 1)


class Pool(Stacked):
    """One kind of pooling, and its batch norm where it has one."""

    def __init__(self, column: int, operations: Operations) -> None:
        super().__init__()
        self.column = column
        layers = [operations[0][column], *operations[0][column].children()]
        self.pool = next(layer for layer in layers if isinstance(layer, POOLS))
        rows = rows_of(len(operations), [column], "1")
        self.norm = self.statistics("norm", operations, rows) if self.pool is not layers[0] else None

    def forward(self, source: Tensor, rectified: Tensor, mixture: Columns) -> Part[Operand]:
        """Its map, and its weight on each edge."""
        image, scales = self.pool(source), mixture[self.column][:, None]
        if self.norm is None or self.norm.by_batch:
            image = image if self.norm is None else (yield from _normalised(image, self.norm))
            return Operand(image, scales.expand(-1, image.shape[1]), None)
        factors = scales * torch.rsqrt(self.norm.running_var + self.norm.eps)
        return Operand(image, factors, -factors * self.norm.running_mean)


def _normalised(image: Tensor, norm: RunningStatistics) -> Part[Tensor]:
    """A map that all edges share, by its batch's statistics, which move the running ones."""
    if norm.synchronised:
        found = yield from normalised(image, norm.eps)
        norm.update(found.mean, found.variance, found.pixels)
        return found.image
    if not norm.moves:
        return F.batch_norm(image, None, None, training=True, eps=norm.eps)
    mean, variance = norm.running_mean.new_zeros(2, image.shape[1])
    image = F.batch_norm(image, mean, variance, training=True, momentum=1.0, eps=norm.eps)
    pixels = image.numel() // image.shape[1]
    norm.update(mean, variance * ((pixels - 1) / pixels), pixels)
    return image


class Skip(Stacked):
    """The skip connection at stride 1: the source itself."""

    def __init__(self, column: int, operations: Operations) -> None:
        super().__init__()
        self.column = column

    def forward(self, source: Tensor, rectified: Tensor, mixture: Columns) -> Part[Operand]:
        """The source, and its weight on each edge."""
        yield from ()  # nothing to sum
        return Operand(source, mixture[self.column][:, None].expand(-1, source.shape[1]), None)


class Reduction(Stacked):
    """The skip connection at stride 2: two 1x1 convolutions, of the even pixels and of the odd ones."""

    def __init__(self, column: int, operations: Operations) -> None:
        super().__init__()
        edges = len(operations)
        self.column = column
        self.even = self.stack("even", operations, rows_of(edges, [column], "even.weight"))
        self.odd = self.stack("odd", operations, rows_of(edges, [column], "odd.weight"))
        self.norm = self.statistics("norm", operations, rows_of(edges, [column], "norm"))

    def forward(self, source: Tensor, rectified: Tensor, mixture: Columns) -> Part[Operand]:
        """Even and odd pixels, and the folded map of each edge."""
        image = torch.cat(every_second(rectified), dim=1)
        even, odd = self.even.flatten(2), self.odd.flatten(2)
        channels = rectified.shape[1]
        matrices = torch.cat([F.pad(even, (0, channels)), F.pad(odd, (channels, 0))], dim=1)
        own = moments(image) if self.norm.by_batch else None
        measured = yield from over_all_processes(own, self.norm)
        return Operand(image, *fold(matrices, mixture[self.column], measured, self.norm))


class Dense(Stacked):
    """A candidate of ReLU, one ordinary convolution and batch norm: one convolution for all edges.

    The mixture weights enter as the batch norm's own scale, so that autograd gives their gradient with no map more.
    """

    def __init__(self, column: int, operations: Operations) -> None:
        super().__init__()
        rows = rows_of(len(operations), [column], "1.weight")
        conv = cast(nn.Conv2d, operations[0][column].get_submodule("1"))
        self.column, self.stride, self.padding = column, conv.stride[0], conv.kernel_size[0] // 2
        self.weight = self.stack("weight", operations, rows)
        norms = rows_of(len(operations), [column], "2")
        tracked = operations[0][column].get_submodule("2").running_mean is not None
        self.norm = self.statistics("norm", operations, norms) if tracked else None
        self.synchronised = False  # True: normalised by all processes' parts of a batch

    def forward(self, source: Tensor, rectified: Tensor, mixture: Columns) -> Part[Tensor]:
        """`rectified`: the source after ReLU. The weighted outputs side by side."""
        image = F.conv2d(rectified, self.weight.flatten(0, 1), None, self.stride, self.padding)
        scales = mixture[self.column].repeat_interleave(self.weight.shape[1])
        if self.synchronised and (self.norm is None or self.norm.by_batch):
            found = yield from normalised(image, RunningStatistics.eps, scales)
            if self.norm is not None:
                mean, variance = (value.view_as(self.norm.running_mean) for value in (found.mean, found.variance))
                self.norm.update(mean, variance, found.pixels)
            return found.image
        if self.norm is None:
            return F.batch_norm(image, None, None, scales, training=True)
        held: tuple[Any, Any] = self.norm.running_mean.flatten(), self.norm.running_var.flatten()
        moving = self.norm.training and self.norm.track_running_stats
        if moving:
            self.norm.num_batches_tracked += 1
        if self.norm.by_batch and not moving:
            held = None, None
        return F.batch_norm(image, *held, scales, None, self.norm.by_batch, self.norm.momentum, self.norm.eps)


class Unfused(Stacked):
    """A candidate that is none of the above: the reference modules, one an edge."""

    def __init__(self, column: int, operations: Operations) -> None:
        super().__init__()
        self.column = column
        self.operations = nn.ModuleList(edge[column] for edge in operations)
        for edge, operation in enumerate(self.operations):
            for name in operation.state_dict():
                self.rows[f"operations.{edge}.{name}"] = Row(edge, column, name)

    def forward(self, source: Tensor, mixture: Columns) -> Tensor:
        """The weighted outputs side by side."""
        pairs = zip(mixture[self.column], self.operations, strict=True)
        return torch.cat([weight * operation(source) for weight, operation in pairs], dim=1)


class Source(nn.Module):
    """The mixed operations on all edges out of one state (Liu et al. 2019, equation 2, for K edges at once)."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.edges, self.last_column = len(operations), max(operations[0])
        self.stride = 1  # known from `none`, and asked for where there is nothing else
        self.shared, self.dense, self.unfused = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        families: dict[Any, list[int]] = {}
        for column, operation in operations[0].items():
            if _is_convolution(operation):
                key = tuple(
                    (layer.stride, layer.dilation) for layer in operation.children() if isinstance(layer, Depthwise)
                )
                families.setdefault(key, []).append(column)
            elif isinstance(operation, Zero):
                self.stride = operation.stride
            elif isinstance(operation, nn.Identity):
                self.shared.append(Skip(column, operations))
            elif isinstance(operation, FactorisedReduction):
                self.shared.append(Reduction(column, operations))
            elif _is_pool(operation):
                self.shared.append(Pool(column, operations))
            elif _is_dense(operation):
                self.dense.append(Dense(column, operations))
            else:
                self.unfused.append(Unfused(column, operations))
        self.families = nn.ModuleList(Convolutions(columns, operations) for columns in families.values())
        self.expressible = _expressible(self)

    def forward(self, source: Tensor, mixture: Tensor, added: Tensor | None = None) -> Tensor:
        """`source`: (batch, C, H, W); `mixture`: (K, candidates). The K mixed operations' outputs side by side.

        `added`: a map that is added to them.
        """
        by_hand, columns = self.is_by_hand(source), mixture.unbind(1)
        first_skip = next((part for part in self.shared if isinstance(part, Skip)), None)
        own = [part for part in self.shared if isinstance(part, Pool) or part is first_skip]
        here = [part for part in self.shared if not by_hand or part not in own]
        parts = [*here, *([] if by_hand else self.families), *self.dense]
        rectified = source.relu() if parts else source
        found = run_in_step([part(source, rectified, columns) for part in parts])
        outputs = [part(source, columns) for part in self.unfused] + found[len(parts) - len(self.dense) :]
        if by_hand:
            from darts.models.fused.by_hand import mixed

            shared = found[: len(here)]
            extra = shared.pop(0) if here and isinstance(here[0], Reduction) else None
            outputs.append(mixed(self, source, mixture, extra, added))
            if shared:
                outputs.append(sum_of_maps(shared, []))
        elif self.shared or self.families:
            outputs.append(sum_of_maps(found[: len(here)], found[len(here) : len(parts) - len(self.dense)]))
        if added is not None and not by_hand:
            outputs.append(added)
        if not outputs:  # `none` only
            return torch.zeros_like(source[:, :, :: self.stride, :: self.stride]).repeat(1, len(mixture), 1, 1)
        return sum(outputs[1:], start=outputs[0])

    def is_by_hand(self, source: Tensor) -> bool:
        """Whether by_hand.py computes it: there is a library for the map, normalised by this process's batch."""
        if not self.expressible or library_for(source) is None:
            return False
        norms = [layer for layer in self.modules() if isinstance(layer, RunningStatistics)]
        return all(norm.by_batch and not norm.synchronised for norm in norms)


def _expressible(source: Source) -> bool:
    """Whether by_hand.py can compute it: families of at most two candidates, pools of one size, no kernel too wide."""
    families = [cast(Convolutions, family) for family in source.families]
    kernels = [kernel for family in families for kernel in family.kernels.values()]
    matrices = [matrix for family in families for matrix in family.matrices.values()]
    own = [part.pool for part in source.shared if isinstance(part, Pool)]
    normed = {part.norm is None for part in source.shared if isinstance(part, Pool)}
    return bool(
        (families or own or any(isinstance(part, Skip) for part in source.shared))
        and all(len(family.columns) <= 2 for family in families)
        and all(kernel.shape[-1] <= WIDEST_KERNEL and kernel.shape[-1] % 2 for kernel in kernels)
        and all(matrix.shape[1] == matrix.shape[2] for matrix in matrices)
        and all(_is_plain_pool(pool) for pool in own)
        and len({(pool.kernel_size, pool.stride) for pool in own}) <= 1
        and len({isinstance(pool, nn.MaxPool2d) for pool in own}) == len(own)
        and len(normed) <= 1
    )


def _is_plain_pool(pool: nn.MaxPool2d | nn.AvgPool2d) -> bool:
    """Whether it is odd and square, keeps the resolution but for its stride, and does not count the padding."""
    side = pool.kernel_size
    if not isinstance(side, int) or side % 2 == 0 or side > WIDEST_POOL or pool.padding != side // 2 or pool.ceil_mode:
        return False
    if isinstance(pool, nn.MaxPool2d):
        return pool.dilation == 1 and not pool.return_indices and isinstance(pool.stride, int)
    return not pool.count_include_pad and pool.divisor_override is None and isinstance(pool.stride, int)


def _is_convolution(operation: nn.Module) -> bool:
    if not isinstance(operation, nn.Sequential) or len(operation) not in (4, 8):
        return False
    kinds = [nn.ReLU, Depthwise, nn.Conv2d, nn.BatchNorm2d] * (len(operation) // 4)
    return _are(operation, kinds)


def _are(layers: nn.Sequential, kinds: Sequence[type[nn.Module]]) -> bool:
    """Whether the layers are of these very types."""
    return list(map(type, layers)) == list(kinds)


def _is_dense(operation: nn.Module) -> bool:
    if not isinstance(operation, nn.Sequential) or len(operation) != 3:
        return False
    return _are(operation, (nn.ReLU, nn.Conv2d, nn.BatchNorm2d))


def _is_pool(operation: nn.Module) -> bool:
    if isinstance(operation, POOLS):
        return True
    return isinstance(operation, nn.Sequential) and len(operation) == 2 and isinstance(operation[0], POOLS)
