"""Fixtures, the `--full` switch and the report's header.

Tests marked `kernels` run CUDA kernels: emulated, once for each order of threads.

`isa`   a test that takes it runs once for each instruction set built and supported here, forced by
        name; the fixture's value is the name.
`rng`   a generator seeded by the test's own name: the same data whatever else runs.
`pictures`  a function that saves image files; skips the test without Pillow.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastconv as fc
import hypothesis
import numpy as np
import pytest
from support import THREAD_ORDERS, available_isas, emulated


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long products of cases too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a long case, run with --full only")
    config.addinivalue_line("markers", "kernels: runs CUDA kernels, emulated in several orders")
    # The same examples on every run; --full looks at others each time, and at many more.
    hypothesis.settings.register_profile(
        "quick", max_examples=100, derandomize=True, deadline=None, database=None
    )
    hypothesis.settings.register_profile("full", max_examples=3000, deadline=None, database=None)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    kept = [item for item in items if item.get_closest_marker("full") is None]
    left_out = [item for item in items if item.get_closest_marker("full") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_report_header() -> list[str]:
    try:
        from fastconv import _core
    except ImportError as error:
        return [f"fastconv: no compiled module ({error})"]
    sanitize = f", sanitize {_core.sanitize}" if _core.sanitize else ""
    return [
        f"fastconv {_core.__version__}: {_core.compiler}, {_core.build_type}{sanitize}, "
        f"{_core.num_threads()} threads",
        f"instruction sets: {' '.join(_core.supported_isas())} "
        f"(built: {' '.join(_core.built_isas())}), numpy {np.__version__}",
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", available_isas(), indirect=True)
    if metafunc.definition.get_closest_marker("kernels") is not None and emulated():
        metafunc.fixturenames.append("thread_order")
        metafunc.parametrize("thread_order", THREAD_ORDERS, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set this run of the test is forced to."""
    import fastconv as fc

    with fc.isa(request.param):
        yield request.param


@pytest.fixture
def thread_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The order in which emulated threads run."""
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", request.param)
    return request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's name."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """A function that saves an array (height, width[, channels]) as an image file."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

    def save(name: str, pixels: Any, **options: Any) -> Path:
        image_module.fromarray(np.asarray(pixels, np.uint8)).save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A command that is run in this process sets their number for good: here, for other tests."""
    before = fc.get_num_threads()
    yield
    if fc.get_num_threads() != before:
        fc.set_num_threads(before)


@pytest.fixture(autouse=True)
def _gradients_of_torch() -> Iterator[None]:
    """The benchmark's peer turns PyTorch's gradients off for its process: here, for other tests."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(True)
