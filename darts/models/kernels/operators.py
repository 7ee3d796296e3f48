"""The operators of darts/models/fused/by_hand.py on a GPU."""

from darts.models.kernels.combine import combined, mapped
from darts.models.kernels.depthwise import measured
from darts.models.kernels.depthwise_gradients import kernel_gradients, source_gradient
from darts.models.kernels.fold_parts import folded
from darts.models.kernels.fold_parts import gradient as fold_gradient
from darts.models.kernels.pool_gradients import fold_gradient as fold_pools_gradient
from darts.models.kernels.pool_gradients import maps_gradient as pool_maps_gradient
from darts.models.kernels.pool_gradients import products as pool_products
from darts.models.kernels.pool_gradients import source_gradient as pool_source_gradient
from darts.models.kernels.pools import folded as folded_pools
from darts.models.kernels.pools import pooled
from darts.models.kernels.products import parts, products

__all__ = [
    "combined",
    "fold_gradient",
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
    "source_gradient",
]
