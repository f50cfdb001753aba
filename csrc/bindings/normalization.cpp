// Batch normalization and local response normalization.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/perform.h"
#include "bindings/span.h"
#include "bindings/tensor.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "ops.h"

namespace fastconv {
namespace {

using Optional = std::optional<py::array>;

void require_vector(const Tensor& vector, const Tensor& x, int axis) {
    if (vector.rank != 1 || vector.size[0] != x.size[axis] || vector.dtype != x.dtype)
        throw std::invalid_argument("_core: an array (C,) of x's dtype expected");
}

/// Tensors of arrays (C,) that may be absent, checked.
struct Vector {
    Tensor tensor;
    bool given;
    Vector(Optional& array, bool written, const Tensor& x, int axis) : given(array.has_value()) {
        if (!given) return;
        tensor = written ? writable_tensor_of(*array) : tensor_of(*array);
        require_vector(tensor, x, axis);
    }
    const Tensor* get() const { return given ? &tensor : nullptr; }
};

Tensor vector_of(py::array& array, bool written, const Tensor& x, int axis) {
    const Tensor tensor = written ? writable_tensor_of(array) : tensor_of(array);
    require_vector(tensor, x, axis);
    return tensor;
}

std::optional<Span> span_if(const Optional& array) {
    if (!array) return std::nullopt;
    return span_of(array->data(), static_cast<int>(array->ndim()), array->shape(), array->strides(), 1,
                   array->itemsize());
}

bool running_lie_apart(const Optional& mean, const Optional& var, const Optional& x, const Optional& weight,
                       const Optional& bias) {
    return lie_apart(span_if(mean), span_if(var), {span_if(x), span_if(weight), span_if(bias)});
}

void batch_norm(const py::array& x, py::array y, py::array mean, py::array rstd, Optional weight,
                Optional bias, Optional running_mean, Optional running_var, int axis, bool training,
                double momentum, double eps, bool relu, Optional residual) {
    BatchNorm call;
    call.x = tensor_of(x);
    call.y = writable_tensor_of(y);
    require_alike(call.x, call.y);
    if (axis < 0 || axis >= call.x.rank) throw std::invalid_argument("_core: axis out of range");
    call.mean = vector_of(mean, true, call.x, axis);
    call.rstd = vector_of(rstd, true, call.x, axis);
    const Vector w(weight, false, call.x, axis), b(bias, false, call.x, axis);
    const Vector m(running_mean, training, call.x, axis), v(running_var, training, call.x, axis);
    call.axis = axis;
    call.training = training;
    call.momentum = momentum;
    call.eps = eps;
    call.relu = relu;
    if (residual && !relu) throw std::invalid_argument("_core: a residual needs a ReLU after it");
    const Tensor added = residual ? tensor_of(*residual) : call.x;
    require_alike(call.x, added);
    if (!training && (!m.given || !v.given))
        throw std::invalid_argument("_core: evaluation needs running statistics");
    if ((call.mean.size[0] > 1 && call.mean.elems[0] != 1) ||
        (call.rstd.size[0] > 1 && call.rstd.elems[0] != 1))
        throw std::invalid_argument("_core: mean and rstd need unit stride");
    perform(cpu::batch_norm_workspace_bytes(call),
            {x, y, mean, rstd, handle_of(weight), handle_of(bias), handle_of(running_mean),
             handle_of(running_var), handle_of(residual)},
            [=, &isa = cpu::current_isa(), threads = num_threads(),
             adds = residual.has_value()](void* workspace) {
                BatchNorm whole = call;  // its tensors are this function's
                whole.residual = adds ? &added : nullptr;
                whole.weight = w.get();
                whole.bias = b.get();
                whole.running_mean = m.get();
                whole.running_var = v.get();
                cpu::run_batch_norm(whole, workspace, isa, threads);
            });
}

void batch_norm_backward(const py::array& grad_output, const py::array& x, py::array mean,
                         py::array rstd, Optional weight, py::array grad_input,
                         py::array grad_weight, py::array grad_bias, int axis, bool training,
                         bool relu, Optional bias, Optional output, Optional grad_residual) {
    BatchNormBackward call;
    call.grad_output = tensor_of(grad_output);
    call.x = tensor_of(x);
    call.grad_input = writable_tensor_of(grad_input);
    require_alike(call.x, call.grad_output);
    require_alike(call.x, call.grad_input);
    if (axis < 0 || axis >= call.x.rank) throw std::invalid_argument("_core: axis out of range");
    call.mean = vector_of(mean, false, call.x, axis);
    call.rstd = vector_of(rstd, false, call.x, axis);
    call.grad_weight = vector_of(grad_weight, true, call.x, axis);
    call.grad_bias = vector_of(grad_bias, true, call.x, axis);
    const Vector w(weight, false, call.x, axis);
    const Vector b(bias, false, call.x, axis);
    call.weight = w.get();
    call.bias = b.get();
    call.axis = axis;
    call.training = training;
    call.relu = relu;
    if (relu && !training) throw std::invalid_argument("_core: a ReLU's gradient needs training");
    if (output.has_value() != grad_residual.has_value() || (output && !relu))
        throw std::invalid_argument("_core: output and grad_residual need each other and a ReLU");
    Tensor y, added;
    if (output) {
        y = tensor_of(*output);
        added = writable_tensor_of(*grad_residual);
        require_alike(call.x, y);
        require_alike(call.x, added);
        call.output = &y;
        call.grad_residual = &added;
    }
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    const Workspace workspace = Workspace::acquire(cpu::batch_norm_workspace_bytes(call));
    cpu::run_batch_norm_backward(call, workspace.data(), isa, num_threads());
}

ResponseNorm response_norm_of(const py::array& x, int axis, std::int64_t size, double alpha,
                                   double beta, double k) {
    ResponseNorm call{tensor_of(x), axis, size, alpha, beta, k};
    if (axis < 0 || axis >= call.x.rank || size < 1)
        throw std::invalid_argument("_core: axis or size out of range");
    return call;
}

void local_response_norm(const py::array& x, py::array y, int axis, std::int64_t size, double alpha,
                         double beta, double k) {
    const ResponseNorm call = response_norm_of(x, axis, size, alpha, beta, k);
    const Tensor result = writable_tensor_of(y);
    require_alike(call.x, result);
    perform(0, {x, y},
            [=, &isa = cpu::current_isa(), threads = num_threads()](void*) {
                cpu::run_response_norm(call, result, isa, threads);
            });
}

void local_response_norm_backward(const py::array& grad_output, const py::array& x,
                                  py::array grad_input, int axis, std::int64_t size, double alpha,
                                  double beta, double k) {
    const ResponseNorm call = response_norm_of(x, axis, size, alpha, beta, k);
    const Tensor g = tensor_of(grad_output), dx = writable_tensor_of(grad_input);
    require_alike(call.x, g);
    require_alike(call.x, dx);
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_response_norm_backward(call, g, dx, isa, num_threads());
}

}  // namespace

void bind_normalization(py::module_& module) {
    module.def("batch_norm", &batch_norm, py::arg("x"), py::arg("y"), py::arg("mean"),
               py::arg("rstd"), py::arg("weight"), py::arg("bias"), py::arg("running_mean"),
               py::arg("running_var"), py::arg("axis"), py::arg("training"), py::arg("momentum"),
               py::arg("eps"), py::arg("relu") = false, py::arg("residual") = py::none());
    module.def("lie_apart", &running_lie_apart, py::arg("running_mean"), py::arg("running_var"),
               py::arg("x"), py::arg("weight"), py::arg("bias"));
    module.def("batch_norm_backward", &batch_norm_backward, py::arg("grad_output"), py::arg("x"),
               py::arg("mean"), py::arg("rstd"), py::arg("weight"), py::arg("grad_input"),
               py::arg("grad_weight"), py::arg("grad_bias"), py::arg("axis"),
               py::arg("training"), py::arg("relu") = false, py::arg("bias") = py::none(),
               py::arg("output") = py::none(), py::arg("grad_residual") = py::none());
    module.def("local_response_norm", &local_response_norm, py::arg("x"), py::arg("y"),
               py::arg("axis"), py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"));
    module.def("local_response_norm_backward", &local_response_norm_backward,
               py::arg("grad_output"), py::arg("x"), py::arg("grad_input"), py::arg("axis"),
               py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"));
}

}  // namespace fastconv
