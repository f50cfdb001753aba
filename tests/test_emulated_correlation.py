"""Every tensor-core correlation kernel, exactly, in the emulation (tests/emulation/kernels)."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_program import EMULATION, ROOT, build, check_exact, needs_compiler

# Minutes of compiling; the same kernels run in tests/test_cuda_*.py.
pytestmark = [pytest.mark.full, *needs_compiler]

HOST_SOURCES = {"sm80": [], "sm90": ["tma_launch", "tma_operands", "conv2d_operands"]}


@pytest.fixture(scope="module", params=HOST_SOURCES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = str(request.param)
    kernels = ROOT / "csrc" / "cuda"
    sources = [kernels / f"{name}.cpp" for name in HOST_SOURCES[target]]
    sources += [kernels / f"conv2d_{target}.cu"]
    sources += [EMULATION / "kernels" / f"correlation_{target}.cpp"]
    made = tmp_path_factory.mktemp(f"correlation_{target}") / "correlation"
    return build(made, sources, ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"])


@pytest.mark.parametrize("copies", ["delayed", "immediate"])
def test_every_kernel_is_exact(program: Path, copies: str) -> None:
    """Late copies show a missing wait, early ones a stage that is still being read."""
    check_exact(program, [], copies)
