"""The suite on a CUDA device: ``python -m benchmarks --device cuda``.

fastconv's kernels beside PyTorch's (cuDNN with its autotuner on) on the same tensors, channels
last, random normal data. A sample is the time between two events around one call while the device
is kept busy before it (so that the host's part is hidden), after a write of twice the L2 cache (so
that operands come from memory). With ``--graph`` a second figure: the same call in a captured graph
of several, inputs rotated, per call. Every row is checked against float64 or PyTorch in float32
before it is timed.

``problems.py`` what is measured, ``rows.py`` the calls, ``clock.py`` the timing, ``run.py`` the
session and its JSON file.
"""

from .run import run

__all__ = ["run"]
