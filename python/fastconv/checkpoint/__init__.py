"""Named arrays in files: fastconv's own safetensors, and what other frameworks saved.

Files may be hostile: every number in one is checked against the file before memory is allocated,
and no code in one is run. docs/weights.md says what is read and what is refused.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.checkpoint.caffe import read_binaryproto, read_caffemodel
from fastconv.checkpoint.files import atomic_file
from fastconv.checkpoint.pytorch import read_pytorch
from fastconv.checkpoint.safetensors import read_safetensors, write_safetensors

__all__ = [
    "TRAINING_PREFIX",
    "atomic_file",
    "read_checkpoint",
    "read_safetensors",
    "write_safetensors",
]

# In a training checkpoint these names are not the model's.
TRAINING_PREFIX = "training/"


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Read named arrays from a file that fastconv or others saved; runs no code of the file.

    Parameters
    ----------
    path : str or path
        The format follows from the name's end:

        ``.safetensors``
            Of a checkpoint of ``fc.fit`` the model's arrays are read.
        ``.npz``
            NumPy's.
        ``.pt .pth .th .bin .ckpt .tar``
            What ``torch.save`` wrote, zip or legacy: a state dict, or a dict that holds one under
            ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``module``. PyTorch is not
            needed. Names that share a storage there share memory here.
        ``.caffemodel``
            Caffe's networks; the first array of a layer is ``layer.weight``, the second
            ``layer.bias``.
        ``.binaryproto``
            Caffe's mean image: one array, ``mean``, of shape (C, H, W).

    Returns
    -------
    dict of str to numpy.ndarray
        bfloat16 is read as float32, which holds each of its values.

    Raises
    ------
    ValueError
        If the format is not known, or the file is damaged, or wants code to be run; the message
        says where and what.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import fastconv as fc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     np.savez(path, bias=np.zeros(3))
    ...     sorted(fc.read_checkpoint(path))
    ['bias']
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise ValueError(
            f"read_checkpoint: {path} ends in {suffix or 'nothing'!r}, but what is read ends in "
            f"{', '.join(_READERS)}"
        )
    return _READERS[suffix](path)


def _read_model(path: str | PathLike[str]) -> dict[str, Any]:
    arrays, _ = read_safetensors(path)
    return {n: a for n, a in arrays.items() if not n.startswith(TRAINING_PREFIX)}


def _read_npz(path: str | PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray):  # any member of a zip is given, as bytes
                    raise ValueError(f"its member {name!r} is no array")
            return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error


_READERS = {
    ".safetensors": _read_model,
    ".npz": _read_npz,
    **dict.fromkeys((".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"), read_pytorch),
    ".caffemodel": read_caffemodel,
    ".binaryproto": read_binaryproto,
}
