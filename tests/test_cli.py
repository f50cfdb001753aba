"""``python -m fastconv info`` and ``doctor``."""

from __future__ import annotations

import json

import fastconv as fc
import pytest
from fastconv import config
from fastconv.__main__ import main
from fastconv.cli import doctor
from test_config import run_python


def test_info_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert fc.__version__ in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == config.show_config("dicts")


def test_doctor_finds_a_working_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in fc._core.supported_isas():
        assert f"kernels {name}:" in printed
    assert "broken" not in printed
    assert printed.endswith("fastconv works here.\n")


@pytest.mark.parametrize(
    "variable",
    ["FASTCONV_ISA", "FASTCONV_NUM_THREADS", "FASTCONV_PLACE_WORKERS", "FASTCONV_WORKSPACE_MB"],
)
def test_doctor_says_what_mends_a_wrong_variable(variable: str) -> None:
    code = "import sys; from fastconv.__main__ import main; sys.exit(main(['doctor']))"
    done = run_python(code, **{variable: "wrong"})
    assert done.returncode == 1, done.stderr
    assert f"environment variable {variable}: " in done.stdout
    assert f"-> unset {variable}" in done.stdout


def test_doctor_reports_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    true_conv2d = fc.ops.conv2d
    monkeypatch.setattr(fc.ops, "conv2d", lambda *a, **k: true_conv2d(*a, **k) + 1)
    assert {finding.state for finding in doctor.check_kernels()} == {"broken"}


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
