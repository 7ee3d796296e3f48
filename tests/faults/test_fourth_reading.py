"""What a fourth breaking reader found, each with what is right: pictures in use, odd names, tables, exports, sizes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

import darts
from darts.blackbox import loop as blackbox
from darts.config.compose import quoted
from darts.config.registry import named_plugins
from darts.config.resume import newest_unfinished
from darts.export import ABOUT
from darts.runtime import signals
from darts.runtime.checkpoint import read_state, write_state
from darts.runtime.errors import UserError
from darts.runtime.files import read_json
from darts.search import build
from darts.search import loop as search
from darts.spaces.nasbench201 import all_strings, from_string
from darts.spaces.published import published
from darts.spaces.table import BenchmarkTable, load_table, read_table
from darts.tasks.file_content import path_digest
from darts.tasks.folders import list_folder
from darts.train import retraining
from darts.use import exporting
from darts.use.answers import pictures_of
from darts.use.labels import labels_of
from tests.conftest import (
    ENVIRONMENT,
    ROOT,
    TINY_DATA,
    TINY_SCORES,
    TINY_SEARCH,
    TINY_TRAIN,
    composed,
    run_command,
    some,
)
from tests.faults.test_disks import needs_small_disks
from tests.faults.test_third_reading import refused
from tests.test_use import SMALL, draw_pictures

PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale that knows ASCII only
ACCENTED = unicodedata.normalize("NFC", "caf\u00e9")
DECOMPOSED = unicodedata.normalize("NFD", ACCENTED)
PREDICT = ["-m", "darts.predict", "hydra.run.dir=out", "device=cpu"]


def folder_settings(root: Path):
    return composed("final", *SMALL, "dataset=image_folder", f"dataset.root={root}", "dataset.image_size=16")


def retrained(pictures: Path, folder: Path) -> Path:
    retraining.run(folder_settings(pictures), published("darts_v2"), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a tiny retraining on own pictures, and the pictures."""
    folder = tmp_path_factory.mktemp("trained")
    pictures = draw_pictures(folder / "pictures")
    return retrained(pictures, folder / "run"), pictures


@pytest.fixture
def pictures(tmp_path) -> Path:
    return draw_pictures(tmp_path / "pictures")


def rows_of(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()))[1:]


# Pictures in use are those of a test


def add_odd_entries(pictures: Path) -> None:
    """Links to folders, a folder like a picture, a pipe, hidden files, a picture outside the class folders."""
    elsewhere = pictures.parent / "elsewhere"
    for part in ("train", "test"):
        blue = pictures / part / "blue"
        (elsewhere / part).mkdir(parents=True)
        for file in (pictures / part / "red").iterdir():
            file.rename(elsewhere / part / file.name)
        (pictures / part / "red").rmdir()
        (pictures / part / "red").symlink_to(elsewhere / part)
        (blue / "more").symlink_to(pictures / part / "green")
        (blue / "d.png").mkdir()
        (blue / "d.png" / "inside.png").write_bytes((blue / "0.png").read_bytes())
        os.mkfifo(blue / "pipe.png")
        (blue / "lost.png").symlink_to("nowhere.png")
        (blue / ".hidden.png").write_bytes(b"x")
        (blue / "deep").mkdir()
        (blue / "1.png").rename(blue / "deep" / "1.png")
        (pictures / part / "outside.png").write_bytes((blue / "0.png").read_bytes())


