"""Run by test_training: trains a small network; kills itself without warning after some batches.

Arguments: folder, seconds between saves, and the number of batches to live (none: to the end).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fastconv import data, optim
from fastconv.training import Checkpoint, fit
from test_training import blobs, net


class MortalAugment(data.CropAndFlip):
    """Augments; at call number ``lives`` + 1 the process is gone."""

    lives = 0

    def __call__(self, x, rng):
        if self.lives == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.lives -= 1
        return super().__call__(x, rng)


def main(folder, seconds, lives=-1):
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    augment = MortalAugment(1)
    augment.lives = int(lives)
    history = fit(
        model,
        blobs(),
        blobs(40, seed=1),
        epochs=3,
        batch_size=16,
        optimizer=optimizer,
        schedule=optim.CosineAnnealingLR(optimizer, 3),
        augment=augment,
        checkpoint=Checkpoint(Path(folder) / "run.safetensors", float(seconds)),
        resume=True,
        progress=False,
    )
    model.save_weights(Path(folder) / "final.safetensors")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    (Path(folder) / "history.txt").write_text("\n".join(map(repr, rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
