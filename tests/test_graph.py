"""The graph that models lower to, and the summary that is read off it."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv import layers as L
from fastconv.graph import Graph
from fastconv.models import lenet5
from fastconv.summary_table import summary
from support import normals


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


class Backbone(L.Layer):
    def __init__(self):
        self.conv1, self.conv2 = L.Conv2d(2, 3, 1), L.Conv2d(3, 3, 1)


class Reaches(L.Layer):
    """Calls layers that others hold: a chain's one by one, a backbone's by its attribute."""

    def __init__(self):
        self.features = L.Sequential(L.Conv2d(1, 2, 3), L.ReLU())
        self.backbone = Backbone()

    def forward(self, x):
        for layer in self.features:
            x = layer(x)
        return self.backbone.conv1(x)


def test_a_layer_is_known_by_its_path_wherever_it_is_called(rng):
    model, x = Reaches(), normals((1, 1, 5, 5), rng)
    table = summary(model, x.shape)
    assert [(row.path, row.parameters) for row in table.rows[1:]] == [
        ("features.0", 20),
        ("features.1", 0),
        ("backbone.conv1", 9),
    ]
    assert table.unused_parameters == model.backbone.conv2.num_parameters
    np.testing.assert_allclose(fc.compile(model, x.shape)(x), model(x), rtol=1e-5)


class Loose(L.Layer):
    def __init__(self):
        self.held = L.ReLU()
        self.layers = [L.Conv2d(1, 2, 3)]  # a list is no attribute that a model sees

    def forward(self, x):
        return self.held(self.layers[0](x))


def test_a_layer_that_nobody_holds_is_named():
    with pytest.raises(ValueError, match=r"'Conv2d\.weight', which the model's state_dict lacks"):
        fc.compile(Loose(), (1, 1, 5, 5))


class Modes(L.Layer):
    """Another result in training than in eval mode."""

    def __init__(self, fails=False):
        self.one, self.other, self.fails = L.Linear(3, 4), L.Linear(3, 4), fails

    def forward(self, x):
        if self.fails:
            raise ValueError("as asked")
        return (self.one(x), self.other(x)) if self.training else self.other(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_plan_is_of_the_eval_mode_and_leaves_the_models(training, rng):
    model, x = L.Sequential(Modes()).train(training), normals((2, 3), rng)
    model[0].one.eval()  # a part in another mode
    plan = fc.compile(model, x.shape)
    modes = [layer.training for _, layer in model.named_layers()]
    assert modes == [training, training, False, training]
    assert np.array_equal(plan(x), model.eval()(x))
    failing = Modes(fails=True)
    with pytest.raises(ValueError, match="as asked"):
        fc.compile(failing, x.shape)
    assert failing.training


def test_a_model_in_eval_mode_is_not_written(rng, monkeypatch):
    model = L.Sequential(Modes(), L.ReLU()).eval()

    class Watched(dict):
        def __setitem__(self, name, value):
            raise AssertionError(f"{name} was written")

    model(normals((2, 3), rng))
    for _, layer in model.named_layers():
        layer.__dict__ = Watched(layer.__dict__)
    fc.compile(model, (2, 3))


@pytest.mark.parametrize("function", [fc.compile, summary, L.Layer.output_shape])
@pytest.mark.parametrize("shape", [(1.5, 3), 4, (None, 3), "23", ()])
def test_a_shape_that_is_none_names_the_function(function, shape):
    with pytest.raises((TypeError, ValueError), match=f"^{function.__name__}: input_shape="):
        function(L.Linear(3, 4), shape)


@pytest.mark.parametrize("function", [fc.compile, summary, L.Layer.output_shape])
@pytest.mark.parametrize("kind", [list, lambda ys: {"y": ys[0]}, lambda ys: (ys[0], 1), str])
def test_results_that_are_no_arrays_are_named(function, kind):
    class Returns(L.Layer):
        def __init__(self):
            self.one, self.other = L.Linear(3, 4), L.Linear(3, 4)

        def forward(self, x):
            return kind([self.one(x), self.other(x)])

    with pytest.raises(TypeError, match=f"{function.__name__}: Returns returns a .*; wanted an ar"):
        function(Returns(), (2, 3))


class Doubled(L.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("function", [fc.compile, summary, L.Layer.output_shape])
def test_a_forward_newer_than_lower_is_refused(function):
    with pytest.raises(TypeError, match=r"Doubled.*: it has a forward of its own, but lower from"):
        function(Doubled(L.Linear(3, 4)), (2, 3))
    with pytest.raises(TypeError, match=r"Doubled 'body': it has a forward of its own"):
        function(L.Residual(Doubled(L.Linear(3, 3))), (2, 3))
