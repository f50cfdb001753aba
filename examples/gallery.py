"""Run all of the lecture's examples: prints their figures, writes their pictures into a folder.

Run it as ``python examples/gallery.py --out docs/images --data DIR``.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import figures

EXAMPLES = (
    "full_connectivity",
    "output_size",
    "parameters",
    "bottleneck",
    "neuron_view",
    "receptive_field",
    "pooling",
    "activation_maps",
    "vgg_memory",
    "fully_convolutional",
    "highway_gates",
    "all_convolutional",
)


def main() -> None:
    given = figures.parser(__doc__, "docs/images").parse_args()
    folder = Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    settings = figures.Settings(given.data, given.quick)
    for name in EXAMPLES:
        began = time.monotonic()
        example = importlib.import_module(name)
        found = example.compute(settings)
        figures.save(example.draw(found), folder / f"{name}.png")
        seconds = time.monotonic() - began
        print(f"== {name}, {seconds:.1f} s\n{example.report(found)}\n", flush=True)


if __name__ == "__main__":
    main()
