"""What whole steps ask of a GPU, counted on fake CUDA tensors: no copy, no wait for a result, few operators.

The limits are what is counted now, with PyTorch 2.14: operators of a step, and gigabytes that they read and write. They
are meant to fall; a change that raises one has to say why.
"""

from __future__ import annotations

import pytest

from tests.conftest import GRADIENT_METHODS, TINY_SEARCH, TINY_TRAIN, composed, some
from tests.fake_cuda import LAYOUTS, REFERENCE, Case, Count, counts, why_not
from tests.test_methods import SHORT

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"fake CUDA needs more: {why_not()}")

SMALL = (*TINY_SEARCH, "space.nodes=1")
PUBLISHED = ("search.batch_size=64",)  # 16 channels, 8 cells, 32 x 32 pixels, 14 edges of 8 candidates
RETRAINED = ("experiment=darts_cifar10",)  # DARTS_V2, 36 channels, 20 cells, batch 96
FIRST, SECOND = "method=darts", "method=darts_second_order"
BF16 = "precision=bf16"
KERNELS = "search, channels last, Triton kernels"

STEPS: dict[str, tuple[Case, int, float]] = {  # by name: what is counted, most operators, most gigabytes
    "first order": (("search", "search", (*SMALL, FIRST)), 2_211, 0.0149),
    "first order, bf16": (("search", "search", (*SMALL, FIRST, BF16)), 2_702, 0.0112),
    "first order, reference": (("search", "search", (*SMALL, FIRST, REFERENCE)), 813, 0.0142),
    "first order, reference, bf16": (("search", "search", (*SMALL, FIRST, REFERENCE, BF16)), 972, 0.0087),
    "second order": (("search", "search", (*SMALL, SECOND)), 5_781, 0.0364),
    "second order, bf16": (("search", "search", (*SMALL, SECOND, BF16)), 7_052, 0.0264),
    "second order, reference": (("search", "search", (*SMALL, SECOND, REFERENCE)), 2_285, 0.0347),
    "second order, reference, bf16": (("search", "search", (*SMALL, SECOND, REFERENCE, BF16)), 2_716, 0.0202),
    "limited cost": (("search", "search", (*SMALL, "constraints.parameters=1e5")), 2_286, 0.0149),
    "checkpointed": (("search", "search", (*SMALL, "memory.activation_checkpointing=true")), 3_483, 0.0186),
    **{name: ((name, "search", (*SMALL, FIRST)), 2_427, 0.0181) for name in LAYOUTS if name != KERNELS},
    KERNELS: ((KERNELS, "search", (*SMALL, FIRST)), 715, 0.0117),
    "resumed on a GPU": (("resumed search", "search", (*SMALL, FIRST)), 2_205, 0.0149),
    "retraining resumed on a GPU": (("resumed retraining", "final", TINY_TRAIN), 244, 0.0155),
    "retraining": (("retraining", "final", (*TINY_TRAIN, "train.drop_path=0.2")), 272, 0.0159),
    "retraining, bf16": (("retraining", "final", (*TINY_TRAIN, "train.drop_path=0.2", BF16)), 357, 0.0103),
    "evaluation": (("evaluation", "search", SMALL), 186, 0.00244),
    "evaluation, bf16": (("evaluation", "search", (*SMALL, BF16)), 240, 0.00156),
    "evaluation, reference": (("evaluation", "search", (*SMALL, REFERENCE)), 164, 0.00298),
}
PUBLISHED_STEPS: dict[str, tuple[Case, int, float]] = {
    "fused, fp32": (("search", "benchmark", PUBLISHED), 20_268, 98.8),
    "fused, bf16": (("search", "benchmark", (*PUBLISHED, BF16)), 24_132, 74.0),
    "reference, fp32": (("search", "benchmark", (*PUBLISHED, REFERENCE)), 24_914, 131.0),
    "reference, bf16": (("search", "benchmark", (*PUBLISHED, REFERENCE, BF16)), 30_007, 66.3),
    "kernels, fp32": ((KERNELS, "benchmark", PUBLISHED), 3_409, 43.2),
    "kernels, bf16": ((KERNELS, "benchmark", (*PUBLISHED, BF16)), 3_496, 22.5),
    "kernels, bf16, second order": ((KERNELS, "benchmark", (*PUBLISHED, BF16, SECOND)), 11_049, 57.1),
    "retraining, fp32": (("retraining", "final", RETRAINED), 2_524, 54.0),
    "retraining, bf16": (("retraining", "final", (*RETRAINED, BF16)), 3_530, 27.2),
}
QUICK = ["sdarts_rs", "snas", "p_darts", "darts_pt"]
CHEAPER = {"idarts": ["method.hypergradient.steps=1", "method.hypergradient.terms=1"]}  # the same work, less often


def of_method(name: str) -> Case:
    kind = "two search steps" if name == "oles" else "search"  # it asks about the step before
    return kind, "search", (*SMALL, f"method={name}", *SHORT.get(name, []), *CHEAPER.get(name, []))


@pytest.fixture(scope="module")
def counted() -> dict[str, Count]:
    cases = {name: case for name, (case, _, _) in STEPS.items()}
    cases["tf32"] = "tf32", "search", SMALL
    cases |= {name: of_method(name) for name in QUICK}
    return dict(zip(cases, counts(list(cases.values())), strict=True))


@pytest.fixture(scope="module")
def counted_others() -> dict[str, Count]:
    cases = {name: of_method(name) for name in GRADIENT_METHODS if name not in QUICK}
    return dict(zip(cases, counts(list(cases.values())), strict=True))


def require_within(count: Count, operators: int, gigabytes: float) -> None:
    assert count.ended is None
    assert count.copies == {}
    assert count.host == {}
    assert count.strides == []
    assert 0 < count.operators <= operators
    assert 0 < count.gigabytes <= gigabytes


def test_moments_and_variances_are_products_of_whole_float32_under_tf32(counted):
    count = counted["tf32"]
    assert count.operators > 0 and count.rounded == 0


@pytest.mark.parametrize("name", STEPS)
def test_a_step_stays_on_the_device_and_within_its_count(name, counted):
    _, operators, gigabytes = STEPS[name]
    require_within(counted[name], operators, gigabytes)


@pytest.mark.parametrize("name", [
    pytest.param("kernels, bf16", marks=pytest.mark.slow(20)),
    *some([name for name in PUBLISHED_STEPS if name != "kernels, bf16"]),
])  # fmt: skip
def test_a_step_of_the_published_size_stays_on_the_device_and_within_its_count(name):
    case, operators, gigabytes = PUBLISHED_STEPS[name]
    require_within(counts([case])[0], operators, gigabytes)


@pytest.mark.parametrize("name", some(GRADIENT_METHODS, *QUICK))
def test_a_step_of_every_method_stays_on_the_device_or_is_refused_as_a_graph(name, request):
    count = request.getfixturevalue("counted" if name in QUICK else "counted_others")[name]
    assert count.copies == {} and count.host == {} and count.strides == []
    method = composed("search", *of_method(name)[2]).method
    assert (count.ended is None) == method.stays_on_device, count.ended
    if count.ended is not None:
        assert count.ended.startswith("the host reads")
