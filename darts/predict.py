"""What a trained network says of pictures: python -m darts.predict images=PLACE [weights=latest] [labels=folders]."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command, next_command
from darts.config.compose import quoted, typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, one_line, require
from darts.runtime.files import lock_folder, read_regular, write_bytes, write_json, writing
from darts.runtime.garbage import import_torch
from darts.runtime.text import encoded

if TYPE_CHECKING:
    from darts.loop.measures import Measures
    from darts.use.answers import Answers
    from darts.use.trained import TrainedNetwork

log = logging.getLogger("darts")
HEADER = b"file,class,probability"  # with which a predictions.csv begins
NAMES = ("measures.json", "sheet.png", "sheet.svg", "confusion.png", "confusion.svg", "calibration.png",
         "calibration.svg", "mistakes.png", "mistakes.svg")  # fmt: skip
LISTED = 10  # pictures that the console names


@command_settings("predict")
@dataclass
class PredictSettings:
    """The settings of `python -m darts.predict`."""

    weights: str  # a weights.pt, the folder of a retraining, or latest
    images: str  # a picture, or a folder with pictures; of a network of sounds WAV files
    labels: str | None  # null; folders: a picture's class is the first folder below images; or a CSV file: file,class
    batch_size: int  # pictures at a time
    device: str  # auto, cpu, cuda, cuda:1, mps
    runs: str  # the folder of all runs; `latest` looks there
    plugins: list[str]  # modules to import, which register the operations of the cell

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


@cli_command("predict")
def main(settings: DictConfig) -> float:
    """Predict, and measure where labels are given; returns the error, or 0 where it is not known."""
    typed = typed_settings(settings, PredictSettings)
    import_torch()
    from darts.runtime.device import memory_advice
    from darts.train.saved import weights_file
    from darts.use.answers import pictures_of, predict
    from darts.use.labels import FOLDERS, labels_of
    from darts.use.trained import load_network

    file = weights_file(typed.weights, typed.runs)
    network = load_network(file, typed.device)
    place = Path(typed.images).expanduser()
    found = pictures_of(place, in_classes=typed.labels == FOLDERS, endings=network.endings)
    labels = None if typed.labels is None else labels_of(found, place, typed.labels, network.classes)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with lock_folder(folder):
        refuse_foreign_files(folder)
        with memory_advice("lower batch_size", saved=False):
            answers = predict(network, found, typed.batch_size)
        write_table(folder, answers.to_csv())
        error = show(network, answers, folder) if labels is None else judge(network, answers, labels, folder)
    log.info("result: %s, with pictures beside it", folder / "predictions.csv")
    own = [f"weights={quoted(str(file))}", "to=onnx", f"images={quoted(str(place))}"]
    log.info("next:   %s", next_command("python -m darts.export", *own, carried=("plugins",)))
    return error


def refuse_foreign_files(folder: Path) -> None:
    """`UserError` where a file that would be written is there already and is not of an earlier call of this command."""
    table = folder / "predictions.csv"
    try:
        if read_regular(table).startswith(HEADER):
            return
        there = table.name
    except OSError:
        there = next((name for name in ("predictions.csv", *NAMES) if os.path.lexists(folder / name)), "")
    if there:
        told = f"hydra.run.dir is {one_line(folder)}, which holds a {there} that this command did not write"
        raise UserError(f"{told}; give another folder")


def write_table(folder: Path, table: str) -> None:
    """Write predictions.csv and remove what an earlier call left; where there is no room, that stays."""
    written = folder / "predictions.csv.new"
    write_bytes(written, encoded(table))
    remove_earlier_files(folder)
    written.replace(folder / "predictions.csv")


def remove_earlier_files(folder: Path) -> None:
    """Remove what an earlier call of this command left: measures and pictures that this one may not write anew."""
    for name in NAMES:
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)


def show(network: TrainedNetwork, answers: Answers, folder: Path) -> float:
    """The first answers on the console, and a contact sheet."""
    from darts.loop.plotting import save_figure
    from darts.use.answers import noun_of
    from darts.use.pictures import Shown, draw_sheet

    sheet = []
    for file, row in zip(answers.files, answers.probabilities, strict=True):
        best = network.prediction(row)
        sheet.append(Shown(file, f"{best.name[:14]} {100 * best.probability:.0f}%"))
        if len(sheet) <= LISTED:
            log.info("%-40s %-20s %5.1f%%", one_line(file)[-40:], best.name, 100 * best.probability)
    if len(sheet) > LISTED:
        log.info("... and %d more", len(sheet) - LISTED)
    title = f"{len(sheet)} {noun_of(network.endings)}s, answers with their probabilities"
    save_figure(draw_sheet(sheet, network.picture, title), folder / "sheet")
    return 0.0


def judge(network: TrainedNetwork, answers: Answers, labels: dict[str, int], folder: Path) -> float:
    """Measure labelled answers, draw what is wrong; returns the error."""
    from darts.loop.measures import measured
    from darts.use.answers import noun_of

    true_labels = [labels[file] for file in answers.files]
    measures = measured(answers.probabilities, true_labels, network.classes)
    write_json(folder / "measures.json", measures.to_json())
    draw_measures(network, answers, true_labels, measures, folder)
    told = "accuracy %.2f%% of %d %ss, balanced over classes %.2f%%, log loss %.3f, calibration error %.1f%%"
    log.info(told, 100 * measures.accuracy, measures.pictures, noun_of(network.endings),
             100 * measures.balanced_accuracy, measures.log_loss, 100 * measures.calibration_error)  # fmt: skip
    return 1 - measures.accuracy


def draw_measures(
    network: TrainedNetwork, answers: Answers, true_labels: Sequence[int], measures: Measures, folder: Path
) -> None:
    """The confusion matrix, calibration, and the mistakes of which the network was surest."""
    from darts.loop.measure_plots import save_measures
    from darts.loop.plotting import save_figure
    from darts.use.pictures import Shown, draw_sheet

    save_measures(measures, folder)
    mistakes = []
    for file, row, label in zip(answers.files, answers.probabilities, true_labels, strict=True):
        best = network.prediction(row)
        if best.name != network.classes[label]:
            words = f"{best.name[:9]} {100 * best.probability:.0f}%, is {network.classes[label][:9]}"
            mistakes.append((best.probability, Shown(file, words, right=False)))
    mistakes.sort(key=lambda pair: -pair[0])
    if mistakes:
        sheet = [shown for _, shown in mistakes]
        title = f"the surest of {len(mistakes)} mistakes"
        save_figure(draw_sheet(sheet, network.picture, title), folder / "mistakes")


if __name__ == "__main__":
    main()
