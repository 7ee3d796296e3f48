"""Several tasks under one alpha: each as it would be alone, the architecture by a weighted mean of their losses."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

import darts
from darts.blackbox import loop as blackbox
from darts.compare import several
from darts.config.identity import identity
from darts.config.implied import alone, implied_choices, task_names
from darts.loop.record import experiment, warn_of_other_data
from darts.models.batch_norm import frozen_statistics
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.search.settings import search_settings
from darts.search.step import bilevel_problem, loss_on
from darts.spaces.genotype import Genotype
from darts.spaces.published import published
from darts.tasks.several import SeveralTasks
from darts.tasks.several_settings import Weighting
from darts.tasks.task import Mean
from tests.conftest import ROOT, TINY_SEARCH, composed, configuration, run_command, some
from tests.faults.test_kills import Killed, kill_after
from tests.test_text import left
from tests.test_use import draw_pictures

IMAGES, SOUNDS = "fashion_mini", "spoken_digits_mini"
BOTH = f"tasks=[{IMAGES},{SOUNDS}]"
SMALL = [item for item in TINY_SEARCH if not item.startswith("dataset.")]
SIZES = {
    IMAGES: "dataset.members.fashion_mini.fraction=0.01",
    SOUNDS: "dataset.members.spoken_digits_mini.fraction=0.05",
}
TOGETHER = [*SMALL, BOTH, *SIZES.values()]


def on(task: str, *overrides: str):
    """The search on one task, by its own settings."""
    return composed("search", *SMALL, f"dataset={task}", *alone(task, [SIZES[task]]), *overrides)


def begun(settings, folder: Path):
    return search.start_or_resume(settings, folder)


# One task is that task.


@pytest.mark.parametrize(
    "own",
    some(
        [
            ["method=darts"],
            ["method=darts_second_order"],
            ["method=darts", "engine=reference"],
            ["method=gdas"],
            ["method=pc_darts", "network.channels=4"],
            ["method=sdarts_adv"],
            ["method=oles"],
            ["method=lambda_darts", "network.cells=4"],
            ["method=snas"],
        ],
        ["method=darts_second_order"],
        ["method=oles"],
        ["method=snas"],
    ),
    ids=lambda own: " ".join(own),
)
def test_one_task_of_several_equals_that_task_bit_for_bit(own, tmp_path):
    many = composed("search", *SMALL, f"tasks=[{IMAGES}]", SIZES[IMAGES], *own)
    found, expected = search.run(many, tmp_path / "several"), search.run(on(IMAGES, *own), tmp_path / "alone")
    assert found.cells == expected.cells
    lines, alone_lines = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("several", "alone")
    )
    for line, other in zip(lines, alone_lines, strict=True):
        named = {key: value for key, value in line.items() if f"/{IMAGES}/" not in key}
        assert named == other
        assert line[f"valid/{IMAGES}/accuracy"] == line["valid/accuracy"]
    several, single = (Checkpoints(tmp_path / name).load() for name in ("several", "alone"))
    assert all(torch.equal(several["alpha"][name], single["alpha"][name]) for name in single["alpha"])
    for name, tensor in single["supernet"].items():
        assert torch.equal(several["supernet"][f"supernets.0.{name}"], tensor), name


# Two tasks.


def double(state):
    state.supernet.double()
    state.alpha = {name: torch.nn.Parameter(matrix.detach().double()) for name, matrix in state.alpha.items()}
    return state


def batch_of(state):
    train, valid = next(state.data.train.shuffled_raw(0)), next(state.data.valid.shuffled_raw(0))
    return [as_double(split.prepared(raw)) for split, raw in ((state.data.train, train), (state.data.valid, valid))]


def as_double(batch):
    several = isinstance(batch.inputs, tuple)
    return batch._replace(inputs=tuple(x.double() for x in batch.inputs) if several else batch.inputs.double())


def gradient(state) -> torch.Tensor:
    """Alpha's gradient of the first batches, flat."""
    with frozen_statistics(state.supernet):
        own, _ = state.settings.method.hypergradient(bilevel_problem(state, *batch_of(state), search_steps.START, []))
    return torch.cat([part.flatten() for part in own])


