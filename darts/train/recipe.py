"""What a recipe changes of a training step: the optimiser, its learning rate, the images, the targets, the average.

Every random choice depends on (seed, epoch, step) or on an image's own draws, so that a resumed run goes on bit for
bit. Processes of one job draw the same mixing, and mix as one process mixes the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from darts.loop.eager import eager
from darts.loop.optimisation import cosine_learning_rate, weight_optimiser
from darts.loop.settings import WeightOptimiser
from darts.runtime import distributed
from darts.runtime.seeding import RESOLUTION, ambient
from darts.tasks.batches import RawBatch
from darts.tasks.task import cross_entropy
from darts.train.settings import BriefSettings, FinalSettings, Optimiser, Recipe

OPERATIONS = 2  # of RandAugment, an image


class Target(NamedTuple):
    """What a batch is to be classified as."""

    labels: Tensor  # (batch,): the class, or of a mixed image the one that it shows most of
    probabilities: Tensor | None  # (batch, classes) of mixed images


def optimised(settings: FinalSettings | BriefSettings) -> WeightOptimiser:
    """The settings of the weights' optimiser, with what the recipe says in their place."""
    recipe, own = settings.train.recipe, settings.weight_optimiser
    rate = own.learning_rate if recipe.learning_rate is None else recipe.learning_rate
    decay = own.weight_decay if recipe.weight_decay is None else recipe.weight_decay
    return replace(own, learning_rate=rate, weight_decay=decay)


def recipe_optimiser(parameters: Iterable[Tensor], settings: FinalSettings | BriefSettings) -> torch.optim.Optimizer:
    """SGD, or AdamW, whose decay is apart from its gradient."""
    own = optimised(settings)
    if settings.train.recipe.optimiser is Optimiser.SGD:
        return weight_optimiser(parameters, own, settings.graphs)
    return eager(torch.optim.AdamW)(parameters, lr=own.learning_rate, weight_decay=own.weight_decay)


def learning_rate(settings: FinalSettings | BriefSettings, epoch: int, step: int, steps: int) -> float:
    """Of a step, counted from 0 in its epoch: a linear rise over the warm-up, then half a cosine or `rate_decay`."""
    own, epochs, recipe = optimised(settings), settings.train.epochs, settings.train.recipe
    warmup = recipe.warmup_epochs
    done = epoch + step / steps
    if done < warmup:
        return own.learning_rate * min(1.0, (done + 1 / steps) / warmup)
    if recipe.rate_decay is not None:
        return own.learning_rate * recipe.rate_decay ** (epoch - warmup)
    return cosine_learning_rate(own, (done - warmup) / (epochs - warmup), epochs - warmup)


def changed_pixels(raw: RawBatch, magnitude: int) -> RawBatch:
    """RandAugment (Cubuk et al. 2020): two random operations an image, on pixels (batch, C, H, W), 0 to 255.

    An image's operations depend on its own draws only, as its crop does.
    """
    if magnitude == 0:
        return raw
    from torchvision.transforms import v2

    operation = v2.RandAugment(OPERATIONS, magnitude)
    changed = []
    for image, draws in zip(raw.pixels.cpu(), raw.draws, strict=True):
        row, column = (int(draw * RESOLUTION) for draw in draws[:2].tolist())
        with ambient(row, "randaugment", column):
            changed.append(operation(image))
    return raw._replace(pixels=torch.stack(changed).to(raw.pixels.device))


def mixed(
    images: Tensor, labels: Tensor, recipe: Recipe, classes: int, position: tuple[int, int, int]
) -> tuple[Tensor, Target]:
    """Mixup or CutMix of prepared images (batch, C, H, W), with their targets; `position`: seed, epoch, step.

    Each image is mixed with the one before it in the whole batch, the first with the last.
    """
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return images, Target(labels, None)
    from torchvision.transforms import v2

    choices = []
    if recipe.mixup > 0:
        choices.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
    if recipe.cutmix > 0:
        choices.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
    seed, epoch, step = position
    before_images, before_labels = before_own(images, labels)
    number = len(before_labels)
    with ambient(seed, "mixing", epoch, step):
        images, probabilities = v2.RandomChoice(choices)(
            torch.cat([before_images, images]), torch.cat([before_labels, labels])
        )
    images, probabilities = images[number:], probabilities[number:]
    return images, Target(probabilities.argmax(1), probabilities)


def before_own(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The image and label that stand before this process's own in the whole batch; nothing where it has all of it."""
    if distributed.world_size() == 1:
        return images[:0], labels[:0]
    lasts = images.new_zeros(distributed.world_size(), *images.shape[1:])
    names = labels.new_zeros(distributed.world_size())
    lasts[distributed.rank()], names[distributed.rank()] = images[-1], labels[-1]
    for held in (lasts, names):
        distributed.all_reduce_(held)  # all others have zeros in its place
    before = (distributed.rank() - 1) % len(names)
    return lasts[before : before + 1], names[before : before + 1]


def target_loss(logits: Tensor, target: Target, smoothing: float) -> Tensor:
    """This process's part of the whole batch's mean cross-entropy, of labels or of probabilities, smoothed."""
    wanted = target.labels if target.probabilities is None else target.probabilities
    return cross_entropy(logits, wanted, smoothing)


def averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of a network's weights and of its batch norms' statistics; None without decay.

    The first update copies the network; each later one is decay * average + (1 - decay) * network.
    """
    if decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
