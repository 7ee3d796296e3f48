"""Every file of conf/method: it composes, searches, resumes bit for bit, and is the same in both engines."""

from __future__ import annotations

import json

import pytest
import torch

from darts.config.identity import identity
from darts.models.mixture import Moment
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.search.settings import SearchSettings
from tests.conftest import (
    GRADIENT_METHODS,
    METHOD_FILES,
    ROOT,
    TINY,
    TINY_SCORES,
    TINY_SEARCH,
    composed,
    configuration,
    run_command,
    some,
)
from tests.faults.leavings import left
from tests.faults.test_kills import Killed, kill_after
from tests.test_text import PUBLISHED as PUBLISHED_ON_TEXTS

ALL = [file.stem for file in METHOD_FILES]
WIDE = ["network.channels=24", "network.cells=4"]  # what every method can use
SPACES = sorted({file.stem for file in (ROOT / "conf" / "space").glob("*.yaml")} - {"recurrent"})  # those of images
SHORT = {  # what a search of three epochs needs changed
    "sgas": ["method.schedule.first=1", "method.schedule.interval=1"],
    "darts_pt": ["method.schedule.interval=1", "search.epochs=1"],
    "darts_pt_fixed": ["method.schedule.interval=1", "search.epochs=1"],
    "p_darts": ["method.schedule.more_cells=[0,1,2]", "method.schedule.candidates=[3,2]"],
    "drnas_progressive": ["network.channels=12", "method.schedule.candidates=[2]", "search.epochs=2"],
    "pc_darts": ["network.channels=4"],
    "darts_es": [
        "method.stopping.first=0",
        "method.stopping.every=1",
        "method.stopping.window=1",
        "method.stopping.back=1",
    ],
    "random_weight_sharing": ["method.schedule.samples=6", "method.schedule.batches=1", "method.schedule.finalists=2"],
    "lambda_darts": ["network.cells=4"],
    "oles": ["method.weight_gradient.steps=2"],
}


MIDDLE = Moment(0.5, 1, 3)


def tiny(method: str, *overrides: str):
    return composed("search", *TINY_SEARCH, f"method={method}", *SHORT.get(method, []), *overrides)


