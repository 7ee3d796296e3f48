"""What a seventh reader broke: divisions of sound folders, tuned yardsticks, foreign studies, impossible journals."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darts import tune
from darts.blackbox import loop as blackbox
from darts.compare import power, tables
from darts.runtime.checkpoint import write_state
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.tasks.sound_folders import list_sounds
from darts.train import brief, retraining
from darts.train.saved import read_network
from tests.conftest import ROOT, TINY, TINY_SCORES, TINY_TRAIN, composed, configuration, run_command
from tests.test_audio import dataset, write_sounds
from tests.test_text import small, written

BRIEF = [*TINY, "train.epochs=1", "train.batch_size=16"]


# Brief trainings.


def test_a_brief_training_cuts_out_what_its_settings_say(tmp_path):
    """The mean of an augmented batch moves towards that of the set, which is 0: a square of 28 of 32 is nearly all."""
    settings = composed("tune", *BRIEF, "genotype=darts_v2", "train.cutout=28")
    data = brief.open_brief_data(settings, retraining.torch.device("cpu"))
    whole = brief.open_brief_data(composed("tune", *BRIEF, "genotype=darts_v2"), retraining.torch.device("cpu"))
    cut, kept = (next(opened.train.shuffled(0)).inputs for opened in (data, whole))
    zeros = (cut == 0).float().mean()
    assert zeros > 0.4 > (kept == 0).float().mean()  # a square at the border is smaller
    validated, plain = (next(opened.valid.mixed()).inputs for opened in (data, whole))
    assert retraining.torch.equal(validated, plain)


def test_an_evaluator_cuts_out_too(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(brief, "validation_accuracy", lambda s, g, data, *a, **k: seen.append(data) or 0.5)
    own = ["method=random", "budget.evaluations=1", "evaluator.train.cutout=28", "evaluator.train.batch_size=16"]
    blackbox.run(composed("search", *TINY_SCORES, *own), tmp_path)
    assert (next(seen[0].train.shuffled(0)).inputs == 0).float().mean() > 0.4


# Folders of sounds.


@pytest.mark.parametrize("parts", [["train"], ["test"], ["train", "valid"], ["test", "valid"]])
def test_a_lone_part_is_not_taken_for_a_class(parts, tmp_path):
    for part in parts:
        write_sounds(tmp_path / part, {"high": 800, "low": 150})
    lone = parts[0]
    with pytest.raises(UserError, match=f"a folder {lone} with class folders, but no folder"):
        list_sounds(dataset(tmp_path))


def test_a_class_may_be_called_train(tmp_path):
    root = write_sounds(tmp_path, {"train": 800, "bus": 150})
    assert list_sounds(dataset(root)).classes == ["bus", "train"]


def test_two_spellings_of_a_part_are_refused(tmp_path):
    for part in ("train", "Train", "test"):
        write_sounds(tmp_path / part, {"high": 800, "low": 150})
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system knows one spelling only")
    with pytest.raises(UserError, match="the folders Train and train are one part in two spellings"):
        list_sounds(dataset(tmp_path))


def test_the_folders_divide_sounds_whose_names_say_their_class(tmp_path):
    for part in ("train", "test"):
        write_sounds(tmp_path / part, {"high": 800, "low": 150})
    pattern = r"dataset.name_pattern='(?P<label>\w+)_\w+_\d+'"
    listing = list_sounds(dataset(tmp_path, pattern))
    assert not listing.set_aside and {Path(file.path).parts[-3] for file in listing.test} == {"test"}
    assert {Path(file.path).parts[-3] for file in listing.training} == {"train"}


@pytest.mark.parametrize("name", ["my_tests.txt", "a" * 300, "..", "~/x"])
def test_a_list_that_is_not_there_is_refused(name, tmp_path):
    root = write_sounds(tmp_path / "sounds", {"high": 800, "low": 150})
    with pytest.raises(UserError, match=r"dataset\.testing_list is .*; it must be the name of a list, or null"):
        list_sounds(dataset(root, f"dataset.testing_list='{name}'"))


def test_the_usual_list_may_be_absent_but_not_a_broken_link(tmp_path):
    root = write_sounds(tmp_path / "sounds", {"high": 800, "low": 150})
    assert list_sounds(dataset(root)).set_aside
    (root / "testing_list.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match="which is no file"):
        list_sounds(dataset(root))


def test_a_list_names_files_in_either_spelling_of_an_accent(tmp_path):
    root = write_sounds(tmp_path / "sounds", {"h\u00e9": 800, "low": 150})
    (root / "testing_list.txt").write_text("he\u0301/h\u00e9_ann_0.wav\nlow/low_ann_0.wav\n", encoding="utf-8")
    assert len(list_sounds(dataset(root)).test) == 2


def test_noise_is_no_word_below_a_pattern_either(tmp_path):
    root = write_sounds(tmp_path / "sounds", {"high": 800, "low": 150, "_background_noise_": 90})
    listing = list_sounds(dataset(root, r"dataset.name_pattern='(?P<label>\w+)_\w+_\d+'"))
    assert listing.classes == ["high", "low"] and listing.skipped == {"folder _background_noise_": 1}


@pytest.mark.parametrize("kind", ["images", "sounds"])
def test_one_example_a_class_is_told(kind, tmp_path):
    if kind == "sounds":
        write_sounds(tmp_path / "data", {"high": 800, "low": 150}, number=1)
        own = dataset(tmp_path / "data")
    else:
        for name in ("ant", "bee"):
            (tmp_path / "data" / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / "data" / name / "one.png")
        own = composed("search", "dataset=image_folder", f"dataset.root={tmp_path / 'data'}").dataset
    with pytest.raises(UserError, match=r"no training (picture|sound) of class"):
        own.images(train=True)


@pytest.mark.parametrize("kind", ["images", "sounds"])
def test_a_damaged_test_file_is_told_before_the_training(kind, tmp_path):
    root = tmp_path / "data"
    for part in ("train", "test"):
        if kind == "sounds":
            write_sounds(root / part, {"high": 800, "low": 150})
        for name in ("ant", "bee") if kind == "images" else ():
            (root / part / name).mkdir(parents=True)
            for number in range(8):
                pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    damaged = sorted((root / "test").rglob("*.*"))[0]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:10])
    data = "audio_folder" if kind == "sounds" else "image_folder"
    small_network = [item for item in TINY_TRAIN if not item.startswith(("dataset", "train.batch_size"))]
    own = [f"dataset={data}", f"dataset.root={root}", "train.batch_size=4", f"dataset.cache={tmp_path / 'cache'}"]
    settings = composed("final", *small_network, *own, "genotype=darts_v2")
    with pytest.raises(UserError, match=damaged.name):
        retraining.run(settings, published("darts_v2"), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    damaged.write_bytes(content)
    assert retraining.run(settings, published("darts_v2"), tmp_path / "run")["test_accuracy"] >= 0


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (["dataset=spoken_digits_mini", "dataset.seconds=60", "dataset.hop=50"], "dataset.hop is '50"),
        (["dataset=spoken_digits_mini", "dataset.mean=[2000]", "dataset.std=[1]"], "dataset.mean"),
        (["dataset.mean=[2]", "dataset.std=[1]"], "dataset.mean"),
        (["dataset.mean=[0.5]", "dataset.std=[7]"], "dataset.std"),
    ],
)
def test_what_a_saved_network_could_not_say_is_refused_before(own, told):
    with pytest.raises(UserError, match=told.replace("[", r"\[")):
        composed("final", *own, "genotype=darts_v2")


# Studies of hyperparameters.


def tuned(*overrides: str):
    return copy.deepcopy(configuration("tune", *overrides))


@pytest.mark.parametrize(
    ("data", "parameter"),
    [
        (BRIEF, "language.units 8 16"),
        (BRIEF, "dataset.fraction 0.01 0.02"),
        (BRIEF, "train_fraction 0.3 0.7"),
        ("text", "network.channels 2 16"),
        ("text", "train.cutout 0 8"),
        ("text", "weight_optimiser.final_learning_rate 0.1 1.0"),
        ("text", "language.perplexity EXACT|AS_PRINTED"),
        ("text", "language.evaluation_columns 2 4"),
        ("text", "dataset.vocabulary 3 20"),
    ],
)
def test_what_trains_nothing_or_measures_otherwise_is_not_tuned(data, parameter, tmp_path):
    own = small(written(tmp_path / "text"), "train.batch_size=4") if data == "text" else data
    settings = tuned(
        *own, "genotype=darts_v2" if data != "text" else "genotype=darts_v1", f"parameters=['{parameter}']"
    )
    with pytest.raises(UserError, match=parameter.split()[0]):
        tune.check_ranges(settings, {})


def test_a_study_of_other_data_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(brief, "validation_accuracy", lambda *a, **k: 0.5)
    for name, fraction in (("first", 0.01), ("second", 0.02)):
        own = [*BRIEF, f"dataset.fraction={fraction}", "genotype=darts_v2", "trials=1"]
        best = tune.run(tuned(*own), tmp_path / name)
    shutil.copy(tmp_path / "first" / "study.db", tmp_path / "second" / "study.db")
    with pytest.raises(UserError, match=r"study\.db is not of this study, but of other data or settings"):
        tune.run(tuned(*own), tmp_path / "second")
    assert best["trials"] == 1


def test_best_json_counts_the_trials_that_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(brief, "validation_accuracy", lambda *a, **k: 0.5)
    own = [*BRIEF, "genotype=darts_v2"]
    tune.run(tuned(*own, "trials=3"), tmp_path)
    assert tune.run(tuned(*own, "trials=2"), tmp_path)["trials"] == 3


# Comparisons.


def test_a_text_is_not_adjusted_for_size(tmp_path):
    own = small(written(tmp_path), "train.batch_size=4")
    with pytest.raises(UserError, match=r"adjust_for is 'parameters'; it must be null with a text"):
        composed("compare", *own, "adjust_for=parameters", "searched=[darts_v1,darts_v2]")


def test_spreads_of_another_metric_are_not_taken(tmp_path):
    group = {"name": "random sampling", "cells": 5, "spread": {"over_cells": 4.1, "over_seeds": None}}
    report = {"metric": "perplexity", "groups": [group]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    settings = composed("compare", f"power.results={tmp_path}", "searched=[darts_v1]")
    with pytest.raises(UserError, match="compares by perplexity, and this data set is judged by accuracy"):
        power.forecast(settings)


def test_the_relative_improvement_of_perplexities_is_told_with_its_sign(monkeypatch):
    class Known:
        metric, adjusted_for, settings = "perplexity", None, {}

    assert "100 (random - found) / random" in tables.notes(Known)
    Known.metric = "accuracy"
    assert "100 (found - random) / random" in tables.notes(Known)


# Journals.


@pytest.mark.parametrize(("name", "value"), [("score", 5.0), ("score", -0.1), ("cost/epochs", -7.0), ("best", 1.5)])
def test_an_impossible_line_of_a_journal_is_refused(name, value, tmp_path, monkeypatch):
    monkeypatch.setattr(brief, "validation_accuracy", lambda *a, **k: 0.5)
    own = [*TINY_SCORES, "method=random", "evaluator.train.batch_size=16"]
    blackbox.run(composed("search", *own, "budget.evaluations=2"), tmp_path)
    (tmp_path / "genotype.json").unlink()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    lines[1][name] = value
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"history\.jsonl"):
        blackbox.run(composed("search", *own, "budget.evaluations=2"), tmp_path)


def test_a_search_of_which_every_training_diverges_finds_nothing(tmp_path):
    rates = ["evaluator.weight_optimiser.learning_rate=1e30", "evaluator.weight_optimiser.clip=1e30"]
    own = [*rates, "method=random", "budget.evaluations=2", "evaluator.train.batch_size=16", "evaluator.train.epochs=1"]
    sizes = ["evaluator.network.channels=2", "evaluator.network.cells=3"]
    with pytest.raises(UserError, match="all 2 trainings diverged"):
        blackbox.run(composed("search", *TINY_SCORES, *own, *sizes), tmp_path)
    assert not (tmp_path / "genotype.json").exists()


def test_the_printed_perplexity_is_no_setting_of_a_search_by_scores(tmp_path):
    own = small(written(tmp_path), "method=random", "language.perplexity=AS_PRINTED")
    done = run_command(["train_search.py", *own, f"hydra.run.dir={tmp_path / 'out'}"], ROOT)
    assert done.returncode == 2 and "language.perplexity is given" in done.stderr


@pytest.mark.parametrize(
    "own", [["method=random", "evaluator=zero_cost", "evaluator.train.epochs=1"], ["recipe=modern"]]
)
def test_a_setting_of_another_choice_is_not_called_a_misspelling_of_itself(own, tmp_path):
    done = run_command(["train_search.py", *own, f"hydra.run.dir={tmp_path / 'out'}"], ROOT)
    assert done.returncode == 2 and "did you mean" not in done.stderr, done.stderr
    assert "is no setting of what is chosen beside it, or of this command" in done.stderr


@pytest.mark.parametrize("content", [[], "text", 3, None])
def test_a_weights_file_that_holds_no_dictionary_is_refused(content, tmp_path):
    write_state(tmp_path / "weights.pt", content)
    with pytest.raises(UserError, match="does not describe a network"):
        read_network(tmp_path / "weights.pt")
