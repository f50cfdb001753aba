"""The state of a training run: counters and running sums, saved and taken up again."""

from __future__ import annotations

import json
import os
import time
from os import PathLike
from typing import Any

from fastconv.checkpoint import TRAINING_PREFIX, read_safetensors, write_safetensors
from fastconv.data.dataset import batches
from fastconv.history import History, Progress
from fastconv.layers.base import Layer
from fastconv.layers.placement import host
from fastconv.optim import SGD, Schedule
from fastconv.training_device import Feed, Totals

# Writing may take this share of the time at most: the pause grows for large models.
MAX_SHARE_OF_WRITING = 0.05
VELOCITY = TRAINING_PREFIX + "velocity/"
MASTER = TRAINING_PREFIX + "master/"


class Checkpoint:
    """Where ``fit`` saves its state: after each epoch, and every ``seconds`` within one.

    Parameters
    ----------
    path : str or path
        A name in .safetensors. The file can be given to ``load_weights`` too.
    seconds : float
        Least time between two saves within an epoch.
    """

    def __init__(self, path: str | PathLike[str], seconds: float = 30.0) -> None:
        self.path = os.fspath(path)
        self.seconds = seconds
        if not self.path.endswith(".safetensors"):
            raise ValueError(f"checkpoint: {self.path!r} does not end in .safetensors")

    def check_folder(self) -> None:
        """Say before the training, not after its first epoch, that nothing can be saved."""
        folder = os.path.dirname(os.path.abspath(self.path))
        if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
            raise ValueError(
                f"checkpoint: {self.path!r}: the folder {folder} is missing or cannot be written to"
            )


