"""A trained network as one file for other programs: python -m darts.export [weights=latest] to=onnx|pt2|safetensors."""

from __future__ import annotations

import json
import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.invocation import as_started
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, one_line, require
from darts.runtime.files import lock_folder, read_json, read_regular, write_bytes, writing
from darts.runtime.garbage import import_torch
from darts.runtime.schema import Within
from darts.runtime.text import encoded
from darts.spaces.genotype import called

if TYPE_CHECKING:
    from torch import Tensor

    from darts.tasks.settings import LabelledDataset
    from darts.use.trained import TrainedNetwork

log = logging.getLogger("darts")
FORMS = ("onnx", "pt2", "safetensors")
CHECKED = 64  # pictures that a file is checked on
READ = "import onnxruntime; print(onnxruntime.InferenceSession({file}).get_inputs()[0])"
ASK = "; ".join(
    [
        "import json, numpy, onnxruntime",
        "from PIL import Image, ImageOps",
        "session = onnxruntime.InferenceSession({file})",
        'p = ImageOps.exif_transpose(Image.open({picture})).convert("RGBA")',
        'p = Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert({mode})',
        "p = p.resize(({sides}), Image.BILINEAR)",
        "left, top = round((p.width - {width}) / 2), round((p.height - {height}) / 2)",
        "p = p.crop((left, top, left + {width}, top + {height}))",
        "pixels = numpy.array(p).reshape({height}, {width}, -1).transpose(2, 0, 1)[None]",
        'found = session.run(None, {{"pixels": pixels}})[0][0]',
        'print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[found.argmax()], found.max())',
    ]
)
ABOUT = {"images": "An image classifier: its cell ", "sounds": "A classifier of sounds: its cell "}  # how one begins


@command_settings("export")
@dataclass
class ExportSettings:
    """The settings of `python -m darts.export`."""

    weights: str  # a weights.pt, the folder of a retraining, or latest
    to: str  # onnx, pt2 (PyTorch's exported program) or safetensors
    preparation: bool  # true: raw pixels in, probabilities out; false: prepared images in, logits out
    fold: bool  # batch norms become part of the convolutions before them
    images: str | None  # pictures that the file is checked on; null: the bundled test images, for networks of theirs
    runs: str  # the folder of all runs; `latest` looks there
    plugins: list[str]  # modules to import, which register the operations of the cell

    def __post_init__(self) -> None:
        require(self.to in FORMS, "to", self.to, f"one of {', '.join(FORMS)}")
        allowed = "false with to=safetensors, which holds the weights as they are"
        require(not (self.fold and self.to == "safetensors"), "fold", self.fold, allowed)


@cli_command("export")
def main(settings: DictConfig) -> float:
    """Write the file, check it and describe it; returns the largest difference."""
    typed = typed_settings(settings, ExportSettings)
    import_torch()
    from darts.train.saved import weights_file
    from darts.use.exporting import export, largest_difference, require_equal, staged
    from darts.use.trained import load_network

    place = weights_file(typed.weights, typed.runs)
    network = load_network(place)
    pixels = pictures_to_check(network, typed.images)
    folder = Path(HydraConfig.get().runtime.output_dir)
    file = folder / f"network.{typed.to}"
    with lock_folder(folder), staged(file) as fresh:
        card = card_of(file)
        answer = export(network, typed.to, fresh, typed.preparation, typed.fold)
        difference = largest_difference(network, answer, pixels, typed.preparation)
        require_equal(difference)
        write_bytes(card, encoded(model_card(network, typed, place, file, difference)))
        with writing(file):
            fresh.replace(file)
    megabytes = file.stat().st_size / 1e6
    what = "pictures" if network.features_of_sound is None else "sounds"
    log.info("largest difference from the network on %d %s: %.2g", len(pixels), what, difference)
    log.info("result: %s, %.2f MB, described in %s", file, megabytes, card)
    if typed.to == "onnx":
        log.info("next:   %s", asking(network, typed, file))
    return difference


def asking(network: TrainedNetwork, settings: ExportSettings, file: Path) -> str:
    """The command that loads an ONNX file by ONNX Runtime alone, and asks it about the first picture there is."""
    from darts.use.answers import first_readable

    code = READ.format(file=_literal(str(file)))
    if settings.images is not None and settings.preparation and network.features_of_sound is None:
        picture = first_readable(network, Path(settings.images).expanduser())
        mode, (height, width) = "RGB" if network.shape.channels == 3 else "L", network.shape.sides
        places = {"file": _literal(str(file)), "picture": _literal(str(picture.absolute())), "mode": _literal(mode)}
        code = ASK.format(height=height, width=width, sides=resized_sides(network), **places)
    return f"{as_started('python')} -c {shlex.quote(code)}"


def resized_sides(network: TrainedNetwork) -> str:
    """Width and height of picture `p` before its centre is cut out, in Python, as `Decoder` resizes it."""
    height, width = network.shape.sides
    side = network.described.get("resize") or (height if height == width else None)
    if side is not None:
        return f"int({side} * p.width / min(p.size)), int({side} * p.height / min(p.size))"
    scale = f"max({width} / p.width, {height} / p.height)"
    return f"max({width}, round(p.width * {scale})), max({height}, round(p.height * {scale}))"


def _literal(text: str) -> str:
    """A text in Python's double quotes, which a shell's single quotes may hold."""
    return json.dumps(text, ensure_ascii=False)