def test_predicted_pictures_are_those_that_a_test_of_the_folder_opens(trained, pictures, tmp_path):
    add_odd_entries(pictures)
    listing = list_folder(folder_settings(pictures).dataset)
    expected = sorted(listing.relative(file) for file in listing.test)
    assert len(expected) == 12
    done = run_command([*PREDICT, f"weights={trained[0]}", "images=pictures/test", "labels=folders"], tmp_path, 60)
    assert done.returncode == 0, done.stderr
    assert [row[0].removeprefix("pictures/") for row in rows_of(tmp_path / "out")] == expected
    told = next(line for line in done.stdout.splitlines() if line.startswith("skipped: "))
    for reason in ("folder named like a picture", "not a regular file", "broken link", "hidden", "outside the class",
                   "link to a folder that is read already"):  # fmt: skip
        assert f"1 {reason}" in told, told
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["pictures"] == 12
    without = run_command([*PREDICT, f"weights={trained[0]}", "images=pictures/test"], tmp_path, 60)
    assert without.returncode == 0 and len(rows_of(tmp_path / "out")) == 13, without.stderr  # and outside.png
    assert "1 folder named like a picture" in without.stdout


def test_pictures_to_check_an_export_on_are_listed_by_the_same_rules(trained, pictures, tmp_path):
    add_odd_entries(pictures)
    done = run_command(["-m", "darts.export", f"weights={trained[0]}", "to=pt2", "images=pictures/test",
                        "hydra.run.dir=out"], tmp_path, 120)  # fmt: skip
    assert done.returncode == 0 and "on 13 pictures" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("setting", ["images", "labels", "weights"])
def test_a_pipe_that_nobody_fills_hangs_nobody(trained, tmp_path, setting):
    os.mkfifo(tmp_path / "pipe")
    run, pictures = trained
    given = {"weights": run, "images": pictures / "test", setting: "pipe"}
    done = run_command([*PREDICT, *(f"{key}={value}" for key, value in given.items())], tmp_path, 60)
    refused(done, setting, "pipe")


