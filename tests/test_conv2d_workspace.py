"""Convolutions whose packed weights outgrow the workspace: tasks pack them, a block at a time.

So `auto`'s choice, and with it the bits, leave batch and threads alone.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import fastconv as fc
import numpy as np
import pytest
from strategies import machine
from support import available_isas, in_order

# More than 1 MB each: many taps, phases, depth blocks that end within a tap, few channels, groups,
# maps of one window, nothing but channels.
SHAPES = [
    ((16, 9, 9), (300, 16, 9, 9), {"padding": 4}),
    ((256, 8, 8), (330, 256, 3, 3), {"padding": 1, "stride": 2}),
    ((256, 12, 12), (320, 256, 3, 3), {}),
    ((3, 9, 9), (4096, 3, 5, 5), {"padding": 2}),
    ((8, 18, 18), (192, 8, 16, 16), {}),
    ((600, 7, 7), (520, 150, 3, 3), {"padding": 1, "groups": 4}),
    ((700, 5, 5), (330, 700, 3, 3), {"padding": 1}),
    ((128, 7, 7), (200, 128, 7, 7), {}),
    ((1000, 7, 7), (1000, 1000, 1, 1), {}),
    ((1000, 1, 1), (1000, 1000, 1, 1), {}),
]
DIRECTIONS = ("conv2d", "conv2d_grad_input")


def limited(expression: str) -> list[str]:
    """The lines of what an expression of this module gives where the workspace has 1 MB."""
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as here; "
    code += f"print(*here.{expression}, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240,
        env=os.environ | {"FASTCONV_WORKSPACE_MB": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def choices() -> list[str]:
    """What `auto` takes, over batches and threads, for each problem, direction and memory order."""
    lines = []
    for image, weight, arguments in SHAPES:
        for name, last in itertools.product(DIRECTIONS, (False, True)):
            found = set()
            for batch in (0, 1, 2, 8, 64, 256):
                shapes = operands(name, (batch, *image), weight, arguments)
                for threads in (1, 2, 4, 16, 64):
                    plan = fc.explain(
                        getattr(fc, name), *shapes, threads=threads, channels_last=last, **arguments
                    )
                    found.add(plan.algorithm)
            lines.append(" ".join(sorted(found)))
    return lines


def operands(name, x, weight, arguments):
    window = {key: value for key, value in arguments.items() if key != "groups"}
    if name == "conv2d":
        return x, weight
    return fc.conv2d_output_shape(x, weight, **window), weight, x


def digests(problem: int) -> list[str]:
    """Hashes of results by `direct`, a line for each direction, memory order, dtype and machine."""
    image, weight, arguments = SHAPES[problem]
    rng, lines, isas = np.random.default_rng(problem), [], available_isas()[:2]
    options = {**arguments, "algorithm": "direct"}
    for name in DIRECTIONS:
        first, *_, last = operands(name, (2, *image), weight, arguments)
        a, w = rng.standard_normal(first), rng.standard_normal(weight)
        for dtype, images, weights in (
            (np.float32, "C", "C"), (np.float32, "C", "channels_last"),
            (np.float32, "channels_last", "C"), (np.float32, "channels_last", "channels_last"),
            (np.float64, "C", "C"),
        ):  # fmt: skip
            arrays = in_order(a.astype(dtype), images), in_order(w.astype(dtype), weights)
            for isa, threads in itertools.product(isas, (1, 2)):
                with machine(isa, threads):
                    rest = (last,) if name == "conv2d_grad_input" else ()
                    y = getattr(fc, name)(*arrays, *rest, **options)
                    if name == "conv2d":
                        packed = fc.pack_weight(arrays[1], groups=arguments.get("groups", 1))
                        assert np.array_equal(y, fc.conv2d(arrays[0], packed, **options))
                digest = hashlib.sha256(np.ascontiguousarray(y)).hexdigest()[:16]
                lines.append(f"{name} {dtype.__name__} {images} {weights} {isa} {threads} {digest}")
    return lines


def test_the_choice_leaves_batch_and_threads_alone():
    found = limited("choices()")
    assert len(found) == 4 * len(SHAPES)
    for line in found:
        assert line in ("direct", "pointwise", "winograd2", "winograd4")


@pytest.mark.parametrize("problem", range(len(SHAPES)))
def test_the_bits_are_those_of_a_workspace_with_room(problem):
    assert limited(f"digests({problem})") == digests(problem)
