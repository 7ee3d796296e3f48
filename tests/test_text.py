"""Language models: texts as people have them, pieces, searches and trainings that resume, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import statistics
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from darts import select, tune
from darts.blackbox import loop as blackbox
from darts.compare.plan import RANDOM
from darts.compare.report import make_report
from darts.compare.sentences import sentences
from darts.compare.tables import summary
from darts.compare.trials import Outcome
from darts.config.implied import implied_choices
from darts.config.registry import activations as ACTIVATIONS
from darts.methods.hypergradient import FiniteDifference, Problem, unrolled_weights
from darts.models.mixture import MixtureWeights
from darts.models.recurrent import (
    AlgebraicSupernet,
    Dropouts,
    RecurrentNetwork,
    RecurrentSupernet,
    ScannedSupernet,
)
from darts.models.recurrent_scan import Loop, Norm, scan
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.genotype import from_json, to_json
from darts.spaces.notation import from_notation, to_notation
from darts.spaces.published import published
from darts.spaces.search_space import RECURRENT
from darts.spaces.sources import find_genotype
from darts.tasks.content import content_identity, warn_of_shared_examples
from darts.tasks.language import LanguageModelling, TextInput, TextOutput
from darts.tasks.pieces import Lengths, Pieces, in_columns, places
from darts.tasks.text import END, UNKNOWN, open_corpus, vocabulary_of
from darts.train import language as training
from darts.train import retraining as retrain
from tests.conftest import ROOT, composed, configuration, run_command, some
from tests.faults.leavings import bits
from tests.faults.test_kills import Killed, kill_after
from tests.trigram import KneserNey

CPU = torch.device("cpu")
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "in", "hat", "a", "big", "red"]


def written(folder: Path, **parts: str | bytes) -> Path:
    """A folder with a text of three parts; those that are not given are of random words."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = random.Random(0)
    for part, lines in (("train", 40), ("valid", 16), ("test", 16)):
        text = "\n".join(" ".join(draws.choices(WORDS, k=draws.randint(3, 9))) for _ in range(lines)) + "\n"
        content = parts.get(part, text)
        (folder / f"{part}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def small(folder: Path, *overrides: str) -> list[str]:
    """Settings of a search or training that takes a moment."""
    return [
        *("space=recurrent", "dataset=text_folder", f"dataset.root={folder}", "device=cpu", "logger=none"),
        *("language.units=6", "language.piece=8", "language.evaluation_columns=4"),
        *overrides,
    ]


def search_settings(folder: Path, *overrides: str):
    return composed("search", *small(folder, "search.batch_size=4", "search.epochs=2", *overrides))


def final_settings(folder: Path, *overrides: str):
    own = ["train.batch_size=4", "train.epochs=4", "language.test_columns=2", *overrides]
    return composed("final", *small(folder, *own))


def dataset(folder: Path, *overrides: str):
    return search_settings(folder, *overrides).dataset


# Texts.


def test_words_are_split_at_spaces_and_each_line_ends_with_a_mark(tmp_path):
    text = "a b  c\n\n" + "a b\n" * 10
    corpus = open_corpus(dataset(written(tmp_path, train=text, valid=text)))
    tokens = [corpus.vocabulary.tokens[number] for number in corpus.parts["train"].tolist()]
    assert tokens[:8] == ["a", "b", "c", END, END, "a", "b", END]
    assert corpus.vocabulary.tokens == ("a", "b", "c", END)


def test_marks_and_line_ends_of_other_systems_say_nothing(tmp_path):
    plain = "a b c\nd e f\n" * 5
    forms = [plain.encode(), b"\xef\xbb\xbf" + plain.encode(), plain.replace("\n", "\r\n").encode()]
    found = []
    for number, form in enumerate(forms):
        corpus = open_corpus(dataset(written(tmp_path / str(number), train=form, valid=form, test=form)))
        found.append((corpus.vocabulary, corpus.parts["train"].tolist(), corpus.parts["valid"].tolist()))
    assert found[0] == found[1] == found[2]


def test_lines_that_two_parts_share_are_told_where_they_are_many(tmp_path, caplog):
    lines = [f"line number {number} has words" for number in range(40)]
    others = [f"another line of number {number}" for number in range(20)]

    def text(*chosen: list[str]) -> str:
        return "\n".join(line for part in chosen for line in [*part, "a short one"]) + "\n"

    folder = written(
        tmp_path, train=text(lines), valid=text(others), test=text(lines[:1], others[2:18], ["x  y z v w"])
    )
    warn_of_shared_examples(dataset(folder))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("16 of 18 lines of the test text (of 5 words or more) are lines of the validation text too:")
    caplog.clear()
    warn_of_shared_examples(composed("search", "space=recurrent").dataset)
    assert not caplog.records


def test_a_retraining_tells_that_its_test_text_is_its_training_text(tmp_path, caplog):
    text = "one two three four five\n" * 8
    folder = written(tmp_path / "text", train=text, valid=text, test=text)
    settings = final_settings(folder)
    own = content_identity(settings.dataset, tested=True)
    training.start_or_resume(settings, published("darts_v2_recurrent"), tmp_path / "run", own)
    assert any("1 of 1 lines of the test text" in record.getMessage() for record in caplog.records)


def test_characters_are_read_one_by_one(tmp_path):
    text = "ab a\nba\n" * 4
    corpus = open_corpus(dataset(written(tmp_path, train=text, valid=text), "dataset.characters=true"))
    assert corpus.vocabulary.tokens == ("a", "b", " ", "\n")
    assert len(corpus.parts["train"]) == len(text)


def test_a_limited_vocabulary_keeps_the_most_frequent_words():
    tokens = ["b", "a", "a", "c", "c", "c", "d"]
    assert vocabulary_of(tokens, None).tokens == ("b", "a", "c", "d")
    assert vocabulary_of(tokens, 3).tokens == ("a", "c", UNKNOWN)
    assert vocabulary_of(tokens, 4).tokens == ("b", "a", "c", "d")


def test_rare_and_strange_words_are_unknown_and_counted(tmp_path):
    train, valid = "a a a a b b b\n" * 4 + "rare rare seldom\n", "a b strange a b strange\n" * 5
    corpus = open_corpus(dataset(written(tmp_path, train=train, valid=valid), "dataset.vocabulary=4"))
    assert corpus.vocabulary.tokens == ("a", "b", END, UNKNOWN)
    assert corpus.unknown == {"train": 3, "valid": 10}


def test_a_strange_word_without_a_sign_for_unknown_ones_is_refused(tmp_path):
    valid = "the cat sat on a zebra\n" * 5
    with pytest.raises(
        UserError, match=r"valid\.txt: 1 words or characters that the training text has not \('zebra'\)"
    ):
        open_corpus(dataset(written(tmp_path, valid=valid)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"one line only", r"train\.txt: 4 words or characters; at least 20"),
        (b"", r"train\.txt: 0 words or characters; at least 20"),
        (b"caf\xe9 " * 30, r"train\.txt is not in UTF-8 \(byte 3\)"),
        (b"a\0b " * 30, r"train\.txt holds a zero byte"),
    ],
)
def test_what_is_no_text_is_refused_in_a_line(content, told, tmp_path):
    with pytest.raises(UserError, match=told):
        open_corpus(dataset(written(tmp_path, train=content)))


