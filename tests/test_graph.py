"""The graph that models lower to, and the summary that is read off it."""

from __future__ import annotations

import numpy as np
import pytest
from fastconv import layers as L
from fastconv.graph import Graph
from fastconv.models import lenet5
from fastconv.summary_table import summary


def residual_net():
    return L.Sequential(
        {
            "stem": L.Conv2d(3, 8, 3, padding=1),
            "block": L.Residual(
                L.Sequential(L.Conv2d(8, 8, 3, padding=1), L.BatchNorm2d(8), L.ReLU()),
                L.Conv2d(8, 8, 1),
            ),
            "mix": L.Concat(L.Conv2d(8, 4, 1), L.MaxPool2d(3, stride=1, padding=1)),
            "pool": L.GlobalAvgPool2d(),
            "flatten": L.Flatten(),
            "head": L.Linear(12, 5),
        }
    )


def test_nodes_have_operations_inputs_and_state_dict_names():
    graph = Graph.of(residual_net(), (2, 3, 8, 8))
    assert [node.op for node in graph.nodes] == [
        "input", "conv2d", "conv2d", "batch_norm", "relu", "conv2d", "add", "conv2d", "max_pool2d",
        "concat", "global_avg_pool2d", "flatten", "linear",
    ]  # fmt: skip
    conv, add, concat = graph.nodes[2], graph.nodes[6], graph.nodes[9]
    assert conv.parameters == {"weight": "block.body.0.weight", "bias": "block.body.0.bias"}
    assert (add.inputs, add.path) == ((4, 5), "block")
    assert (concat.inputs, concat.shape) == ((7, 8), (2, 12, 8, 8))
    assert set(residual_net().state_dict()) - {"block.body.1.num_batches_tracked"} == {
        name for node in graph.nodes for name in node.parameters.values()
    }


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (L.Conv2d(3, 4, 3, stride=2, padding="same"), (2, 3, 7, 6)),
        (L.Conv2d(4, 4, (2, 3), padding=((1, 0), (2, 1)), dilation=2, groups=2), (2, 4, 9, 8)),
        (
            L.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, dilation=2),
            (2, 3, 4, 5),
        ),
        (L.MaxPool2d(3, stride=2, padding=1, dilation=2, ceil_mode=True), (2, 3, 11, 12)),
        (L.AvgPool2d(3, stride=2, ceil_mode=True), (2, 3, 6, 7)),
        (L.AdaptiveAvgPool2d((2, 5)), (2, 3, 9, 8)),
        (L.Highway(L.Linear(4, 4), L.Linear(4, 4)), (3, 4)),
        (residual_net(), (2, 3, 8, 8)),
        (lenet5(), (2, 1, 32, 32)),
        (lenet5(), (0, 1, 28, 28)),
    ],
    ids=lambda v: repr(v).replace("\n", "")[:40],
)
def test_output_shape_is_what_a_call_gives(layer, shape):
    assert layer.output_shape(shape) == layer.eval()(np.zeros(shape, np.float32)).shape


def test_forward_of_a_subclass_is_traced():
    class Net(L.Layer):
        def __init__(self):
            self.conv = L.Conv2d(1, 2, 3)
            self.act = L.ReLU()

        def forward(self, x):
            y = self.act(self.conv(x))
            return y + y

    graph = Graph.of(Net(), (1, 1, 5, 5))
    assert [(node.op, node.path) for node in graph.nodes[1:]] == [
        ("conv2d", "conv"),
        ("relu", "act"),
        ("add", ""),
    ]


def test_subclass_with_output_shape_is_one_node():
    class Double(L.Layer):
        def forward(self, x):
            return np.concatenate([x, x], axis=1)

        def output_shape(self, input_shape):
            return (input_shape[0], 2 * input_shape[1], *input_shape[2:])

    model = L.Sequential(L.Conv2d(1, 2, 3), Double(), L.Conv2d(4, 3, 1))
    assert model.output_shape((1, 1, 5, 5)) == (1, 3, 3, 3)
    assert Graph.of(model, (1, 1, 5, 5)).nodes[2].op == "custom"


