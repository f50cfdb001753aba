"""The suite on a CUDA device: ``python -m benchmarks --device cuda``.

fastconv's kernels beside PyTorch's (cuDNN with its autotuner on) on the same tensors, channels
last, random normal data. A sample is the time between two events around one call, after a read of
three times the L2 cache (so that operands come from memory) and a wait on the device (so that the
host's part is hidden; it is measured by itself). With ``--graph`` a second figure: the same call in
a captured graph of several, inputs rotated, per call. Every row is checked before it is timed:
against PyTorch in float64, 16-bit operands in float32; with ``--quick`` against PyTorch's own.

``rows.py`` the calls of layers, ``families`` those of what memory bounds, ``networks.py`` whole
networks; ``checks.py`` the errors, ``clock.py`` the timing, ``run.py`` the session and its JSON
file, ``summary.py`` its tables.
"""
