"""Make bible_kjv.json.xz: the King James Bible (1611, public domain) as text for language models.

Usage: bible -f -p /usr/lib gen1:1-rev22:21 </dev/null | python darts/assets/make_bible_kjv.py

The command is of Debian's packages bible-kjv and bible-kjv-text; it prints a verse a line. Words are in lower case,
without punctuation, a verse a line, as in the Penn Treebank of language models. Of every ten chapters of a book, in
their order, the fifth is validation text and the tenth is test text; of a book with fewer than five chapters all are
training text.
"""

import json
import lzma
import pathlib
import re
import sys

VERSE = re.compile(r"(?P<book>\w+?)(?P<chapter>\d+):\d+ (?P<text>.*)")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def part_of(chapter: int) -> str:
    """The part of the text that a chapter of a book belongs to; chapters count from 1."""
    return {5: "valid", 0: "test"}.get(chapter % 10, "train")


def main() -> None:
    """Read the verses from standard input and write bible_kjv.json.xz beside this file."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for line in sys.stdin:
        verse = VERSE.fullmatch(line.strip())
        if verse is None:
            sys.exit(f"not a verse: {line[:60]!r}")
        words = WORD.findall(verse["text"].lower())
        parts[part_of(int(verse["chapter"]))].append(" ".join(words))
    content = {name: "\n".join(lines) + "\n" for name, lines in parts.items()}
    data = lzma.compress(json.dumps(content).encode(), preset=9 | lzma.PRESET_EXTREME)
    pathlib.Path(__file__).with_name("bible_kjv.json.xz").write_bytes(data)


if __name__ == "__main__":
    main()
