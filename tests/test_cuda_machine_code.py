"""What nvcc made of the kernels by TMA and wgmma: read from the built module, no GPU needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import fastconv as fc
import pytest

KERNEL = re.compile(r"_ZN8fastconv4cuda3tma\d+(\w+?)I(?:13__nv_bfloat16|6__half)")
SPILLS = {"grad_weight_patch"}  # outside its main loop: 512 threads leave 128 registers to each


def cuobjdump() -> str | None:
    """CUDA's, or that of the package nvidia-cuda-cuobjdump."""
    folders = [*Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin")]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    return shutil.which("cuobjdump", path=os.pathsep.join(map(str, folders))) or shutil.which(
        "cuobjdump"
    )


def dump(what: str) -> str:
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump")
    facts = fc.show_config("dicts")
    if facts is None or "90a" not in facts["cuda"]["architectures"]:
        pytest.skip("built without CUDA kernels for 9.0a")
    environment = {**os.environ, "PATH": f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [tool, "-arch", "sm_90a", what, str(fc._core.__file__)],
        check=True, capture_output=True, text=True, env=environment,
    ).stdout  # fmt: skip


def test_sums_stay_in_registers() -> None:
    found = 0
    for name, usage in re.findall(r"Function (\w+):\n\s*(.*)", dump("-res-usage")):
        kernel = KERNEL.match(name)
        if kernel is None:
            continue
        found += 1
        stack = int(re.findall(r"STACK:(\d+)", usage)[0])
        assert stack == 0 or kernel[1] in SPILLS, f"{name}: {usage}"
    assert found >= 30


def instructions(function: str) -> list[str]:
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", function)


def early_conditions(code: list[str]) -> list[str]:
    """Coordinates of copies read under a condition that the code since the last branch has not
    computed: ptxas 13.0 made such code of copies under conditions."""
    computed: set[str] = set()
    early = []
    for i, instruction in enumerate(code):
        match = re.match(r"(?:@!?(U?P\d) )?(\S+)\s*(.*)", instruction)
        assert match is not None
        condition, operation, operands = match.groups()
        reads = operation == "R2UR" and condition is not None and condition not in computed
        if reads and any("UTMA" in near for near in code[i : i + 25]):
            early.append(instruction)
        computed.update(re.findall(r"\bU?P\d\b", ",".join(operands.split(",")[:2])))
        if operation.startswith(("BRA", "BSYNC")):
            computed.clear()
    return early


def test_the_condition_of_a_copy_is_computed_before_its_use() -> None:
    wrong = [
        "PLOP3.LUT P3, PT, PT, PT, PT, 0x8, 0x0",
        "@P0 BRA.U.ANY 0xb250",
        "@P0 R2UR UR10, R21",
        "PLOP3.LUT P0, PT, PT, PT, UP0, 0x80, 0x0",
        "@UP0 UTMALDG.4D [UR8], [UR16]",
    ]
    assert early_conditions(wrong) == ["@P0 R2UR UR10, R21"]
    assert early_conditions([*wrong[:2], wrong[3], wrong[2], wrong[4]]) == []


def test_machine_code_of_hopper() -> None:
    found = 0
    for function in dump("-sass").split("Function : ")[1:]:
        name = function.split("\n", 1)[0].strip()
        if KERNEL.match(name) is None:
            continue
        found += 1
        code = instructions(function)
        for wanted in ("HGMMA", "UTMALDG", "UTMASTG"):
            assert any(wanted in line for line in code), f"{name}: no {wanted}"
        assert early_conditions(code) == [], name
    assert found >= 30
