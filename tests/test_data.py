"""Data sets: parsers on small files made here, damaged and hostile files, order, augmentation."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from fastconv import data
from fastconv.__main__ import main
from fastconv.data import cifar10
from fastconv.data.cifar10 import parse_pickle
from support import shared_data


def idx_bytes(array, code=0x08):
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(folder, compress=True, train=5, test=3):
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            raw = idx_bytes(array)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(raw) if compress else raw)


# idx and MNIST


@pytest.mark.parametrize(
    ("dtype", "code"), [("u1", 8), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)]
)
def test_idx_types(tmp_path, dtype, code):
    array = np.arange(12).reshape(2, 3, 2).astype(dtype)
    (tmp_path / "x.idx").write_bytes(idx_bytes(array, code))
    back = data.read_idx(tmp_path / "x.idx")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("compress", [True, False])
def test_mnist_folder(tmp_path, compress):
    write_mnist(tmp_path, compress)
    train, test = data.load_mnist(tmp_path)
    assert (len(train), len(test), train.shape, train.images.dtype) == (5, 3, (1, 28, 28), np.uint8)
    x, y = train.batch([4])
    assert (x.dtype, y.dtype, y[0]) == (np.float32, np.int64, 4)
    np.testing.assert_allclose(x[0, 0], (train.images[4, 0] / 255 - 0.1307) / 0.3081, atol=1e-5)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x07\x01", "not an idx file"),
        (b"\x1f\x8b\x08\x01", "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "cut short within the header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x04abc", "4 bytes, but 3 follow"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "2 bytes, but more follow"),
        (b"\x00\x00\x0e\x03" + b"\xff" * 12 + b"abc", "bytes, but 3 follow"),
    ],
)
def test_damaged_idx(tmp_path, raw, text):
    (tmp_path / "x.idx").write_bytes(raw)
    with pytest.raises(ValueError, match=text):
        data.read_idx(tmp_path / "x.idx")


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8)))
    for raw in (b"not gzip", whole[:40], whole[:60] + b"\xff" * 20 + whole[80:]):
        (tmp_path / "x.gz").write_bytes(raw)
        with pytest.raises(ValueError, match=r"x\.gz.*(damaged|idx|follow)"):
            data.read_idx(tmp_path / "x.gz")


def test_mnist_that_does_not_fit_together(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        data.load_mnist(tmp_path)
    write_mnist(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.arange(4, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"\(4,\) labels for 5 images"):
        data.load_mnist(tmp_path)
    labels.write_bytes(gzip.compress(idx_bytes(np.full(5, 11, np.uint8))))
    with pytest.raises(ValueError, match="label 11"):
        data.load_mnist(tmp_path)
    labels.write_bytes(gzip.compress(idx_bytes(np.array([3, -1, 9, 0, 1], np.int8), 0x09)))
    with pytest.raises(ValueError, match=r"label -1, but 0 to 9 are known"):
        data.load_mnist(tmp_path)


def test_real_mnist():
    train, test = data.load_mnist(shared_data("mnist"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert list(train.labels[:5]) == [5, 0, 4, 1, 9]


# CIFAR-10

COUNT = 4


def cifar_arrays(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (COUNT, 3072), np.uint8), rng.integers(0, 10, COUNT).astype(
        np.uint8
    )


def binary_bytes(seed):
    pixels, labels = cifar_arrays(seed)
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()


def pickle_bytes(seed, protocol=2):
    pixels, labels = cifar_arrays(seed)
    batch = {b"data": pixels, b"labels": [int(v) for v in labels], b"batch_label": b"training"}
    return pickle.dumps(batch, protocol=protocol)


NAMES = ["data_batch_1", "data_batch_2", "test_batch"]


@pytest.mark.parametrize("form", ["binary", "gzip", "python", "tar.gz"])
def test_cifar10(tmp_path, form):
    files = {
        name: pickle_bytes(seed) if form == "python" else binary_bytes(seed)
        for seed, name in enumerate(NAMES)
    }
    folder = tmp_path / "cifar-10-batches"
    folder.mkdir()
    suffix = {"binary": ".bin", "gzip": ".bin.gz", "python": "", "tar.gz": ".bin"}[form]
    for name, raw in files.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(raw) if form == "gzip" else raw)
    (folder / "batches.meta").write_bytes(b"ignored")
    source = folder
    if form == "tar.gz":
        source = tmp_path / "cifar.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(folder, arcname="cifar-10-batches-bin")
    train, test = data.load_cifar10(source)
    assert (len(train), len(test), train.shape) == (2 * COUNT, COUNT, (3, 32, 32))
    pixels, labels = cifar_arrays(1)
    np.testing.assert_array_equal(train.images[COUNT:].reshape(COUNT, -1), pixels)
    np.testing.assert_array_equal(train.labels[COUNT:], labels)
    assert train.images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert train.classes[3] == "cat"


def test_single_binary_file(tmp_path):
    (tmp_path / "part.bin.gz").write_bytes(gzip.compress(binary_bytes(0)))
    assert len(data.read_cifar10_binary(tmp_path / "part.bin.gz")) == COUNT
    (tmp_path / "part.bin").write_bytes(binary_bytes(0)[:-1])
    with pytest.raises(ValueError, match=r"12291 bytes.*3 records and 3072 bytes"):
        data.read_cifar10_binary(tmp_path / "part.bin")


def test_real_cifar10():
    """The first test images, whose labels are well known, and which are no noise."""
    test = data.read_cifar10_binary(shared_data("cifar10/lossless_test_first1000.bin.gz"))
    assert len(test) == 1000
    assert [test.classes[label] for label in test.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    x, _ = test.batch(slice(None))
    assert abs(float(x.mean())) < 0.05
    assert float(x.std()) == pytest.approx(1.0, abs=0.05)
    assert (
        float(np.abs(np.diff(x, axis=3)).mean()) < 0.3
    )  # neighbours are alike: planes, not pixels


def test_arrays_pickled_by_old_and_new_numpy():
    pixels, labels = cifar_arrays(0)
    for protocol in (0, 2):
        images, read = parse_pickle(pickle_bytes(0, protocol))
        np.testing.assert_array_equal(images.reshape(COUNT, -1), pixels)
        np.testing.assert_array_equal(read, labels)
    old = pickle_bytes(0).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(parse_pickle(old)[1], labels)


def test_the_official_form_of_python_2():
    """Byte strings, NumPy's old names, more entries than are read: as data_batch_1 begins."""

    def string(raw):
        return b"T" + struct.pack("<i", len(raw)) + raw

    pixels, labels = cifar_arrays(0)
    text = string(b"leptodactylus_pentadactylus_s_000004.png")
    raw = b"".join(
        [
            b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"training batch 1 of 5"),
            string(b"labels") + b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e",
            string(b"data"),
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b"),
            b"\x87R(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\n" + string(b"u1"),
            b"K\x00K\x01\x87R(K\x03" + string(b"|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string(pixels.tobytes()) + b"tb",
            string(b"filenames") + b"](" + text * len(labels) + b"eu.",
        ]
    )
    images, read = parse_pickle(raw)
    np.testing.assert_array_equal(images.reshape(COUNT, -1), pixels)
    np.testing.assert_array_equal(read, labels)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /should-not-exist",))


