"""examples/degradation.py in a short form, on images made here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastconv.history import History

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "degradation.py"

if not EXAMPLE.is_file():
    pytest.skip("not a checkout: the examples are not here", allow_module_level=True)


def write_cifar(folder, train=48, test=16):
    """Binary batches whose class is told by the brightness."""
    rng = np.random.default_rng(0)
    for name, count in (("data_batch_1", train), ("test_batch", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = rng.integers(0, 25, (count, 3072), np.uint8) + 25 * labels[:, None]
        records = np.concatenate([labels[:, None], pixels.astype(np.uint8)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def run(*arguments):
    paths = [path for path in sys.path if path]
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_degradation_in_short(tmp_path):
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    write_cifar(tmp_path)
    names = ["cifar_plain8", "cifar_resnet8"]
    out = tmp_path / "out"
    options = ["--data", tmp_path, "--networks", *names, "--output", out, "--batch-size", 16]
    sizes = ["--subset", 40, "--test-subset", 12]
    done = run(*options, *sizes, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert name in done.stdout
        history = History.from_csv(out / f"{name}.csv")
        assert len(history) == 1
        assert 0 < history[0]["loss"] < 20
        assert 0 <= history[0]["val_accuracy"] <= 1
    picture = image.imread(out / "degradation.png")
    assert picture[..., :3].std() > 0.01
    # The same command finds all done; the files stay.
    before = (out / "cifar_plain8.safetensors").read_bytes()
    again = run(*options, *sizes, "--epochs", 1)
    assert again.returncode == 0, again.stderr
    assert (out / "cifar_plain8.safetensors").read_bytes() == before
    refused = run(*options, "--subset", 41, "--epochs", 1)
    assert refused.returncode == 1
    assert "--test-subset 1000: the data hold 16 images" in refused.stderr
    changed = run(*options, *sizes, "--epochs", 1, "--lr", 0.5)
    assert changed.returncode == 1
    assert "base_lr=0.01" in changed.stderr
    assert "Traceback" not in changed.stderr
