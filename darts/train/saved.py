"""A trained network on disk, weights.pt: written, loaded after it has been checked, tested again on its own data."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from darts import __version__
from darts.config.registry import contents_of_plugins
from darts.loop.measure_plots import save_measures
from darts.loop.measures import Measures, Tally
from darts.loop.optimisation import evaluate
from darts.models.network import Network, network_of_size
from darts.models.settings import NetworkSettings
from darts.runtime.checkpoint import DamagedFileError, read_state
from darts.runtime.device import choose_device, placed, set_precision
from darts.runtime.errors import UserError, one_line
from darts.runtime.files import newest, write_json
from darts.runtime.schema import JSON, At, Length, OneOf, SchemaError, Within, exactly, like, require_schema
from darts.spaces.chain import Chain, is_chain
from darts.spaces.genotype import Genotype, from_json, to_json
from darts.spaces.search_space import IMAGENET, Frame, InputShape, as_written, size_of
from darts.tasks.audio_settings import AudioDataset, Features
from darts.tasks.batches import EVALUATION_BATCH, test_batches
from darts.tasks.content import content_identity, warn_of_shared_examples
from darts.tasks.datasets import ImageSet, classes_by_name, open_test
from darts.tasks.folders import class_name
from darts.tasks.settings import AnyDataset, ImageFolderDataset, LabelledDataset, require_labelled
from darts.train.settings import FinalSettings

if TYPE_CHECKING:
    from darts.train.retraining import TrainState

log = logging.getLogger(__name__)

FILE = {
    "genotype": str,
    "network": {
        **{"channels": At(2, 65536), "cells": At(1, 1000), "auxiliary": bool},
        "stem_reductions": (At(0, 6), OneOf((IMAGENET,))),
    },
    "input": {"channels": At(1, 4), "size": (At(1, 4096), Length(2, At(1, 4096))), "classes": At(2, 10**6)},
    "dataset": str,
    "settings": {str: JSON},
    "weights": {str: torch.Tensor},
}  # what weights.pt must hold before the rest can be checked


CHAIN_OF_FILE = exactly({
    **{"stem": At(1, 65536), "first": (None, At(1, 65536)), "head": At(1, 65536), "relu6": bool},
    "stages": [Length(3, At(1, 65536))],
})  # what a file says of a chain's layers  # fmt: skip


def described(state: TrainState) -> dict[str, Any]:
    """All that is needed to use the network elsewhere: genotype, sizes, weights, channel statistics, classes."""
    settings, shape, preparation = state.settings, state.data.shape, state.data.preparation
    return {
        "version": __version__,
        "genotype": to_json(state.genotype),
        "network": {
            "channels": settings.network.channels,
            "cells": settings.network.cells,
            "stem_reductions": settings.network.stem_reductions,
            "auxiliary": settings.train.auxiliary_weight > 0,
            **({} if settings.space.chain is None else {"chain": asdict(settings.space.chain)}),
            **({} if not settings.space.always else {"always": list(settings.space.always)}),
        },
        "start_from": None if state.start is None else state.start.to_json(),
        "input": {"channels": shape.channels, "size": as_written(shape.size), "classes": shape.classes},
        "class_names": state.data.train.images.classes,
        **_heard(settings.dataset),
        **_resized(settings.dataset),
        "dataset": settings.dataset.name,
        "mean": preparation.mean,
        "std": preparation.std,
        "settings": state.experiment,
        "weights": {name: value.contiguous() for name, value in state.tested_network().state_dict().items()},
    }


def shape_of_file(described: dict[str, Any]) -> InputShape:
    """What the network of a file is given and asked for."""
    given = described["input"]
    return InputShape(given["channels"], size_of(given["size"]), given["classes"])


SOUND = {
    **{name: At(1, 10**8) for name in ("rate", "samples", "window", "hop", "mel_bands")},
    **{name: Within(0, 10**6) for name in ("lowest_hz", "highest_hz")},
    "equal_level": bool,
}  # what a file says of the features that its network is given


def _heard(dataset: AnyDataset) -> dict[str, Any]:
    """What a file says besides of a network of sounds; nothing of one of images."""
    return {"sound": dataset.features.to_json()} if isinstance(dataset, AudioDataset) else {}


def _resized(dataset: AnyDataset) -> dict[str, Any]:
    """What a file says besides of a network whose pictures are resized to more than what is cut out of them."""
    return {"resize": dataset.resize} if isinstance(dataset, ImageFolderDataset) and dataset.resize else {}


def features_of_file(described: dict[str, Any]) -> Features | None:
    """The features that a network of sounds is given; None for one of images. `SchemaError` where they are none."""
    given = described.get("sound")
    if given is None:
        return None
    require_schema(given, SOUND, "sound")
    features = Features(**{name: given[name] for name in SOUND})
    sound = features.hop <= features.window and features.lowest_hz < features.highest_hz <= features.rate / 2
    fits = sound and features.size == size_of(described["input"]["size"]) and described["input"]["channels"] == 1
    if not fits or features.empty_band() is not None:
        raise SchemaError(f"sound is {one_line(given)}, whose features are not of input.size")
    return features


def require_alike(dataset: LabelledDataset, described: dict[str, Any], path: Path, setting: str) -> None:
    """`UserError` naming what differs where a network would be given other maps than it was trained on."""
    known, given = features_of_file(described), dataset.features if isinstance(dataset, AudioDataset) else None
    if (known is None) != (given is None):
        kinds = ("sounds", "images") if given is None else ("images", "sounds")
        raise UserError(f"{setting}: {path} was trained on {kinds[0]}, but dataset is {dataset.name!r}, of {kinds[1]}")
    if known is not None and given is not None:
        for name, value in known.to_json().items():
            own = getattr(given, name)
            if own != value:
                shown = "dataset.seconds times dataset.rate" if name == "samples" else f"dataset.{name}"
                raise UserError(f"{shown} is {own}; {path} was trained with {value}")


def newest_weights(runs: str, setting: str = "weights") -> Path:
    """The weights.pt that was written last under `runs`/final; a retraining writes it when it ends."""
    last = newest((Path(runs) / "final").rglob("weights.pt"))
    if last is None:
        place = (Path(runs) / "final").resolve()
        raise UserError(f"{setting} is 'latest', but there is no trained network in {place}; run train_final.py first")
    return last


def weights_file(named: str | Path, runs: str, setting: str = "weights") -> Path:
    """The file that a setting names: a weights.pt, the folder of a retraining that holds one, or `latest`."""
    path = newest_weights(runs, setting) if str(named) == "latest" else Path(named).expanduser()
    return path / "weights.pt" if path.is_dir() else path


def read_network(path: Path, setting: str = "weights") -> tuple[Network, dict[str, Any]]:
    """The trained network of a weights.pt in evaluation mode, and what else the file says; `UserError` for others.

    "class_names" lists the classes in the order of the network's outputs; None in a file of version 0.1.0.
    """
    try:
        return network_of(read_state(path), path)
    except DamagedFileError as error:
        raise UserError(f"{setting}: {error}") from None


def network_of(described: dict[str, Any], path: Path) -> tuple[Network, dict[str, Any]]:
    """The network that the content of a file describes, checked, in evaluation mode; `UserError` naming the file."""
    if isinstance(described, dict) and described.get("kind") == "language model":
        told = "predictions, exports, fine-tuning and load_network know networks of images only"
        raise UserError(f"weights: {path} is a language model; {told}")
    try:
        require_schema(described, FILE)
        described.setdefault("class_names", None)
        shape = shape_of_file(described)
        sound = features_of_file(described)
        least, most = (0, 1) if sound is None else AudioDataset.value_limits
        means, deviations = Length(shape.channels, Within(least, most)), Length(shape.channels, Within(1e-9, most))
        names = (None, Length(shape.classes, str))
        if "resize" in described:
            require_schema(described["resize"], At(max(shape.sides), 4096), "resize")
        require_schema(described, {"mean": means, "std": deviations, "class_names": names})
        require_different(described["class_names"])
        with torch.device("meta"):
            expected = _network(described, shape, path).state_dict()
        require_schema(described["weights"], like(expected), "weights")
        require_usable(described["weights"])
    except SchemaError as error:
        raise UserError(f"weights: {path} does not describe a network: {error}") from None
    warn_of_other_plugins(described, path)
    network = _network(described, shape, path)
    network.load_state_dict(described["weights"])
    return network.eval(), described


def warn_of_other_plugins(described: dict[str, Any], path: Path) -> None:
    """Say so where a plug-in's source is no longer that with which a network was trained."""
    known = described["settings"]
    for name, digits in contents_of_plugins(known.get("plugins") or ()).items():
        if known.get(f"plugins.{name}") not in (None, digits):
            log.warning("weights: the source of plug-in %s is not that with which %s was trained", name, path)


