"""safetensors and npz: round trips, the published format, damaged and hostile files."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
from fastconv.checkpoint import atomic_file, read_checkpoint, read_safetensors, write_safetensors

ARRAYS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.array([1.5, -2], np.float16),
    "count": np.array(7, np.int64),
    "flags": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
}


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ARRAYS, {"note": "hello"})
    back, metadata = read_safetensors(path)
    assert metadata == {"note": "hello"}
    assert set(back) == set(ARRAYS)
    for name, value in ARRAYS.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(back[name], value)
        assert back[name].flags.writeable


def test_strided_arrays_are_written_in_logical_order(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1].transpose(2, 0, 1)
    write_safetensors(tmp_path / "x.safetensors", {"a": array})
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x.safetensors")["a"], array)


def test_the_bytes_of_the_published_format(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.array([1.0, 2.0], np.float32)})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert json.loads(raw[8 : 8 + length]) == {"a": entry()}
    assert (8 + length) % 8 == 0
    assert raw[8 + length :] == np.array([1.0, 2.0], "<f4").tobytes()


def test_the_other_implementation_agrees(tmp_path):
    peer = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ARRAYS, {"note": "hello"})
    for name, value in peer.load_file(path).items():
        np.testing.assert_array_equal(value, ARRAYS[name])
    peer.save_file(ARRAYS, path)
    for name, value in read_checkpoint(path).items():
        np.testing.assert_array_equal(value, ARRAYS[name])


def test_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1.0, -2.5, np.inf, 2.0**-126], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"a": entry("BF16", (4,), (0, 8))}, bits))
    back = read_checkpoint(path)["a"]
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)


HOSTILE = {
    "nothing": b"",
    "short length": b"\x10\x00",
    "length beyond the file": file_of(b"{}", length=1000),
    "huge length": file_of(b"{}", length=2**63),
    "not JSON": file_of(b"{,}"),
    "not UTF-8": file_of(b"\xff\xfe"),
    "deep nesting": file_of(b"[" * 100_000),
    "an array": file_of(b"[]"),
    "name twice": file_of(b'{"a": 1, "a": 2}'),
    "entry is a number": file_of({"a": 1}),
    "entry lacks shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"x" * 8),
    "unknown dtype": file_of({"a": entry("F8_E4M3", (8,))}, b"x" * 8),
    "dtype is a list": file_of({"a": {**entry(), "dtype": []}}, b"x" * 8),
    "negative size": file_of({"a": entry(shape=(-1, -2))}, b"x" * 8),
    "size is text": file_of({"a": entry(shape=("2",))}, b"x" * 8),
    "size is true": file_of({"a": entry(shape=(True, 2))}, b"x" * 8),
    "size is a fraction": file_of({"a": entry(shape=(2.0,))}, b"x" * 8),
    "shape and bytes differ": file_of({"a": entry(shape=(3,))}, b"x" * 8),
    "huge shape": file_of({"a": entry(shape=(2**40, 2**40))}, b"x" * 8),
    "huge shape with huge offsets": file_of(
        {"a": entry(shape=(2**40,), offsets=(0, 2**42))}, b"x" * 8
    ),
    "too many axes of zero": file_of({"a": entry(shape=(0,) * 100, offsets=(0, 0))}),
    "beyond the data": file_of({"a": entry()}, b"x" * 7),
    "data left over": file_of({"a": entry()}, b"x" * 9),
    "hole": file_of({"a": entry(offsets=(4, 12))}, b"x" * 12),
    "overlap": file_of({"a": entry(), "b": entry(offsets=(4, 12))}, b"x" * 12),
    "metadata is a list": file_of({"__metadata__": []}),
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_damaged_and_hostile_files(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        read_checkpoint(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, ARRAYS)
    raw = path.read_bytes()
    for cut in range(0, len(raw), 7):
        path.write_bytes(raw[:cut])
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            read_checkpoint(path)


def test_npz(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.eye(2))
    back = read_checkpoint(tmp_path / "x.npz")
    np.testing.assert_array_equal(back["b"], np.eye(2))
    np.savez(tmp_path / "evil.npz", a=np.array([{}], object))
    raw = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with zipfile.ZipFile(tmp_path / "texts.npz", "w") as archive:
        archive.writestr("a.npy", (tmp_path / "x.npz").read_bytes()[:0])
        archive.writestr("readme.txt", "no array")
    np.savez(tmp_path / "mixed.npz", a=np.arange(3))
    with zipfile.ZipFile(tmp_path / "mixed.npz", "a") as archive:
        archive.writestr("readme.txt", "no array")
    for name in ("evil", "cut", "junk", "texts", "mixed"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is not a readable"):
            read_checkpoint(tmp_path / f"{name}.npz")


def test_missing_files_and_other_formats(tmp_path):
    for name in ("none.safetensors", "none.npz"):
        with pytest.raises(FileNotFoundError):
            read_checkpoint(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"'\.h5', but what is read ends in \.safetensors, \.npz, \.pt"
    ):
        read_checkpoint(tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"give a name in \.safetensors"):
        write_safetensors(tmp_path / "x.npz", ARRAYS)
    with pytest.raises(TypeError, match="complex128"):
        write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(2, complex)})
    assert os.listdir(tmp_path) == []


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.zeros(3, np.float32)})
    before = path.read_bytes()

    class Interrupted(Exception):
        pass

    def write_half():
        with atomic_file(path) as file:
            file.write(b"half")
            raise Interrupted

    with pytest.raises(Interrupted):
        write_half()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]