class Run:
    """One call of ``fit``: its parts, its counters, and how they are saved."""

    def __init__(
        self,
        model: Layer,
        train: Any,
        batch_size: int,
        optimizer: SGD,
        schedule: Schedule | None,
        seed: int,
    ) -> None:
        if not len(train):
            raise ValueError("fit: the training set is empty")
        self.model, self.train = model, train
        self.batch_size, self.seed = batch_size, seed
        self.optimizer, self.schedule = optimizer, schedule
        self.loss: Any = None
        self.augment: Any = None
        self.checkpoint: Checkpoint | None = None
        self.history = History()
        self.epoch = 0  # finished epochs
        self.batch = 0  # finished batches of the next one
        self.totals = Totals()
        self._saved_at = time.monotonic()
        self._save_took = 0.0
        self.feed = Feed(model)

    def train_epoch(self, line: Progress) -> None:
        """Train from the current batch to the end of the epoch."""
        self.model.train()
        _set_mode(self.loss, True)
        line.begin_epoch(self.totals.images)
        source = batches(
            self.train,
            self.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            start=self.batch,
            augment=self.augment,
            dtype=self.feed.host_dtype,
        )
        began = time.monotonic()
        for x, labels in source:
            self.optimizer.zero_grad()
            x, sent = self.feed.send(x, labels)
            output = self.model(x)
            value = self.loss(output, sent)
            self.model.backward(self.loss.backward(), need_input=False)
            self.optimizer.step()
            now = time.monotonic()
            self.totals.add(value, output, labels, now - began)
            began = now
            self.batch += 1
            totals = self.totals
            line.update(
                self.epoch + 1, totals.images, len(self.train), totals.loss, totals.accuracy
            )
            self.save_if_due()
        self.totals.read()
        self.totals.seconds += time.monotonic() - began

    def finish_epoch(self, held: Any, line: Progress) -> None:
        """Validate, step the schedule, write the row, save."""
        measured = Totals() if held is None else self.evaluate(held)
        row = {
            "epoch": self.epoch + 1,
            "loss": self.totals.loss,
            "accuracy": self.totals.accuracy,
            "val_loss": None if held is None else measured.loss,
            "val_accuracy": None if held is None else measured.accuracy,
            "lr": float(self.optimizer.lr),
            "seconds": self.totals.seconds + measured.seconds,
        }
        if self.schedule is not None:
            self.schedule.step_epoch(row)
        self.history.append(row)
        line.end_epoch(row, self.totals.images / max(self.totals.seconds, 1e-9))
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, Totals()
        if self.checkpoint is not None:
            self.save(self.checkpoint.path)

    def evaluate(self, held: Any) -> Totals:
        """Loss and accuracy over a data set, in eval mode."""
        totals = Totals()
        self.model.eval()
        _set_mode(self.loss, False)
        began = time.monotonic()
        for x, labels in batches(held, self.batch_size, shuffle=False, dtype=self.feed.host_dtype):
            x, sent = self.feed.send(x, labels)
            output = self.model(x)
            totals.add(self.loss(output, sent), output, labels, 0.0)
        totals.read()
        totals.seconds = time.monotonic() - began
        return totals

    # State

    def save_if_due(self) -> None:
        """Save within an epoch when enough time has gone by."""
        if self.checkpoint is None:
            return
        pause = max(self.checkpoint.seconds, self._save_took / MAX_SHARE_OF_WRITING)
        if time.monotonic() - self._saved_at >= pause:
            self.save(self.checkpoint.path)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resume to make sense."""
        hyper = self.optimizer.state_dict()["hyper"]
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "training images": len(self.train),
            "schedule": repr(self.schedule),  # its settings, not its counters
            "loss": _settings(self.loss),
            "augmentation": _settings(self.augment),
            **{name: hyper[name] for name in ("momentum", "weight_decay", "nesterov")},
        }

    def save(self, path: str) -> None:
        """Write the state of the run, whole or not at all."""
        began = time.monotonic()
        state = self.optimizer.state_dict()
        arrays = dict(self.model.state_dict())
        for prefix, held in ((VELOCITY, state["velocity"]), (MASTER, state["master"])):
            arrays |= {f"{prefix}{i}": value for i, value in enumerate(held) if value is not None}
        arrays = {name: host(array) for name, array in arrays.items()}
        extra = {name: layer.get_extra_state() for name, layer in self.model.named_layers()}
        numbers = {
            "identity": self._identity(),
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": self.totals.numbers(),
            "history": self.history.rows,
            "optimizer": state["hyper"],
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "layers": {name: value for name, value in extra.items() if value is not None},
        }
        write_safetensors(path, arrays, {"fastconv_training": json.dumps(numbers)})
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def restore(self, path: str) -> None:
        """Take up the state of the run that wrote ``path``."""
        arrays, numbers = _read_state(path)
        for name, value in self._identity().items():
            if numbers["identity"].get(name) != value:
                raise ValueError(
                    f"resume: {path} was written with {name} "
                    f"{numbers['identity'].get(name)!r}, but this run has {value!r}"
                )
        own = {name: a for name, a in arrays.items() if not name.startswith(TRAINING_PREFIX)}
        self.model.load_state_dict(own)
        count = range(len(self.optimizer.params))
        held = {
            name: [arrays.get(f"{prefix}{i}") for i in count]
            for name, prefix in (("velocity", VELOCITY), ("master", MASTER))
        }
        self.optimizer.load_state_dict({"hyper": numbers["optimizer"], **held})
        if self.schedule is not None:
            self.schedule.load_state_dict(numbers["schedule"])
        layers = dict(self.model.named_layers())
        for name, value in numbers["layers"].items():
            layers[name].set_extra_state(value)
        self.epoch, self.batch = numbers["epoch"], numbers["batch"]
        self.totals = Totals(**numbers["totals"])
        self.history = History(numbers["history"])


def _set_mode(loss: Any, training: bool) -> None:
    if isinstance(loss, Layer):
        loss.train(training)


def read_history(path: str | PathLike[str]) -> History:
    """The finished epochs of the run that wrote the checkpoint ``path``."""
    return History(_read_state(path)[1]["history"])


def _read_state(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, numbers) of a checkpoint."""
    arrays, metadata = read_safetensors(path)
    if "fastconv_training" not in metadata:
        raise ValueError(f"{os.fspath(path)} holds weights, but not the state of a training run")
    return arrays, json.loads(metadata["fastconv_training"])


def _settings(part: Any) -> str:
    """A part's ``repr``; its type where that holds an address, which differs from run to run."""
    text = repr(part)
    return type(part).__name__ if " at 0x" in text else text