def test_hostile_pickles_run_nothing(tmp_path):
    raw = pickle_bytes(0)
    hostile = [
        pickle.dumps(Evil(), protocol=2),
        pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.array([Evil()], object), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [12]}, protocol=2),
        pickle.dumps([1, 2]),
        b"cbuiltins\neval\n(S'1/0'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        # BUILD on a name itself, which would set attributes of ours.
        *(
            b"\x80\x02c" + name + b"\nN}X\x01\x00\x00\x00zK\x01s\x86b."
            for name in (
                b"_codecs\nencode",
                b"numpy\ndtype",
                b"numpy\nndarray",
                b"numpy.core.multiarray\n_reconstruct",
            )
        ),
        b"",
        *(raw[:cut] for cut in range(0, len(raw), 997)),
    ]
    for text in hostile:
        with pytest.raises(ValueError, match="data"):
            parse_pickle(text)
    assert not os.path.exists("/should-not-exist")
    stand_ins = (getattr(cifar10, name) for name in ("_Latin1", "_Dtype", "_Stored"))
    assert not any(hasattr(stand_in, "z") for stand_in in stand_ins)


def test_cifar10_missing_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        data.load_cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(binary_bytes(0))
    with pytest.raises(FileNotFoundError, match="found data_batch_1"):
        data.load_cifar10(tmp_path)
    (tmp_path / "x.tar").write_bytes(b"junk" * 300)
    with pytest.raises(ValueError, match="readable tar"):
        data.load_cifar10(tmp_path / "x.tar")


def with_huge_first_file(tar, name):
    """A tar whose first file is said to have more bytes than 63 bits count."""
    head = bytearray(tar[:512])
    head[: len(name) + 1] = name + b"\0"
    head[124:136] = b"\x80" + b"\xff" * 11
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:]) + 8 * ord(" "))
    return bytes(head) + tar[512:]


