"""The command line. Imports neither NumPy nor a peer: ``prepare_environment`` comes first."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

LAYER_DIRECTIONS = ("forward", "forward_indices", "backward", "grad_input", "grad_weight")
DIRECTIONS = (*LAYER_DIRECTIONS, "forward_packed", "step")
TRAINING_PEERS = ["fastconv", "pytorch"]
LAYER_PEERS = ["fastconv", "pytorch", "numpy"]
NETWORK_PEERS = ["fastconv", "pytorch", "onnxruntime", "openvino", "ncnn", "mnn"]
QUICK_SECONDS = 110.0  # all of --quick ends within two minutes
CUDA_DTYPES = ("bfloat16", "float16", "float32", "high", "tf32")
CUDA_QUICK = ["resnet50_v1_5", "vgg16", "alphago_policy_192", "alexnet", "googlenet_v1"]
CUDA_QUICK_SECONDS = 140.0


def parser() -> argparse.ArgumentParser:
    """All options, with what they take when not given."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures fastconv beside NumPy and PyTorch on the layers of known networks. "
        "Every implementation is checked before it is timed.",
    )
    what = top.add_argument_group("what is measured")
    what.add_argument("--suite", type=_names, metavar="NAMES", help="networks or collections (--list names them); all, or quick with --quick")  # fmt: skip  # noqa: E501
    what.add_argument("-k", dest="pattern", default="", metavar="PATTERN", help="only problems whose name contains it (* is allowed; several with commas)")  # fmt: skip  # noqa: E501
    what.add_argument("--batch", type=_numbers, metavar="NUMBERS", help="images in a call (1)")  # fmt: skip  # noqa: E501
    what.add_argument("--direction", type=_directions, metavar="NAMES", help=f"of {', '.join(DIRECTIONS)} (the first three; of the suite training the last)")  # fmt: skip  # noqa: E501
    what.add_argument("--algorithms", type=_names, default=["auto", "im2col", "naive"], metavar="NAMES", help="fastconv's, by name (auto,im2col,naive)")  # fmt: skip  # noqa: E501
    what.add_argument("--orders", choices=["both", "channels_last", "c"], default="both", help="memory orders (both)")  # fmt: skip  # noqa: E501
    what.add_argument("--peers", type=_names, metavar="NAMES", help="libraries (fastconv,pytorch,numpy; for the suite networks fastconv,pytorch and every runtime)")  # fmt: skip  # noqa: E501
    what.add_argument("--layers", action="store_true", help="of the suite networks: also each step of fastconv's plan, its floor and its time")  # fmt: skip  # noqa: E501
    how = top.add_argument_group("how")
    how.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    how.add_argument("--threads", type=int, metavar="N", help="for every library (all processors)")
    how.add_argument("--isa", choices=["scalar", "avx2", "avx512", "amx"], help="limit fastconv and PyTorch to it")  # fmt: skip  # noqa: E501
    how.add_argument("--own-process", type=_names, metavar="PEERS", help="run these peers in processes of their own (none; for the suite networks all others)")  # fmt: skip  # noqa: E501
    how.add_argument("--quick", action="store_true", help="few layers, few samples, under two minutes; on cuda every layer of five networks in bfloat16 at batch 32, 256 and 1, some two minutes")  # fmt: skip  # noqa: E501
    how.add_argument("--seconds", type=float, metavar="S", help="sampling time for one problem (2, quick 0.6)")  # fmt: skip  # noqa: E501
    how.add_argument("--tolerance", type=float, default=0.03, metavar="R", help="stop when the ratio's interval is this narrow (0.03)")  # fmt: skip  # noqa: E501
    how.add_argument(
        "--time-limit", type=float, metavar="S", help="begin no further problem after this"
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of samples (0)")
    cuda = top.add_argument_group("with --device cuda")
    cuda.add_argument("--dtypes", type=_dtypes, metavar="NAMES", help=f"of {', '.join(CUDA_DTYPES)} (bfloat16,float32)")  # fmt: skip  # noqa: E501
    cuda.add_argument("--samples", type=int, metavar="N", help="of each row (9, quick 3)")
    cuda.add_argument("--kernels", action="store_true", help="also force every kernel by name")
    cuda.add_argument("--memory-bound", action="store_true", help="also what memory bounds: element-wise functions, normalization, losses, copies, SGD; alone where no suite is given")  # fmt: skip  # noqa: E501
    cuda.add_argument("--graph", action="store_true", help="also time a replayed graph of calls")
    cuda.add_argument("--max-autotune", action="store_true", help="networks also by torch.compile(mode='max-autotune'), minutes of compiling each")  # fmt: skip  # noqa: E501
    out = top.add_argument_group("output")
    out.add_argument(
        "--list", action="store_true", help="name suites and problems, measure nothing"
    )
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything, every sample too")
    out.add_argument("--compare", type=Path, nargs="+", metavar=("OLD", "NEW"), help="compare with OLD.json after the run, or two files; exit code 1 where a row is slower, 2 where nothing can be compared")  # fmt: skip  # noqa: E501
    out.add_argument("--fail", type=float, default=5.0, metavar="PERCENT", help="what counts as slower (5)")  # fmt: skip  # noqa: E501
    return top


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"a batch is at least 1, not {min(numbers)}")
    return numbers


