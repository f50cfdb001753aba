"""fastconv's benchmark suite, run from a checkout as ``python -m benchmarks``; it is not installed.

One file a concern:

- ``shapes``       the layers of the networks, how often each occurs, and named suites of them
- ``operations/``  one file an operation: its arithmetic, its operands, its expected values
- ``problems``     a layer x batch x direction, and the list that a command line asks for
- ``checking``     an implementation is checked before it is timed; a wrong one is never timed
- ``machine``      what this machine is, and what it can do at this moment (peak, bandwidth, ping)
- ``timing``       interleaved rounds, quiet threads, and when to stop
- ``statistics``   medians, intervals of ratios, geometric means
- ``peers/``       one file a library: how each problem is put to it
- ``report``, ``summary``     the table, and what a run's end prints
- ``results``, ``compare``   the JSON file, two JSON files side by side
"""
