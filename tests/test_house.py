"""The house's rules: who may import whom, how long things may be, and what stands nowhere."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from darts.config.compose import CONF
from darts.config.implied import implied_choices
from tests.conftest import ROOT, TINY_SEARCH, configuration

FILES = sorted((ROOT / "darts").rglob("*.py"))
DOORS = [ROOT / "train_search.py", ROOT / "train_final.py"]
LAYERS = [
    *("api", "benchmark", "blackbox", "compare", "config", "loop", "methods", "models", "runtime", "search", "spaces"),
    *("tasks", "train", "use"),
]
TOP = {
    *("README.md", "LICENSE", "requirements.txt", "requirements-dev.txt"),
    *("requirements-export.txt", "requirements-trackers.txt"),
    *("pyproject.toml", ".ci", ".gitignore"),
    *("conf", "darts", "docs", "tests", "train_search.py", "train_final.py"),
    *("CONTRIBUTING.md", "CITATION.cff", "CHANGELOG.md"),
}
FORBIDDEN = {"eval", "exec", "instantiate", "compile", "__import__", "get_class", "get_object"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT / "darts").with_suffix("").parts)


def test_nothing_else_lies_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = listed.stdout.splitlines()
    assert {Path(file).parts[0] for file in files} <= TOP
    assert len(files) < 700  # code, not data


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=gdas", *TINY_SEARCH, "method/relaxation=softmax", "method.regularisers={}"],
        ["tasks=[fashion_mini,spoken_digits_mini]", "dataset.members.fashion_mini.fraction=0.1"],
        ["space=recurrent", "search.epochs=2", "+constraints.unknown=1"],
        ["experiment=quick", "++seed=3"],
        ["evaluator.path=x", "method=random"],
        ["+seed=1"],
    ],
)
def test_what_the_tests_compose_in_two_parts_is_what_hydra_composes(overrides):
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            expected = compose("search", [*overrides, *implied_choices("search", overrides)])
    except ConfigCompositionException as error:
        with pytest.raises(ConfigCompositionException, match=re.escape(str(error))):
            configuration("search", *overrides)
        return
    assert OmegaConf.to_yaml(configuration("search", *overrides)) == OmegaConf.to_yaml(expected)


def test_a_layer_imports_only_from_the_layers_below_it():
    """The contract in pyproject.toml; it is exhaustive, so that a new folder must be given its place."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_a_layer_says_what_it_is_what_it_may_import_and_what_is_public():
    for folder in LAYERS:
        text = ast.get_docstring(ast.parse((ROOT / "darts" / folder / "__init__.py").read_text()))
        assert "Imports from" in text and "Public:" in text and len(text.splitlines()) <= 10, folder


def test_every_layer_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent for file in (ROOT / "darts").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(listed) == names | {"darts.conf"}


def test_the_top_of_the_package_holds_only_commands():
    for file in (ROOT / "darts").glob("*.py"):
        assert file.name == "__init__.py" or "@cli_command(" in file.read_text(), file
    assert {path.name for path in (ROOT / "darts").iterdir() if path.is_dir()} - {"__pycache__"} == {*LAYERS, "assets"}


@pytest.mark.parametrize("file", [*FILES, *DOORS], ids=str)
def test_files_and_functions_are_short_and_documented(file):
    text = file.read_text()
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, node.name


def public_names(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    inner for inner in node.body
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and inner.name != "forward"
                )  # fmt: skip


TREES = {file: ast.parse(file.read_text()) for file in FILES}
DOCUMENTED = {node.name for tree in TREES.values() for node in public_names(tree) if ast.get_docstring(node)}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_public_names_have_a_docstring(file):
    for node in public_names(TREES[file]):
        inherits = isinstance(node, ast.FunctionDef) and node.name in DOCUMENTED  # a base class says what it does
        assert ast.get_docstring(node) or inherits, node.name


@pytest.mark.parametrize("file", [*FILES, *DOORS], ids=str)
def test_nothing_names_code_to_run_or_loads_pickles(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            builtin = isinstance(node.func, ast.Name)
            assert not (called in FORBIDDEN and (builtin or called not in ("eval", "compile")))
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if called == "load" and isinstance(owner, ast.Name) and owner.id == "torch":
                assert any(k.arg == "weights_only" and k.value.value is True for k in node.keywords)
            assert not any(k.arg == "shell" for k in node.keywords)
            assert not (called in ("load", "loads") and isinstance(owner, ast.Name) and owner.id in ("pickle", "yaml"))
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None


def test_the_loops_know_no_method():
    methods = [file.stem for file in (ROOT / "conf" / "method").glob("*.yaml")]
    for folder in ("search", "train", "loop"):
        for file in (ROOT / "darts" / folder).glob("*.py"):
            if file.name == "plotting.py":
                continue  # it labels what it draws
            strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
            assert not strings & set(methods), file


def test_parts_of_a_method_call_no_collective():
    """The loop sums over processes; a part gets what it needs in total from its problem."""
    for file in (ROOT / "darts" / "methods").glob("*.py"):
        text = file.read_text()
        assert "runtime.distributed" not in text and "runtime.reduction" not in text, file
        assert "torch.distributed" not in text, file


RETIRED = {
    *("said", "gathered", "summed", "add_up", "heard", "slope", "slopes", "settled", "heeded", "door", "go_on"),
    *("checkpoint_cells", "weight_share", "weight_rule", "weight_rules", "alpha_terms", "short_training"),
    *("shares", "to_plain", "from_plain", "take_momentum", "plain_twin", "floors", "ere", "anew", "figures"),
    *("WeightRule", "AlphaTerm", "ShortTraining", "Beside", "Nothing", "Paths", "beside", "truth", "totals"),
}
ALLOWED = {("figures", "compare"), ("slope", "benchmark")}  # pictures; the slope of a fitted line


@pytest.mark.parametrize("file", [*FILES, *DOORS], ids=str)
def test_no_identifier_is_a_retired_word(file):
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.NAME and token.string in RETIRED:
            found.add(token.string)
    allowed = {word for word, folder in ALLOWED if folder in file.parts}
    assert found <= allowed, f"{file}: see the words in CONTRIBUTING.md"


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
CORE = ("search", "methods", "models", "loop", "train", "tasks", "spaces", "runtime", "config")


def test_the_core_has_few_comprehensions():
    """At most 3.5 in 100 lines of the layers that search and train."""
    count = lines = 0
    for folder in ("search", "methods", "models", "loop", "train", "tasks", "spaces"):
        for file in (ROOT / "darts" / folder).rglob("*.py"):
            text = file.read_text()
            count += sum(isinstance(node, COMPREHENSIONS) for node in ast.walk(ast.parse(text)))
            lines += text.count("\n")
    assert count <= 0.035 * lines


@pytest.mark.parametrize("folder", CORE)
def test_a_line_says_one_thing(folder):
    """No comprehension within a comprehension, no conditional and no assignment within the arguments of a call."""
    for file in (ROOT / "darts" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, COMPREHENSIONS):
                inner = [other for other in ast.walk(node) if other is not node and isinstance(other, COMPREHENSIONS)]
                assert not inner, f"{file}:{node.lineno}"
            if isinstance(node, ast.Call):
                for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                    assert not isinstance(argument, ast.IfExp | ast.NamedExpr), f"{file}:{node.lineno}"
