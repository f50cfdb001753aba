"""Damaged files: each reader reads, or raises a ValueError that names the file.

Bytes of a valid file are changed, taken out, put in or cut off; headers of safetensors are also
rewritten as JSON, since a random byte seldom leaves one that parses.
"""

from __future__ import annotations

import copy
import functools
import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
from pathlib import Path

import checkpoint_files as make
import fastconv as fc
import numpy as np
import pytest
import strategies as some
from fastconv.checkpoint import read_safetensors
from fastconv.data.cifar10 import load_cifar10
from fastconv.data.mnist import read_idx
from hypothesis import given
from hypothesis import strategies as st


def idx_bytes():
    return struct.pack(">4B2I", 0, 0, 0x0D, 2, 3, 4) + np.arange(12, dtype=">f4").tobytes()


HEADER = {
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "__metadata__": {"epoch": "3"},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
}


def safetensors_bytes(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(26))


@functools.cache
def valid(suffix):
    """A small valid file of each format."""
    if suffix == ".safetensors":
        return safetensors_bytes(HEADER)
    if suffix == ".npz":
        file = io.BytesIO()
        np.savez_compressed(file, a=np.arange(12.0).reshape(3, 4), b=np.zeros(2, np.int64))
        return file.getvalue()
    if suffix in (".pt", ".pth"):
        tensors = {
            "a": make.simple_tensor("0", "Float", (2, 3)),
            "b": make.tensor(make.storage("1", "BFloat16", 4), 1, (2,), (2,)),
        }
        storages = {"0": np.arange(6, dtype=np.float32), "1": np.arange(4, dtype=np.uint16)}
        form = make.zip_file if suffix == ".pt" else make.legacy_file
        return form(
            make.dict_({"epoch": make.number(3), "model": make.state_dict(tensors)}), storages
        )
    if suffix == ".caffemodel":
        weight, bias = make.blob(np.ones((2, 3, 1, 1))), make.blob(np.ones(2), old=True)
        linear = make.layer_v1("fc", 14, make.blob(np.ones((2, 2)), old=True))
        return make.layer("conv", "Convolution", weight, bias) + linear
    if suffix == ".binaryproto":
        return make.blob(np.ones((3, 2, 2), np.float32), old=True)
    if suffix == ".idx":
        return idx_bytes()
    if suffix == ".gz":
        return gzip.compress(idx_bytes(), mtime=0)
    batch = {b"data": np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8), b"labels": [1, 2]}
    raw, file = pickle.dumps(batch, protocol=2), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return file.getvalue()


READERS = {
    ".safetensors": read_safetensors,
    ".npz": fc.read_checkpoint,
    ".pt": fc.read_checkpoint,
    ".pth": fc.read_checkpoint,
    ".caffemodel": fc.read_checkpoint,
    ".binaryproto": fc.read_checkpoint,
    ".idx": read_idx,
    ".gz": read_idx,
    ".tar": load_cifar10,
}


def check(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        try:
            READERS[suffix](path)
        except ValueError as error:
            message = str(error)
        except FileNotFoundError as error:  # an archive that has lost a batch
            message = str(error)
        else:
            return
    # A member of an archive is named by itself.
    assert "file" in message or "batch" in message, message


@pytest.mark.parametrize("suffix", READERS)
@some.examples(150)
@given(data=st.data())
def test_damaged_bytes(suffix, data):
    content = bytearray(valid(suffix))
    # Headers are where it matters: half of the damage is in the first bytes, or in the last.
    for _ in range(data.draw(st.integers(1, 4), label="damages")):
        near = st.integers(0, min(200, len(content) - 1))
        place = data.draw(
            st.one_of(near, near.map(lambda n: -n - 1), st.integers(0, len(content) - 1))
        )
        place %= len(content)
        kind = data.draw(st.sampled_from(["change", "change", "cut", "take out", "put in"]))
        if kind == "change":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place + 1 :]
        elif kind == "take out":
            del content[place : place + data.draw(st.integers(1, 9))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        if not content:
            break
    check(suffix, bytes(content))


@pytest.mark.parametrize("form", [make.zip_file, make.legacy_file])
@some.examples(150)
@given(data=st.data())
def test_damaged_pickles(form, data):
    """Bytes of the pickle alone, so that a zip's checksum does not hide them."""
    value = bytearray(make.state_dict({"a": make.simple_tensor(), "b": make.simple_tensor("1")}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(value) - 1))
        operation = data.draw(st.sampled_from(b"tRubeas0QcK\x85\x86\x87h\x8a\x93\x94)]}(NX."))
        byte = data.draw(st.sampled_from([operation, operation, data.draw(st.integers(0, 255))]))
        if data.draw(st.booleans()):
            value[place] = byte
        else:
            value.insert(place, byte)
    ones = np.ones(2, np.float32)
    check(".pt", form(bytes(value), {"0": ones, "1": ones}))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 2, 24, -1, 2**31, 2**62, 2**63, 2**64, 10**30, 0.5, 24.0])
    | st.sampled_from(["", "F32", "F99", "BF16", "BOOL", "a.weight"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@some.examples(200)
@given(data=st.data())
def test_damaged_headers_of_safetensors(data):
    header = copy.deepcopy(HEADER)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        entry = header[name]
        value = data.draw(JSON)
        if isinstance(entry, dict) and entry and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(entry)))
            if isinstance(entry[key], list) and entry[key] and data.draw(st.booleans()):
                entry[key][data.draw(st.integers(0, len(entry[key]) - 1))] = value
            else:
                entry[key] = value
        else:
            header[name] = value
    check(".safetensors", safetensors_bytes(header))


def test_a_shape_of_0_and_of_far_too_many():
    for shape in ([0, 2**62], [2**62, 2**62, 0], [0] * 33):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        text = json.dumps(header).encode()
        check(".safetensors", struct.pack("<Q", len(text)) + text)
