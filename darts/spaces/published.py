"""The cells printed in the papers, in the papers' own notation."""

from __future__ import annotations

import functools

from darts.runtime.errors import unknown
from darts.spaces.genotype import Genotype
from darts.spaces.notation import from_notation

# name: (where it is printed, its space, the notation)
_PRINTED = {
    "darts_v1": (
        "DARTS, first order (Liu et al. 2019, arXiv 1806.09055)",
        "darts",
        """Genotype(
            normal=[
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
                ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 0), ('skip_connect', 2),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('skip_connect', 2), ('max_pool_3x3', 0),
                ('max_pool_3x3', 0), ('skip_connect', 2),
                ('skip_connect', 2), ('avg_pool_3x3', 0),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "darts_v2": (
        "DARTS, second order (Liu et al. 2019, arXiv 1806.09055)",
        "darts",
        """Genotype(
            normal=[
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('skip_connect', 0),
                ('skip_connect', 0), ('dil_conv_3x3', 2),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('skip_connect', 2), ('max_pool_3x3', 1),
                ('max_pool_3x3', 0), ('skip_connect', 2),
                ('skip_connect', 2), ('max_pool_3x3', 1),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "snas": (
        "SNAS, mild constraint (Xie et al. 2019, arXiv 1812.09926)",
        "darts",
        """Genotype(
            normal=[
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('skip_connect', 0), ('dil_conv_3x3', 1),
                ('skip_connect', 1), ('skip_connect', 0),
                ('skip_connect', 0), ('sep_conv_3x3', 1),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('max_pool_3x3', 1), ('skip_connect', 2),
                ('skip_connect', 2), ('max_pool_3x3', 1),
                ('max_pool_3x3', 0), ('dil_conv_5x5', 2),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "pdarts": (
        "P-DARTS (Chen et al. 2019, arXiv 1904.12760)",
        "darts",
        """Genotype(
            normal=[
                ('skip_connect', 0), ('dil_conv_3x3', 1),
                ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 3),
                ('sep_conv_3x3', 0), ('dil_conv_5x5', 4),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('avg_pool_3x3', 0), ('sep_conv_5x5', 1),
                ('sep_conv_3x3', 0), ('dil_conv_5x5', 2),
                ('max_pool_3x3', 0), ('dil_conv_3x3', 1),
                ('dil_conv_3x3', 1), ('dil_conv_5x5', 3),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "pc_darts": (
        "PC-DARTS, CIFAR-10 (Xu et al. 2020, arXiv 1907.05737)",
        "darts",
        """Genotype(
            normal=[
                ('sep_conv_3x3', 1), ('skip_connect', 0),
                ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
                ('sep_conv_5x5', 0), ('sep_conv_3x3', 1),
                ('avg_pool_3x3', 0), ('dil_conv_3x3', 1),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('sep_conv_5x5', 1), ('max_pool_3x3', 0),
                ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 3),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 2),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "pc_darts_imagenet": (
        "PC-DARTS, ImageNet (Xu et al. 2020, arXiv 1907.05737)",
        "darts",
        """Genotype(
            normal=[
                ('skip_connect', 1), ('sep_conv_3x3', 0),
                ('sep_conv_3x3', 0), ('skip_connect', 1),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 3),
                ('sep_conv_3x3', 1), ('dil_conv_5x5', 4),
            ],
            normal_concat=[2, 3, 4, 5],
            reduce=[
                ('sep_conv_3x3', 0), ('skip_connect', 1),
                ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                ('sep_conv_3x3', 2), ('sep_conv_3x3', 1),
                ('sep_conv_5x5', 0), ('sep_conv_3x3', 3),
            ],
            reduce_concat=[2, 3, 4, 5],
        )""",
    ),
    "nasnet": (
        "NASNet-A (Zoph et al. 2018, arXiv 1707.07012)",
        "nasnet",
        """Genotype(
            normal=[
                ('sep_conv_5x5', 1), ('sep_conv_3x3', 0),
                ('sep_conv_5x5', 0), ('sep_conv_3x3', 0),
                ('avg_pool_3x3', 1), ('skip_connect', 0),
                ('avg_pool_3x3', 0), ('avg_pool_3x3', 0),
                ('sep_conv_3x3', 1), ('skip_connect', 1),
            ],
            normal_concat=[2, 3, 4, 5, 6],
            reduce=[
                ('sep_conv_5x5', 1), ('sep_conv_7x7', 0),
                ('max_pool_3x3', 1), ('sep_conv_7x7', 0),
                ('avg_pool_3x3', 1), ('sep_conv_5x5', 0),
                ('skip_connect', 3), ('avg_pool_3x3', 2),
                ('sep_conv_3x3', 2), ('max_pool_3x3', 1),
            ],
            reduce_concat=[4, 5, 6],
        )""",
    ),
    "amoebanet": (
        "AmoebaNet-A (Real et al. 2019, arXiv 1802.01548)",
        "nasnet",
        """Genotype(
            normal=[
                ('avg_pool_3x3', 0), ('max_pool_3x3', 1),
                ('sep_conv_3x3', 0), ('sep_conv_5x5', 2),
                ('sep_conv_3x3', 0), ('avg_pool_3x3', 3),
                ('sep_conv_3x3', 1), ('skip_connect', 1),
                ('skip_connect', 0), ('avg_pool_3x3', 1),
            ],
            normal_concat=[4, 5, 6],
            reduce=[
                ('avg_pool_3x3', 0), ('sep_conv_3x3', 1),
                ('max_pool_3x3', 0), ('sep_conv_7x7', 2),
                ('sep_conv_7x7', 0), ('avg_pool_3x3', 1),
                ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5),
            ],
            reduce_concat=[3, 4, 6],
        )""",
    ),
    "darts_v1_recurrent": (
        "DARTS on text, first order (Liu et al. 2019, arXiv 1806.09055)",
        "recurrent",
        """Genotype(
            recurrent=[
                ('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3),
                ('relu', 4), ('identity', 1), ('relu', 5), ('relu', 1),
            ],
            concat=range(1, 9),
        )""",
    ),
    "darts_v2_recurrent": (
        "DARTS on text, second order (Liu et al. 2019, arXiv 1806.09055)",
        "recurrent",
        """Genotype(
            recurrent=[
                ('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1),
                ('tanh', 2), ('sigmoid', 5), ('tanh', 3), ('relu', 5),
            ],
            concat=range(1, 9),
        )""",
    ),
    "enas_recurrent": (
        "ENAS on text (Pham et al. 2018, arXiv 1802.03268)",
        "recurrent",
        """Genotype(
            recurrent=[
                ('tanh', 0), ('tanh', 1), ('relu', 1), ('tanh', 3), ('tanh', 3), ('relu', 3),
                ('relu', 4), ('relu', 7), ('relu', 8), ('relu', 8), ('relu', 8),
            ],
            concat=[2, 5, 6, 9, 10, 11],
        )""",
    ),
}

NAMES = tuple(_PRINTED)


def published(name: str) -> Genotype:
    """A published cell by its name in `NAMES`, in capitals or not; raises `UserError` for another name."""
    if name.lower() not in _PRINTED:
        raise unknown("published cell", name, NAMES)
    return _read(name.lower())


def is_published(name: str) -> bool:
    """Whether a text is the name of a published cell, in capitals or not."""
    return name.lower() in _PRINTED


@functools.cache
def _read(name: str) -> Genotype:
    source, space, notation = _PRINTED[name]
    genotype = from_notation(notation, space, origin=name)
    return Genotype(space, genotype.cells, {"name": name, "source": source})
