"""Runs in forked processes, so that a death costs a second and not the start of PyTorch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def forked(run: Callable[[], int]) -> int:
    """Begin a run in a forked process, which exits with what it returns, 1 after an exception; the process's number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = run()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)
