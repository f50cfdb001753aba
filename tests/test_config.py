"""Threads, instruction sets, the report of the configuration, and what the environment may say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core


@pytest.fixture(autouse=True)
def restore_choices() -> Iterator[None]:
    threads = fc.get_num_threads()
    yield
    fc.set_num_threads(threads)
    fc.set_isa(None)


def run_python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; its FASTCONV_* variables are `variables` alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTCONV_")}
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_set_num_threads() -> None:
    for threads in (1, 2, 7, np.int64(3)):
        fc.set_num_threads(threads)  # type: ignore[arg-type]
        assert fc.get_num_threads() == threads


@pytest.mark.parametrize("wrong", [0, -1, 257, 10**30])
def test_set_num_threads_range(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"set_num_threads: .* between 1 and 256, not {wrong}"):
        fc.set_num_threads(wrong)


@pytest.mark.parametrize("wrong", [2.0, "2", None, True])
def test_set_num_threads_type(wrong: object) -> None:
    with pytest.raises(TypeError, match="set_num_threads: threads must be an int"):
        fc.set_num_threads(wrong)  # type: ignore[arg-type]


def test_scalar_is_last_and_always_there() -> None:
    assert _core.built_isas()[-1] == _core.supported_isas()[-1] == "scalar"
    assert set(_core.supported_isas()) <= set(_core.built_isas())


def test_automatic_choice_is_the_best_supported() -> None:
    done = run_python("import fastconv as fc; print(fc.get_isa())")
    assert done.stdout.strip() == _core.supported_isas()[0]


@pytest.mark.parametrize("name", _core.supported_isas())
def test_isa_is_forced(name: str) -> None:
    # The number of lanes is a constant of each instruction set's own tile files.
    lanes = {"scalar": 4, "avx2": 8, "avx512": 16, "amx": 16}[name]
    with fc.isa(name):
        assert (fc.get_isa(), _core.vector_lanes()) == (name, lanes)
    fc.set_isa(name)
    assert (fc.get_isa(), _core.vector_lanes()) == (name, lanes)
    fc.set_isa(None)
    done = run_python(
        "import fastconv as fc; print(fc.get_isa(), fc._core.vector_lanes())", FASTCONV_ISA=name
    )
    assert done.stdout.split() == [name, str(lanes)]


def test_isa_is_of_one_thread_and_nests() -> None:
    best = _core.supported_isas()[0]
    seen = []
    with fc.isa("scalar"):
        other = threading.Thread(target=lambda: seen.append(fc.get_isa()))
        other.start()
        other.join()
        with fc.isa(best):
            assert fc.get_isa() == best
        assert fc.get_isa() == "scalar"
        with pytest.raises(RuntimeError, match="inside"), fc.isa(best):
            raise RuntimeError("inside")
        assert fc.get_isa() == "scalar"
    assert seen == [best] == [fc.get_isa()]


@pytest.mark.parametrize("function", ["set_isa", "isa"])
def test_unknown_isa_is_an_error(function: str) -> None:
    before = fc.get_isa()

    def choose(name: object) -> None:
        choice = getattr(fc, function)(name)
        choice.__enter__()  # of fc.isa only: set_isa has raised

    for wrong in ("avx9", "", "AVX2", "auto"):
        with pytest.raises(ValueError, match=f"{function}: unknown .* '{wrong}'.*scalar"):
            choose(wrong)
    with pytest.raises(TypeError, match=f"{function}: name must be a str, not int 5"):
        choose(5)
    assert fc.get_isa() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FASTCONV_ISA", "avx9"), ("FASTCONV_NUM_THREADS", "x"), ("FASTCONV_WORKSPACE_MB", "-1")],
)
def test_a_convolution_does_not_blame_its_algorithm_for_a_wrong_variable(variable, value) -> None:
    call = "fc.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)))"
    done = run_python(
        f"import numpy as np, fastconv as fc\ntry: {call}\n"
        f"except ValueError as error: print(error)",
        **{variable: value},
    )
    assert done.stdout.startswith(f"conv2d: environment variable {variable}: "), done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "call"),
    [
        ("FASTCONV_ISA", "avx9", "fc.get_isa()"),
        ("FASTCONV_NUM_THREADS", "two", "fc.get_num_threads()"),
        ("FASTCONV_NUM_THREADS", "0", "fc.get_num_threads()"),
        ("FASTCONV_NUM_THREADS", "257", "fc.get_num_threads()"),
        ("FASTCONV_PLACE_WORKERS", "2", "fc._core.places_workers()"),
        ("FASTCONV_PLACE_WORKERS", "no", "fc._core.probe_fma(0.001, 2)"),
        ("FASTCONV_WORKSPACE_MB", "-1", "fc._core.workspace_limit()"),
    ],
)
def test_wrong_variable_is_an_error_at_first_use(variable: str, value: str, call: str) -> None:
    done = run_python(f"import fastconv as fc; print('imported'); {call}", **{variable: value})
    assert done.stdout.strip() == "imported"
    assert done.returncode == 1
    assert f"ValueError: environment variable {variable}: " in done.stderr
    assert value in done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTCONV_NUM_THREADS": "5"}, 5),
        ({"FASTCONV_NUM_THREADS": "5", "OMP_NUM_THREADS": "1"}, 5),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"OMP_NUM_THREADS": "1000"}, _core.available_cpus()),
        ({"OMP_NUM_THREADS": "nonsense"}, _core.available_cpus()),
    ],
)
def test_number_of_threads_from_the_environment(variables: dict[str, str], expected: int) -> None:
    done = run_python("import fastconv as fc; print(fc.get_num_threads())", **variables)
    assert done.stdout.strip() == str(expected), done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process has one CPU")
def test_number_of_threads_follows_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import fastconv as fc; print(fc.get_num_threads())"
    )
    assert run_python(code, OMP_NUM_THREADS="").stdout.strip() == "1"


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True), ("", True)])
def test_placing_of_workers_from_the_environment(value: str, expected: bool) -> None:
    code = "import fastconv as fc; print(fc.show_config('dicts')['threads'])"
    done = run_python(code, FASTCONV_PLACE_WORKERS=value)
    assert f"'woken on CPUs of their own': {expected}," in done.stdout, done.stderr


def test_unknown_variable_warns() -> None:
    done = run_python("import fastconv", FASTCONV_NUM_THREAD="2")
    assert "FASTCONV_NUM_THREAD is unknown to fastconv; did you mean FASTCONV_NUM_THREADS?" in (
        done.stderr
    )
    done = run_python(
        "import fastconv", "-W", "error", FASTCONV_NUM_THREADS="2", FASTCONV_ISA="scalar"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_show_config_prints_or_returns(capsys: pytest.CaptureFixture[str]) -> None:
    facts = fc.show_config("dicts")
    assert facts is not None
    assert capsys.readouterr().out == ""
    assert facts["fastconv"]["version"] == fc.__version__
    assert facts["processor"]["instruction sets supported here"] == _core.supported_isas()
    assert facts["processor"]["instruction set in use"] == fc.get_isa()
    assert facts["threads"]["in use"] == fc.get_num_threads()
    assert facts["threads"]["woken on CPUs of their own"] is _core.places_workers()
    json.dumps(facts)
    assert fc.show_config() is None
    printed = capsys.readouterr().out
    for text in (fc.__version__, _core.compiler, fc.get_isa(), "cuda:"):
        assert text in printed
    with pytest.raises(ValueError, match='mode must be "stdout" or "dicts", not \'json\''):
        fc.show_config("json")


def test_cuda_says_why_it_is_not_available() -> None:
    assert fc.cuda.is_available() == (fc.cuda.why_unavailable() == "")
    if not _core.cuda.built():
        assert "built without CUDA kernels" in fc.cuda.why_unavailable()


_CALL = """
import numpy as np, fastconv as fc
fc.conv2d(np.ones((1, 3, 5, 5), np.float32), np.ones((4, 3, 3, 3), np.float32), padding=1)
fc.is_channels_last(np.ones((1, 3, 5, 5), np.float32))
"""


def test_verbose_logs_one_line_a_call() -> None:
    done = run_python(_CALL, FASTCONV_VERBOSE="1", FASTCONV_ISA="scalar", FASTCONV_NUM_THREADS="3")
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    shapes = "conv2d x=(1,3,5,5)float32 weight=(4,3,3,3)float32 padding=1 -> (1,4,5,5)float32"
    assert line.startswith(f"fastconv: {shapes} | ")
    assert " scalar 3 threads | " in line
    assert line.endswith(" ms")


@pytest.mark.parametrize("value", ["0", "", None])
def test_not_verbose_says_nothing(value: str | None) -> None:
    done = run_python(_CALL, **({} if value is None else {"FASTCONV_VERBOSE": value}))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verbose_goes_where_the_program_logs() -> None:
    code = "import logging, sys; logging.basicConfig(stream=sys.stdout, level='INFO')\n" + _CALL
    done = run_python(code, FASTCONV_VERBOSE="1")
    assert done.stdout.startswith("INFO:fastconv:conv2d x=(1,3,5,5)float32 ")
    assert done.stderr == ""


def test_verbose_lets_a_plan_pool() -> None:
    """Whose convolutions call _core with one argument by name."""
    code = (
        "import numpy as np, fastconv as fc; from fastconv.layers import Conv2d, MaxPool2d\n"
        "model = fc.layers.Sequential(Conv2d(64, 64, 3, padding=1), MaxPool2d(2))\n"
        "plan = fc.compile(model, (1, 64, 56, 56))\n"
        "assert '+ max_pool2d' in str(plan)\n"
        "print(plan(np.ones((1, 64, 56, 56), np.float32)).shape)"
    )
    done = run_python(code, FASTCONV_VERBOSE="1")
    assert done.stdout == "(1, 64, 28, 28)\n", done.stderr