def test_damaged_archives_of_cifar10(tmp_path, capsys):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in NAMES:
            info = tarfile.TarInfo(f"{name}.bin")
            info.size = len(binary_bytes(0))
            archive.addfile(info, io.BytesIO(binary_bytes(0)))
    raw = path.read_bytes()
    tar = gzip.decompress(raw)
    for damaged in (
        gzip.compress(tar.rstrip(b"\0"))[:-8] + b"\xff" * 8,  # the checksum
        raw[: len(raw) // 2],
        gzip.compress(with_huge_first_file(tar, b"data_batch_1.bin")),
        gzip.compress(with_huge_first_file(tar, b"readme")),
        gzip.compress(tar[:512] + b"\x77" + tar[513:]),  # the first image's label
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cifar\.tar\.gz"):
            data.load_cifar10(path)
        assert main(["train", "cifar_resnet20", "--data", str(path), "--quiet"]) == 2
        assert "cifar.tar.gz" in capsys.readouterr().err


# Batches


def test_batches_cover_an_epoch_and_can_start_anywhere():
    source = data.Dataset(np.zeros((10, 1, 2, 2), np.uint8), np.arange(10))
    whole = [list(y) for _, y in data.batches(source, 4, seed=3, epoch=1)]
    assert sorted(np.concatenate(whole)) == list(range(10))
    assert [len(y) for y in whole] == [4, 4, 2]
    assert [list(y) for _, y in data.batches(source, 4, seed=3, epoch=1, start=1)] == whole[1:]
    assert [list(y) for _, y in data.batches(source, 4, seed=3, epoch=2)] != whole
    assert [list(y) for _, y in data.batches(source, 4, seed=4, epoch=1)] != whole
    in_order = [list(y) for _, y in data.batches(source, 4, shuffle=False)]
    assert list(np.concatenate(in_order)) == list(range(10))


def test_an_epoch_may_be_a_part_that_the_data_set_chooses():
    class Parts(data.Dataset):
        def __len__(self):
            return 4

        def order(self, seed, epoch):
            return np.arange(4) + 4 * (epoch % 3)

    parts = Parts(np.zeros((12, 1, 1, 1), np.uint8), np.arange(12))
    for epoch, first in ((0, 0), (2, 8), (3, 0)):
        taken = [y.tolist() for _, y in data.batches(parts, 3, seed=5, epoch=epoch)]
        assert taken == [[first, first + 1, first + 2], [first + 3]]
        rest = [y.tolist() for _, y in data.batches(parts, 3, seed=5, epoch=epoch, start=1)]
        assert rest == taken[1:]


def test_batches_are_channels_last_and_scaled():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), np.uint8)
    source = data.Dataset(images, np.arange(5), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    x, _ = source.batch([3, 1], np.float64)
    assert x.transpose(0, 2, 3, 1).flags.c_contiguous
    mean, std = np.array([0.1, 0.2, 0.3])[:, None, None], np.array([0.5, 0.6, 0.7])[:, None, None]
    np.testing.assert_allclose(x, (images[[3, 1]] / 255 - mean) / std, atol=1e-12)


def test_floating_images_are_taken_as_they_are():
    images = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    x, _ = data.Dataset(images, np.arange(4)).batch(slice(None))
    np.testing.assert_array_equal(x, images)


def test_dataset_errors():
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        data.Dataset(np.zeros((3, 1, 2, 2)), np.zeros(2))
    with pytest.raises(TypeError, match="int64"):
        data.Dataset(np.zeros((3, 1, 2, 2), np.int64), np.zeros(3))
    with pytest.raises(ValueError, match="std=0"):
        data.Dataset(np.zeros((3, 1, 2, 2)), np.zeros(3), std=0)
    with pytest.raises(TypeError, match="scales uint8"):
        next(data.batches((np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3)), 1))
    with pytest.raises(TypeError, match="not a int"):
        next(data.batches(3, 1))


def test_crop_and_flip_moves_whole_windows():
    x = np.arange(1, 1 + 6 * 2 * 5 * 5, dtype=np.float32).reshape(6, 2, 5, 5)
    augment = data.CropAndFlip(padding=2)
    y = augment(x, np.random.default_rng(1))
    np.testing.assert_array_equal(y, augment(x, np.random.default_rng(1)))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    for image, source in zip(y, padded, strict=True):
        windows = [source[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
        assert any(
            np.array_equal(image, w) or np.array_equal(image, w[:, :, ::-1]) for w in windows
        )
    still = data.CropAndFlip(padding=0, flip=False)
    np.testing.assert_array_equal(still(x, np.random.default_rng(0)), x)


def test_image_folder(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, value in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        buffer = io.BytesIO()
        image_module.fromarray(np.full((4, 6, 3), value, np.uint8)).save(buffer, "PNG")
        (tmp_path / name / "one.png").write_bytes(buffer.getvalue())
    source = data.load_image_folder(tmp_path, size=(2, 3))
    assert (source.shape, source.classes, list(source.labels)) == (
        (3, 2, 3),
        ("cat", "dog"),
        [0, 1],
    )
    assert (source.images[1] == 200).all()
    (tmp_path / "dog" / "two.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"two\.png cannot be read"):
        data.load_image_folder(tmp_path, size=2)