@pytest.mark.parametrize(
    ("own", "tolerance"),
    [(["method=darts"], 1e-12), (["method=darts_second_order", "method.hypergradient.scale=1e-7"], 1e-4)],
    ids=["first order", "second order"],
)
def test_alphas_gradient_is_the_weighted_mean_of_the_tasks(own, tolerance, tmp_path):
    """The exact second order is too, for each network moves by its own loss; hence differences that are short."""
    own = [*own, "engine=reference"]
    both = double(begun(composed("search", *TOGETHER, *own, "dataset.weights=[3,1]"), tmp_path / "both"))
    found, parts = gradient(both), []
    for number, task in enumerate((IMAGES, SOUNDS)):
        single = double(begun(on(task, *own), tmp_path / task))
        single.supernet.load_state_dict(both.supernet.supernets[number].state_dict())
        with torch.no_grad():
            for name, matrix in single.alpha.items():
                matrix.copy_(both.alpha[name])
        parts.append(gradient(single))
    expected = 0.75 * parts[0] + 0.25 * parts[1]
    assert float((found - expected).norm() / expected.norm()) < tolerance
    assert float((found - parts[0]).norm() / parts[0].norm()) > 0.05


def test_each_network_learns_as_it_would_alone(tmp_path):
    """The weights' loss is the sum: the gradient of a network's weights is that of its own loss."""
    own = ["method=darts", "engine=reference"]
    both = double(begun(composed("search", *TOGETHER, *own), tmp_path / "both"))
    single = double(begun(on(SOUNDS, *own), tmp_path / "single"))
    single.supernet.load_state_dict(both.supernet.supernets[1].state_dict())
    with torch.no_grad():
        for name, matrix in single.alpha.items():
            matrix.copy_(both.alpha[name])
    of = {}
    for name, state in (("both", both), ("single", single)):
        weights = [weight.detach().requires_grad_() for weight in state.supernet.parameters()]
        loss = loss_on(state, batch_of(state)[0])(weights, list(state.alpha.values()))
        found = torch.autograd.grad(loss, weights, materialize_grads=True)
        of[name] = dict(zip([n for n, _ in state.supernet.named_parameters()], found, strict=True))
    for name, expected in of["single"].items():
        torch.testing.assert_close(of["both"][f"supernets.1.{name}"], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["reference", "fused"])
