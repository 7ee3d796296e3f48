"""What a second pair of eyes found: data that change under a run, links and pipes among its files, edited numbers."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata

import pytest
import torch

from darts.config.resume import newest_unfinished
from darts.runtime.checkpoint import Checkpoints, read_state, write_state
from darts.runtime.errors import UserError
from darts.runtime.files import append_line, is_locked, lock_folder, write_json
from darts.runtime.schema import SchemaError, like_tensor, require_schema
from darts.search import loop as search
from darts.spaces.notation import from_notation
from darts.spaces.published import published
from darts.tasks import file_content
from darts.tasks.datasets import channel_statistics, open_training
from darts.tasks.folders import list_folder
from darts.train import retraining as retrain
from darts.train import saved
from tests.conftest import ROOT, TINY_SEARCH, TINY_TRAIN, composed, run_command
from tests.test_data_identity import blacken, on, pictures, searching, training

# Data that change while a run is under way


@pytest.mark.parametrize("part", ["train", "test"])
def test_pictures_that_change_under_a_retraining_end_it_without_a_result(part, tmp_path, monkeypatch):
    root = pictures(tmp_path / "data")
    original = retrain.train_epoch

    def changing(state):
        original(state)
        if state.epoch == 1:
            shutil.copy(root / part / "a" / "0.png", root / part / "b" / "another.png")

    monkeypatch.setattr(retrain, "train_epoch", changing)
    what = {"train": "training", "test": "test"}[part]
    with pytest.raises(UserError, match=f"dataset.root: the {what} data have changed while this run was under way"):
        retrain.run(training(root), published("darts_v2"), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    (root / part / "b" / "another.png").unlink()
    monkeypatch.undo()
    assert 0 <= retrain.run(training(root), published("darts_v2"), tmp_path / "run")["test_accuracy"] <= 1


def test_pictures_that_change_under_a_search_end_it_without_a_cell(tmp_path, monkeypatch):
    root = pictures(tmp_path / "data")
    original = search.search_epoch

    def changing(state):
        original(state)
        blacken(root / "train" / "a" / "3.png")

    monkeypatch.setattr(search, "search_epoch", changing)
    with pytest.raises(UserError, match="the training data have changed while this run was under way"):
        search.run(searching(root), tmp_path / "run")
    assert not (tmp_path / "run" / "genotype.json").exists()


def test_what_is_kept_of_pictures_is_kept_by_their_content(tmp_path):
    """Other pictures of the same names, sizes in bytes and times have statistics of their own."""
    first, second = pictures(tmp_path / "one"), pictures(tmp_path / "other")
    for number, root in enumerate((first, second)):
        for file in root.rglob("*.png"):
            file.write_bytes(b"BM" + bmp(number * 100))
            file.rename(file.with_suffix(".bmp"))
        for file in root.rglob("*.bmp"):
            os.utime(file, (1, 1))
    found = []
    for root in (first, second):
        file_content._contents.clear()  # as in another process
        place = tmp_path / "data"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root, place)
        for file in place.rglob("*.bmp"):
            os.utime(file, (1, 1))
        settings = composed("final", *TINY_TRAIN, *on(place)).dataset
        found.append(channel_statistics(settings, open_training(settings)))
    assert found[0] != found[1]


def bmp(shade: int) -> bytes:
    """A picture of 2 x 2 pixels of one colour, without the two letters it begins with."""
    pixels = bytes([shade, shade, shade] * 2 + [0, 0]) * 2
    header = (54 + len(pixels)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    numbers = [(40, 4), (2, 4), (2, 4), (1, 2), (24, 2), (0, 4), (len(pixels), 4), (0, 4), (0, 4), (0, 4), (0, 4)]
    return header + b"".join(value.to_bytes(size, "little") for value, size in numbers) + pixels


@pytest.mark.parametrize(
    "content",
    [{"mean": [0.1], "std": [-1]}, {"mean": "123", "std": [1]}, {"mean": [900], "std": [1e-300]}, {"std": [0]}],
)
def test_statistics_that_are_none_are_measured_again(content, tmp_path):
    root = pictures(tmp_path / "data")
    settings = composed("final", *TINY_TRAIN, *on(root)).dataset
    expected = channel_statistics(settings, open_training(settings))
    (kept,) = (tmp_path / "cache").glob("statistics-*.json")
    wide = {name: values * 3 if isinstance(values, list) else values for name, values in content.items()}
    kept.write_text(json.dumps(wide))
    assert channel_statistics(settings, open_training(settings)) == expected


def test_parts_in_capitals_are_parts_and_spellings_of_one_class_are_one(tmp_path):
    root = pictures(tmp_path / "data")
    expected = list_folder(composed("final", *TINY_TRAIN, *on(root)).dataset)
    for part in ("train", "test"):
        (root / part).rename(root / part.capitalize())
        (root / part.capitalize() / "a").rename(
            root / part.capitalize() / unicodedata.normalize("NFC" if part == "train" else "NFD", "café")
        )
    found = list_folder(composed("final", *TINY_TRAIN, *on(root)).dataset)
    assert len(found.training) == len(expected.training) and len(found.test) == len(expected.test)
    assert found.classes == ["b", "café"] and all(name.isprintable() for name in found.classes)
    shutil.copytree(root / "Train" / "b", root / "Train" / unicodedata.normalize("NFD", "café"))
    with pytest.raises(UserError, match="are one name in two spellings; rename one"):
        list_folder(composed("final", *TINY_TRAIN, *on(root)).dataset)
    (root / "train").mkdir()
    with pytest.raises(UserError, match="Train and train are one part in two spellings"):
        list_folder(composed("final", *TINY_TRAIN, *on(root)).dataset)


# Links and pipes among a run's files


@pytest.mark.parametrize("name", ["lock", "run.json", "train_search.log", "history.jsonl", "run.json.tmp", ".hydra"])
def test_a_link_among_a_runs_files_is_refused_and_what_it_leads_to_kept(name, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(victim)
    done = run_command([str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=1", "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 2 and "is a link to another file" in done.stderr, done.stderr
    assert victim.read_text() == "precious" and "Traceback" not in done.stderr


def test_files_are_never_written_through_a_link(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "a.json.tmp").symlink_to(victim)
    with pytest.raises(UserError, match="could not be written"):
        write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "lines").symlink_to(victim)
    with pytest.raises(UserError, match="could not be written"):
        append_line(tmp_path / "lines", {"a": 1})
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(UserError, match="could not be written"), lock_folder(tmp_path):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_a_lock_that_is_no_file_hangs_nobody(kind, tmp_path):
    folder = tmp_path / "search" / "odd"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"kind": "search by gradients"}))
    lock = folder / "lock"
    {"pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir, "loop": lambda: lock.symlink_to(lock)}[kind]()
    assert not is_locked(folder)
    assert newest_unfinished("search", [f"runs={tmp_path}"]) == folder
    with pytest.raises(UserError, match="lock"), lock_folder(folder):
        pass


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    import fcntl

    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with lock_folder(tmp_path):
        assert not is_locked(tmp_path)
    assert "cannot be locked (No locks available): a second process in this folder would not be noticed" in caplog.text


# Edited numbers


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("mean", 0), float("nan"), r"mean\[0\] is nan, not a number from 0 to 1"),
        (("mean", 0), 10**400, r"mean\[0\] is .* not a number from 0 to 1"),
        (("std", 0), 0.0, r"std\[0\] is 0.0, not a number from 1e-09 to 1"),
        (("std", 0), -1.0, r"std\[0\] is -1.0"),
        (("weights", "classifier.weight"), float("inf"), "weights.classifier.weight is not finite"),
        (("weights", "running_var"), -1.0, "running_var is below 0, not a variance"),
        (("weights", "classifier.bias"), "meta", "a tensor with values"),
    ],
)
def test_a_network_with_impossible_numbers_is_refused(path, value, named, tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    retrain.run(settings, published("darts_v2"), tmp_path)
    state = read_state(tmp_path / "weights.pt")
    place = state[path[0]]
    key = next(name for name in place if str(name).endswith(str(path[1]))) if path[0] == "weights" else path[1]
    if path[0] != "weights":
        place[key] = value
    else:
        place[key] = place[key].to("meta") if value == "meta" else torch.full_like(place[key], value)
    write_state(tmp_path / "odd.pt", state)
    with pytest.raises(UserError, match=named):
        saved.evaluate_file(settings, tmp_path / "odd.pt")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_no_tensor_of_a_network():
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(SchemaError, match="is 'nested', not one tensor"):
        require_schema(nested, like_tensor(torch.zeros(2, 3)))


def checkpointed(tmp_path):
    settings = composed("search", *TINY_SEARCH, "search.epochs=2")
    search.run(settings, tmp_path)
    (tmp_path / "genotype.json").unlink()
    (tmp_path / "checkpoints" / "previous.pt").unlink()
    return settings, Checkpoints(tmp_path).load()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["position"].update(ended=True, epoch=2), "position.ended is true, but nothing ends this run"),
        (lambda s: s["position"].update(step=2), "means is empty after 2 steps"),
        (lambda s: s["means"].clear(), "means is empty after 0 steps"),
        (lambda s: s["means"].append({"train/loss": [1.0, 2]}), "means names other quantities for one process"),
        (lambda s: s["history"][0].update({"valid/accuracy": 5.0}), "valid/accuracy is 5.0, not a number from 0 to 1"),
        (lambda s: s["history"][0].update({"train/loss": float("nan")}), "train/loss is nan"),
        (lambda s: s["history"][0].update(epoch=77), r"history is of the epochs \[77, 2\], not of 1 to 2"),
        (lambda s: s.update(seconds=float("nan")), "seconds is nan"),
        (lambda s: s["architecture_optimiser"]["state"][0]["step"].fill_(-1), "step is -1.0, not at least 1"),
        (lambda s: s["history"][0]["mixture"]["normal"][0].__setitem__(0, float("inf")), "is inf, not a finite number"),
    ],
)
def test_a_checkpoint_of_an_impossible_state_is_refused(change, named, tmp_path):
    settings, state = checkpointed(tmp_path)
    change(state)
    write_state(tmp_path / "checkpoints" / "last.pt", state)
    with pytest.raises(UserError, match=named):
        search.run(settings, tmp_path)


def test_an_optimisers_settings_are_the_runs_own_whatever_a_checkpoint_says(tmp_path):
    settings, state = checkpointed(tmp_path)
    for group in state["architecture_optimiser"]["param_groups"]:
        group.update(lr=100.0, betas=(0.1, 0.1), maximize=True, weight_decay=7.0)
    write_state(tmp_path / "checkpoints" / "last.pt", state)
    resumed = search.start_or_resume(settings, tmp_path)
    (group,) = resumed.architecture_optimiser.param_groups
    rule = settings.architecture_optimiser
    assert (group["lr"], group["weight_decay"], group["maximize"]) == (rule.learning_rate, rule.weight_decay, False)
    assert group["betas"] == (rule.beta1, rule.beta2)


# Cells that mean another


def cell(normal: str, concat: str = "[2, 3, 4, 5]") -> str:
    eight = [("sep_conv_3x3", i % 2) for i in range(8)]
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={eight}, reduce_concat=[2, 3, 4, 5])"


EIGHT_EDGES = (
    "[('skip_connect', 0), ('sep_conv_3x3', 1), " + ", ".join(["('sep_conv_5x5', 0), ('skip_connect', 1)"] * 3) + "]"
)


@pytest.mark.parametrize(
    "text",
    [
        f"BASE = (\n    {cell(EIGHT_EDGES)}\n    ._replace(normal=[])\n)",
        f"{cell(EIGHT_EDGES)} ._replace(normal=[])",
        f"({cell(EIGHT_EDGES)})._replace(normal=[])",
        cell(f"sorted({EIGHT_EDGES})"),
        cell(f"sorted({EIGHT_EDGES}, reverse=True)"),
        cell("{" + EIGHT_EDGES[1:-1] + "}"),
        cell(EIGHT_EDGES, "sorted([2, 3, 4, 5], reverse=True)"),
    ],
)
def test_a_cell_with_which_something_is_done_is_refused(text):
    with pytest.raises(UserError, match=r"only a cell is read|lost the order|takes one argument"):
        from_notation(text)


def test_a_sorted_concat_is_sorted_and_prose_after_a_cell_is_passed_over():
    expected = from_notation(cell(EIGHT_EDGES))
    assert from_notation(cell(EIGHT_EDGES, "sorted([5, 3, 2, 4])")) == expected
    assert from_notation(cell(EIGHT_EDGES, "{5, 3, 2, 4}")) == expected
    assert from_notation(f"found {cell(EIGHT_EDGES)}. The next one (of seed 2) is worse.\n(see above)") == expected


# Settings that would be ignored


def test_a_sweep_refuses_the_folder_of_a_single_run(tmp_path):
    done = run_command([str(ROOT / "train_search.py"), "-m", *TINY_SEARCH, "seed=0,1", "hydra.run.dir=X"], tmp_path)
    assert done.returncode == 2 and "give hydra.sweep.dir" in done.stderr and not (tmp_path / "X").exists()


@pytest.mark.parametrize("method", ["darts", "sgas"])
def test_paths_that_alpha_cannot_move_are_refused_where_alpha_is_to_move(method):
    with pytest.raises(UserError, match="nothing can move alpha; give method/schedule=best_of_samples"):
        composed("search", f"method={method}", "method/relaxation=uniform_paths")


def test_a_run_with_settings_in_a_folder_is_resumed_with_it(tmp_path):
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "mine.yaml").write_text("defaults: [fashion_mini, _self_]\n")
    command = [str(ROOT / "train_search.py"), "--config-dir", "own", "dataset=mine", *TINY_SEARCH, "search.epochs=1"]
    done = run_command([*command, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"--config-dir={tmp_path / 'own'}" in done.stdout  # of the next command
    (tmp_path / "run" / "genotype.json").unlink()
    done = run_command([str(ROOT / "train_search.py"), "resume=run"], tmp_path)
    assert done.returncode == 2 and "was begun with --config-dir; give that as well" in done.stderr
    done = run_command([str(ROOT / "train_search.py"), "resume=run", "--config-dir", "own"], tmp_path)
    assert done.returncode == 0, done.stderr