def require_different(names: Sequence[str] | None) -> None:
    """`SchemaError` naming a class that stands twice, in two Unicode spellings too: which output is its?"""
    found: set[str] = set()
    for name in map(class_name, names or ()):
        if name in found:
            raise SchemaError(f"class_names holds {one_line(name)!r} twice")
        found.add(name)


def require_usable(weights: dict[str, torch.Tensor]) -> None:
    """`SchemaError` naming a tensor with a NaN or an infinity, or a variance below 0: no training leaves such."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise SchemaError(f"weights.{name} is not finite")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise SchemaError(f"weights.{name} is below 0, not a variance")


def _network(described: dict[str, Any], shape: InputShape, path: Path) -> Network:
    size = described["network"]
    genotype = from_json(described["genotype"], origin=str(path))
    own = NetworkSettings(size["channels"], size["cells"], size["stem_reductions"])
    return network_of_size(genotype, own, shape, size["auxiliary"], frame_of(genotype, size))


def frame_of(genotype: Genotype, size: dict[str, Any]) -> Frame:
    """What its space adds to a network, of a file's "network"; `SchemaError` where it is damaged."""
    if not is_chain(genotype):
        always = size.get("always", [])
        require_schema(always, [OneOf(("skip_connect",))], "network.always")
        return Frame(None, tuple(always))
    require_schema(size, {"chain": CHAIN_OF_FILE, "stem_reductions": At(0, 6)}, "network")
    try:
        chain = Chain(**size["chain"])
    except UserError as error:
        raise SchemaError(str(error)) from None
    if chain.layers != len(genotype.operations()):
        raise SchemaError(f"network.chain has {chain.layers} layers, the genotype {len(genotype.operations())}")
    return Frame(chain)


