"""Triton kernels compiled for an H100 on a machine without one; run as a process of its own. Prints names as JSON.

The interpreter says what kernels compute, not whether Triton can compile them.
"""

from __future__ import annotations

import json
from typing import Any

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from darts.models.kernels import (
    combine,
    depthwise,
    depthwise_gradients,
    fold,
    fold_parts,
    pool_gradients,
    pools,
    products,
)

H100 = GPUTarget("cuda", 90, 32)
MAPS = {
    *("image", "other", "added", "result", "left", "right", "gradient", "rectified", "pools", "plain", "maps"),
}  # the other tensors are float32
NUMBERS = {"eps", "momentum", "unbiased", "ratio"}
TENSORS = {
    *("matrices", "other_matrices", "constants", "more_constants", "still_more", "parts", "kernel", "second", "mean"),
    *("covariance", "for_mean", "for_covariance", "one", "P", "a", "m", "S", "running_mean", "running_var", "W", "b"),
    *("means", "factors", "dW", "db", "dP", "dm", "dS", "da", "variance", "mixture", "for_mixture", "scales", "linear"),
    "statistics",
}
STEPS = {"STRIDE": 2, "DILATION": 1, "SIDE": 5, "CANDIDATES": 2, "PIXELS": 64, "CHANNELS": 32}
TILES = {"OUTER": 16, "INNER": 16}
FOLD = {"PER_EDGE": 2, "HAS_SCALES": True, **TILES}
PARTS = {"PER": 2, "SCALED": True, "PARTS": 16, **TILES}
POOLS = {"POOLS": 2, "PIXELS": 64, "CHANNELS": 16}
COMBINED = {
    **{"IMAGES": 2, "PER": 2, "OTHER_PER": 1, "CONSTANTS": 2, "MORE": 1, "STILL_MORE": 1, "POOLS": 2, "PLAIN": 1},
    **{"HAS_ADDED": True, "RECTIFY": True, "PRECISION": "ieee", "PIXELS": 128, **TILES, "OTHER": 32},
}
LARGEST = {"OUTER": 64, "INNER": 64, "num_warps": 8}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "combined": (combine._combined, COMBINED),
    "combined, 64 channels": (combine._combined, {**COMBINED, **LARGEST, "OTHER": 64}),
    "products": (products._products, {"PRECISION": "ieee", "PIXELS": 128, "LEFT": 16, "RIGHT": 32}),
    "moments": (products._moments, {"PARTS": 32, "PLACES": 128}),
    "of moments": (products._of_moments, {"SIZE": 16}),
    "depthwise": (depthwise._forward, {**STEPS, "RECTIFY": True, "MOMENTS": True}),
    "depthwise, 64 channels": (depthwise._forward, {**STEPS, "RECTIFY": True, "MOMENTS": True, "CHANNELS": 64}),
    "depthwise, input": (depthwise_gradients._input_gradient, {**STEPS, "MASKED": True, "HAS_ADDED": True}),
    "depthwise, weight": (depthwise_gradients._weight_gradient, {**STEPS, "RECTIFY": True}),
    "depthwise, sums": (depthwise_gradients._summed, {"SIDE": 5, "CANDIDATES": 2, "PARTS": 16, "PLACES": 256}),
    "fold": (fold._forward, {**FOLD, "MOVES": True}),
    "fold, gradient": (fold._backward, FOLD),
    "move": (fold._move, {"BLOCK": 256}),
    "fold of parts": (fold_parts._forward, {**PARTS, "MOVES": True}),
    "fold of parts, gradient": (fold_parts._backward, PARTS),
    "fold of parts, 64 channels": (fold_parts._backward, {**PARTS, **LARGEST, "PARTS": 1, "num_warps": 16}),
    "pooled": (pools._pooled, {"STRIDE": 2, "SIDE": 3, "PIXELS": 64, "CHANNELS": 16}),
    "pools, fold": (pools._fold, {"POOLS": 2, "PLAIN": 1, "NORMED": True, "PARTS": 16, "CHANNELS": 16}),
    "pools, products": (pool_gradients._products, {**POOLS, "PLAIN": 1}),
    "pools, fold gradient": (
        pool_gradients._fold_gradient, {"POOLS": 2, "KINDS": 3, "NORMED": True, "PARTS": 16, "CHANNELS": 64},
    ),
    "pools, maps": (pool_gradients._maps_gradient, {"KINDS": 3, "NORMED": True, "PIXELS": 64, "CHANNELS": 16}),
    "pools, source": (pool_gradients._source_gradient, {**POOLS, "STRIDE": 1, "SIDE": 3, "PLAIN": 1}),
}  # fmt: skip


def type_of(name: str, own: str) -> str:
    """What Triton is told of an argument."""
    if name in ("tracked", "taps"):
        return "*i64" if name == "tracked" else "*u8"
    if (name, own) in (("plain", "pools, fold"), ("plain", "pools, fold gradient")):  # a column, not a map
        return "i32"
    if name in ("W", "a", "b") and not own.startswith("fold"):  # a width or a side, not a matrix or a vector
        return "i32"
    if (name, own) == ("other", "depthwise, sums"):
        return "*fp32"
    if name in MAPS:
        return "*bf16"
    if name in TENSORS:
        return "*fp32"
    return "fp32" if name in NUMBERS else "i32"


def hinted(kernel: Any, types: dict[str, str]) -> dict[tuple[int], list[list[Any]]]:
    """What Triton is told of the published step: 16 divides addresses and sizes, but for those it is not to look at."""
    looked_at = {parameter.name for parameter in kernel.params if not parameter.do_not_specialize}
    found = [at for at, name in enumerate(types) if types[name] in ("i32", "*bf16", "*fp32") and name in looked_at]
    return {(at,): [["tt.divisibility", 16]] for at in found}


def main() -> None:
    """Compile all."""
    for own, (kernel, given) in KERNELS.items():
        options = {name: value for name, value in given.items() if name == "num_warps"}
        constants = {name: value for name, value in given.items() if name != "num_warps"}
        types = {name: "constexpr" if name in constants else type_of(name, own) for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=hinted(kernel, types))
        print(json.dumps([own, len(compiled(source, target=H100, options=options).asm["cubin"])]), flush=True)


if __name__ == "__main__":
    main()
