"""Programs of C calls: what they repeat, what they refuse, and when they are traced again."""

from __future__ import annotations

import pytest
import torch

from darts.models.compiled import call, library, operators, program
from darts.models.kernels.types import Term

pytestmark = pytest.mark.skipif(not library.available(), reason="there is no C compiler that can be used")


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    monkeypatch.setattr(program, "_programs", {})


def two_matrices(plan, image, added, first, second):
    """Two 1x1 convolutions with a ReLU in between, times `plan`, plus another map; and their inner map."""
    inner = operators.mapped(image, first[None], rectify=True)
    terms = [Term(inner, second[None, None])]
    torch.empty(len(image))  # what no call is given has no place
    return [operators.combined(terms * plan, [], 1, len(second), added=added), inner]


def expected(plan, image, added, first, second):
    inner = torch.einsum("bihw,oi->bohw", image, first).relu()
    result = plan * torch.einsum("bihw,oi->bohw", inner, second)
    return result if added is None else result + added


def image_of(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def given(batch=2, side=5):
    return image_of(batch, 4, side, 3), image_of(batch, 8, side, 3), torch.randn(12, 4), torch.randn(8, 12)


def test_a_program_does_what_the_function_does():
    for plan in (1, 3):
        for batch in (1, 2, 2, 1):
            tensors = given(batch)
            found, inner = program.run(two_matrices, plan, *tensors)
            direct, direct_inner = two_matrices(plan, *tensors)
            assert torch.equal(found, direct) and torch.equal(inner, direct_inner)
            assert found.stride() == direct.stride()
            torch.testing.assert_close(found, expected(plan, *tensors), rtol=1e-5, atol=1e-5)
    assert len(program._programs) == 4


def test_a_program_is_of_layouts_and_of_what_is_not_given():
    image, added, first, second = given()
    wide = image_of(2, 16, 5, 3)
    for own in (image, wide[:, 4:8], wide[:, 8:12]):
        for other in (added, None):
            (found, _) = program.run(two_matrices, 1, own, other, first, second)
            torch.testing.assert_close(found, expected(1, own, other, first, second), rtol=1e-5, atol=1e-5)
    assert len(program._programs) == 4  # both parts of the wide map lie alike


def test_one_tensor_twice_is_not_taken_for_one_ever_after():
    def own(plan, left, right):
        return [operators.parts(left, right, 1)]

    one, other = image_of(3, 4, 2, 2), image_of(3, 4, 2, 2)
    for left, right in ((one, one), (one, other), (other, one)):
        (found,) = program.run(own, None, left, right)
        assert torch.equal(found, operators.parts(left, right, 1))
    assert len(program._programs) == 1


def test_what_a_program_would_not_repeat_is_refused():
    image = image_of(2, 4, 3, 3)
    refused = {
        "got add": lambda plan, own: [operators.scaled_sum(own + 1, torch.empty(2))],
        "got clone": lambda plan, own: [own.clone()],
        "a tensor that it was given": lambda plan, own: [own],
        "part of a tensor": lambda plan, own: [torch.empty(4, 2)[1:]],
        "or one twice": lambda plan, own: [torch.empty(4)] * 2,
    }
    for reason, function in refused.items():
        with pytest.raises(RuntimeError, match=reason):
            program.run(function, None, image)
        assert call.tracing.calls is None and not program._programs
    direct = operators.scaled_sum(image, torch.ones(2))  # calls are made again
    assert torch.equal(direct, image)


def test_programs_are_forgotten_when_they_are_many(monkeypatch):
    monkeypatch.setattr(program, "MOST_PROGRAMS", 3)
    for side in range(1, 9):
        tensors = given(1, side)
        found, _ = program.run(two_matrices, 1, *tensors)
        torch.testing.assert_close(found, expected(1, *tensors), rtol=1e-5, atol=1e-5)
        assert len(program._programs) == min(side, 3)  # the latest


def test_an_error_while_tracing_is_told_as_it_is():
    image = image_of(2, 4, 3, 3)
    with pytest.raises(ValueError, match="is written into") as told:
        program.run(lambda plan, *maps: [operators.scaled_sum(maps[0], into=maps[1])], None, image, image[:1])
    assert told.value.__context__ is None
