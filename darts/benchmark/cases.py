"""What is timed: the steps that the commands run, on random images, in the original's way and in ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from darts.benchmark.measure import Action
from darts.benchmark.settings import BenchmarkSettings
from darts.loop.settings import RunSettings, taken_over
from darts.methods.hypergradient import FiniteDifference, FirstOrder
from darts.models.cost import count_macs
from darts.models.depthwise import Depthwise
from darts.models.network import Network
from darts.models.settings import Engine, MemorySettings
from darts.runtime.device import autocast, keep_freed_memory, set_precision
from darts.runtime.seeding import generator
from darts.runtime.settings import Precision
from darts.search import loop as search
from darts.search.settings import SearchSettings
from darts.search.state import SearchState, new_state
from darts.spaces.published import published
from darts.spaces.search_space import InputShape, sides_of
from darts.tasks.batches import Batches, Preparation, SearchData, Split, TrainData
from darts.tasks.datasets import ArrayImages
from darts.tasks.settings import Augmentation, require_images
from darts.tasks.task import Batch
from darts.train import retraining as retrain
from darts.train.settings import FROM_SCRATCH, FinalSettings

S = TypeVar("S", bound=RunSettings)
ORIGINAL, REFERENCE, OURS = "original", "reference", "ours"
VARIANTS = {
    ORIGINAL: "reference definition, default layout, the libraries' kernels and allocator, float32",
    REFERENCE: "reference definition, channels last, own depthwise gradients",
    OURS: "the engine, precision and graphs of the settings",
}


@dataclass(frozen=True)
class Case:
    """One row: an action for each variant, and the floating-point operations it takes by the reference definition."""

    actions: dict[str, Action]
    flops: float | None

    def before(self, name: str) -> None:
        """The C library's own way with memory for the original; for the others ours, once settled."""
        keep_freed_memory(name != ORIGINAL)
        if name != ORIGINAL:
            self.actions[name]()


def cases(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Case]]:
    """By row name, how to build it; built one at a time, so that one row's memory does not stand in another's way."""
    return {
        "search step, first order": lambda: search_case(settings, False, device, folder),
        "search step, second order": lambda: search_case(settings, True, device, folder),
        "retraining step": lambda: retraining_case(settings, device, folder),
        "evaluation": lambda: evaluation_case(settings, device, folder),
        "data loading": lambda: loading_case(settings, device),
    }


def search_case(settings: BenchmarkSettings, second_order: bool, device: torch.device, folder: Path) -> Case:
    """A whole step of the search: augmentation, architecture step, weight step."""
    hypergradient = FiniteDifference(0.01) if second_order else FirstOrder()
    method = dataclasses.replace(settings.method, hypergradient=hypergradient)
    states = search_states(dataclasses.replace(settings, method=method), device, folder)
    # a gradient of the weights costs two forward passes, one of alpha only one: first order 1 + 1 + 1 + 2
    passes = 13 if second_order else 5
    flops = 2 * passes * settings.search.batch_size * _search_macs(states[REFERENCE])
    return Case({name: search_action(state) for name, state in states.items()}, flops)


def search_states(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, SearchState]:
    """A search before its first step, in each variant."""
    states = {}
    for name in VARIANTS:
        own = settings if name == OURS else dataclasses.replace(_slow(settings), engine=Engine.reference)
        states[name] = new_state(own, random_search_data(settings, device), device, folder / name)
    data = cast(SearchData, states[ORIGINAL].data)
    as_originally(states[ORIGINAL].supernet)
    data.train.preparation = data.valid.preparation = _DefaultLayout(**vars(data.train.preparation))
    return states


