"""The rules of the house that a machine can hold: who may include whom, what tiles may contain,
that the reference stays independent, and that importing the package is light and silent."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fastconv as fc
import pytest
from test_config import run_python

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "fastconv"

pytestmark = pytest.mark.skipif(
    not CSRC.is_dir(), reason="not a checkout: the sources are not here"
)

STANDARD_OR_POSIX = re.compile(
    r"<([a-z_]+|(pthread|sched|semaphore|signal|unistd)\.h|sys/[a-z]+\.h)>"
)
# directory of csrc -> what its files may include
MAY_INCLUDE = {
    "core": [STANDARD_OR_POSIX, re.compile(r'"core/')],
    "cpu/tiles": [
        re.compile(r"<(immintrin\.h|cstddef|cstdint|cstring)>"),
        re.compile(r'"cpu/(kernels(_\w+)?\.h|families\.def|tiles/\w+\.h)"'),
    ],
    "cpu": [
        STANDARD_OR_POSIX,
        re.compile(r"<cpuid\.h>"),
        re.compile(r'"(core/|cpu/(?!tiles/)|ops\.h|isa_list\.def)'),
    ],
    "cuda": [
        STANDARD_OR_POSIX,
        re.compile(r"<cuda\w*(/\w+)*(\.h)?>"),
        re.compile(r'"(core/|cuda/|ops\.h)'),
    ],
    "bindings": [
        STANDARD_OR_POSIX,
        re.compile(r"<pybind11/"),
        re.compile(r'"(core/|cpu/(?!tiles/)|ops\.h|bindings/)'),
    ],
    ".": [STANDARD_OR_POSIX, re.compile(r'"(core/|cpu/(isa|kernels_\w+)\.h)')],
}


def c_files() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".def", ".cuh", ".cu"))


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def code_of(path: Path) -> str:
    """The file's text without // comments."""
    return re.sub(r"//[^\n]*", "", path.read_text())


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", c_files(), ids=named)
def test_who_may_include_whom(path: Path) -> None:
    allowed = MAY_INCLUDE[str(path.parent.relative_to(CSRC))]
    included = re.findall(r'^\s*#\s*include\s+([<"][^>"]+[>"])', path.read_text(), re.M)
    wrong = [name for name in included if not any(rule.match(name) for rule in allowed)]
    assert not wrong, f"{named(path)} includes {wrong}"


def test_only_vector_h_includes_the_intrinsics() -> None:
    assert [p.name for p in c_files() if "<immintrin.h>" in code_of(p)] == ["vector.h"]


@pytest.mark.parametrize("path", c_files(), ids=named)
def test_loop_nests_name_no_instruction_set(path: Path) -> None:
    if path.parent.name == "tiles" or path.name in ("isa.cpp", "isa.h"):
        pytest.skip("the place for instruction sets")
    found = re.findall(r"\b(?:avx\w*|__m\d+\w*|_mm\w+)\b", code_of(path), re.I)
    assert not found, f"{named(path)} names {found}"


@pytest.mark.parametrize("path", sorted((CSRC / "cpu" / "tiles").glob("*.cpp")), ids=named)
def test_tiles_keep_everything_to_themselves(path: Path) -> None:
    code = code_of(path)
    assert "namespace fastconv::cpu::FC_ISA {" in code
    if path.name == "table.cpp":
        return
    before, exported = code.split("namespace fastconv::cpu::FC_ISA {")
    assert re.search(r"^namespace \{", before, re.M), "tiles live in an anonymous namespace"
    for word in (
        "std::vector",
        "std::string",
        "throw ",
        "malloc",
        "new ",
        "printf",
        "thread_local",
    ):
        assert word not in code, f"{named(path)} uses {word}"
    family = path.stem
    for dtype in ("float", "double"):
        name = f"{family}_f{32 if dtype == 'float' else 64}"
        assert re.search(rf"extern const \w+Kernels<{dtype}> {name}\b", exported)


def cuda_files() -> list[Path]:
    return [p for p in c_files() if p.parent.name == "cuda"]


@pytest.mark.parametrize("path", cuda_files(), ids=named)
def test_instructions_and_launches_have_one_place(path: Path) -> None:
    """What keeps the kernels runnable in tests/emulation: no assembly, shared memory, launch syntax
    or float atomics outside of their wrappers."""
    code = code_of(path)
    if not path.name.startswith("ptx"):
        assert not re.search(r"\basm\b|__shared__", code)
    assert "<<<" not in code
    if path.name != "launch.h":
        assert "cudaLaunchKernel" not in code
    assert not re.search(r"atomicAdd\s*\(", code)


