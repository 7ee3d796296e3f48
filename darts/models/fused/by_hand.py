"""What one state sends to its nodes, forward and backward, as one function with its gradient by hand.

The function of source.py, for what is most of a search's work: depthwise-separable candidates, pools and the skip
connection, normalised by their batch. Autograd adds, copies and slices maps between functions, and each of these is a
map read and written, and a launch on a GPU; here some thirty operators read each map as seldom as can be:

    forward    pools and their sums | for each block: depthwise convolution with its sums, folding; between two blocks
               the 1x1 convolution and ReLU | the sum of all maps, and of what other states have sent
    backward   the same in reverse order; the gradient of a depthwise map is one sum of two 1x1 convolutions, of the
               gradient handed down and of the map itself (folding.py)

The operators are written twice, in Triton for a GPU (darts/models/kernels/, whose files have the formulas) and in C for
a CPU (darts/models/compiled/). Tests hold both to the reference operations in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from darts.models.fused.folding import RunningStatistics
from darts.models.fused.libraries import library_for
from darts.models.fused.maps import Operand, refuse_second_derivatives
from darts.models.kernels.rows import rows
from darts.models.kernels.types import AVERAGE, MAXIMUM, Diagonal, Folded, Kernels, Kinds, Pooled, Scales, Term

if TYPE_CHECKING:
    from darts.models.fused.source import Convolutions, Pool, Source


class Plan(NamedTuple):
    """The parts of a source that are computed here."""

    families: Sequence[Convolutions]
    pools: Sequence[Pool]
    kinds: Kinds  # the mixture's columns of the pools, and of the skip connection
    sizes: tuple[int, int]  # the pools' side and stride
    channels: int
    library: Any  # of the operators: darts/models/kernels/operators.py, or darts/models/compiled/operators.py

    @property
    def are_maxima(self) -> list[int]:
        """By pool, as pools.py names them."""
        return [MAXIMUM if isinstance(p.pool, torch.nn.MaxPool2d) else AVERAGE for p in self.pools]


class Block(NamedTuple):
    """Tensors of a block's forward pass: ReLU, depthwise convolution, 1x1 convolution, batch norm."""

    source: Tensor
    kernel: Tensor
    second: Tensor | None
    matrices: Tensor
    result: Tensor  # the depthwise map
    W: Tensor
    b: Tensor
    means: Tensor
    factors: Tensor
    mean: Tensor
    covariance: Tensor

    @property
    def kernels(self) -> Kernels:
        """Of one or two candidates."""
        return Kernels(self.kernel, self.second)

    @property
    def folded(self) -> Folded:
        """What the moments made of the matrices."""
        return Folded(*self[5:])

    @property
    def pixels(self) -> int:
        """Of the depthwise map, in all images."""
        return self.result.numel() // self.result.shape[1]


def mixed(source: Source, image: Tensor, mixture: Tensor, extra: Operand | None, added: Tensor | None) -> Tensor:
    """What `source` sends from `image` (batch, C, H, W) to its K nodes, (batch, K C, H', W').

    `extra`: a map that all edges share, with a matrix for each; `added`: a map that is added to the sum.
    Raises `ValueError` for a mixture of other edges or candidates, or maps that do not fit.
    """
    if len(mixture) != source.edges or mixture.shape[1] <= source.last_column:
        due = f"{source.edges} edges and at least {source.last_column + 1} candidates"
        raise ValueError(f"a mixture of {due} is due; got {tuple(mixture.shape)}")
    plan = plan_of(source, image)
    weights = [
        tensor
        for family in plan.families
        for block in range(len(family.steps))
        for tensor in (*_kernels(family, block), family.matrices[str(block)])
    ]
    return _Mixed.apply(plan, image, mixture.contiguous(), added, *(extra or (None, None, None)), *weights)


def plan_of(source: Source, image: Tensor) -> Plan:
    """The parts of a source."""
    from darts.models.fused.source import Convolutions, Pool, Skip

    own = [part for part in source.shared if isinstance(part, Pool)]
    plain = next((part.column for part in source.shared if isinstance(part, Skip)), None)
    layer = own[0].pool if own else None
    sizes = (cast(int, layer.kernel_size), cast(int, layer.stride)) if layer is not None else (1, 1)
    families = [cast(Convolutions, family) for family in source.families]
    return Plan(families, own, Kinds([pool.column for pool in own], plain), sizes, image.shape[1], library_for(image))


