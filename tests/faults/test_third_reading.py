"""What a third breaking reader found, each with what is right: exchanged files, names, quoting, plug-ins, output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from darts.blackbox import loop as blackbox
from darts.config.compose import quoted
from darts.config.resume import resumed_arguments
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.nasbench201 import all_strings
from darts.spaces.notation import from_notation
from darts.spaces.published import published
from darts.spaces.sources import find_genotype
from tests.conftest import (
    ENVIRONMENT,
    ROOT,
    TINY,
    TINY_DATA,
    TINY_SCORES,
    TINY_SEARCH,
    TINY_TRAIN,
    composed,
    run_command,
)

SEARCH = [str(ROOT / "train_search.py"), *TINY_SEARCH, "logger=none", "hydra.run.dir=out"]
FINAL = [str(ROOT / "train_final.py"), *TINY_TRAIN, "logger=none", "hydra.run.dir=out"]
CELL = "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1)], normal_concat=[2], " \
       "reduce=[('skip_connect', 0), ('skip_connect', 1)], reduce_concat=[2])"  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line, exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


# One cell is one observation


@pytest.mark.parametrize(
    "command", [["-m", "darts.compare", "random.samples=8", "train.epochs=1"], ["-m", "darts.select"]]
)
@pytest.mark.parametrize("names", ["darts_v2,DARTS_V2,Darts_V2", "out,out/,out/genotype.json"])
def test_one_cell_by_several_names_is_refused(tmp_path, command, names):
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1", "logger=none"), tmp_path / "out")
    space = (
        ["space.nodes=2", "space.candidates=[none,max_pool_3x3,skip_connect,sep_conv_3x3]"] if "out" in names else []
    )
    own = [*command, f"searched=[{names}]", *TINY, *space, "train.batch_size=16", "hydra.run.dir=compared"]
    refused(run_command(own, tmp_path), "searched", "one")


def test_methods_that_differ_in_spaces_only_are_one():
    with pytest.raises(UserError, match=r"methods is .*different searches"):
        composed("compare", *TINY_TRAIN, "methods=['random','random ']")


# Files that settings name are known by their content


def test_a_supernet_that_is_exchanged_between_two_parts_of_a_search_is_told(tmp_path):
    for name, epochs in (("first", 1), ("second", 2)):
        whole = composed("search", *TINY_SEARCH, f"search.epochs={epochs}", "logger=none")
        search.run(whole, tmp_path / name)
    shutil.copytree(tmp_path / "first", tmp_path / "used")
    used = f"evaluator.supernet={tmp_path / 'used'}"
    own = [*TINY_SCORES, "method=random", "evaluator=inherited", used, "logger=none",
           *(f"evaluator.{item}" for item in TINY if item.startswith("network.")), "budget.evaluations=3"]  # fmt: skip
    scored = composed("search", *own)
    state = blackbox.start_or_resume(scored, tmp_path / "out")
    next(state.lines())
    state.journal.close()
    shutil.rmtree(tmp_path / "used")
    shutil.copytree(tmp_path / "second", tmp_path / "used")
    with pytest.raises(UserError, match=r"holds a run of other settings: evaluator\.supernet_content was"):
        blackbox.run(scored, tmp_path / "out")
    (tmp_path / "used" / "genotype.json").unlink()
    with pytest.raises(UserError, match=r"evaluator\.supernet is .* a search that has ended"):
        blackbox.run(scored, tmp_path / "other")


def test_a_table_that_is_exchanged_between_two_parts_of_a_search_is_told(tmp_path):
    table = tmp_path / "table.csv"

    def write(turned: bool) -> None:
        rows = ["arch,value"]
        for number, text in enumerate(all_strings()):
            rows.append(f"{text},{100 - number / 200 if turned else number / 200}")
        table.write_text("\n".join(rows) + "\n")

    write(turned=False)
    scored = composed("search", *TINY_DATA, "search.batch_size=16", "space=nasbench201", "method=random",
                      "evaluator=table", "evaluator.column=value", "benchmark.column=value", f"benchmark.table={table}",
                      "budget.evaluations=4", "logger=none")  # fmt: skip
    state = blackbox.start_or_resume(scored, tmp_path / "out")
    next(state.lines())
    state.journal.close()
    write(turned=True)
    with pytest.raises(UserError, match=r"benchmark\.content was"):
        blackbox.run(scored, tmp_path / "out")


TUNE = ["-m", "darts.tune", *TINY_TRAIN, "train.epochs=1", "genotype=darts_v2", "trials=1", "hydra.run.dir=out",
        "logger=none"]  # fmt: skip


def test_a_study_of_other_parameters_or_accuracies_is_refused(tmp_path):
    other = [*TUNE, "parameters=[weight_optimiser.momentum 0.1 0.9]"]
    assert run_command(other, tmp_path).returncode == 0
    (tmp_path / "out").rename(tmp_path / "other")
    assert run_command(TUNE, tmp_path).returncode == 0
    (tmp_path / "out" / "best.json").unlink()
    kept = (tmp_path / "out" / "study.db").read_bytes()
    shutil.copy(tmp_path / "other" / "study.db", tmp_path / "out" / "study.db")
    refused(run_command(TUNE, tmp_path), "study.db is not of this study", "other data or settings")
    (tmp_path / "out" / "study.db").write_bytes(kept)
    with sqlite3.connect(tmp_path / "out" / "study.db") as opened:
        opened.execute("update trial_values set value = 7.5")
    refused(run_command(TUNE, tmp_path), "is not of this study", "7.5")


def test_a_correlation_that_has_ended_is_answered_and_one_that_has_not_keeps_its_accuracies(tmp_path):
    compare = ["-m", "darts.compare", *TINY_TRAIN, "train.epochs=1", "searched=[darts_v1]", "random.samples=3",
               "allow_underpowered=true", "hydra.run.dir=nets", "logger=none"]  # fmt: skip
    done = run_command(compare, tmp_path)
    assert done.returncode == 0, done.stderr
    measured = ["-m", "darts.correlate", "results=[nets]", *TINY_DATA, "search.batch_size=16", "evaluator.batch_size=8",
                "logger=none", "hydra.run.dir=out"]  # fmt: skip
    first = run_command(measured, tmp_path)
    assert first.returncode == 0, first.stderr
    kept = (tmp_path / "out" / "correlation.json").read_bytes()
    for file in (tmp_path / "nets" / "trials").rglob("result.json"):
        result = json.loads(file.read_text())
        result["test_accuracy"] = 1 - result["test_accuracy"]
        file.write_text(json.dumps(result))
    again = run_command(measured, tmp_path)
    assert again.returncode == 0 and "has ended before" in again.stdout
    assert (tmp_path / "out" / "correlation.json").read_bytes() == kept
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "ended": False}))
    refused(run_command(measured, tmp_path), "when this correlation began")


# Quoting

ODD = ["a\\b", "a\\\\b", "it's", "x'\\'y", "end\\", "a\\'b", "q\\\\", "${x}", "a\\${x}b", "run~1", "a b", "ü{}[],=:#"]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("always", [False, True])
def test_a_quoted_text_comes_back_through_hydra_and_omegaconf(text, always):
    value = OverridesParser.create().parse_override(f"k={quoted(text, always)}").value()
    held = OmegaConf.create({"k": str(value)})
    assert held.k == text


@pytest.mark.parametrize("name", ["back\\slash", "run~1", "it's"])
def test_runs_in_folders_of_odd_names_resume(tmp_path, name):
    folder = tmp_path / name
    begun = run_command([*SEARCH[:-1], f"hydra.run.dir={quoted(str(folder))}"], tmp_path)
    assert begun.returncode == 0 and (folder / "genotype.json").exists(), begun.stderr
    again = run_command([SEARCH[0], f"resume={folder}"], tmp_path)
    assert again.returncode == 0 and "has ended before" in again.stdout, again.stderr
    following = begun.stdout.split("next:")[1].strip()
    assert f"genotype={quoted(str(folder))}" in following.replace("'\"'\"'", "'") or quoted(str(folder)) == str(folder)


# Cells


@pytest.mark.parametrize("number", ["99999999999999999999999", "10000000000000", "1000000000", "1001"])
def test_a_node_of_a_huge_number_is_refused(number):
    with pytest.raises(UserError, match=r"line 1, column \d+.*no node of such a number; the largest is 1000"):
        from_notation(CELL.replace("normal_concat=[2]", f"normal_concat=[{number}]"))


@pytest.mark.parametrize(
    "text",
    [f"mutate({CELL})", f"not {CELL}", f"{CELL} or None", f"[{CELL}][0]", f"{CELL}*2", f"{CELL} . normal",
     f"{CELL} if x else y", f"best = model.step({CELL})", f"{CELL} == {CELL}"],
)  # fmt: skip
def test_a_cell_with_which_something_is_done_is_refused(text):
    with pytest.raises(UserError, match="something is done with the cell"):
        from_notation(text)


@pytest.mark.parametrize(
    "text",
    [f"print({CELL})", f"logging.info({CELL})", f"genotype = {CELL}", f"INFO: {CELL}, epoch 3", f"found {CELL}. Next",
     f"({CELL})", f"best or {CELL}", f'"{CELL}"', f"{CELL} - epoch 4", f"epoch 3: {CELL} in 4 s", f"x = str({CELL})"],
)  # fmt: skip
def test_a_cell_in_a_text_is_read_all_the_same(text):
    assert from_notation(text) == from_notation(CELL)


def test_a_file_with_old_macintosh_line_ends_is_read_with_its_places(tmp_path):
    file = tmp_path / "cell.txt"
    file.write_bytes(f"one\rtwo\r{CELL}\r".encode())
    space = composed("search", "space.nodes=1").space
    assert find_genotype(str(file), space, "runs", 0).cells == from_notation(CELL).cells
    file.write_bytes(f"one\rtwo\r{CELL.replace('[2]', '[None]', 1)}\r".encode())
    with pytest.raises(UserError, match="line 3, column"):
        find_genotype(str(file), space, "runs", 0)


@pytest.mark.parametrize("form", ['{{"epoch": 4, {}}}', '{{"arch": {{{}}}}}'])
def test_a_dictionary_with_more_around_a_cell_says_where_it_is_wrong_or_is_read(tmp_path, form):
    edges = '[["skip_connect", 0], ["skip_connect", 1]]'
    inner = f'"normal": {edges}, "normal_concat": [2], "reduce": {edges}, "reduce_concat": [2]'
    file = tmp_path / "cell.json"
    file.write_text(form.format(inner))
    space = composed("search", "space.nodes=1").space
    try:
        assert find_genotype(str(file), space, "runs", 0).cells == from_notation(CELL).cells
    except UserError as error:
        assert "begins with its own key" in str(error)


# What Hydra refuses


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method=null", ["method is null; it must be one of", "darts"]),
        ("space=null", ["space is null"]),
        ("dataset=", ["dataset is empty"]),
        ("logger=null", ["logger is null", "tensorboard"]),
        ("seed=${nope}", ["nope"]),
        ("seed=${seed}", ["Recursive interpolation"]),
        ("hydra.run.dir=${nope}", ["nope"]),
        ("hydra.run.dir=", ["hydra.run.dir is empty; it must be a folder"]),
        ("hydra.run.dir=''", ["hydra.run.dir is empty"]),
        ("dataset.root=${oc.env:NOPE}", ["NOPE"]),
        ("method=drats", ["drats"]),
        ("seed=1~2", []),
        ("search.epoch=3", ["epoch"]),
        ("plugins=['../x']", ["'../x' is no name of a module"]),
        ("plugins=['.rel']", ["'.rel' is no name of a module"]),
        ("~seed", ["seed"]),
    ],
)
def test_what_cannot_be_composed_is_one_line(tmp_path, setting, words):
    refused(run_command([SEARCH[0], setting], tmp_path), *words)
    assert not list(tmp_path.rglob("genotype.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1/0\n", ["ZeroDivisionError: division by zero", "broken.py, line 1"]),
        ("def x(:\n", ["SyntaxError", "line 1"]),
        ("raise MemoryError\n", ["MemoryError"]),
        ("raise Warning('w')\n", ["Warning: w"]),
        ("import sys\nsys.exit(7)\n", ["SystemExit: 7", "line 2"]),
        ("import nosuchmodule\n", ["ModuleNotFoundError", "nosuchmodule"]),
        ("from darts.config.registry import register\nregister('nokind', 'x')\n", ["'nokind' is unknown"]),
    ],
)
def test_a_plugin_that_fails_is_told_in_a_line(tmp_path, content, words):
    (tmp_path / "broken.py").write_text(content)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    refused(run_command([*SEARCH, "plugins=[broken]"], tmp_path, PYTHONPATH=path), *words)


@pytest.mark.parametrize(
    ("command", "kind"),
    [("final", "search by gradients; python train_search.py resume=... resumes it"), ("tune", "search by gradients")],
)
def test_a_run_of_another_kind_is_not_resumed(tmp_path, command, kind):
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1", "logger=none"), tmp_path / "out")
    with pytest.raises(UserError, match=f"holds a {kind}".replace(".", r"\.")):
        resumed_arguments(command, [f"resume={tmp_path / 'out'}"])


# Output


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def test_a_run_whose_error_output_is_closed_ends_well(tmp_path):
    done = shell(f"{sys.executable} {' '.join(map(quoted_for_bash, FINAL))} genotype=darts_v2 2>&-", tmp_path)
    assert done.returncode == 0 and (tmp_path / "out" / "result.json").exists(), done.stdout


def quoted_for_bash(text: str) -> str:
    return f"'{text}'"


@pytest.mark.parametrize("command", ["-m darts.describe genotype=darts_v2", f"{ROOT}/train_search.py --help"])
def test_output_for_which_there_is_no_room_is_told_in_a_line(tmp_path, command):
    done = shell(f"{sys.executable} {command} >/dev/full", tmp_path)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert done.returncode == 2 and "the output cannot be written" in done.stderr


@pytest.mark.parametrize("command", ["-m darts.describe genotype=darts_v2", f"{ROOT}/train_search.py --help"])
def test_output_that_is_cut_off_is_no_error(tmp_path, command):
    done = shell(f"set -o pipefail; {sys.executable} {command} | head -1", tmp_path)
    assert done.stderr == "" and done.returncode in (0, 141), done.stderr


def test_an_early_ctrl_c_promises_nothing_that_is_not_there(tmp_path):
    for wait in (1.0, 1.6, 2.2):
        process = subprocess.Popen(
            [sys.executable, *SEARCH], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        if "resume=" in errors:
            again = run_command([SEARCH[0], "resume=out"], tmp_path)
            assert again.returncode == 0, again.stderr
            return
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


# Pictures


def test_the_cache_is_no_class_folder(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for name in ("a", "b", "c"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), (60 * number, 10, 10)).save(
                    tmp_path / "pictures" / part / name / f"{number}.png"
                )
    from darts.tasks.folders import list_folder

    given = composed("final", "dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}",
                     f"dataset.cache={tmp_path / 'pictures' / 'train' / 'c'}").dataset  # fmt: skip
    with pytest.raises(UserError, match=r"dataset\.cache is .*, a class folder with pictures"):
        list_folder(given)


# Records of searches that have ended


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe\x00", "provenance", "score"],
)
def test_damaged_results_of_searches_that_have_ended_are_told(tmp_path, damage):
    by_gradients = damage != "score"
    if by_gradients:
        settings = composed("search", *TINY_SEARCH, "search.epochs=1", "logger=none")
        run = search.run
    else:
        own = ["method=random", "evaluator=zero_cost", "evaluator.batch_size=8", "budget.evaluations=1", "logger=none"]
        settings = composed("search", *TINY_SCORES, *own)
        run = blackbox.run
    run(settings, tmp_path)
    file = tmp_path / "genotype.json"
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        content = json.loads(file.read_text())
        content["provenance"] = {} if damage == "provenance" else {**content["provenance"], "score": None}
        file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"genotype\.json"):
        run(settings, tmp_path)


def test_published_names_are_found_whatever_their_case():
    assert find_genotype("DARTS_V2", composed("search").space, "runs", 0) == published("darts_v2")
