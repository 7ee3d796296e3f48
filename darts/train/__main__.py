"""Retrain a found cell: python train_final.py [genotype=latest] [experiment=darts_cifar10] [setting=value ...]."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import CARRIED, SIZES, cli_command, next_command
from darts.config.compose import quoted
from darts.config.registry import typed_overrides
from darts.runtime import distributed
from darts.runtime.garbage import import_torch
from darts.spaces.fixed import FixedCell, find_cell
from darts.spaces.genotype import from_json
from darts.spaces.membership import next_settings
from darts.spaces.search_space import is_recurrent
from darts.tasks.metric import metric_among
from darts.train.settings import FinalSettings, final_settings

log = logging.getLogger("darts.train")


@cli_command("final")
def main(settings: DictConfig) -> float:
    """Train a network in Hydra's folder, or evaluate a saved one; returns the test error, for sweepers."""
    typed = final_settings(settings, typed_overrides())
    if typed.weights is not None:
        return evaluate(typed, typed.weights)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if typed.start_from is not None:
        return fine_tune(typed, folder)
    cell = find_cell(typed.genotype, typed.space, typed.runs, typed.seed)
    import_torch()
    from darts.loop.record import warn_of_other_data

    warn_of_other_data("the cell", cell.genotype, typed)
    return train(typed, cell, folder)


def evaluate(settings: FinalSettings, weights: str) -> float:
    """Test a saved network; returns the test error."""
    import_torch()
    from darts.train import saved

    distributed.require_single_process("weights=FILE")
    tested = saved.evaluate_file(settings, saved.weights_file(weights, settings.runs))
    top = f", top-5 {tested['top5_accuracy']:.4f}" if "top5_accuracy" in tested else ""
    log.info("test accuracy %.4f%s, test loss %.4f", tested["accuracy"], top, tested["loss"])
    return 1 - tested["accuracy"]


def fine_tune(settings: FinalSettings, folder: Path) -> float:
    """Train a trained network further on `dataset`, and test it; returns the test error."""
    import_torch()
    from darts.train.starting import started

    fine_tuning, genotype = started(settings)
    return train(fine_tuning, FixedCell(str(fine_tuning.start_from), genotype), folder)


def train(settings: FinalSettings, cell: FixedCell, folder: Path) -> float:
    """Train and test a cell's network; returns the test error."""
    from darts.train import retraining

    with distributed.process_group(settings.parallel, settings.device, settings.graphs):
        folder = Path(distributed.broadcast(str(folder)))
        result = retraining.run(settings, cell.genotype, folder)
    announce(result, folder, cell.origin)
    metric = metric_among(result, "test_")
    return metric.loss(float(result[f"test_{metric.name}"]))


def announce(result: dict[str, Any], folder: Path, cell: str) -> None:
    """Say how good the network is, where it lies and what to type next; `cell`: what names its cell from now on."""
    log.info("")
    if "start_from" in result:
        start = result["start_from"]
        log.info("fine-tuned from %s, which was trained on %s", start["weights"], start["dataset"])
    metric = metric_among(result, "test_")
    if "kept_epoch" in result:
        kept = metric.shown(result[f"validation_{metric.name}"])
        log.info("kept: epoch %d, the first with the best validation %s, %s", result["kept_epoch"], metric.name, kept)
    size = f"{result['parameters']:,} parameters, {result['macs'] / 1e6:.1f} M multiply-adds"
    tested = metric.shown(result[f"test_{metric.name}"])
    top = f", top-5 {metric.shown(result['top5_accuracy'])}" if "top5_accuracy" in result else ""
    log.info("test %s %s%s, %s, %.0f s", metric.name, tested, top, size, result["seconds"])
    log.info("result: %s, weights in %s", folder / "result.json", folder / "weights.pt")
    genotype = from_json(json.dumps(result["genotype"]), origin=str(folder / "result.json"))
    if not is_recurrent(genotype):
        log.info("use it: %s", use_of(result, folder))
    if "start_from" in result:
        return
    own = [f"searched=[{quoted(cell)}]", *next_settings(genotype)]
    log.info("is it any better than a random cell?")
    log.info("next:   %s", next_command("python -m darts.compare", *own, carried=(*CARRIED, *SIZES), without=["space"]))


def use_of(result: dict[str, Any], folder: Path) -> str:
    """The command that asks the network about the test pictures, or exports it where there are no picture files."""
    weights = f"weights={quoted(str(folder))}"
    place = result.get("data", {}).get("folder")
    if place is None:
        return next_command("python -m darts.export", weights, "to=onnx", carried=("plugins",))
    test = test_pictures(Path(place), str(result["config"].get("dataset.test_folder", "test")))
    images = [f"images={quoted(place)}"] if test is None else [f"images={quoted(str(test))}", "labels=folders"]
    return next_command("python -m darts.predict", weights, *images, carried=("plugins",))


def test_pictures(root: Path, name: str) -> Path | None:
    """The folder of a data set's test pictures, in whatever case it is spelled; None where no folder is for them."""
    if not root.is_dir():
        return None
    parts = {entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()}
    return parts.get(name.lower()) if "train" in parts else None


def command() -> None:
    """Run the command, on one process or on those that torchrun started."""
    distributed.run_entry_point(main)


if __name__ == "__main__":
    command()
