"""The CUDA half where there is no GPU: how it is built, and what it says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import fastconv as fc
import pytest
from fastconv.__main__ import main
from fastconv.cli import doctor
from test_config import run_python

ROOT = Path(__file__).resolve().parent.parent
core = fc._core.cuda

needs_checkout = pytest.mark.skipif(
    not (ROOT / "csrc").is_dir(), reason="not a checkout: the sources are not here"
)
needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
without_gpu = pytest.mark.skipif(fc.cuda.is_available(), reason="there is a GPU")
emulated = pytest.mark.skipif(
    not (fc.cuda.is_available() and "Emulated" in fc.cuda.describe(0)),
    reason="not the emulated build",
)


# ---- what it says --------------------------------------------------------------------------------


@without_gpu
def test_every_entrance_says_why_there_is_no_gpu() -> None:
    why = fc.cuda.why_unavailable()
    assert why
    assert fc.cuda.device_count() == 0
    for use in (
        lambda: fc.cuda.empty(3),
        lambda: fc.cuda.asarray([1.0], dtype="float32"),
        lambda: fc.cuda.device_info(0),
        lambda: fc.cuda.Stream(),
        lambda: fc.cuda.Event(),
        lambda: fc.cuda.pinned(3),
        lambda: fc.cuda.memory_stats(),
        lambda: fc.cuda.synchronize(),
    ):
        with pytest.raises(RuntimeError, match=re.escape(why)):
            use()


def test_built_and_available_belong_together() -> None:
    facts = fc.show_config("dicts")
    assert facts is not None
    cuda = facts["cuda"]
    assert cuda["built"] == bool(cuda["architectures"]) == (core.why_not_built() == "")
    assert cuda["available"] == (cuda["reason"] == "") == bool(cuda["GPUs"])
    if not cuda["built"]:
        assert "built without CUDA kernels: " in cuda["reason"]


def test_doctor_tells_kernels_gpu_and_compiler_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for subject in ("CUDA kernels:", "GPU:", "nvcc:"):
        assert subject in out
    found = {finding.subject: finding for finding in doctor.check_cuda()}
    assert found["CUDA kernels"].state == ("ok" if core.built() else "note")
    assert found["GPU"].state == ("ok" if fc.cuda.is_available() else "note")
    if core.built() and not fc.cuda.is_available():
        assert "none that can be used" in found["GPU"].text
        assert fc.cuda.why_unavailable() in found["GPU"].text


def test_doctor_puts_architectures_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "architectures", lambda: "75 80 90a 100 90-virtual")
    assert doctor._architectures() == (
        "compute capability 7.5, 8.0, 9.0a, 10.0; PTX for 9.0 and later GPUs"
    )


def test_importing_touches_no_gpu() -> None:
    code = (
        "import sys, fastconv; assert 'fastconv.cuda' not in sys.modules;"
        "print(any('libcuda.so' in line for line in open('/proc/self/maps')))"
    )
    done = run_python(code)
    assert done.stdout.strip() == "False", done.stderr


@emulated
def test_a_gpu_that_no_code_fits_is_named() -> None:
    code = "import fastconv as fc; print(fc.cuda.why_unavailable())"
    done = run_python(code, FASTCONV_EMULATION_CAPABILITY="61")
    assert re.search(
        r"^GPU 0 \(Emulated.*\) has compute capability 6\.1, but this build has machine code for "
        r"7\.5 and 8\.0 and PTX for 9\.0; build fastconv with FASTCONV_CUDA_ARCHS=61$",
        done.stdout.strip(),
    ), done.stdout
    for capability in ("75", "86", "89", "90", "120"):
        done = run_python(code, FASTCONV_EMULATION_CAPABILITY=capability)
        assert done.stdout.strip() == "", capability
    done = run_python(code, FASTCONV_EMULATION_DEVICES="0")
    assert re.match(r"no NVIDIA (driver|GPU) was found", done.stdout)


# ---- how it is built -----------------------------------------------------------------------------

# They keep the build within 4 minutes on two cores and 1.5 GB a compiler: what would be a template
# parameter for no more than a choice is a branch around the loops instead.
MOST_FILES, MOST_KERNELS = 12, 150


@needs_checkout
def test_cuda_files_are_few() -> None:
    files = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    assert 0 < len(files) <= MOST_FILES, files


def launched_kernels(library: str) -> set[str]:
    """The kernels of a library, by their mangled names, from the symbols of launch.h's wrapper:
    fastconv::cuda::launch<&kernel, arguments...>, the arguments a pack (J)."""
    listed = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r" _ZN8fastconv4cuda6launchIXadL_?Z(\w+?)EEJ", listed))


@pytest.mark.skipif(not core.built(), reason="built without CUDA kernels")
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
def test_kernel_instances_are_few() -> None:
    kernels = launched_kernels(fc._core.__file__)
    if not kernels:
        pytest.skip("the module was stripped of its symbols")
    assert len(kernels) > 20
    assert len(kernels) <= MOST_KERNELS, sorted(kernels)


@needs_checkout
def test_a_build_without_cuda_has_every_function() -> None:
    api = (ROOT / "csrc" / "ops.h").read_text().partition("namespace fastconv::cuda {")[2]
    api = re.sub(r"//[^\n]*", "", api)
    declared = set(re.findall(r"^[\w:&<>* ]+?[ &*](\w+)\([^;{]*\)(?: noexcept)?;", api, re.M))
    assert {"run_copy", "plan_conv2d", "release", "device", "architectures"} <= declared
    stubs = (ROOT / "csrc" / "cuda" / "no_cuda.cpp").read_text()
    missing = [name for name in declared if not re.search(rf"\b{name}\(", stubs)]
    assert not missing


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """CMake's configuration of the checkout, with the compiler fastconv was built with."""
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), "-DFASTCONV_PYTHON_MODULE=OFF"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


