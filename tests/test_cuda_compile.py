"""`fc.compile` on CUDA: the captured graph against the model on the CPU."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, eps, host, on_gpu, rounded
from inference_models import MODELS, model_of
from support import normals

L = fc.layers


def close(actual, expected, dtype):
    """Errors relative to the largest element; 16 bits are rounded after every step."""
    tolerance = 2e-5 if dtype == "float32" else 8 * eps(dtype)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(host(actual), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_computes_what_the_model_does(name, dtype, rng):
    model, shape = model_of(name), MODELS[name][1]
    for parameter in model.parameters():
        parameter.load(rounded(parameter.data, dtype))
    plan = fc.compile(model, shape, dtype=dtype, device="cuda")
    assert plan.device == "cuda:0"
    for order in ("channels_last", "C", "sliced"):
        x = rounded(normals(shape, rng), dtype)
        plan._arena.fill(np.nan)
        y = plan(on_gpu(x, dtype, order))
        assert y.dtype.name == dtype
        assert y.shape == plan.output_shape
        close(y, model(x), dtype)
    assert np.array_equal(host(plan(on_gpu(x, dtype))), host(y))


def test_the_kernels_are_named():
    plan = fc.compile(model_of("residual"), (2, 3, 6, 5), dtype="float16", device="cuda")
    names = fc.cuda.kernels(fc.conv2d)
    assert all(row.kernel in names for row in plan.rows if row.operation.startswith("conv2d"))
    assert "float16 on cuda:0" in str(plan)


def test_the_models_device_is_taken_and_its_weights(rng):
    model, shape = model_of("residual"), MODELS["residual"][1]
    x = rounded(normals(shape, rng), "bfloat16")
    wanted = model(x)
    plan = fc.compile(model.to("cuda", "bfloat16"), shape, dtype="bfloat16")
    assert plan.device == "cuda:0"
    close(plan(on_gpu(x, "bfloat16")), wanted, "bfloat16")
    on_host = fc.compile(model, shape, device="cpu")
    np.testing.assert_allclose(on_host(x), wanted, rtol=0.1, atol=0.1 * np.abs(wanted).max())


def test_out_may_be_strided(rng):
    model, shape = model_of("inception"), MODELS["inception"][1]
    plan, x = fc.compile(model, shape, device="cuda"), on_gpu(normals(shape, rng))
    wide = fc.cuda.zeros((2, 40, 3, 3), order="channels_last")
    out = wide[:, 3 : 3 + plan.output_shape[1]]
    assert plan.run(x, out=out) is out
    assert np.array_equal(host(out), host(plan(x)))
    assert not host(wide[:, :3]).any()


def test_runs_on_other_streams_take_turns(rng):
    model, shape = model_of("classifier"), MODELS["classifier"][1]
    plan = fc.compile(model, shape, device="cuda")
    inputs = [normals(shape, rng) for _ in range(3)]
    results = []
    for x in inputs:
        with fc.cuda.Stream() as stream:
            results.append(plan(on_gpu(x)))
        stream.synchronize()
    for x, y in zip(inputs, results, strict=True):
        close(y, model(x), "float32")


class Foreign:
    """Another library's array, on a stream of its own."""

    def __init__(self, array, stream):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": stream.ptr}


def test_another_librarys_stream_is_used(rng):
    model, shape = model_of("classifier"), MODELS["classifier"][1]
    plan, x = fc.compile(model, shape, device="cuda"), normals(shape, rng)
    stream = fc.cuda.Stream()
    y = plan(Foreign(on_gpu(x), stream))
    stream.synchronize()  # alone is enough
    close(y, model(x), "float32")
    close(plan(on_gpu(x)), model(x), "float32")


def test_wrong_inputs_are_named(rng):
    model, shape = model_of("classifier"), MODELS["classifier"][1]
    plan, x = fc.compile(model, shape, device="cuda"), normals(shape, rng)
    with pytest.raises(ValueError, match="x is on the CPU, but the plan was compiled for cuda:0; "):
        plan(x)
    with pytest.raises(TypeError, match="x has dtype float16, but the plan was compiled for float"):
        plan(on_gpu(x, "float16"))
    with pytest.raises(ValueError, match="x is on CUDA device 0, but the plan was compiled for cp"):
        fc.compile(model, shape)(on_gpu(x))
    with pytest.raises(TypeError, match="compile: float64 has no kernels on a CUDA device"):
        fc.compile(model, shape, dtype="float64", device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
def test_highway(dtype, rng):
    model = L.Highway(L.Sequential(L.Conv2d(8, 8, 3, padding=1), L.ReLU()), L.Conv2d(8, 8, 1))
    for parameter in model.parameters():
        parameter.load(rounded(parameter.data, dtype))
    x = rounded(normals((2, 8, 5, 4), rng), dtype)
    plan = fc.compile(model.eval(), x.shape, dtype=dtype, device="cuda")
    close(plan(on_gpu(x, dtype)), model(x), dtype)


def test_one_image_an_empty_batch_and_no_steps(rng):
    model = L.Sequential(L.Conv2d(2, 3, 2), L.ReLU()).eval()
    x = normals((2, 5, 4), rng)
    close(fc.compile(model, (1, 2, 5, 4), device="cuda")(on_gpu(x)), model(x), "float32")
    empty = fc.compile(model, (0, 2, 5, 4), device="cuda")
    assert empty(on_gpu(np.ones((0, 2, 5, 4), np.float32))).shape == (0, 3, 4, 3)
    same = fc.compile(L.Dropout(), (2, 3), device="cuda")
    x = on_gpu(normals((2, 3), rng))
    assert np.array_equal(host(same(x)), host(x))


def test_a_plan_gives_its_memory_back(rng):
    model, shape = model_of("residual"), MODELS["residual"][1]
    x = on_gpu(normals(shape, rng))
    fc.compile(model, shape, device="cuda")(x)
    fc.cuda.synchronize()
    before = fc.cuda.memory_stats()["used"]
    plan = fc.compile(model, shape, device="cuda")
    plan(x)
    assert fc.cuda.memory_stats()["used"] > before
    del plan
    fc.cuda.synchronize()
    assert fc.cuda.memory_stats()["used"] == before
