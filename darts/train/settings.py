"""Settings of retraining and of brief training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from omegaconf import DictConfig

from darts.config.compose import is_among, refuse_unused, typed_settings
from darts.config.registry import command_settings, register
from darts.loop.settings import RunSettings, taken_over
from darts.runtime.errors import UserError, require
from darts.runtime.settings import ParallelSettings
from darts.tasks.settings import AnyDataset, LanguageSettings, TextDataset


class Optimiser(Enum):
    """What moves a retrained network's weights."""

    SGD = "sgd"
    ADAMW = "adamw"


GRAPHS_OF_TEXT = "false with a text, whose pieces differ in length"
LEAST_BETA = 0.01  # below it float32 draws of Beta underflow, and give halves in place of zeros and ones


@register("recipe", "standard")
@dataclass
class Recipe:
    """What a retraining does beyond the published one, of which `recipe=published` changes nothing."""

    optimiser: Optimiser  # SGD as weight_optimiser says, or AdamW (Loshchilov and Hutter 2019), betas 0.9 and 0.999
    learning_rate: float | None  # in place of weight_optimiser's; null: that one
    weight_decay: float | None  # in place of weight_optimiser's; null: that one
    rate_decay: float | None  # what the learning rate is multiplied with each epoch, in place of half a cosine; or null
    warmup_epochs: int  # over which the learning rate rises linearly to its first value (Goyal et al. 2017); 0: none
    label_smoothing: float  # fraction of a label that is shared by all classes (Szegedy et al. 2016); 0: none
    mixup: float  # Beta's parameter of mixed pairs of images (Zhang et al. 2018); 0: none
    cutmix: float  # Beta's parameter of pasted boxes (Yun et al. 2019); 0: none. With mixup, either by equal chance
    randaugment: int  # magnitude, 0 to 30, of two random operations an image (Cubuk et al. 2020); 0: none
    average: float  # decay a step of the weights' moving average, which is then what is tested; 0: none

    def __post_init__(self) -> None:
        place = "train.recipe"
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            least = 0 if name == "weight_decay" else math.ulp(0)
            allowed = "at least 0, finite, or null" if least == 0 else "above 0, finite, or null"
            require(value is None or least <= value < math.inf, f"{place}.{name}", value, allowed)
        within = self.rate_decay is None or 0 < self.rate_decay <= 1
        require(within, f"{place}.rate_decay", self.rate_decay, "above 0 and at most 1, or null")
        require(self.warmup_epochs >= 0, f"{place}.warmup_epochs", self.warmup_epochs, "at least 0")
        for name in ("label_smoothing", "average"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{place}.{name}", value, "at least 0 and below 1")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            drawn = value == 0 or LEAST_BETA <= value < math.inf
            require(drawn, f"{place}.{name}", value, "0, or at least 0.01, finite")
        require(0 <= self.randaugment <= 30, f"{place}.randaugment", self.randaugment, "from 0 to 30")

    @property
    def draws(self) -> bool:
        """Whether a step changes its images by draws of its own."""
        return self.mixup > 0 or self.cutmix > 0 or self.randaugment > 0


@dataclass
class TrainLoop:
    """How a network is trained."""

    epochs: int  # passes over the training images
    batch_size: int  # images of a step, over all processes
    cutout: int  # side in pixels; 0: none
    drop_path: float  # probability in the last epoch; it grows linearly from 0
    auxiliary_weight: float  # of the auxiliary head's loss; 0: no head is trained
    recipe: Recipe

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2 (batch norm)")
        require(self.cutout >= 0, "train.cutout", self.cutout, "at least 0")
        require(0 <= self.drop_path < 1, "train.drop_path", self.drop_path, "at least 0 and below 1")
        finite = 0 <= self.auxiliary_weight < math.inf
        require(finite, "train.auxiliary_weight", self.auxiliary_weight, "at least 0, finite")
        warmup, allowed = self.recipe.warmup_epochs, f"below train.epochs, {self.epochs}"
        require(warmup < self.epochs, "train.recipe.warmup_epochs", warmup, allowed)


@dataclass
class FinalLoop(TrainLoop):
    """How a network is trained that is tested at the end."""

    validation: float  # fraction of the training images to watch; the best epoch is kept. 0: none, as published

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.validation < 1, "train.validation", self.validation, "at least 0 and below 1")


def rate_setting(loop: TrainLoop) -> str:
    """The setting that gives the learning rate of a training: the recipe's where it has one."""
    return "weight_optimiser.learning_rate" if loop.recipe.learning_rate is None else "train.recipe.learning_rate"