def test_a_missing_part_is_named(tmp_path):
    folder = written(tmp_path)
    (folder / "valid.txt").unlink()
    with pytest.raises(
        UserError, match=r"valid\.txt is missing; the folder must hold train\.txt, valid\.txt, test\.txt"
    ):
        open_corpus(dataset(folder))


def test_a_text_of_one_line_is_searched(tmp_path):
    line = " ".join(random.Random(1).choices(WORDS, k=300))
    folder = written(tmp_path / "text", train=line, valid=line, test=line)
    genotype = search.run(search_settings(folder, "search.epochs=1"), tmp_path / "run")
    assert len(genotype.cells[RECURRENT].nodes) == 8


def test_the_bundled_text_is_what_its_configuration_says():
    whole = ["dataset.fraction=1", "dataset.vocabulary=10000"]
    settings = composed("search", "space=recurrent", "dataset=bible", *whole).dataset
    corpus = open_corpus(settings, ("train", "valid", "test"))
    words = {part: len(numbers) - int((numbers == corpus.vocabulary.tokens.index(END)).sum()) for part, numbers in
             corpus.parts.items()}  # fmt: skip
    assert words == {"train": 654_658, "valid": 72_797, "test": 62_229}
    assert len(corpus.vocabulary.tokens) == 10_000
    assert settings.text("train").startswith("in the beginning god created the heaven and the earth\n")
    assert (ROOT / "darts" / "assets" / "bible_kjv.json.xz").stat().st_size < 1_500_000


def test_identity_is_by_content_and_the_test_part_counts_where_it_is_read(tmp_path):
    first, same = dataset(written(tmp_path / "a")), dataset(written(tmp_path / "b"))
    assert content_identity(first, True) == content_identity(same, True)
    (tmp_path / "b" / "test.txt").write_text("other words " * 30)
    assert content_identity(first) == content_identity(same)
    assert content_identity(first, True) != content_identity(same, True)
    (tmp_path / "b" / "valid.txt").write_text("other words " * 30)
    assert content_identity(first) != content_identity(same)


# Pieces.


def test_columns_lie_side_by_side_and_follow_the_text():
    text = in_columns(torch.arange(14), 3, "search.batch_size")
    assert text.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_more_columns_than_the_text_has_room_for_are_refused():
    with pytest.raises(UserError, match=r"search\.batch_size is 5; it must be at most 4"):
        in_columns(torch.arange(14), 5, "search.batch_size")


def test_pieces_follow_each_other_and_predict_every_word_but_the_first():
    text = torch.arange(200).view(50, 4)
    pieces = Pieces(text, Lengths(8, 0.3, 0.0, 0), 0, CPU)
    end = 0
    for place, raw in zip(pieces.places(0), pieces.shuffled_raw(0), strict=True):
        assert place.start == end and place.length in (8, 4, 49 - place.start)
        assert torch.equal(raw.words, text[place.start : place.start + place.length])
        assert torch.equal(raw.following, raw.words + 4)
        end += place.asked
    assert end >= 48


def test_pieces_are_a_function_of_seed_epoch_and_pass():
    text = torch.zeros(400, 2, dtype=torch.int64)
    first, same, other = (Pieces(text, Lengths(20, 0.3, 3.0, 10), seed, CPU) for seed in (0, 0, 1))
    assert first.places(1) == same.places(1) != other.places(1)
    assert first.places(1) != first.places(2) and first.places(1, 0) != first.places(1, 1)


def test_half_lengths_come_as_often_as_the_setting_says():
    draws = random.Random(0)
    found = places(400_000, Lengths(20, 0.05, 0.0, 0), iter(lambda: (draws.random(), 0.0), None))
    halves = Counter(place.asked for place in found[:-1])
    assert set(halves) == {20, 10} and halves[10] / halves.total() == pytest.approx(0.05, abs=0.005)


