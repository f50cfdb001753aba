"""``python -m fastconv classify MODEL IMAGE... --weights FILE``: what is in these pictures."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PYTORCH = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
BATCH = 8


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "classify",
        help="name what is in image files, with weights from here or elsewhere",
        description="Name what is in image files. docs/weights.md: formats, whose weights want "
        "which preprocessing.",
    )
    parser.add_argument("model", help="name of a network, such as googlenet")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="what fc.read_checkpoint reads: .safetensors, .npz, .pth, .caffemodel ...",
    )
    parser.add_argument("--top", type=int, default=5, help="classes an image (default: 5)")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes, a line each (default: ImageNet's, CIFAR-10's, digits)",
    )
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="a name of fc.data.PREPROCESSINGS (default: by the network and the weights' names)",
    )
    parser.add_argument(
        "--mean",
        help="in place of the preprocessing's: numbers for the channels (104,117,123), or a mean "
        "image (.binaryproto, .npy)",
    )
    parser.add_argument("--std", help="in place of the preprocessing's, likewise")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.checkpoint import read_checkpoint
    from fastconv.data.images import pillow
    from fastconv.models import find

    try:
        pillow("classify")
    except ImportError as error:
        raise ValueError(str(error)) from None
    if args.top < 1:
        raise ValueError(f"--top {args.top}: at least 1 is needed")
    entry = find(args.model)
    if entry.image_shape[0] not in (1, 3):
        raise ValueError(f"{args.model} takes {entry.image_shape[0]} planes, which no image has")
    labels = _labels(args, entry)
    state = read_checkpoint(args.weights)
    model, from_caffe = _model(entry, state, args, len(labels))
    name = args.preprocessing or _preprocessing_name(args, entry, from_caffe)
    prepare = _preprocessing(name, entry.image_shape[1:], args)
    print(f"{args.model} with {args.weights}, images as for {name!r}")
    failed = 0
    for begin in range(0, len(args.images), BATCH):
        failed += _classify(model, prepare, labels, args.images[begin : begin + BATCH], args.top)
    return 2 if failed else 0


def _classify(
    model: Any, prepare: Any, labels: Sequence[str], paths: Sequence[str], top: int
) -> int:
    """Print the classes of some images; the number of those that could not be read."""
    import numpy as np

    from fastconv import ops

    inputs = {}
    failed = 0
    for path in paths:
        try:
            inputs[path] = prepare(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            failed += 1
    if not inputs:
        return failed
    logits = model(np.stack(list(inputs.values())))
    for path, row in zip(inputs, ops.softmax(logits)):
        print(path)
        for number in np.argsort(-row, kind="stable")[:top]:
            print(f"  {100 * row[number]:6.2f} %  {number:4}  {labels[number]}")
    return failed


def _labels(args: argparse.Namespace, entry: Any) -> Sequence[str]:
    """Names of the classes, whose number is the network's number of outputs."""
    from fastconv import data
    from fastconv.data.cifar10 import CLASSES
    from fastconv.data.imagenet import read_class_names

    if args.labels:
        return read_class_names(args.labels)
    channels, height, _ = entry.image_shape
    if channels == 1:
        return tuple("0123456789")
    return CLASSES if height == 32 else data.imagenet_classes()


def _model(
    entry: Any, state: Mapping[str, Any], args: argparse.Namespace, classes: int
) -> tuple[Any, bool]:
    """The network with its weights, and whether they are Caffe's."""
    from fastconv import init
    from fastconv.layers.state import from_caffe

    known = inspect.signature(entry.build).parameters
    options: dict[str, Any] = {"num_classes": classes}
    if "aux_logits" in known:  # heads for training, which some files have and some lack
        options["aux_logits"] = any(re.search(r"(^|\.)(aux|loss)1[./]", name) for name in state)
    suffix = Path(args.weights).suffix.lower()
    # AlexNet's own names are Caffe's; what fastconv saves of it was trained here.
    is_caffe = suffix == ".caffemodel" or (args.model == "alexnet" and suffix != ".safetensors")
    if is_caffe and "response_norm" in known:
        options["response_norm"] = "caffe"
    with init.skipped():
        model = entry.build(**options)
    is_caffe = is_caffe or bool(from_caffe(state, model.caffe_layers).keys() - state.keys())
    model.load_state_dict(state)
    return model.eval(), is_caffe


def _preprocessing_name(args: argparse.Namespace, entry: Any, from_caffe: bool) -> str:
    """Whose weights these seem to be; docs/weights.md has the table."""
    channels, height, _ = entry.image_shape
    if args.model in ("caffe_lenet", "cifar10_quick"):
        return "caffe_mnist" if channels == 1 else "caffe_cifar10"
    if channels == 1:
        return "mnist"
    if height == 32:
        is_pytorch = Path(args.weights).suffix.lower() in PYTORCH
        return "image_folder" if is_pytorch else "cifar10"
    if from_caffe:
        return "caffe_vgg" if args.model.startswith("vgg") else "caffe"
    return "inception" if args.model == "googlenet_torchvision" else "torchvision"


def _preprocessing(name: str, size: tuple[int, int], args: argparse.Namespace) -> Any:
    from fastconv.data import PREPROCESSINGS

    if name not in PREPROCESSINGS:
        raise ValueError(f"--preprocessing {name}: known are {', '.join(PREPROCESSINGS)}")
    changes = {
        key: _numbers(f"--{key}", text, size)
        for key, text in (("mean", args.mean), ("std", args.std))
        if text is not None
    }
    return replace(PREPROCESSINGS[name], size=size, **changes)


def _numbers(option: str, text: str, size: tuple[int, int]) -> Any:
    """Numbers between commas, or the middle of the image in a file."""
    import numpy as np

    from fastconv.checkpoint import read_checkpoint

    if text.lower().endswith(".binaryproto"):
        image = read_checkpoint(text)["mean"]
    elif text.lower().endswith(".npy"):
        image = np.load(text, allow_pickle=False)
    else:
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            raise ValueError(f"{option} {text}: numbers such as 104,117,123 are needed") from None
        return values[0] if len(values) == 1 else values
    if image.ndim != 3 or image.shape[1] < size[0] or image.shape[2] < size[1]:
        raise ValueError(f"{option} {text}: {image.shape}, but (C, {size[0]}, {size[1]}) is needed")
    top, left = ((full - cut) // 2 for full, cut in zip(image.shape[1:], size))
    return image[:, top : top + size[0], left : left + size[1]]
