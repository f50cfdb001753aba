"""A network of ours beside one in PyTorch with the same weights: outputs and all gradients.

In float64 both must agree to 1e-9 of the largest element, in every output, gradient and running
statistic. In float32 outputs must agree with PyTorch's float64 to 1e-4, and so must gradients for
one of a few inputs: where rounding carries an activation over ReLU's kink, or changes the winner of
a max pool, a gradient jumps; what is computed wrongly is wrong for every input. With millions of
activations no input is without jumps (PyTorch's own float32 is then 1e-3 to 6e-2 away from its
float64): there (`jumps`) float32 gradients are compared by their norms.
"""

from __future__ import annotations

import copy
from unittest import mock

import fastconv as fc
import numpy as np
import pytest

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest element of what is compared
INPUTS = 4
JUMPS = 0.1  # of the norm of a gradient


def torchvision_models():
    """`torchvision.models`, also where its compiled operators, which no network needs, do not fit
    the installed PyTorch (a build for CUDA beside one for the CPU)."""
    pytest.importorskip("torch")
    unregistered = mock.patch("torch.library.register_fake", return_value=lambda f: f)
    try:
        import torchvision.models as models
    except ModuleNotFoundError:
        pytest.skip("torchvision is missing")
    except RuntimeError:
        with unregistered:
            import torchvision.models as models
    return models


def without_dropout(model):
    """Masks differ between libraries: dropout passes everything, ours and PyTorch's."""
    layers = model.named_layers() if isinstance(model, fc.layers.Layer) else model.named_modules()
    for _, layer in layers:
        if type(layer).__name__ == "Dropout":
            layer.p = 0.0
    return model


def copy_weights(ours, theirs):
    """Ours into PyTorch's by name; every name and shape must be there."""
    import torch

    state = {name: torch.from_numpy(np.array(a)) for name, a in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)


def excess(results, wanted, dtype):
    """What is further away than the tolerance: a line each."""
    assert results.keys() == wanted.keys()
    lines = []
    for name, array in wanted.items():
        assert results[name].shape == array.shape, name
        error, scale = np.abs(results[name] - array).max(), np.abs(array).max()
        if not error <= TOLERANCE[dtype] * scale:
            lines.append(f"{name}: {error:.3g} of {scale:.3g}")
    return lines


def jumped(results, wanted):
    """Gradients whose error is larger, by the norm, than what jumps explain."""
    norm = np.linalg.norm
    return [n for n, a in wanted.items() if not norm(results[n] - a) <= JUMPS * norm(a)]


def run_ours(model, x, grads, dtype):
    """(outputs and running statistics, gradients) of a training step, each by name."""
    model = copy.deepcopy(model).to(dtype=dtype).train()
    y = model(x.astype(dtype))
    several = isinstance(y, tuple)
    given = tuple(grad.astype(dtype) for grad in grads)
    grad_x = model.backward(given if several else given[0])
    outputs = {str(i): part for i, part in enumerate(y if several else (y,))}
    learned = {name: parameter.grad for name, parameter in model.named_parameters()}
    buffers = {n: np.asarray(a) for n, a in model.state_dict().items() if n not in learned}
    return {**outputs, **buffers}, {"input": grad_x, **learned}


def run_theirs(model, x, make_grads, order):
    """The same of PyTorch's model in float64, and the outputs' gradients that were used."""
    import torch

    model = copy.deepcopy(model).double().train()
    tensor = torch.from_numpy(x).requires_grad_()
    y = model(tensor)
    y = [y[i] for i in order] if order else [y]
    grads = [make_grads(part.shape) for part in y]
    torch.autograd.backward(y, [torch.from_numpy(grad) for grad in grads])
    outputs = {str(i): part.detach().numpy() for i, part in enumerate(y)}
    buffers = {name: buffer.numpy() for name, buffer in model.named_buffers()}
    learned = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {**outputs, **buffers}, {"input": tensor.grad.numpy(), **learned}, grads


def assert_same(ours, theirs, shape, rng, *, order=None, jumps=False):
    """Training steps in float64 and float32, then eval mode by the model and by `fc.compile`.

    `order` gives the places of our outputs in the tuple that PyTorch's model returns.
    """
    without_dropout(ours)
    without_dropout(theirs)
    copy_weights(ours, theirs)
    for attempt in range(1 if jumps else INPUTS):
        x = rng.standard_normal(shape)
        outputs, gradients, grads = run_theirs(theirs, x, rng.standard_normal, order)
        if attempt == 0:
            computed, slopes = run_ours(ours, x, grads, "float64")
            assert not excess(computed, outputs, "float64")
            assert not excess(slopes, gradients, "float64")
        computed, slopes = run_ours(ours, x, grads, "float32")
        assert not excess(computed, outputs, "float32")
        beyond = jumped(slopes, gradients) if jumps else excess(slopes, gradients, "float32")
        if not beyond:
            break
    assert not beyond
    assert_same_in_eval_mode(ours, theirs, x)


def assert_same_in_eval_mode(ours, theirs, x):
    import torch

    with torch.no_grad():
        wanted = {"y": copy.deepcopy(theirs).double().eval()(torch.from_numpy(x)).numpy()}
    x = x.astype(np.float32)
    plan = fc.compile(ours, x.shape)
    assert not excess({"y": copy.deepcopy(ours).eval()(x)}, wanted, "float32")
    assert not excess({"y": plan(x)}, wanted, "float32")
