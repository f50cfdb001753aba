"""Copies of parameters and models, pickled or deep: arrays of their own, in either mode."""

import copy
import pickle

import fastconv as fc
import numpy as np
import pytest


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("trains", [True, False])
def test_an_unpickled_model_changes_its_mode(trains, protocol):
    model = fc.models.lenet5().train(trains)
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    expected = model.eval()(x)
    model.train(trains)
    twin = pickle.loads(pickle.dumps(model, protocol=protocol))
    for parameter in twin.parameters():
        assert parameter.data.flags.writeable == trains
        assert parameter.data.flags.owndata
    assert np.array_equal(twin.eval()(x), expected)
    for parameter in twin.train().parameters():
        parameter.data += 1
    assert np.array_equal(model.eval()(x), expected)


def test_buffers_that_travel_beside_the_pickle_are_not_shared():
    parameter = fc.Parameter(np.arange(6, dtype=np.float32))
    buffers = []
    text = pickle.dumps(parameter, protocol=5, buffer_callback=buffers.append)
    twin = pickle.loads(text, buffers=[bytearray(b.raw()) for b in buffers])
    frozen = pickle.loads(text, buffers=[bytes(b.raw()) for b in buffers])  # read-only memory
    for each in (twin, frozen, copy.deepcopy(parameter)):
        each.freeze()
        each.thaw()
        each.data += 1
        assert each.data.tolist() == [1, 2, 3, 4, 5, 6]
    assert parameter.data.tolist() == [0, 1, 2, 3, 4, 5]
