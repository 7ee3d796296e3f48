"""The searches of a comparison: which there are, and the settings that each is composed of."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darts.compare.settings import CompareSettings
from darts.config.compose import dotted_key, quoted
from darts.config.identity import digest
from darts.config.implied import implied_choices
from darts.config.refused import configuration
from darts.config.registry import typed_overrides
from darts.loop.record import experiment
from darts.runtime.errors import UserError, about
from darts.runtime.seeding import derive
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
    "constraints",
    "experiment",
    "logger",
    "plugins",
)
DRAWN = 20
RANDOM_SEARCH = "random"  # the method whose searches are the baseline of the same budget


def is_random_search(group: str) -> bool:
    """Whether a group is the searches of random search that are the baseline: under no settings of their own."""
    return group == RANDOM_SEARCH


def searched_methods(settings: CompareSettings) -> list[str]:
    """The methods whose searches are run: those that were asked for, and random search beside them, unless told not."""
    methods = list(settings.methods)
    if methods and settings.random.search and RANDOM_SEARCH not in methods:
        methods.append(RANDOM_SEARCH)
    return methods


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
    methods = searched_methods(settings)
    return [planned_search(settings, method, seed) for seed in settings.seeds for method in methods]


def planned_search(settings: CompareSettings, method: str, seed: int) -> Search:
    """One of them; `UserError` where its settings make none."""
    own = experiment(settings_of_search(settings, method, seed))
    return Search(method, seed, digest({key: value for key, value in own.items() if key != "seed"}))


def search_folder(settings: CompareSettings, folder: Path, search: Search) -> Path:
    """Where a search of the comparison lies."""
    place = folder / "searches" if settings.searches_in is None else Path(settings.searches_in).expanduser()
    return place / search.name


def finished_searches(settings: CompareSettings, folder: Path) -> Iterator[tuple[Search, Path]]:
    """Those that have ended well, with their folders."""
    for search in plan_searches(settings):
        place = search_folder(settings, folder, search)
        if (place / "genotype.json").exists():
            yield search, place


def settings_of_search(settings: CompareSettings, method: str, seed: int) -> SearchSettings | BlackBoxSettings:
    """A search's own settings, with what it shares with the comparison; `UserError` where they make none.

    What the comparison gives to all searches is ignored by the kind of search that does not use it; what is given to
    this method is not.
    """
    overrides = typed_overrides()
    shared = [item for item in overrides if dotted_key(item).split(".")[0] in PASSED]
    if {"dataset", "tasks"} & {dotted_key(item) for item in method.split()[1:]}:  # a search on data of its own
        shared = [item for item in shared if dotted_key(item).split(".")[0] != "dataset"]
    limits = vars(settings.budget)
    if is_random_search(method) and not limited(limits):
        limits = budget_of_baseline(settings)
    given_limits = [f"budget.{name}={shown(value)}" for name, value in limits.items()] if limited(limits) else []
    scored = scoring(settings)
    name, *own = method.split()
    refuse_shared_settings(settings, method, own)
    any_method = [] if method in settings.methods else ["for_method=null"]  # an experiment may be of one method
    given = [*shared, f"method={name}", f"seed={seed_of(method, seed)}", *given_limits, *scored, *any_method]
    searches = flat(settings.searches)
    following = implied_choices("search", [*given, *searches, *own])
    found = _composed(method, (*given, *following, *searches, *own))
    for override in own:
        refuse_unused(dotted_key(override), found)
    by_table = settings.scored_by == "table"  # whose answers cost nothing else
    if settings.budget.evaluations is not None and isinstance(found, SearchSettings) and not by_table:
        raise UserError(
            f"budget.evaluations is {settings.budget.evaluations}, but {name} searches by gradients and makes none; "
            "give budget.epochs, budget.minutes or budget.macs"
        )
    return found


def scoring(settings: CompareSettings) -> list[str]:
    """What scores cells in the searches: on a device, where no limit is given, accuracy and latency as two aims."""
    own = settings.scored_by
    two_aims = settings.constraints.latency_table is not None and settings.constraints.latency_ms is None
    if two_aims and own != "multi_objective":
        return ["evaluator=multi_objective", *([] if own is None else [f"evaluator@evaluator.accuracy={own}"])]
    return [] if own is None else [f"evaluator={own}"]


def seed_of(method: str, seed: int) -> int:
    """The seed of a search: that of random search is another than the methods', which would begin with its cells."""
    return derive(seed, "random search") % 2**32 if is_random_search(method) else seed


def refuse_shared_settings(settings: CompareSettings, method: str, own: Sequence[str]) -> None:
    """`UserError` where one method, or `searches`, sets what all searches must have in common or each have alone."""
    for override in [*own, *flat(settings.searches)]:
        key = dotted_key(override)
        if key == "seed":
            raise UserError(f"methods: {method!r}: seed is set; the searches' seeds are seeds=[...]")
        if key.split(".")[0] == "budget" and settings.random.search:
            allowed = "give one budget for all searches (budget.NAME=...), or random.search=false"
            raise UserError(f"methods: {method!r}: {key} is set for some searches only; {allowed}")


def limited(limits: Mapping[str, float | None]) -> bool:
    """Whether a budget has any limit."""
    return any(value is not None for value in limits.values())


def budget_of_baseline(settings: CompareSettings) -> dict[str, float | None]:
    """What random search may spend where `budget` says nothing: as much as the dearest of the methods' own settings.

    Where there is a search by gradients among them it counts in passes over all training images; else it gets the
    limits that all methods have. `UserError` where it is not known what a method will spend.
    """
    others = [method for method in settings.methods if not is_random_search(method)]
    found = [settings_of_search(settings, method, settings.seeds[0]) for method in others]
    names, planned = vars(settings.budget), [own.planned_epochs() for own in found]
    if not found:
        return dict(names)
    if any(isinstance(own, SearchSettings) for own in found):
        known = [epochs for epochs in planned if epochs is not None]
        limits: dict[str, float | None] = dict.fromkeys(names)
        limits["epochs"] = max(known) if len(known) == len(planned) else None
    else:
        common = {name: [getattr(own.budget, name) for own in found] for name in names}
        limits = {name: None if None in values else max(values) for name, values in common.items()}
    if not limited(limits):
        allowed = "a limit for all searches (budget.epochs=...), or random.search=false"
        raise UserError(f"budget: the methods have none in common to hold random search by; give {allowed}")
    return limits


def refuse_useless(settings: CompareSettings) -> None:
    """Raise `UserError` where `searches` sets what none of the methods uses."""
    found = [settings_of_search(settings, method, settings.seeds[0]) for method in searched_methods(settings)]
    for override in flat(settings.searches):
        key = dotted_key(override)
        if found and not any(uses(one, key) for one in found):
            raise UserError(f"searches.{key} is given, but none of the methods uses it")


def refuse_other_spaces(settings: CompareSettings) -> None:
    """Raise `UserError` where a method searches a space whose cells are not of the comparison's, before it runs.

    `DRAWN` random cells of each search's space stand for what it may find.
    """
    for method in searched_methods(settings):
        space = settings_of_search(settings, method, settings.seeds[0]).space
        drawn = DRAWN if space != settings.space else 0
        for number in range(drawn):
            found = random_genotype(space, settings.seed, number)
            check_membership(found, settings.space, f"methods: {method!r}")


@functools.cache
def _composed(method: str, overrides: tuple[str, ...]) -> SearchSettings | BlackBoxSettings:
    with about(f"methods: {method!r}"):
        return search_settings(configuration("search", overrides))


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
        return quoted(value, always=True)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
