"""A supernet with its architecture parameters and both optimisers, to be stepped by a loop of one's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from darts.api.calls import settings_of
from darts.loop.optimisation import set_learning_rate
from darts.models.mixture import Mixture, Moment
from darts.models.supernet import Supernet
from darts.runtime.device import ready_device
from darts.runtime.errors import UserError, require
from darts.search.costs import cost_model, costs_by_device
from darts.search.preferences import alpha_at
from darts.search.settings import SearchSettings
from darts.search.state import SearchState, new_state
from darts.search.step import architecture_step, joint_step, weight_step
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import InputShape, Size
from darts.tasks.batches import Batches, SearchData, Split
from darts.tasks.settings import require_images
from darts.tasks.task import Batch

_NO_IMAGES, _NO_SPLIT = cast(Batches, None), cast(Split, None)  # they are the caller's
Images = tuple[Tensor, Tensor]  # prepared images (batch, C, H, W) and labels (batch,)


class Bilevel:
    """The model and the optimisers of a search by gradients, without its data and without its loop.

    Overrides are those of train_search.py, such as "method=drnas", "network.channels=8"; `dataset.*` and what the loop
    decides (schedules that prune, early stopping, budgets) play no part. `size` is the side of the images, or (height,
    width); `steps` is how many the loop will take, from which temperatures and fading weights know how far it is.

    Attributes: `supernet`, `alpha` (cell type -> parameter (edges, candidates); of darts_front (points, edges,
    candidates), of several devices (2, points, edges, candidates)), `settings`. Limits of `constraints` and a front's
    cost weigh on alpha as in a search.
    """

    def __init__(self, *overrides: str, channels: int, size: Size, classes: int, steps: int) -> None:
        settings = settings_of("search", "logger=none", *overrides)
        if not isinstance(settings, SearchSettings):
            raise UserError(f"method is {settings.method.name}; Bilevel needs a method by gradients")
        require_images(settings.dataset)
        require(steps >= 1, "steps", steps, "at least 1")
        self.settings, self.steps = settings, steps
        device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
        self._place = tempfile.TemporaryDirectory()  # of records that nobody reads
        shape = InputShape(channels, size, classes)
        data = SearchData(shape, _NO_IMAGES, _NO_IMAGES, _NO_SPLIT)
        folder = Path(self._place.name)
        self._state: SearchState = new_state(settings, data, device, folder)
        self._state.costs = cost_model(settings, shape, device, folder)
        self._state.devices = costs_by_device(settings, self._state.costs)
        set_learning_rate(self._state.weight_optimiser, settings.weight_optimiser.learning_rate)

    @property
    def supernet(self) -> Supernet:
        """The network of mixed operations: called with images and `mixture()` it gives logits."""
        return cast(Supernet, self._state.supernet)

    @property
    def alpha(self) -> dict[str, nn.Parameter]:
        """By cell type the architecture parameters, (edges, candidates); some methods have further matrices."""
        return self._state.alpha

    @property
    def moment(self) -> Moment:
        """How far the loop is."""
        epochs = self.settings.search.epochs
        progress = min(1.0, self._state.step / self.steps)
        return Moment(progress, min(int(progress * epochs), epochs - 1), epochs)

    def set_learning_rate(self, learning_rate: float) -> None:
        """The learning rate of the weights from the next step on; it is `weight_optimiser.learning_rate` at first."""
        set_learning_rate(self._state.weight_optimiser, learning_rate)

    def step(self, train: Images, valid: Images) -> dict[str, float]:
        """Move alpha by a validation batch, then the weights by a training batch; returns losses and accuracy.

        A method with a single level moves both by the training batch. Images are floating-point, prepared as one
        wishes, on the device of the settings.
        """
        state, moment = self._state, self.moment
        train_batch, valid_batch = Batch(*train), Batch(*valid)
        if self.settings.method.hypergradient.single_level:
            measured = joint_step(state, train_batch, moment)
        else:
            measured = architecture_step(state, train_batch, valid_batch, moment)
            measured |= weight_step(state, train_batch, valid_batch, moment)
        state.step += 1
        state.epoch = int(self.moment.epoch)
        return {name: float(mean.total) / mean.count for name, mean in measured.items()}

    def mixture(self) -> Mixture:
        """The mixture weights of the present moment, as the supernet takes them, with a gradient in alpha."""
        state = self._state
        with state.noise("mixture"):
            alpha = alpha_at(state, state.alpha)
            return self.settings.method.mixture(alpha, state.masks, self.moment, self.settings.space)

    def evaluate(self, images: Tensor) -> Tensor:
        """Logits of the supernet under the mixture without its random draws, and without a gradient."""
        with torch.no_grad():
            return cast(Tensor, self.supernet(images, self._state.deterministic_mixture()))

    def genotype(self) -> Genotype:
        """The cell that alpha stands for now."""
        return self._state.genotype()
