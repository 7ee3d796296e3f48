"""How well an evaluator ranks cells: known correlations, the table's fact, trained networks, resuming."""

from __future__ import annotations

import json
import math
import re

import pytest
from scipy.stats import kendalltau

from darts import correlate
from darts.blackbox import proxies
from darts.blackbox.settings import Proxy
from darts.runtime.errors import UserError
from darts.spaces.sources import random_genotype
from darts.tasks.metric import PERPLEXITY
from darts.train import retraining as retrain
from tests.conftest import ROOT, TINY_DATA, TINY_TRAIN, composed, run_command

DATA = ROOT.parent / "shared" / "data" / "nasbench201" / "cifar10.csv.gz"
TINY_SCORES = [*TINY_DATA, "search.batch_size=16", "evaluator.network.channels=2", "evaluator.batch_size=8"]


def points(scores, finals):
    return [{"cell": str(n), "score": s, "final": f} for n, (s, f) in enumerate(zip(scores, finals, strict=True))]


def test_known_correlations():
    same = correlate.correlations(points([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert same["kendall_tau"]["value"] == same["spearman_rho"]["value"] == pytest.approx(1.0)
    mixed = correlate.correlations(points([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 0.4]))
    assert mixed["kendall_tau"]["value"] == pytest.approx(4 / 6) and mixed["spearman_rho"]["value"] == pytest.approx(
        0.8
    )
    low, high = mixed["kendall_tau"]["interval"]
    assert low < 4 / 6 <= high


@pytest.mark.parametrize(
    ("scores", "finals", "named"),
    [
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], "all 3 scores are 1;"),
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], "all 3 final accuracies are 0.5;"),
    ],
)
def test_equal_values_have_no_rank_correlation(scores, finals, named, recwarn):
    with pytest.raises(UserError, match=named):
        correlate.correlations(points(scores, finals))
    found = correlate.correlations(points([1.0, 1.0, 3.0, 3.0], [0.1, 0.2, 0.2, 0.2]))
    assert all(math.isfinite(limit) for limit in found["kendall_tau"]["interval"]) and not recwarn


def test_a_score_that_is_not_finite_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(proxies.PROXIES, Proxy.NASWOT, lambda network, batch: math.nan)
    settings = composed("correlate", *TINY_SCORES, f"results=[{trained}]", "evaluator.proxy=NASWOT")
    with pytest.raises(UserError, match="which is not finite"):
        correlate.measure(settings, tmp_path)


def test_twelve_epochs_rank_the_tables_cells_as_is_known(tmp_path):
    if not DATA.exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    table = ["space=nasbench201", f"benchmark.table={DATA}", "evaluator=table", "evaluator.column=cifar10_valid_12"]
    settings = composed("correlate", *TINY_DATA, "search.batch_size=16", *table, "samples=2000")
    found = correlate.correlations(correlate.measure(settings, tmp_path))
    low, high = found["spearman_rho"]["interval"]
    assert low <= 0.772 <= high and high - low < 0.1 and found["cells"] == 2000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    for number in range(4):
        retrain.run(settings, random_genotype(settings.space, 0, number), folder / str(number))
    return folder


def test_trained_networks_are_the_final_accuracies_and_scores_are_kept(trained, tmp_path):
    settings = composed("correlate", *TINY_SCORES, f"results=[{trained}]")
    first = correlate.measure(settings, tmp_path)
    finals = sorted(json.loads(file.read_text())["test_accuracy"] for file in trained.rglob("result.json"))
    assert sorted(point["final"] for point in first) == finals and len({point["score"] for point in first}) == 4
    lines = (tmp_path / "points.jsonl").read_text().splitlines(keepends=True)
    torn = [json.dumps({**json.loads(lines[0]), "score": -1.0}) + "\n", lines[1], lines[2][:10]]
    (tmp_path / "points.jsonl").write_text("".join(torn))
    second = correlate.measure(settings, tmp_path)
    assert second[0]["score"] == -1.0 and second[1:] == first[1:]  # what was there was kept, what was torn made again


