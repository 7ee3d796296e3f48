"""A polite stop: on SIGTERM, SIGUSR1 or Ctrl-C a loop ends its step and saves; the command exits with 128 + the signal.

Clusters send SIGTERM or SIGUSR1 some time before they take a node away. A second Ctrl-C stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

HEEDED = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
_received: list[int] = []
_depth = 0


class Interrupted(BaseException):
    """A loop has saved and stopped because a signal asked for it: no error, and nothing but the door may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def heeded() -> Iterator[None]:
    """Within the block the signals are remembered until `stop_if_asked`; elsewhere they do what they always do."""
    global _depth
    if _depth or threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread, and to the outermost loop
        return
    before = {number: signal.signal(number, _remember) for number in HEEDED}
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_if_asked(save: Callable[[], None] | None = None) -> None:
    """Save and raise `Interrupted` where a signal has come; called where a run can go on from."""
    if _received:
        if save is not None:
            save()
        raise Interrupted(_received[0])


def _remember(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _received:
        raise KeyboardInterrupt
    _received.append(number)
