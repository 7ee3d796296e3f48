"""What a sixth reader broke: texts that cannot be tested on, cells of the other kind, tampered files of texts."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path

import pytest
import torch

from darts.config import registry
from darts.loop.listing import runs_below, table
from darts.runtime.checkpoint import Checkpoints, read_state
from darts.runtime.errors import NotFiniteError, UserError
from darts.spaces.published import published
from darts.tasks.language import LanguageModelling
from darts.tasks.pieces import TextTrainData, text_train_data
from darts.tasks.text import END, open_corpus
from darts.train import language as training
from darts.train import retraining as retrain
from darts.train.result import read_result
from darts.use.trained import load_network
from tests.conftest import ROOT, TINY_TRAIN, composed, run_command
from tests.faults.test_kills import Killed, kill_after
from tests.test_text import dataset, final_settings, small, written

V1 = published("darts_v1_recurrent")


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*")} if folder.exists() else set()


@pytest.mark.parametrize(
    ("test", "own", "told"),
    [
        ("the cat sat on\n" * 10 + "a zebra\n", [], "zebra"),
        ("the cat\n" * 3, [], "at least 20"),
        (None, ["language.test_columns=60"], "language.test_columns is 60"),
    ],
)
def test_a_test_part_that_cannot_be_tested_on_is_told_before_the_training(test, own, told, tmp_path):
    parts = {} if test is None else {"test": test}
    text = written(tmp_path / "text", **parts)
    with pytest.raises(UserError, match=told):
        retrain.run(final_settings(text, "genotype=darts_v1", *own), V1, tmp_path / "run")
    assert "history.jsonl" not in files(tmp_path / "run")
    command = ["-m", "darts.compare", *small(text, "train.batch_size=4", "language.test_columns=2", *own)]
    done = run_command([*command, "searched=[darts_v1]", "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 2 and told in done.stderr and not (tmp_path / "out" / "trials").exists()


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_pipe_in_place_of_a_text_is_refused(part, tmp_path):
    text = written(tmp_path)
    (text / f"{part}.txt").unlink()
    os.mkfifo(text / f"{part}.txt")
    with pytest.raises(UserError, match=f"{part}.txt cannot be read"):
        open_corpus(dataset(text), ("train", "valid", "test"))


def test_only_a_newline_ends_a_line_of_words(tmp_path):
    corpus = open_corpus(dataset(written(tmp_path, train="a b\x0cc d\x1c\u2028e\n" * 10, valid="a b c d e\n" * 10)))
    assert [corpus.vocabulary.tokens[number] for number in corpus.parts["train"][:6]] == ["a", "b", "c", "d", "e", END]


OF_IMAGES = [["train_final.py"], ["-m", "darts.tune"], ["-m", "darts.describe"], ["-m", "darts.compare", "plan=true"]]


@pytest.mark.parametrize("command", OF_IMAGES, ids=lambda command: command[-1])
def test_a_published_cell_of_the_other_kind_is_refused_in_a_line(command, tmp_path):
    text = written(tmp_path / "text")
    setting = "searched=[{}]" if "darts.compare" in command else "genotype={}"
    start = [str(ROOT / command[0])] if command[0].endswith(".py") else command
    told = {setting.format("darts_v1_recurrent"): "is a recurrent cell, but space is 'darts'; add space=recurrent"}
    if "darts.describe" not in command:
        told[setting.format("pc_darts")] = "is a cell for images, but space is 'recurrent'"
    for given, expected in told.items():
        own = [] if "recurrent" in given else small(text)
        done = run_command([*start, given, *own], tmp_path)
        assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_describe_knows_networks_of_images_and_says_so(tmp_path):
    done = run_command(["-m", "darts.describe", "genotype=darts_v1", "space=recurrent"], tmp_path)
    assert done.returncode == 2 and "space is 'recurrent'; it must be a space of images" in done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    retrain.run(final_settings(text, "genotype=darts_v1", "train.epochs=1"), V1, folder)
    return folder


def test_perplexities_are_listed_as_they_are(trained):
    (run,) = runs_below(trained)
    value = json.loads((trained / "result.json").read_text())["test_perplexity"]
    assert run.result == {"test perplexity": value}
    assert f"test perplexity {value:.4g}" in "\n".join(table([run], trained, 200))


def test_a_run_that_ended_without_its_result_is_stopped(trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_bytes((trained / "run.json").read_bytes())
    assert [run.state for run in runs_below(tmp_path)] == ["stopped"]
    assert [run.state for run in runs_below(trained)] == ["ended"]


def test_a_loss_beyond_all_perplexities_ends_the_run_in_a_line(text, tmp_path):
    task = LanguageModelling()
    assert task.completed({"valid/loss": 1000.0})["valid/perplexity"] == math.inf
    assert task.completed({"loss": 2.0})["perplexity"] == pytest.approx(math.exp(2))
    wild = ["weight_optimiser.learning_rate=1e5", "weight_optimiser.clip=inf", "language.piece=100", "train.epochs=2"]
    with pytest.raises(NotFiniteError, match=r"lower weight_optimiser\.learning_rate"):
        retrain.run(final_settings(text, "genotype=darts_v1", *wild), V1, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"test_perplexity": math.inf},
        {"test_loss": math.nan},
        {"test_perplexity": 2.0},
        {"test_perplexity": None, "test_accuracy": 0.9},
    ],
    ids=str,
)
def test_a_result_of_a_text_that_was_changed_is_refused(change, text, trained, tmp_path):
    result = {**json.loads((trained / "result.json").read_text()), **change}
    (tmp_path / "result.json").write_text(
        json.dumps({name: value for name, value in result.items() if value is not None})
    )
    with pytest.raises(UserError, match="is damaged"):
        retrain.run(final_settings(text, "genotype=darts_v1", "train.epochs=1"), V1, tmp_path)
    assert read_result(trained / "result.json")["test_perplexity"] > 1


LATE = ["train.epochs=5", "language.average_after=1", "weight_optimiser.learning_rate=30", "checkpoint.minutes=1e-9"]


@pytest.fixture(scope="module")
def stopped(text, tmp_path_factory) -> Path:
    """A training that was cut off within its fifth epoch, averaging."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    settings = final_settings(text, "genotype=darts_v1", *LATE)
    steps = sum(opened(settings).train.steps(epoch) for epoch in range(4))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "begins_averaging", lambda before, loss, patience: len(before) >= 2)
        kill_after(patch, training, "train_step", steps + 3)
        retrain.run(settings, V1, folder)
    return folder


