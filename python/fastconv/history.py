"""What a training run reports: one row an epoch, and a line that moves while it runs."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from os import PathLike
from typing import Any, TextIO


class History:
    """Rows of numbers, one an epoch: epoch, loss, accuracy, val_loss, val_accuracy, lr, seconds.

    ``history["loss"]`` is a column, ``history[-1]`` a row, ``history.to_csv(path)`` writes all and
    ``History.from_csv(path)`` reads it. Values that were not measured are None.

    Examples
    --------
    >>> from fastconv.history import History
    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history["loss"], len(history)
    ([0.5, 0.25], 2)
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = list(rows or [])

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write one line an epoch under a line of names."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["epoch"])
            writer.writeheader()
            writer.writerows(self.rows)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> History:
        """What ``to_csv`` wrote; ``ValueError`` where a value is no number."""
        with open(path, newline="") as file:
            try:
                return cls([_numbers(row) for row in csv.DictReader(file)])
            except (ValueError, TypeError, AttributeError, csv.Error) as error:
                raise ValueError(
                    f"{os.fspath(path)} is no history of a training run: {error}"
                ) from error

    def __repr__(self) -> str:
        return f"History({len(self)} epochs" + (f", last: {self.rows[-1]})" if self.rows else ")")


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    """A line of a CSV file; an empty field is None."""
    values = {name: None if text == "" else float(text) for name, text in row.items()}
    if values.get("epoch") is None:
        raise ValueError("a line has no epoch")
    return {**values, "epoch": int(row["epoch"])}


class Progress:
    """One line on standard error: a moving bar on a terminal, else only each epoch's result."""

    def __init__(self, wanted: bool, epochs: int, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.wanted = wanted
        self.live = wanted and self.stream.isatty()
        self.epochs = epochs
        self._last_draw = 0.0
        self._began, self._first = time.monotonic(), 0

    def begin_epoch(self, images_done: int) -> None:
        self._began, self._first = time.monotonic(), images_done

    def update(
        self, epoch: int, done: int, total: int, loss: float, accuracy: float | None
    ) -> None:
        """Redraw the bar, at most ten times a second."""
        now = time.monotonic()
        if not self.live or (now - self._last_draw < 0.1 and done < total):
            return
        self._last_draw = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = int((total - done) / rate) if rate else 0
        filled = 24 * done // max(total, 1)
        bar = "=" * filled + " " * (24 - filled)
        text = (
            f"epoch {epoch}/{self.epochs} [{bar}] {100 * done // max(total, 1):3d} %  "
            f"loss {loss:.4f}"
            f"{_percent('  accuracy', accuracy)}  {rate:,.0f} images/s  "
            f"{left // 60}:{left % 60:02d} left"
        )
        print(f"\r\033[K{text}", end="", file=self.stream, flush=True)

    def end_epoch(self, row: dict[str, Any], rate: float) -> None:
        """Leave the epoch's result."""
        if not self.wanted:
            return
        text = f"epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4f}"
        text += _percent("  accuracy", row["accuracy"])
        if row["val_loss"] is not None:
            text += f"  validation loss {row['val_loss']:.4f}"
            text += _percent("  accuracy", row["val_accuracy"])
        text += f"  lr {row['lr']:.3g}  {rate:,.0f} images/s  {row['seconds']:.1f} s"
        print(("\r\033[K" if self.live else "") + text, file=self.stream, flush=True)

    def say(self, text: str) -> None:
        if self.wanted:
            print(text, file=self.stream, flush=True)


def _percent(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {100 * value:.2f} %"
