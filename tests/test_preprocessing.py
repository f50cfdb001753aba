"""Images as networks want them, and the classes' names."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv.data import PREPROCESSINGS, Preprocessing
from fastconv.data.imagenet import read_class_names


def gradient(height, width):
    """Red is the row, green the column, blue 7."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows, cols, np.full_like(rows, 7)], axis=-1)


def test_the_middle_is_cut_out(pictures):
    prepare = Preprocessing((2, 3), resize=(6, 7), scale=1.0)
    x = prepare(pictures("a.png", gradient(6, 7)))
    assert (x.shape, x.dtype) == ((3, 2, 3), np.float32)
    assert x[0].tolist() == [[2, 2, 2], [3, 3, 3]]
    assert x[1].tolist() == [[2, 3, 4], [2, 3, 4]]
    assert (x[2] == 7).all()


def test_the_shorter_side_is_resized(pictures):
    """Constant along the shorter side, so that what is cut off shows in the columns."""
    x = Preprocessing((8, 8), resize=8, scale=1.0)(pictures("a.png", gradient(16, 64)))
    assert x[1].mean() == pytest.approx(31.5, abs=0.5)  # the middle of 64 columns
    assert np.ptp(x[1]) == pytest.approx(14, abs=1)  # a quarter of them
    squashed = Preprocessing((8, 8), scale=1.0)(pictures("b.png", gradient(16, 64)))
    assert np.ptp(squashed[1]) == pytest.approx(56, abs=1)


def test_resizing_is_pillows(pictures):
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3))
    path = pictures("a.png", pixels)
    with image_module.open(path) as image:
        resized = np.asarray(image.resize((20, 30), image_module.Resampling.BILINEAR))
    x = Preprocessing((30, 20), scale=1.0)(path)
    np.testing.assert_array_equal(x, resized.transpose(2, 0, 1))


def test_order_scale_mean_and_deviation(pictures):
    path = pictures("a.png", np.full((2, 2, 3), [10, 20, 30]))
    x = Preprocessing((2, 2), order="BGR", scale=0.5, mean=(1, 2, 3), std=(1, 2, 4))(path)
    assert x[:, 0, 0].tolist() == [14, 4, 0.5]
    image = np.arange(12.0).reshape(3, 2, 2)
    x = Preprocessing((2, 2), scale=1.0, mean=image)(path)
    np.testing.assert_array_equal(x, np.array([10, 20, 30])[:, None, None] - image)
    grey = Preprocessing((2, 2), order="L", scale=1.0)(pictures("g.png", np.full((2, 2), 9)))
    assert grey.tolist() == [[[9, 9], [9, 9]]]


def test_grey_transparent_and_turned_files(pictures):
    """Whatever is in a file becomes three channels; a camera's turn is undone."""
    image_module = pytest.importorskip("PIL.Image")
    prepare = Preprocessing((2, 2), scale=1.0)
    assert (prepare(pictures("g.png", np.full((2, 2), 9))) == 9).all()
    assert prepare(pictures("t.png", np.full((2, 2, 4), 200))).shape == (3, 2, 2)
    exif = image_module.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = Preprocessing((4, 2), scale=1.0)(pictures("e.png", gradient(2, 4), exif=exif))
    np.testing.assert_array_equal(turned[1], [[0, 0], [1, 1], [2, 2], [3, 3]])
    assert prepare(image_module.new("P", (2, 2))).shape == (3, 2, 2)


def test_errors_of_preprocessing(pictures, tmp_path, monkeypatch):
    for arguments, text in (
        ({"order": "GBR"}, "order='GBR'"),
        ({"std": 0.0}, r"std=0\.0"),
        ({"resize": 3}, r"resize=3 is smaller than size=\(4, 4\)"),
        ({"resize": (3, 8)}, "is smaller than"),
        ({"mean": (1, 2)}, r"mean has shape \(2,\), but one number, 3 or \(3, 4, 4\)"),
        ({"order": "L", "mean": (1, 2, 3)}, r"but one number, 1 or \(1, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=text):
            Preprocessing((4, 4), **arguments)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        Preprocessing((4, 4))(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError):
        Preprocessing((4, 4))(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"long\.png: an image of 1x400 is too narrow"):
        Preprocessing((4, 4))(pictures("long.png", gradient(1, 400)))
    cut = pictures("cut.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3)))
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read"):
        Preprocessing((4, 4))(cut)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_named_preprocessings(pictures, name):
    prepare = PREPROCESSINGS[name]
    x = prepare(pictures("a.png", gradient(80, 100)))
    assert x.shape == ((1 if prepare.order == "L" else 3), *prepare.size)
    assert np.isfinite(x).all()


def test_torchvisions_numbers(pictures):
    """Its published recipe, by hand: shorter side 256, middle 224, mean and deviation."""
    image_module = pytest.importorskip("PIL.Image")
    path = pictures("a.png", np.random.default_rng(0).integers(0, 256, (300, 451, 3)))
    with image_module.open(path) as image:
        resized = image.resize((384, 256), image_module.Resampling.BILINEAR)  # 256 * 451 // 300
    pixels = np.asarray(resized, np.float64)[16:240, 80:304] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = PREPROCESSINGS["torchvision"](path)
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), atol=1e-5)


def test_imagenet_classes():
    names = fc.data.imagenet_classes()
    assert len(set(names)) == 999  # "crane" is a bird and a machine
    assert (names[0], names[281], names[999]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "toilet tissue, toilet paper, bathroom tissue",
    )


def test_class_names_in_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("n01440764 tench, Tinca tinca\n  cat \n\nn12 dog\n", encoding="utf-8")
    assert read_class_names(path) == ("tench, Tinca tinca", "cat", "n12 dog")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"names\.txt is no text in UTF-8"):
        read_class_names(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"names\.txt holds no names"):
        read_class_names(path)
