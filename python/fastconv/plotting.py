"""Curves of training runs, drawn by matplotlib (``pip install matplotlib``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from typing import Any

from fastconv.history import History

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: str | PathLike[str]) -> None:
    """Raise what ``plot_histories`` would, before a training rather than after it."""
    if not os.fspath(path).endswith(SUFFIXES):
        raise ValueError(f"plot: {os.fspath(path)!r} does not end in {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "plot: matplotlib is not installed (python -m pip install matplotlib)"
        ) from None


def plot_histories(
    histories: Mapping[str, History],
    path: str | PathLike[str],
    *,
    title: str = "",
) -> None:
    """Draw runs over their epochs: loss, error and learning rate.

    Training is dashed and validation solid, as in He et al. 2015, figure 6; the training error is
    that of the augmented images while the weights move. What a run did not measure is left out.

    Parameters
    ----------
    histories : mapping of str to History
        Runs under their names.
    path : str or path
        File to write: .png, .svg or .pdf.
    title : str

    Raises
    ------
    ValueError
        If there is nothing to draw, the file's suffix is another, or matplotlib is missing.

    Examples
    --------
    >>> from fastconv.history import History
    >>> from fastconv.plotting import plot_histories
    >>> history = History.from_csv("run.csv")  # doctest: +SKIP
    >>> plot_histories({"cifar_resnet20": history}, "run.png")  # doctest: +SKIP
    """
    check(path)
    if not any(len(history) for history in histories.values()):
        raise ValueError("plot: the runs have no finished epochs")
    # Not pyplot: it would choose a display and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, error, rate = figure.subplots(1, 3)
    for index, (name, history) in enumerate(histories.items()):
        color = f"C{index % 10}"
        _curve(loss, history, "val_loss", f"{name} validation", color=color)
        _curve(loss, history, "loss", f"{name} training", color=color, linestyle="--")
        _curve(error, history, "val_accuracy", f"{name} validation", color=color)
        _curve(error, history, "accuracy", f"{name} training", color=color, linestyle="--")
        _curve(rate, history, "lr", name, color=color, drawstyle="steps-mid")
    loss.set_ylabel("loss")
    error.set_ylabel("error (%)")
    rate.set_ylabel("learning rate")
    for axes in (loss, error, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    rate.set_yscale("log")
    error.set_ylim(bottom=0)
    loss.set_ylim(bottom=0)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    if title:
        figure.suptitle(title)
    figure.savefig(os.fspath(path), dpi=110)


def _curve(axes: Any, history: History, column: str, label: str, **style: Any) -> None:
    """One column over the epochs; an accuracy as the error in percent."""
    rows = [row for row in history if row.get(column) is not None]
    if not rows:
        return
    values = [row[column] for row in rows]
    if "accuracy" in column:
        values = [100 * (1 - value) for value in values]
    marker = "." if len(rows) == 1 else None  # a line needs two points
    axes.plot([row["epoch"] for row in rows], values, label=label, marker=marker, **style)
