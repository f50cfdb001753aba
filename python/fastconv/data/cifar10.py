"""CIFAR-10 (Krizhevsky, TR 2009) in its two official forms, from a folder or the archive itself.

Binary: records of 3,073 bytes, a label and the red, green and blue planes of 32x32. Python: pickles
of {b"data": (10000, 3072) uint8, b"labels": list}. The pickles are read by an unpickler that knows
only byte arrays and makes nothing else, so that a hostile file runs no code.
"""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.data.dataset import Dataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD_BYTES = 1 + 3 * 32 * 32
MAX_FILE_BYTES = 1 << 30
# What the readers of damaged archives raise: zlib, gzip, lzma, and seeks beyond 63 bits.
_DAMAGED = (
    tarfile.TarError, EOFError, OSError, OverflowError, ValueError, zlib.error, lzma.LZMAError
)  # fmt: skip

# Of the 50,000 training images, scaled to 0..1.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Arrays = tuple[Any, Any]


def load_cifar10(path: str | PathLike[str]) -> tuple[Dataset, Dataset]:
    """(training, test) sets of CIFAR-10.

    Parameters
    ----------
    path : str or path
        A folder with ``data_batch_1`` ... and ``test_batch`` (python) or the same with ``.bin`` or
        ``.bin.gz`` (binary), at any depth, or a tar archive of one. Batches that are missing are
        left out, at least one of each set must be there.

    Returns
    -------
    (Dataset, Dataset)
        Images (3, 32, 32), uint8, channels last in memory.
    """
    found: dict[str, Arrays] = {}
    for name, read in _files(Path(path)):
        match = re.fullmatch(
            r"(data_batch_[1-5]|test_batch)((?:\.bin)?)((?:\.gz)?)", Path(name).name
        )
        if match:
            raw = _gunzip(name, read()) if match[3] else read()
            parse = parse_binary if match[2] else parse_pickle
            if match[1] in found:
                raise ValueError(f"{path}: {match[1]} is there twice, e.g. as {name}")
            found[match[1]] = parse(raw, name)
    training = [found[name] for name in sorted(found) if name != "test_batch"]
    if not training or "test_batch" not in found:
        raise FileNotFoundError(
            f"{path}: data_batch_1 ... and test_batch (or .bin) are needed, found "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    return _dataset(training), _dataset([found["test_batch"]])


def read_cifar10_binary(path: str | PathLike[str]) -> Dataset:
    """One file of binary records, gzip if its name ends in .gz."""
    raw = Path(path).read_bytes()
    images, labels = parse_binary(_gunzip(path, raw) if str(path).endswith(".gz") else raw, path)
    return _dataset([(images, labels)])


def _dataset(parts: list[Arrays]) -> Dataset:
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    stored = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return Dataset(stored, labels, mean=MEAN, std=STD, classes=CLASSES)


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, function that reads it) of each file of a folder or tar archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*_batch*")):
            if file.is_file():
                yield str(file), file.read_bytes
        return
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isfile():
                    yield f"{path}/{member.name}", lambda m=member: _member_bytes(archive, m)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # there is no such file
            raise
        raise ValueError(
            f"{path} is neither a folder nor a readable tar archive: {error}"
        ) from error


def _member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE_BYTES:
        raise ValueError(
            f"{archive.name!r}: {member.name} has {member.size} bytes, more than any batch of "
            f"CIFAR-10"
        )
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    try:
        return file.read()
    except _DAMAGED as error:
        raise ValueError(f"{archive.name!r}: {member.name} is damaged: {error}") from error


def _gunzip(name: Any, raw: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: the gzip data are damaged: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: more than {MAX_FILE_BYTES} bytes")
    return data


def parse_binary(raw: bytes, name: Any = "data") -> Arrays:
    """(images, labels) of binary records."""
    if not raw or len(raw) % RECORD_BYTES:
        raise ValueError(
            f"{name}: {len(raw)} bytes, but a multiple of {RECORD_BYTES} is needed "
            f"({len(raw) // RECORD_BYTES} records and {len(raw) % RECORD_BYTES} bytes)"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, RECORD_BYTES)
    return _checked(name, records[:, 1:], records[:, 0])


def _checked(name: Any, pixels: Any, labels: Any) -> Arrays:
    numbers = np.asarray(labels)
    if numbers.shape != (len(pixels),) or numbers.dtype.kind not in "iu":
        raise ValueError(f"{name}: {numbers.shape} labels for {len(pixels)} images")
    for number in (int(numbers.min()), int(numbers.max())):
        if not 0 <= number <= 9:
            raise ValueError(f"{name}: label {number}, but 0 to 9 are known")
    return pixels.reshape(-1, 3, 32, 32), numbers.astype(np.int64)


def parse_pickle(raw: bytes, name: Any = "data") -> Arrays:
    """(images, labels) of a python batch."""
    try:
        batch = ByteArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()
        pixels, labels = batch[b"data"].array(), [int(label) for label in batch[b"labels"]]
    except Exception as error:  # a hostile pickle can raise anything
        raise ValueError(f"{name} is not a readable batch of CIFAR-10: {error!r}") from error
    if pixels.ndim != 2 or pixels.shape[1] != RECORD_BYTES - 1 or not len(pixels):
        raise ValueError(f"{name}: data has shape {pixels.shape}, but (M, 3072) is needed")
    return _checked(name, pixels, labels)


class ByteArrayUnpickler(pickle.Unpickler):
    """Knows NumPy's three names of a pickled array, as stand-ins that only take down what is
    said."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return _Stored
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return _Dtype if name == "dtype" else _Stored
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return _Latin1
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent ids are not allowed")


class _Latin1:
    """Makes bytes, not itself. A class with ``__setstate__``, since a pickle could set attributes
    of a function."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"bytes in {encoding!r} are not allowed")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    def __init__(self, code: Any, *rest: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass


class _Stored:
    """A pickled array: (version, shape, dtype, fortran order, bytes)."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Any:
        _, shape, dtype, fortran, raw = self.state
        if dtype.code not in ("u1", "|u1"):
            raise ValueError(f"data of type {dtype.code!r}, but bytes (u1) are needed")
        data = raw.encode("latin-1") if isinstance(raw, str) else raw
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