def retraining_case(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Case:
    """A whole step of retraining: augmentation, drop-path, auxiliary head."""
    final = taken_over(FinalSettings, settings, network=settings.retrained, **FROM_SCRATCH)
    genotype = published(settings.genotype)
    states = {}
    for name in (ORIGINAL, OURS):
        own = final if name == OURS else _slow(final)
        states[name] = retrain.new_state(own, genotype, random_train_data(settings, device), folder / name)
    as_originally(states[ORIGINAL].network)
    kept = states[ORIGINAL].data
    states[ORIGINAL].data = dataclasses.replace(kept, preparation=_DefaultLayout(**vars(kept.preparation)))
    one = torch.zeros(1, *_image_shape(settings), device=device)
    flops = 6 * settings.train.batch_size * count_macs(states[OURS].network, one)
    return Case({name: train_action(state) for name, state in states.items()}, flops)


def evaluation_case(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Case:
    """The supernet's answers to one batch, without gradients."""
    states = search_states(settings, device, folder)
    flops = 2 * settings.search.batch_size * _search_macs(states[REFERENCE])
    return Case({name: evaluation_action(state) for name, state in states.items()}, flops)


def loading_case(settings: BenchmarkSettings, device: torch.device) -> Case:
    """A batch of augmented images on the device, from images in memory; originally image by image, by torchvision."""
    data = random_search_data(settings, device)
    dataset = require_images(settings.dataset)
    batch, size = settings.search.batch_size, sides_of(dataset.size)
    mean, std = data.train.preparation.mean, data.train.preparation.std
    originally = transforms.Compose(
        [
            transforms.RandomCrop(size, padding=dataset.crop_padding),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    draws = np.random.default_rng(settings.seed)
    pictures = [Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8)) for _ in range(batch)]
    raws = data.train.shuffled_raw(0, 0, 10**9)
    return Case(
        {
            ORIGINAL: lambda: torch.stack([originally(picture) for picture in pictures]).to(device),
            OURS: lambda: data.train.preparation.augmented(next(raws)),
        },
        None,
    )


def random_search_data(settings: SearchSettings, device: torch.device) -> SearchData:
    """Two splits of random images."""
    images = _random_images(settings, 2 * settings.search.batch_size)
    split = Split(*torch.arange(len(images.labels)).chunk(2))
    batches = [
        Batches(images.to(device), indices, settings.search.batch_size, _preparation(settings, 0, device), 0)
        for indices in (split.train, split.valid)
    ]
    return SearchData(_shape(settings), batches[0], batches[1], split)


def random_train_data(settings: BenchmarkSettings, device: torch.device) -> TrainData:
    """Random images for retraining."""
    images = _random_images(settings, settings.train.batch_size).to(device)
    preparation = _preparation(settings, settings.train.cutout, device)
    indices = torch.arange(len(images.labels))
    return TrainData(_shape(settings), Batches(images, indices, len(indices), preparation, 0), preparation)


class _DefaultLayout(Preparation):
    """Images in the layout that PyTorch gives by default."""

    def normalised(self, pixels: Tensor, labels: Tensor) -> Batch:
        batch = super().normalised(pixels, labels)
        return Batch(batch.inputs.contiguous(), batch.targets)


def _slow(settings: S) -> S:
    return dataclasses.replace(settings, precision=Precision.fp32, graphs=False, memory=MemorySettings(False))


class _Whole(nn.Sequential):
    """Layers of which none is computed once for several operations."""


def as_originally(network: nn.Module) -> None:
    """Weights in the default layout, depthwise convolutions as the library does them, a ReLU for each operation."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    for module in network.modules():
        if isinstance(module, Depthwise):
            module.library = True
        if type(module) is nn.Sequential:
            module.__class__ = _Whole
        if isinstance(module, Network):
            module.train_by_hand(False)


def search_action(state: SearchState) -> Action:
    """A step of this search, on other random draws every time."""
    batches = search.batches_of_steps(state, 0, 0, 10**9)
    step = search.step_action(state, True)
    beginning = torch.zeros(2, device=state.device)  # progress and epoch

    def action() -> Mapping[str, Any]:
        set_precision(state.settings.precision)  # each variant has its own
        return step(beginning, *[tensor for raw in next(batches) for tensor in raw])

    return action


def train_action(state: retrain.TrainState) -> Action:
    """A step of this retraining, in an epoch that drops paths."""
    raws = state.data.train.shuffled_raw(0, 0, 10**9)
    state.epoch = 1  # in the first epoch no path is dropped

    def step() -> Mapping[str, Any]:
        set_precision(state.settings.precision)
        raw = next(raws)
        return state.train_step(*raw, *retrain.drop_path(state, len(raw.labels)))

    return step


def evaluation_action(state: SearchState) -> Action:
    """The supernet's answer to a batch, without gradients."""
    data = cast(SearchData, state.data)
    mixture, preparation = state.deterministic_mixture(), data.train.preparation
    raw = next(data.train.shuffled_raw(0))
    images = preparation.normalised(raw.pixels, raw.labels).inputs
    state.supernet.eval()

    @torch.no_grad()
    def answer() -> Tensor:
        set_precision(state.settings.precision)
        with autocast(state.device, state.settings.precision):
            return state.supernet(images, mixture)

    return answer


def _search_macs(state: SearchState) -> int:
    """Multiply-adds of one image through the supernet."""
    image = torch.zeros(1, *_image_shape(state.settings), device=state.device)
    return count_macs(state.supernet, image, state.deterministic_mixture())


def _image_shape(settings: SearchSettings) -> tuple[int, int, int]:
    return _shape(settings).map_shape


def _shape(settings: SearchSettings) -> InputShape:
    return InputShape(3, require_images(settings.dataset).size, 10)


def _preparation(settings: SearchSettings, cutout: int, device: torch.device) -> Preparation:
    dataset = require_images(settings.dataset)
    return Preparation(Augmentation(dataset.crop_padding, dataset.flip, cutout), [0.5] * 3, [0.25] * 3, device)


def _random_images(settings: SearchSettings, count: int) -> ArrayImages:
    draws = generator(settings.seed, "benchmark")
    pixels = torch.randint(0, 256, (count, *_image_shape(settings)), generator=draws, dtype=torch.uint8)
    return ArrayImages(pixels, torch.arange(count) % 10, [str(index) for index in range(10)])
