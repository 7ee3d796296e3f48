"""Differentiable neural architecture search: search a cell, retrain it, compare it with random cells.

Layers, each importing only from those below it:

    describe.py, predict.py, select.py, ...   commands; the packages below are commands too
    api                   the calls from Python that this module offers
    compare, benchmark    comparisons with random cells; where the time goes
    search                bilevel search by gradients
    use                   trained networks: loaded, asked about pictures, exported
    blackbox              search by scores of cells
    train                 a genotype's network trained from scratch
    loop                  what the loops share: optimisation, position of a run, records, pictures
    methods               the parts of a differentiable method, one file for each place
    models                operations, supernet, network, cost
    tasks                 images and batches
    spaces                genotypes and what may be built
    config                from YAML to typed settings; registration of parts
    runtime               errors, files, seeding, device, processes
"""

import os
import warnings
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts.api.bilevel import Bilevel
    from darts.api.calls import (
        Comparison,
        Retraining,
        Search,
        run_comparison,
        run_retraining,
        run_search,
        settings_of,
    )
    from darts.config.registry import register
    from darts.runtime.errors import UserError
    from darts.spaces.genotype import Genotype
    from darts.spaces.published import published
    from darts.tasks.datasets import images_of
    from darts.tasks.settings import Dataset
    from darts.use.trained import TrainedNetwork, load_network

if "OMP_WAIT_POLICY" not in os.environ:
    # Read by GNU OpenMP as torch is imported: how often a thread without work looks for some before it sleeps. With the
    # default, 300,000, two runs on one machine can hold each other up until each is 20 to 80 times as slow.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_PUBLIC = {
    "run_search": "darts.api.calls",
    "run_retraining": "darts.api.calls",
    "run_comparison": "darts.api.calls",
    "settings_of": "darts.api.calls",
    "Search": "darts.api.calls",
    "Retraining": "darts.api.calls",
    "Comparison": "darts.api.calls",
    "Bilevel": "darts.api.bilevel",
    "load_network": "darts.use.trained",
    "TrainedNetwork": "darts.use.trained",
    "register": "darts.config.registry",
    "Dataset": "darts.tasks.settings",
    "images_of": "darts.tasks.datasets",
    "Genotype": "darts.spaces.genotype",
    "published": "darts.spaces.published",
    "UserError": "darts.runtime.errors",
}  # what Python is offered, imported when it is used; docs/python.md

__all__ = [
    "Bilevel",
    "Comparison",
    "Dataset",
    "Genotype",
    "Retraining",
    "Search",
    "TrainedNetwork",
    "UserError",
    "images_of",
    "load_network",
    "published",
    "register",
    "run_comparison",
    "run_retraining",
    "run_search",
    "settings_of",
]

__version__ = "0.2.0"


def _warn_of_the_other_darts() -> None:
    """Warn where the time-series library, which has the same import name, is installed in this environment."""
    for name in ("darts", "u8darts"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        warnings.warn(
            f"the distribution {name!r} is installed, too, and has the import name of darts-nas; "
            "give each an environment of its own",
            stacklevel=3,
        )


_warn_of_the_other_darts()


def __getattr__(name: str) -> Any:
    """What `_PUBLIC` names, which needs PyTorch, at its first use."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'darts' has no attribute {name!r}")