def test_an_evaluation_shows_every_word_once():
    text = torch.arange(92).view(23, 4)
    batches = list(Pieces(text, Lengths(8, 0.5, 2.0, 9), 0, CPU).evaluation())
    assert torch.equal(torch.cat([batch.targets for batch in batches]), text[1:])
    assert [len(batch.targets) for batch in batches] == [8, 8, 6]


# Models.


def space(folder):
    return search_settings(written(folder)).space


@pytest.mark.parametrize("kind", [AlgebraicSupernet, ScannedSupernet])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_all_forms_of_the_supernet_are_one_function_with_the_same_gradients(kind, training, dropout, tmp_path):
    chosen, draws = space(tmp_path), torch.Generator().manual_seed(0)
    dropouts = Dropouts(*[dropout] * 5)
    reference, other = (form(chosen, 20, 5, dropouts).double().train(training) for form in (RecurrentSupernet, kind))
    for batch in range(3):  # running statistics go on from batch to batch
        other.load_state_dict(reference.state_dict())
        alpha = torch.randn(36, 5, generator=draws, dtype=torch.float64)
        words = torch.randint(20, (4, 3), generator=draws)
        state = torch.randn(3, 5, generator=draws, dtype=torch.float64)
        factors = torch.randn(4, 3, 20, generator=draws, dtype=torch.float64)
        found = []
        for supernet in (reference, other):
            torch.manual_seed(batch)  # the masks
            scores, hidden = alpha.clone().requires_grad_(), state.clone().requires_grad_()
            given = TextInput(words, hidden), {RECURRENT: MixtureWeights(scores.softmax(-1))}
            output = supernet(*given)
            loss = (output.logits * factors).sum() + output.activations.square().sum()
            gradients = torch.autograd.grad(loss, [scores, hidden, *supernet.parameters()])
            found.append([*output, *gradients, *supernet.buffers()])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            torch.manual_seed(batch)
            torch.testing.assert_close(other(*given).logits, output.logits.detach(), rtol=1e-10, atol=1e-12)