def test_subclass_that_computes_itself_is_told_what_to_define():
    class Opaque(L.Layer):
        def forward(self, x):
            return x * 2

    with pytest.raises(TypeError, match=r"Opaque '0': .*define output_shape\(input_shape\)"):
        L.Sequential(Opaque()).output_shape((1, 1, 5, 5))


def test_errors_name_the_layer():
    model = L.Sequential({"a": L.Conv2d(1, 4, 3), "b": L.Conv2d(5, 2, 3)})
    with pytest.raises(
        ValueError, match=r"^Conv2d 'b': weight has 5 input channels x 1 group, but"
    ):
        model.output_shape((1, 1, 5, 5))
    with pytest.raises(ValueError, match=r"^Linear: weight takes \(N, 3\)"):
        L.Linear(3, 2).output_shape((1, 4))


def test_summary_of_lenet5_agrees_with_the_paper():
    table = summary(lenet5(), (1, 1, 32, 32))
    assert (table.parameters, table.multiply_adds) == (61_706, 416_520)
    by_path = {row.path: row for row in table.rows}
    assert [by_path[name].parameters for name in ("c1", "c3", "c5", "f6", "output")] == [
        156, 2416, 48120, 10164, 850,
    ]  # fmt: skip
    assert by_path["c3"].multiply_adds == 10 * 10 * 16 * 150
    assert by_path["s4"].receptive_field == (16, 16)
    assert by_path["c5"].receptive_field == (32, 32)
    assert by_path["f6"].receptive_field == (None, None)
    assert by_path["c1"].forward_bytes == 4 * 6 * 28 * 28
    # s2's output is kept by c3, and its indices of maxima, 8 bytes each, by itself.
    assert by_path["s2"].training_bytes == (4 + 8) * 6 * 14 * 14


def test_summary_counts_the_whole_batch():
    one, eight = (summary(lenet5(), (n, 1, 28, 28)) for n in (1, 8))
    assert eight.multiply_adds == 8 * one.multiply_adds
    assert eight.training_bytes == 8 * one.training_bytes
    assert eight.parameters == one.parameters


def test_vgg16_sums_that_the_lecture_prints():
    """15.47 G multiply-adds, 138,357,544 parameters; 15.2 M outputs of layers, ReLU in place."""

    class Weightless(L.Conv2d):
        pass

    body, channels = [], 3
    for entry in (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"):
        if entry == "M":
            body.append(L.MaxPool2d(2))
        else:
            body += [L.Conv2d(channels, entry, 3, padding=1), L.ReLU()]
            channels = entry
    table = summary(L.Sequential(*body), (1, 3, 224, 224))
    assert round(table.multiply_adds / 1e9, 2) == 15.35  # 15.47 less the linear layers' 0.12
    assert table.parameters == 14_714_688
    assert table.rows[-1].receptive_field == (212, 212)
    assert round(table.forward_bytes / 4e6, 1) == 15.1


def test_receptive_fields():
    model = L.Sequential(
        L.Conv2d(1, 1, 7, stride=2), L.MaxPool2d(3, stride=2), L.Conv2d(1, 1, 3, dilation=2)
    )
    fields = [row.receptive_field for row in summary(model, (1, 1, 64, 48)).rows]
    assert fields == [(1, 1), (7, 7), (11, 11), (27, 27)]
    up = L.Sequential(L.ConvTranspose2d(1, 1, 4, stride=2), L.Conv2d(1, 1, 3))
    assert [r.receptive_field for r in summary(up, (1, 1, 8, 8)).rows][1:] == [(2, 2), (3, 3)]


def test_summary_prints_a_table():
    text = str(summary(residual_net(), (2, 3, 8, 8)))
    lines = text.splitlines()
    assert lines[0].split() == [
        "layer", "type", "output", "parameters", "multiply-adds", "forward", "training", "sees"
    ]  # fmt: skip
    assert any(line.startswith("block.body.0") and "2x8x8x8" in line for line in lines)
    assert lines[-2].startswith("total")
    assert f"{residual_net().num_parameters:,}" in lines[-2]
    assert "(2, 3, 8, 8)" in lines[-1]