@pytest.mark.parametrize(
    "method", some(GRADIENT_METHODS, "darts_second_order", "p_darts", "oles", "sgas", "random_weight_sharing", "gdas")
)
def test_a_search_killed_on_its_way_ends_as_the_uninterrupted_one(method, tmp_path):
    search.run(tiny(method), tmp_path / "whole")
    settings = tiny(method, "checkpoint.minutes=1e-9")
    for steps in (2, 5):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, search_steps, "joint_step" if method == "snas" else "weight_step", steps)
            search.run(settings, tmp_path / "killed")
    search.run(settings, tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")


@pytest.mark.parametrize(
    "method",
    some(GRADIENT_METHODS, "darts", "darts_second_order", "pc_darts", "p_darts", "sdarts_adv", "drnas", "oles", "gdas"),
)
def test_both_engines_take_the_same_steps(method, tmp_path):
    # Dropped values are drawn in the order of computation, which the engines do not share.
    quiet = ["method.edge_extras.rates=[0]"] if method == "p_darts" else []
    found = []
    for engine in ("reference", "fused"):
        settings = tiny(method, f"engine={engine}", *quiet, "weight_optimiser.learning_rate=1e-3")
        state = search.start_or_resume(settings, tmp_path / engine)
        state.supernet.double()
        for matrix in state.alpha.values():
            matrix.data = matrix.data.double()
        batches = zip(state.data.train.shuffled(0), state.data.valid.shuffled(0), strict=True)
        for step, pair in enumerate(batches):
            state.step = step
            train, valid = (batch._replace(inputs=batch.inputs.double()) for batch in pair)
            if method == "snas":
                search_steps.joint_step(state, train, MIDDLE)
                continue
            if state.stage.alpha_frozen_fraction < 1:
                search_steps.architecture_step(state, train, valid, MIDDLE)
            search_steps.weight_step(state, train, valid, MIDDLE)
        weights = state.supernet.to_reference(state.supernet.state_dict())
        found.append({**weights, **{f"alpha {name}": matrix.detach() for name, matrix in state.alpha.items()}})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("method", ALL)
def test_it_names_its_paper_and_itself(method):
    text = (ROOT / "conf" / "method" / f"{method}.yaml").read_text()
    settings = composed("search", f"method={method}", *WIDE)
    assert text.startswith("# ") and settings.method.name == method
    assert isinstance(settings, SearchSettings) == (method in GRADIENT_METHODS)


@pytest.mark.exhaustive
@pytest.mark.slow(140)
def test_every_method_searches_the_bundled_images_from_the_command_line(tmp_path):
    """As a user would compare them: one command, a job a method; those that add epochs are told to add few."""
    own = {name: settings for name, settings in SHORT.items() if any("method." in item for item in settings)}
    wide = ["network.channels=12", "network.cells=4", "network.stem_reductions=2"]
    scored = ["budget.evaluations=2", "evaluator.network.channels=2", "evaluator.train.epochs=1",
              "evaluator.train.batch_size=16"]  # fmt: skip
    of_two_aims = ["method=nsga2", "evaluator=multi_objective", "evaluator.targets.parameters=1000", *(
        item.replace("evaluator.", "evaluator.accuracy.") if "train" in item else item for item in scored
    )]  # fmt: skip
    strategies = [name for name in ALL if name not in (*GRADIENT_METHODS, "nsga2")]
    by_gradients = ",".join(name for name in GRADIENT_METHODS if name not in own)
    jobs = [
        [f"method={','.join(strategies)}", *scored],
        of_two_aims,
        [f"method={by_gradients}", *wide, "search.epochs=2"],
    ]
    jobs += [[f"method={name}", *wide, "search.epochs=3", *settings] for name, settings in own.items()]
    for number, job in enumerate(jobs):
        place = [f"hydra.sweep.dir=sweep{number}", "hydra.sweep.subdir=${method.name}", "logger=none"]
        done = run_command([str(ROOT / "train_search.py"), "-m", *TINY_SCORES, *job, *place], tmp_path)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = [json.loads(file.read_text()) for file in tmp_path.glob("sweep*/*/genotype.json")]
    assert sorted(genotype["provenance"]["method"] for genotype in found) == ALL


def test_every_space_is_searched_from_the_command_line(tmp_path):
    place = ["logger=none", "hydra.sweep.dir=searches", "hydra.sweep.subdir=${space.name}"]
    sized = {space for space in SPACES if space.startswith(("single_cell", "mobile", "nasbench_macro"))}
    own = [item for item in TINY if not item.startswith(("network.cells", "network.stem"))]
    for names, size in ((set(SPACES) - sized, TINY), (sized, [*own, "network.stem_reductions=0"])):
        spaces = f"space={','.join(sorted(names))}"
        done = run_command(
            [str(ROOT / "train_search.py"), "-m", *size, "search.epochs=1", "search.batch_size=16", spaces, *place],
            tmp_path,
        )
        assert done.returncode == 0, done.stderr
        for space in names:
            found = json.loads((tmp_path / "searches" / space / "genotype.json").read_text())
            assert found["space"] == space
        done = run_command(
            [str(ROOT / "train_final.py"), "-m", *size, "train.epochs=1", "train.batch_size=32", spaces,
             "logger=none", "genotype=searches/${space.name}", "hydra.sweep.dir=finals",
             "hydra.sweep.subdir=${space.name}"], tmp_path
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("finals/*/result.json"))) == len(SPACES)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=gdas", "method/perturbation=random_smoothing"], "computes the sampled ones only"),
        (["method=oles", "method/hypergradient=finite_difference"], "give method/hypergradient=first_order"),
        (["method=gdas", "method/weight_gradient=layer_alignment"], "give method/weight_gradient=training_loss"),
        (["method=proxyless", "method/hypergradient=finite_difference"], "give method/hypergradient=first_order"),
        (["method=darts_pt", "method/stopping=eigenvalue_growth"], "give method/stopping=last_epoch"),
        (["method=pc_darts", "network.channels=6"], "network.channels is 6; it must be a multiple of 4"),
        (["method=lambda_darts", "network.cells=3"], "network.cells is 3; it must be at least 4"),
        (["method=darts_minus", "space=s4"], "space.candidates .* with skip_connect"),
    ],
)
def test_a_combination_without_sense_is_refused_with_a_reason(overrides, message):
    with pytest.raises(UserError, match=message):
        composed("search", *overrides)


def test_parts_combine_where_that_makes_sense(tmp_path):
    overrides = ["method/channels=partial_channels", "network.channels=4", "method/perturbation=random_smoothing"]
    settings = tiny("drnas", *overrides)
    assert {"method.channels.part", "method.perturbation.part"} <= identity(settings).keys()
    assert search.run(settings, tmp_path).cells.keys() == {"normal", "reduction"}