def replaced(settings: Any, prefix: str = "") -> dict[str, str]:
    """By dotted name the settings of optimisers that the recipe of the training beside them leaves unused, with why."""
    found: dict[str, str] = {}
    loop = getattr(settings, "train", None)
    if isinstance(loop, TrainLoop) and hasattr(settings, "weight_optimiser"):
        recipe, own, place = loop.recipe, f"{prefix}weight_optimiser", f"{prefix}train.recipe"
        for name in ("learning_rate", "weight_decay"):
            if getattr(recipe, name) is not None:
                found[f"{own}.{name}"] = f"{place}.{name}, {getattr(recipe, name)}, takes its place: give that one"
        if recipe.rate_decay is not None:
            told = f"{place}.rate_decay, {recipe.rate_decay}, takes the cosine's place: leave it out"
            found |= {f"{own}.{name}": told for name in ("final_learning_rate", "cosine_unit")}
        if recipe.optimiser is Optimiser.ADAMW:
            for name in ("momentum", "nesterov"):
                found[f"{own}.{name}"] = f"{place}.optimiser is ADAMW, which has none: leave it out"
    for field in dataclasses.fields(settings) if dataclasses.is_dataclass(settings) else ():
        found |= replaced(getattr(settings, field.name), f"{prefix}{field.name}.")
    return found


def refuse_replaced(key: str, settings: Any) -> None:
    """`UserError` where a setting is given that a recipe leaves unused."""
    reason = replaced(settings).get(key)
    if reason is not None:
        raise UserError(f"{key} is given, but {reason}")


@dataclass
class FinalSettings(RunSettings):
    """The settings of train_final.py for a network of images."""

    unused: ClassVar[tuple[str, ...]] = ("language",)
    kind: ClassVar[str] = "a network of images"

    genotype: str  # latest, random, random:7, a published name, a path, or a cell as printed
    weights: str | None  # weights.pt or its folder, or latest: evaluate that network instead of training
    start_from: str | None  # weights.pt or its folder, or latest: fine-tune that network; null: train from scratch
    head_epochs: int  # with start_from: epochs at the beginning in which the new classifier alone is trained
    train: FinalLoop
    parallel: ParallelSettings  # where torchrun starts several processes

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_graphs_of_draws(self.graphs, self.train.recipe)
        refuse_for_sounds(self.dataset, self.train)
        require(self.head_epochs >= 0, "head_epochs", self.head_epochs, "at least 0")
        short = self.start_from is None or self.head_epochs <= self.train.epochs
        require(short, "head_epochs", self.head_epochs, f"at most train.epochs, {self.train.epochs}")
        both = self.weights is not None and self.start_from is not None
        require(not both, "start_from", self.start_from, "null with weights=FILE, which trains nothing")

    def refuse_unused(self, key: str) -> None:
        """`UserError` where a setting is given that this call does not use; `key`: its dotted name."""
        if is_among(key, self.unused):
            raise UserError(f"{key} is given, but {self.kind} is trained, which ignores it")
        first = key.split(".")[0]
        trains = first in OF_TRAINING or key in OF_TRAINING_IMAGES
        if self.weights is not None and (trains or key in OF_PREPARATION):
            told = "which trains nothing" if trains else "which has its own"
            raise UserError(f"{key} is given with weights=FILE, {told}; leave {key} out")
        if self.start_from is not None and first in ("genotype", "network"):
            raise UserError(f"{key} is given with start_from, whose network has a cell and a size; leave {key} out")
        if self.start_from is None and key == "head_epochs":
            raise UserError("head_epochs is given without start_from, the network to fine-tune; leave it out")
        refuse_replaced(key, self)


@dataclass
class TextFinalSettings(FinalSettings):
    """The settings of train_final.py for a language model."""

    dataset: TextDataset
    language: LanguageSettings

    unused: ClassVar[tuple[str, ...]] = (
        *("network", "memory", "start_from", "head_epochs", "recipe", "train.recipe", "train.cutout", "weights"),
        *("train.drop_path", "train.auxiliary_weight", "train.validation", "weight_optimiser.final_learning_rate"),
        *("weight_optimiser.cosine_unit", "language.masks", "language.unrolled_embedding"),
    )
    kind: ClassVar[str] = "a language model"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.graphs, "graphs", self.graphs, GRAPHS_OF_TEXT)


@command_settings("final")
@dataclass
class AnyFinalSettings(FinalSettings):
    """What train_final.py is told, before it is known what the data are."""

    language: LanguageSettings  # of a text

    unused: ClassVar[tuple[str, ...]] = ()

    def narrowed(self) -> FinalSettings:
        """The settings of the kind that the data ask for."""
        kind = TextFinalSettings if self.dataset.is_text else FinalSettings
        return taken_over(kind, self)


