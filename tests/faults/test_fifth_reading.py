"""What a fifth breaking reader found, each with what is right: watched pictures, recipes, lists of runs, leavings."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra._internal.utils import get_args_parser
from PIL import Image

import darts
from darts import select, tune
from darts.config.arguments import settings_in_a_row
from darts.config.command import topics_given
from darts.export import _result
from darts.loop.listing import runs_below, table
from darts.runtime import distributed
from darts.runtime.checkpoint import read_state, write_state
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder
from darts.search import loop as search
from darts.spaces.genotype import to_json
from darts.spaces.published import published
from darts.tasks import content, file_content
from darts.tasks.batches import Batches, search_data
from darts.train import brief, retraining
from darts.train import recipe as recipes
from darts.train.__main__ import use_of
from darts.train.settings import LEAST_BETA
from tests.conftest import ENVIRONMENT, ROOT, TINY_SEARCH, TINY_TRAIN, composed, configuration, run_command
from tests.faults.test_third_reading import refused
from tests.test_use import SMALL, draw_pictures

FINAL = [str(ROOT / "train_final.py"), *SMALL, "hydra.run.dir=out"]
TRAIN = [*FINAL, "genotype=darts_v2"]
FOLDER = ["dataset=image_folder", "dataset.image_size=16", "dataset.root=pictures"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    return draw_pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a tiny retraining on own pictures, and the pictures."""
    folder = tmp_path_factory.mktemp("trained")
    pictures = draw_pictures(folder / "pictures")
    retraining.run(settings_of(pictures), published("darts_v2"), folder / "run")
    return folder / "run", pictures


def settings_of(root: Path, *own: str):
    return composed("final", *SMALL, *FOLDER[:2], f"dataset.root={root}", *own)


# Pictures that a retraining watches


