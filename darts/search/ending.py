"""The end of a search by gradients: its genotype, pictures and record, and what is told of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from darts.blackbox.pareto import Line, draw_front, draw_fronts
from darts.config.identity import digest, identity
from darts.loop import plotting
from darts.loop.cell_graphs import draw_changes
from darts.loop.mixture_chart import draw_mixtures
from darts.loop.record import (
    announce_cells,
    datasets_of_tasks,
    experiment,
    record_end,
    refuse_other_run,
    require_record,
    require_same_data,
)
from darts.runtime import distributed
from darts.runtime.files import write_bytes, write_json
from darts.runtime.schema import Within
from darts.search.diagnostics import collapsed, first_kind
from darts.search.epoch_end import recorded_genotype
from darts.search.front import cost_of_front, learnt_fronts, own_device
from darts.search.settings import SearchSettings
from darts.search.state import SearchState
from darts.spaces.genotype import Genotype, called, to_json
from darts.spaces.membership import record_of_space
from darts.spaces.sources import finished_genotype
from darts.tasks.metric import Metric, metric_among

log = logging.getLogger(__name__)
KIND = "search by gradients"  # what run.json calls it


def finish(state: SearchState, folder: Path) -> Genotype:
    """Discretise, draw, and write genotype.json last: where it exists the search has ended."""
    settings, tracker, metric = state.settings, state.tracker, state.task.metric
    require_same_data(state.experiment, settings.dataset)
    last = tracker.history[-1 if state.chosen_epoch is None else state.chosen_epoch - 1]
    found = recorded_genotype(last, settings.space)
    costs = {} if state.costs is None else distributed.broadcast(state.costs.measured(found))
    provenance = {
        "method": settings.method.name,
        "dataset": settings.dataset.name,
        **datasets_of_tasks(settings.dataset),
        "seed": settings.seed,
        "epochs": last["epoch"],
        "settings": digest(identity(settings)),
        "space": record_of_space(settings.space),
        "data": state.experiment["dataset.content"],
        "split": state.data.split.digest(),
        f"supernet_valid_{metric.name}": last[f"valid/{metric.name}"],
        "collapsed": collapsed(found),
        **({"costs": costs} if costs else {}),
        **({"table_accuracy": last["table/accuracy"]} if "table/accuracy" in last else {}),
    }
    genotype = Genotype(found.space, found.cells, provenance)
    fronts = learnt_fronts(state) if settings.method.preference.draws else {}
    measured = (f"valid/{metric.name}", "valid/loss", "table/accuracy")
    tracker.results(state.experiment, {name.replace("/", "_"): last[name] for name in measured if name in last})
    if distributed.is_main_process():
        if fronts:
            write_fronts(state, fronts, folder)
        write_results(state, genotype, folder)
    if state.costs is not None:
        state.costs.check(costs, str(folder / "genotype.json"))
    return genotype


def write_fronts(state: SearchState, fronts: Mapping[str, Sequence[Line]], folder: Path) -> None:
    """Write and draw the front that the search has learnt, and where it has learnt those of several devices, these."""
    cost, own = cost_of_front(state), own_device(state)
    write_json(folder / "pareto.json", fronts[own])
    plotting.save_figure(draw_front(fronts[own], fronts[own], [cost]), folder / "cells" / "pareto")
    if state.devices:
        write_json(folder / "fronts.json", fronts)
        plotting.save_figure(draw_fronts(fronts, cost), folder / "cells" / "fronts")
    for device, lines in fronts.items():
        told = f"{cost} on {device}" if state.devices else cost
        place = folder / ("pareto.json" if device == own else "fronts.json")
        log.info("a front of %d cells, from %.6g to %.6g %s: %s", len(lines), lines[0][cost], lines[-1][cost], told,
                 place)  # fmt: skip


def write_results(state: SearchState, genotype: Genotype, folder: Path) -> None:
    """Draw the pictures, write the record of cost and, last, the result."""
    settings, tracker = state.settings, state.tracker
    plotting.save_cells(genotype, folder / "cells")
    plotting.save_figure(plotting.draw_curves(tracker.history), folder / "cells" / "curves")
    diagnostics = plotting.draw_diagnostics(tracker.history, len(settings.space.candidates))
    plotting.save_figure(diagnostics, folder / "cells" / "diagnostics")
    for kind in settings.space.cell_types:
        mixtures = draw_mixtures(tracker.history, kind, settings.space)
        plotting.save_figure(mixtures, folder / "cells" / f"mixtures_{kind}")
        changes = draw_changes(tracker.history, kind, settings.space)
        plotting.save_figure(changes, folder / "cells" / f"changes_{kind}")
    epochs = round(len(tracker.history) * settings.epoch_cost(), 6)  # passes over all training images
    seconds, macs = round(tracker.total_seconds(), 3), tracker.total_macs()
    cost = {"evaluations": 0, "epochs": epochs, "seconds": seconds, "macs": macs}
    record_end(folder, cost)
    write_bytes(folder / "genotype.json", to_json(genotype).encode())


def finished(settings: SearchSettings, folder: Path) -> Genotype:
    """The genotype of a folder whose search has ended, unless it was one of other settings."""
    genotype = finished_genotype(folder)
    refuse_other_run(folder, KIND, experiment(settings))
    metric = supernet_metric(genotype)
    require_record(genotype, {f"supernet_valid_{metric.name}": Within(metric.least, metric.most)}, folder)
    log.info("this search has ended before; nothing is changed")
    return genotype


def supernet_metric(genotype: Genotype) -> Metric:
    """The metric of the supernet that a finished search wrote down."""
    return metric_among(genotype.provenance, "supernet_valid_")


def error_of(genotype: Genotype) -> float:
    """What a sweeper minimises: the error of the supernet, or a metric of which less is better."""
    metric = supernet_metric(genotype)
    value = float(genotype.provenance[f"supernet_valid_{metric.name}"])
    return metric.loss(value)


def announce(genotype: Genotype, folder: Path) -> None:
    """Say what was found, where it lies and what to type next."""
    warnings = []
    if genotype.provenance.get("collapsed"):
        kind = first_kind(genotype)
        warnings.append(
            f"half of the {called(kind)} or more is skip connections: a collapsed search; see docs/methods.md"
        )
    metric = supernet_metric(genotype)
    value = metric.shown(genotype.provenance[f"supernet_valid_{metric.name}"], digits=1)
    about = f"supernet {metric.name} {value} on the validation split: no forecast of the cell's own {metric.name}"
    announce_cells(genotype, folder, [*warnings, about])
