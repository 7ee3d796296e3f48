"""The pages: their links lead somewhere, their examples run, their commands' settings exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
import textwrap

import pytest
from PIL import Image

from darts.config.renamed import RENAMED
from tests.conftest import ROOT, TINY, run_command

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = ROOT / "docs" / "README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_index_names_every_page():
    for page in (ROOT / "docs").glob("*.md"):
        assert page == INDEX or f"({page.name})" in INDEX.read_text(), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_uses_a_setting_by_its_old_name(page):
    if page.name in ("settings.md", "CHANGELOG.md"):
        return  # they say what changed
    text = page.read_text()
    for old in RENAMED:
        assert "." not in old or old not in text, old


def block_after(text: str, heading: str) -> str:
    """The first indented block after a heading or a line."""
    lines = text.split(heading, 1)[1].splitlines()[1:]
    begin = next(number for number, line in enumerate(lines) if line.startswith("    "))
    found = []
    for line in lines[begin:]:
        if line and not line.startswith("    "):
            break
        found.append(line)
    return textwrap.dedent("\n".join(found)).strip() + "\n"


def test_the_readmes_python_example_runs(tmp_path):
    code = block_after((ROOT / "README.md").read_text(), "## From Python")
    assert code.count("\n") <= 11
    small = ", ".join(f'"{item}"' for item in [*TINY, "network.channels=4"])
    code = code.replace('"dataset.fraction=0.05"', small)
    code = code.replace('"search.epochs=1"', '"search.epochs=1", "search.batch_size=16"')
    (tmp_path / "example.py").write_text(code.replace('"train.epochs=1"', '"train.epochs=1", "train.batch_size=16"'))
    done = run_command(["example.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/search/*/genotype.json"))) == 1
    assert len(list(tmp_path.glob("runs/final/*/weights.pt"))) == 1


def test_the_readmes_commands_compose(tmp_path):
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (python (?:train_\w+\.py|-m darts\.\w+)[^#\n]*)", text, flags=re.M)
    assert len(commands) >= 8
    (tmp_path / "PICTURES").mkdir()
    for command in commands:
        words = [word if not word.endswith(".py") else str(ROOT / word) for word in shlex.split(command)[1:]]
        done = run_command([*words, "--cfg", "job"], tmp_path)
        assert done.returncode == 0, (command, done.stderr)


SMALL_BLUR = {
    "train_search.py": [*TINY, "search.batch_size=16", "search.epochs=1", "space.nodes=2"],
    "train_final.py": [*TINY, "train.batch_size=16", "train.epochs=1", "space.nodes=2"],
    "darts.describe": ["network.cells=3", "network.channels=4", "device=cpu", "space.nodes=2"],
    "darts.predict": ["device=cpu"],
    "darts.export": ["hydra.run.dir=exported"],
    "darts.compare": [*TINY, "train.batch_size=16", "train.epochs=1", "space.nodes=2", "random.samples=2",
                      "allow_underpowered=true"],
}  # fmt: skip


@pytest.mark.slow(60)
def test_the_example_of_ones_own_operation_and_relaxation_goes_all_the_way(tmp_path):
    """Every command of the page as printed, with tiny sizes added: search, retrain, predict, export, compare."""
    text = (ROOT / "docs" / "extending.md").read_text()
    (tmp_path / "my_blur.py").write_text(block_after(text, "`my_blur.py`:"))
    (tmp_path / "PICTURES").mkdir()
    Image.new("L", (40, 30), 90).save(tmp_path / "PICTURES" / "a.png")
    commands = block_after(text, "With the folder of `my_blur.py` on PYTHONPATH:").splitlines()
    named = []
    for command in commands:
        words = shlex.split(command)[1:]
        named.append(words[words[0] == "-m"])
        if named[-1] == "darts.export" and not importlib.util.find_spec("onnxscript"):
            continue
        given = [str(ROOT / words[0]), *words[1:]] if words[0] != "-m" else words
        done = run_command([*given, *SMALL_BLUR[named[-1]]], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
        assert done.returncode == 0, (command, done.stderr)
    assert named == list(SMALL_BLUR)
    (found,) = (tmp_path / "runs" / "search").rglob("genotype.json")
    assert '"blur"' in found.read_text() and json.loads(found.read_text())["plugins"] == ["my_blur"]
    report = json.loads(next((tmp_path / "runs" / "compare").rglob("report.json")).read_text())
    assert len(report["outcomes"]) == 3
    (weights,) = (tmp_path / "runs" / "final").rglob("weights.pt")
    code = f"import darts; print(darts.load_network({str(weights)!r}).classes[0])"
    for ahead, status, told in (("", 1, "needs plugins=[my_blur]"), ("import my_blur; ", 0, "T-shirt/top")):
        done = run_command(["-c", ahead + code], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
        assert done.returncode == status and told in done.stdout + done.stderr


@pytest.mark.slow(30)
def test_the_page_on_python_is_a_program_that_runs(tmp_path):
    lines = (ROOT / "docs" / "python.md").read_text().splitlines()
    code = [line[4:] for line in lines if line.startswith("    ") or not line]
    (tmp_path / "page.py").write_text("\n".join(code) + "\n")
    done = run_command(["page.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3349342 528359040" in done.stdout


@pytest.mark.slow(30)
def test_the_notebook_runs_and_is_one(tmp_path):
    notebook = json.loads((ROOT / "docs" / "examples" / "walkthrough.ipynb").read_text())
    assert notebook["nbformat"] == 4 and all(not cell.get("outputs") for cell in notebook["cells"])
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "notebook.py").write_text("\n".join(code) + "\nprint(len(compared.report['outcomes']))\n")
    done = run_command(["notebook.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3" and "These data do not show" in done.stdout


def test_the_python_on_trained_networks_runs(tmp_path):
    """The blocks of docs/using.md: asked about pictures, and by ONNX Runtime."""
    text = (ROOT / "docs" / "using.md").read_text()
    small = [*TINY, "train.epochs=1", "train.batch_size=16", "genotype=darts_v2", "hydra.run.dir=runs/final/RUN"]
    done = run_command([str(ROOT / "train_final.py"), *small], tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("a.png", "b.png"):
        Image.new("L", (40, 30), 90).save(tmp_path / name)
    done = run_command(["-c", block_after(text, "## In Python")], tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        done = run_command(["-m", "darts.export", "to=onnx", "hydra.run.dir=."], tmp_path)
        assert done.returncode == 0, done.stderr
        done = run_command(["-c", block_after(text, "With ONNX Runtime:")], tmp_path)
        assert done.returncode == 0 and "[[" in done.stdout, done.stderr


@pytest.mark.slow(60)
def test_pip_install_installs_a_package_that_works(tmp_path):
    """Into a folder of its own, with what is installed here beside it; used from elsewhere."""
    place = tmp_path / "installed"
    source = tmp_path / "source"  # building leaves folders behind
    ignored = shutil.ignore_patterns(".git", "__pycache__", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(place), str(source)]
    done = run_command(install, tmp_path, PIP_REQUIRE_VIRTUALENV="")
    assert done.returncode == 0, done.stderr
    where = {"PYTHONPATH": str(place)}
    code = "import darts; from darts.config.compose import CONF; print(darts.__file__, CONF)"
    assert str(place) in run_command(["-c", code], tmp_path, **where).stdout.split()[1]
    small = [*TINY, "search.batch_size=16", "search.epochs=1", "space.nodes=2", "hydra.run.dir=found"]
    done = run_command([str(place / "bin" / "darts-search"), *small], tmp_path, **where)
    assert done.returncode == 0, done.stderr
    done = run_command([str(place / "bin" / "darts-describe"), "genotype=found", "network.cells=3", "device=cpu",
                        "network.channels=4", "json=true", "space.nodes=2"], tmp_path, **where)  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["cells"] == 3, done.stderr
    assert sys.version_info >= (3, 11)
