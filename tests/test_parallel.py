"""Several processes are one: the same weights, alpha and statistics as one process with the whole batch."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch

from darts.loop.run_state import _own_means
from darts.runtime import distributed
from darts.runtime.distributed import _Group
from darts.runtime.errors import UserError
from darts.tasks.batches import Batches, Preparation, search_data
from darts.tasks.datasets import ArrayImages, open_test
from darts.tasks.settings import Augmentation
from darts.use.trained import load_network
from tests.conftest import ROOT, TINY_SEARCH, TINY_TRAIN, TORCHRUN, composed, run_command, some
from tests.parallel_cases import SEARCHES, everything
from tests.test_text import small, written


def together(out: Path, *arguments: str) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of two processes found."""
    done = run_command([*TORCHRUN, str(ROOT / "tests" / "parallel_cases.py"), str(out), *arguments], ROOT)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{out}.{number}", weights_only=True) for number in range(2)]


CASES = [*SEARCHES, "retrained", "eigenvalue"]
QUICK = ["reference darts_second_order", "fused darts", "gdas", "oles", "limited", "retrained", "eigenvalue",
         "a last batch of one image for each process"]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(tmp_path_factory.mktemp("two") / "found", "together", *QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return together(tmp_path_factory.mktemp("others") / "found", "together", *(set(CASES) - set(QUICK)))


@pytest.fixture
def found_by_two(case, request):
    """What each of two processes found in a case."""
    both = request.getfixturevalue("two" if case in QUICK else "others")
    return [found[case] for found in both]


@pytest.mark.parametrize("case", some(CASES, *QUICK))
def test_two_processes_with_half_the_batch_equal_one_with_the_whole(found_by_two, case):
    expected, found = everything([case])[case], found_by_two[0]
    assert expected.keys() == found.keys() and len(found) > 0
    tolerance = 1e-4 if case == "eigenvalue" else 1e-10  # by power iteration, in float32
    for name, value in expected.items():
        largest = max(float(value.double().abs().max()), 1e-3) if value.numel() else 1.0
        assert (value - found[name]).double().abs().max() <= tolerance * largest, name


@pytest.mark.parametrize("case", some(CASES, *QUICK))
def test_both_processes_hold_the_same_bits(found_by_two, case):
    first, second = found_by_two
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_without_synchronised_batch_norms_the_processes_still_agree_and_statistics_are_means(two, tmp_path):
    first, second = together(tmp_path / "found", "apart", "fused darts", "retrained")
    for case in ("fused darts", "retrained"):
        assert all(torch.equal(value, second[case][name]) for name, value in first[case].items())
        means = [name for name in first[case] if name.endswith("running_mean")]
        assert means
        for name in means:  # after few steps the means of halves are near the whole's, though not the same
            assert not torch.equal(first[case][name], two[0][case][name])
            assert (first[case][name] - two[0][case][name]).abs().max() < 0.2 * two[0][case][name].abs().max() + 0.05


@pytest.fixture
def among(monkeypatch):
    """Let this process be one of several, without any messages."""

    def become(number: int, processes: int, synchronised: bool = True):
        monkeypatch.setattr(distributed, "_group", _Group(number, processes, synchronised))

    return become


def steps_of_one_process(images: int, batch_size: int) -> list[list[int]]:
    """The rule, by counting: an image joins the last batch until that is full; a last single image goes one back."""
    steps: list[list[int]] = []
    for image in range(images):
        if not steps or len(steps[-1]) == batch_size:
            steps.append([])
        steps[-1].append(image)
    if len(steps) > 1 and len(steps[-1]) == 1:
        single = steps.pop()
        steps[-1] += single
    return steps


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
def test_any_number_of_processes_takes_the_same_steps_and_shows_every_image_once(among, processes):
    preparation = Preparation(Augmentation(0, False, 0), [0.0], [1.0], torch.device("cpu"))
    for images in range(2, 42, 3):
        held = ArrayImages(torch.zeros(images, 1, 1, 1, dtype=torch.uint8), torch.arange(images), ["a"])
        for size in range(1, images + 1):
            expected = steps_of_one_process(images, size)
            found = [[] for _ in expected]
            for number in range(processes):
                among(number, processes)
                batches = Batches(held, torch.arange(images), size, preparation, 0)
                assert len(batches) == len(expected)
                for step, chunk in enumerate(batches._chunks(batches.indices)):
                    found[step] += distributed.shard(chunk).tolist()
            assert found == expected


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("images", [41, 46])
def test_shards_are_disjoint_and_make_up_every_batch(among, processes, images):
    held = ArrayImages(torch.arange(images).view(-1, 1, 1, 1).to(torch.uint8), torch.arange(images), ["a"])
    preparation = Preparation(Augmentation(0, False, 0), [0.0], [1.0], torch.device("cpu"))
    k = []
    for number in range(processes):
        among(number, processes)
        batches = Batches(held, torch.arange(images), 12, preparation, 0)
        k.append([raw.labels.tolist() for raw in batches.shuffled_raw(3)])
    batches_of_all = [list(chain(*parts)) for parts in zip(*k, strict=True)]
    assert sorted(chain(*batches_of_all)) == list(range(images))
    assert all(len(part) >= 1 for parts in k for part in parts)
    assert all(max(sizes) - min(sizes) <= 1 for sizes in (list(map(len, parts)) for parts in zip(*k, strict=True)))
    among(0, 1)
    alone = [raw.labels.tolist() for raw in Batches(held, torch.arange(images), 12, preparation, 0).shuffled_raw(3)]
    assert list(chain(*alone)) == list(chain(*batches_of_all))
    assert list(map(len, alone)) == list(map(len, batches_of_all))


def test_processes_without_an_image_of_a_tests_last_batch_show_nothing_twice(among):
    held = ArrayImages(torch.zeros(11, 1, 2, 2, dtype=torch.uint8), torch.arange(11), ["a"])
    preparation = Preparation(Augmentation(0, False, 0), [0.0], [1.0], torch.device("cpu"))
    shown = []
    for number in range(3):
        among(number, 3)
        batches = Batches(held, torch.arange(11), 9, preparation, 0)  # 9 and 2: none for the third process
        shown.append([batch.targets.tolist() for batch in batches.in_order()])
    assert shown == [[[0, 1, 2], [9]], [[3, 4, 5], [10]], [[6, 7, 8]]]


@pytest.mark.parametrize(("processes", "synchronised", "least"), [(3, True, 3), (2, False, 4)])
def test_a_last_batch_too_small_for_the_processes_is_refused(among, processes, synchronised, least):
    settings = composed("search", *TINY_SEARCH)  # each split has 50 images: 16, 16, 16 and 2
    among(0, processes, synchronised)
    told = rf"search\.batch_size is 16; it must be such that the last batch of 50 images has at least {least} "
    with pytest.raises(UserError, match=told + f"for {processes} processes, not 2; or start fewer processes"):
        search_data(settings.dataset, 0.5, 16, 0, torch.device("cpu"))
    among(0, 2)
    assert len(search_data(settings.dataset, 0.5, 16, 0, torch.device("cpu")).train) == 4


def test_sums_over_images_continue_with_another_number_of_processes(among):
    saved = [{"loss": [3.0, 4]}, {"loss": [2.0, 3]}]
    among(1, 2)
    assert _own_means(saved) == {"loss": [2.0, 3]}
    among(0, 3)
    assert _own_means(saved) == {"loss": [5.0, 7]}
    among(2, 3)
    assert _own_means(saved) == {"loss": [0, 0]}
    among(0, 3, synchronised=False)
    with pytest.raises(UserError, match="was on 2 processes and is now on 3"):
        _own_means(saved)


TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train_search.py", "method=random"], "torchrun's number of processes is 2; it must be 1 with method=random"),
        (["-m", "darts.describe"], "torchrun's number of processes is 2; it must be 1 with this command"),
        (["train_search.py", "graphs=true"], "graphs is True; it must be false with several processes"),
        (["train_search.py", "-m", "seed=0,1"], "-m starts runs one after the other"),
        (["train_search.py", "parallel.timeout_minutes=0"], "parallel.timeout_minutes is 0.0; it must be above 0"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(command, message, tmp_path):
    given = [str(ROOT / command[0]) if command[0].endswith(".py") else command[0], *command[1:]]
    done = run_command(given, tmp_path, **TWO)
    assert done.returncode == 2, done.stderr
    assert f"error: {message}" in done.stderr and "Traceback" not in done.stderr


def test_restarts_need_a_folder_of_their_own(tmp_path):
    torchrun = {**TWO, "TORCHELASTIC_MAX_RESTARTS": "3"}
    done = run_command([str(ROOT / "train_search.py")], tmp_path, **torchrun)
    assert done.returncode == 2 and "needs hydra.run.dir=FOLDER" in done.stderr


def test_a_batch_too_small_for_the_processes_is_refused(among):
    among(0, 16)
    settings = composed("search", *TINY_SEARCH)
    with pytest.raises(UserError, match=r"search\.batch_size is 16; it must be at least 32, two images for each of 16"):
        search_data(settings.dataset, 0.5, 16, 0, torch.device("cpu"))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name}


def confusion_in_one_process(weights: Path) -> list[list[int]]:
    """The answers of a trained network to all bundled test images, counted one by one."""
    network, images = load_network(weights), open_test(composed("final", *TINY_TRAIN).dataset)
    counts = [[0] * 10 for _ in range(10)]
    for batch in images.batches(torch.arange(len(images.labels)).split(500)):
        for label, logits in zip(batch.labels.tolist(), network(batch.images), strict=True):
            counts[label][int(logits.argmax())] += 1
    return counts


@pytest.mark.pictures
def test_the_commands_run_on_two_processes_and_leave_what_one_leaves(tmp_path):
    search = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.batch_size=18"]
    for folder, start in (("two", TORCHRUN), ("one", [])):
        done = run_command([*start, *search, f"hydra.run.dir={folder}"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("result: ") == 1 and "Traceback" not in done.stderr
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert json.loads((tmp_path / "two" / "run.json").read_text())["environment"]["processes"] == 2
    lines = [(tmp_path / folder / "history.jsonl").read_text().splitlines() for folder in ("two", "one")]
    two, one = (json.loads(history[0])["train/loss"] for history in lines)
    assert two == pytest.approx(one, rel=1e-3)  # the first four steps, in float32
    again = run_command([*TORCHRUN, *search, "hydra.run.dir=two"], tmp_path)
    assert again.returncode == 0 and "has ended before; nothing is changed" in again.stdout
    final = [str(ROOT / "train_final.py"), *TINY_TRAIN, "genotype=two", "space.nodes=2", "hydra.run.dir=final"]
    done = run_command([*TORCHRUN, *final], tmp_path)
    assert done.returncode == 0, done.stderr
    result, measures = (
        json.loads((tmp_path / "final" / f"{name}.json").read_text()) for name in ("result", "measures")
    )
    assert result["test_accuracy"] == measures["accuracy"] > 0
    assert measures["confusion"] == confusion_in_one_process(tmp_path / "final" / "weights.pt")
    assert not [path for path in Path(tmp_path).iterdir() if path.name not in ("one", "two", "final")]


@pytest.mark.slow(60)
@pytest.mark.parametrize("method", some(["darts_second_order", "darts", "sdarts_rs"], "darts_second_order"))
def test_a_text_is_learned_by_two_processes_as_by_one(method, tmp_path):
    """Columns are divided, masks are drawn for all of them; float32 sums differ in their order only."""
    text = written(tmp_path / "text")
    own = [f"method={method}", "search.batch_size=4", "search.epochs=2", "language.dropout_hidden=0.3"]
    own += ["weight_optimiser.learning_rate=1", "architecture_optimiser.learning_rate=3e-3"]  # 20 would be chaos
    trained = ["train.batch_size=4", "train.epochs=4", "language.test_columns=2", "language.average_from=2",
               "genotype=darts_v2", "language.dropout_hidden=0.3"]  # fmt: skip
    for name, command in (
        ("search", ["train_search.py", *small(text, *own)]),
        ("final", ["train_final.py", *small(text, *trained)]),
    ):
        found = []
        for processes, start in (("two", TORCHRUN), ("one", [])):
            folder = tmp_path / f"{name}_{processes}"
            done = run_command([*start, str(ROOT / command[0]), *command[1:], f"hydra.run.dir={folder}"], tmp_path)
            assert done.returncode == 0, done.stderr
            found.append([json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()])
        two, one = found
        assert len(one) == len(two) > 1
        for first, second in zip(two, one, strict=True):
            for key in ("train/loss", "valid/loss", "valid/perplexity"):
                assert first[key] == pytest.approx(second[key], rel=1e-4), key
            assert first.get("cells") == second.get("cells")
    results = [json.loads((tmp_path / f"final_{name}" / "result.json").read_text()) for name in ("two", "one")]
    assert results[0]["test_perplexity"] == pytest.approx(results[1]["test_perplexity"], rel=1e-4)
