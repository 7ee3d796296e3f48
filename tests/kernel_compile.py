"""Triton kernels compiled for an H100 on a machine without one; run as a process of its own. Prints names as JSON.

The interpreter says what kernels compute, not whether Triton can compile them.
"""

from __future__ import annotations

import json
from typing import Any

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from darts.models.kernels import depthwise, fold, linear

H100 = GPUTarget("cuda", 90, 32)
MAPS = {"image", "added", "result", "left", "right", "gradient", "rectified"}  # the other tensors are float32
NUMBERS = {"eps", "momentum", "unbiased", "ratio"}
TENSORS = {
    *("matrices", "constants", "parts", "kernel", "mean", "covariance", "for_mean", "for_covariance", "one", "other"),
    *("P", "a", "m", "S", "running_mean", "running_var", "W", "b", "means", "factors", "dW", "db", "dP", "dm", "dS"),
    *("da", "variance"),
}
LINEAR = {"PRECISION": "ieee", "PIXELS": 128}
STEPS = {"STRIDE": 2, "DILATION": 1, "SIDE": 5, "PIXELS": 64, "CHANNELS": 32}
TILES = {"OUTER": 16, "INNER": 16}
FOLD = {"PER_EDGE": 2, "HAS_SCALES": True, **TILES}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mapped": (linear._mapped, {**LINEAR, **TILES, "HAS_CONSTANTS": True, "HAS_ADDED": True, "RECTIFY": True}),
    "products": (linear._products, {**LINEAR, "LEFT": 16, "RIGHT": 32}),
    "moments": (linear._moments, {"PARTS": 32, "PLACES": 128}),
    "of moments": (linear._of_moments, {"SIZE": 16}),
    "depthwise": (depthwise._forward, STEPS),
    "depthwise, input": (depthwise._input_gradient, {**STEPS, "MASKED": True}),
    "depthwise, weight": (depthwise._weight_gradient, STEPS),
    "join": (depthwise._join, {"SIDE": 5, "A": 3, "B": 5, "BLOCK": 1024}),
    "fold": (fold._forward, {**FOLD, "MOVES": True}),
    "fold, gradient": (fold._backward, FOLD),
    "move": (fold._move, {"BLOCK": 256}),
}


def type_of(name: str, own: str) -> str:
    """What Triton is told of an argument."""
    if name == "tracked":
        return "*i64"
    if name in MAPS and own not in ("join", "fold", "fold, gradient"):
        return "*bf16"
    if name == "W" and own.startswith("depthwise"):  # a width, not a matrix
        return "i32"
    if name in TENSORS or name in MAPS:
        return "*fp32"
    return "fp32" if name in NUMBERS else "i32"


def main() -> None:
    """Compile all."""
    for own, (kernel, constants) in KERNELS.items():
        types = {name: "constexpr" if name in constants else type_of(name, own) for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        print(json.dumps([own, len(compiled(source, target=H100).asm["cubin"])]), flush=True)


if __name__ == "__main__":
    main()