@pytest.mark.parametrize(
    ("setting", "value", "allowed"), [("validation_folder", "val", "null"), ("test_folder", "val", "test")]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_part_beside_classes_without_train_is_refused(pictures, tmp_path, setting, value, allowed, there):
    shutil.move(pictures / "train", tmp_path / "flat")
    if there:  # it would be a class
        shutil.copytree(pictures / "test", tmp_path / "flat" / "val")
    done = run_command([*TRAIN, *FOLDER[:2], "dataset.root=flat", f"dataset.{setting}={value}"], tmp_path, 60)
    refused(done, "folder train")
    told = f"dataset.{setting} is 'val', but" if setting == "validation_folder" or not there else "a folder val but no"
    assert told in done.stderr and (f"it must be {allowed} there" in done.stderr or "a folder val" in told)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("filled", [[], ["red"]])
def test_a_class_without_a_picture_to_watch_is_named(pictures, tmp_path, filled):
    for name in ("blue", "green", "red"):
        (pictures / "valid" / name).mkdir(parents=True)
    for name in filled:
        shutil.copy(pictures / "train" / name / "0.png", pictures / "valid" / name)
    done = run_command([*TRAIN, *FOLDER, "dataset.validation_folder=valid"], tmp_path, 60)
    refused(done, "pictures/valid: no picture of class blue, green" + ("" if filled else ", red"))
    assert not (tmp_path / "out" / "run.json").exists()


def test_pictures_of_any_two_parts_that_are_used_are_a_warning(pictures, caplog):
    shutil.copytree(pictures / "test", pictures / "valid")
    shutil.copy(pictures / "train" / "red" / "3.png", pictures / "valid" / "red" / "learnt.png")
    content.warn_of_shared_examples(settings_of(pictures).dataset)  # valid is not used
    assert not caplog.records
    content.warn_of_shared_examples(settings_of(pictures, "dataset.validation_folder=valid").dataset)
    learnt, tested = (record.getMessage() for record in caplog.records)
    assert learnt.startswith("1 validation pictures are training pictures too")
    assert "train/red/3.png and valid/red/learnt.png" in learnt and "has learnt" in learnt
    assert tested.startswith("12 test pictures are validation pictures too") and "look better than it is" in tested


@pytest.mark.parametrize("parts", list(itertools.product([True, False], repeat=2)))
def test_equal_pictures_of_a_large_part_and_a_small_one_are_found(tmp_path, monkeypatch, caplog, parts):
    monkeypatch.setattr(file_content, "WHOLE_BYTES", 1_000_000)
    draws = np.random.default_rng(0)
    for part, large in zip(("train", "test"), parts, strict=True):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(5 if large else 2):
                pixels = draws.integers(0, 256, (220, 220, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.bmp")
    shutil.copy(tmp_path / "train" / "a" / "1.bmp", tmp_path / "test" / "b" / "1.bmp")
    other = bytearray((tmp_path / "train" / "b" / "1.bmp").read_bytes())
    assert len(other) > 2 * file_content.END_BYTES
    other[len(other) // 2] ^= 1  # equal in size and at its ends, and another picture all the same
    (tmp_path / "test" / "a" / "1.bmp").write_bytes(other)
    content.warn_of_shared_examples(settings_of(tmp_path).dataset)
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("1 test pictures") and "train/a/1.bmp and test/b/1.bmp" in told


@pytest.mark.parametrize(("named", "spelled"), [("val", "val"), ("test", "Test"), ("val", "VAL")])
def test_what_is_to_be_typed_next_names_the_pictures_that_were_tested(pictures, tmp_path, named, spelled):
    (pictures / "test").rename(pictures / "moved")
    if named != "test":
        draw_pictures(tmp_path / "others")
        (tmp_path / "others" / "test").rename(pictures / "test")  # a folder of that name is there too
    (pictures / "moved").rename(pictures / spelled)
    result = {"data": {"folder": str(pictures)}, "config": {"dataset.test_folder": named}}
    assert f"images={pictures / spelled} labels=folders" in use_of(result, tmp_path)
    shutil.rmtree(pictures / "train")
    assert f"images={pictures}" in use_of(result, tmp_path) and "labels" not in use_of(result, tmp_path)


# Settings that nothing obeys


@pytest.mark.parametrize(
    ("typed", "setting", "instead"),
    [
        (["recipe=modern", "weight_optimiser.learning_rate=0.5"], "weight_optimiser.learning_rate",
         "train.recipe.learning_rate, 0.002, takes its place"),
        (["recipe=modern", "weight_optimiser.weight_decay=0.5"], "weight_optimiser.weight_decay",
         "train.recipe.weight_decay, 0.05, takes its place"),
        (["train.recipe.optimiser=ADAMW", "weight_optimiser.momentum=0.5"], "weight_optimiser.momentum", "ADAMW"),
        (["train.recipe.optimiser=ADAMW", "weight_optimiser.nesterov=false"], "weight_optimiser.nesterov", "ADAMW"),
        (["head_epochs=1"], "head_epochs", "start_from"),
        (["start_from=X", "network.channels=8"], "network.channels", "start_from"),
        (["weights=X", "train.epochs=7"], "train.epochs", "weights=FILE"),
        (["weights=X", "recipe=modern"], "recipe", "weights=FILE"),
        (["weights=X", "dataset.mean=[0.9]", "dataset.std=[0.9]"], "dataset.mean", "weights=FILE"),
    ],
)  # fmt: skip
def test_what_a_retraining_does_not_use_is_refused(tmp_path, typed, setting, instead):
    own = [] if typed[0] in ("start_from=X", "weights=X") else ["genotype=darts_v2", "train.epochs=3"]
    command = [FINAL[0], "device=cpu", *own, *typed, "hydra.run.dir=out"]
    refused(run_command(command, tmp_path, 60), f"{setting} is given", instead)
    with pytest.raises(UserError, match=f"{setting} is given"):
        darts.settings_of("final", *own, *typed)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("command", ["compare", "tune", "select"])
def test_no_command_that_trains_takes_what_a_recipe_replaces(tmp_path, command):
    own = [
        f"{'genotype' if command == 'tune' else 'searched'}={'darts_v2' if command == 'tune' else '[darts_v2,snas]'}"
    ]
    typed = ["recipe=modern", "train.epochs=3", "weight_optimiser.learning_rate=0.5", "hydra.run.dir=out"]
    done = run_command(["-m", f"darts.{command}", "device=cpu", *own, *typed], tmp_path, 60)
    refused(done, "weight_optimiser.learning_rate is given", "train.recipe.learning_rate")


def test_a_study_does_not_tune_what_a_recipe_replaces(tmp_path):
    small = [
        "dataset.fraction=0.01",
        "train.epochs=2",
        "trials=1",
        "genotype=darts_v2",
        *TINY_TRAIN[2:5],
        "logger=none",
    ]
    tune = ["-m", "darts.tune", "device=cpu", *small, "train.batch_size=16", "hydra.run.dir=out"]
    done = run_command([*tune, "recipe=modern"], tmp_path, 60)  # the parameters are those of conf/tune.yaml
    refused(done, "parameters names weight_optimiser.learning_rate, but train.recipe.learning_rate, 0.002")
    assert not (tmp_path / "out" / "run.json").exists()
    done = run_command([*tune, "parameters=[train.recipe.learning_rate 0.001 0.01]"], tmp_path, 120)
    assert done.returncode == 0, done.stderr  # it is null in the published recipe, and a setting all the same
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert 0.001 <= best["values"]["train.recipe.learning_rate"] <= 0.01


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_betas_that_float32_cannot_draw_are_refused(name):
    for value in ("0.001", "1e-30", "-1", "nan", "inf"):
        with pytest.raises(UserError, match=rf"train.recipe.{name} is .*; it must be 0, or at least 0.01, finite"):
            composed("final", f"train.recipe.{name}={value}")
    settings = composed("final", f"train.recipe.{name}={LEAST_BETA}")
    assert getattr(settings.train.recipe, name) == 0.01


def test_the_least_beta_mixes_as_rarely_as_its_distribution_says():
    recipe = composed("final", f"train.recipe.mixup={LEAST_BETA}").train.recipe
    images, labels = torch.eye(2)[:, None, None], torch.arange(2)
    drawn = [recipes.mixed(images, labels, recipe, 2, (0, 0, step))[0][0, 0, 0, 0].item() for step in range(400)]
    beta = np.random.default_rng(0).beta(LEAST_BETA, LEAST_BETA, 100_000)
    expected = ((beta > 0.1) & (beta < 0.9)).mean()
    assert sum(0.1 < value < 0.9 for value in drawn) / 400 == pytest.approx(expected, abs=0.03)


def test_a_brief_training_judges_the_average_that_the_recipe_keeps(tmp_path, monkeypatch):
    settings = composed("tune", *TINY_TRAIN, "train.recipe.average=0.999", "logger=none", "genotype=darts_v2")
    data = search_data(settings.dataset, 0.5, 16, 0, torch.device("cpu"))
    threes = data.split.valid[data.valid.images.labels[data.split.valid] == 3]
    data = replace(data, valid=Batches(data.valid.images, threes, len(threes), data.valid.preparation, 0))
    run_epochs = retraining.run_epochs

    def exchanged(state):
        run_epochs(state)
        with torch.no_grad():
            state.network.classifier.bias[4] += 1e6  # the weights of the last step always answer 4
            state.average.module.classifier.bias[3] += 1e6  # and their average 3

    monkeypatch.setattr(retraining, "run_epochs", exchanged)
    assert brief.validation_accuracy(settings, published("darts_v2"), data, tmp_path) == 1


@pytest.mark.parametrize(
    ("typed", "setting"),
    [
        (["train.recipe.learning_rate=1e30", "train.recipe.optimiser=ADAMW"], "train.recipe.learning_rate"),
        (["weight_optimiser.learning_rate=1e30"], "weight_optimiser.learning_rate"),
    ],
)
def test_a_training_that_diverges_names_the_rate_that_it_has(tmp_path, typed, setting):
    with pytest.raises(UserError, match=f"lower {setting}$"):
        retraining.run(composed("final", *TINY_TRAIN, *typed, "logger=none"), published("darts_v2"), tmp_path)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_mix_as_one_mixes_the_whole_batch(monkeypatch, kind, processes):
    recipe = composed("final", f"train.recipe.{kind}=0.8").train.recipe
    images, labels = torch.randn(7, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    shards = list(zip(images.tensor_split(processes), labels.tensor_split(processes), strict=True))
    lasts = torch.stack([own[-1] for own, _ in shards]), torch.stack([named[-1] for _, named in shards])

    def added(held):
        held.copy_(lasts[0 if held.is_floating_point() else 1])

    for step in range(10):
        position = 3, 1, step
        whole, target = recipes.mixed(images, labels, recipe, 5, position)
        found = []
        for rank, (own, named) in enumerate(shards):
            monkeypatch.setattr(distributed, "world_size", lambda: processes)
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(distributed, "all_reduce_", added)
            found.append(recipes.mixed(own, named, recipe, 5, position))
            monkeypatch.undo()
        assert torch.equal(torch.cat([own for own, _ in found]), whole)
        assert torch.equal(torch.cat([part.probabilities for _, part in found]), target.probabilities)
        assert torch.equal(torch.cat([part.labels for _, part in found]), target.labels)


def test_a_rate_that_adam_cannot_take_ends_a_run_in_a_line(tmp_path):
    largest = ["train.recipe.optimiser=ADAMW", "train.recipe.learning_rate=3.4e38"]
    with pytest.raises(UserError, match=r"a step by the learning rate is beyond float32.*lower train.recipe"):
        retraining.run(composed("final", *TINY_TRAIN, *largest, "logger=none"), published("darts_v2"), tmp_path / "a")
    with pytest.raises(UserError, match=r"a step by architecture_optimiser.learning_rate is beyond float32"):
        search.run(composed("search", *TINY_SEARCH, "architecture_optimiser.learning_rate=3.4e38"), tmp_path / "b")


# Lists of runs

ODD = [
    None,
    True,
    -1,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a\n\x1b[31m",
    "\udce9",
    [],
    [1],
    {},
    {"seconds": "x"},
]


def places_in(value, place=()):
    yield place
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from places_in(inner, (*place, key))


def changed(value, place, new):
    if not place:
        return new
    copied = json.loads(json.dumps(value))
    holder = copied
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = new
    return copied


RECORDS = {
    "run.json": {"kind": "search", "ended": True, "settings": {"dataset.name": "cats"}, "data": {"name": "cats"},
                 "cost": {"seconds": 3.0}, "failed": "no luck"},
    "report.json": {"claims": [{"p": 0.5}]},
    "timing.jsonl": {"epoch": 1, "seconds": 2.0},
    "genotype.json": {**json.loads(to_json(published("darts_v2"))), "provenance": {"supernet_valid_accuracy": 0.5}},
}  # fmt: skip


def shown(root: Path) -> list[str]:
    """The list of runs as the command prints it, and as JSON."""
    found = runs_below(root)
    json.dumps([run.to_json() for run in found])
    lines = table(found, root, 200)
    assert all(line.isprintable() for line in lines), lines
    return lines


@pytest.mark.parametrize("name", list(RECORDS))
def test_a_damaged_run_hides_no_other_from_the_list(tmp_path, name):
    for run in ("whole", "odd"):
        (tmp_path / run).mkdir()
        for file in {"run.json", name}:
            content_of = {key: value for key, value in RECORDS[file].items() if (key, name) != ("cost", "timing.jsonl")}
            (tmp_path / run / file).write_text(json.dumps(content_of))
    whole = next(line for line in shown(tmp_path) if "whole" in line)
    for place in places_in(RECORDS[name]):
        for new in ODD:
            (tmp_path / "odd" / name).write_text(json.dumps(changed(RECORDS[name], place, new)))
            assert whole.split() in [line.split() for line in shown(tmp_path)], (place, new)
    for raw in (b"", b"\xff\xfe", b"[" * 100_000, b"null", b'{"kind"'):
        (tmp_path / "odd" / name).write_bytes(raw)
        assert whole.split() in [line.split() for line in shown(tmp_path)], raw
    (tmp_path / "odd" / name).unlink()
    os.mkfifo(tmp_path / "odd" / name)
    assert whole.split() in [line.split() for line in shown(tmp_path)]


def test_a_run_with_a_run_under_way_in_it_is_not_removed(tmp_path):
    inner = tmp_path / "runs" / "study" / "trials" / "one"
    inner.mkdir(parents=True)
    (tmp_path / "runs" / "study" / "run.json").write_text('{"kind": "comparison", "ended": false}')
    with lock_folder(inner):
        done = run_command(["-m", "darts.runs", "clean=[stopped]", "ask=false"], tmp_path, 60)
        refused(done, "clean", "trials/one is under way")
    assert inner.is_dir()
    done = run_command(["-m", "darts.runs", "clean=[stopped]", "ask=false"], tmp_path, 60)
    assert done.returncode == 0 and not list((tmp_path / "runs").iterdir()), done.stderr


# Leavings and cards


@pytest.mark.pictures
def test_what_an_earlier_prediction_left_does_not_stand_beside_a_later_one(trained, tmp_path):
    run, pictures = trained
    predict = ["-m", "darts.predict", "device=cpu", f"weights={run}", "hydra.run.dir=out"]
    for typed in ([f"images={pictures / 'test'}", "labels=folders"], [f"images={pictures / 'train' / 'red'}"]):
        done = run_command([*predict, *typed], tmp_path, 60)
        assert done.returncode == 0, done.stderr
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert ("measures.json" in names) == ("labels=folders" in typed) != ("sheet.png" in names)
    assert names == {"predictions.csv", "sheet.png", "sheet.svg", "predict.log"}


def test_answers_that_are_no_numbers_are_not_counted(trained, tmp_path):
    run, pictures = trained
    state = read_state(run / "weights.pt")
    for name, weight in state["weights"].items():
        if weight.is_floating_point() and "running" not in name:
            weight.fill_(3e38)  # finite, as the file's schema asks
    write_state(tmp_path / "huge.pt", state)
    predict = [
        "-m",
        "darts.predict",
        "device=cpu",
        "weights=huge.pt",
        f"images={pictures / 'test'}",
        "hydra.run.dir=out",
    ]
    for labels in ([], ["labels=folders"]):
        refused(run_command([*predict, *labels], tmp_path, 60), "weights: the answer to", "0.png is not finite")
    test = [FINAL[0], "device=cpu", "weights=huge.pt", *FOLDER[:2], f"dataset.root={pictures}", "hydra.run.dir=out"]
    refused(run_command(test, tmp_path, 60), "weights: huge.pt", "is not finite")
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("told", ["NaN", "1e400", "5", "-0.1", "true", '"0.9"', "null", "[0.9]"])
def test_a_card_says_no_accuracy_that_is_none(tmp_path, told):
    (tmp_path / "result.json").write_text(f'{{"test_accuracy": {told}}}')
    assert _result(tmp_path) == "not known here"


def test_a_card_is_written_whatever_lies_beside_the_weights(tmp_path):
    file = tmp_path / "result.json"
    for raw in (b"[" * 100_000, b"\xff", b"null", b""):
        file.write_bytes(raw)
        assert _result(tmp_path / "weights.pt") == "not known here"
    file.unlink()
    os.mkfifo(file)
    assert _result(tmp_path) == "not known here"
    file.unlink()
    file.write_text('{"test_accuracy": 0.51234}')
    assert _result(tmp_path / "weights.pt") == "51.23% (one seed)"


# Memory, arguments, trackers


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["network.channels=65536", "network.cells=1000"], ["out of memory", "network.channels"]),
        (["input.channels=100000000"], ["input.channels is 100000000; it must be from 1 to 4096"]),
        (["input.size=9999999"], ["input.size is 9999999; it must be from 1 to 4096"]),
        (["input.classes=99999999999"], ["input.classes is 99999999999; it must be from 1 to 1000000"]),
    ],
)
def test_a_description_of_what_no_machine_holds_is_a_line(tmp_path, typed, words):
    command = [sys.executable, "-m", "darts.describe", "genotype=darts_v2", "device=cpu", *typed, "hydra.run.dir=out"]
    limited = ["bash", "-c", 'ulimit -v 6291456; exec "$@"', "-", *command]  # 6 GiB
    done = subprocess.run(limited, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    refused(done, *words)
    assert "checkpoint" not in done.stderr


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes")])
@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        (select, "scores_of", ["select", "searched=[darts_v2,snas]"]),
        (tune, "run_trial", ["tune", "genotype=darts_v2"]),
    ],
)
def test_a_study_out_of_memory_says_what_to_lower(tmp_path, monkeypatch, raised, module, name, command):
    def full(*_, **__):
        raise raised

    monkeypatch.setattr(module, name, full)
    given = [command[1], *TINY_TRAIN, "train.batch_size=16", "logger=none"]
    if module is tune:
        run = lambda: tune.run(configuration("tune", *given).copy(), tmp_path / "out")  # noqa: E731
    else:
        run = lambda: select.choose(composed("select", *given), tmp_path / "out")  # noqa: E731
    with pytest.raises(UserError, match=r"out of memory \(.*\); lower train.batch_size"):
        run()


SETTINGS = ["a=1", "b.c=2", "+d=x", "~e", "g/h=i"]


@pytest.mark.parametrize(
    "flags", [["-m"], ["--cfg", "job"], ["--config-dir", "x=y"], ["--config-dir=z"], ["-h", "topic"]]
)
def test_flags_may_stand_anywhere_among_settings(flags):
    parser = get_args_parser()
    for place in range(len(SETTINGS) + 1):
        given = [*SETTINGS[:place], *flags, *SETTINGS[place:]]
        if flags[0] == "-h" and SETTINGS[place : place + 1] == ["~e"]:
            continue  # it would be a topic too
        arranged = settings_in_a_row(given)
        assert sorted(arranged) == sorted(given)
        found = parser.parse_args(arranged)
        expected = ["topic", *SETTINGS] if flags[0] == "-h" else SETTINGS
        assert found.overrides == expected and topics_given(arranged) == (["topic"] if flags[0] == "-h" else [])
        assert found.multirun == ("-m" in flags) and (found.cfg == "job") == ("--cfg" in flags)
        assert found.config_dir == {"--config-dir": "x=y", "--config-dir=z": "z"}.get(flags[0])


def test_help_on_a_setting_is_given_after_what_chooses_its_part(tmp_path):
    typed = ["dataset=image_folder", "-h", "dataset.validation_folder", "dataset.root=x"]
    done = run_command([FINAL[0], *typed], tmp_path, 60)
    assert done.returncode == 0 and done.stdout.startswith("dataset.validation_folder=null"), done.stdout + done.stderr


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_no_logger_takes_less_than_no_steps(logger):
    with pytest.raises(UserError, match=r"logger.every is -1; it must be at least 0"):
        composed("final", f"logger={logger}", "logger.every=-1")


@pytest.mark.parametrize("uri", ["/proc/x/y", "sqlite:///file/x.db", "file/x", "file:///proc/x", "no-such://x"])
def test_a_place_that_mlflow_cannot_have_is_a_line(tmp_path, uri):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    own = ["genotype=darts_v2", "logger=mlflow", f"logger.uri={uri}", "hydra.run.dir=out"]
    done = run_command([FINAL[0], *TINY_TRAIN, *own], tmp_path, 120)
    refused(done, f"logger=mlflow: logger.uri {uri} cannot be used")
    assert "maintenance" not in done.stderr
