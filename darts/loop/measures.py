"""How good answers are where the classes are known: accuracies, a confusion matrix, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.errors import one_line

BINS = 10  # of equal width, of the probability of the predicted class
UNBALANCED = 1.5  # times the images of the smallest class that the largest has where a set counts as unbalanced
LOWEST = 3  # classes that the console names
TOP = 5  # answers of which one must be right
LEAST_CLASSES = 100  # from so many on top-5 accuracy is printed, as papers do
LEAST_PROBABILITY = 1e-12  # of the true class, in the log loss


@dataclass(frozen=True)
class Measures:
    """What is known of a network's answers to labelled pictures."""

    classes: list[str]
    pictures: int
    accuracy: float
    balanced_accuracy: float  # mean over the classes that occur of their own accuracy
    by_class: dict[str, float | None]  # accuracy of each class's pictures; None: it does not occur
    confusion: list[list[int]]  # row: the true class, column: the answer
    calibration_error: float  # expected calibration error over `BINS` bins (Guo et al. 2017, equation 3)
    bins: list[dict[str, float]]  # of the bins that hold pictures: their number, mean probability, accuracy
    log_loss: float  # mean of -log(probability of the true class), natural logarithm
    top5_accuracy: float | None = None  # part of the pictures with their class among the five likeliest; of many only

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def pictures_of(self) -> dict[str, int]:
        """The number of pictures of each class."""
        return {name: sum(row) for name, row in zip(self.classes, self.confusion, strict=True)}

    def unbalanced(self) -> bool:
        """Whether the largest class has at least `UNBALANCED` times the pictures of the smallest."""
        numbers = self.pictures_of().values()
        return max(numbers) >= UNBALANCED * min(numbers)

    def balance_lines(self) -> list[str]:
        """What the accuracy hides where classes are of different sizes, for people; nothing where they are not."""
        if not self.unbalanced():
            return []
        numbers = self.pictures_of()
        largest, smallest = max(numbers, key=numbers.__getitem__), min(numbers, key=numbers.__getitem__)
        sizes = f"{numbers[largest]} of {one_line(largest)}, {numbers[smallest]} of {one_line(smallest)}"
        known = {name: value for name, value in self.by_class.items() if value is not None}
        lowest = sorted(known, key=known.__getitem__)[:LOWEST]
        words = [f"{one_line(name)} {100 * known[name]:.2f}% of {numbers[name]}" for name in lowest]
        return [
            f"the test images are unbalanced ({sizes}), and the accuracy counts large classes more",
            f"accuracy balanced over classes {100 * self.balanced_accuracy:.2f}%; lowest: {', '.join(words)}",
        ]


class Tally:
    """Sums over answers, a batch at a time, from which `Measures` follow; those of several processes add up."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.confusion = np.zeros((len(self.classes), len(self.classes)))  # row: the true class, column: the answer
        self.bins = np.zeros((BINS, 3))  # pictures, sum of the answers' probabilities, right answers
        self.log_loss = 0.0
        self.among_top = 0.0  # pictures whose class is among the `TOP` likeliest

    def add(self, probabilities: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> None:
        """Add a batch: probabilities (pictures, classes), the true class and the predicted one (pictures,)."""
        rows = np.arange(len(labels))
        certainty, true = np.nan_to_num(probabilities[rows, answers]), probabilities[rows, labels]
        self.among_top += int((_places(probabilities, labels) < TOP).sum())
        np.add.at(self.confusion, (labels, answers), 1)
        place = np.clip(np.ceil(certainty * BINS).astype(int) - 1, 0, BINS - 1)  # (0, 0.1], (0.1, 0.2], ...
        for number in range(BINS):
            inside = place == number
            self.bins[number] += inside.sum(), certainty[inside].sum(), (answers == labels)[inside].sum()
        self.log_loss -= float(np.log(np.maximum(true, LEAST_PROBABILITY)).sum())

    def add_logits(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (pictures, classes) and labels (pictures,) on any device, which is waited for."""
        shown = logits.detach().float().cpu()
        self.add(shown.softmax(1).double().numpy(), labels.cpu().numpy(), shown.argmax(1).numpy())

    def measures(self) -> Measures:
        """The measures of the answers that all processes have added; every process must call it."""
        own = [*self.confusion.ravel(), *self.bins.ravel(), self.among_top, self.log_loss]
        sums = np.asarray(distributed.all_reduce_numbers(own))
        cells = self.confusion.size
        confusion, bins = sums[:cells].reshape(self.confusion.shape), sums[cells:-2].reshape(BINS, 3)
        pictures, correct = confusion.sum(1), confusion.diagonal()
        by_class = [float(part / whole) if whole else None for part, whole in zip(correct, pictures, strict=True)]
        total = int(pictures.sum())
        there = [_bin(*row) for row in bins if row[0]]
        error = sum(found["pictures"] * abs(found["accuracy"] - found["probability"]) for found in there) / total
        top5 = float(sums[-2] / total) if len(self.classes) >= LEAST_CLASSES else None
        return Measures(
            classes=self.classes,
            pictures=total,
            accuracy=float(correct.sum() / total),
            balanced_accuracy=float(np.mean([value for value in by_class if value is not None])),
            by_class=dict(zip(self.classes, by_class, strict=True)),
            confusion=confusion.astype(int).tolist(),
            calibration_error=float(error),
            bins=there,
            log_loss=float(sums[-1] / total),
            top5_accuracy=top5,
        )


def _places(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each picture's class among the answers, from 0; of equal ones the first class stands first.

    The last place where probabilities are NaN.
    """
    rows, classes = np.arange(len(labels)), np.arange(probabilities.shape[1])
    true = probabilities[rows, labels][:, None]
    before = (probabilities > true) | ((probabilities == true) & (classes < labels[:, None]))
    return np.where(np.isnan(probabilities).any(1), len(classes), before.sum(1))


def _bin(pictures: float, probability: float, right: float) -> dict[str, float]:
    return {
        "pictures": int(pictures),
        "probability": float(probability / pictures),
        "accuracy": float(right / pictures),
    }


def measured(probabilities: Sequence[Sequence[float]], labels: Sequence[int], classes: Sequence[str]) -> Measures:
    """Measure answers: probabilities (pictures, classes), and the true class of each picture."""
    shown = np.asarray(probabilities, dtype=float)
    tally = Tally(classes)
    tally.add(shown, np.asarray(labels), shown.argmax(1))
    return tally.measures()
