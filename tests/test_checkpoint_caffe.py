"""Caffe's files: layers of three generations, old and new shapes, mean images, damage."""

from __future__ import annotations

import functools
import struct
import tracemalloc

import checkpoint_files
import numpy as np
import pytest
from checkpoint_files import blob, field, layer, layer_v0, layer_v1, varint
from fastconv.models import googlenet

WEIGHT = np.arange(24, dtype=np.float32).reshape(4, 3, 2, 1)
BIAS = np.arange(4, dtype=np.float32)
LINEAR = np.arange(6, dtype=np.float32).reshape(2, 3)


read = functools.partial(checkpoint_files.read, name="x.caffemodel")
refuses = functools.partial(checkpoint_files.refuses, name="x.caffemodel")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("make", "convolution", "inner_product"),
    [
        (layer, "Convolution", "InnerProduct"),
        (layer_v1, 4, 14),
        (layer_v0, "conv", "innerproduct"),
    ],
)
def test_three_generations(tmp_path, make, convolution, inner_product, old):
    """In old shapes everything has four axes: leading ones of biases and linear layers go."""
    content = (
        field(1, "net")
        + make("data", convolution)
        + make("conv/1", convolution, blob(WEIGHT, old=old), blob(BIAS, old=old))
        + make("one", convolution, blob(WEIGHT[:1, :1], old=old))
        + make("fc", inner_product, blob(LINEAR, old=old), blob(BIAS[:2], old=old))
        + make("fc1", inner_product, blob(LINEAR[:1], old=old), blob(BIAS[:1], old=old))
    )
    expected = {
        "conv/1.weight": WEIGHT,
        "conv/1.bias": BIAS,
        "one.weight": WEIGHT[:1, :1],
        "fc.weight": LINEAR,
        "fc.bias": BIAS[:2],
        "fc1.weight": LINEAR[:1],
        "fc1.bias": BIAS[:1],
    }
    arrays = read(tmp_path, content)
    assert list(arrays) == list(expected)
    for name, value in expected.items():
        assert arrays[name].shape == value.shape
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].flags.writeable


def test_numbers_one_by_one_doubles_and_unknown_fields(tmp_path):
    """Repeated numbers that are not packed; fields that a later Caffe may add; a third blob."""
    unpacked = field(7, field(1, 2) + field(1, 1)) + field(5, 1.5) + field(5, -2.0)
    unknown = field(999, "x") + field(998, 7) + field(997, 1.0) + varint(996 << 3 | 1) + bytes(8)
    content = layer("a", "Scale", unpacked + unknown, blob(np.array([0.5])), blob(BIAS)) + unknown
    arrays = read(tmp_path, content)
    assert arrays["a.weight"].tolist() == [[1.5], [-2.0]]
    assert arrays["a.bias"].dtype == np.float64
    assert list(arrays) == ["a.weight", "a.bias", "a.blob2"]


def test_mean_images(tmp_path):
    mean = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    for content in (blob(mean, old=True), blob(mean), blob(mean[None])):
        arrays = read(tmp_path, content, name="mean.binaryproto")
        assert list(arrays) == ["mean"]
        np.testing.assert_array_equal(arrays["mean"], mean)
    name = "mean.binaryproto"
    refuses(tmp_path, blob(BIAS), r"its shape is \(4,\), but \(1, C, H, W\)", name=name)
    refuses(tmp_path, blob(np.zeros((2, 3, 1, 1))), r"its shape is \(2, 3, 1, 1\)", name=name)
    refuses(tmp_path, b"", r"\(0, 0, 0, 0\)|negative", name=name)
    refuses(tmp_path, b"\x08", "cut short within a number", name=name)


@pytest.mark.parametrize("slash", ["/", "."])
def test_a_network_knows_caffes_names(tmp_path, slash):
    """Also with dots, as .npz files have them; an error has the model's."""
    model = googlenet(num_classes=2, aux_logits=False, seed=1)
    ours = model.state_dict()
    state = {}
    for caffe, path in model.caffe_layers.items():
        for part in ("weight", "bias"):
            if f"{path}.{part}" in ours:
                state[f"{caffe.replace('/', slash)}.{part}"] = ours[f"{path}.{part}"]
    np.savez(tmp_path / "x.npz", **state)
    other = googlenet(num_classes=2, aux_logits=False, seed=2)
    other.load_weights(tmp_path / "x.npz")
    for name, value in ours.items():
        np.testing.assert_array_equal(other.state_dict()[name], value)
    state[f"loss1{slash}fc.bias"] = state.pop(f"inception_3a{slash}1x1.bias")
    with pytest.raises(ValueError, match=r"2 entries do not fit") as caught:
        other.load_state_dict(state)
    assert "missing: inception3a.branch1.conv.bias (64,)" in str(caught.value)
    assert "unexpected: aux1.fc1.bias (64,)" in str(caught.value)


