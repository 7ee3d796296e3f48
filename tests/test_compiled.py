"""The fused supernet's states in C: operators and gradients against PyTorch in float64, and what happens without C."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darts.models.compiled import library
from darts.models.fused.libraries import library_for
from darts.models.fused.source import Source
from tests import kernel_cases as cases
from tests.conftest import ENVIRONMENT, ROOT

pytestmark = pytest.mark.skipif(not library.available(), reason="there is no C compiler that can be used")
POOLS = "max_pool_3x3", "avg_pool_3x3"
CONVOLUTIONS = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
WHOLE = ("none", *POOLS, "skip_connect", *CONVOLUTIONS)
SOURCES = [  # candidates, edges, channels, stride, sides, whether pools have a batch norm
    (WHOLE, 2, 16, 1, (5, 4), True),
    (WHOLE, 5, 32, 1, (17, 9), True),
    (WHOLE, 3, 8, 2, (5, 7), True),
    (WHOLE, 2, 64, 2, (4, 4), True),
    ((POOLS[1], "dil_conv_5x5", POOLS[0]), 1, 48, 1, (3, 3), True),
    (("skip_connect", "sep_conv_7x7", "none"), 2, 20, 1, (2, 5), True),
    (("sep_conv_7x7", "sep_conv_3x3", "sep_conv_5x5"), 2, 4, 1, (6, 5), True),  # three of one family: not by hand
    (("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), 2, 12, 1, (4, 5), False),
    (("conv_7x1_1x7", POOLS[0], "dil_conv_3x3", "nor_conv_3x3"), 2, 4, 2, (6, 5), True),
    (("skip_connect", "none"), 2, 4, 1, (1, 1), True),
    (("skip_connect", "dil_conv_3x3", "skip_connect", "skip_connect"), 2, 8, 2, (5, 4), True),
    (("skip_connect", "dil_conv_3x3", "skip_connect", "skip_connect"), 2, 8, 1, (5, 4), True),
    (("skip_connect", "sep_conv_3x3"), 2, 8, 2, (5, 4), False),  # no running statistics
    (("sep_conv_3x3", "skip_connect", POOLS[0]), 1, 36, 1, (1, 6), True),
    (WHOLE, 2, 64, 1, (2, 2), True),  # narrower than the kernels
    (WHOLE, 2, 16, 2, (3, 4), True),
]
LIMIT = 5e-6


def require_small(errors: dict[str, float]) -> None:
    assert errors
    for what, error in errors.items():
        assert error <= LIMIT, what


@pytest.fixture(params=library.LANES)
def lanes(request, monkeypatch):
    """Vectors of at most so many floats, as on other processors."""
    monkeypatch.setattr(library, "widest", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    "case", [case for case in SOURCES if len(case[0]) != 3 or "sep_conv_5x5" not in case[0]], ids=str
)
def test_a_state_is_that_of_the_reference_operations(case, lanes):
    torch.manual_seed(0)
    require_small(cases.launched_case(*case))


def test_what_is_not_expressible_is_left_to_pytorch():
    part = cases.source_of(SOURCES[6][0], 2, 4, 1, True)
    assert not part.is_by_hand(torch.zeros(2, 4, 5, 5))
    part = cases.source_of(WHOLE, 2, 4, 1, True)
    assert part.is_by_hand(torch.zeros(2, 4, 5, 5))
    assert not part.eval().is_by_hand(torch.zeros(2, 4, 5, 5))  # by running statistics
    for image in (torch.zeros(2, 6, 3, 3), torch.zeros(2, 68, 3, 3), torch.zeros(2, 4, 3, 3, dtype=torch.float64)):
        assert library_for(image) is None
    with library.switched_off():
        assert library_for(torch.zeros(2, 4, 5, 5)) is None


@pytest.mark.parametrize("case", [
    (1, 1, 4, 5, 2), (3, 2, 16, 3, 0), (2, 2, 64, 2, 1), (5, 1, 20, 9, 2), (1, 2, 48, 13, 1),
], ids=str)  # fmt: skip
def test_sums_of_maps(case, lanes):
    from darts.models.compiled import operators

    torch.manual_seed(0)
    require_small(cases.combined_case(operators, *case, torch.float32))


@pytest.mark.parametrize("case", [
    (1, 4, (7, 5), (3, 5), (1, 1), False), (5, 16, (4, 4), (3, 5), (2, 2), False),
    (2, 64, (3, 3), (5, 3), (1, 2), False), (2, 8, (9, 8), (3, 5), (1, 1), True),
    (3, 8, (2, 7), (7,), (2, 1), False), (1, 20, (17, 33), (3, 5), (2, 1), True), (2, 32, (1, 1), (5,), (1, 2), True),
], ids=str)  # fmt: skip
def test_depthwise_convolutions_their_sums_and_gradients(case, lanes):
    from darts.models.compiled import operators

    torch.manual_seed(0)
    require_small(cases.measured_case(operators, *case))


@pytest.mark.parametrize("case", [(1, 2, 4, True), (5, 1, 16, True), (3, 2, 20, False), (2, 2, 64, True)], ids=str)
def test_folding_is_batch_norm(case, lanes):
    from darts.models.compiled import operators

    torch.manual_seed(0)
    require_small(cases.fold_of_parts_case(operators, *case))


def test_bits_do_not_depend_on_the_number_of_threads():
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        part = cases.source_of(WHOLE, 2, 16, 1, True)
        image, mixture = torch.randn(7, 16, 9, 8), torch.rand(2, len(WHOLE))
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        output = part(image, mixture.requires_grad_())
        output.square().sum().backward()
        found.append([output, image.grad, mixture.grad, *(weight.grad for weight in part.parameters())])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_what_they_are_wanted_of(stride):
    """As in a step of alpha alone, a first cell, with weights that stand still: the same bits as of everything."""
    torch.manual_seed(0)
    part, own = cases.source_of(WHOLE, 2, 8, stride, True), torch.randn(3, 8, 6, 5)
    sides = -(-6 // stride), -(-5 // stride)
    given = {"image": own, "mixture": torch.rand(2, len(WHOLE)), "added": torch.randn(3, 16, *sides)}
    given |= dict(part.named_parameters())
    everything = gradients_of(part, given, set(given))
    assert all(gradient is not None for gradient in everything.values())
    kernels = {name for name in given if "kernels" in name}
    for wanted in (
        {"image"}, {"mixture"}, {"added"}, {"mixture", "added"}, kernels, set(given) - kernels, set(given) - {"image"},
        *[{name} for name in given if "." in name],
    ):  # fmt: skip
        found = gradients_of(part, given, wanted)
        for name, gradient in found.items():
            assert (gradient is not None) == (name in wanted), name
            assert gradient is None or torch.equal(gradient, everything[name]), (name, wanted)


def gradients_of(part, given, wanted):
    """By name, of these tensors and of the part's weights."""
    tensors = {name: tensor.detach().clone().requires_grad_(name in wanted) for name, tensor in given.items()}
    weights = {name: tensor for name, tensor in tensors.items() if "." in name}
    inputs = tensors["image"], tensors["mixture"], tensors["added"]
    torch.func.functional_call(part, weights, inputs).square().sum().backward()
    return {name: tensor.grad for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", [*POOLS, "skip_connect", *CONVOLUTIONS])
def test_not_a_number_goes_on(name):
    """In a state it is in all that it is in by the reference operations; in a weight it reaches the sum."""
    torch.manual_seed(0)
    image = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    image[1, 3, 2, 2] = float("nan")
    operations = cases.operations_of((name,), 1, 8, 1, True)
    part, expected = Source(operations), operations[0][0](image)
    found = part(image, torch.ones(1, 1))
    assert part.is_by_hand(image) and expected.isnan().any()
    assert torch.equal(found.isnan(), expected.isnan())
    for at in range(len(list(part.parameters()))):
        own = cases.source_of((name,), 1, 8, 1, True)
        list(own.parameters())[at].data.view(-1)[0] = float("nan")
        assert own(image.nan_to_num(), torch.ones(1, 1)).isnan().any()


def test_a_maximum_of_minus_infinities_is_a_pixel_that_is_there():
    from darts.models.compiled import operators

    require_small(cases.least_numbers_case(operators))


@pytest.mark.parametrize("kind", POOLS)
def test_a_large_mean_does_not_cost_a_variance_its_precision(kind):
    torch.manual_seed(0)
    part = cases.source_of((kind,), 1, 8, 1, True)
    image = (torch.randn(8, 8, 16, 16) + 100).contiguous(memory_format=torch.channels_last)
    pool = cases.operations_of((kind,), 1, 8, 1, True)[0][0].double()
    assert part.is_by_hand(image)
    assert cases.error(part(image, torch.ones(1, 1)), pool(image.double())) <= 2e-4


def test_more_constants_than_one_call_takes():
    from darts.models.compiled import operators

    torch.manual_seed(0)
    image = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    matrices, constants = torch.randn(6, 1, 1, 4, 4), torch.randn(9, 1, 4)
    terms = [cases.Term(image, matrix) for matrix in matrices]
    found = operators.combined(terms, list(constants), 1, 4, added=image, rectify=True)
    total = torch.einsum("bihw,koi->bohw", image, matrices[:, 0, 0]) + constants.sum((0, 1))[:, None, None] + image
    torch.testing.assert_close(found, total.relu(), rtol=1e-5, atol=1e-5)
    few = operators.combined(terms[:4], list(constants[:5]), 1, 4)
    total = torch.einsum("bihw,koi->bohw", image, matrices[:4, 0, 0]) + constants[:5].sum((0, 1))[:, None, None]
    torch.testing.assert_close(few, total, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_before_c_sees_it():
    part, image = cases.source_of(WHOLE, 2, 8, 1, True), torch.randn(2, 8, 5, 5)
    mixture = torch.ones(2, len(WHOLE))
    for wrong in (mixture[:1], mixture[:, :3]):
        with pytest.raises(ValueError, match="2 edges and at least 8 candidates is due; got"):
            part(image, wrong)
    for wrong in (torch.zeros(2, 16, 4, 5), torch.zeros(1, 16, 5, 5)):
        with pytest.raises(ValueError, match="no sum of maps of"):
            part(image, mixture, wrong)
    for kind in (torch.float64, torch.bfloat16):
        with pytest.raises(TypeError, match=f"take float32 on the CPU; got {kind} on cpu"):
            part(image, mixture.to(kind))
        with pytest.raises(TypeError, match=f"take float32 on the CPU; got {kind} on cpu"):
            cases.source_of(WHOLE, 2, 8, 1, True).to(kind)(image, mixture)
    with pytest.raises(TypeError, match="on meta"):
        cases.source_of(WHOLE, 2, 8, 1, True).to("meta")(image, mixture)


def test_fake_tensors_are_left_to_pytorch():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        part, image = cases.source_of(CONVOLUTIONS, 1, 8, 1, True), torch.randn(2, 8, 5, 5)
        assert library_for(image) is None
        assert part(image, torch.ones(1, 4)).shape == (2, 8, 5, 5)


def test_the_default_type_of_numbers_does_not_matter():
    torch.manual_seed(0)
    found, part = [], cases.source_of(WHOLE, 1, 8, 1, True)
    for kind in (torch.float32, torch.float64):
        image = torch.linspace(-1, 1, 400, dtype=torch.float32).view(2, 8, 5, 5).requires_grad_()
        part.zero_grad()
        torch.set_default_dtype(kind)
        try:
            part(image, torch.ones(1, len(WHOLE), dtype=torch.float32)).square().sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        found.append([image.grad, *(weight.grad.clone() for weight in part.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_matrices_may_lie_in_any_way():
    part, image = cases.source_of(CONVOLUTIONS, 2, 8, 1, True), torch.randn(2, 8, 5, 5)
    expected = part(image, torch.ones(2, 4))
    for family in part.families:
        for matrix in family.matrices.values():
            matrix.data = matrix.data.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(part(image, torch.ones(2, 4)), expected)


def test_a_single_pixel_has_no_variance():
    part = cases.source_of(CONVOLUTIONS, 2, 8, 1, True)
    with pytest.raises(ValueError, match=r"more than one pixel; got maps of \(1, 32, 1, 1\)"):
        part(torch.zeros(1, 8, 1, 1), torch.ones(2, 4))
    for names in ((POOLS[0],), ("skip_connect", "sep_conv_3x3")):
        part = cases.source_of(names, 1, 8, 2, True)
        with pytest.raises(ValueError, match="a batch norm is trained by more than one pixel; got one"):
            part(torch.zeros(1, 8, 2, 2), torch.ones(1, len(names)))


SCRIPT = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from darts.models.compiled import library
print(library.available(), library.description())
"""


def told(folder: Path, **environment: str) -> str:
    own = {**ENVIRONMENT, "XDG_CACHE_HOME": str(folder), **environment}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_without_a_compiler_or_with_one_that_fails_pytorch_computes(tmp_path):
    assert told(tmp_path, CC="none") == "False PyTorch\n"
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nif [ $1 = --version ]; then echo mine 1.0; exit; fi\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    output = told(tmp_path, CC=str(broken))
    assert output.startswith("False PyTorch\n") and f"{broken} does not compile source.c: no such flag" in output
    assert list((tmp_path / "darts-nas").iterdir()) == []


def test_kernels_are_compiled_once_and_kept(tmp_path):
    assert told(tmp_path).startswith("True ")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "darts-nas").iterdir()}
    assert len(kept) == 1
    assert told(tmp_path).startswith("True ")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "darts-nas").iterdir()} == kept


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    assert told(tmp_path / "file").startswith("True ")


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed", "anybody's"])
def test_damaged_kernels_are_compiled_again(damage, tmp_path):
    assert told(tmp_path).startswith("True ")
    (file,) = (tmp_path / "darts-nas").iterdir()
    whole = file.read_bytes()
    if damage == "anybody's":
        file.chmod(0o777)
    else:
        other = {"cut": whole[:4096], "emptied": b"", "changed": whole[:9000] + b"?" + whole[9001:]}[damage]
        file.write_bytes(other)
    assert told(tmp_path).startswith("True ")
    (file,) = (tmp_path / "darts-nas").iterdir()
    assert len(file.read_bytes()) == len(whole) and file.stat().st_mode & 0o777 == 0o700


def test_a_compiler_with_arguments_and_one_that_is_not_there(tmp_path):
    gcc = shutil.which("gcc") or shutil.which("cc")
    assert told(tmp_path, CC=f"{Path(gcc).name} -O2").startswith("True ")
    assert told(tmp_path, CC="gcc-99") == f"False PyTorch\n{library.WITHOUT}: there is no C compiler gcc-99 (CC)\n"


@pytest.mark.parametrize("says", ["", r"\344"], ids=["nothing", "not UTF-8"])
def test_a_compiler_may_say_anything_of_itself(says, tmp_path):
    own = tmp_path / "mine"
    gcc = shutil.which("gcc") or shutil.which("cc")
    own.write_text(f"#!/bin/sh\nif [ $1 = --version ]; then printf '{says}'; exit; fi\nexec {gcc} \"$@\"\n")
    own.chmod(0o755)
    assert told(tmp_path, CC=str(own)).startswith("True ")


def test_narrower_vectors_that_do_not_compile_leave_their_maps_to_pytorch(monkeypatch):
    load = library.load

    def own(lanes):
        if lanes == 4:
            raise OSError("no such vectors")
        return load(lanes)

    monkeypatch.setattr(library, "load", own)
    library._loads.cache_clear()
    library._lanes_of.cache_clear()
    assert library.lanes_of(20) is None and library_for(torch.zeros(2, 20, 3, 3)) is None
    library._loads.cache_clear()
    library._lanes_of.cache_clear()


def test_without_a_home_there_is_no_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert library._cache() is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(ROOT / "tests"))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    assert library._cache() == ROOT / "tests" / ".cache" / "darts-nas"


@pytest.mark.slow(60)
def test_no_operator_reads_or_writes_outside_its_memory(tmp_path):
    """The states of this file, and a found cell's operations, with the compiler's own guard of memory."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    names = "libasan.so", "libstdc++.so.6"  # the latter because the former asks for its symbols at once
    found = [subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in names]
    if not all(Path(file).is_absolute() for file in found):
        pytest.skip("gcc has no address sanitiser here")
    script = """
import torch
from darts.models.compiled import library
library.FLAGS = (*library.FLAGS, "-fsanitize=address", "-g")
from darts.models.compiled import program
from tests import kernel_cases as cases
from tests.test_compiled import SOURCES
from tests.test_compiled_cells import CASES, check
program.run = lambda function, plan, *tensors: function(plan, *tensors)  # each map in memory of its own
for lanes in library.LANES:
    library.widest = lambda lanes=lanes: lanes
    for case in SOURCES[:6] + SOURCES[7:]:
        cases.launched_case(*case)
    for case in CASES:
        check(*case)
print("all")
"""
    environment = {
        **ENVIRONMENT, "LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0", "XDG_CACHE_HOME": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr[-3000:]
