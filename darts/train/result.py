"""What a retraining leaves as its result, whatever it trained."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darts.config.identity import refuse_other_experiment
from darts.loop.record import experiment
from darts.runtime.errors import UserError
from darts.runtime.files import read_json, require_content
from darts.runtime.schema import FINITE, JSON, At, Within
from darts.spaces.genotype import Genotype, from_json
from darts.tasks.language import perplexity
from darts.tasks.metric import PERPLEXITY, metric_among, metric_of
from darts.train.settings import BriefSettings, FinalSettings

log = logging.getLogger(__name__)

KIND = "retraining"  # what run.json calls it
Result = dict[str, Any]
RESULT = {
    **{"config": {str: JSON}, "genotype": {str: JSON}, "protocol": str},
    **{"test_loss": FINITE, "parameters": At(0, 2**53), "macs": At(0, 2**63), "seconds": Within(0, 1e12)},
}  # what result.json must hold, and the metric


def read_result(file: Path) -> Result:
    """What a result.json holds; `UserError` where it is damaged."""
    remedy = "remove it to train again"
    content = read_json(file, {str: JSON}, remedy)
    metric = metric_among(content, "test_")
    measured = {f"test_{metric.name}": Within(metric.least, metric.most)}
    require_content(content, {**RESULT, **measured}, str(file), remedy)
    if metric is PERPLEXITY and not math.isclose(perplexity(content["test_loss"]), content["test_perplexity"]):
        told = f"test_perplexity is {content['test_perplexity']}, not the exponential of test_loss"
        raise UserError(f"{file} is damaged: {told}; {remedy}")
    _require_own_cell(content, file, remedy)
    return dict(content)


def _require_own_cell(content: Mapping[str, Any], file: Path, remedy: str) -> None:
    """`UserError` where the cell of a result is not the one that its settings name by digest."""
    trained = content["config"].get("genotype")
    own = from_json(json.dumps(content["genotype"]), str(file), with_plugins=False).digest()
    if trained is not None and trained != own:
        raise UserError(f"{file} is damaged: its cell is {own}, and {trained} was trained; {remedy}")


def protocol(settings: FinalSettings | BriefSettings, genotype: Genotype) -> dict[str, Any]:
    """What decides the result, flat: settings, content of the data, and the cell itself in place of how it is named."""
    tested = isinstance(settings, FinalSettings)
    return {**experiment(settings, tested), "genotype": genotype.digest()}


def finished(settings: FinalSettings, genotype: Genotype, folder: Path, quiet: bool = False) -> Result:
    """The result of a folder whose run has ended, unless it was one of other settings."""
    result = read_result(folder / "result.json")
    metric = metric_of(settings.dataset)
    if f"test_{metric.name}" not in result:
        raise UserError(f"{folder / 'result.json'} is damaged: it has no test_{metric.name}; remove it to train again")
    refuse_other_experiment({**result, "settings": result["config"]}, protocol(settings, genotype), folder)
    if not quiet:
        log.info("this network has been trained before; nothing is changed")
    return result
