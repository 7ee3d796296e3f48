"""Comparisons under several protocols: the same cells and searches, agreement by the formula, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from darts.compare.protocols import agreement_of, agreements_of, cells_of, groups_of, kendall, protocols_of
from darts.compare.report import make_report
from darts.compare.trials import Outcome
from darts.runtime.errors import UserError
from tests.conftest import ROOT, TINY_SCORES, composed, run_command


def tau_by_counting(first, second) -> float:
    """tau-b from the pairs, one by one."""
    concordant = discordant = only_first = only_second = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
            concordant += a * b > 0
            discordant += a * b < 0
            only_first += b == 0 and a != 0
            only_second += a == 0 and b != 0
    both = concordant + discordant
    return (concordant - discordant) / ((both + only_first) * (both + only_second)) ** 0.5


@pytest.mark.parametrize("seed", range(10))
def test_agreement_is_kendalls_tau_of_pairs_counted(seed):
    scores = np.random.default_rng(seed).integers(0, 6, (2, 12)).astype(float)
    assert kendall(scores) == pytest.approx(tau_by_counting(*scores))
    found = agreement_of("a", "b", scores)
    assert found.interval[0] <= found.tau <= found.interval[1] and found.cells == 12


def test_where_a_protocol_ranks_nothing_nothing_is_said():
    found = agreement_of("a", "b", np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
    assert found.tau is None and found.interval is None


def outcomes(values: dict[str, list[float]]) -> list[Outcome]:
    found = []
    for group, own in values.items():
        for number, value in enumerate(own):
            cell = f"{group} {number}"
            found.append(Outcome(number, group, cell, cell, number, value, 1, 1, 1.0))
    return found


def test_groups_are_ranked_under_each_protocol_and_cells_are_matched_by_their_digest():
    slow = make_report(outcomes({"darts": [0.9, 0.8], "random sampling": [0.5, 0.6, 0.7]}), {})
    fast = make_report(outcomes({"darts": [0.1, 0.2], "random sampling": [0.5, 0.6, 0.7]}), {})
    lines = {line["group"]: line for line in groups_of({"slow": slow, "fast": fast})}
    assert lines["darts"]["slow"] == {"mean": pytest.approx(0.85), "rank": 1} and lines["darts"]["fast"]["rank"] == 2
    assert lines["random sampling"]["slow"]["rank"] == 2
    assert cells_of(slow)["darts 1"] == pytest.approx(0.8)
    (pair,) = agreements_of({"slow": slow, "fast": fast})
    first = [0.9, 0.8, 0.5, 0.6, 0.7]
    assert (pair.cells, pair.tau) == (5, pytest.approx(tau_by_counting(first, [0.1, 0.2, 0.5, 0.6, 0.7])))


def test_entries_have_names_or_numbers_and_settings_of_training_only():
    def read(*entries: str):
        return protocols_of(SimpleNamespace(protocols=list(entries)))

    found = read("slow: weight_optimiser.learning_rate=0.01 train.epochs=2", "train.batch_size=32")
    assert found == {"slow": ["weight_optimiser.learning_rate=0.01", "train.epochs=2"], "2": ["train.batch_size=32"]}
    for entries, told in (
        (["a: seed=1"], r"'seed=1' sets none of train, weight_optimiser"),
        (["a: dataset.fraction=0.5"], r"'dataset\.fraction=0\.5' sets none of"),
        (["a:"], "it has no setting"),
        (["a: fast"], r"'fast' sets none of"),
        (["a: train.epochs=1", "a: train.epochs=2"], "there are two of the name 'a'"),
    ):
        with pytest.raises(UserError, match=rf"protocols: .*{told}"):
            read(*entries)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["protocols=['train.epochs=1']"], "it must be at least two"),
        (["protocols=['train.epochs=1','train.epochs=2']", "benchmark.table=x.csv"], "it must be null with protocols"),
    ],
)
def test_what_makes_no_comparison_under_protocols_is_refused(given, told):
    with pytest.raises(UserError, match=told):
        composed("compare", "methods=[darts]", *given)


@pytest.mark.slow(60)
def test_the_same_cells_are_trained_under_each_protocol(tmp_path):
    own = ["protocols=['short: train.epochs=1','long: train.epochs=2 weight_optimiser.learning_rate=0.05']",
           "methods=[random]", "seeds=[0,1]", "random.samples=2", "allow_underpowered=true", "logger=none"]  # fmt: skip
    sizes = ["network.channels=2", "network.cells=3", "train.batch_size=32", "dataset.fraction=0.01", "device=cpu"]
    scores = [item for item in TINY_SCORES if not item.startswith(("dataset", "device", "space"))]
    scores += ["evaluator=zero_cost", "evaluator.proxy=PARAMETERS", "evaluator.network.channels=2"]
    searches = [f"+searches.{item}" for item in scores if not item.startswith("evaluator=")]
    command = ["-m", "darts.compare", *own, *sizes, *searches, "scored_by=zero_cost", "budget.evaluations=2"]
    done = run_command([*command, f"hydra.run.dir={tmp_path}"], ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "searches").iterdir())) == 2  # shared
    trained = {}
    for name, epochs in (("short", 1), ("long", 2)):
        report = json.loads((tmp_path / f"under_{name}" / "report.json").read_text())
        trained[name] = {outcome["genotype"] for outcome in report["outcomes"]}
        assert report["settings"]["train.epochs"] == epochs
    assert trained["short"] == trained["long"] and len(trained["short"]) >= 3
    found = json.loads((tmp_path / "protocols.json").read_text())
    assert [pair["cells"] for pair in found["agreements"]] == [len(trained["short"])]
    assert "under_short/report.html" in (tmp_path / "protocols.md").read_text()
    again = run_command([*command, f"hydra.run.dir={tmp_path}"], ROOT)
    assert again.returncode == 0 and "epoch 1/" not in again.stdout
