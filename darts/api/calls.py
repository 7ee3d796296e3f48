"""Search, retrain and compare from Python, with settings as they are typed for the commands."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from darts.blackbox import loop as blackbox
from darts.compare import power, run
from darts.compare.sentences import sentences
from darts.compare.settings import CompareSettings
from darts.config.arguments import at_home
from darts.config.compose import CONF, quoted, refuse_unused, typed_settings
from darts.config.implied import implied_choices, own_experiment
from darts.config.refused import configuration
from darts.config.registry import load_plugins, named_plugins
from darts.config.renamed import refuse_old_names
from darts.config.run_folder import command_configuration, own_folder
from darts.loop.record import run_record
from darts.loop.settings import CommonSettings
from darts.runtime.errors import UserError, one_line
from darts.runtime.files import lock_folder
from darts.search import loop
from darts.search.settings import SearchSettings, search_settings
from darts.spaces.fixed import find_cell
from darts.spaces.genotype import Genotype
from darts.train import retraining
from darts.train.settings import final_settings
from darts.train.starting import started
from darts.use.trained import TrainedNetwork, load_network

KINDS = ("search", "final", "compare")


@dataclass(frozen=True)
class Search:
    """A search that has ended; it can be pickled."""

    genotype: Genotype
    folder: Path  # of the run, with its records and pictures
    history: list[dict[str, Any]]  # a line an epoch, or an evaluation in a search by scores
    cost: dict[str, float]  # evaluations, epochs, seconds, macs


@dataclass(frozen=True)
class Retraining:
    """A network that has been trained and tested; it can be pickled."""

    test_accuracy: float | None  # from 0 to 1; None of a language model, whose result has test_perplexity
    parameters: int  # without the auxiliary head
    macs: int  # multiply-adds of one image
    genotype: Genotype
    folder: Path  # of the run, with weights.pt
    result: dict[str, Any]  # all of result.json

    def network(self, device: str = "cpu") -> TrainedNetwork:
        """The trained network, in evaluation mode."""
        return load_network(self.folder, device)


@dataclass(frozen=True)
class Comparison:
    """A comparison that has ended; it can be pickled."""

    sentences: list[str]  # what the data show, a sentence or two a claim
    report: dict[str, Any]  # all of report.json
    folder: Path  # with report.html


def settings_of(command: str, *overrides: str) -> Any:
    """The typed settings of a command ("search", "final" or "compare") under overrides such as "seed=1".

    They are checked as on the command line, and are dataclasses: `dataclasses.replace` changes them. `plugins=[...]` is
    imported. `UserError` for what the command would refuse.
    """
    if command not in KINDS:
        raise UserError(f"command is {command!r}; it must be one of {', '.join(KINDS)}")
    with composed(command, overrides) as config:
        if command == "search":
            return search_settings(config, list(overrides))
        if command == "final":
            return final_settings(config, list(overrides))
        settings = typed_settings(config, CompareSettings)
    refuse_unused(settings, overrides)
    return settings


def run_search(*overrides: str, folder: str | Path | None = None) -> Search:
    """Search a cell, as `python train_search.py OVERRIDES` does.

    `folder` is the run's; the same folder again resumes, or answers at once where the search had ended. Default: a new
    one under `runs`/search. Raises `UserError` for wrong settings.
    """
    settings = settings_of("search", *overrides)
    place = _folder(folder, settings, "search", settings.method.name)
    run_of = loop.run if isinstance(settings, SearchSettings) else blackbox.run
    genotype = run_of(settings, place)
    lines = (place / "history.jsonl").read_text().splitlines()
    return Search(genotype, place, [json.loads(line) for line in lines], dict(run_record(place)["cost"]))


def run_retraining(
    genotype: Genotype | str | Path | None = None, *overrides: str, folder: str | Path | None = None
) -> Retraining:
    """Train a cell's network from scratch and test it, as `python train_final.py OVERRIDES` does.

    `genotype` is a cell, or what the command takes: a published name, a file, a run's folder, "latest" (the default).
    With "start_from=FILE" among the overrides a trained network is fine-tuned, and `genotype` is left out. The same
    `folder` again resumes. Raises `UserError` for wrong settings.
    """
    settings = settings_of("final", *overrides)
    if settings.start_from is not None:
        if genotype is not None:
            raise UserError("genotype is given with start_from, whose network has a cell; leave it out")
        settings, cell = started(settings)
    elif isinstance(genotype, Genotype):
        cell = genotype
    else:
        named = settings.genotype if genotype is None else str(genotype)
        cell = find_cell(named, settings.space, settings.runs, settings.seed).genotype
    place = _folder(folder, settings, "final", f"seed{settings.seed}")
    result = retraining.run(settings, cell, place)
    return Retraining(result.get("test_accuracy"), result["parameters"], result["macs"], cell, place, result)


def run_comparison(*overrides: str, folder: str | Path | None = None) -> Comparison:
    """Run a comparison and write its report, as `python -m darts.compare OVERRIDES` does.

    The same `folder` again runs what is lacking. Default: `runs`/compare/DATASET, which all comparisons on a data set
    share. Raises `UserError` for wrong settings, for a design that can show nothing, and for several tasks.
    """
    settings = settings_of("compare", *overrides)
    if settings.tasks:
        raise UserError("tasks: a comparison over several tasks is run by python -m darts.compare, not from Python")
    place = Path(settings.runs, "compare", settings.dataset.name) if folder is None else Path(folder)
    place = place.expanduser().resolve()
    planned = run.foretold(settings)
    power.refuse_powerless(settings, planned)
    with composed("compare", overrides, place), lock_folder(place):
        report, _ = run.run(settings, place, planned)
    return Comparison(sentences(report), json.loads((place / "report.json").read_text(encoding="utf-8")), place)


@contextmanager
def composed(command: str, overrides: Sequence[str], folder: Path | None = None) -> Iterator[DictConfig]:
    """A command's configuration under overrides, while Hydra knows it; with a folder, as if it ran there."""
    strange = next((item for item in overrides if not isinstance(item, str)), None)
    if strange is not None:
        raise UserError(
            f'overrides are texts, "seed=1", "search.epochs=2", each by itself; {one_line(strange)} is none'
        )
    refuse_old_names(overrides)
    load_plugins(named_plugins(overrides))
    overrides = own_experiment(command, at_home(overrides))
    before = logging.getLogger().handlers[:], logging.getLogger().level
    GlobalHydra.instance().clear()
    given = [
        *overrides,
        *implied_choices(command, overrides),
        *([] if folder is None else [f"hydra.run.dir={quoted(str(folder))}"]),
    ]
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            whole = configuration(command, given, return_hydra_config=folder is not None)
            if folder is not None:
                _tell_hydra(whole, command, folder)
            yield whole
    finally:
        HydraConfig.instance().cfg = None
        command_configuration.set(None)
        root = logging.getLogger()
        root.handlers[:], root.level = before


def _tell_hydra(config: DictConfig, command: str, folder: Path) -> None:
    """What Hydra knows of a job while its command runs, for the launcher that a comparison's trials go through."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(folder)
        config.hydra.job.config_name = command
    HydraConfig.instance().set_config(copy.deepcopy(config))
    with open_dict(config):
        del config["hydra"]
    command_configuration.set(config)


def _folder(given: str | Path | None, settings: CommonSettings, kind: str, ending: str) -> Path:
    if given is not None:
        return Path(given).expanduser().resolve()
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    return Path(own_folder(str(Path(settings.runs, kind, f"{stamp}_{ending}")))).resolve()
