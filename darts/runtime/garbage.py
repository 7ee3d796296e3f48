"""When Python looks for cycles of objects that nothing refers to: not in vain, among modules that stay to the end.

Importing PyTorch makes some 400,000 objects. Each full collection reads all there are: several while they are made,
some while pictures are drawn, and two as the interpreter ends.
"""

from __future__ import annotations

import atexit
import gc
import sys


def import_torch() -> None:
    """Import PyTorch; nothing is collected meanwhile, and what there is at its end never again.

    For a command before it imports what needs PyTorch. Where it is imported already, as in the second job of a sweep,
    this does nothing: what the first job left would be kept, too.
    """
    if "torch" in sys.modules:
        return
    before = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if before:
            gc.enable()


def end_without_collection() -> None:
    """Let this process end without a collection; files must not rely on one to be closed."""
    atexit.register(gc.freeze)