def _directions(text: str) -> list[str]:
    return _known(text, DIRECTIONS)


def _dtypes(text: str) -> list[str]:
    return _known(text, CUDA_DTYPES)


def _known(text: str, known: tuple[str, ...]) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with what --quick changes filled in."""
    top = parser()
    options = top.parse_args(arguments)
    if options.compare and len(options.compare) > 2:
        top.error("--compare takes one or two files")
    if options.threads is not None and options.threads < 1:
        top.error(f"--threads {options.threads}: at least 1")
    if options.device == "cuda" and (
        options.layers or "forward_packed" in (options.direction or ())
    ):
        top.error("--layers and --direction forward_packed are for the CPU")
    quick = options.quick
    if options.device == "cuda":
        _fill_in_cuda(options)
    options.batch = options.batch or [1]
    options.suite = options.suite or (["quick"] if quick else ["all"])
    networks = "networks" in options.suite
    training = options.suite == ["training"]
    peers = (
        ["fastconv"]
        if options.layers
        else NETWORK_PEERS
        if networks
        else TRAINING_PEERS
        if training
        else LAYER_PEERS
    )
    options.peers = options.peers or peers
    if options.own_process is None:
        options.own_process = options.peers[1:] if networks else []
    if options.layers and not networks:
        top.error("--layers takes networks apart: add --suite networks")
    if options.layers and ("fastconv" not in options.peers or "fastconv" in options.own_process):
        top.error("--layers measures fastconv in this process: name it first in --peers")
    on_device = options.device == "cuda"
    directions = (*LAYER_DIRECTIONS, "step") if on_device else LAYER_DIRECTIONS[:3]
    options.direction = options.direction or (["step"] if training else list(directions))
    options.seconds = options.seconds or (0.6 if quick else 2.0)
    if quick and options.time_limit is None:
        options.time_limit = QUICK_SECONDS
    return options


def _fill_in_cuda(options: argparse.Namespace) -> None:
    """What is measured on a device where nothing else is asked for."""
    if options.quick:
        options.suite = options.suite or CUDA_QUICK
        options.batch = options.batch or [32, 256, 1]
        options.dtypes = options.dtypes or ["bfloat16"]
        options.direction = options.direction or ["forward", "grad_input", "grad_weight"]
        options.samples = options.samples or 3
        options.time_limit = options.time_limit or CUDA_QUICK_SECONDS
    elif options.memory_bound:
        options.batch = options.batch or [32]
        options.suite = options.suite or ["none"]
    options.dtypes = options.dtypes or ["bfloat16", "float32"]
    options.samples = options.samples or 9


def prepare_environment(threads: int) -> None:
    """NumPy's matrix products take their number of threads from here, at its import."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
