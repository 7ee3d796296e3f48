"""The operators of darts/models/fused/by_hand.py on a CPU: arguments for the functions of source.c.

They are those of darts/models/kernels/operators.py, whose docstrings describe them, and more for found cells. Maps are
float32 and channels last, or some channels of a wider map; their channels are a multiple of 4. Sums over pixels come in
parts, of some images each.
"""

from darts.models.compiled.depthwise import kernel_gradients, measured, source_gradient
from darts.models.compiled.folding import fold, fold_gradient, folded
from darts.models.compiled.norms import every_second, every_second_gradient, fold_norm, fold_norm_gradient
from darts.models.compiled.pools import (
    fold_pools_gradient,
    folded_pools,
    pool_maps_gradient,
    pool_products,
    pool_source_gradient,
    pooled,
)
from darts.models.compiled.sums import (
    Changes,
    combined,
    mapped,
    parts,
    products,
    scaled_sum,
    sum_parts,
    where_positive,
)

__all__ = [
    "Changes",
    "combined",
    "every_second",
    "every_second_gradient",
    "fold",
    "fold_gradient",
    "fold_norm",
    "fold_norm_gradient",
    "fold_pools_gradient",
    "folded",
    "folded_pools",
    "kernel_gradients",
    "mapped",
    "measured",
    "parts",
    "pool_maps_gradient",
    "pool_products",
    "pool_source_gradient",
    "pooled",
    "products",
    "scaled_sum",
    "source_gradient",
    "sum_parts",
    "where_positive",
]
