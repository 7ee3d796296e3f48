"""Loggers: TensorBoard, Weights & Biases without a network, MLflow; each holds what history.jsonl holds, once."""

from __future__ import annotations

import io
import json
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from darts.loop import plotting
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search.epoch_end import alpha_table, recorded_genotype
from darts.spaces.published import published
from darts.train import retraining
from tests.conftest import TINY_SCORES, TINY_SEARCH, TINY_TRAIN, composed, run_command

CELL = published("darts_v2")
VALUES = ("train/loss", "train/accuracy", "valid/loss", "valid/accuracy")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def tensorboard_values(folder):
    """By name the (step, value) pairs of a run's event files, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}, events


def records_of(content):
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB, after seven bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # what is left of a block is padding
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


def wandb_values(folder):
    """By name the (axis, value) pairs of a run that Weights & Biases kept offline, and its settings."""
    from wandb.proto import wandb_internal_pb2

    found, config, summary = defaultdict(list), {}, {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records_of(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            row = {name: json.loads(value) for name, value in items.items()}
            for name, value in row.items():
                axis = "step" if name.startswith("steps/") else "epoch"
                found[file.name, name].append((row.get(axis), value))
            for item in (*record.run.config.update, *record.config.update):
                config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found, config, summary


def mlflow_runs(uri):
    import mlflow

    client = mlflow.MlflowClient(uri)
    numbers = [found.experiment_id for found in client.search_experiments()]
    return client, client.search_runs(numbers)


def stopped_after_one_epoch(settings, folder, monkeypatch):
    """A search that is killed in its second epoch, after that was logged and before its checkpoint."""
    record = search.record_epoch

    def killed(state):
        record(state)
        if state.epoch == 1:
            raise RuntimeError("killed")

    monkeypatch.setattr(search, "record_epoch", killed)
    with pytest.raises(RuntimeError, match="killed"):
        search.run(settings, folder)
    monkeypatch.setattr(search, "record_epoch", record)


@pytest.mark.pictures
def test_tensorboard_has_epochs_steps_pictures_texts_and_a_row_of_hyperparameters(tmp_path):
    settings = composed("search", *TINY_SEARCH, "logger.every=2")
    search.run(settings, tmp_path)
    values, events = tensorboard_values(tmp_path)
    lines = lines_of(tmp_path)
    for name in VALUES:
        assert [step for step, _ in values[name]] == [1, 2, 3]
        assert [value for _, value in values[name]] == pytest.approx([line[name] for line in lines])
    steps = [step for step, _ in values["steps/train/loss"]]
    per_epoch = len(lines) and steps[-1] // 3
    assert steps == list(range(2, steps[-1] + 1, 2)) and per_epoch > 2
    assert not any("z_alpha" in name for name in values)
    tags = events.Tags()
    for name in ("alpha/normal", "alpha/reduction", "cell/normal", "cell/reduction"):
        assert [image.step for image in events.Images(name)] == [1, 2, 3]
    drawn = plotting.draw_cell(recorded_genotype(lines[-1], settings.space).cells["normal"], "normal cell")
    with Image.open(io.BytesIO(events.Images("cell/normal")[-1].encoded_image_string)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), plotting.pixels_of(drawn))
    assert "alpha/normal/text_summary" in tags["tensors"]
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"method.name" in data and b"seed" in data and b"weight_decay" not in data
    assert values["result/valid_accuracy"][0][1] == pytest.approx(lines[-1]["valid/accuracy"])


def test_the_hyperparameters_of_a_sweep_are_what_was_typed(tmp_path):
    small = [item for item in TINY_SEARCH if not item.startswith(("search.epochs", "space.candidates"))]
    done = run_command(
        ["-m", "darts.search", "-m", *small, "search.epochs=1", "search.initial_alpha=0.1,0.2"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    for folder, value in zip(sorted(tmp_path.rglob("genotype.json")), (0.1, 0.2), strict=True):
        _, events = tensorboard_values(folder.parent)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        found = HParamsPluginData.FromString(content).session_start_info.hparams
        assert found["search.initial_alpha"].number_value == value and found["method.name"].string_value == "darts"
        assert len(found) < 15


def test_the_steps_of_an_epoch_average_to_its_line(tmp_path):
    settings = composed("final", *TINY_TRAIN, "logger.every=1")
    retraining.run(settings, CELL, tmp_path)
    values, _ = tensorboard_values(tmp_path)
    lines, losses = lines_of(tmp_path), [value for _, value in values["steps/train/loss"]]
    sizes = [32] * (len(losses) // 2 - 1)
    images = round(10_000 * settings.dataset.fraction)
    sizes.append(images - sum(sizes))
    for epoch, line in enumerate(lines):
        own = losses[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        mean = sum(size * loss for size, loss in zip(sizes, own, strict=True)) / images
        assert mean == pytest.approx(line["train/loss"], rel=1e-5)
    assert "result/test_accuracy" in values


@pytest.mark.pictures
def test_weights_and_biases_offline_holds_a_run(tmp_path):
    pytest.importorskip("wandb")
    settings = composed("search", *TINY_SEARCH, "logger=wandb", "logger.every=2")
    search.run(settings, tmp_path)
    values, config, summary = wandb_values(tmp_path)
    named = {name: pairs for (_, name), pairs in values.items()}
    for name in VALUES:
        assert named[name] == [(line["epoch"], pytest.approx(line[name])) for line in lines_of(tmp_path)]
    assert [step for step, _ in named["steps/train/loss"]][:3] == [2, 4, 6]
    assert config["search.epochs"] == 3 and config["method.name"] == "darts"
    assert [pair[0] for pair in named["alpha/normal._type"]] == [1, 2, 3]
    assert summary["result/valid_accuracy"] == pytest.approx(lines_of(tmp_path)[-1]["valid/accuracy"])


@pytest.mark.pictures
def test_mlflow_holds_a_run_in_a_database_and_in_a_folder(tmp_path):
    pytest.importorskip("mlflow")
    for name, uri in (("base", f"sqlite:///{tmp_path}/store/runs.db"), ("folder", str(tmp_path / "mlruns"))):
        folder = tmp_path / name
        search.run(composed("search", *TINY_SEARCH, "logger=mlflow", f"logger.uri={uri}", "logger.every=2"), folder)
        client, (run,) = mlflow_runs(uri)
        for metric in VALUES:
            found = [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, metric)]
            assert sorted(found) == [(line["epoch"], pytest.approx(line[metric])) for line in lines_of(folder)]
        assert run.data.params["search.epochs"] == "3" and run.info.status == "FINISHED"
        assert run.data.metrics["result/valid_accuracy"] == pytest.approx(lines_of(folder)[-1]["valid/accuracy"])
        assert len(client.list_artifacts(run.info.run_id, "alpha/normal")) == 6  # a picture and a text an epoch
        assert len(client.get_metric_history(run.info.run_id, "steps/train/loss")) > 3


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_a_resumed_run_holds_every_epoch_once(logger, tmp_path, monkeypatch):
    pytest.importorskip(logger)
    uri = f"sqlite:///{tmp_path}/runs.db"
    given = [f"logger={logger}", *([f"logger.uri={uri}"] if logger == "mlflow" else [])]
    settings, folder = composed("search", *TINY_SEARCH, *given), tmp_path / "run"
    stopped_after_one_epoch(settings, folder, monkeypatch)
    search.run(settings, folder)
    expected = [(line["epoch"], pytest.approx(line["valid/loss"])) for line in lines_of(folder)]
    if logger == "tensorboard":
        assert tensorboard_values(folder)[0]["valid/loss"] == expected
    elif logger == "wandb":
        values = wandb_values(folder)[0]
        runs = {file for file, name in values if name == "valid/loss"}
        assert any(values[file, "valid/loss"] == expected for file in runs) and len(runs) == 2
    else:
        client, runs = mlflow_runs(uri)
        histories = [client.get_metric_history(run.info.run_id, "valid/loss") for run in runs]
        found = [sorted((entry.step, entry.value) for entry in history) for history in histories]
        assert expected in found and len(runs) == 2
        assert sorted(run.info.run_name for run in runs)[1].endswith(", from 2")


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_search_by_scores_is_logged_too(logger, tmp_path):
    pytest.importorskip(logger)
    given = ["logger=mlflow", f"logger.uri=sqlite:///{tmp_path}/runs.db"] if logger == "mlflow" else ["logger=wandb"]
    scores = [*TINY_SCORES, "method=random", "evaluator=zero_cost", "budget.evaluations=3", *given]
    done = run_command(["-m", "darts.search", *scores, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = lines_of(tmp_path / "run")
    if logger == "wandb":
        values = wandb_values(tmp_path / "run")[0]
        found = next(pairs for (_, name), pairs in values.items() if name == "score")
        assert [value for _, value in found] == pytest.approx([line["score"] for line in lines])
    else:
        client, (run,) = mlflow_runs(f"sqlite:///{tmp_path}/runs.db")
        found = client.get_metric_history(run.info.run_id, "score")
        assert sorted(entry.value for entry in found) == pytest.approx(sorted(line["score"] for line in lines))


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_library_is_named(logger, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, logger, None)
    settings = composed("final", *TINY_TRAIN, "train.epochs=1", f"logger={logger}")
    with pytest.raises(
        UserError, match=f"needs {logger}, which is not installed: pip install -r requirements-trackers"
    ):
        retraining.run(settings, CELL, tmp_path)


def test_a_store_that_cannot_be_used_is_one_line(tmp_path):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("no database")
    given = [
        "logger=mlflow",
        f"logger.uri=sqlite:///{tmp_path}/file",
        "genotype=darts_v2",
        "train.epochs=1",
        *TINY_TRAIN[:-2],
    ]
    done = run_command(["-m", "darts.train", *given], tmp_path)
    assert done.returncode == 2 and "logger=mlflow: logger.uri" in done.stderr, done.stderr


def test_alpha_is_a_table_and_a_heatmap_with_the_pictures_names():
    space = composed("search").space
    matrix = torch.arange(14.0 * 8).reshape(14, 8).tolist()
    rows = alpha_table(matrix, "normal", space).splitlines()
    assert rows[0] == f"| normal | {' | '.join(space.candidates)} |" and len(rows) == 16
    assert rows[2].startswith("| cₖ₋₂ to 0 | 0.0000 | 1.0000 |"), rows[2]
    axes = plotting.draw_alpha(matrix, "normal", space).axes[0]
    names = [label.get_text().replace("$", "") for label in axes.get_yticklabels()]
    assert names == [row.split(" | ")[0][2:] for row in rows[2:]]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(space.candidates)


SWEEP = ["-m", "darts.search", "-m", "seed=0,1", *TINY_SEARCH[:5], "search.epochs=1", *TINY_SEARCH[6:]]


@pytest.mark.slow(40)
@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_the_runs_of_a_sweep_are_told_apart(logger, tmp_path, monkeypatch):
    """By name, settings and final values, and found together by the name of their sweep."""
    pytest.importorskip(logger)
    given = [f"logger={logger}", *(["logger.uri=store"] if logger == "mlflow" else []), "hydra.sweep.dir=runs/two"]
    done = run_command([*SWEEP, *given], tmp_path)
    assert done.returncode == 0, done.stderr
    folders = [tmp_path / "runs" / "two" / f"{number}_seed{number}" for number in (0, 1)]
    expected = [(f"two/{folder.name}", lines_of(folder)[-1]["valid/accuracy"]) for folder in folders]
    if logger == "wandb":
        runs = [wandb_run(folder) for folder in folders]
        assert [(run.run_group, run.job_type) for run in runs] == [("two", "search by gradients")] * 2
        assert [sorted(run.tags) for run in runs] == [["darts", "fashion_mini"]] * 2
        named = [run.display_name for run in runs]
        ended = [wandb_values(folder)[1:] for folder in folders]
        assert [config["seed"] for config, _ in ended] == [0, 1]
        found = [summary["result/valid_accuracy"] for _, summary in ended]
    else:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # as for whoever looks at a folder of runs
        _, runs = mlflow_runs(str(tmp_path / "store"))
        runs.sort(key=lambda run: run.info.run_name)
        labels = {"kind": "search by gradients", "method": "darts", "dataset": "fashion_mini", "sweep": "two"}
        assert all(labels.items() <= run.data.tags.items() for run in runs)
        assert [run.data.params["seed"] for run in runs] == ["0", "1"]
        named = [run.info.run_name for run in runs]
        found = [run.data.metrics["result/valid_accuracy"] for run in runs]
    assert list(zip(named, found, strict=True)) == [(name, pytest.approx(value)) for name, value in expected]


def wandb_run(folder):
    """What Weights & Biases keeps offline of how a run is filed."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    for data in records_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            return record.run
    raise AssertionError("no run")