def test_no_file_that_a_setting_names_may_be_a_pipe(trained, tmp_path):
    for name in ("pipe", "pipe.png", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
    assert path_digest(tmp_path / "pipe") == ""
    with pytest.raises(UserError, match="no regular file"):
        darts.load_network(trained[0]).predict(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="weights"):
        darts.load_network(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match=r"benchmark\.table .*Not a regular file"):
        read_table(tmp_path / "pipe")
    with pytest.raises(UserError, match="damaged or missing"):
        read_json(tmp_path / "pipe", {}, "")


def test_files_of_others_are_not_overwritten_by_predictions(trained, tmp_path):
    run, pictures = trained
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sheet.png").write_bytes(b"mine")
    command = [*PREDICT, f"weights={run}", f"images={pictures / 'test'}"]
    refused(run_command(command, tmp_path), "hydra.run.dir is", "holds a sheet.png that this command did not write")
    assert (tmp_path / "out" / "sheet.png").read_bytes() == b"mine"
    (tmp_path / "out" / "sheet.png").unlink()
    for _ in range(2):  # its own files it may replace
        assert run_command(command, tmp_path).returncode == 0


# Labels


def told(table: str, folder: Path, place: Path, classes=("blue", "green", "red"), name: str = "table.csv"):
    """The classes of the pictures in a folder by a table's text."""
    (folder / name).write_bytes(table.encode("utf-8", "surrogateescape"))
    return labels_of(pictures_of(place), place, str(folder / name), list(classes))


def flat(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_picture_of_two_classes_in_a_table_is_refused_with_line_and_classes(tmp_path):
    place = flat(tmp_path / "flat", "a.png", "b.png")
    assert list(told("a.png,red\nb.png,blue\na.png,red\n", tmp_path, place).values()) == [2, 0]
    for again in ("a.png", f"{place / 'a.png'}", "./a.png", "flat/a.png"):
        with pytest.raises(UserError, match=r"line 3 says that .* is of class 'blue', and of 'red' in line 1"):
            told(f"a.png,red\nb.png,blue\n{again},blue\n", tmp_path, place)
    with pytest.raises(UserError, match="line 4 says"):  # of a picture that is not asked about, too
        told("a.png,red\nb.png,blue\nc.png,red\nc.png,blue\n", tmp_path, place)


def test_a_table_of_excel_is_read_and_paths_may_be_absolute_or_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = flat(tmp_path / "flat", "a.png", "b.png")
    (tmp_path / "link").symlink_to(place)
    assert list(told("\ufeffa.png,red\r\nb.png,blue\r\n", tmp_path, place).values()) == [2, 0]
    for given in (Path("flat"), place, Path("link"), tmp_path / "link", Path("flat/../flat")):
        for named in (str(place), "flat", "link", str(tmp_path / "link")):
            assert list(told(f"{named}/a.png,red\n{named}/b.png,blue\n", tmp_path, given).values()) == [2, 0]
    single = Path("flat/a.png")
    assert told("a.png,red\n", tmp_path, single) == {"flat/a.png": 2}


def test_a_single_picture_in_the_present_folder_is_of_the_folders_class(tmp_path, monkeypatch):
    monkeypatch.chdir(flat(tmp_path / "red", "a.png"))
    assert labels_of(pictures_of(Path("a.png")), Path("a.png"), "folders", ["blue", "red"]) == {"a.png": 1}


def test_names_in_a_table_are_compared_with_their_accents_composed(tmp_path):
    place = flat(tmp_path / "flat", f"{DECOMPOSED}.png")
    assert list(told(f"{ACCENTED}.png,{DECOMPOSED}\n", tmp_path, place, ["a", ACCENTED]).values()) == [1]


# Names of any bytes, in any locale


ODD_NAMES = [ACCENTED, DECOMPOSED, os.fsdecode(b"caf\xe9"), "a$b$ {x}"]
SLOW = pytest.mark.slow
QUICK_ONES = {("decomposed", "ascii"), ("bytes", "utf-8")}
LOCALES = {"utf-8": {}, "ascii": PLAIN_C}
OF_ALL = [
    pytest.param(name, LOCALES[locale], id=f"{word}-{locale}", marks=[] if (word, locale) in QUICK_ONES else SLOW)
    for word, name in zip(("accented", "decomposed", "bytes", "signs"), ODD_NAMES, strict=True)
    for locale in LOCALES
]


@pytest.mark.parametrize(("name", "environment"), OF_ALL)
def test_pictures_and_classes_of_any_names_are_trained_on_and_predicted(tmp_path, name, environment):
    pictures = draw_pictures(tmp_path / "pictures")
    for part in ("train", "test"):
        (pictures / part / "green").rename(pictures / part / name)
        (pictures / part / name / "0.png").rename(pictures / part / name / f"{name}.png")
    data = ["dataset=image_folder", "dataset.root=pictures", "dataset.image_size=16", f"dataset.cache={tmp_path}/cache"]
    command = [str(ROOT / "train_final.py"), *SMALL, "logger=tensorboard", "genotype=darts_v2", *data]
    done = run_command([*command, "hydra.run.dir=run"], tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "3 classes: " in done.stdout and "Traceback" not in done.stderr
    told = run_command([*PREDICT, "weights=run", "images=pictures/test", "labels=folders"], tmp_path, **environment)
    assert told.returncode == 0, told.stderr
    assert len(rows_of(tmp_path / "out")) == 12
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["pictures"] == 12
    listed = run_command(
        [*PREDICT, "weights=run", f"images={quoted(f'pictures/test/{name}')}"], tmp_path, **environment
    )
    assert listed.returncode == 0 and ".png" in listed.stdout, listed.stderr
    assert ".png" in (tmp_path / "out" / "predict.log").read_text(encoding="utf-8")


def test_a_class_is_one_whatever_its_spelling_and_the_order_is_that_of_the_composed_names(pictures):
    for part, name in (("train", DECOMPOSED), ("test", ACCENTED)):
        (pictures / part / "green").rename(pictures / part / name)
        (pictures / part / "red").rename(pictures / part / "cafz")  # sorts between the two spellings
    listing = list_folder(folder_settings(pictures).dataset)
    assert listing.classes == ["blue", "cafz", ACCENTED]
    for file in (*listing.training, *listing.test):
        own = Path(listing.relative(file)).parts[1]
        assert unicodedata.normalize("NFC", own) == listing.classes[file.label]


def test_a_network_with_a_class_twice_is_refused(trained, tmp_path):
    state = read_state(trained[0] / "weights.pt")
    for names in (["blue", "red", "red"], [ACCENTED, DECOMPOSED, "red"]):
        write_state(tmp_path / "weights.pt", {**state, "class_names": names})
        with pytest.raises(UserError, match=r"class_names holds .* twice"):
            darts.load_network(tmp_path)


# Tables of true accuracies


CELLS = list(all_strings())[:3]


def table_of(folder: Path, *rows: str, names: str = "arch,good", begin: str = "") -> Path:
    file = folder / "table.csv"
    file.write_text("\n".join([begin + names, *rows]) + "\n")
    return file


@pytest.mark.parametrize("value", ["500", "-5", "nan", "inf", "100.001"])
def test_an_accuracy_beyond_percent_is_refused_with_its_line_and_value(tmp_path, value):
    rows = (f"{CELLS[0]},50,{value}", f"{CELLS[1]},{value},50", f"{CELLS[2]},60,50")
    file = table_of(tmp_path, *rows, names="arch,good,other")
    shown = f"{float(value):g}"
    for column, line, cell in (("good", 3, CELLS[1]), ("other", 2, CELLS[0])):
        with pytest.raises(UserError) as refusal:
            load_table(
                BenchmarkTable(str(file), [], column, column, False), composed("search", "space=nasbench201").space
            )
        assert f"line {line}, {cell}: {column} is {shown}; it must be a number from 0 to 100" in str(refusal.value)


@pytest.mark.parametrize("method", ["darts", "random"])
def test_a_search_does_not_begin_with_such_a_table(tmp_path, method):
    file = table_of(tmp_path, *(f"{cell},nan" for cell in CELLS))
    own = ["space=nasbench201", f"method={method}", "search.batch_size=16", "benchmark.column=good", "logger=none"]
    command = [str(ROOT / "train_search.py"), *TINY_DATA, *own, f"benchmark.table={file}", "hydra.run.dir=out"]
    done = run_command(command, tmp_path)
    refused(done, "benchmark.table", "line 2", "good is nan")
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_comparison_does_not_begin_with_such_a_table(tmp_path):
    file = table_of(tmp_path, *(f"{cell},500" for cell in CELLS))
    done = run_command(["-m", "darts.compare", *TINY_DATA, "space=nasbench201", "methods=[random]", "plan=true",
                        f"benchmark.table={file}", "benchmark.column=good", "hydra.run.dir=out"], tmp_path)  # fmt: skip
    refused(done, "benchmark.table", "line 2", "good is 500")


def test_columns_and_cells_of_a_table_are_there_once(tmp_path):
    first, second, _ = CELLS
    with pytest.raises(UserError, match="line 1 has the column 'good' twice"):
        read_table(table_of(tmp_path, f"{first},1,2", names="arch,good,good"))
    with pytest.raises(UserError, match=r"line 4, .*: good is 3, and 1 in line 2"):
        read_table(table_of(tmp_path, f"{first},1", f"{second},2", f"{first},3"))
    table = read_table(table_of(tmp_path, f"{first},1", f"{second},0.5", f"{first},1.0", begin="\ufeff"))
    assert (table.accuracy(from_string(first), "good"), table.rank(from_string(second), "good")) == (1, 2)


# Exports


def need(form: str) -> None:
    for name in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}.get(form, ()):
        pytest.importorskip(name)


def exported(trained, folder: Path, form: str = "safetensors", place: str = "."):
    run, pictures = trained
    own = [f"weights={run}", f"to={form}", f"images={pictures / 'test'}", f"hydra.run.dir={place}"]
    return run_command(["-m", "darts.export", *own], folder, 120)


def test_an_export_writes_over_nothing_of_others(trained, tmp_path):
    need("safetensors")
    (tmp_path / "README.md").write_text("# My project\n")
    for _ in range(2):  # its own files it may replace
        done = exported(trained, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "README.md").read_text() == "# My project\n"
        assert (tmp_path / "network.safetensors.md").read_text().startswith("# network.safetensors\n")
    assert not list(tmp_path.glob(".export-*"))
    (tmp_path / "network.safetensors").write_bytes(b"mine")
    (tmp_path / "network.safetensors.md").write_text("mine")
    refused(exported(trained, tmp_path), "which holds a network.safetensors that this command did not write")
    (tmp_path / "network.safetensors").unlink()
    refused(exported(trained, tmp_path), "which holds a network.safetensors.md that this command did not write")
    assert (tmp_path / "network.safetensors.md").read_text() == "mine"


def test_two_forms_in_a_folder_are_both_described(trained, tmp_path):
    need("safetensors")
    for form in ("safetensors", "pt2", "safetensors"):
        assert exported(trained, tmp_path, form, "out").returncode == 0
    assert (tmp_path / "out" / "README.md").read_text().startswith("# network.safetensors\n")
    assert (tmp_path / "out" / "network.pt2.md").read_text().startswith("# network.pt2\n")


@pytest.mark.parametrize("form", some(["onnx", "pt2", "safetensors"], "safetensors"))
def test_a_full_disk_ends_an_export_with_a_line_and_an_earlier_one_survives(trained, tmp_path, form):
    need(form)
    needs_small_disks()
    run, pictures = trained
    card = f"# network.{form}\n\n{ABOUT['images']}\n"
    (tmp_path / "disk").mkdir()
    (tmp_path / "card").write_text(card)
    command = [sys.executable, "-m", "darts.export", f"weights={run}", f"to={form}", f"images={pictures / 'test'}"]
    shell = f"""mount -t tmpfs -o size=28k none disk && mkdir disk/run && cp card disk/run/README.md
        echo earlier > disk/run/network.{form}
        "$@" hydra.run.dir=disk/run; code=$?
        cp disk/run/README.md disk/run/network.{form} . && find disk/run >left; exit $code"""
    done = subprocess.run(["unshare", "-rm", "bash", "-c", shell, "-", *command], cwd=tmp_path, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    refused(done, "could not be written to the disk: No space left on device")
    assert (tmp_path / f"network.{form}").read_text() == "earlier\n" and (tmp_path / "README.md").read_text() == card
    left = {Path(line).name for line in (tmp_path / "left").read_text().splitlines()}
    assert left <= {"run", "README.md", f"network.{form}", "export.log"}


def test_an_export_that_fails_its_check_leaves_the_earlier_file(trained, tmp_path, monkeypatch):
    file = tmp_path / "network.pt2"
    file.write_bytes(b"earlier")
    network = darts.load_network(trained[0])
    with pytest.raises(UserError, match="was not kept"), exporting.staged(file) as fresh:
        exporting.export(network, "pt2", fresh, True, False)
        assert fresh.stat().st_size > 1000
        exporting.require_equal(1.0)
    assert [left.name for left in tmp_path.iterdir()] == ["network.pt2"] and file.read_bytes() == b"earlier"


# What is typed


SEARCH = [str(ROOT / "train_search.py"), *TINY_SEARCH, "logger=none"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["=3"], ["'=3' names no setting"]),
        (["method=3"], ["method is 3; it must be one of", "darts"]),
        (["method@=3"], ["is 3"]),
        (["hydra=3"], ["must be a string or a list"]),
        (["--resolve"], ["--resolve is given without --cfg"]),
        (["--foo"], ["unrecognized arguments: --foo"]),
        (["--info=x"], ["invalid choice: 'x'"]),
        (["--cfg=x"], ["invalid choice: 'x'"]),
        (["--config-dir"], ["expected one argument"]),
        (["--run", "-m"], ["--run and --multirun are given together"]),
        (["--experimental-rerun=x"], ["opens a pickle"]),
        (["--help", "hydra=3", "=3"], ["names no setting"]),
        (["hydra.job_logging.handlers.file.class=nope"], ["Unable to configure handler 'file'", "nope"]),
    ],
)
def test_what_is_typed_wrongly_is_one_line_and_exit_code_2(tmp_path, typed, words):
    refused(run_command([SEARCH[0], *typed], tmp_path, 60), *words)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("typed", "setting"),
    [
        (["hydra.run.dir=b\\${seed}"], "hydra.run.dir is 'b${seed}'"),
        (["runs=a\\${seed}"], "runs is 'a${seed}'"),
        (["hydra.sweep.dir=b\\${seed}", "-m"], "hydra.sweep.dir is 'b${seed}'"),
        (["hydra.sweep.subdir=b\\${seed}", "-m"], "hydra.sweep.subdir is 'b${seed}'"),
    ],
)
def test_a_run_folder_with_a_reference_in_its_name_is_refused_before_anything_is_made(tmp_path, typed, setting):
    refused(run_command([*SEARCH, *typed], tmp_path, 60), setting, "a folder without ${")
    assert not list(tmp_path.iterdir())
    (tmp_path / "${x}").mkdir()
    refused(run_command(SEARCH, tmp_path / "${x}", 60), "the present folder is", "a folder without ${")
    assert not list((tmp_path / "${x}").iterdir())