def test_the_time_loop_as_one_operation_passes_gradcheck():
    """Against finite differences: every input of it, with a mask."""
    draws = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64).requires_grad_()

    mask = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [1.5, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    for norm in (Norm(True, None, None, 1e-5), Norm(False, mask[0] - 1, mask[2] + 0.5, 1e-5)):
        loop = Loop(norm, mask, differentiated=True)
        inputs = drawn(2, 4, 6), drawn(4, 3), drawn(3, 6), drawn(3, 4), drawn(3, 6), drawn(3, 6)

        def outputs(read, hidden, of_state, mixture, *nodes, loop=loop):
            return scan(loop, read, hidden, of_state, mixture, list(nodes))[0]

        assert torch.autograd.gradcheck(outputs, inputs, atol=1e-6)


def looped(requires_grad=True):
    """A small time loop: its outputs, and what it was given."""
    draws = torch.Generator().manual_seed(2)
    shapes = (2, 4, 6), (4, 3), (3, 6), (1, 4), (3, 6)
    given = [torch.randn(*shape, generator=draws, dtype=torch.float64) for shape in shapes]
    given = [tensor.requires_grad_(requires_grad) for tensor in given]
    loop = Loop(Norm(True, None, None, 1e-5), None, differentiated=True)
    return scan(loop, *given[:4], given[4:])[0], given


def test_a_second_derivative_of_the_time_loop_is_refused_not_zero():
    outputs, given = looped()
    with pytest.raises(RuntimeError, match="second ones need engine=reference"):
        torch.autograd.grad(outputs.sum(), given, create_graph=True)


def test_what_the_time_loop_was_given_must_not_change_before_its_gradient():
    for changed in range(2, 5):
        outputs, given = looped()
        with torch.no_grad():
            given[changed].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(outputs.sum(), given)


@pytest.mark.parametrize("kind", [RecurrentSupernet, ScannedSupernet])
def test_a_single_row_has_no_statistics_with_either_engine(kind, tmp_path):
    supernet = kind(space(tmp_path), 20, 5)
    given = TextInput(torch.arange(4).view(4, 1)), {RECURRENT: MixtureWeights(torch.rand(36, 5))}
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        supernet(*given)
    supernet.eval()
    assert supernet(*given).logits.isfinite().all()


def test_activations_of_a_plug_in_are_computed_by_the_loop_of_the_base(tmp_path, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "sine", torch.sin)
    chosen = dataclasses.replace(space(tmp_path), candidates=["none", "tanh", "sine"])
    reference, other = (form(chosen, 20, 5).double() for form in (RecurrentSupernet, ScannedSupernet))
    other.load_state_dict(reference.state_dict())
    weights = torch.rand(36, 3, dtype=torch.float64)
    given = TextInput(torch.arange(8).view(4, 2)), {RECURRENT: MixtureWeights(weights)}
    torch.testing.assert_close(other(*given), reference(*given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("names", [["none", "tanh"], ["relu", "identity"], ["sigmoid", "none", "relu"]])
def test_fewer_activations_in_another_order_are_one_function_too(names, tmp_path):
    chosen = dataclasses.replace(space(tmp_path), candidates=names)
    reference, other = (form(chosen, 20, 5).double() for form in (RecurrentSupernet, ScannedSupernet))
    other.load_state_dict(reference.state_dict())
    weights = torch.rand(36, len(names), dtype=torch.float64)
    given = TextInput(torch.arange(8).view(4, 2)), {RECURRENT: MixtureWeights(weights)}
    torch.testing.assert_close(other(*given), reference(*given), rtol=1e-12, atol=1e-12)


def test_a_one_hot_mixture_without_batch_norm_is_the_found_cells_network(tmp_path):
    chosen = space(tmp_path)
    genotype = published("darts_v2_recurrent")
    network = RecurrentNetwork(genotype, 20, 5).double()
    supernet = RecurrentSupernet(chosen, 20, 5).double()
    supernet.load_state_dict(network.state_dict(), strict=False)
    supernet.norm = torch.nn.Identity()
    weights = torch.zeros(36, 5, dtype=torch.float64)
    for row, column in chosen.places(genotype.cells[RECURRENT]):
        weights[row, column] = 1
    words = torch.randint(20, (6, 3), generator=torch.Generator().manual_seed(1))
    found = supernet(TextInput(words), {RECURRENT: MixtureWeights(weights)})
    torch.testing.assert_close(found.logits, network(TextInput(words)).logits, rtol=1e-12, atol=1e-12)


def test_the_state_carries_on_from_piece_to_piece():
    network = RecurrentNetwork(published("darts_v1_recurrent"), 20, 5).double()
    words = torch.randint(20, (9, 3), generator=torch.Generator().manual_seed(1))
    whole = network(TextInput(words))
    first = network(TextInput(words[:4]))
    second = network(TextInput(words[4:], first.hidden))
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", Dropouts._fields)
def test_each_dropout_drops_at_its_rate_in_training_only(place):
    network = RecurrentNetwork(published("darts_v1_recurrent"), 400, 50, Dropouts(**{place: 0.3}))
    words = torch.arange(60).view(3, 20)
    masks = network._masks(20)
    given = getattr(masks, place)
    assert [name for name in Dropouts._fields if getattr(masks, name) is not None] == [place]
    assert sorted(given.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert float((given == 0).float().mean()) == pytest.approx(0.3, abs=0.08)
    torch.manual_seed(0)
    trained = [network.train()(TextInput(words)).logits for _ in range(2)]
    judged = [network.eval()(TextInput(words)).logits for _ in range(2)]
    assert not torch.equal(*trained) and torch.equal(*judged)


def test_losses_are_those_of_their_formulas():
    draws = torch.Generator().manual_seed(0)
    logits, outputs = torch.randn(5, 3, 7, generator=draws), torch.randn(5, 3, 4, generator=draws)
    dropped, targets = 2 * outputs, torch.randint(7, (5, 3), generator=draws)
    output = TextOutput(logits, outputs[-1], outputs, dropped)
    task = LanguageModelling(temporal=0.1, activation=0.01)
    loss = task.loss(output, targets)
    right = [logits[t, b].log_softmax(-1)[targets[t, b]] for t in range(5) for b in range(3)]
    assert float(loss) == pytest.approx(-float(torch.stack(right).mean()), rel=1e-6)
    changes = torch.stack([(outputs[t + 1] - outputs[t]) ** 2 for t in range(4)]).mean()
    expected = loss + 0.1 * changes + 0.01 * (dropped**2).mean()
    assert float(task.training_loss(output, loss)) == pytest.approx(float(expected), rel=1e-6)
    measured = task.completed({"train/loss": math.log(50.0), "architecture/loss": 1.0})
    assert measured["train/perplexity"] == pytest.approx(50.0)


def test_the_second_order_is_automatic_differentiation_through_the_unrolled_step(tmp_path):
    supernet = AlgebraicSupernet(space(tmp_path), 15, 6).double()
    draws = torch.Generator().manual_seed(3)
    names = [name for name, _ in supernet.named_parameters()]
    for weight in supernet.parameters():
        weight.data = 0.4 * torch.randn(weight.shape, generator=draws).double()
    alpha = [torch.randn(36, 5, generator=draws).double().requires_grad_()]

    def loss_on(words, targets):
        def loss(weights, alpha):
            mixture = {RECURRENT: MixtureWeights(alpha[0].softmax(-1))}
            named = dict(zip(names, weights, strict=True))
            output = torch.func.functional_call(supernet, named, (TextInput(words), mixture))
            return F.cross_entropy(output.logits.flatten(0, 1), targets.flatten())

        return loss

    pairs = [loss_on(*torch.randint(15, (2, 5, 4), generator=draws)) for _ in range(2)]
    weights = list(supernet.parameters())
    problem = Problem(*pairs, weights, alpha, [None] * len(weights), 0.5, 0.0, 0.01)
    found, _ = FiniteDifference(1e-4)(problem)
    unrolled, _ = unrolled_weights(problem, differentiable=True)
    (exact,) = torch.autograd.grad(problem.valid_loss(unrolled, problem.alpha), alpha)
    (direct,) = torch.autograd.grad(problem.valid_loss([weight.detach() for weight in unrolled], problem.alpha), alpha)
    assert float((found[0] - exact).norm() / exact.norm()) < 1e-4
    assert float((direct - exact).norm() / exact.norm()) > 0.02  # the second order is no small thing here


# Searches and trainings.


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return written(tmp_path_factory.mktemp("text"))


METHODS = ["darts", "darts_second_order"]


def left(folder: Path) -> dict[str, bytes]:
    """What settings and seed determine of a run: its lines and its last checkpoint."""
    state = Checkpoints(folder).load()
    del state["timing"], state["seconds"]
    return {"history": (folder / "history.jsonl").read_bytes(), **dict(bits(state, "state"))}


@pytest.fixture(scope="module", params=METHODS)
def uninterrupted(request, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    search.run(search_settings(text, f"method={request.param}"), folder)
    return request.param, left(folder)


@pytest.mark.parametrize("moment", some([(0, "inf"), (3, "inf"), (3, "1e-9"), (9, "1e-9")], (3, "inf"), (9, "1e-9")))
def test_a_search_killed_at_a_step_resumes_bit_for_bit_with_the_state_it_carried(uninterrupted, text, moment, tmp_path):
    method, expected = uninterrupted
    steps, minutes = moment
    settings = search_settings(text, f"method={method}", f"checkpoint.minutes={minutes}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", steps)
        search.run(settings, tmp_path)
    search.run(settings, tmp_path)
    assert left(tmp_path) == expected


@pytest.mark.parametrize(("steps", "minutes"), [(2, "1e-9"), (13, "inf"), (23, "1e-9")])
def test_a_training_killed_at_a_step_resumes_bit_for_bit_with_its_average(text, steps, minutes, tmp_path):
    genotype = published("darts_v2_recurrent")
    whole = final_settings(text, "language.average_from=3")
    retrain.run(whole, genotype, tmp_path / "whole")
    settings = final_settings(text, "language.average_from=3", f"checkpoint.minutes={minutes}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, training, "train_step", steps)
        retrain.run(settings, genotype, tmp_path / "cut")
    result = retrain.run(settings, genotype, tmp_path / "cut")
    assert left(tmp_path / "cut") == left(tmp_path / "whole")
    assert result["averaged_from"] == 3
    same = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["test_loss"] == same["test_loss"] and result["kept_epoch"] == same["kept_epoch"]


def test_averaged_weights_are_the_mean_since_averaging_began(text, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "begins_averaging", lambda before, loss, patience: True)
    seen: list[torch.Tensor] = []
    original = training.train_step

    def stepped(state, raw):
        measured = original(state, raw)
        if state.averaging:
            seen.append(state.network.embedding.detach().clone())
        return measured

    monkeypatch.setattr(training, "train_step", stepped)
    monkeypatch.setattr(training, "finish", lambda state, folder: state)
    state = retrain.run(final_settings(text, "train.epochs=2"), published("darts_v1_recurrent"), tmp_path)
    with training.averaged_weights(state):
        torch.testing.assert_close(state.network.embedding.detach(), torch.stack(seen[1:]).mean(0))


def test_what_is_tested_is_the_epoch_of_the_lowest_validation_loss(text, tmp_path):
    result = retrain.run(final_settings(text), published("darts_v1_recurrent"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    losses = [line["valid/loss"] for line in lines]
    assert result["kept_epoch"] == 1 + losses.index(min(losses))
    assert result["validation_perplexity"] == pytest.approx(math.exp(min(losses)))
    assert result["test_perplexity"] == pytest.approx(math.exp(result["test_loss"]))
    assert lines[0]["train/perplexity"] == pytest.approx(math.exp(lines[0]["train/loss"]))


REFUSED = {
    "pc_darts": "channels", "drnas_progressive": "channels", "darts_minus": "edge_extras", "p_darts": "edge_extras",
    "r_darts_dp": "edge_extras", "oles": "weight_gradient", "lambda_darts": "weight_gradient",
    "darts_front": "preference",
}  # fmt: skip


@pytest.mark.parametrize("method", REFUSED)
def test_a_method_of_images_is_refused_in_a_line(method, text):
    with pytest.raises(UserError, match=REFUSED[method]) as refused:
        search_settings(text, f"method={method}", "search.epochs=3")
    assert "\n" not in str(refused.value)


OTHERS = ["sdarts_rs", "drnas", "gdas", "snas", "beta_darts", "fair_darts", "idarts", "proxyless"]
LONG = ["sgas", "darts_pt"]  # a decision an edge


@pytest.mark.parametrize("method", [*OTHERS, *(pytest.param(name, marks=pytest.mark.slow(40)) for name in LONG)])
def test_other_methods_search_a_recurrent_cell(method, text, tmp_path):
    own = {"darts_pt": ["method.schedule.interval=1"], "sgas": ["method.schedule.history=1"]}.get(method, [])
    genotype = search.run(search_settings(text, f"method={method}", "dataset.fraction=0.3", *own), tmp_path)
    cell = genotype.cells[RECURRENT]
    assert len(cell.nodes) == 8 and all(len(edges) == 1 for edges in cell.nodes)
    assert genotype.provenance["supernet_valid_perplexity"] > 1


def test_cells_have_a_notation_a_file_and_names(text, tmp_path):
    genotype = published("enas_recurrent")
    assert "plugins" not in json.loads(to_json(genotype))
    assert from_notation(to_notation(genotype)) == genotype
    assert from_json(to_json(genotype)) == genotype
    chosen = search_settings(text).space
    assert find_genotype("darts_v2", chosen, str(tmp_path), 0) == published("darts_v2_recurrent")
    drawn = find_genotype("random:5", chosen, str(tmp_path), 0)
    assert len(drawn.cells[RECURRENT].nodes) == 8 and "none" not in drawn.operations()


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        (
            "train_search.py",
            ["space=recurrent", "dataset=fashion_mini"],
            "dataset is 'fashion_mini'; it must be a text",
        ),
        ("train_search.py", ["dataset=bible", "space=darts"], "dataset is 'bible'; it must be a set of images"),
        ("train_search.py", ["space=recurrent", "network.channels=8"], "network.channels is given"),
        ("train_search.py", ["language.units=8"], "language.units is given"),
        ("train_final.py", ["space=recurrent", "genotype=darts_v1", "train.cutout=8"], "train.cutout is given"),
        ("train_final.py", ["genotype=darts_v2", "language.units=8"], "language.units is given"),
        ("train_search.py", ["space=recurrent", "language.piece=1"], "language.piece is 1; it must be from 2 to 10000"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(command, given, told, tmp_path):
    done = run_command([str(ROOT / command), *given, "device=cpu"], tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and told in done.stderr and done.stderr.count("\n") == 1


def test_a_text_is_searched_and_its_cell_retrained_by_the_printed_commands(text, tmp_path):
    own = [f"dataset.root={text}", "language.units=6", "language.piece=8", "device=cpu", "logger=none"]
    first = ["dataset=text_folder", *own, "search.batch_size=4", "search.epochs=1", "language.evaluation_columns=4"]
    done = run_command([str(ROOT / "train_search.py"), *first], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recurrent cell: " in done.stdout and "supernet perplexity" in done.stdout
    following = done.stdout.split("next:")[1].split("train_final.py ")[1].split()
    assert "space=recurrent" in following and "dataset=text_folder" in following
    last = [*following, "train.batch_size=4", "train.epochs=1", "language.test_columns=2", *own[1:3]]
    done = run_command([str(ROOT / "train_final.py"), *last, "language.evaluation_columns=4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test perplexity" in done.stdout


# Comparisons.


def test_a_comparison_by_perplexity_says_better_where_it_is_lower():
    values = {"darts": [50.0, 52.0, 51.0, 49.0, 53.0, 50.5], RANDOM: [60.0, 61.0, 64.0, 59.0, 66.0, 63.0, 62.0, 65.0]}
    outcomes = []
    for group, own in values.items():
        for number, value in enumerate(own):
            place = number, group, f"{group} {number}", "digest", number
            outcomes.append(Outcome(*place, value=value, parameters=100, macs=10, seconds=1.0, metric="perplexity"))
    report = make_report(outcomes, {})
    (claim,) = report.claims_against(RANDOM).values()
    assert claim.shown == "better" and claim.test.superiority == 1.0
    mean, drawn = statistics.fmean(values["darts"]), statistics.fmean(values[RANDOM])
    assert claim.difference == pytest.approx(drawn - mean)
    assert claim.relative_improvement == pytest.approx(100 * (drawn - mean) / drawn)
    assert report.groups[0].mean == pytest.approx(mean) and report.groups[0].median == pytest.approx(50.75)
    (told,) = sentences(report)
    assert told.startswith("darts (6 searches) is better than random sampling: ")
    assert f"{mean - drawn:+.2f} of perplexity, of which less is better, on average" in told
    rows = summary(report)
    assert rows[0][3] == "test perplexity: median" and rows[1][4] == f"{mean:.2f}"
    turned = [dataclasses.replace(one, value=1000 - one.value) for one in outcomes]
    (other,) = make_report(turned, {}).claims_against(RANDOM).values()
    assert other.shown == "worse" and other.p == pytest.approx(claim.p)


def test_searched_cells_of_a_text_are_compared_with_random_ones(text, tmp_path):
    own = [f"dataset.root={text}", "dataset=text_folder", "device=cpu", "logger=none", "language.units=6"]
    sizes = ["language.piece=8", "language.evaluation_columns=4", "language.test_columns=2", "train.batch_size=4"]
    few = ["train.epochs=1", "random.samples=2", "allow_underpowered=true", "hydra.run.dir=out"]
    command = ["-m", "darts.compare", "searched=[darts_v1,darts_v2]", *own, *sizes, *few]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metric"] == "perplexity" and len(report["outcomes"]) == 4
    results = [json.loads(file.read_text()) for file in (tmp_path / "out" / "trials").glob("*/result.json")]
    assert sorted(one["value"] for one in report["outcomes"]) == sorted(one["test_perplexity"] for one in results)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "test perplexity" in page and "test accuracy" not in page.split("Best practice")[0]


@pytest.mark.slow(20)
def test_a_method_is_compared_with_random_search_of_the_same_budget(text, tmp_path):
    sizes = ["train.batch_size=4", "train.epochs=1", "language.test_columns=2", "random.samples=2"]
    own = [f"+searches.{one}" for one in ("language.units=6", "language.piece=8", "language.evaluation_columns=4")]
    own += ["+searches.evaluator.train.batch_size=4", "+searches.search.batch_size=4", "+searches.search.epochs=1"]
    few = ["methods=[darts]", "seeds=[0]", "allow_underpowered=true", "hydra.run.dir=out"]
    command = ["-m", "darts.compare", *small(text, *sizes), *own, *few]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {one["group"] for one in report["outcomes"]} == {"darts", "random", RANDOM}
    (searched,) = (tmp_path / "out" / "searches").glob("random_*")
    lines = [json.loads(line) for line in (searched / "history.jsonl").read_text().splitlines()]
    assert [line["cost/epochs"] for line in lines] == [1, 1]  # as darts: a pass for the weights, one for alpha


def test_a_perplexity_as_printed_counts_the_first_word_of_a_column(text, tmp_path):
    results = {}
    for kind in ("EXACT", "AS_PRINTED"):
        settings = final_settings(text, "genotype=darts_v1", "train.epochs=1", f"language.perplexity={kind}")
        results[kind] = retrain.run(settings, published("darts_v1_recurrent"), tmp_path / kind)
    rows = len(open_corpus(settings.dataset, ("test",)).parts["test"]) // 2  # of two columns
    exact, printed = (results[kind]["test_perplexity"] for kind in ("EXACT", "AS_PRINTED"))
    assert printed == pytest.approx(math.exp(math.log(exact) * (rows - 1) / rows), rel=1e-9) and printed < exact


# By experiment: units, batch, dropouts (order of DROPOUTS), weight decay, parameters, vocabulary of a retraining;
# Liu et al. 2019, appendix A.1.2, and rnn/train.py of their code with what its README gives for WikiText-2.
DROPOUTS = ("embedding", "inputs", "cell_input", "hidden", "output")
PUBLISHED = {
    "darts_ptb": (850, 64, (0.1, 0.2, 0.75, 0.25, 0.75), 8e-7, 22_960_000, 10_000),
    "darts_wikitext2": (700, 64, (0.1, 0.2, 0.75, 0.15, 0.75), 5e-7, 33_127_878, 33_278),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_of_texts_are_the_papers(name, text):
    units, batch, dropouts, decay, parameters, vocabulary = PUBLISHED[name]
    own = [f"experiment={name}", f"dataset.root={text}"]
    final = composed("final", *own, "genotype=darts_v2")
    language, rule = final.language, final.weight_optimiser
    kept = [getattr(language, f"dropout_{place}") for place in DROPOUTS]
    assert (language.units, final.train.batch_size, tuple(kept), rule.weight_decay) == (units, batch, dropouts, decay)
    assert (rule.learning_rate, rule.clip, rule.momentum, language.average_after) == (20, 0.25, 0, 5)
    assert (language.piece, language.piece_halved, language.piece_deviation, language.temporal) == (35, 0.05, 5, 1e-3)
    assert (language.evaluation_columns, language.test_columns) == (10, 1)
    network = RecurrentNetwork(published("darts_v2_recurrent"), vocabulary, units)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    for method in ("darts", "darts_second_order"):
        search_it = composed("search", *own, f"method={method}")
        rule, alpha, language = search_it.weight_optimiser, search_it.architecture_optimiser, search_it.language
        assert (search_it.search.epochs, search_it.search.batch_size, language.units) == (50, 256, 300)
        assert (rule.learning_rate, rule.final_learning_rate, rule.weight_decay, rule.clip) == (20, 20, 5e-7, 0.25)
        assert (alpha.learning_rate, alpha.weight_decay, alpha.beta1, alpha.beta2) == (3e-3, 1e-3, 0.9, 0.999)
        assert (language.dropout_embedding, language.dropout_hidden, language.piece_deviation) == (0, 0.25, 0)
    (evaluator,) = implied_choices("search", own)
    assert composed("search", *own, "method=random", evaluator).evaluator.train.epochs == 1
    assert search_it.dataset.name == name.removeprefix("darts_") and search_it.space.name == "recurrent"


# Choosing and tuning.


def brief(command: str, folder: Path, *overrides: str):
    small_training = ["train.batch_size=4", "train.epochs=2", "language.average_after=0", "language.piece_deviation=0"]
    return composed(command, *small(folder, *small_training, *overrides))


def test_the_cell_of_the_lowest_validation_perplexity_is_chosen(text, tmp_path):
    best, values = select.choose(brief("select", text, "searched=[darts_v1,darts_v2,enas]"), tmp_path)
    assert set(values) == {"darts_v1", "darts_v2", "enas"} and values[best] == min(values.values()) > 1
    chosen = json.loads((tmp_path / "selection.json").read_text())
    assert chosen == {"chosen": best, "validation_perplexity": values}
    same = ["genotype=darts_v2", "train.epochs=2", "language.piece_deviation=0", "language.average_after=0"]
    result = retrain.run(final_settings(text, *same), published("darts_v2_recurrent"), tmp_path / "training")
    assert result["validation_perplexity"] == pytest.approx(values["darts_v2"], rel=1e-6)


def test_a_text_is_tuned_by_its_perplexity(text, tmp_path):
    given = ["genotype=darts_v2", "trials=3", "parameters=[train.batch_size 2|4,weight_optimiser.learning_rate 1 20]"]
    small_training = ["train.epochs=1", "language.average_after=0"]
    settings = copy.deepcopy(configuration("tune", *small(text, *small_training, *given)))
    best = tune.run(settings, tmp_path)
    scores = [trial.value for trial in tune.ended_trials(tune.open_study(tmp_path))]
    assert len(scores) == 3 and best["perplexity"] == pytest.approx(math.exp(-max(scores)))
    assert tune.run(settings, tmp_path) == best


@pytest.mark.parametrize("command", ["search", "final", "select", "tune"])
def test_a_lower_learning_rate_needs_no_second_setting(command, text):
    given = {"select": ["searched=[darts_v1,darts_v2]"], "final": ["genotype=darts_v1"]}.get(command, [])
    settings = composed(command, *small(text, "weight_optimiser.learning_rate=3", *given))
    assert settings.weight_optimiser.final_learning_rate == settings.weight_optimiser.learning_rate == 3


@pytest.mark.parametrize("command", ["select", "tune"])
def test_settings_of_images_are_refused_with_a_text_and_the_reverse(command, text):
    with pytest.raises(UserError, match="graphs is True; it must be false with a text"):
        brief(command, text, "graphs=true")
    given = ["genotype=darts_v2"] if command == "tune" else ["searched=[darts_v1,darts_v2]"]
    for own, told in (
        ([*small(text), "network.channels=4"], "network.channels"),
        (["language.units=4"], "language.units"),
    ):
        done = run_command(["-m", f"darts.{command}", *given, *own], text)
        assert done.returncode == 2 and f"{told} is given, but a " in done.stderr


# Searches by scores.


def score_settings(folder: Path, *overrides: str):
    few = ["evaluator=brief_training_text", "evaluator.train.batch_size=4", "budget.evaluations=3"]
    return composed("search", *small(folder, *few, *overrides))


def test_a_cell_is_scored_by_its_log_likelihood_after_a_brief_training(text, tmp_path):
    settings = score_settings(text, "method=random", "evaluator.train.epochs=2")
    found = blackbox.run(settings, tmp_path / "search")
    lines = [json.loads(line) for line in (tmp_path / "search" / "history.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and max(line["score"] for line in lines) == found.provenance["score"] < 0
    assert [line["cost/epochs"] for line in lines] == [2, 2, 2]
    same = ["language.piece_deviation=0", "language.dropout_output=0.2", "language.average_after=0"]
    whole = final_settings(
        text, "genotype=random:1", "train.epochs=2", *same
    )  # the same training as a retraining: its validation perplexity is the score's
    result = retrain.run(whole, found, tmp_path / "training")
    assert result["validation_perplexity"] == pytest.approx(math.exp(-found.provenance["score"]), rel=1e-6)


@pytest.mark.parametrize("method", ["evolution", "local_search", "successive_halving", "genetic"])
def test_strategies_search_a_recurrent_cell(method, text, tmp_path):
    own = {"evolution": ["method.population=2", "method.sample=1"],
           "genetic": ["method.population=2", "method.tournament=1", "method.elite=1"]}.get(method, [])  # fmt: skip
    settings = score_settings(text, f"method={method}", "rules.forbidden=[identity]", "dataset.fraction=0.3", *own)
    found = blackbox.run(settings, tmp_path)
    assert len(found.cells[RECURRENT].nodes) == 8 and "identity" not in found.operations()


def test_a_search_by_scores_killed_within_a_training_resumes_equal(text, tmp_path):
    settings = score_settings(text, "method=random", "evaluator.train.epochs=2", "checkpoint.minutes=1e-9")
    blackbox.run(settings, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, training, "train_step", 45)
        blackbox.run(settings, tmp_path / "killed")
    assert not (tmp_path / "killed" / "genotype.json").exists()
    blackbox.run(settings, tmp_path / "killed")
    for name in ("history.jsonl", "genotype.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_training_that_diverges_has_the_worst_score_and_is_told(text, tmp_path, caplog):
    settings = score_settings(text, "method=random", "evaluator.weight_optimiser.learning_rate=1e30",
                              "evaluator.weight_optimiser.clip=inf", "budget.evaluations=1")  # fmt: skip
    with pytest.raises(UserError, match="all 1 trainings diverged"):
        blackbox.run(settings, tmp_path)
    (line,) = [json.loads(own) for own in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert line["score"] == -100 and "its score counts as -100" in caplog.text


@pytest.mark.parametrize("evaluator", ["zero_cost", "multi_objective"])
def test_an_evaluator_of_images_is_refused_in_a_line(evaluator, text):
    with pytest.raises(UserError, match=f"evaluator is '{evaluator}'; it must be brief_training_text with a text"):
        composed("search", *small(text, "method=random", f"evaluator={evaluator}"))


PLUGIN = """
import torch
from darts import register

register("activation", "swish")(torch.nn.functional.silu)
"""


def test_an_activation_of_ones_own_is_searched_and_retrained(text, tmp_path):
    (tmp_path / "my_activations.py").write_text(PLUGIN)
    own = ["plugins=[my_activations]", "space.candidates=[none,swish]", f"dataset.root={text}", "device=cpu"]
    sizes = ["language.units=6", "language.piece=8", "language.evaluation_columns=4", "logger=none"]
    search_it = ["dataset=text_folder", *own, *sizes, "search.batch_size=4", "search.epochs=1", "hydra.run.dir=found"]
    done = run_command([str(ROOT / "train_search.py"), *search_it], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found" / "genotype.json").read_text())
    assert {edge[0] for node in found["cells"]["recurrent"]["nodes"] for edge in node} == {"swish"}
    assert found["plugins"] == ["my_activations"]
    train_it = ["dataset=text_folder", *own, *sizes, "train.batch_size=4", "train.epochs=1", "genotype=found"]
    last = ["language.test_columns=2", "hydra.run.dir=trained"]
    done = run_command([str(ROOT / "train_final.py"), *train_it, *last], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "trained" / "result.json").read_text())["test_perplexity"] > 1


# The bundled text by its quick defaults.


@pytest.fixture(scope="module")
def trigram():
    settings = composed("final", "space=recurrent", "dataset=bible", "genotype=darts_v2")
    corpus = open_corpus(settings.dataset, ("train", "valid"))
    words = len(corpus.vocabulary.tokens)
    assert words == 2000
    return KneserNey(corpus.parts["train"].tolist(), words), corpus.parts["valid"].tolist()


def test_the_trigrams_probabilities_are_a_distribution_and_its_perplexity_the_counted_one(trigram):
    model, valid = trigram
    for context in ((5, 7), (valid[0], valid[1]), (1999, 1999)):
        assert math.fsum(model.probability((*context, word)) for word in range(2000)) == pytest.approx(1, rel=1e-9)
    assert model.perplexity(valid) == pytest.approx(48.3, abs=0.1)


@pytest.mark.slow(280)
@pytest.mark.exhaustive
def test_a_training_by_the_quick_defaults_beats_a_trigram(trigram, tmp_path):
    model, valid = trigram
    command = [str(ROOT / "train_final.py"), "space=recurrent", "genotype=darts_v2", "device=cpu", "hydra.run.dir=out"]
    done = run_command(command, tmp_path, 1500)
    assert done.returncode == 0, done.stderr
    history = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["valid/loss"] for line in history]
    assert math.exp(min(losses)) < 0.95 * model.perplexity(valid)
