"""The house's rules: who may import whom, how long things may be, and what stands nowhere."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = [
    ["interruption"],
    ["errors", "seeding"],
    ["files"],
    ["genotype", "settings", "mixture"],
    ["parallel"],
    ["lock", "synchronised"],
    ["published", "spaces", "depthwise", "modules", "bilevel"],
    [
        *("genotype_sources", "operations", "augmentation", "diagnostics", "nasbench201", "variation"),
        *("relaxation", "channels", "beside", "perturbation", "weight_rules"),
        *("schedule", "stopping", "discretisation"),
    ],
    ["supernet", "network", "cost", "datasets", "regularisers", "execution", "fused.folding", "blackbox.strategy"],
    ["method", "data", "constraints", "fused.maps", "blackbox.strategies", "blackbox.budget", "blackbox.generator"],
    ["commands", "training", "checkpoint", "fused.source", "blackbox.rungs", "blackbox.predictor"],
    ["config", "fused.supernet", "blackbox.exchange", "blackbox.proxies"],
    ["record"],
    ["plotting", "tracking", "blackbox.inherited"],
    ["progress"],
    ["search_state"],
    ["search_steps"],
    ["search_record"],
    ["search", "retrain", "blackbox.journal", "blackbox.pareto"],
    ["brief", "compare.statistics", "compare.searches", "benchmark.measure"],
    ["blackbox.evaluators", "compare.plan"],
    ["blackbox.search"],
    ["compare.trials", "benchmark.cases", "benchmark.scaling"],
    ["compare.report"],
    ["compare.tables", "compare.figures", "compare.checklist"],
    ["compare.page"],
    [
        "compare.__main__",
        "describe",
        "select",
        "tune",
        "correlate",
        "compare.__init__",
        "fused.__init__",
        "blackbox.__init__",
        "benchmark.__main__",
        "benchmark.processes",
        "benchmark.__init__",
        "__init__",
        "assets.make_fashion_mini",
    ],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted((ROOT / "darts").rglob("*.py"))
DOORS = [ROOT / "train_search.py", ROOT / "train_final.py"]
TOP = {
    *("README.md", "LICENSE", "requirements.txt", "requirements-dev.txt", "pyproject.toml", ".ci", ".gitignore"),
    *("conf", "darts", "docs", "tests", "train_search.py", "train_final.py"),
}
FORBIDDEN = {"eval", "exec", "instantiate", "compile", "__import__", "get_class", "get_object"}


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT / "darts").with_suffix("").parts)


def typing_only(tree: ast.Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING:` names types and imports nothing."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(tree: ast.Module) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in set(ast.walk(tree)) - typing_only(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "darts":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("darts.compare", "darts.blackbox"):
            found |= {f"{node.module.removeprefix('darts.')}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("darts."):
            found.add(node.module.removeprefix("darts."))
    return found


def test_nothing_else_lies_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = listed.stdout.splitlines()
    assert {Path(file).parts[0] for file in files} <= TOP
    assert len(files) < 500  # code, not data


def test_every_file_has_a_floor():
    assert {name_of(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_from_lower_floors_alone(file):
    for imported in imports(ast.parse(file.read_text())):
        assert FLOOR[imported] < FLOOR[name_of(file)], imported


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
    for name in ("search", "search_state", "search_steps", "search_record", "retrain"):
        tree = ast.parse((ROOT / "darts" / f"{name}.py").read_text())
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not strings & set(methods)


def test_the_search_story_is_an_hour_of_reading():
    story = ["search", "search_steps", "supernet", "operations", "relaxation", "bilevel", "discretisation", "spaces",
             "genotype"]  # fmt: skip
    texts = [(ROOT / "darts" / f"{name}.py").read_text() for name in story]
    lines = sum(text.split("\n# Variants\n")[0].count("\n") for text in texts)  # a newcomer stops there
    assert lines + (ROOT / "train_search.py").read_text().count("\n") < 1500


def test_the_readme_map_names_every_file():
    readme = (ROOT / "README.md").read_text()
    for file in FILES:
        if file.name != "__init__.py":
            assert f"{file.stem}.py" in readme or f"{file.parent.name}/{file.name}" in readme, file