@pytest.mark.parametrize(
    ("command", "typed", "setting"),
    [
        (["-m", "darts.predict"], ["images="], "images"),
        (["-m", "darts.predict"], ["images=x", "labels="], "labels"),
        (["-m", "darts.predict"], ["images=x", "weights=''"], "weights"),
        (["-m", "darts.predict"], ["images=x", "runs=' '"], "runs"),
        (["-m", "darts.export"], ["images="], "images"),
        ([str(ROOT / "train_final.py")], ["start_from="], "start_from"),
        ([str(ROOT / "train_final.py")], ["genotype="], "genotype"),
        ([str(ROOT / "train_final.py")], ["dataset=image_folder", "dataset.root="], "dataset.root"),
        ([str(ROOT / "train_search.py")], ["benchmark.table="], "benchmark.table"),
        ([str(ROOT / "train_search.py")], ["plugins=['']"], "plugins"),
        ([str(ROOT / "train_search.py")], ["device="], "device"),
        ([str(ROOT / "train_search.py")], ["resume="], "resume"),
        (["-m", "darts.compare"], ["searched=['']"], "searched"),
        (["-m", "darts.describe"], ["genotype="], "genotype"),
    ],
)
def test_an_empty_path_or_name_is_refused_as_empty(tmp_path, command, typed, setting):
    done = run_command([*command, *typed, "hydra.run.dir=out"], tmp_path, 60)
    refused(done, setting)
    assert "is empty" in done.stderr or "is ''" in done.stderr, done.stderr


