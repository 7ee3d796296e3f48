"""Loggers that hand a run to an experiment tracker: Weights & Biases, MLflow. Each library is imported late.

Neither can take back what a killed run has logged of an epoch that is trained again. A resumed run therefore begins
a run of its own there and hands over the lines of history.jsonl first, so that every run is whole by itself.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from PIL import Image

from darts.config.registry import register
from darts.loop.loggers import LogWriter, StepLogger
from darts.runtime.errors import UserError, one_line, optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUIREMENTS = "requirements-trackers.txt"


class WandbMode(Enum):
    """Whether Weights & Biases sends what it is given."""

    ONLINE = "online"
    OFFLINE = "offline"


@register("logger", "wandb")
@dataclass
class Wandb(StepLogger):
    """Weights & Biases, in the run's folder; `wandb sync FOLDER/wandb/offline-run-*` sends what was kept offline."""

    project: str  # under which runs are filed
    mode: WandbMode  # OFFLINE: nothing is sent, no account is needed

    def open(self, folder: Path, first: int) -> LogWriter:
        wandb = optional("wandb", "logger=wandb", REQUIREMENTS)
        return _WandbRun(wandb, self, folder, first)


class _WandbRun(LogWriter):
    """One run of Weights & Biases. Epochs and training steps are axes of their own there."""

    def __init__(self, wandb: Any, settings: Wandb, folder: Path, first: int) -> None:
        self.wandb = wandb
        name, labels = _name(folder, first), _labels(folder)
        tags = [labels[key][:64] for key in ("method", "dataset") if key in labels]  # of as many characters as it takes
        try:
            quiet = wandb.Settings(silent=True, console="off")
            self.run = wandb.init(
                project=settings.project, name=name, dir=str(folder), mode=settings.mode.value, settings=quiet,
                config=_settings(folder), reinit="create_new",
                group=labels.get("sweep", "")[:128] or None, job_type=labels.get("kind"), tags=tags,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  no account, no network, a broken installation
            offline = "" if settings.mode is WandbMode.OFFLINE else "; or give logger.mode=OFFLINE"
            raise UserError(f"logger=wandb: {one_line(error)}{offline}") from None
        for axis, names in (("step", "steps/*"), ("epoch", "*")):
            self.run.define_metric(names, step_metric=axis)
        for line in _lines_before(folder, first):
            self.scalars(line.pop("step"), line)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "epoch": step})

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **{f"steps/{name}": value for name, value in values.items()}})

    def figure(self, step: int, name: str, figure: Figure) -> None:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        self.run.log({name: self.wandb.Image(Image.open(drawn)), "epoch": step})

    def results(self, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
        self.run.config.update(dict(settings), allow_val_change=True)
        self.run.summary.update({f"result/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self.run.finish()


@register("logger", "mlflow")
@dataclass
class Mlflow(StepLogger):
    """MLflow: a server, a database or a folder."""

    uri: str  # where runs are kept: sqlite:///FILE, a folder, or http://SERVER
    experiment: str  # under which runs are filed

    def open(self, folder: Path, first: int) -> LogWriter:
        mlflow = optional("mlflow", "logger=mlflow", REQUIREMENTS)
        place = self.uri.removeprefix("sqlite:///")
        if "://" not in place:  # a file or a folder
            try:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                raise _unusable(self.uri, error) from None
        if "://" not in place or place.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # it is what `uri` asks for
        return _MlflowRun(mlflow, self, folder, first)


def _unusable(uri: str, error: Exception) -> UserError:
    return UserError(f"logger=mlflow: logger.uri {one_line(uri)} cannot be used: {one_line(error)}")


class _MlflowRun(LogWriter):
    """One run of MLflow, by its client, which keeps no state of the process."""

    def __init__(self, mlflow: Any, settings: Mlflow, folder: Path, first: int) -> None:
        try:
            self.client = mlflow.MlflowClient(settings.uri)
            found = self.client.get_experiment_by_name(settings.experiment)
            number = found.experiment_id if found else self._experiment(settings)
            run = self.client.create_run(number, run_name=_name(folder, first), tags=_labels(folder))
            self.identifier = run.info.run_id
        except Exception as error:  # noqa: BLE001  whatever its stores raise
            raise _unusable(settings.uri, error) from None
        self.metric, self.param = mlflow.entities.Metric, mlflow.entities.Param
        self._params(_settings(folder))
        for line in _lines_before(folder, first):
            self.scalars(line.pop("step"), line)

    def _experiment(self, settings: Mlflow) -> str:
        return str(self.client.create_experiment(settings.experiment, **_place(settings)))

    def _params(self, settings: Mapping[str, Any]) -> None:
        params = [self.param(_allowed(name), str(value)[:500]) for name, value in settings.items()]
        for start in range(0, len(params), 100):  # as many as one call takes
            self.client.log_batch(self.identifier, params=params[start : start + 100])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        import time

        now = int(1000 * time.time())
        metrics = [self.metric(_allowed(name), float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.identifier, metrics=metrics)

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        self.scalars(step, {f"steps/{name}": value for name, value in values.items()})

    def figure(self, step: int, name: str, figure: Figure) -> None:
        self.client.log_figure(self.identifier, figure, f"{name}/{step:04d}.png")

    def text(self, step: int, name: str, text: str) -> None:
        self.client.log_text(self.identifier, text, f"{name}/{step:04d}.md")

    def results(self, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
        self.scalars(0, {f"result/{name}": value for name, value in values.items()})

    def close(self) -> None:
        self.client.set_terminated(self.identifier)


def _place(settings: Mlflow) -> dict[str, str]:
    """Where a database's pictures and texts go: beside it, as they cannot be within; a server decides for itself."""
    if not settings.uri.startswith("sqlite:///"):
        return {}
    database = Path(settings.uri.removeprefix("sqlite:///")).resolve()
    return {"artifact_location": (database.parent / f"{database.stem}_files").as_uri()}


def _allowed(name: str) -> str:
    """A name of the characters that MLflow takes."""
    kept = (letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
    return "".join(kept)[:250]


def _name(folder: Path, first: int) -> str:
    """What a run is called: its folder and the one above, and where it went on."""
    own = "/".join(folder.resolve().parts[-2:])
    return own if first == 1 else f"{own}, from {first}"


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder, by dotted name; none before it has written them."""
    return dict(_record(folder).get("settings", {}))


def _labels(folder: Path) -> dict[str, str]:
    """What a run is found by among others, as far as known: kind, method, dataset; sweep: the name of its folder."""
    record, settings = _record(folder), _settings(folder)
    known = {"kind": record.get("kind"), "method": settings.get("method.name"), "dataset": settings.get("dataset.name")}
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        known["sweep"] = Path(HydraConfig.get().sweep.dir).name
    return {name: str(value) for name, value in known.items() if value}


def _record(folder: Path) -> dict[str, Any]:
    """What the run in a folder has written of itself; nothing before it has."""
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _lines_before(folder: Path, first: int) -> list[dict[str, Any]]:
    """The numbers of the epochs or evaluations before `first`, each with its "step"."""
    try:
        lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    found = []
    for line in lines:
        step = line.get("epoch", line.get("evaluation"))
        if step < first:
            numbers = {name: value for name, value in line.items() if isinstance(value, float)}
            found.append({**numbers, "step": step})
    return found
