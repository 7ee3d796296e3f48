"""Names as the system gives them, as files and people are given them: whatever the locale, and where they are no text.

A name on disk is bytes. Python turns them into a text by the locale, and keeps what it cannot decode as lone
surrogates, which no file in UTF-8 and no console takes.
"""

from __future__ import annotations

import os
import sys


def encoded(text: str) -> bytes:
    """A text in UTF-8; what has no such form (an undecodable byte of a name) as an escape, `\\udce9`."""
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """A text as `encoded` writes it."""
    return encoded(text).decode("utf-8")


def utf8_name(name: str) -> str:
    """A name from the system with its bytes read as UTF-8, the same in every locale; others as they are."""
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # this locale cannot have given it: it has been read already
        return name


def system_name(name: str) -> str:
    """The name by which the system knows a file whose name was read as UTF-8; the inverse of `utf8_name`."""
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte: no file is called so
        return name


def lose_no_line() -> None:
    """Let the console take every text: what its encoding lacks is written as an escape, and the line is not lost."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
