"""What the examples share: their arguments, the pictures' style, a photograph.

An example is a script of three functions: ``compute(settings)`` makes its figures with fastconv and
returns them as a dict, ``report(figures)`` words them, ``draw(figures)`` gives the picture. So the
figures can be had, and are tested, without drawing.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import matplotlib
    from matplotlib.cbook import get_sample_data
    from matplotlib.figure import Figure
    from PIL import Image
except ImportError as error:
    sys.exit(f"the examples draw with matplotlib: pip install '.[examples]' ({error})")

# Okabe and Ito's colours, told apart by every kind of colour vision (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, BLACK = "#CC79A7", "#56B4E9", "#8A8A8A", "#222222"
DOTS_PER_INCH = 100
LARGEST_BYTES = 120_000  # of a picture: they are part of every checkout

matplotlib.rcParams.update(
    {
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": "#DDDDDD",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


@dataclass(frozen=True)
class Settings:
    """``data``: a folder with data sets and published weights, or None; ``quick``: a short form."""

    data: Path | None = None
    quick: bool = False

    def find(self, name: str) -> Path | None:
        """The file or folder ``name`` in the data folder, None where it is missing."""
        path = None if self.data is None else self.data / name
        return path if path is not None and path.exists() else None


Compute = Callable[[Settings], dict[str, Any]]
Report = Callable[[dict[str, Any]], str]
Draw = Callable[[dict[str, Any]], Figure]


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """The arguments that all examples take."""
    made = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    made.add_argument("--out", default=out, help=f"where the picture goes (default: {out})")
    made.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder that may hold mnist/ (the four idx files), cifar10/ (the binary batches), "
        "checkpoints/ (weights that others published); without it a synthetic set is used",
    )
    made.add_argument("--quick", action="store_true", help="a short form, in seconds")
    return made


def main(compute: Compute, report: Report, draw: Draw) -> None:
    """Run the example that calls it: print its figures, write its picture."""
    script = sys.modules["__main__"]
    name = Path(str(script.__file__)).stem
    given = parser(script.__doc__, f"{name}.png").parse_args()
    if given.data is not None and not given.data.is_dir():
        sys.exit(f"{name}: --data {given.data}: there is no such folder")
    if not given.out.endswith(".png"):
        sys.exit(f"{name}: --out {given.out}: a name in .png is needed")
    if not Path(given.out).absolute().parent.is_dir():
        sys.exit(f"{name}: --out {given.out}: there is no such folder")
    found = compute(Settings(given.data, given.quick))
    print(report(found))
    save(draw(found), given.out)
    print(f"picture: {given.out}")


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG, of 256 colours where that is needed to keep it small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    image = Image.open(buffer).convert("RGB")
    image.save(path, optimize=True)
    if Path(path).stat().st_size > LARGEST_BYTES:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def new(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches, apart from pyplot's list of figures."""
    return Figure(figsize=(width, height))


def bare(axes: Any, title: str | None = None) -> None:
    """No ticks and no frame, for images."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


def photo(size: int) -> Any:
    """Grace Hopper (US Navy, public domain; comes with matplotlib): (1, 3, size, size), 0 to 1."""
    with get_sample_data("grace_hopper.jpg") as file:
        image = Image.open(file).convert("RGB")
        width = image.size[0]
        square = image.crop((0, 0, width, width)).resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(square, np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def as_image(x: Any) -> Any:
    """(1, 3, H, W) or (3, H, W) -> (H, W, 3), for imshow."""
    return np.clip(x.reshape(x.shape[-3:]).transpose(1, 2, 0), 0, 1)
