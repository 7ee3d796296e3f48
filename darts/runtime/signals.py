"""Deferred signals: on SIGTERM, SIGUSR1 or Ctrl-C a loop ends its step, saves, exits with 128 + its number.

Before its first step, while it is built, there is nothing to save, and it ends at once.

Clusters send SIGTERM or SIGUSR1 some time before they take a node away. A second Ctrl-C stops at once. Where a launcher
had a handler of its own for a signal (Slurm's requeue on SIGUSR2, say) that one is called once the run has saved.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

DEFERRED = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
AGAIN = "again"  # a KeyboardInterrupt's argument where Ctrl-C came twice
_received: list[int] = []
_before: dict[int, Any] = {}  # by signal: what it did outside
_building: list[bool] = []  # not empty within `stopped_at_once`


class Interrupted(BaseException):
    """A run has stopped because of a signal: no error, and only the command itself may catch it.

    `saved`: after a step, whose state is saved; else before its first one, with nothing to save.
    """

    def __init__(self, number: int, saved: bool = True) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.saved = saved


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Remember signals within the block, until `raise_if_interrupted`; elsewhere they do what they always do."""
    if _before or threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread, and to the outermost loop
        return
    requeue = getattr(signal, "SIGUSR2", None)
    requeues = [requeue] if requeue and callable(signal.getsignal(requeue)) else []
    _before.update({number: signal.signal(number, _remember) for number in (*DEFERRED, *requeues)})
    try:
        yield
    finally:
        _received.clear()
        for number, handler in _before.items():
            signal.signal(number, handler)
        _before.clear()


@contextmanager
def stopped_at_once(alone: bool = True) -> Iterator[None]:
    """Within the block, before a run's first step, a signal of `deferred_signals` ends it where it is.

    Nothing is lost: what was saved before stays. A launcher's own handler is called later, as always, and several
    processes (`alone` is false) stop together, at a step.
    """
    if not alone:
        yield
        return
    _building.append(True)
    try:
        _stop_at_once()
        yield
    finally:
        _building.pop()


def _stop_at_once() -> None:
    """Raise what ends a run that is being built, where a signal has come that no launcher handles."""
    for number in _received:
        before = _before.get(number)
        if callable(before) and before is not signal.default_int_handler:
            continue
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted(number, saved=False)


def pending_signal() -> int:
    """Return the number of the signal that has come, 0 for none."""
    return _received[0] if _received else 0


def raise_if_interrupted(number: int) -> None:
    """Raise `Interrupted` for a signal (0: none) once the run has saved, or call the launcher's own handler.

    A launcher's handler may end the process, or return: then the run continues.
    """
    if not number:
        return
    _received.clear()
    launchers = _before.get(number)
    if callable(launchers) and launchers is not signal.default_int_handler:
        launchers(number, None)
    else:
        raise Interrupted(number)


def _remember(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        raise KeyboardInterrupt(AGAIN)
    if number == signal.SIGINT and os.environ.get("RANK", "0") == "0" and not _building:
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
    _received.append(number)
    if _building:
        _stop_at_once()
