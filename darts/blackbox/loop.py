"""A black-box search, from typed settings to genotype.json: ask the strategy, answer once, keep to the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darts.blackbox.evaluators import EvaluationContext
from darts.blackbox.exchange import Answer, Cost, Ledger, Scorer, exchange
from darts.blackbox.generator import Generator, Limit, Lookup
from darts.blackbox.journal import Journal, Line
from darts.blackbox.pareto import draw_front, front
from darts.blackbox.settings import BlackBoxSettings, TextBlackBoxSettings
from darts.blackbox.strategy import Pool, Request
from darts.config.identity import digest, identity
from darts.loop import plotting
from darts.loop.record import (
    announce_cells,
    claim_folder,
    data_record,
    datasets_of_tasks,
    experiment,
    record_end,
    refuse_other_run,
    require_record,
    require_same_data,
)
from darts.models.cost import CostModel, tell_of_latency
from darts.models.latency import CellLatencies, Latencies, latencies_of
from darts.models.settings import COSTS, LATENCY
from darts.runtime.device import memory_advice, ready_device
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder, write_bytes, write_json
from darts.runtime.schema import FINITE
from darts.runtime.seeding import python_generator
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.membership import record_of_space
from darts.spaces.sources import finished_genotype
from darts.spaces.table import Table, load_table
from darts.tasks.batches import SearchData
from darts.tasks.searched import SearchedData, searched_data
from darts.tasks.summary import log_summary, summary_of

log = logging.getLogger(__name__)
KIND = "search by scores"  # what run.json calls it
PLACEHOLDER_COLUMNS = 1  # of a text, which an evaluator lays into columns of its own


@dataclass
class BlackBoxSearch:
    """A search under way."""

    settings: BlackBoxSettings
    folder: Path
    device: torch.device
    data: SearchedData
    table: Table | None
    scorer: Scorer
    pool: Pool
    ledger: Ledger
    journal: Journal
    experiment: dict[str, Any]  # what must be the same where the search is resumed
    best: tuple[float, float, Genotype] | None = None  # effort, score, genotype

    def lines(self) -> Iterator[Line]:
        """Ask the strategy until it or the budget ends; gives the line of every evaluation."""
        asking = self.settings.method.ask(self.pool, python_generator(self.settings.seed, "strategy"))
        for request, answer in exchange(asking, self.scorer, self._evaluated, self.ledger):
            effort = self.scorer.effort(request.fraction) if self.scorer.partial_effort else 1.0
            if self.best is None or (effort, answer.score) > self.best[:2]:
                self.best = effort, answer.score, request.genotype
            if self.journal.pending_key is not None:
                self._record(request, answer)
            yield self.journal.history[-1]

    def _evaluated(self, key: str, request: Request) -> Answer:
        """What the journal knows from before an interruption, else a new answer."""
        known = self.journal.recall(key)
        if known is not None:
            line, seconds = known
            metrics = {name: line[name] for name in ("accuracy", *self.scorer.costs) if name in line}
            return Answer(line["score"], metrics, Cost(line["cost/epochs"], seconds, line["cost/macs"]))
        start = time.perf_counter()
        score, metrics = self.scorer.score(request.genotype, request.fraction)
        seconds, macs = time.perf_counter() - start, self.scorer.macs(request.genotype, request.fraction)
        return Answer(score, metrics, Cost(self.scorer.epochs(request.fraction), seconds, macs))

    def _record(self, request: Request, answer: Answer) -> None:
        best = self._best()
        line = {
            "fraction": request.fraction,
            "score": answer.score,
            "best": best[1],
            **answer.metrics,
            "cost/epochs": answer.cost.epochs,
            "cost/macs": answer.cost.macs,
            **self._truth(best[2]),
            "cells": {kind: cell.nodes for kind, cell in request.genotype.cells.items()},
        }
        self.journal.record(line, answer.cost.seconds)

    def _best(self) -> tuple[float, float, Genotype]:
        if self.best is None:
            raise UserError("the budget allows no evaluation; raise budget.epochs or budget.minutes")
        return self.best

    def _truth(self, genotype: Genotype) -> dict[str, float]:
        """What the table says of the best genotype so far, for the record only."""
        return {} if self.table is None else self.table.metrics(genotype, self.settings.benchmark.column)


def run(settings: BlackBoxSettings, folder: Path) -> Genotype:
    """Search; the same folder again resumes where it was stopped, and answers at once where it had ended."""
    if (folder / "genotype.json").exists():
        return finished(settings, folder)
    with lock_folder(folder), deferred_signals():
        return _searched(settings, folder)


def _searched(settings: BlackBoxSettings, folder: Path) -> Genotype:
    with stopped_at_once():
        search = start_or_resume(settings, folder)
    with closing(search.journal):
        evaluate_all(search)
        genotype = finish(search)
    raise_if_interrupted(pending_signal())
    return genotype


def evaluate_all(search: BlackBoxSearch) -> None:
    """Ask and answer until the strategy or the budget ends, with a line on the console for every evaluation."""
    settings = search.settings
    digits = len(str(settings.budget.evaluations or ""))
    text = isinstance(settings, TextBlackBoxSettings)
    size = "language.units" if text else f"evaluator.network ({settings.evaluator.network.channels} channels)"
    advice = f"lower {size} or the evaluator's batch size"
    with memory_advice(advice):
        for line in search.lines():
            of = f"/{settings.budget.evaluations}" if settings.budget.evaluations else ""
            seconds = search.journal.timing[-1]["seconds"]
            log.info("evaluation %*d%s  score %.4f, best %.4f  %.1f s", digits, line["evaluation"], of,
                     line["score"], line["best"], seconds)  # fmt: skip


def start_or_resume(settings: BlackBoxSettings, folder: Path) -> BlackBoxSearch:
    """Build everything a search needs."""
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    own = experiment(settings)
    refuse_other_run(folder, KIND, own)
    loop = settings.search
    language, batch_size = None, loop.batch_size
    if isinstance(settings, TextBlackBoxSettings):
        language, batch_size = settings.language, PLACEHOLDER_COLUMNS
    data = searched_data(settings.dataset, language, loop.train_fraction, batch_size, settings.seed, device)
    table = load_table(settings.benchmark, settings.space)
    latencies = known_latencies(settings, data)
    scorer = settings.evaluator.scorer(EvaluationContext(settings, data, device, table, folder, latencies))
    if settings.method.partial_effort and not scorer.partial_effort:
        log.info("this evaluator knows no smaller effort: every rung costs a whole evaluation, once")
    generator = Generator(settings.space, settings.rules, *limits(settings, data, device, latencies, folder))
    pool = Pool(
        settings.space,
        generator.draw if generator.bounded else settings.space.sample,
        generator.valid if generator.bounded else lambda genotype: True,
    )
    summary = summary_of(settings.dataset, data)
    claim_folder(folder, KIND, own, device, data_record(summary, own))
    write_bytes(folder / "split.json", data.split.to_json().encode())
    log_summary(summary)
    names = [LATENCY] if settings.constraints.latency_ms is not None else []
    tell_of_latency(names, latencies, device)
    journal = Journal(folder, device, settings.logger, scorer.limits)
    if journal.before:
        log.info("resuming after %d evaluations", len(journal.before))
    else:
        log.info("%s search on %s in %s genotypes", settings.method.name, device, f"{settings.space.count():,}")
    return BlackBoxSearch(settings, folder, device, data, table, scorer, pool, Ledger(settings.budget), journal, own)


def known_latencies(settings: BlackBoxSettings, data: SearchedData) -> Latencies | None:
    """The latencies of a table, where one is given."""
    if not isinstance(data, SearchData):  # constraints are on networks of images
        return None
    return latencies_of(settings.constraints, settings.space, data.shape)


def limits(
    settings: BlackBoxSettings, data: SearchedData, device: torch.device, latencies: Latencies | None, folder: Path
) -> tuple[list[Limit], list[Lookup]]:
    """What a cell may cost: sums over its edges, and what a table says of whole cells."""
    if not settings.constraints.any or not isinstance(data, SearchData):
        return [], []
    model = CostModel(settings.constraints, settings.space, data.shape, device, latencies)
    model.keep_latency(folder)
    sums, lookups = [], []
    for name, most in model.limits.items():
        if name == LATENCY and isinstance(latencies, CellLatencies):
            lookups.append(Lookup(name, most, latencies.least(), latencies.of))
        else:
            tables = {kind: table.tolist() for kind, table in model.tables[name].items()}
            sums.append(Limit(name, most, model.rest[name], tables))
    return sums, lookups


def finish(search: BlackBoxSearch) -> Genotype:
    """Draw, and write genotype.json last: where it exists the search has ended."""
    settings, folder, journal = search.settings, search.folder, search.journal
    require_same_data(search.experiment, settings.dataset)
    if all(line.get("diverged") for line in journal.history):
        rate = "evaluator.weight_optimiser.learning_rate"
        raise UserError(f"all {len(journal.history)} trainings diverged, so that no cell is better; lower {rate}")
    _, score, found = search._best()
    ledger = search.ledger
    spent = {"evaluations": ledger.evaluations, "epochs": round(ledger.epochs, 6)}
    provenance = {
        "method": settings.method.name,
        "dataset": settings.dataset.name,
        **datasets_of_tasks(settings.dataset),
        "seed": settings.seed,
        "settings": digest(identity(settings)),
        "space": record_of_space(settings.space),
        "data": search.experiment["dataset.content"],
        "split": search.data.split.digest(),
        "score": score,
        **spent,
        **{f"table_{name.split('/')[1]}": value for name, value in search._truth(found).items()},
    }
    genotype = Genotype(found.space, found.cells, provenance)
    journal.results(search.experiment, {"score": score, **search._truth(found)})
    plotting.save_cells(genotype, folder / "cells")
    plotting.save_figure(plotting.draw_progress(journal.history), folder / "cells" / "progress")
    costs = [name for name in COSTS if name in journal.history[0]]
    if costs:
        kept = front(journal.history, costs)
        write_json(folder / "pareto.json", kept)
        plotting.save_figure(draw_front(journal.history, kept, costs), folder / "cells" / "pareto")
    cost = {**spent, "seconds": round(ledger.seconds, 3), "macs": int(ledger.macs)}
    record_end(folder, cost)
    write_bytes(folder / "genotype.json", to_json(genotype).encode())
    return genotype


def finished(settings: BlackBoxSettings, folder: Path) -> Genotype:
    """The genotype of a folder whose search has ended, unless it was one of other settings."""
    refuse_other_run(folder, KIND, experiment(settings))
    genotype = finished_genotype(folder)
    require_record(genotype, {"score": FINITE, "evaluations": int, "epochs": FINITE}, folder)
    log.info("this search has ended before; nothing is changed")
    return genotype


def announce(genotype: Genotype, folder: Path) -> None:
    """Say what was found, where it lies and what to type next."""
    known = genotype.provenance
    score = f"score {known['score']:.4f} after {known['evaluations']} evaluations, {known['epochs']:.3g} epochs"
    announce_cells(genotype, folder, [score])