def opened(settings) -> TextTrainData:
    return text_train_data(settings.dataset, settings.language, 4, 0, torch.device("cpu"))


def set_number(name: str, value: float):
    def change(saved):
        for one in saved["optimiser"]["state"].values():
            one[name].fill_(value)

    return change


CHANGES = {
    "no carry": lambda saved: saved.update(carry=None),
    "no best": lambda saved: saved.update(best=None),
    "best of a later epoch": lambda saved: saved["best"].update(epoch=5),
    "another lowest loss": lambda saved: saved["best"].update(loss=-3.0),
    "no losses": lambda saved: saved.update(losses=[]),
    "many losses": lambda saved: saved.update(losses=[3.0] * 99),
    "mu 0": set_number("mu", 0.0),
    "eta -1": set_number("eta", -1.0),
    "half a step": set_number("step", 1.5),
    "a million steps": set_number("step", 1e6),
    "no optimiser": lambda saved: saved["optimiser"].update(state={}),
    "a step beyond the text": lambda saved: saved["position"].update(step=10**6),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_impossible_checkpoint_of_a_text_is_refused(name, text, stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "begins_averaging", lambda before, loss, patience: len(before) >= 2)
    saved = Checkpoints(stopped).load()
    assert saved["averaging"] and saved["position"]["epoch"] == 4 and saved["position"]["step"] > 0
    settings = final_settings(text, "genotype=darts_v1", *LATE)
    data = opened(settings)
    training.new_state(settings, V1, data, tmp_path, averaging=True).restore(Checkpoints(stopped).load())
    CHANGES[name](saved)
    with pytest.raises(UserError, match="no checkpoint of this run"):
        training.new_state(settings, V1, data, tmp_path, averaging=True).restore(saved)


def test_a_language_model_is_named_where_networks_of_images_are_used(trained, tmp_path):
    with pytest.raises(UserError, match="is a language model; predictions, exports, fine-tuning and load_network know"):
        load_network(trained)
    assert read_state(trained / "weights.pt")["kind"] == "language model"


def test_advice_for_less_memory_names_what_a_text_uses(text, tmp_path, monkeypatch):
    def full(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(training, "train_step", full)
    with pytest.raises(UserError, match=r"lower train\.batch_size \(4\), language\.units or language\.piece"):
        retrain.run(final_settings(text, "genotype=darts_v1"), V1, tmp_path)


def test_the_comparison_that_a_training_prints_is_of_the_same_network(text, tmp_path):
    given = small(text, "genotype=darts_v1", "train.batch_size=4", "train.epochs=1", "language.test_columns=2")
    done = run_command([str(ROOT / "train_final.py"), *given], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "language.units=6" in done.stdout.split("next:")[1]


def test_runs_are_listed_while_others_come_and_go(trained, tmp_path):
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            place = tmp_path / "other"
            place.mkdir()
            (place / "run.json").write_bytes((trained / "run.json").read_bytes())
            (place / "run.json").unlink()
            place.rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert all(run.folder == tmp_path / "other" for run in runs_below(tmp_path))
    finally:
        stop.set()
        other.join()


def test_two_plugins_cannot_take_one_name_with_functions_of_torch(monkeypatch):
    for table_of in ("activations", "_modules", "_plugins"):
        monkeypatch.setattr(registry, table_of, dict(getattr(registry, table_of)))
    monkeypatch.setattr(registry, "_loading", ["good"])
    registry.register("activation", "swish")(torch.nn.functional.silu)
    monkeypatch.setattr(registry, "_loading", ["clash"])
    with pytest.raises(UserError, match="'swish' is registered by good already; clash must choose another name"):
        registry.register("activation", "swish")(torch.nn.functional.softsign)


@pytest.mark.parametrize("name", ["", 5, "a b,[c]=${x}\n"])
def test_a_name_that_nobody_could_choose_is_refused(name):
    with pytest.raises(UserError, match="register: the name of an activation is"):
        registry.register("activation", name)
    with pytest.raises(UserError, match="is no class or function"):
        registry.register("activation", "number")(3)


def test_a_failed_prediction_leaves_the_earlier_one(tmp_path, monkeypatch):
    from darts import predict

    (tmp_path / "measures.json").write_text("{}")

    def full(path, data):
        raise UserError("no room")

    monkeypatch.setattr(predict, "write_bytes", full)
    with pytest.raises(UserError, match="no room"):
        predict.write_table(tmp_path, "table")
    assert (tmp_path / "measures.json").exists()


def test_a_benchmark_of_a_text_is_refused_before_it_measures(tmp_path):
    with pytest.raises(UserError, match="dataset is bible, which holds no images"):
        composed("benchmark", "space=recurrent", "dataset=bible", *TINY_TRAIN[:0])