def test_every_family_has_its_header_and_tile_file() -> None:
    families = re.findall(
        r"^FC_FAMILY\((\w+), (\w+)\)", (CSRC / "cpu" / "families.def").read_text(), re.M
    )
    assert families
    for kind, member in families:
        header = CSRC / "cpu" / f"kernels_{member}.h"
        assert re.search(rf"struct {kind}Kernels\b", header.read_text())
        assert (CSRC / "cpu" / "tiles" / f"{member}.cpp").is_file()
    assert len(set(families)) == len(families)


def tile_objects() -> list[Path]:
    """Object files of tiles in the checkout's build folders, sanitized builds left out."""
    objects = []
    for cache in ROOT.glob("build*/**/CMakeCache.txt"):
        if re.search(r"^FASTCONV_SANITIZE:\w+=\w", cache.read_text(), re.M):
            continue
        objects += [
            path
            for path in cache.parent.glob("CMakeFiles/tiles_*.dir/**/*.cpp.o")
            if (CSRC / "cpu" / "tiles" / path.name.removesuffix(".o")).is_file()
        ]
    return sorted(objects)


def test_objects_of_tiles_have_no_weak_symbols() -> None:
    """A weak symbol could be replaced by another instruction set's copy when linking."""
    objects = tile_objects()
    if not objects or not shutil.which("nm"):
        pytest.skip("no build folder in this checkout, or no nm")
    for path in objects:
        done = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True)
        weak = [line for line in done.stdout.splitlines() if re.search(r" [WVu] ", line)]
        assert not weak, f"{named(path)}:\n" + "\n".join(weak)
        undefined = [
            line.split()[-1] for line in done.stdout.splitlines() if re.search(r" U ", line)
        ]
        foreign = [name for name in undefined if name.startswith(("std::", "operator", "__cxa"))]
        assert not foreign, f"{named(path)} needs {foreign}"


def test_the_output_size_formula_stands_once() -> None:
    """(N - F) / S + 1: once in C++, once in the independent reference."""
    formula = re.compile(r"//?\s*(?:\w+[.\[])*stride\w*(?:\[\w+\])?\)?\s*\+\s*1\b")
    in_c = [named(p) for p in c_files() if formula.search(code_of(p).replace("axis.", ""))]
    assert in_c == ["csrc/core/problem.h"]
    in_python = []
    for path in python_files():
        tree = ast.parse(path.read_text())
        sums = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.BinOp))
        if any(formula.search(text) for text in sums):
            in_python.append(named(path))
    assert all("/reference/" in name for name in in_python), in_python
    assert len(in_python) <= 1, in_python


@pytest.mark.parametrize("path", sorted((PACKAGE / "reference").rglob("*.py")), ids=named)
def test_the_reference_imports_numpy_and_nothing_of_ours(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{named(path)} imports from outside reference"
            roots = [] if node.level == 1 else [str(node.module).split(".")[0]]
        else:
            continue
        for root in roots:
            assert root == "numpy" or root in sys.stdlib_module_names, f"{named(path)}: {root}"


@pytest.mark.parametrize("path", python_files(), ids=named)
def test_only_the_command_line_prints(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    if relative.startswith("cli/") or relative == "__main__.py":
        pytest.skip("commands print")
    if relative in ("config.py", "history.py"):
        pytest.skip("show_config prints by contract, and fit's progress bar")
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls, f"{named(path)} prints in lines {calls}"


def test_import_is_silent_and_loads_little() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import fastconv
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - {"fastconv"}))
print(*sorted(m for m in sys.modules if m.startswith("fastconv.")))
"""
    done = run_python(code)
    assert done.stderr == ""
    others, ours = (line.split() for line in done.stdout.splitlines())
    heavy = {"torch", "logging", "argparse", "subprocess", "multiprocessing", "hypothesis"}
    assert not heavy & set(others)
    for lazy in ("reference", "layers", "models", "data", "optim", "cuda", "verbose", "cli"):
        assert f"fastconv.{lazy}" not in ours


def test_import_time_over_numpy() -> None:
    """0.05 s is the budget; twice that is allowed here, and the processor's time alone counts,
    because test machines are busy."""
    code = """
import time, numpy
start = time.process_time()
import fastconv
print(time.process_time() - start)
"""
    seconds = min(float(run_python(code).stdout) for _ in range(5))
    assert seconds < 0.1


def test_all_is_complete_and_importable() -> None:
    for name in fc.__all__:
        assert getattr(fc, name) is not None
    assert sorted(set(fc.__all__)) == sorted(fc.__all__), "a name stands twice in __all__"
    with pytest.raises(AttributeError, match="module 'fastconv' has no attribute 'conv9d'"):
        fc.conv9d  # noqa: B018
