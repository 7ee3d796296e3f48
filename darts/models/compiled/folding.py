"""A 1x1 convolution and its batch norm folded, and the gradient: the algebra of darts/models/fused/folding.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from darts.models.compiled.call import Call, doubles
from darts.models.kernels.types import Folded, FoldGradient, Scales


def _add_scales(call: Call, scales: Scales | None) -> None:
    mixture, columns = scales or (None, (0,))
    step = 0 if mixture is None else mixture.stride(0)
    call.tensor(mixture)
    call.numbers(step, columns[0], columns[-1])


def folded(
    P: Tensor, scales: Scales | None, parts: Tensor, pixels: int, running: tuple[Tensor, ...],
    numbers: tuple[bool, float, float], per_edge: int = 1,
) -> Folded:  # fmt: skip
    """W and b of P (K, C', C), whose input's moments over `pixels` come as parts."""
    found = Folded(*[P.new_empty(shape) for shape in Folded.shapes(P.shape, per_edge)])
    fold(found, P, scales, parts, pixels, running, numbers, per_edge)
    return found


def fold(
    found: Folded, P: Tensor, scales: Scales | None, parts: Tensor, pixels: int, running: tuple[Tensor, ...],
    numbers: tuple[bool, float, float], per_edge: int = 1, affine: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """The same, written to `found`; `affine`: scale and shift of each batch norm, (K, C'), in place of scales."""
    groups, outer, inner = P.shape
    call = Call("fold", inner)
    call.numbers(groups, outer, inner, per_edge, pixels, len(parts))
    call.tensor(parts)
    call.tensor(P.contiguous())
    _add_scales(call, scales)
    for row in affine or (None, None):
        call.tensor(row)
    for tensor in running:
        call.tensor(tensor)
    call.numbers(numbers[0])
    for tensor in found:
        call.tensor(tensor)
    call.numbers(ctypes.addressof(doubles(*numbers[1:])))
    call()


def fold_gradient(
    P: Tensor, scales: Scales | None, kept: Folded, parts: Tensor, pixels: int, for_mixture: Tensor | None,
    per_edge: int = 1, affine: Sequence[Tensor] = (),
) -> FoldGradient:  # fmt: skip
    """What the sums of g d' and g over pixels, in parts, make of P and of d; the mixture's is written.

    `affine`: each batch norm's scale, (K, C'), and where its gradient and its shift's are written.
    """
    P = P.contiguous()
    groups, outer, inner = P.shape
    found = FoldGradient(torch.empty_like(P), torch.empty_like(kept.covariance), torch.empty_like(kept.mean))
    call = Call("fold_gradient", inner)
    call.numbers(groups, outer, inner, per_edge, pixels, len(parts))
    call.tensor(parts)
    call.tensor(P)
    _add_scales(call, scales)
    for tensor in (for_mixture, *(affine or (None,) * 3), kept.means, kept.factors, kept.mean, kept.covariance, *found):
        call.tensor(tensor)
    call()
    return found
