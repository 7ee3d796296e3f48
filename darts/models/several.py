"""The supernets of several tasks, called together under one mixture."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from darts.models.building import ImageSupernet
from darts.models.mixture import Mixture
from darts.models.supernet import SupernetBase

PREFIX = re.compile(r"^supernets\.\d+\.")  # of a tensor's name: whose it is


def own_name(name: str) -> str:
    """The name of a tensor within its own supernet."""
    return PREFIX.sub("", name)


class SeveralSupernets(SupernetBase):
    """A supernet a task, with a stem, a classifier and batch statistics of its own; one mixture for all."""

    def __init__(self, supernets: Sequence[ImageSupernet], shared_cells: bool) -> None:
        """`shared_cells`: the first supernet's weights of cells and tail are those of all."""
        super().__init__()
        first = supernets[0]
        if shared_cells:
            for supernet in supernets[1:]:
                supernet.cells, supernet.tail = with_weights_of(first.cells), with_weights_of(first.tail)
        self.supernets = nn.ModuleList(supernets)
        self.kinds = first.kinds
        self.macs = SeveralMacs([supernet.macs for supernet in supernets])

    def forward(self, inputs: Sequence[Tensor | None], mixture: Mixture) -> tuple[Tensor | None, ...]:
        """Return each task's logits (batch, classes); None where a task is given nothing."""
        pairs = zip(self.supernets, inputs, strict=True)
        return tuple(None if own is None else supernet(own, mixture) for supernet, own in pairs)

    def to_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._renamed(tensors, "to_reference")

    def from_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._renamed(tensors, "from_reference")

    def _renamed(self, tensors: Mapping[str, Tensor], direction: str) -> dict[str, Tensor]:
        """The tensors as each supernet renames its own, in one dictionary again."""
        found: dict[str, Tensor] = {}
        for number, supernet in enumerate(self.supernets):
            prefix = f"supernets.{number}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            renamed = getattr(supernet, direction)(own)
            found |= {prefix + name: tensor for name, tensor in renamed.items()}
        return found


def with_weights_of(module: nn.Module) -> Any:
    """A copy with the same parameters, not equal ones, and with running statistics of its own."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


class SeveralMacs:
    """Multiply-adds of a call of several supernets."""

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)

    def of_call(self, inputs: Sequence[Tensor | None], mixture: Mixture) -> float:
        """Those of all tasks that are given something."""
        pairs = zip(self.members, inputs, strict=True)
        return sum(macs.of_call(own, mixture) for macs, own in pairs if own is not None)
