"""Hyperparameters of the training, beside the architecture: python -m darts.tune genotype=darts_v2 trials=20.

An Optuna study whose parameters are settings of this very command, each with its range; a trial trains on one part of
the training images and is judged on the other. The study lies in the folder (study.db) and goes on where it stopped:
each trial's proposals depend on the trials before it and on the seed alone.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from darts import commands, config, errors
from darts.errors import UserError
from darts.genotype_sources import find_genotype
from darts.seeding import derive

if TYPE_CHECKING:
    import optuna

    from darts.data import SearchData

config.register()
log = logging.getLogger("darts")


def proposed(trial: optuna.trial.Trial, parameters: list[str]) -> dict[str, Any]:
    """The trial's value of every setting."""
    found: dict[str, Any] = {}
    for given in map(commands.TuneSettings.range_of, parameters):
        if given.choices:
            found[given.name] = trial.suggest_categorical(given.name, given.choices)
        elif isinstance(given.low, int) and isinstance(given.high, int):
            found[given.name] = trial.suggest_int(given.name, given.low, given.high, log=given.log)
        else:
            found[given.name] = trial.suggest_float(given.name, given.low, given.high, log=given.log)
    return found


def with_values(settings: DictConfig, values: dict[str, Any]) -> commands.TuneSettings:
    """The command's settings with other values; `UserError` for a setting that there is not or a value it refuses."""
    changed = settings.copy()
    for name, value in values.items():
        if OmegaConf.select(changed, name) is None or name.split(".")[0] in ("parameters", "trials", "seed"):
            raise UserError(f"parameters.{name}: there is no such setting to tune")
        try:
            OmegaConf.update(changed, name, value)
        except OmegaConfBaseException as error:
            raise UserError(f"parameters.{name}: {str(error).splitlines()[0]}") from None
    return config.typed(changed, commands.TuneSettings)


def score(settings: commands.TuneSettings, folder: Path, opened: dict[str, SearchData]) -> float:
    """Validation accuracy of a brief training; images that a trial has opened serve the next ones."""
    from darts.brief import validation_accuracy
    from darts.data import search_data
    from darts.execution import ready_device

    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    genotype = find_genotype(settings.genotype, settings.space, settings.runs, settings.seed)
    key, size = repr((settings.dataset, settings.weight_share)), settings.train.batch_size
    if key not in opened:
        opened.clear()  # one set of images at a time
        opened[key] = search_data(settings.dataset, settings.weight_share, size, settings.seed, device)
    data = dataclasses.replace(opened[key], weights=opened[key].weights.of(size))
    return validation_accuracy(settings, genotype, data, folder, quiet=True)


def run(settings: DictConfig, folder: Path) -> optuna.study.Study:
    """Ask for trials until there are as many as wanted."""
    import optuna

    from darts.record import refuse_other_run, write_json

    typed = config.typed(settings, commands.TuneSettings)
    find_genotype(typed.genotype, typed.space, typed.runs, typed.seed)
    present = {key: value for key, value in config.identity(typed).items() if key != "trials"}
    refuse_other_run(folder, present)
    write_json(folder / "run.json", {"settings": present})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(folder / 'study.db').resolve()}"
    study = optuna.create_study(storage=storage, study_name="tune", direction="maximize", load_if_exists=True)
    opened: dict[str, SearchData] = {}
    finished = optuna.trial.TrialState.COMPLETE
    for stopped in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(stopped.number, state=optuna.trial.TrialState.FAIL)  # a killed run's; it is asked anew
    while (done := len(study.get_trials(deepcopy=False, states=(finished,)))) < typed.trials:
        study.sampler = optuna.samplers.TPESampler(seed=derive(typed.seed, "tune", done) % 2**32)
        trial = study.ask()
        values = proposed(trial, typed.parameters)
        accuracy = score(with_values(settings, values), folder / "trials" / f"{done}", opened)
        study.tell(trial, accuracy)
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in values.items())
        best = max(accuracy, study.best_value)
        log.info("trial %d/%d  validation accuracy %.2f%%, best %.2f%%  %s", done + 1, typed.trials, 100 * accuracy,
                 100 * best, shown)  # fmt: skip
    best_of = {"accuracy": study.best_value, "values": study.best_params, "trials": typed.trials}
    write_json(folder / "best.json", best_of)
    return study


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="tune")
@errors.door
def main(settings: DictConfig) -> float:
    """Run the study; returns the best validation error."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    study = run(settings, folder)
    given = " ".join(f"{name}={_shown(value)}" for name, value in study.best_params.items())
    log.info("\nbest validation accuracy %.2f%%", 100 * study.best_value)
    log.info("result: %s, the study in %s", folder / "best.json", folder / "study.db")
    log.info("next:   python train_final.py %s", given)
    return 1 - study.best_value


if __name__ == "__main__":
    main()
