"""Classifiers whose linear layers became convolutions, or the average of their maps."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv.models import average_pooled, fully_convolutional, lenet5, resnet18
from support import normals

L = fc.layers


def classifier():
    """Without padding: one place of the classifier is a crop of the image, every 4 pixels."""
    with fc.init.seeded(2):
        return L.Sequential(
            L.Sequential(L.Conv2d(3, 6, 3), L.ReLU(), L.MaxPool2d(2), L.Conv2d(6, 5, 2)),
            L.MaxPool2d(2), L.AdaptiveAvgPool2d((3, 2)), L.Flatten(),
            L.Sequential(L.Dropout(), L.Linear(30, 8), L.ReLU()), L.Linear(8, 4, bias=False),
        ).eval()  # fmt: skip


SIZE = (3, 16, 12)  # 14x10 -> 7x5 -> 6x4 -> 3x2


def test_at_its_own_size_it_is_the_classifier(rng):
    model = classifier()
    net, x = fully_convolutional(model, SIZE), normals((2, *SIZE), rng)
    np.testing.assert_allclose(net(x), model(x), rtol=1e-5, atol=1e-6)
    assert net.classifier(net.features(x)).shape == (2, 4, 1, 1)
    assert net.num_parameters == model.num_parameters
    assert not any(isinstance(layer, L.Linear) for _, layer in net.named_layers())


def test_on_a_larger_image_it_is_the_average_of_the_classifier_on_crops(rng):
    model = classifier()
    net, x = fully_convolutional(model, SIZE), normals((2, 3, 16 + 8, 12 + 4), rng)
    crops = [[model(x[:, :, i : i + 16, j : j + 12]) for j in (0, 4)] for i in (0, 4, 8)]
    scores = net.classifier(net.features(x))
    assert scores.shape == (2, 4, 3, 2)
    for i, row in enumerate(crops):
        for j, wanted in enumerate(row):
            np.testing.assert_allclose(scores[:, :, i, j], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net(x), np.mean(crops, axis=(0, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fc.compile(net, x.shape)(x), net(x), rtol=1e-5, atol=1e-5)


def test_the_original_stays_as_it_is(rng):
    model = classifier()
    names = [name for name, _ in model.named_parameters()]
    weights = {name: value.copy() for name, value in model.state_dict().items()}
    net = fully_convolutional(model, SIZE).train()
    for parameter in net.parameters():
        parameter.data[...] = 0
    assert [parameter.name for parameter in model.parameters()] == names
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, weights[name])
    assert fully_convolutional(model.train(), SIZE).training


def test_gradients_are_the_classifiers(rng):
    model = classifier().train()
    model[4][0].p = 0.0
    net = fully_convolutional(model, SIZE)
    x, grad = normals((2, *SIZE), rng), normals((2, 4), rng)
    model(x), net(x)
    np.testing.assert_allclose(net.backward(grad), model.backward(grad), rtol=1e-4, atol=1e-5)
    ours, theirs = net.classifier[1].weight.grad, model[4][1].weight.grad
    np.testing.assert_allclose(ours.reshape(8, 30), theirs, rtol=1e-4, atol=1e-5)


def test_a_network_that_averages_gives_a_map_of_scores(rng):
    """Linear of an average is the average of linear: ResNet's own result at any size."""
    model = resnet18(num_classes=5, seed=0).eval()
    net, x = fully_convolutional(model, (3, 224, 224)), normals((1, 3, 96, 128), rng)
    assert net.classifier(net.features(x)).shape == (1, 5, 3, 4)
    np.testing.assert_allclose(net(x), model(x), rtol=1e-4, atol=1e-4)


def test_several_linear_layers_keep_the_average_before_them(rng):
    model = L.Sequential(
        L.Conv2d(3, 4, 3), L.GlobalAvgPool2d(), L.Flatten(), L.Linear(4, 6), L.ReLU(),
        L.Linear(6, 2), L.Softmax(),
    ).eval()  # fmt: skip
    x = normals((2, 3, 7, 9), rng)
    net = fully_convolutional(model, (3, 5, 5))
    np.testing.assert_allclose(net(x), model(x), rtol=1e-5, atol=1e-6)


def test_average_pooled(rng):
    model = classifier()
    net = average_pooled(model, SIZE, num_classes=7, seed=1)
    x = normals((2, 3, 30, 20), rng)
    maps = L.Sequential(*classifier()[:2])(x)
    wanted = maps.mean(axis=(2, 3)) @ net.classifier.weight.data.T + net.classifier.bias.data
    np.testing.assert_allclose(net(x), wanted, rtol=1e-4, atol=1e-5)
    assert net.classifier.weight.shape == (7, 5)
    assert not net.training
    same = average_pooled(model, SIZE, num_classes=7, seed=1)
    np.testing.assert_array_equal(same.classifier.weight.data, net.classifier.weight.data)


def test_errors():
    with pytest.raises(TypeError, match="fully_convolutional: model is a GoogLeNet, but a Seq"):
        fully_convolutional(fc.models.googlenet(), (3, 224, 224))
    with pytest.raises(ValueError, match="fully_convolutional: model has no Flatten"):
        fully_convolutional(L.Sequential(L.ReLU()), (3, 8, 8))
    with pytest.raises(ValueError, match=r"AdaptiveAvgPool2d\(\(3, 2\)\) turns 5x5 maps into 3x2"):
        fully_convolutional(classifier(), (3, 24, 24))
    model = L.Sequential(L.Flatten(), L.Linear(12, 4), L.Highway(L.Linear(4, 4), L.Linear(4, 4)))
    with pytest.raises(ValueError, match="behind Flatten is neither linear nor element-wise"):
        fully_convolutional(model, (3, 2, 2))
    with pytest.raises(ValueError, match=r"takes images of \(1, 28, 28\)"):
        fully_convolutional(lenet5(), (1, 40, 40))
    with pytest.raises(ValueError, match="average_pooled: num_classes=0, but"):
        average_pooled(classifier(), SIZE, num_classes=0)