BLOB = blob(BIAS)
DAMAGED = {
    "nothing": (b"", "holds no layers"),
    "another message": (field(1, "net"), "holds no layers"),
    "cut in a tag": (b"\x80", "cut short within a number"),
    "endless number": (b"\xff" * 20, "more than ten bytes"),
    "beyond the end": (varint(100 << 3 | 2) + varint(2**60), "1152921504606846976 bytes, but 0"),
    "a group": (varint(100 << 3 | 3), "wire type 3"),
    "layer is a number": (field(100, 7), "holds a varint, but bytes"),
    "name is a number": (field(100, field(1, 7)), "holds a varint, but bytes"),
    "type is a real number": (field(100, field(2, 1.0)), "holds 32 bits, but bytes or a varint"),
    "name is not UTF-8": (field(100, field(1, b"\xff")), "utf-8"),
    "name with a line end": (layer("a\nb", "x", BLOB), "cannot be printed"),
    "name twice": (layer("a", "x", BLOB) * 2, "'a.weight' occurs twice"),
    "data too short": (layer("a", "x", blob(BIAS, shape=(5,))), r"'a', weight: .*\(5,\).*16 bytes"),
    "data too long": (layer("a", "x", blob(BIAS, shape=(3,))), r"\(3,\), but its values have 16"),
    "no data": (layer("a", "x", field(7, field(1, 2**40))), "have 0 bytes"),
    "negative size": (layer("a", "x", blob(BIAS, shape=(-4,))), "negative size"),
    "negative old size": (layer("a", "x", field(1, -4) + field(5, BIAS.tobytes())), "negative"),
    "huge shape": (layer("a", "x", blob(BIAS, shape=(2**40, 2**40))), "more than any array"),
    "huge shape of zero": (layer("a", "x", blob(BIAS, shape=(0, 2**62))), "more than any array"),
    "many axes": (layer("a", "x", blob(BIAS, shape=(1,) * 5000)), "more than 32 axes"),
    "half a float": (layer("a", "x", field(7, field(1, 1)) + field(5, b"abc")), "have 3 bytes"),
    "data is a number": (layer("a", "x", field(5, 7)), "holds a varint, but bytes or 32 bits"),
    "shape is a number": (layer("a", "x", field(7, 7)), "holds a varint, but bytes"),
    "layers in layers": (field(2, field(1, field(1, field(1, "x")))) + b"\x80", "cut short"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_files(tmp_path, name):
    content, pattern = DAMAGED[name]
    tracemalloc.start()
    try:
        refuses(tmp_path, content, pattern)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(content) + 1_000_000


def test_the_number_of_layers_and_blobs_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fastconv.checkpoint.caffe.MAX_LAYERS", 10)
    assert read(tmp_path, layer("a", "x") * 10) == {}
    refuses(tmp_path, layer("a", "x") * 11, "more than 10 layers")
    refuses(tmp_path, layer("a", "x", *[b""] * 100), "'a' has more than 64 blobs")


def test_every_truncation_is_noticed(tmp_path):
    """But where a layer ends: the format has no length of the whole."""
    layers = [
        layer("a", "Convolution", blob(WEIGHT), blob(BIAS, old=True)),
        layer_v1("b", 14, blob(LINEAR)),
    ]
    content = b"".join(layers)
    for cut in range(len(content)):
        if cut == len(layers[0]):
            continue
        refuses(tmp_path, content[:cut], ".")


def test_floats_are_taken_bit_by_bit(tmp_path):
    bits = struct.pack("<4I", 0x7FC00001, 0xFF800000, 0x80000000, 1)
    content = layer("a", "x", field(7, field(1, varint(4))) + field(5, bits))
    assert read(tmp_path, content)["a.weight"].tobytes() == bits
