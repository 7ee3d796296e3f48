"""The pages: their links lead somewhere, their examples run, their commands' settings exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import textwrap

import pytest

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
    small = code.replace('"dataset.fraction=0.05"', ", ".join(f'"{item}"' for item in [*TINY, "network.channels=4"]))
    (tmp_path / "example.py").write_text(
        small.replace('"search.epochs=1"', '"search.epochs=1", "search.batch_size=16"')
    )
    done = run_command(["example.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "search" / "from_python" / "genotype.json").exists()


def test_the_readmes_commands_compose(tmp_path):
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (python (?:train_\w+\.py|-m darts\.\w+)[^#\n]*)", text, flags=re.M)
    assert len(commands) >= 8
    (tmp_path / "PICTURES").mkdir()
    for command in commands:
        words = [word if not word.endswith(".py") else str(ROOT / word) for word in shlex.split(command)[1:]]
        done = run_command([*words, "--cfg", "job"], tmp_path)
        assert done.returncode == 0, (command, done.stderr)


def test_the_example_of_ones_own_operation_and_relaxation_runs(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    (tmp_path / "my_blur.py").write_text(block_after(text, "`my_blur.py`:"))
    commands = block_after(text, "With the folder of `my_blur.py` on PYTHONPATH:").splitlines()
    small = [*TINY, "search.batch_size=16", "search.epochs=1", "space.nodes=2"]
    search = shlex.split(commands[0])[2:]
    path = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = run_command([str(ROOT / "train_search.py"), *search, *small], tmp_path, **path)
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "runs").rglob("genotype.json")
    genotype = json.loads(found.read_text())
    used = {name for cell in genotype["cells"].values() for node in cell["nodes"] for name, _ in node}
    assert ("plugins" in genotype) == ("blur" in used)
    space = next(word for word in search if word.startswith("space.candidates"))
    done = run_command(["-m", "darts.describe", "plugins=[my_blur]", "network.cells=3", "network.channels=4",
                        "device=cpu", "json=true", space, "space.nodes=2"], tmp_path, **path)  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["space"] == "darts", done.stderr


@pytest.mark.slow(30)
def test_the_page_on_python_is_a_program_that_runs(tmp_path):
    lines = (ROOT / "docs" / "python.md").read_text().splitlines()
    code = [line[4:] for line in lines if line.startswith("    ") or not line]
    (tmp_path / "page.py").write_text("\n".join(code) + "\n")
    done = run_command(["page.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3349342 528359040" in done.stdout


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
