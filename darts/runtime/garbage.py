"""Keep Python's garbage collector from reading what PyTorch's modules hold, time and again and in vain.

The collector looks for cycles of objects that nothing else refers to. Its full collections read every object there is,
and PyTorch's modules hold some 180,000, which stay to the end. Without this module there are such collections while
PyTorch is imported, while pictures are drawn and as the interpreter ends.
"""

from __future__ import annotations

import atexit
import gc
import sys


def import_torch() -> None:
    """Import PyTorch without a collection, and set all objects that exist then apart from later ones (`gc.freeze`).

    For a command, before it imports what needs PyTorch. Where PyTorch is imported already, as in the second job of a
    sweep, this does nothing: it would also set apart, and so never free, cycles that the first job left.
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
    """Let this process end without a collection. No file may rely on one to be written out or closed."""
    atexit.register(gc.freeze)
