"""From YAML to typed settings: every part's schema for Hydra, and what makes two runs the same experiment.

A part of a method (a relaxation, say) is its own schema: registered here, composed by Hydra from its YAML file, and
returned by `typed` as an instance of the very class that does the work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from darts import (
    alpha_terms,
    beside,
    bilevel,
    channels,
    discretisation,
    parallel,
    perturbation,
    relaxation,
    schedule,
    stopping,
)
from darts import weight_rules as rules
from darts.blackbox import predictor, rungs, strategies
from darts.commands import (
    AnySearchSettings,
    BenchmarkSettings,
    BlackBoxSettings,
    CompareSettings,
    CorrelateSettings,
    DescribeSettings,
    FinalSettings,
    SearchSettings,
    SelectSettings,
    TuneSettings,
)
from darts.errors import UserError, unknown
from darts.method import Method
from darts.settings import (
    BundledDataset,
    ImageFolderDataset,
    InheritedWeights,
    MultiObjective,
    ShortTraining,
    TableLookup,
    TorchvisionDataset,
    ZeroCost,
)
from darts.spaces import SearchSpace

CONF = str(Path(__file__).parent.parent / "conf")
T = TypeVar("T")


PARTS = {
    "bundled": BundledDataset,
    "torchvision": TorchvisionDataset,
    "image_folder": ImageFolderDataset,
    "search_space": SearchSpace,
    "method": Method,
    "softmax": relaxation.Softmax,
    "gumbel": relaxation.Gumbel,
    "gumbel_hard": relaxation.GumbelHard,
    "dirichlet": relaxation.Dirichlet,
    "sigmoid": relaxation.Sigmoid,
    "binary_paths": relaxation.BinaryPaths,
    "uniform_paths": relaxation.UniformPaths,
    "all_channels": channels.AllChannels,
    "partial_channels": channels.PartialChannels,
    "nothing": beside.Nothing,
    "auxiliary_skip": beside.AuxiliarySkip,
    "skip_dropout": beside.SkipDropout,
    "zero_one": alpha_terms.ZeroOne,
    "log_sum_exp": alpha_terms.LogSumExp,
    "anchor": alpha_terms.Anchor,
    "unperturbed": perturbation.Unperturbed,
    "random_smoothing": perturbation.RandomSmoothing,
    "adversarial_smoothing": perturbation.AdversarialSmoothing,
    "first_order": bilevel.FirstOrder,
    "finite_difference": bilevel.FiniteDifference,
    "neumann": bilevel.Neumann,
    "training_loss": rules.TrainingLoss,
    "layer_alignment": rules.LayerAlignment,
    "frozen_operations": rules.FrozenOperations,
    "constant": schedule.Constant,
    "warm_up": schedule.WarmUp,
    "stages": schedule.Stages,
    "greedy": schedule.Greedy,
    "projection": schedule.Projection,
    "best_of_samples": schedule.BestOfSamples,
    "last_epoch": stopping.LastEpoch,
    "eigenvalue_growth": stopping.EigenvalueGrowth,
    "strongest_edges": discretisation.StrongestEdges,
    "few_skips": discretisation.FewSkips,
    "threshold": discretisation.Threshold,
    "random_search": strategies.RandomSearch,
    "local_search": strategies.LocalSearch,
    "hill_climbing": strategies.HillClimbing,
    "evolution": strategies.Evolution,
    "genetic": strategies.Genetic,
    "breadth_first": strategies.BreadthFirst,
    "depth_first": strategies.DepthFirst,
    "successive_halving": rungs.SuccessiveHalving,
    "hyperband": rungs.Hyperband,
    "predictor": predictor.Predictor,
    "short_training": ShortTraining,
    "inherited": InheritedWeights,
    "table": TableLookup,
    "zero_cost": ZeroCost,
    "multi_objective": MultiObjective,
}


def register() -> None:
    """Tell Hydra the schemas; the YAML files under conf/ name them in their defaults lists."""
    store = ConfigStore.instance()
    commands = {
        "search": AnySearchSettings,
        "final": FinalSettings,
        "compare": CompareSettings,
        "select": SelectSettings,
        "tune": TuneSettings,
        "correlate": CorrelateSettings,
        "describe": DescribeSettings,
        "benchmark": BenchmarkSettings,
    }
    for name, node in commands.items():
        store.store(name=f"{name}_schema", node=node)
    for name, part in PARTS.items():
        store.store(group="schema", name=name, node=part)


def typed(config: DictConfig, kind: type[T]) -> T:
    """The composed configuration as an object of its settings class, every range checked; `UserError` otherwise."""
    _refuse_strays(config, "")
    try:
        settings = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing; give {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {' '.join(str(error).splitlines()[0].split())}") from None
    assert isinstance(settings, kind)
    if not hasattr(settings, "parallel"):
        parallel.require_alone("this command")
    return settings


def _refuse_strays(config: DictConfig, prefix: str) -> None:
    """Hydra's `+key=value` adds keys that no schema knows; refuse them."""
    kind = OmegaConf.get_type(config)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in config:
        if known is not None and key not in known:
            raise unknown(f"{prefix.rstrip('.')}: setting" if prefix else "setting", key, known)
        value = config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_missing():
            _refuse_strays(value, f"{prefix}{key!s}.")


def search_settings(config: DictConfig) -> SearchSettings | BlackBoxSettings:
    """The settings of train_search.py, of the method's kind."""
    return typed(config, AnySearchSettings).narrowed()


# What may differ between two runs that are still the same experiment.
_CIRCUMSTANCES = (
    *("device", "engine", "graphs", "memory", "parallel", "runs"),
    *("root", "download", "device_megabytes", "workers", "cache", "checkpoint", "weights"),
)


def plain(settings: Any) -> Any:
    """Settings as dictionaries, lists and plain values; a part carries the name of its class."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = {field.name: plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        is_part = type(settings).__base__ is not object
        return {"part": type(settings).__name__, **values} if is_part else values
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    return settings


def identity(settings: Any) -> dict[str, Any]:
    """The settings that decide the result, flat: dotted key -> value."""
    return dict(_flat(plain(settings), ""))


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key not in _CIRCUMSTANCES:
            pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def digest(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a flat set of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def refuse_other_settings(stored: dict[str, Any], present: dict[str, Any], folder: Path) -> None:
    """Raise `UserError` naming the settings that differ between a run's folder and the present command."""
    differing = sorted(key for key in stored.keys() | present.keys() if stored.get(key) != present.get(key))
    if differing:
        named = ", ".join(f"{key} was {stored.get(key)!r} and is now {present.get(key)!r}" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(f"{folder} holds a run of other settings: {named}{more}; give another hydra.run.dir")
