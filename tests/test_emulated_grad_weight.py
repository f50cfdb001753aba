"""Every kernel of grad_weight, exactly, in the emulation (tests/emulation/kernels)."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_program import EMULATION, ROOT, build, check_exact, needs_compiler

# Minutes of compiling; the same kernels run in tests/test_cuda_*.py.
pytestmark = [pytest.mark.full, *needs_compiler]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kernels = ROOT / "csrc" / "cuda"
    sources = [kernels / "conv2d_simt.cu", *sorted(kernels.glob("conv2d_grad_weight_*.cu"))]
    sources += [kernels / "tma_operands.cpp", kernels / "conv2d_operands.cpp"]
    made = tmp_path_factory.mktemp("grad_weight") / "grad_weight"
    return build(made, [*sources, EMULATION / "kernels" / "grad_weight.cpp"])


@pytest.mark.parametrize("copies", ["delayed", "immediate"])
@pytest.mark.parametrize("target", ["simt", "sm80", "tma", "patch"])
def test_every_kernel_is_exact(program: Path, target: str, copies: str) -> None:
    """Late copies show a missing wait, early ones a stage that is still being read."""
    check_exact(program, [target], copies)