def _kernels(family: Convolutions, block: int) -> tuple[Tensor, Tensor | None]:
    found = [family.kernels[f"{block}_{column}"] for column in family.columns]
    return found[0], found[1] if len(found) > 1 else None


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, source: Tensor, mixture: Tensor, added: Tensor | None, *others: Tensor | None
    ) -> Tensor:
        extra_image, extra_matrices, extra_constants, *weights = others
        terms, constants, blocks = [], [], []
        remaining = iter(weights)
        for family in plan.families:
            own = [cast(Any, (next(remaining), next(remaining), next(remaining))) for _ in family.steps]
            blocks += _blocks(plan, family, source, mixture, own)
            terms.append(Term(blocks[-1].result, blocks[-1].W[:, None]))
            constants.append(blocks[-1].b)
        if extra_image is not None and extra_matrices is not None and extra_constants is not None:
            terms.append(Term(extra_image, extra_matrices[:, None]))
            constants.append(extra_constants)
        found = pooled = diagonal = None
        if plan.pools:
            pooled = plan.library.pooled(source, plan.are_maxima, *plan.sizes)
        if plan.pools or plan.kinds.plain is not None:
            found = plan.library.folded_pools(mixture, plan.kinds, pooled, plan.channels, _eps(plan))
            constants.append(found.constants)
            maps, plain = pooled and pooled.maps, None if plan.kinds.plain is None else source
            diagonal = Diagonal(maps, plain, found.factors)
            _move(plan, found.statistics, pooled)
        ctx.plan = plan
        kept = (*(pooled or (None,) * 3)[:2], *(found or (None,) * 3))
        ctx.save_for_backward(source, mixture, extra_image, extra_matrices, *kept, *sum(blocks, ()))
        return plan.library.combined(terms, constants, len(mixture), plan.channels, diagonal, added)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        gradients = _Gradients(ctx, rows(grad_output).map)
        gradients.of_pools()
        for_weights = gradients.of_families()
        return None, gradients.source, gradients.mixture, gradients.added, *gradients.of_extra(), *for_weights


def _blocks(plan: Plan, family: Convolutions, source: Tensor, mixture: Tensor, weights: Sequence[Any]) -> list[Block]:
    """The forward pass of a family's blocks, from the source before its ReLU."""
    blocks: list[Block] = []
    for number, (kernel, second, matrices) in enumerate(weights):
        image = (
            source if not blocks else plan.library.mapped(blocks[-1].result, blocks[-1].W, blocks[-1].b, rectify=True)
        )
        result, parts = plan.library.measured(image, Kernels(kernel, second), family.steps[number], not blocks)
        norm = cast(RunningStatistics, family.norms[str(number)])
        running = norm.running_mean, norm.running_var, norm.num_batches_tracked
        last = number == len(weights) - 1
        scales, per_edge = (Scales(mixture, family.columns), len(family.columns)) if last else (None, 1)
        pixels, numbers = pixels_of(result), (norm.moves, norm.eps, norm.momentum)
        found = plan.library.folded(matrices.flatten(2), scales, parts, pixels, running, numbers, per_edge)
        blocks.append(Block(image, kernel, second, matrices, result, *found))
    return blocks


def pixels_of(image: Tensor) -> int:
    """In all images. Raises `ValueError` for a single one, which has no variance."""
    pixels = image.numel() // image.shape[1]
    if pixels == 1:
        raise ValueError(f"a batch norm is trained by more than one pixel; got maps of {tuple(image.shape)}")
    return pixels


def _eps(plan: Plan) -> float | None:
    """Of the pools' batch norms; None where they have none."""
    norm = plan.pools[0].norm if plan.pools else None
    return None if norm is None else norm.eps


def _move(plan: Plan, statistics: Tensor, found: Pooled | None) -> None:
    """Move the running statistics of the pools' batch norms by those of a batch, (3, P, C)."""
    pixels = 0 if found is None else found.pixels
    for pool, mean, variance in zip(plan.pools, statistics[0], statistics[1], strict=True):
        if pool.norm is not None:
            pool.norm.update(mean, variance, pixels)


