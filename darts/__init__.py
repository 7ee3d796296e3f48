"""Differentiable neural architecture search: search a cell, retrain it, compare it with random cells.

Layers, each importing only from those below it:

    describe.py, select.py, tune.py, correlate.py   commands; the packages below are commands too
    compare, benchmark    comparisons with random cells; where the time goes
    search                bilevel search by gradients
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

import warnings
from importlib import metadata

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
