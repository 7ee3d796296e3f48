"""The supernet of a space, whatever its skeleton: of cells, or of a chain of layers."""

from __future__ import annotations

from darts.models.chain import ChainSupernet
from darts.models.layers import layer
from darts.models.operations import candidate
from darts.models.supernet import Mixing, Supernet
from darts.models.supernet_macs import ChainMacs, SupernetMacs
from darts.spaces.search_space import InputShape, SearchSpace, Skeleton, Stem

ImageSupernet = Supernet | ChainSupernet


def plain_supernet(
    space: SearchSpace, cells: int, channels: int, stem: Stem, shape: InputShape, mixing: Mixing
) -> ImageSupernet:
    """The supernet in its plain form, which counts its multiply-adds; `cells` is not used of a chain."""
    if space.chain is not None and not isinstance(stem, str):
        chain = ChainSupernet(space, channels, stem, shape, mixing)
        chain.macs = ChainMacs(space, channels, stem, shape, mixing)
        return chain
    plans = space.plan_supernet(cells, channels, stem)
    supernet = Supernet(plans, space, shape, stem, mixing)
    supernet.macs = SupernetMacs(plans, space, shape, stem, mixing)
    return supernet


def drawing_candidates(space: SearchSpace) -> list[str]:
    """The candidates of a space that draw random numbers."""
    if space.skeleton is Skeleton.recurrent:
        return []
    known = candidate if space.chain is None else layer
    return [name for name in space.candidates if known(name).random]
