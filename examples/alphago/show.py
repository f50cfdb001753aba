"""Draw a position of a game with the network's favourite moves:

    python -m examples.alphago.show GAME.sgf --weights FILE --move N --out PICTURE.png

The circles are the network's favourites, the darker the likelier, with their probabilities in
percent; the square is the move that was played, the small ring the last move.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.alphago.board import BLACK, COLORS, WHITE, Board, points_of
from examples.alphago.policy import load_policy, probabilities
from examples.alphago.records import parse, positions, sources

COLUMNS = "ABCDEFGHJKLMNOPQRST"  # Go players leave out I
STARS = (3, 9, 15)
WOOD, INK, LIKED = "#e9c17c", "#3d2b12", "#1f6fb2"
SMALLEST = 0.02  # probability of a move that is still drawn


def find_position(path: str, game: str | None, number: int) -> tuple[str, Board, int]:
    """(the game's name, the position before its move ``number``, that move's point).

    Raises
    ------
    ValueError
        If there is no such game or move.
    """
    for name, raw in sources(path):
        if game is None or game in name:
            record = parse(raw, name)
            moves = 0
            for moves, (board, move) in enumerate(positions(record), 1):
                if moves == number:
                    return name, board, move
            raise ValueError(
                f"{name} has {moves} moves that are no pass, but move {number} is wanted"
            )
    raise ValueError(f"{path}: no game has {game!r} in its name")


def draw(axes: Any, board: Board, likely: NDArray[Any], played: int | None, count: int) -> None:
    """Draw a position on matplotlib axes, with the ``count`` likeliest moves of ``likely``."""
    size = board.geometry.size
    _draw_grid(axes, size)
    for color, face in ((BLACK, "#111111"), (WHITE, "#f7f7f2")):
        for point in points_of(board.stones[color]):
            _circle(axes, board.geometry.xy(point), 0.47, face=face, edge=INK, width=0.6)
    if board.recent and board.recent[0]:
        last = points_of(board.recent[0])[0]
        _circle(axes, board.geometry.xy(last), 0.22, face="none", edge="#d43a2f", width=1.6)
    best = likely.max() if likely.size else 0.0
    for place in np.argsort(-likely, axis=None, kind="stable")[:count]:
        x, y = divmod(int(place), size)
        share = float(likely[x, y])
        if share >= SMALLEST:
            strength = 0.3 + 0.7 * share / best
            _circle(axes, (x, y), 0.44, face=LIKED, edge="none", width=0, alpha=strength)
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                      color="white", zorder=5)  # fmt: skip
    if played is not None:
        x, y = board.geometry.xy(played)
        axes.plot(x, y, marker="s", markersize=14, markerfacecolor="none",
                  markeredgecolor="#d43a2f", markeredgewidth=1.6, zorder=6)  # fmt: skip


def _draw_grid(axes: Any, size: int) -> None:
    axes.set_facecolor(WOOD)
    for line in range(size):
        axes.plot([0, size - 1], [line, line], color=INK, linewidth=0.6, zorder=1)
        axes.plot([line, line], [0, size - 1], color=INK, linewidth=0.6, zorder=1)
    if size == 19:
        for x in STARS:
            for y in STARS:
                _circle(axes, (x, y), 0.1, face=INK, edge="none", width=0)
    axes.set_xticks(range(size), COLUMNS[:size])
    axes.set_yticks(range(size), range(size, 0, -1))
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlim(-0.7, size - 0.3)
    axes.set_ylim(size - 0.3, -0.7)  # SGF counts rows from the top
    axes.set_aspect("equal")


def _circle(
    axes: Any, place: tuple[int, int], radius: float, *, face: str, edge: str, width: float,
    alpha: float = 1.0,
) -> None:  # fmt: skip
    from matplotlib.patches import Circle

    patch = Circle(place, radius, facecolor=face, edgecolor=edge, linewidth=width, alpha=alpha)
    patch.set_zorder(3)
    axes.add_patch(patch)


def move_name(place: tuple[int, int], size: int = 19) -> str:
    """A point as players write it: (3, 3) is D16."""
    x, y = place
    return f"{COLUMNS[x]}{size - y}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.alphago.show", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("games", help=".sgf file, or a folder or .zip of them")
    parser.add_argument("--game", help="part of the game's name, where there are several")
    parser.add_argument("--move", type=int, default=30, help="show the position before it")
    parser.add_argument("--weights", required=True, help="of the network (.safetensors)")
    parser.add_argument("--favourites", type=int, default=8, help="most moves shown")
    parser.add_argument("--out", required=True, help="picture to write (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    try:
        name, board, played = find_position(args.games, args.game, args.move)
        model = load_policy(args.weights)
    except (ValueError, OSError) as error:
        print(f"show: {error}", file=sys.stderr)
        return 1
    picture(args.out, board, probabilities(model, board), played, args.favourites,
            f"{name}, before move {args.move}: {COLORS[board.to_move]} to play")  # fmt: skip
    return 0


def picture(
    path: str, board: Board, likely: NDArray[Any], played: int, count: int, title: str
) -> None:
    """Write the picture and say in words what it shows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 6.5), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, board, likely, played, count)
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=100)
    size = board.geometry.size
    order = np.argsort(-likely, axis=None, kind="stable")
    named = (divmod(int(place), size) for place in order[:count])
    shares = ", ".join(f"{move_name(p, size)} {100 * likely[p]:.1f} %" for p in named)
    x, y = board.geometry.xy(played)
    rank = 1 + int((likely > likely[x, y]).sum())
    print(f"{title}\nplayed: {move_name((x, y), size)}, favourite number {rank}\n"
          f"favourites: {shares}\n{path} written")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