def test_the_method_of_the_reader_is_plain_darts():
    assert composed("search").method.name == "darts"


# By experiment: the method, batch, epochs, learning rates of weights and alpha, cells, candidates.
PUBLISHED = {
    "darts_cifar10": ("darts", 64, 50, 0.025, 3e-4, 8, 8),
    "pc_darts_cifar10": ("pc_darts", 256, 50, 0.1, 6e-4, 8, 8),
    "p_darts_cifar10": ("p_darts", 96, 75, 0.025, 6e-4, 5, 8),
    "drnas_cifar10": ("drnas_progressive", 64, 50, 0.1, 6e-4, 20, 7),
    "sdarts_cifar10": ("sdarts_rs", 64, 50, 0.025, 3e-4, 8, 7),
    "r_darts_l2": ("r_darts", 64, 50, 0.025, 3e-4, 8, 8),
    "r_darts_dp": ("r_darts_dp", 64, 50, 0.025, 3e-4, 8, 8),
    "gdas_nasbench201": ("gdas", 64, 250, 0.025, 3e-4, 17, 5),
    "snas_cifar10": ("snas", 64, 150, 0.025, 3e-4, 8, 8),
    "fair_darts_cifar10": ("fair_darts", 128, 50, 0.005, 3e-3, 8, 7),
    "nasbench201_cifar10": ("gdas", 64, 50, 0.025, 3e-4, 17, 5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_the_papers(name):
    method, *expected = PUBLISHED[name]
    found = composed("search", f"experiment={name}", f"method={method}")
    rates = (found.weight_optimiser.learning_rate, found.architecture_optimiser.learning_rate)
    sizes = (found.network.cells, len(found.space.candidates))
    assert [found.search.batch_size, found.search.epochs, *rates, *sizes] == expected
    assert composed("final", f"experiment={name}", "genotype=random").dataset.name == "cifar10"
    if configuration("search", f"experiment={name}", f"method={method}").for_method is not None:
        with pytest.raises(
            UserError, match=f"method is 'darts_es'; it must be {method}, whose settings the experiment"
        ):
            composed("search", f"experiment={name}", "method=darts_es")


# By experiment: batch, epochs, drop path, cutout, auxiliary weight, learning rate, weight decay, channels, cells.
AS_DARTS = (96, 600, 0.2, 16, 0.4, 0.025, 3e-4, 36, 20)
RETRAINED = {
    **dict.fromkeys(("darts_cifar10", "snas_cifar10", "sdarts_cifar10", "fair_darts_cifar10"), AS_DARTS),
    **dict.fromkeys(("r_darts_l2", "r_darts_dp"), AS_DARTS),
    "pc_darts_cifar10": (96, 600, 0.3, 16, 0.4, 0.025, 3e-4, 36, 20),
    "p_darts_cifar10": (128, 600, 0.3, 16, 0.4, 0.025, 3e-4, 36, 20),
    "drnas_cifar10": (64, 600, 0.3, 16, 0.4, 0.025, 3e-4, 36, 20),
    **dict.fromkeys(("nasbench201_cifar10", "gdas_nasbench201"), (256, 200, 0.0, 0, 0.0, 0.1, 5e-4, 16, 17)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_retrainings_are_the_papers(name):
    settings = composed("final", f"experiment={name}", "genotype=random")
    train, rule, network = settings.train, settings.weight_optimiser, settings.network
    found = (train.batch_size, train.epochs, train.drop_path, train.cutout, train.auxiliary_weight)
    assert (*found, rule.learning_rate, rule.weight_decay, network.channels, network.cells) == RETRAINED[name]
    assert rule.final_learning_rate == 0 and rule.cosine_unit.name == "EPOCH" and network.stem_reductions == 0


def test_every_experiment_of_a_search_is_known_here():
    files = (ROOT / "conf" / "experiment" / "search").glob("*.yaml")
    elsewhere = {"keyword_spotting", "pc_darts_imagenet"}  # checked in test_audio.py and test_imagenet.py
    suite = {"suite_wide", "suite_deep", "suite_single"}  # checked in test_suite.py
    assert {file.stem for file in files} == {*PUBLISHED, *PUBLISHED_ON_TEXTS, *elsewhere, *suite}
