"""What one choice brings with it: a recurrent cell reads text, and a text asks for a recurrent cell.

Hydra's defaults list cannot say so, for a group that follows from another may not override a third. Values that follow
from a space (sizes, rates) stand in conf/implied/COMMAND/SPACE.yaml, beneath experiments and what is typed.
"""

from __future__ import annotations

from collections.abc import Sequence

from darts.config.overrides import given_value

FOLLOWING = [  # a choice and one that follows from it
    (("space", "recurrent"), ("dataset", "bible")),
    (("dataset", "bible"), ("space", "recurrent")),
    (("dataset", "text_folder"), ("space", "recurrent")),
    (("space", "recurrent"), ("evaluator", "brief_training_text")),
    (("dataset", "bible"), ("evaluator", "brief_training_text")),
    (("dataset", "text_folder"), ("evaluator", "brief_training_text")),
    (("experiment", "darts_ptb"), ("evaluator", "brief_training_text")),
    (("experiment", "darts_wikitext2"), ("evaluator", "brief_training_text")),
]
NOT_TYPED = ("evaluator=brief_training_text",)  # which a search by gradients ignores, and does not refuse
WITH_DATA = ("search", "final", "compare", "select", "tune", "correlate", "benchmark")  # commands with a data set


def implied_choices(command: str, overrides: Sequence[str]) -> list[str]:
    """The choices, `group=name`, that follow from typed ones and are not typed themselves."""
    typed = {}
    for override in overrides:
        key, _, _ = override.lstrip("+").partition("=")
        typed[key] = given_value(override)
    if command not in WITH_DATA:
        return []
    found = []
    for (group, name), (other, following) in FOLLOWING:
        useless = other == "evaluator" and command != "search"
        decided = "experiment" in typed and group != "experiment"  # which chooses data and space
        if typed.get(group) == name and other not in typed and not useless and not decided:
            typed[other] = following
            found.append(f"{other}={following}")
    return found
