"""What one state sends to its nodes, forward and backward, as one function with its gradient by hand.

The function of source.py, for what is most of a search's work: depthwise-separable candidates, pools and the skip
connection, normalised by their batch. Autograd adds, copies and slices maps between functions, and each of these is a
map read and written, and a launch on a GPU; here some thirty operators read each map as seldom as can be:

    forward    pools and their sums | for each block: depthwise convolution with its sums, folding; between two blocks
               the 1x1 convolution and ReLU | the sum of all maps, and of what other states have sent
    backward   the same in reverse order; the gradient of a depthwise map is one sum of two 1x1 convolutions, of the
               gradient handed down and of the map itself (folding.py)

The operators are written twice, in Triton for a GPU (darts/models/kernels/, whose files have the formulas) and in C for
a CPU (darts/models/compiled/), where each pass is one call (compiled/program.py): `_forward` and `_backward` are given
tensors and numbers, and call operators only. Tests hold both to the reference operations in
float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from darts.models.compiled import operators, program
from darts.models.fused.folding import RunningStatistics
from darts.models.fused.libraries import laid_out, library_for
from darts.models.fused.maps import Operand, refuse_second_derivatives
from darts.models.kernels.rows import rows
from darts.models.kernels.types import AVERAGE, MAXIMUM, Diagonal, Folded, Kernels, Kinds, Scales, Term

if TYPE_CHECKING:
    from darts.models.fused.source import Convolutions, Pool, Source


class Family(NamedTuple):
    """Convolutions of one stride and dilation a block, by their numbers."""

    steps: tuple[tuple[int, int], ...]  # stride and dilation
    columns: tuple[int, ...]  # of the mixture
    norms: tuple[tuple[bool, float, float], ...]  # whether running statistics move, eps and momentum


class Plan(NamedTuple):
    """What of a source is computed here, by its numbers."""

    families: tuple[Family, ...]
    pools: tuple[int, ...]  # by pool, MAXIMUM or AVERAGE
    kinds: Kinds  # the mixture's columns of the pools, and of the skip connection
    sizes: tuple[int, int]  # the pools' side and stride
    eps: float | None  # of the pools' batch norms; None where they have none
    channels: int
    library: ModuleType  # of the operators: darts/models/kernels/operators.py, or darts/models/compiled/operators.py

    @property
    def blocks(self) -> int:
        """Of all families."""
        return sum(len(family.steps) for family in self.families)

    @property
    def weighs_maps(self) -> bool:
        """Whether there are pools or a skip connection."""
        return bool(self.pools) or self.kinds.plain is not None


class Block(NamedTuple):
    """What the gradient of a block needs: ReLU, depthwise convolution, 1x1 convolution, batch norm."""

    source: Tensor
    kernel: Tensor
    second: Tensor | None
    matrices: Tensor
    result: Tensor  # the depthwise map
    W: Tensor
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
        """What the moments made of the matrices; in the place of b, which no gradient needs, are the means."""
        return Folded(self.W, self.means, *self[6:])

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
    families = [cast("Convolutions", family) for family in source.families]
    weights: list[Tensor | None] = []
    running: list[Tensor] = []
    for family in families:
        for block, norm in enumerate(_norms_of(family)):
            kernel, second = _kernels(family, block)
            weights += kernel.contiguous(), None if second is None else second.contiguous()
            weights.append(family.matrices[str(block)].contiguous())
            running += norm.running_mean, norm.running_var, norm.num_batches_tracked
    of_extra = [t if t is None or t.dim() == 4 else t.contiguous() for t in extra or (None, None, None)]
    plan = plan_of(source, image)
    return _Mixed.apply(plan, (source, running), image, mixture.contiguous(), added, *of_extra, *weights)


def plan_of(source: Source, image: Tensor) -> Plan:
    """What of a source is computed here."""
    from darts.models.fused.source import Convolutions, Skip

    own = _pools_of(source)
    sizes, eps = (1, 1), None
    if own:
        sizes = cast(tuple[int, int], (own[0].pool.kernel_size, own[0].pool.stride))
        eps = None if own[0].norm is None else own[0].norm.eps
    families: list[Family] = []
    for family in cast(Sequence[Convolutions], source.families):
        norms = [(norm.moves, norm.eps, norm.momentum) for norm in _norms_of(family)]
        families.append(Family(tuple(family.steps), tuple(family.columns), tuple(norms)))
    plain = next((part.column for part in source.shared if isinstance(part, Skip)), None)
    return Plan(
        families=tuple(families),
        pools=tuple([MAXIMUM if isinstance(part.pool, torch.nn.MaxPool2d) else AVERAGE for part in own]),
        kinds=Kinds(tuple([pool.column for pool in own]), plain),
        sizes=sizes,
        eps=eps,
        channels=image.shape[1],
        library=cast(ModuleType, library_for(image)),
    )


def _pools_of(source: Source) -> list[Pool]:
    from darts.models.fused.source import Pool

    return [part for part in source.shared if isinstance(part, Pool)]


def _norms_of(family: Convolutions) -> list[RunningStatistics]:
    """By block."""
    return [cast(RunningStatistics, family.norms[str(block)]) for block in range(len(family.steps))]


def _kernels(family: Convolutions, block: int) -> tuple[Tensor, Tensor | None]:
    found = [family.kernels[f"{block}_{column}"] for column in family.columns]
    return found[0], found[1] if len(found) > 1 else None


def _move(source: Source, statistics: Tensor, result: Tensor) -> None:
    """Move the running statistics of the pools' batch norms by those of a batch, (3, P, C)."""
    for pool, mean, variance in zip(_pools_of(source), statistics[0], statistics[1], strict=True):
        if pool.norm is not None:
            pool.norm.update(mean, variance, len(result) * result.shape[2] * result.shape[3])