def final_settings(config: DictConfig, overrides: Sequence[str] = ()) -> FinalSettings:
    """The settings of a retraining, of the kind that the data ask for.

    Raises `UserError` where an override (`key=value`) sets what this kind does not use.
    """
    settings = typed_settings(config, AnyFinalSettings).narrowed()
    refuse_unused(settings, overrides)
    return settings


OF_TRAINING = ("genotype", "network", "train", "recipe", "weight_optimiser", "head_epochs")
OF_TRAINING_IMAGES = (
    *("dataset.crop_padding", "dataset.flip", "dataset.fraction", "dataset.shift_ms", "dataset.frequency_masks"),
    *("dataset.random_resized_crop", "dataset.colour_jitter"),
    *("dataset.frequency_mask", "dataset.time_masks", "dataset.time_mask"),
)
OF_PREPARATION = ("dataset.mean", "dataset.std")
FROM_SCRATCH = {"weights": None, "start_from": None, "head_epochs": 0}  # what a training of a cell alone is told


@dataclass
class BriefSettings(RunSettings):
    """A brief training on one part of the training images, judged on the other."""

    train_fraction: float  # of the training images that train; the rest judges
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_graphs_of_draws(self.graphs, self.train.recipe)
        refuse_for_sounds(self.dataset, self.train)
        require(0 < self.train_fraction < 1, "train_fraction", self.train_fraction, "above 0 and below 1")

    def refuse_unused(self, key: str) -> None:
        """`UserError` where a setting is given that this call does not use; `key`: its dotted name."""
        refuse_replaced(key, self)


OF_BRIEF_IMAGES = (
    *("network", "memory", "recipe", "train.recipe", "train.cutout", "train.drop_path", "train.auxiliary_weight"),
    *("train_fraction", "weight_optimiser.final_learning_rate", "weight_optimiser.cosine_unit"),
)
OF_LANGUAGE_SEARCH = ("language.masks", "language.unrolled_embedding")


@dataclass
class AnyBriefSettings(BriefSettings):
    """The settings of a command that trains briefly, on images or on a text."""

    language: LanguageSettings  # of a text

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.graphs and self.dataset.is_text), "graphs", self.graphs, GRAPHS_OF_TEXT)

    def refuse_unused(self, key: str) -> None:
        """`UserError` where a setting is given that this call does not use; `key`: its dotted name."""
        self.refuse_ignored(key)
        super().refuse_unused(key)

    def refuse_ignored(self, key: str) -> None:
        """`UserError` where a setting is given that trainings on these data do not use; `key`: its dotted name."""
        of_text = (*OF_BRIEF_IMAGES, *OF_LANGUAGE_SEARCH, "language.test_columns")
        ignored = of_text if self.dataset.is_text else ("language",)
        if is_among(key, ignored):
            kind = TextFinalSettings.kind if self.dataset.is_text else FinalSettings.kind
            raise UserError(f"{key} is given, but {kind} is trained, which ignores it")


@dataclass
class TextBriefSettings(BriefSettings):
    """A brief training of a language model on the training text, judged on the validation text."""

    dataset: TextDataset
    language: LanguageSettings


def less_memory(settings: RunSettings, batch: str, *remedies_of_images: str) -> str:
    """What to do where the memory is too small; `batch`: the setting of the batch size, and its value."""
    from darts.runtime.device import CHECKPOINTING, remedies

    if settings.dataset.is_text:
        return f"lower {batch}, language.units or language.piece"
    sizes = f"lower {batch}, network.channels or network.cells"
    return f"{sizes}, or set {remedies(settings.device, CHECKPOINTING, *remedies_of_images)}"


def refuse_for_sounds(dataset: AnyDataset, train: TrainLoop, place: str = "train") -> None:
    """`UserError` where what changes pictures is asked for with sounds; `place`: where `train` stands."""
    if any(part.is_sound for part in dataset.parts().values()):
        masks = "dataset.frequency_mask and dataset.time_mask hide parts of them"
        require(train.cutout == 0, f"{place}.cutout", train.cutout, f"0 with sounds: {masks}")
        changed = train.recipe.randaugment
        require(changed == 0, f"{place}.recipe.randaugment", changed, "0 with sounds: its operations change pictures")


def refuse_graphs_of_draws(graphs: bool, recipe: Recipe) -> None:
    """`UserError` where steps whose images are mixed on the host would be recorded as one graph."""
    different = recipe.draws or recipe.optimiser is not Optimiser.SGD or recipe.average > 0
    require(not (graphs and different), "graphs", graphs, "false with another recipe than the published one")
