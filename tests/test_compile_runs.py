"""Runs of a plan: what is settled at compilation stays, and nothing is half written."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from support import normals

L = fc.layers


@pytest.mark.parametrize(("compiled", "current"), [("high", "highest"), ("highest", "high")])
def test_another_precision_or_number_of_threads_than_at_compilation(rng, compiled, current):
    """Recorded anew for other threads, a plan has the bits of its compilation's precision."""
    model = L.Conv2d(64, 64, 3, padding=1)
    x = fc.channels_last(normals((1, 64, 24, 24), rng))
    before = fc.get_num_threads()
    try:
        fc.set_num_threads(1)
        with fc.float32_precision(compiled):
            plan = fc.compile(model, x.shape)
        wanted = plan(x)
        with fc.float32_precision(current):
            assert not np.array_equal(fc.compile(model, x.shape)(x), wanted)
            fc.set_num_threads(2)
            assert np.array_equal(plan(x), wanted)
    finally:
        fc.set_num_threads(before)


class Two(L.Layer):
    def __init__(self):
        self.one, self.other = L.Linear(3, 4), L.Linear(3, 4)

    def forward(self, x):
        return self.one(x), self.other(x)


def test_results_must_not_overlap_each_other(rng):
    plan, x = fc.compile(Two(), (2, 3)), normals((2, 3), rng)
    wanted = plan(x)
    room = np.full((2, 8), np.nan, np.float32)
    for outs in ((room[:, :4], room[:, 2:6]), (room[:, :4], room[:, :4])):
        with pytest.raises(ValueError, match=r"plan: out overlaps out\[0\] in memory"):
            plan.run(x, out=outs)
    assert np.isnan(room).all()
    plan.run(x, out=(room[:, ::2], room[:, 1::2]))  # interleaved, but apart
    assert np.array_equal(room[:, ::2], wanted[0])
    assert np.array_equal(room[:, 1::2], wanted[1])