def test_networks_of_two_protocols_are_not_mixed(trained, tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.epochs=2")
    retrain.run(settings, random_genotype(settings.space, 0, 9), tmp_path / "other")
    mixed = composed("correlate", *TINY_SCORES, f"results=[{trained},{tmp_path / 'other'}]")
    with pytest.raises(UserError, match="trained by 2 protocols"):
        correlate.measure(mixed, tmp_path / "out")
    with pytest.raises(UserError, match="needs 3 cells, there are 0"):
        correlate.measure(composed("correlate", *TINY_SCORES, "results=[nowhere]"), tmp_path / "out")
    with pytest.raises(UserError, match=r"benchmark.table is null"):
        correlate.measure(composed("correlate"), tmp_path / "out")


@pytest.mark.pictures
def test_the_command_reports(trained, tmp_path):
    done = run_command(["-m", "darts.correlate", *TINY_SCORES, f"results=[{trained}]", "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 0 and "Kendall's tau" in done.stdout, done.stderr
    assert json.loads((tmp_path / "out" / "correlation.json").read_text())["cells"] == 4
    assert (tmp_path / "out" / "correlation.png").exists()


TINY_TEXT = ["space=recurrent", "language.units=4", "dataset.fraction=0.02", "logger=none", "device=cpu"]


@pytest.fixture(scope="module")
def trained_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    settings = composed("final", *TINY_TEXT, "train.epochs=1", "language.average_from=0", "train.batch_size=16")
    for seed in range(4):
        genotype = random_genotype(settings.space, seed, 0)
        retrain.run(settings, genotype, folder / str(seed))
    return folder


def test_brief_trainings_of_a_text_are_ranked_against_perplexities(trained_texts, tmp_path):
    command = ["-m", "darts.correlate", *TINY_TEXT, f"results=[{trained_texts}]", f"hydra.run.dir={tmp_path}",
               "evaluator.train.epochs=1", "evaluator.train.batch_size=16"]  # fmt: skip
    done = run_command(command, ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    finals = sorted(json.loads(file.read_text())["test_perplexity"] for file in trained_texts.rglob("result.json"))
    assert sorted(line["final"] for line in lines) == finals and all(line["score"] < 0 for line in lines)
    found = json.loads((tmp_path / "correlation.json").read_text())
    ranks = kendalltau([line["score"] for line in lines], [-line["final"] for line in lines]).statistic
    assert found["kendall_tau"]["value"] == pytest.approx(ranks) and found["cells"] == 4


def test_lower_perplexities_rank_higher():
    found = correlate.correlations(points([-3.0, -2.0, -1.0], [30.0, 20.0, 10.0]), PERPLEXITY)
    assert found["kendall_tau"]["value"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="all 2 final perplexities are 20; equal"):
        correlate.correlations(points([-3.0, -2.0], [20.0, 20.0]), PERPLEXITY)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["space=recurrent"], "results is []; it must be folders of trained language models"),
        (["space=recurrent", "evaluator=zero_cost", "results=[x]"], "evaluator is 'zero_cost'; it must be brief_trai"),
        (["dataset=fashion_mini", "space=recurrent"], "dataset is 'fashion_mini'; it must be a text"),
    ],
)
def test_what_makes_no_correlation_of_a_text_is_refused(overrides, told):
    with pytest.raises(UserError, match=re.escape(told)):
        composed("correlate", *overrides)


def test_settings_of_the_other_kind_of_data_are_refused():
    for given, told in (("language.units=3", "is no text"), ("space=recurrent benchmark.table=x", "is a text")):
        done = run_command(["-m", "darts.correlate", "results=[x]", *given.split()], ROOT)
        assert done.returncode == 2 and told in done.stderr, done.stderr


def test_networks_of_images_are_no_results_of_a_text(trained, tmp_path):
    settings = composed("correlate", *TINY_TEXT, f"results=[{trained}]")
    with pytest.raises(UserError, match=r"is of another task than dataset=bible|space is 'recurrent'"):
        correlate.measure(settings, tmp_path)