def card_of(file: Path) -> Path:
    """Where the description of an exported file goes: README.md, or where that is not its own, FILE.md beside it.

    `UserError` where the file or both descriptions are there and are not of this command: nothing of others is lost.
    """
    cards = [file.with_name("README.md"), file.with_name(f"{file.name}.md")]
    own = [card for card in cards if _describes(card, file)]
    if own:
        return own[0]
    free = [card for card in cards if not os.path.lexists(card)]
    if os.path.lexists(file) or not free:
        there = file if os.path.lexists(file) else cards[-1]
        told = f"hydra.run.dir is {one_line(file.parent)}, which holds a {there.name} that this command did not write"
        raise UserError(f"{told}; give another folder")
    return free[0]


def _describes(card: Path, file: Path) -> bool:
    """Whether a file is the description that this command wrote of an exported file."""
    try:
        begin = read_regular(card)[:1000].decode("utf-8", "replace")
    except OSError:
        return False
    return begin.startswith(tuple(_title(file, kind) for kind in ABOUT))


def _title(file: Path, kind: str) -> str:
    return f"# {file.name}\n\n{ABOUT[kind]}"


def pictures_to_check(network: TrainedNetwork, images: str | None) -> Tensor:
    """Raw pixels of at most `CHECKED` pictures; `UserError` where there is none to be had."""
    import torch

    from darts.tasks.datasets import open_test
    from darts.use.answers import pictures_of, pixels_of

    if images is not None:
        files = pictures_of(Path(images).expanduser(), endings=network.endings)
        step = max(1, len(files) // CHECKED)
        return pixels_of(network, files[::step][:CHECKED])
    if network.described["dataset"] not in ("fashion_mini", "spoken_digits_mini"):
        what = "pictures" if network.features_of_sound is None else "sounds"
        raise UserError(f"images is null; give {what} of {network.described['dataset']} to check the file on")
    return next(iter(open_test(bundled_for(network)).batches([torch.arange(CHECKED)]))).images


def bundled_for(network: TrainedNetwork) -> LabelledDataset:
    """The bundled set that a network was trained on."""
    from darts.tasks.audio_settings import BundledAudio
    from darts.tasks.settings import BundledDataset

    described, of = network.described, network.features_of_sound
    common = described["dataset"], "", 1.0, described["mean"], described["std"]
    if of is None:
        return BundledDataset(*common, described["input"]["size"], 0, False)
    seconds, bands = of.samples / of.rate, (of.mel_bands, of.lowest_hz, of.highest_hz)
    frames = of.rate, seconds, of.window, of.hop
    return BundledAudio(*common, *frames, *bands, of.equal_level, 0.0, 0, 0, 0, 0)


def model_card(network: TrainedNetwork, settings: ExportSettings, weights: Path, file: Path, difference: float) -> str:
    """What the file is, for whoever is given it."""
    described = network.described
    known = described["settings"]
    raw, shape = (f"(batch, {', '.join(map(str, sides))})" for sides in (network.raw_shape, network.shape.map_shape))
    of = network.features_of_sound
    kind, what = ("images", "images") if of is None else ("sounds", "log-mel features")
    ranged = ", of the range 0 to 1" if of is None else ""
    prepared = f"float32 {what} {shape}{ranged}, minus the mean, divided by the standard deviation"
    pixels = f"uint8 pixels {raw}" if of is None else f"int16 sounds {raw} at {of.rate} samples a second"
    table = {
        "input": pixels if settings.preparation else prepared,
        "output": f"{'probabilities' if settings.preparation else 'logits'} of the classes below, in their order",
        "classes": ", ".join(network.classes),
        "mean, standard deviation": f"{_numbers(described['mean'])}; {_numbers(described['std'])}",
        "trained on": f"{described['dataset']}, content {known.get('dataset.content', 'not known')}",
        **_fine_tuned(described.get("start_from")),
        "epochs of training": known.get("train.epochs"),
        "batch size, seed": f"{known.get('train.batch_size')}, {known.get('seed')}",
        "test accuracy": _result(weights),
        "checked": f"largest difference from the network in PyTorch on {CHECKED} pictures at most: {difference:.2g}",
        **{called(kind): f"`{cell}`" for kind, cell in network.genotype.cells.items()},
        "licence": "to be filled in",
    }
    rows = [f"| {name} | {value} |" for name, value in table.items()]
    trained = "trained from scratch" if described.get("start_from") is None else "fine-tuned"
    about = f"{_title(file, kind)}is below, and its weights were {trained}."
    return "\n".join([about, "", "| what | |", "| --- | --- |", *rows, ""])


def _fine_tuned(start: dict[str, Any] | None) -> dict[str, str]:
    """The row on the network that a fine-tuning began with, if any."""
    return {} if start is None else {"fine-tuned from": f"a network of {start['dataset']}, content {start['content']}"}


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _result(weights: Path) -> str:
    """The accuracy that the retraining wrote beside the weights."""
    folder = weights if weights.is_dir() else weights.parent
    try:
        found: Any = read_json(folder / "result.json", {"test_accuracy": Within(0, 1)}, "")
    except UserError:
        return "not known here"
    return f"{100 * found['test_accuracy']:.2f}% (one seed)"


if __name__ == "__main__":
    main()