def _run(function: Any, plan: Any, *tensors: Tensor | None) -> list[Tensor]:
    """The function of a plan, or of what begins with one, and of these tensors; of operators in C as a program."""
    library = plan.library if isinstance(plan, Plan) else plan[0].library
    if library is not operators:
        return cast(list[Tensor], function(plan, *tensors))
    return program.required(function, plan, *tensors)


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, moved: tuple[Source, Sequence[Tensor]], image: Tensor, mixture: Tensor,
        *others: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """`moved`: the source, whose pools have running statistics, and those of the blocks, three each;
        `others`: the added map, the extra map with its matrices and constants, and three weights of each block.
        """
        image, (source, running) = rows(image).map, moved
        given = [rows(t).map if t is not None and t.dim() == 4 else t for t in others]  # maps, and what is none
        result, *kept = _run(_forward, plan, image, mixture, *given, *running)
        ctx.plan = plan
        ctx.save_for_backward(image, mixture, *given[1:3], *given[4:], *kept)
        if plan.pools:
            _move(source, kept[0], result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        _, _, image_wanted, _, added_wanted, *others_wanted = ctx.needs_input_grad
        wanted, gradient = (image_wanted, *others_wanted), rows(grad_output).map
        image, mixture, *others = laid_out(ctx.saved_tensors, len(grad_output))
        for_mixture = torch.zeros_like(cast(Tensor, mixture))
        found = iter(_run(_backward, (ctx.plan, wanted), gradient, for_mixture, image, mixture, *others))
        for_image, *for_others = [next(found) if one else None for one in wanted]
        return None, None, for_image, for_mixture, gradient if added_wanted else None, *for_others


def _forward(plan: Plan, image: Tensor, mixture: Tensor, added: Tensor | None, *others: Tensor | None) -> list[Tensor]:
    """The sum; of pools and skip connection statistics, factors, maps and taps; and what each block has kept.

    `others`: the extra map with its matrices and constants; of each block a kernel, perhaps a second one, and matrices;
    and of each block running means, variances and counts.
    """
    extra_image, extra_matrices, extra_constants, *tensors = others
    remaining, running = iter(tensors[: 3 * plan.blocks]), iter(cast(list[Tensor], tensors[3 * plan.blocks :]))
    terms, constants, kept, of_blocks, diagonal = [], [], [], [], None
    for family in plan.families:
        term, constant, found = _blocks(plan, family, (image, mixture), remaining, running)
        terms.append(term)
        constants.append(constant)
        of_blocks += found
    if extra_image is not None and extra_matrices is not None and extra_constants is not None:
        terms.append(Term(extra_image, extra_matrices[:, None]))
        constants.append(extra_constants)
    if plan.weighs_maps:
        pooled = plan.library.pooled(image, plan.pools, *plan.sizes) if plan.pools else None
        weighed = plan.library.folded_pools(mixture, plan.kinds, pooled, plan.channels, plan.eps)
        constants.append(weighed.constants)
        plain = None if plan.kinds.plain is None else image
        diagonal = Diagonal(pooled and pooled.maps, plain, weighed.factors)
        kept = [weighed.statistics, weighed.factors, *(pooled or ())[:2]]
    result = plan.library.combined(terms, constants, len(mixture), plan.channels, diagonal, added)
    return [result, *kept, *of_blocks]


def _blocks(
    plan: Plan, family: Family, given: tuple[Tensor, Tensor], weights: Iterator[Any], running: Iterator[Tensor]
) -> tuple[Term, Tensor, list[Tensor]]:
    """What a family adds to the sum, a term and constants, and what its blocks keep; `given`: image and mixture.

    A block keeps what `Block` has from `result` on; after it, but for the last one, comes the next one's input.
    """
    image, mixture = given
    kept: list[Tensor] = []
    for number, (steps, norm) in enumerate(zip(family.steps, family.norms, strict=True)):
        kernel, second, matrices = islice(weights, 3)
        result, parts = plan.library.measured(image, Kernels(kernel, second), steps, number == 0)
        last = number == len(family.steps) - 1
        scales, per_edge = (Scales(mixture, family.columns), len(family.columns)) if last else (None, 1)
        held = tuple(islice(running, 3))
        found = plan.library.folded(matrices.flatten(2), scales, parts, pixels_of(result), held, norm, per_edge)
        kept += [result, found.W, *found[2:]]
        if not last:
            image = plan.library.mapped(result, found.W, found.b, rectify=True)
            kept.append(image)
    return Term(result, found.W[:, None]), found.b, kept


def pixels_of(image: Tensor) -> int:
    """In all images. Raises `ValueError` for a single one, which has no variance."""
    pixels = image.numel() // image.shape[1]
    if pixels == 1:
        raise ValueError(f"a batch norm is trained by more than one pixel; got maps of {tuple(image.shape)}")
    return pixels


def _backward(
    plan_and_wanted: tuple[Plan, Sequence[bool]], gradient: Tensor, for_mixture: Tensor, image: Tensor,
    mixture: Tensor, *others: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Of the image, of three of the extra map and of the weights, where they are wanted; the mixture's is written.

    `others`: the extra map and its matrices, the weights as `_forward` has them, and what it returned after the sum.
    """
    (plan, wanted), (extra_image, extra_matrices, *tensors) = plan_and_wanted, others
    gradients = _Gradients(plan, wanted, (image, mixture), (gradient, for_mixture), tensors)
    gradients.of_pools()
    for_weights = gradients.of_families()
    found = [gradients.image, *gradients.of_extra(extra_image, extra_matrices), *for_weights]
    return [cast(Tensor, own) for own, one in zip(found, wanted, strict=True) if one]


class _Gradients:
    """The gradients of a source's inputs, from that of its sum, (batch, K C, H', W'), channels last."""

    def __init__(
        self, plan: Plan, wanted: Sequence[bool], given: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor],
        tensors: Sequence[Tensor | None],
    ) -> None:  # fmt: skip
        """`wanted`: of the image, three of the extra map, weights; `given`: image and mixture; `gradients`: of the sum,
        and the mixture's, which is written; `tensors`: weights, and what was kept.
        """
        self.plan, self.wanted = plan, wanted
        (self.source, self.mixture), (self.sum, self.for_mixture) = given, gradients
        self.image: Tensor | None = None  # its gradient so far
        weights, kept = iter(tensors[: 3 * plan.blocks]), iter(tensors[3 * plan.blocks :])
        self.statistics, self.factors, self.pool_maps, self.taps = [None] * 4
        if plan.weighs_maps:
            self.statistics, self.factors = islice(kept, 2)
        if plan.pools:
            self.pool_maps, self.taps = islice(kept, 2)
        self.blocks: list[list[Block]] = []  # by family
        for family in plan.families:
            own: list[Block] = []
            for number in range(len(family.steps)):
                before = next(kept) if number > 0 else self.source
                own.append(Block(*cast(Any, (before, *islice(weights, 3), *islice(kept, 6)))))
            self.blocks.append(own)

    def of_pools(self) -> None:
        """Begin the image's gradient with that of its pools and of the skip connection."""
        if not self.plan.weighs_maps:
            return
        plan, normed, library = self.plan, self.plan.eps is not None, self.plan.library
        plain = None if plan.kinds.plain is None else self.source
        parts = library.pool_products(self.sum, self.pool_maps, plain, plan.channels)
        pixels = self.sum.numel() // self.sum.shape[1]
        given = self.mixture, plan.kinds, parts, self.statistics, pixels, normed
        linear, constants = library.fold_pools_gradient(*given, self.for_mixture)
        if not self.wanted[0]:
            return
        for_maps = None
        if self.pool_maps is not None:
            for_maps = library.pool_maps_gradient(self.sum, self.factors, self.pool_maps, linear, constants, normed)
        geometry = plan.pools, self.source.shape[2:], plain is not None, *plan.sizes
        self.image = library.pool_source_gradient(for_maps, self.taps, self.sum, self.factors, *geometry)

    def of_families(self) -> list[Tensor | None]:
        """Of all weights, in their order; what reaches the image is added to its gradient."""
        found: list[Tensor | None] = []
        wanted = list(self.wanted[4:])
        for family, blocks in zip(self.plan.families, self.blocks, strict=True):
            for_blocks: list[Tensor | None] = []
            gradient = self.sum
            for number in reversed(range(len(blocks))):
                at = len(found) + 3 * number
                gradient, for_block = self._of_block(family, blocks, number, gradient, any(wanted[at : at + 2]))
                for_blocks = [*for_block, *for_blocks]
            found += for_blocks
        return found

    def _of_block(
        self, family: Family, blocks: Sequence[Block], number: int, gradient: Tensor, wanted: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Of a block's input and weights, from that of its output: the source's sum, or what goes into a ReLU."""
        block, last, library = blocks[number], number == len(blocks) - 1, self.plan.library
        groups, outer, inner = block.matrices.shape[:3]
        per_edge = len(family.columns) if last else 1
        edges = groups // per_edge
        parts = library.parts(gradient, block.result, edges)
        scales = Scales(self.mixture, family.columns) if last else None
        P = block.matrices.flatten(2)  # noqa: N806
        folded = library.fold_gradient(P, scales, block.folded, parts, block.pixels, self.for_mixture, per_edge)
        back = block.W.view(edges, outer, per_edge, inner).permute(0, 2, 3, 1)
        terms = [Term(gradient, back), Term(block.result, folded.matrices[:, None])]
        own, steps = library.combined(terms, [folded.constants], groups, inner), family.steps[number]
        kernels = Kernels(None, None)  # type: ignore[arg-type]
        if wanted:
            kernels = library.kernel_gradients(own, block.source, block.kernels, steps, number == 0)
        weights = [*kernels, folded.P.view_as(block.matrices)]
        if number > 0:
            return library.source_gradient(own, block.source, block.kernels, steps), weights
        if self.wanted[0]:
            self.image = library.source_gradient(own, block.source, block.kernels, steps, self.image)
        return own, weights

    def of_extra(self, image: Tensor | None, matrices: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the map that all edges share, of its matrices and of its constants."""
        if image is None or matrices is None:
            return None, None, None
        for_image = self.plan.library.mapped(self.sum, matrices.flatten(0, 1).t()[None]) if self.wanted[1] else None
        found, sums = self.plan.library.products(self.sum, image, 1)
        return for_image, found.view(matrices.shape), sums.view(matrices.shape[:2])