def test_shared_cells_are_the_same_weights_with_statistics_of_their_own(engine, tmp_path):
    own = [f"engine={engine}", "dataset.shared_cells=true"]
    state = double(begun(composed("search", *TOGETHER, *own), tmp_path / "shared"))
    apart = begun(composed("search", *TOGETHER, f"engine={engine}"), tmp_path / "apart")
    first, second = state.supernet.supernets
    assert all(a is b for a, b in zip(first.cells.parameters(), second.cells.parameters(), strict=True))
    assert first.classifier.weight is not second.classifier.weight and first.stem is not second.stem
    cells = sum(weight.numel() for weight in first.cells.parameters())
    count = {name: sum(w.numel() for w in s.supernet.parameters()) for name, s in (("shared", state), ("apart", apart))}
    assert count["apart"] - count["shared"] == cells > 0
    train, _ = batch_of(state)
    mixture = state.deterministic_mixture()
    losses = {}
    for task, inputs in enumerate(train.inputs):
        given = tuple(inputs if place == task else None for place in range(2))
        targets = tuple(train.targets[task] if place == task else None for place in range(2))
        with frozen_statistics(state.supernet):
            losses[task] = state.task.loss(state.supernet(given, mixture), targets)
    shared = next(weight for weight in first.cells.parameters() if weight.ndim >= 2)
    with frozen_statistics(state.supernet):
        together = state.task.loss(state.supernet(train.inputs, mixture), train.targets)
    (found,) = torch.autograd.grad(together, [shared])
    parts = [torch.autograd.grad(loss, [shared])[0] for loss in losses.values()]
    torch.testing.assert_close(found, parts[0] + parts[1], rtol=1e-9, atol=1e-12)
    before = [buffer.clone() for name, buffer in second.named_buffers() if name.endswith("running_mean")]
    state.supernet.train()
    state.supernet((train.inputs[0], None), mixture)
    after = [buffer for name, buffer in second.named_buffers() if name.endswith("running_mean")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_shared_cells_are_searched_and_resumed(tmp_path):
    own = ["dataset.shared_cells=true", "search.epochs=1"]
    settings = composed("search", *TOGETHER, *own)
    assert search.run(settings, tmp_path).cells
    state = begun(composed("search", *TOGETHER, *own), tmp_path)
    first, second = state.supernet.supernets
    for name, tensor in first.cells.state_dict().items():
        if not name.rsplit(".", 1)[-1].startswith(("running", "num_batches", "mean", "variance")):
            torch.testing.assert_close(tensor, second.cells.state_dict()[name], rtol=0, atol=0)


# Weights by relative progress.


def line(**losses: float):
    return {f"valid/{name}/loss": loss for name, loss in losses.items()}


def test_tasks_are_weighed_by_relative_progress():
    """Equation 7 of Liu, Johns and Davison (2019) by hand: exp(r_k / 2) over their sum, times the given weights."""
    task = SeveralTasks(["a", "b"], [0.5, 0.5], Weighting.RELATIVE_PROGRESS)
    for history in ([], [line(a=2.0, b=1.0)]):
        task.prepare_epoch(history)
        assert task.weights == [0.5, 0.5]
    task.prepare_epoch([line(a=9.0, b=9.0), line(a=2.0, b=1.0), line(a=1.0, b=0.9)])
    raised = math.exp(0.5 / 2), math.exp(0.9 / 2)
    assert task.weights == pytest.approx([raised[0] / sum(raised), raised[1] / sum(raised)])
    assert task.fixed_weights == [0.5, 0.5]
    weighed = SeveralTasks(["a", "b"], [0.75, 0.25], Weighting.RELATIVE_PROGRESS)
    weighed.prepare_epoch([line(a=1.0, b=1.0), line(a=1.0, b=1.0)])
    assert weighed.weights == pytest.approx([0.75, 0.25])
    fixed = SeveralTasks(["a", "b"], [0.75, 0.25], Weighting.FIXED)
    fixed.prepare_epoch([line(a=2.0, b=1.0), line(a=1.0, b=0.9)])
    assert fixed.weights == [0.75, 0.25]


@pytest.mark.parametrize("steps", some([4, 9], 9))
def test_a_search_killed_resumes_bit_for_bit_with_its_weights(steps, tmp_path):
    settings = composed("search", *TOGETHER, "dataset.weighting=RELATIVE_PROGRESS", "checkpoint.minutes=1e-9")
    search.run(settings, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", steps)
        search.run(settings, tmp_path / "again")
    search.run(settings, tmp_path / "again")
    assert left(tmp_path / "again") == left(tmp_path / "whole")
    history = [json.loads(own) for own in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    task = SeveralTasks([IMAGES, SOUNDS], [0.5, 0.5], Weighting.RELATIVE_PROGRESS)
    task.prepare_epoch(history[:-1])
    last, names = history[-1], (IMAGES, SOUNDS)
    assert task.weights != [0.5, 0.5]
    expected = sum(weight * last[f"valid/{name}/loss"] for weight, name in zip(task.weights, names, strict=True))
    assert last["valid/loss"] == pytest.approx(expected, rel=1e-12)
    mean = (last[f"valid/{IMAGES}/accuracy"] + last[f"valid/{SOUNDS}/accuracy"]) / 2
    assert last["valid/accuracy"] == pytest.approx(mean)


# Batches.


def test_smaller_sets_begin_again_and_every_example_is_evaluated_once(tmp_path):
    state = begun(composed("search", *TOGETHER), tmp_path)
    sizes = {name: len(data.valid.indices) for name, data in state.data.members.items()}
    assert sizes == {IMAGES: 50, SOUNDS: 50} or sizes[IMAGES] != sizes[SOUNDS]
    assert state.data.train.steps(0) == max(len(data.train) for data in state.data.members.values())
    seen: Counter[int] = Counter()
    for batch in state.data.evaluation():
        for place, targets in enumerate(batch.targets):
            seen[place] += 0 if targets is None else len(targets)
    assert seen == dict(enumerate(sizes.values()))


def test_a_task_without_examples_in_a_batch_has_no_part_in_it():
    task = SeveralTasks(["a", "b"], [0.5, 0.5], Weighting.FIXED)
    logits, labels = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    found = task.evaluated((logits, None), (labels, None))
    assert set(found) == {"a/loss", "a/accuracy"} and found["a/accuracy"] == Mean(torch.tensor(1), 1)
    assert float(task.loss((logits, None), (labels, None))) == pytest.approx(math.log(1 + math.exp(-2)))
    completed = task.completed({"train/a/accuracy": 0.5, "train/b/accuracy": 1.0, "a/loss": 1.0, "b/loss": 3.0})
    assert completed["train/accuracy"] == 0.75 and completed["loss"] == 2.0 and "accuracy" not in completed
    similar = SeveralTasks(["mini", "fashion_mini"], [0.5, 0.5], Weighting.FIXED)
    assert similar.completed({"fashion_mini/loss": 1.0, "mini/loss": 2.0})["loss"] == 1.5


# Black-box searches.


def test_a_score_is_the_weighted_mean_of_the_tasks_scores(tmp_path):
    sizes = ["evaluator.network.channels=2", "evaluator.network.cells=3", "evaluator.train.epochs=1"]
    own = [*sizes, "evaluator.train.batch_size=16", "method=random", "budget.evaluations=2", "seed=5"]
    black = [item for item in SMALL if not item.startswith(("network.", "search.epochs"))]
    both = composed("search", *black, BOTH, *SIZES.values(), *own, "dataset.weights=[3,1]")
    blackbox.run(both, tmp_path / "both")
    lines = [json.loads(own) for own in (tmp_path / "both" / "history.jsonl").read_text().splitlines()]
    for task in (IMAGES, SOUNDS):
        single = composed("search", *black, f"dataset={task}", *alone(task, [SIZES[task]]), *own)
        blackbox.run(single, tmp_path / task)
        alone_lines = [json.loads(own) for own in (tmp_path / task / "history.jsonl").read_text().splitlines()]
        assert [own["score"] for own in alone_lines] == [own[f"{task}/accuracy"] for own in lines]
        assert [own["cells"] for own in alone_lines] == [own["cells"] for own in lines]
    for own in lines:
        assert own["score"] == pytest.approx(0.75 * own[f"{IMAGES}/accuracy"] + 0.25 * own[f"{SOUNDS}/accuracy"])


# Settings.


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (["tasks=[fashion_mini,fashion_mini]"], "the tasks must have different names"),
        (["tasks=[fashion_mini,bible]"], "tasks is 'bible "),
        (["tasks=['a b:fashion_mini',bible]"], "is no name of letters"),
        ([BOTH, "dataset.weights=[1]"], "dataset.weights"),
        ([BOTH, "dataset.weights=[1,-1]"], "dataset.weights"),
        ([BOTH, "graphs=true"], "graphs"),
        ([BOTH, "constraints.parameters=1000"], "constraints"),
        ([BOTH, "method=random", "evaluator=zero_cost"], "evaluator"),
        ([BOTH, "dataset=fashion_mini"], "tasks is"),
        (["dataset=several"], "a search takes several by tasks="),
    ],
)
def test_what_several_tasks_cannot_do_is_refused(own, told, tmp_path):
    done = run_command(["train_search.py", *own, "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"], ROOT)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_one_data_set_may_be_two_tasks_under_names_of_its_own(tmp_path):
    assert task_names(["fashion_mini", "birds:image_folder"]) == {
        "fashion_mini": "fashion_mini",
        "birds": "image_folder",
    }
    tasks = "tasks=[old:fashion_mini,new:fashion_mini]"
    settings = composed(
        "search", *SMALL, tasks, "dataset.members.old.fraction=0.01", "dataset.members.new.fraction=0.02"
    )
    assert settings.dataset.name == "old+new"
    assert [part.fraction for part in settings.dataset.parts().values()] == [0.01, 0.02]


def test_a_fraction_is_of_every_task():
    settings = composed("search", *SMALL, BOTH, *SIZES.values(), "dataset.fraction=0.5")
    assert [part.fraction for part in settings.dataset.parts().values()] == [0.005, 0.025]


def test_folders_of_tasks_are_no_identity_and_their_content_is(tmp_path):
    settings = composed("search", *TOGETHER)
    known = identity(settings)
    assert not any(key.endswith((".root", ".cache")) for key in known)
    other = experiment(
        composed("search", *SMALL, BOTH, SIZES[IMAGES], "dataset.members.spoken_digits_mini.fraction=0.1")
    )
    own = experiment(settings)
    assert own["dataset.content"] == other["dataset.content"]
    swapped = experiment(composed("search", *SMALL, f"tasks=[{SOUNDS},{IMAGES}]", *SIZES.values()))
    assert swapped["dataset.content"] != own["dataset.content"]


def test_what_follows_from_tasks_is_typed_once():
    typed = [BOTH]
    following = implied_choices("search", typed)
    assert following[0] == "dataset=several" and len(following) == 3
    assert implied_choices("search", [*typed, *following]) == []  # as a resumed run has it
    config = configuration("search", *SMALL, BOTH)
    assert search_settings(config, [*typed, *following]).dataset.name == f"{IMAGES}+{SOUNDS}"


def test_a_search_ends_with_a_command_for_each_task(tmp_path):
    own = [*TOGETHER, "search.epochs=1", "logger=none", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run_command(["train_search.py", *own], ROOT)
    assert done.returncode == 0, done.stderr
    following = [line for line in done.stdout.splitlines() if line.startswith("next:")]
    assert [f"dataset={task}" in line for line, task in zip(following, (IMAGES, SOUNDS), strict=True)] == [True, True]
    assert "dataset.fraction=0.01" in following[0] and "dataset.fraction=0.05" in following[1]
    assert "several" not in done.stdout.partition("next:")[2] and "(fashion_mini " in done.stdout
    command = shlex.split(following[1].removeprefix("next:"))[1:]
    sizes = ["network.channels=2", "network.cells=3", "train.epochs=1", "train.batch_size=16"]
    again = run_command([*command, *sizes, "logger=none", f"hydra.run.dir={tmp_path / 'final'}"], ROOT)
    assert again.returncode == 0, again.stderr
    assert "was found on" not in again.stdout + again.stderr


def test_a_retraining_takes_one_task(tmp_path):
    done = run_command([str(ROOT / "train_final.py"), "genotype=darts_v2", "dataset=several"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: dataset is 'several'; it must be one data set;")


# Comparisons.


@pytest.mark.slow(120)
def test_a_comparison_says_what_a_cell_of_each_task_reaches_on_each(tmp_path):
    sizes = ["network.channels=2", "network.cells=3", "train.epochs=1", "train.batch_size=16", "dataset.fraction=0.02"]
    searches = ["+searches.search.batch_size=16", "+searches.search.epochs=1", "+searches.network.channels=2"]
    searches += ["+searches.evaluator.train.epochs=1", "+searches.evaluator.train.batch_size=16", "budget.epochs=2"]
    own = [BOTH, "methods=[darts]", "seeds=[0,1]", "random.samples=2", "allow_underpowered=true", "device=cpu"]
    command = ["-m", "darts.compare", *own, *sizes, *searches, "logger=none", f"hydra.run.dir={tmp_path / 'out'}"]
    planned = run_command([*command, "plan=true"], ROOT)
    assert planned.returncode == 0 and f"on {IMAGES}:" in planned.stdout and f"on {SOUNDS}:" in planned.stdout
    done = run_command(command, ROOT, timeout=1200)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert len(list((out / "searches").iterdir())) == 2 * (3 + 2)  # on each and on both; random search on each
    rows = json.loads((out / "tasks.json").read_text())
    assert {(row["searched on"], row["retrained on"]) for row in rows} == {
        (source, target) for source in (IMAGES, SOUNDS, f"{IMAGES}+{SOUNDS}") for target in (IMAGES, SOUNDS)
    }
    for row in rows:
        report = json.loads((out / f"on_{row['retrained on']}" / "report.json").read_text())
        means = {group["name"]: group["mean"] for group in report["groups"]}
        own_groups = {name: mean for name, mean in means.items() if name.startswith("darts ")}
        assert row["mean accuracy"] in own_groups.values() and len(own_groups) == 3
        assert len({outcome["genotype"] for outcome in report["outcomes"] if outcome["group"] in own_groups}) >= 2
    again = run_command(command, ROOT)
    assert again.returncode == 0 and "epoch 1/1" not in again.stdout


def test_a_comparison_over_tasks_is_not_taken_for_one_task_from_python():
    with pytest.raises(UserError, match=r"tasks: a comparison over several tasks is run by python -m darts\.compare"):
        darts.run_comparison(BOTH, "methods=[darts]")


def test_the_summary_of_another_comparison_in_the_folder_is_kept(tmp_path):
    def row(method: str, mean: float) -> dict[str, object]:
        return {"method": method, "searched on": "a", "retrained on": "b", "cells": 2, "mean accuracy": mean}

    for name in ("tasks.json", "tasks.md"):
        (tmp_path / name).write_text(json.dumps([row("darts", 90.0)]))
    several.keep_earlier_summary(tmp_path, [row("darts", 91.0)])  # the same comparison once more
    assert not (tmp_path / "earlier").exists()
    several.keep_earlier_summary(tmp_path, [row("gdas", 90.0)])
    (kept,) = (tmp_path / "earlier").iterdir()
    assert {path.name for path in kept.iterdir()} == {"tasks.json", "tasks.md"}
    assert not (tmp_path / "tasks.json").exists()


def test_a_comparison_over_tasks_has_a_folder_of_their_names():
    *members, folder = implied_choices("compare", [BOTH])
    assert folder == f"hydra.run.dir='${{runs}}/compare/{IMAGES}+{SOUNDS}'"
    assert members == implied_choices("search", [BOTH])
    assert implied_choices("compare", ["tasks=[]"]) == []


def test_a_comparison_takes_settings_of_each_tasks_data(tmp_path):
    """Own folders, of which neither is the default; batches that do not fit are told before any search."""
    draw_pictures(tmp_path / "a", training=6)
    draw_pictures(tmp_path / "b", training=6)
    own = ["tasks=[a:image_folder,b:image_folder]", "methods=[darts]", "seeds=[0]", "random.samples=2"]
    own += [f"dataset.members.{task}.root={tmp_path / task}" for task in "ab"]
    own += [f"dataset.members.{task}.image_size=16" for task in "ab"]
    own += ["random.search=false", "allow_underpowered=true", "device=cpu", f"runs={tmp_path / 'runs'}"]
    planned = run_command(["-m", "darts.compare", *own, "plan=true"], ROOT)
    assert planned.returncode == 0, planned.stderr
    for task in "ab":
        assert f"darts dataset=image_folder dataset.root={tmp_path / task} dataset.image_size=16" in planned.stdout
    alike = [
        "tasks=[a:image_folder,b:image_folder]",
        "dataset.members.a.root=nowhere",
        f"dataset.members.b.root={tmp_path}",
    ]
    lacking = run_command([str(ROOT / "train_search.py"), *alike], tmp_path)
    assert lacking.returncode == 2 and "error: task a: dataset.root" in lacking.stderr, lacking.stderr
    beside = run_command(["-m", "darts.compare", *own, "dataset=cifar10"], ROOT)
    assert beside.returncode == 2 and "it must be given without dataset= beside it" in beside.stderr
    unfit = run_command(["-m", "darts.compare", *own, "+searches.search.batch_size=4"], ROOT)
    assert unfit.returncode == 2 and "train.batch_size is 64; it must be at most 18" in unfit.stderr, unfit.stderr
    assert not list((tmp_path / "runs").rglob("searches"))


def test_the_fraction_of_a_task_is_the_product_of_both():
    typed = ["tasks=[a:image_folder,b:image_folder]", "dataset.fraction=0.5", "dataset.members.a.fraction=0.5"]
    assert [item for item in alone("a", typed) if "fraction" in item] == ["dataset.fraction=0.25"]
    assert [item for item in alone("b", typed) if "fraction" in item] == ["dataset.fraction=0.5"]


def test_a_cell_of_tasks_with_names_of_their_own_is_known_by_their_data(caplog):
    settings = composed("final", "dataset=fashion_mini", "genotype=darts_v1")
    known = {"dataset": "a+b", "datasets": {"a": "fashion_mini", "b": "x"}}
    found = Genotype("darts", published("darts_v1").cells, known)
    warn_of_other_data("the cell", found, settings)
    assert not caplog.records
    other = Genotype("darts", found.cells, {"dataset": "a+b", "datasets": {"a": "x", "b": "x"}})
    warn_of_other_data("the cell", other, settings)
    assert "the cell was found on a+b, and dataset is fashion_mini" in caplog.text


def test_methods_are_needed_for_a_comparison_over_tasks(tmp_path):
    done = run_command(["-m", "darts.compare", BOTH, f"hydra.run.dir={tmp_path / 'out'}"], ROOT)
    assert done.returncode == 2 and "methods is []" in done.stderr, done.stderr


# Several processes.


@pytest.mark.slow(60)
def test_two_processes_take_the_steps_of_one(tmp_path):
    own = [*TOGETHER, "search.epochs=1", "search.batch_size=10", "logger=none"]
    one = run_command(["train_search.py", *own, f"hydra.run.dir={tmp_path / 'one'}"], ROOT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train_search.py"]
    two = run_command([*launch, *own, f"hydra.run.dir={tmp_path / 'two'}"], ROOT)
    assert one.returncode == two.returncode == 0, two.stderr
    first, second = (Checkpoints(tmp_path / name).load() for name in ("one", "two"))
    for name, matrix in first["alpha"].items():
        torch.testing.assert_close(second["alpha"][name], matrix, rtol=1e-3, atol=1e-4)
