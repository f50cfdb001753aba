"""The plan of a convolution for CUDA devices that need not be here: which kernel, why not another,
splits and workspace. Pure host code; runs in every build with CUDA kernels, without a GPU."""

from __future__ import annotations

from typing import Any

import fastconv as fc
import pytest
from fastconv import _core

pytestmark = pytest.mark.skipif(not _core.cuda.built(), reason="built without CUDA kernels")

FORWARD, GRAD_INPUT, GRAD_WEIGHT = range(3)
LAYERS = [  # N, C, H, K, R, stride
    (32, 64, 56, 64, 3, 1),
    (32, 256, 56, 64, 1, 1),
    (32, 512, 28, 512, 3, 1),
    (1, 512, 7, 512, 3, 1),
    (32, 256, 28, 256, 3, 2),
    (32, 3, 224, 64, 7, 2),
    (1, 8, 5, 16, 3, 1),
    (4, 4096, 1, 1000, 1, 1),
]


def plan(
    layer: tuple[int, ...], direction: int = FORWARD, *, capability: int = 90,
    multiprocessors: int = 132, dtype: str = "bfloat16", kernel: str = "", precision: int = 0,
    channels_last: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The plan of a layer with padding (R - 1) / 2."""
    n, c, size, k, r, stride = layer
    pad = (r - 1) // 2
    out = (size + 2 * pad - r) // stride + 1
    found: dict[str, Any] = _core.cuda.conv2d_plan(
        direction, [n, c, size, size], [k, c, r, r], [n, k, out, out],
        (stride, stride, pad, pad, pad, pad, 1, 1, 1), dtype, channels_last, -1, precision, kernel,
        capability, multiprocessors,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("direction", [FORWARD, GRAD_INPUT, GRAD_WEIGHT])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_device_gets_kernels_that_it_has(layer: tuple[int, ...], direction: int) -> None:
    targets = {
        capability: plan(layer, direction, capability=capability)["kernel"].split("_")[0]
        for capability in (75, 80, 86, 90, 100, 120)
    }
    assert targets[75] == "simt"
    for capability in (80, 86, 100, 120):  # wgmma is an instruction of 9.0 alone
        assert targets[capability] in ("sm80", "simt")
    if layer[1] % 64 == 0:  # whole panels of channels
        assert targets[90] in ("tma", "patch")


def test_large_layers_take_the_large_tiles_of_their_target() -> None:
    large = (32, 512, 28, 512, 3, 1)
    assert plan(large)["kernel"] in ("tma_128x256", "tma_256x128")
    assert plan(large, capability=80, multiprocessors=108)["kernel"].startswith("sm80_")
    assert plan(large, dtype="float32")["kernel"] == "simt_128x128"
    assert plan(large, dtype="float32", precision=2)["kernel"].startswith("sm80_")


def test_exact_float32_is_never_multiplied_as_tf32() -> None:
    found = plan((32, 64, 56, 64, 3, 1), dtype="float32")
    assert found["kernel"].startswith("simt_")
    assert "tf32" in found["rejected"]["sm80_128x128"]


def test_high_precision_takes_three_tf32_products_where_they_are_faster() -> None:
    layer = (32, 64, 56, 64, 3, 1)
    for direction in (FORWARD, GRAD_INPUT, GRAD_WEIGHT):
        for capability, kernel, arithmetic in [
            (75, "simt_", "float32"),
            (80, "_3xtf32", "3xtf32"),
            (86, "simt_", "float32"),  # a third of tf32's rate is less than float32's there
            (90, "_3xtf32", "3xtf32"),
            (120, "simt_", "float32"),
        ]:
            found = plan(layer, direction, dtype="float32", precision=1, capability=capability)
            assert kernel in found["kernel"]
            assert found["arithmetic"] == arithmetic
        exact = plan(layer, direction, dtype="float32")
        assert exact["arithmetic"] == "float32"
        assert '"high"' in exact["rejected"]["sm80_128x64_3xtf32"]
        high = plan(layer, direction, dtype="float32", precision=1)
        assert high["expected_cycles"] < exact["expected_cycles"]
        assert '"tf32"' in high["rejected"]["sm80_128x128"]
        assert plan(layer, direction, precision=1) == plan(layer, direction)  # bfloat16


def test_sums_of_many_taps_that_shared_memory_does_not_hold() -> None:
    """A weight in C order is stored 32 channels at a time, with all their taps."""
    layer = (1, 32, 31, 8, 31, 1)
    for capability, algorithm in [(75, "naive"), (86, "naive"), (80, "direct"), (90, "direct")]:
        found = plan(
            layer, GRAD_WEIGHT, capability=capability, dtype="float32", channels_last=False
        )
        assert found["algorithm"] == algorithm
        if algorithm == "naive":
            assert "need more shared memory" in found["rejected"]["direct"]
    in_order = plan(layer, GRAD_WEIGHT, capability=86, dtype="float32")
    assert in_order["algorithm"] == "direct"


def test_the_reasons_are_in_words() -> None:
    first = plan((32, 3, 224, 64, 7, 2))
    assert not first["vector"]
    assert "16 bytes" in first["rejected"]["tma_128x256"]
    assert "groups" in first["rejected"]["depthwise"]
    with pytest.raises(ValueError, match=r"kernel 'tma_128x256': .*16 bytes"):
        plan((32, 3, 224, 64, 7, 2), kernel="tma_128x256")
    with pytest.raises(ValueError, match="no kernel of that name"):
        plan((32, 64, 56, 64, 3, 1), kernel="sm80_17x4")
    with pytest.raises(ValueError, match=r"newer device"):
        plan((32, 64, 56, 64, 3, 1), kernel="sm80_128x128", capability=75)


def test_a_c_order_image_is_read_by_elements() -> None:
    assert not plan((32, 64, 56, 64, 3, 1), channels_last=False)["vector"]
    assert plan((32, 64, 56, 64, 3, 1))["vector"]


@pytest.mark.parametrize("direction", [FORWARD, GRAD_INPUT, GRAD_WEIGHT])
@pytest.mark.parametrize("layer", LAYERS)
def test_partial_sums_fit_into_the_workspace(layer: tuple[int, ...], direction: int) -> None:
    n, c, size, k, r, stride = layer
    out = (size - 1) // stride + 1
    for dtype in ("bfloat16", "float32"):
        for multiprocessors in (1, 16, 132):
            found = plan(layer, direction, dtype=dtype, multiprocessors=multiprocessors)
            if found["splits"] == 1:
                continue
            result = {
                FORWARD: n * k * out * out,
                # A phase has the larger half of the rows and columns.
                GRAD_INPUT: n * c * (-(-size // stride)) ** 2,
                GRAD_WEIGHT: k * c * r * r,
            }[direction]
            needed = found["splits"] * result * 4
            assert found["workspace_bytes"] >= found["packed_bytes"] + needed
            assert needed <= _core.workspace_limit()


def test_a_sum_is_split_only_to_fill_the_device() -> None:
    small = (1, 512, 7, 512, 3, 1)
    assert plan(small, capability=80)["splits"] > 1
    assert plan(small)["cluster"] > 1
    for found in (plan(small, multiprocessors=1), plan((32, 512, 28, 512, 3, 1))):
        assert (found["splits"], found["cluster"]) == (1, 1)
    # Of forward and grad_input by TMA, clusters alone share a sum: there is nothing to join.
    for direction in (FORWARD, GRAD_INPUT):
        assert plan(small, direction)["splits"] == 1
        assert plan(small, direction)["workspace_bytes"] == 0
    assert plan(small, capability=80, multiprocessors=1)["splits"] == 1
    assert plan((32, 512, 28, 512, 3, 1), capability=80)["splits"] == 1
    few_filters = (32, 64, 56, 64, 1, 1)  # a tile or two of the weight
    assert plan(few_filters, GRAD_WEIGHT)["splits"] > 16
    assert plan((32, 512, 7, 2048, 1, 1), GRAD_WEIGHT)["splits"] == 1


@pytest.mark.parametrize("batch", [1, 32, 256])
@pytest.mark.parametrize("direction", [FORWARD, GRAD_INPUT, GRAD_WEIGHT])
def test_hopper_copies_whole_panels_of_channels_by_tma(batch: int, direction: int) -> None:
    for size, channels, filters, r, stride in [
        (56, 64, 64, 3, 1), (56, 256, 64, 1, 1), (28, 256, 256, 3, 2), (14, 256, 1024, 1, 1),
        (7, 512, 512, 3, 1), (1, 4096, 1024, 1, 1),
    ]:  # fmt: skip
        kernel = plan((batch, channels, size, filters, r, stride), direction)["kernel"]
        assert kernel.startswith(("tma_", "patch_")), (size, channels, filters, kernel)


def test_phases_of_a_strided_gradient() -> None:
    assert plan((32, 256, 28, 256, 3, 2), GRAD_INPUT)["phases"] == 4
    assert plan((32, 256, 28, 256, 3, 1), GRAD_INPUT)["phases"] == 1
    assert plan((32, 256, 28, 256, 3, 2), FORWARD)["phases"] == 1


def test_explain_prints_it() -> None:
    text = str(
        fc.explain(
            fc.conv2d, (32, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype="bfloat16",
            device="cuda:90x132",
        )
    )  # fmt: skip
    assert "kernel patch_" in text  # few filters: the source is brought once for all taps
    assert "9.0" in text
    small = fc.explain(
        fc.conv2d, (1, 512, 7, 7), (512, 512, 3, 3), padding=1, dtype="bfloat16",
        device="cuda:90x132",
    )  # fmt: skip
    assert f"4 tiles x {small.cluster} blocks of a cluster" in str(small)
    assert small.waves == 4 * small.cluster / 132


def test_phases_of_a_strided_grad_input_are_planned_together() -> None:
    """Four of 32 * 14 * 14 rows: a quarter of them alone would fill a device only in splits."""
    layer = (32, 256, 28, 256, 3, 2)
    found = plan(layer, GRAD_INPUT, kernel="tma_128x128")
    assert (found["tiles"], found["splits"]) == (4 * 49 * 2, 1)
    small = (32, 512, 14, 512, 3, 2)
    assert plan(small, GRAD_INPUT, kernel="tma_128x128")["tiles"] == 4 * 13 * 4


def test_reasons_of_kernels_by_tma() -> None:
    """Each in words, after the kernel's name."""
    layers = {
        "stores 16 bytes at a time": ((2, 64, 16, 60, 3, 1), FORWARD),
        "is for a stride of 1": ((2, 64, 16, 64, 3, 2), FORWARD),
        "is for several taps": ((2, 64, 16, 64, 1, 1), FORWARD),
        "too many tiles of 8x8": ((2**25, 8, 1, 8, 3, 1), FORWARD),
        "do not fit into shared memory": ((2, 64, 32, 64, 15, 1), FORWARD),
        "is for 3x3 taps next to each other": ((2, 64, 16, 64, 5, 1), GRAD_WEIGHT),
        "is for results of whole 8x8 tiles": ((2, 64, 14, 64, 3, 1), GRAD_WEIGHT),
        "needs an older device's instructions": ((2, 64, 16, 64, 3, 1), FORWARD),
    }
    for why, (layer, direction) in layers.items():
        found = plan(layer, direction, capability=100 if "older" in why else 90)
        rejected = {name: reason for name, reason in found["rejected"].items() if why in reason}
        assert rejected, why
        assert all(name.startswith(("tma_", "patch_")) for name in rejected), rejected


def test_explain_gives_a_reason_once() -> None:
    text = str(
        fc.explain(
            fc.conv2d, (2, 64, 16, 16), (60, 64, 3, 3), padding=1, dtype="bfloat16",
            device="cuda:90x132",
        )
    )  # fmt: skip
    assert text.count("stores 16 bytes at a time") == 1
    by_tma = [k for k in fc.cuda.kernels(fc.conv2d) if k.startswith(("tma_", "patch_"))]
    assert f"rejected   {', '.join(by_tma)}: stores" in text
