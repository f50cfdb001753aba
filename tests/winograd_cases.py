"""What the Winograd tests share: points and matrices, problems, error bounds."""

import math
from fractions import Fraction

from cases import CONV, conv

POINTS = {
    ("winograd2", 3): [Fraction(0), Fraction(1), Fraction(-1)],
    ("winograd4", 3): [Fraction(p) for p in ("0", "5/8", "-5/8", "3/2", "-3/2")],
    ("winograd4", 4): [Fraction(p) for p in ("0", "5/8", "-5/8", "3/2", "-3/2")],
    ("winograd2", 5): [Fraction(p) for p in ("0", "5/8", "-5/8", "3/2", "-3/2")],
    ("winograd6", 3): [Fraction(p) for p in ("0", "1/2", "-1/2", "1", "-1", "2", "-2")],
    ("winograd4", 5): [Fraction(p) for p in ("0", "1/2", "-1/2", "1", "-1", "2", "-2")],
}


def outputs(algorithm, r):
    """Of a tile along an axis; of the kernels that have 4 taps or runs of 4, F(3,4)."""
    return 3 if r == 4 else int(algorithm.removeprefix("winograd"))


def names(r):
    return [algorithm for algorithm, kernel in POINTS if kernel == r]


def taps_of(case):
    """5, or 3 with other kernels cut into subkernels of so many taps."""
    return 5 if case.r == case.s == 5 and case.stride == (1, 1) else 3


def error_bound(algorithm, r):
    """Relative L2, of what `auto` takes at the highest precision and what "high" allows beside."""
    return 2e-6 if len(POINTS[algorithm, r]) < 7 else 8e-6


def toom_cook(points, m, r):
    """A^T (m, alpha), G (alpha, r), B^T (alpha, alpha) of F(m, r) over `points` and infinity."""
    alpha = m + r - 1
    assert len(points) == alpha - 1

    def product(roots):
        poly = [Fraction(1)]
        for root in roots:  # multiply by (x - root); lowest power first
            poly = [
                (poly[i - 1] if i > 0 else 0) - root * (poly[i] if i < len(poly) else 0)
                for i in range(len(poly) + 1)
            ]
        return poly

    at, g, bt = [[] for _ in range(m)], [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = math.prod(p - q for q in others)
        bt.append([*product(others), Fraction(0)])
        g.append([p**j / scale for j in range(r)])
        for j in range(m):
            at[j].append(p**j)
    bt.append(product(points))
    g.append([Fraction(int(j == r - 1)) for j in range(r)])
    for j in range(m):
        at[j].append(Fraction(int(j == m - 1)))
    return at, g, bt


def toom_cook_of_an_edge(points, m, r, size):
    """A^T, G, B^T of a tile at the edge with `size` outputs, and the indices of its points.

    0, then pairs in order, and infinity where their number is even. G is the whole tile's: B^T
    makes up for the differences from the points left out that G divides by.
    """
    used = size + r - 1
    kept = points[: used - (used % 2 == 0)]
    at, _, bt = toom_cook(kept, size, r) if used % 2 == 0 else _finite(kept, size, r)
    _, g, _ = toom_cook(points, m, r)
    left = [q for q in points if q not in kept]
    for row, p in enumerate(kept):
        bt[row] = [math.prod(p - q for q in left) * entry for entry in bt[row]]
    index = [*range(len(kept)), len(points)] if used % 2 == 0 else [*range(len(kept))]
    return at, [g[i] for i in index], bt, index


def _finite(points, m, r):
    """Without infinity."""
    at, g, bt = toom_cook(points, m, r + 1)
    return [row[:-1] for row in at], g, [row[:-1] for row in bt[:-1]]


# Whole subkernels and those of fewer taps, several panels and blocks of depth, tiny maps.
SUBKERNELS = [
    conv("n2c19h13w12-k70r2s2-pad1"),
    conv("n1c130h9w10-k20r4s4-pad2"),
    conv("n3c12h14w13-k130r6s6-pad3-g2"),
    conv("n2c7h17w15-k9r7s7-pad3"),
    conv("n1c66h12w13-k65r9s9-pad4"),
    conv("n1c3h16w14-k5r11s10-pad5"),
    conv("n1c40h12w11-k64r8s8-pad4"),  # of 8x8 and 10x10 only the last taps are staged
    conv("n2c34h13w12-k65r10s10-pad5"),
    conv("n2c18h9w12-k24r2s7-pad0x3"),
    conv("n2c18h12w9-k24r8s3-pad4x1"),
    conv("n1c16h3w2-k16r6s5-pad2"),
]


# Forward folds their phases into channels: few, more than a chunk of weights, groups, wide padding.
FOLDED = [
    conv("n2c3h47w43-k70r11s11-st4-pad2"),
    conv("n2c1h20w23-k9r7s6-st3x2-pad3x1"),
    conv("n1c15h21w20-k20r5s4-st2x3-pad2"),
    conv("n2c24h17w16-k34r4s4-st2x1-pad1-g2"),
    conv("n1c4h14w12-k17r2s2-st2"),
    conv("n1c3h5w4-k16r9s8-st3x4-pad6"),
]
# Forward and grad_weight alone.
STRIDED = [
    conv("n2c19h13w12-k70r3s3-st2-pad1"),
    conv("n1c34h21w19-k64r5s5-st2-pad2"),
    conv("n3c12h17w18-k24r4s4-st2-pad1-g2"),
    conv("n1c66h23w20-k20r7s7-st2-pad3"),
    conv("n2c5h31w33-k9r11s11-st4-pad2"),
    conv("n2c18h9w12-k24r5s3-st3x1-pad2x1"),
    conv("n2c40h15w14-k65r8s9-st1x2-pad4"),
    *FOLDED,
]


def does_winograd(case):
    return min(case.r, case.s) > 1 and case.dilation == (1, 1)


def winograd_cases():
    usual = [case for case in CONV if does_winograd(case) and case.stride == (1, 1)]
    return [*usual, *SUBKERNELS]
