"""How values of a task's metric are compared and shown: accuracies in percent, perplexities as they are."""

from __future__ import annotations

from dataclasses import dataclass

from darts.tasks.metric import METRICS, Metric


@dataclass(frozen=True)
class Scale:
    """A metric with its unit for people."""

    metric: Metric

    @property
    def factor(self) -> float:
        """What a value is multiplied with: accuracies are shown in percent."""
        return 100.0 if self.metric.name == "accuracy" else 1.0

    @property
    def title(self) -> str:
        """What an axis or a column says."""
        return "test accuracy %" if self.metric.name == "accuracy" else f"test {self.metric.name}"

    def shown(self, value: float | None) -> str:
        """A value, or a standard deviation of values, for a table."""
        return "-" if value is None else f"{self.factor * value:.2f}"

    def gained(self, difference: float) -> str:
        """By how much something is better: `difference` is of scores, of which more is better."""
        if self.metric.higher_is_better:
            return f"{self.factor * difference:+.2f} points of {self.metric.name}"
        return f"{-self.factor * difference:+.2f} of {self.metric.name}, of which less is better,"

    def change(self, difference: float) -> str:
        """The same for a table: the change of the metric itself."""
        if self.metric.higher_is_better:
            return f"{self.factor * difference:+.2f} points"
        return f"{-self.factor * difference:+.2f}"


def scale_of(name: str) -> Scale:
    """The scale of a metric by its name."""
    return Scale(METRICS[name])
