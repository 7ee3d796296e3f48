"""What was measured once on a folder of pictures, and is kept in `dataset.cache`: a convenience, never a condition."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from darts.runtime.errors import UserError
from darts.runtime.files import write_bytes

log = logging.getLogger(__name__)
RULES = 3  # how pictures are read: to be raised when their pixels change, so that older measurements are not taken

T = TypeVar("T")


def content_key(digest: str, *settings: Any) -> str:
    """Sixteen hexadecimal digits that stand for the content of some files, as its digest has it, and settings."""
    return hashlib.sha256(json.dumps([RULES, digest, settings]).encode()).hexdigest()[:16]


def remembered(folder: str, name: str, measure: Callable[[], T], taken: Callable[[Any], T]) -> T:
    """Return what the file `name` of a cache folder holds, through `taken`; else measure it and write the file.

    `measure` returns what JSON can hold; `taken` raises ValueError, LookupError, TypeError or AttributeError for a
    content that is not what it should be. A folder that cannot be read or written is told in a line of the log.
    """
    try:
        file = Path(folder).expanduser() / name
    except RuntimeError as error:  # there is no home
        log.info("dataset.cache %s: %s; what is measured on the pictures is not kept", folder, error)
        return measure()
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # it is measured again
        return taken(json.loads(file.read_text(encoding="utf-8")))
    measured = measure()
    try:
        write_bytes(file, json.dumps(measured).encode(), shared=True)
    except UserError as error:
        log.info("dataset.cache: %s; what is measured on the pictures is not kept", error)
    return measured