def evaluate_file(settings: FinalSettings, path: Path) -> dict[str, float]:
    """Test a saved network on the test images of `dataset`, prepared as the file says."""
    network, described = read_network(path)
    dataset = require_labelled(settings.dataset)
    if described["dataset"] != dataset.name:
        raise UserError(
            f"weights: {path} was trained on {described['dataset']!r}, but dataset is {dataset.name!r}; "
            f"add dataset={described['dataset']}"
        )
    require_alike(dataset, described, path, "weights")
    size = shape_of_file(described).size
    if size != dataset.size:
        raise UserError(f"{dataset.size_setting} is {as_written(dataset.size)}; {path} was trained at {size}")
    resize, given = described.get("resize"), getattr(dataset, "resize", None)
    if resize != given:
        raise UserError(f"dataset.resize is {given or 'null'}; {path} was trained with {resize or 'null'}")
    device = choose_device(settings.device)
    set_precision(settings.precision)
    warn_of_data(dataset, described, path)
    placed(network, device)
    preparation = dataset.preparation(0, described["mean"], described["std"], device)
    images = test_images_for(dataset, described, path)
    batches, tally = test_batches(images, EVALUATION_BATCH, preparation).in_order(), Tally(images.classes)
    tested = evaluate(network, network, batches, seen=tally.add_logits)
    if not math.isfinite(tested["loss"]):
        raise UserError(f"weights: {path}: the test loss is not finite; this network's weights are too large")
    measures = tally.measures()
    for line in measures.balance_lines():
        log.info("%s", line)
    top = {} if measures.top5_accuracy is None else {"top5_accuracy": measures.top5_accuracy}
    return {**tested, **top, "balanced_accuracy": measures.balanced_accuracy}


def write_measures(measures: Measures, folder: Path) -> None:
    """Write a test's measures.json; of an unbalanced test, say what its accuracy hides, and draw the measures."""
    write_json(folder / "measures.json", measures.to_json())
    for line in measures.balance_lines():
        log.info("%s", line)
    if measures.unbalanced():
        save_measures(measures, folder)
        log.info("measures: %s, with pictures beside it", folder / "measures.json")


def warn_of_data(dataset: LabelledDataset, described: dict[str, Any], path: Path) -> None:
    """Say so where a saved network is tested on other images than at the end of its training, or on those it learnt."""
    known = described["settings"]
    trained, tested = known.get("dataset.content"), known.get("dataset.test_content")
    present = content_identity(dataset, tested=True)
    if trained is None:
        log.warning("weights: %s does not say on which images it was trained (version 0.1.0)", path)
    elif present.get("dataset.test_content") == trained:
        log.warning("weights: the test images are those that %s was trained on; the accuracy says nothing", path)
    elif present.get("dataset.test_content") != tested:
        log.warning("weights: the test images are not those of the end of the training of %s", path)
    elif present["dataset.content"] != trained:
        log.warning("weights: the training images are not those that %s was trained on; test images may be among "
                    "them", path)  # fmt: skip
    warn_of_shared_examples(dataset)


def test_images_for(dataset: LabelledDataset, described: dict[str, Any], path: Path) -> ImageSet:
    """Open the test images with the channels of a saved network, and labels in the order of its classes.

    `UserError` naming the classes that only the file or only the data have, and for other channels. A file of version
    0.1.0 names no classes: their number is compared, and a warning says so.
    """
    channels, classes, names = described["input"]["channels"], described["input"]["classes"], described["class_names"]
    if isinstance(dataset, ImageFolderDataset) and dataset.channels is None:
        dataset = replace(dataset, channels=channels)
    images = open_test(dataset)
    coloured = images.origin.converted.get("colour to grey") if images.origin is not None else None
    if coloured:
        log.warning("%s takes grey images, and %d training pictures of dataset.root have colours: the test pictures "
                    "are converted to grey", path, coloured)  # fmt: skip
    if images.channels != channels:
        raise UserError(f"weights: {path} takes {channels} channels; the images of dataset have {images.channels}")
    if names is not None:
        return classes_by_name(images, names, path.name)
    if len(images.classes) != classes:
        found = len(images.classes)
        raise UserError(f"weights: {path} has {classes} classes, without names, but dataset has {found}; give its data")
    log.warning("%s holds no class names (version 0.1.0): its classes are taken in the order of the data's", path)
    return images