@pytest.mark.parametrize("runs", ["my runs", "it's", "a,b", "plain"])
def test_resume_latest_finds_runs_whose_folder_needs_quotes(tmp_path, runs):
    given = f"runs={quoted(runs)}"
    begun = run_command([*SEARCH, "search.epochs=1", given], tmp_path)
    assert begun.returncode == 0, begun.stderr
    record = next((tmp_path / runs).rglob("run.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "ended": False}))
    assert newest_unfinished("search", [f"runs={quoted(str(tmp_path / runs))}"]) == record.parent
    (record.parent / "genotype.json").unlink()
    done = run_command([SEARCH[0], "resume=latest", given], tmp_path)
    assert done.returncode == 0 and (record.parent / "genotype.json").exists(), done.stderr


def test_plugins_are_named_as_hydra_reads_them():
    for typed in ("plugins=[a,b.c]", "plugins=['a', \"b.c\"]", "+plugins=[a,'b.c']"):
        assert named_plugins(["seed=3", typed, "x=plugins"]) == ["a", "b.c"]
    assert named_plugins(["plugins=[]", "plugins=[,"]) == []


# Sizes, and stops before the first step


@pytest.mark.parametrize(
    "typed", ["space.nodes=5000", "space.nodes=33", "space.nodes=0", "dataset.crop_padding=100000"]
)
def test_a_size_beyond_all_sense_is_refused_with_the_range(typed):
    name, value = typed.split("=")
    with pytest.raises(UserError, match=rf"{name} is {value}; it must be from \d+ to \d+"):
        composed("search", typed)


def of_gradients(folder: Path) -> None:
    search.run(composed("search", *TINY_SEARCH, "logger=none"), folder)


def of_scores(folder: Path) -> None:
    own = ["method=random", "evaluator=zero_cost", "evaluator.batch_size=8", "budget.evaluations=1", "logger=none"]
    blackbox.run(composed("search", *TINY_SCORES, *own), folder)


def of_training(folder: Path) -> None:
    retraining.run(composed("final", *TINY_TRAIN, "logger=none"), published("darts_v2"), folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize(
    ("run", "module", "name"),
    [
        (of_gradients, build, "searched_data"),
        (of_scores, blackbox, "searched_data"),
        (of_training, retraining, "train_data"),
    ],
)
def test_a_signal_before_the_first_step_ends_a_run_at_once(tmp_path, monkeypatch, run, module, name, number):
    def struck(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        pytest.fail("it goes on")

    before = signal.getsignal(number)
    monkeypatch.setattr(module, name, struck)
    kind = KeyboardInterrupt if number == signal.SIGINT else signals.Interrupted
    with pytest.raises(kind) as stopped:
        run(tmp_path / "out")
    assert number == signal.SIGINT or (stopped.value.exit_code, stopped.value.saved) == (128 + number, False)
    assert not list((tmp_path / "out").iterdir()) and signal.getsignal(number) is before
    monkeypatch.undo()
    if number == signal.SIGTERM:
        run(tmp_path / "out")  # nothing stands in its way


def test_a_launchers_handler_waits_for_a_step_as_ever():
    called = []
    before = signal.signal(signal.SIGTERM, lambda given, frame: called.append(given))
    try:
        with signals.deferred_signals():
            with signals.stopped_at_once():
                os.kill(os.getpid(), signal.SIGTERM)
            assert called == [] and signals.pending_signal() == signal.SIGTERM
            with signals.stopped_at_once(alone=False):
                os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_that_is_being_built_is_ended_by_sigterm_and_says_what_is_saved(tmp_path):
    (tmp_path / "slow_block.py").write_text(
        "import time\nfrom darts.config.registry import register\nfrom torch import nn\n\n\n"
        "@register('operation', 'slow_block')\ndef slow_block(channels, stride, affine):\n"
        "    print('building', flush=True)\n    time.sleep(60)\n    return nn.Identity()\n"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    own = ["plugins=[slow_block]", "space.candidates=[none,slow_block]", "hydra.run.dir=out"]
    process = subprocess.Popen([sys.executable, *SEARCH, *own], cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": path},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while "building" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 143 and time.monotonic() - begun < 20, errors
    assert "stopped by SIGTERM before the first step; nothing was begun" in errors and "Traceback" not in errors
    assert not (tmp_path / "out" / "lock").exists()


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_everything_lies_in_folders_of_any_names(trained, tmp_path, form):
    need(form)
    odd = tmp_path / os.fsdecode(b"d\xe9")
    pictures = draw_pictures(odd / "pictures")
    folder = odd / "run"
    data = ["dataset=image_folder", f"dataset.root={quoted(str(pictures))}", "dataset.image_size=16"]
    command = [*SMALL, *data, "logger=tensorboard", "genotype=darts_v2", f"dataset.cache={quoted(str(odd / 'cache'))}"]
    for _ in range(2 if form == "pt2" else 1):  # the second time it has ended
        done = run_command([str(ROOT / "train_final.py"), *command, f"hydra.run.dir={quoted(str(folder))}"], odd)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    done = exported((quoted(str(folder)), Path("pictures")), odd, form, "out")
    assert done.returncode == 0 and (odd / "out" / f"network.{form}").exists(), done.stderr
