"""What is around a PyTorch file's pickle: zips and legacy files that lie or are damaged."""

from __future__ import annotations

import io
import warnings
import zipfile

import numpy as np
from checkpoint_files import (
    ONES,
    dict_,
    legacy_file,
    pickled,
    read,
    refuses,
    simple_tensor,
    zip_file,
)

SIMPLE = dict_({"a": simple_tensor()})


def raw_zip(*members):
    """A zip whose members are (name, bytes), written as they come."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def test_zip_files_of_others(tmp_path):
    other = zip_file(SIMPLE, ONES, more=[("archive/constants.pkl", b"")])
    refuses(tmp_path, other, "TorchScript archive.*state_dict")
    refuses(tmp_path, zip_file(SIMPLE, ONES, more=[("b/data.pkl", b"")]), "holds 2 files data.pkl")
    refuses(tmp_path, zip_file(SIMPLE, ONES).replace(b"data.pkl", b"data.xyz"), "holds 0 files")
    refuses(tmp_path, zip_file(SIMPLE, ONES).replace(b"little", b"middle"), "checksum is wrong")
    refuses(tmp_path, zip_file(SIMPLE, {}), "storage '0' is missing")
    refuses(
        tmp_path, zip_file(SIMPLE, {"0": b"x" * 7}), "has 7 bytes, but 2 elements of F32 take 8"
    )
    twice = raw_zip(("a/data.pkl", pickled(SIMPLE)), ("a/data.pkl", pickled(SIMPLE)))
    refuses(tmp_path, twice, "holds a name twice")


def test_big_endian_files(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled(SIMPLE))
        archive.writestr("a/byteorder", "big")
    refuses(tmp_path, file.getvalue(), "big-endian")
    refuses(tmp_path, legacy_file(SIMPLE, ONES, little=False), "big-endian")


def test_compression_is_refused(tmp_path):
    """A zip bomb: what PyTorch writes is never compressed."""
    bomb = zip_file(SIMPLE, {"0": bytes(8)}, more=[("archive/data/1", bytes(10**6))],
                    compression=zipfile.ZIP_DEFLATED)  # fmt: skip
    refuses(tmp_path, bomb, "is compressed, which torch.save never does")


def directory_entry(content, name):
    """Where the entry of `name` begins in the zip's central directory."""
    position = content.index(b"PK\1\2")
    while content[position + 46 : position + 46 + len(name)] != name:
        position = content.index(b"PK\1\2", position + 1)
    return position


def test_members_that_overlap_are_refused(tmp_path):
    """The other zip bomb: many members with the same bytes."""
    value = dict_({"a": simple_tensor("0"), "b": simple_tensor("1")})
    content = bytearray(zip_file(value, {"0": bytes(8), "1": bytes(8)}))
    first, second = (directory_entry(content, b"archive/data/%d" % n) for n in (0, 1))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    refuses(tmp_path, bytes(content), "overlaps")


def test_members_beyond_the_file_and_paths_upwards(tmp_path):
    content = bytearray(zip_file(SIMPLE, ONES))
    place = directory_entry(content, b"archive/data/0")
    for at in (20, 24):  # both sizes
        content[place + at : place + at + 4] = (2**31).to_bytes(4, "little")
    refuses(tmp_path, bytes(content), "has 2147483648 bytes, but 2 elements")
    # A name is a name, not a path: nothing outside the archive is looked at.
    (tmp_path / "secret").write_bytes(bytes(8))
    value = dict_({"a": simple_tensor("../../secret")})
    refuses(tmp_path, zip_file(value, ONES), "storage '../../secret' is missing")
    inside = zip_file(value, {"../../secret": np.ones(2, np.float32)})
    assert read(tmp_path, inside)["a"].tolist() == [1, 1]
    assert (tmp_path / "secret").read_bytes() == bytes(8)


def test_checksums(tmp_path):
    content = zip_file(SIMPLE, ONES)
    data = np.ones(2, np.float32).tobytes()
    wrong = content.replace(data, np.zeros(2, np.float32).tobytes())
    refuses(tmp_path, wrong, "'archive/data/0' is damaged: its checksum is wrong")
    # torch.serialization.set_crc32_options(False) writes 0.
    place = directory_entry(wrong, b"archive/data/0")
    unchecked = wrong[: place + 16] + bytes(4) + wrong[place + 20 :]
    assert read(tmp_path, unchecked)["a"].tolist() == [0, 0]


def test_a_legacy_file_is_cut_short_behind_what_is_needed(tmp_path):
    value = dict_({"model": SIMPLE, "other": simple_tensor("1")})
    content = legacy_file(value, {**ONES, "1": ONES["0"]})
    assert list(read(tmp_path, content)) == ["a"]
    refuses(tmp_path, content[:-1], "cut short: storage '1' ends beyond the file")


def test_legacy_heads(tmp_path):
    refuses(tmp_path, b"", "neither a zip nor a pickle")
    refuses(tmp_path, b"hello", "neither a zip nor a pickle")
    refuses(tmp_path, bytes(257) + b"ustar" + bytes(300), "tar files")
    refuses(tmp_path, legacy_file(SIMPLE, ONES, magic=1), "without its magic number")
    refuses(tmp_path, legacy_file(SIMPLE, ONES, version=1000), "protocol is not 1001")
    refuses(tmp_path, legacy_file(SIMPLE, ONES, counts={"0": 3}), "has 3 elements, but 2 used")
    refuses(tmp_path, legacy_file(SIMPLE, ONES, counts={"0": -1}), "has -1 elements, but 2 used")
    refuses(tmp_path, legacy_file(SIMPLE, {}), "storage '0' is missing")
    unused = legacy_file(SIMPLE, {**ONES, "1": ONES["0"]})
    refuses(tmp_path, unused, "has one that is not used, or one twice")