def fake_nvcc(folder: Path, release: str) -> str:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    path.chmod(0o755)
    return str(path)


@needs_checkout
@needs_cmake
@pytest.mark.parametrize(
    ("nvcc", "why"),
    [
        ("", "nvcc, the CUDA compiler, was not found"),
        ("11.8", r"nvcc 12\.4 or newer is needed, but .*nvcc\s+is 11\.8"),
        ("12.4", r"could not compile with"),  # new enough, but it makes no programs
    ],
)
def test_without_a_working_nvcc(
    tmp_path: Path, nvcc: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "FASTCONV_CUDA", "FASTCONV_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)
    found = f"-DFASTCONV_NVCC={fake_nvcc(tmp_path, nvcc) if nvcc else ''}"
    done = configure(tmp_path / "auto", found)
    assert done.returncode == 0, done.stderr
    assert re.search("CUDA: no kernels: .*" + why, done.stdout, re.S)
    if nvcc != "12.4":  # the compiler's own check takes seconds
        done = configure(tmp_path / "on", found, "-DFASTCONV_CUDA=ON")
        assert done.returncode != 0
        text = " ".join(done.stderr.split())
        assert "FASTCONV_CUDA=ON, but" in text
        assert nvcc or "Install the CUDA toolkit" in text


@needs_checkout
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_the_oldest_toolkits_have_what_asks_the_driver(tmp_path: Path) -> None:
    """This toolkit's headers, less a function that came with 12.5."""
    (tmp_path / "cuda_runtime.h").write_text(
        "#pragma once\n#include_next <cuda_runtime.h>\n#undef CUDART_VERSION\n"
        "#define CUDART_VERSION 12040\n"
        "#define cudaGetDriverEntryPointByVersion there_is_none_in_12_4\n"
    )
    source, made = ROOT / "csrc" / "cuda" / "tensor_map.cpp", tmp_path / "tensor_map.o"
    command = ["nvcc", "-std=c++17", "-I", str(tmp_path), "-I", str(ROOT / "csrc")]
    command += ["-c", str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_checkout
@needs_cmake
def test_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DFASTCONV_CUDA=YES PLEASE")
    assert done.returncode != 0
    assert "must be AUTO, ON or OFF, not 'YES PLEASE'" in done.stderr


@needs_checkout
@needs_cmake
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
@pytest.mark.parametrize(
    ("archs", "shown"),
    [
        ("", "for 75 80 90a 90-virtual"),
        ("80", "for 80 80-virtual"),
        ("80-real 90a-real,90-virtual", "for 80 90a 90-virtual"),
        ("9x", "FASTCONV_CUDA_ARCHS has '9x'"),
        ("70", "FASTCONV_CUDA_ARCHS has '70'"),
        ("777", "FASTCONV_CUDA_ARCHS has 777, which"),
    ],
)
def test_architectures(tmp_path: Path, archs: str, shown: str) -> None:
    done = configure(tmp_path, "-DFASTCONV_CUDA=ON", f"-DFASTCONV_CUDA_ARCHS={archs}")
    assert shown in " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == shown.startswith("for "), done.stderr
    if not archs:
        flags = (tmp_path / "CMakeFiles" / "cuda_sm80.dir" / "flags.make").read_text()
        assert "code=[sm_75]" not in flags
        assert "arch=compute_90a,code=[sm_90a]" in flags
    if done.returncode == 0:  # instructions of one architecture, whatever is built beside it
        flags = (tmp_path / "CMakeFiles" / "cuda_sm90.dir" / "flags.make").read_text()
        assert flags.count("arch=compute_") == flags.count("arch=compute_90a,code=[sm_90a]") == 1
