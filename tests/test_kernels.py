"""Triton's kernels by its interpreter: each against plain PyTorch in float64, and a whole supernet made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from darts.models.kernels.rows import installed
from tests.conftest import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.skipif(not installed(), reason="Triton is not installed"), pytest.mark.slow(70)]
LIMITS = {"torch.float32": 2e-6, "torch.float16": 2e-3, "torch.bfloat16": 2e-2, "supernet": 1e-3}
KERNELS = (
    *("combined", "combined, 64 channels", "products", "moments", "of moments", "depthwise", "depthwise, 64 channels"),
    *("depthwise, input", "depthwise, weight", "depthwise, sums", "fold", "fold, gradient", "move", "fold of parts"),
    *("fold of parts, gradient", "fold of parts, 64 channels", "pooled", "pools, fold", "pools, products"),
    *("pools, fold gradient", "pools, maps", "pools, source"),
)
KINDS = (*("mapped", "combined", "products", "depthwise", "measured", "fold", "parts", "move", "launched", "supernet"),)


def printed(module: str, **environment: str) -> dict[str, Any]:
    """What a module prints, run as a process of its own: by name a value."""
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    return printed("tests.kernel_cases", TRITON_INTERPRET="1")


def test_kernels_compile_for_an_h100(tmp_path):
    sizes = printed("tests.kernel_compile", TRITON_CACHE_DIR=str(tmp_path))
    assert set(sizes) == set(KERNELS) and min(sizes.values()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_what_pytorch_computes_in_float64(kind, found):
    own = {name: errors for name, errors in found.items() if name.startswith(kind)}
    assert own
    for name, errors in own.items():
        limit = next((limit for mark, limit in LIMITS.items() if mark in name), LIMITS["torch.float32"])
        assert errors
        for what, error in errors.items():
            assert error <= limit, (name, what)