class _Gradients:
    """The gradients of a source's inputs, from that of its sum, (batch, K C, H', W'), channels last."""

    def __init__(self, ctx: Any, gradient: Tensor) -> None:
        self.plan: Plan = ctx.plan
        self.wanted = ctx.needs_input_grad
        self.sum = gradient
        self.image, mixture, self.extra_image, self.extra_matrices, *kept = ctx.saved_tensors
        self.own_mixture = mixture
        self.pool_maps, self.taps, self.factors, _, self.statistics = kept[:5]
        size = len(Block._fields)
        self.blocks = [Block(*kept[at : at + size]) for at in range(5, len(kept), size)]
        self.mixture = torch.zeros_like(mixture)
        self.source: Tensor | None = None  # so far

    @property
    def added(self) -> Tensor | None:
        """Of the map that was added."""
        return self.sum if self.wanted[3] else None

    def of_pools(self) -> None:
        """Begin the source's gradient with that of its pools and of the skip connection."""
        if self.factors is None:
            return
        plan, normed = self.plan, _eps(self.plan) is not None
        plain = None if plan.kinds.plain is None else self.image
        parts = self.plan.library.pool_products(self.sum, self.pool_maps, plain, plan.channels)
        pixels = self.sum.numel() // self.sum.shape[1]
        given = self.own_mixture, plan.kinds, parts, self.statistics, pixels, normed
        linear, constants = self.plan.library.fold_pools_gradient(*given, self.mixture)
        if not self.wanted[1]:
            return
        for_maps = None
        if self.pool_maps is not None:
            for_maps = self.plan.library.pool_maps_gradient(
                self.sum, self.factors, self.pool_maps, linear, constants, normed
            )
        geometry = plan.are_maxima, self.image.shape[2:], plain is not None, *plan.sizes
        self.source = self.plan.library.pool_source_gradient(for_maps, self.taps, self.sum, self.factors, *geometry)

    def of_families(self) -> list[Tensor | None]:
        """Of all weights, in their order; what reaches the source is added to its gradient."""
        found: list[Tensor | None] = []
        remaining = list(self.blocks)
        wanted = list(self.wanted[7:])
        for family in self.plan.families:
            own, remaining = remaining[: len(family.steps)], remaining[len(family.steps) :]
            for_blocks: list[Tensor | None] = []
            gradient = self.sum
            for number in reversed(range(len(own))):
                at = len(found) + 3 * number
                gradient, for_block = self._of_block(family, own, number, gradient, any(wanted[at : at + 2]))
                for_blocks = [*for_block, *for_blocks]
            found += for_blocks
        return found

    def _of_block(
        self, family: Convolutions, blocks: Sequence[Block], number: int, gradient: Tensor, wanted: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Of a block's input and weights, from that of its output: the source's sum, or what goes into a ReLU."""
        block, last = blocks[number], number == len(blocks) - 1
        groups, outer, inner = block.matrices.shape[:3]
        per_edge = len(family.columns) if last else 1
        edges = groups // per_edge
        parts = self.plan.library.parts(gradient, block.result, edges)
        scales = Scales(self.own_mixture, family.columns) if last else None
        P = block.matrices.flatten(2)  # noqa: N806
        folded = self.plan.library.fold_gradient(P, scales, block.folded, parts, block.pixels, self.mixture, per_edge)
        back = block.W.view(edges, outer, per_edge, inner).permute(0, 2, 3, 1)
        terms = [Term(gradient, back), Term(block.result, folded.matrices[:, None])]
        own = self.plan.library.combined(terms, [folded.constants], groups, inner)
        kernels = Kernels(None, None)  # type: ignore[arg-type]
        if wanted:
            kernels = self.plan.library.kernel_gradients(
                own, block.source, block.kernels, family.steps[number], number == 0
            )
        weights = [*kernels, folded.P.view_as(block.matrices)]
        if number > 0:
            return self.plan.library.source_gradient(own, block.source, block.kernels, family.steps[number]), weights
        if self.wanted[1]:
            steps = family.steps[number]
            self.source = self.plan.library.source_gradient(own, block.source, block.kernels, steps, self.source)
        return own, weights

    def of_extra(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of the map that all edges share, of its matrices and of its constants."""
        if self.extra_image is None:
            return None, None, None
        matrices = self.extra_matrices.flatten(0, 1)
        for_image = self.plan.library.mapped(self.sum, matrices.t()[None]) if self.wanted[4] else None
        found, sums = self.plan.library.products(self.sum, self.extra_image, 1)
        shape = self.extra_matrices.shape
        return for_image, found.view(shape), sums.view(shape[:2])
