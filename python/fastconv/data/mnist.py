"""MNIST and the idx format (http://yann.lecun.com/exdb/mnist): plain or gzip files.

idx: two zero bytes, a type byte, the number of axes, each axis as a big-endian uint32, the values
(big-endian). The header is checked against the file's length; nothing is ever downloaded.
"""

from __future__ import annotations

import gzip
import math
import zlib
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastconv.data.dataset import Dataset

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK_BYTES = 1 << 24

# Of the 60,000 training images, scaled to 0..1.
MEAN, STD = 0.1307, 0.3081


def read_idx(path: str | PathLike[str]) -> Any:
    """Read one idx file, gzip if its name ends in .gz.

    Returns
    -------
    numpy.ndarray
        Of the type and shape that the header gives.

    Raises
    ------
    ValueError
        If the file is damaged: not idx, cut short, or longer than its header says.
    """
    open_file: Any = gzip.open if str(path).endswith(".gz") else open
    try:
        with open_file(path, "rb") as file:
            return _read_idx(path, file)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: the gzip data are damaged: {error}") from error


def _read_idx(path: Any, file: IO[bytes]) -> Any:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES:
        raise ValueError(f"{path} is not an idx file: it begins with {head.hex(' ')}")
    axes = file.read(4 * head[3])
    if len(axes) < 4 * head[3]:
        raise ValueError(f"{path}: cut short within the header")
    shape = tuple(int(n) for n in np.frombuffer(axes, ">u4"))
    dtype = np.dtype(TYPES[head[2]])
    wanted = math.prod(shape) * dtype.itemsize
    # In chunks, so that a header that lies costs no more memory than the file holds.
    chunks, have = [], 0
    while have <= wanted:
        chunk = file.read(min(CHUNK_BYTES, wanted - have + 1))
        if not chunk:
            break
        chunks.append(chunk)
        have += len(chunk)
    if have != wanted:
        more = "more" if have > wanted else f"{have}"
        raise ValueError(
            f"{path}: the header says {shape} of {dtype.name}, {wanted} bytes, but {more} follow"
        )
    return np.frombuffer(b"".join(chunks), dtype).reshape(shape).astype(dtype.newbyteorder("="))


def load_mnist(directory: str | PathLike[str]) -> tuple[Dataset, Dataset]:
    """(training, test) sets from a folder that holds the four files of MNIST, or of Fashion-MNIST.

    Parameters
    ----------
    directory : str or path
        With ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``,
        each plain or with ``.gz``.

    Returns
    -------
    (Dataset, Dataset)
        60,000 and 10,000 images of (1, 28, 28), uint8.
    """
    return _load(directory, "train"), _load(directory, "t10k")


def _load(directory: str | PathLike[str], part: str) -> Dataset:
    images_path = _find(directory, f"{part}-images", "idx3-ubyte")
    labels_path = _find(directory, f"{part}-labels", "idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(
            f"{images_path}: {images.shape} of {images.dtype}, but (M, H, W) of uint8 is needed"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{labels_path}: {labels.shape} labels for {len(images)} images")
    for number in (int(labels.min()), int(labels.max())) if labels.size else ():
        if not 0 <= number <= 9:
            raise ValueError(f"{labels_path}: label {number}, but 0 to 9 are known")
    return Dataset(
        images[:, None], labels.astype(np.int64), mean=MEAN, std=STD, classes=tuple("0123456789")
    )


def _find(directory: str | PathLike[str], stem: str, kind: str) -> Path:
    # Both spellings are found in the wild.
    names = [f"{stem}{dot}{kind}{gz}" for dot in ("-", ".") for gz in ("", ".gz")]
    for name in names:
        if (Path(directory) / name).is_file():
            return Path(directory) / name
    raise FileNotFoundError(f"none of {', '.join(names)} is in {directory}")
