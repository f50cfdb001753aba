"""Training: ``fit``, with validation, checkpoints and an exact resume.

All that varies is a function of counters: the order of an epoch of (seed, epoch), the augmentation
of a batch of (seed, epoch, batch), a dropout mask of (layer's seed, calls so far). A checkpoint
holds the counters, the weights, the optimiser's and schedule's state and the epoch's running
totals, so a run that was killed anywhere ends with the same bits as one that was not.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastconv.data.dataset import as_dataset
from fastconv.history import History, Progress
from fastconv.layers.base import Layer
from fastconv.layers.loss import CrossEntropyLoss
from fastconv.optim import SGD, Schedule
from fastconv.training_run import Checkpoint, Run

__all__ = ["Checkpoint", "fit"]


def fit(
    model: Layer,
    train: Any,
    validation: Any = None,
    *,
    epochs: int,
    batch_size: int,
    optimizer: SGD,
    loss: Any = None,
    schedule: Schedule | None = None,
    augment: Any = None,
    checkpoint: Any = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train ``model`` in place.

    Parameters
    ----------
    model : Layer
        On a CUDA device batches are sent there, and losses are read every so many steps.
    train, validation : fc.data.Dataset or (images, labels)
        Floating images; a ``Dataset`` may hold uint8 and scales it. Validation runs after each
        epoch, in eval mode.
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    optimizer : fc.optim.SGD
        Over the model's parameters.
    loss : Layer, optional
        ``loss(output, labels)`` gives the batch's mean, ``loss.backward()`` the output's gradient;
        by default ``CrossEntropyLoss()``.
    schedule : fc.optim schedule, optional
        Stepped after each epoch; ``ReduceLROnPlateau`` gets the validation loss (its "max" mode the
        accuracy), or the training's without validation.
    augment : callable, optional
        ``augment(x, rng) -> x`` on each training batch, such as ``fc.data.CropAndFlip()``.
    checkpoint : str, path or Checkpoint, optional
        File (.safetensors) to save to: after each epoch and about every 30 s.
    resume : bool
        Continue from ``checkpoint`` where the file exists; else begin.
    seed : int
        Of the order and the augmentation.
    progress : bool
        A bar on standard error if that is a terminal, else one line an epoch.

    Returns
    -------
    History
        One row an epoch, those before a resume too.

    Raises
    ------
    ValueError
        If an argument is out of range, the checkpoint's folder cannot be written to, or the
        checkpoint belongs to another run.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> model = fc.layers.Sequential(fc.layers.Flatten(), fc.layers.Linear(4, 2))
    >>> x = np.random.default_rng(0).standard_normal((64, 1, 2, 2)).astype(np.float32)
    >>> y = (x[:, 0, 0, 0] > 0).astype(np.int64)
    >>> optimizer = fc.optim.SGD(model.parameters(), lr=0.5)
    >>> fit = dict(epochs=5, batch_size=16, optimizer=optimizer, progress=False)
    >>> history = fc.fit(model, (x, y), **fit)
    >>> history["loss"][-1] < history["loss"][0]
    True
    """
    for name, value, least in (
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(
                f"fit: {name}={value!r}, but a whole number of at least {least} is needed"
            )
    if resume and checkpoint is None:
        raise ValueError("fit: resume=True needs checkpoint=FILE")
    run = Run(model, as_dataset(train), int(batch_size), optimizer, schedule, int(seed))
    run.loss = CrossEntropyLoss() if loss is None else loss
    run.augment = augment
    held = None if validation is None else as_dataset(validation)
    if held is not None and not len(held):
        raise ValueError("fit: the validation set is empty; leave it out to train without one")
    if checkpoint is not None:
        run.checkpoint = (
            checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
        )
        run.checkpoint.check_folder()
    line = Progress(progress, int(epochs))
    if resume and run.checkpoint is not None and os.path.exists(run.checkpoint.path):
        run.restore(run.checkpoint.path)
        line.say(f"resumed at epoch {run.epoch + 1}, batch {run.batch}, from {run.checkpoint.path}")
    mode = model.training
    try:
        while run.epoch < epochs:
            run.train_epoch(line)
            run.finish_epoch(held, line)
    finally:
        model.train(mode)
    return run.history
