"""The searches of a comparison: which there are, and the settings that each is composed of."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException

from darts.compare.settings import CompareSettings
from darts.config.compose import dotted_key
from darts.config.identity import digest
from darts.loop.record import experiment
from darts.runtime.errors import UserError
from darts.search.settings import (
    BlackBoxSettings,
    SearchSettings,
    refuse_unused,
    search_settings,
    uses,
)
from darts.spaces.membership import check_membership
from darts.spaces.sources import random_genotype

PASSED = (
    "dataset",
    "space",
    "device",
    "deterministic",
    "precision",
    "graphs",
    "runs",
    "benchmark",
    "experiment",
    "logger",
    "plugins",
)
DRAWN = 20


@dataclass(frozen=True)
class Search:
    """One search to run."""

    method: str  # its name, and settings of its own after spaces
    seed: int
    protocol: str  # stands for all its settings

    @property
    def name(self) -> str:
        """How its folder is called: equal names mean equal results."""
        return f"{self.method.split()[0]}_{self.protocol}_seed{self.seed}"


def plan_searches(settings: CompareSettings) -> list[Search]:
    """All searches, seed after seed, so that an interrupted comparison has all methods."""
    return [planned_search(settings, method, seed) for seed in settings.seeds for method in settings.methods]


def planned_search(settings: CompareSettings, method: str, seed: int) -> Search:
    """One of them; `UserError` where its settings make none."""
    own = experiment(settings_of_search(settings, method, seed))
    return Search(method, seed, digest({key: value for key, value in own.items() if key != "seed"}))


def search_folder(folder: Path, search: Search) -> Path:
    """Where a search of the comparison lies."""
    return folder / "searches" / search.name


def finished_searches(settings: CompareSettings, folder: Path) -> Iterator[tuple[Search, Path]]:
    """Those that have ended well, with their folders."""
    for search in plan_searches(settings):
        place = search_folder(folder, search)
        if (place / "genotype.json").exists():
            yield search, place


def settings_of_search(settings: CompareSettings, method: str, seed: int) -> SearchSettings | BlackBoxSettings:
    """A search's own settings, with what it shares with the comparison; `UserError` where they make none.

    What the comparison gives to all searches is ignored by the kind of search that does not use it; what is given to
    this method is not.
    """
    overrides = HydraConfig.get().overrides.task
    shared = [item for item in overrides if dotted_key(item).split(".")[0] in PASSED]
    limits = [f"budget.{name}={shown(value)}" for name, value in vars(settings.budget).items()]
    limited = any(value is not None for value in vars(settings.budget).values())
    scored = [] if settings.scored_by is None else [f"evaluator={settings.scored_by}"]
    name, *own = method.split()
    given = [*shared, f"method={name}", f"seed={seed}", *(limits if limited else []), *scored]
    found = _composed(method, (*given, *flat(settings.searches), *own))
    for override in own:
        refuse_unused(dotted_key(override), found)
    return found


def refuse_useless(settings: CompareSettings) -> None:
    """Raise `UserError` where `searches` sets what none of the methods uses."""
    found = [settings_of_search(settings, method, settings.seeds[0]) for method in settings.methods]
    for override in flat(settings.searches):
        key = dotted_key(override)
        if found and not any(uses(one, key) for one in found):
            raise UserError(f"searches.{key} is given, but none of the methods uses it")


def refuse_other_spaces(settings: CompareSettings) -> None:
    """Raise `UserError` where a method searches a space whose cells are not of the comparison's, before it runs.

    `DRAWN` random cells of each search's space stand for what it may find.
    """
    for method in settings.methods:
        space = settings_of_search(settings, method, settings.seeds[0]).space
        drawn = DRAWN if space != settings.space else 0
        for number in range(drawn):
            found = random_genotype(space, settings.seed, number)
            check_membership(found, settings.space, f"methods: {method!r}")


@functools.cache
def _composed(method: str, overrides: tuple[str, ...]) -> SearchSettings | BlackBoxSettings:
    try:
        return search_settings(compose("search", list(overrides)))
    except HydraException as error:
        raise UserError(f"methods: {method!r}: {' '.join(str(error).split())[:300]}") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested values as Hydra's overrides."""
    found = []
    for key, value in values.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}={shown(value)}"]
    return found


def shown(value: Any) -> str:
    """A value as Hydra's overrides write it."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
