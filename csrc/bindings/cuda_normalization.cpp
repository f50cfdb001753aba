// Batch normalization and local response normalization on CUDA: as bindings/normalization.cpp, on
// device arrays. What is (C,) in batch normalization is float32 whatever x is.
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "bindings/cuda_array.h"
#include "bindings/span.h"
#include "ops.h"

namespace fastconv {
namespace {

void require_axis(const CudaArray& x, int axis) {
    if (axis < 0 || axis >= x.rank()) throw std::invalid_argument("_core: axis out of range");
}

/// The tensor of an array (C,) that may be absent, checked.
struct Vector {
    Tensor tensor;
    bool given;
    Vector(const CudaArray* array, bool written, const CudaArray& x, int axis)
        : given(array != nullptr) {
        if (!given) return;
        if (array->rank() != 1 || array->dtype != DType::kFloat32 ||
            array->shape[0] != x.shape[static_cast<std::size_t>(axis)])
            throw std::invalid_argument("_core: a float32 array (C,) expected");
        tensor = written ? written_tensor_of(*array) : tensor_of(*array);
    }
    const Tensor* get() const { return given ? &tensor : nullptr; }
};

std::optional<Span> span_if(const CudaArray* array) {
    if (!array) return std::nullopt;
    return span_of(array->data, array->rank(), array->shape.data(), array->elems.data(), array->item_bytes(),
                   array->item_bytes());
}

bool running_lie_apart(const CudaArray* mean, const CudaArray* var, const CudaArray* x, const CudaArray* weight,
                       const CudaArray* bias) {
    return lie_apart(span_if(mean), span_if(var), {span_if(x), span_if(weight), span_if(bias)});
}

void batch_norm(const CudaArray& x, const CudaArray& y, const CudaArray& mean,
                const CudaArray& rstd, const CudaArray* weight, const CudaArray* bias,
                const CudaArray* running_mean, const CudaArray* running_var, int axis,
                bool training, double momentum, double eps, bool relu) {
    require_alike(x, y);
    require_axis(x, axis);
    const Vector means(&mean, true, x, axis), rstds(&rstd, true, x, axis);
    const Vector w(weight, false, x, axis), b(bias, false, x, axis);
    const Vector m(running_mean, training, x, axis), v(running_var, training, x, axis);
    if (!training && (!m.given || !v.given))
        throw std::invalid_argument("_core: evaluation needs running statistics");
    BatchNorm problem;
    problem.x = tensor_of(x);
    problem.y = written_tensor_of(y);
    problem.mean = means.tensor;
    problem.rstd = rstds.tensor;
    problem.weight = w.get();
    problem.bias = b.get();
    problem.running_mean = m.get();
    problem.running_var = v.get();
    problem.axis = axis;
    problem.training = training;
    problem.momentum = momentum;
    problem.eps = eps;
    problem.relu = relu;
    const CudaCall call({&x, &y, &mean, &rstd, weight, bias, running_mean, running_var});
    py::gil_scoped_release release;
    cuda::run_batch_norm(problem, call.stream());
}

void batch_norm_backward(const CudaArray& grad_output, const CudaArray& x, const CudaArray& mean,
                         const CudaArray& rstd, const CudaArray* weight,
                         const CudaArray& grad_input, const CudaArray& grad_weight,
                         const CudaArray& grad_bias, int axis, bool training) {
    require_alike(x, grad_output);
    require_alike(x, grad_input);
    require_axis(x, axis);
    const Vector means(&mean, false, x, axis), rstds(&rstd, false, x, axis);
    const Vector dw(&grad_weight, true, x, axis), db(&grad_bias, true, x, axis);
    const Vector w(weight, false, x, axis);
    BatchNormBackward problem;
    problem.grad_output = tensor_of(grad_output);
    problem.x = tensor_of(x);
    problem.mean = means.tensor;
    problem.rstd = rstds.tensor;
    problem.grad_input = written_tensor_of(grad_input);
    problem.grad_weight = dw.tensor;
    problem.grad_bias = db.tensor;
    problem.weight = w.get();
    problem.axis = axis;
    problem.training = training;
    const CudaCall call(
        {&grad_output, &x, &mean, &rstd, weight, &grad_input, &grad_weight, &grad_bias});
    py::gil_scoped_release release;
    cuda::run_batch_norm_backward(problem, call.stream());
}

ResponseNorm response_norm_of(const CudaArray& x, int axis, std::int64_t size, double alpha,
                              double beta, double k) {
    require_axis(x, axis);
    if (size < 1) throw std::invalid_argument("_core: size out of range");
    return {tensor_of(x), axis, size, alpha, beta, k};
}

void local_response_norm(const CudaArray& x, const CudaArray& y, int axis, std::int64_t size,
                         double alpha, double beta, double k) {
    require_alike(x, y);
    const ResponseNorm problem = response_norm_of(x, axis, size, alpha, beta, k);
    const Tensor result = written_tensor_of(y);
    const CudaCall call({&x, &y});
    py::gil_scoped_release release;
    cuda::run_response_norm(problem, result, call.stream());
}

void local_response_norm_backward(const CudaArray& grad_output, const CudaArray& x,
                                  const CudaArray& grad_input, int axis, std::int64_t size,
                                  double alpha, double beta, double k) {
    require_alike(x, grad_output);
    require_alike(x, grad_input);
    const ResponseNorm problem = response_norm_of(x, axis, size, alpha, beta, k);
    const Tensor g = tensor_of(grad_output), dx = written_tensor_of(grad_input);
    const CudaCall call({&grad_output, &x, &grad_input});
    py::gil_scoped_release release;
    cuda::run_response_norm_backward(problem, g, dx, call.stream());
}

}  // namespace

void bind_cuda_normalization(py::module_& module) {
    module.def("batch_norm", &batch_norm, py::arg("x"), py::arg("y"), py::arg("mean"),
               py::arg("rstd"), py::arg("weight").none(true), py::arg("bias").none(true),
               py::arg("running_mean").none(true), py::arg("running_var").none(true),
               py::arg("axis"), py::arg("training"), py::arg("momentum"), py::arg("eps"),
               py::arg("relu") = false);
    module.def("lie_apart", &running_lie_apart, py::arg("running_mean").none(true),
               py::arg("running_var").none(true), py::arg("x"), py::arg("weight").none(true),
               py::arg("bias").none(true));
    module.def("batch_norm_backward", &batch_norm_backward, py::arg("grad_output"), py::arg("x"),
               py::arg("mean"), py::arg("rstd"), py::arg("weight").none(true),
               py::arg("grad_input"), py::arg("grad_weight"), py::arg("grad_bias"),
               py::arg("axis"), py::arg("training"));
    module.def("local_response_norm", &local_response_norm, py::arg("x"), py::arg("y"),
               py::arg("axis"), py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"));
    module.def("local_response_norm_backward", &local_response_norm_backward,
               py::arg("grad_output"), py::arg("x"), py::arg("grad_input"), py::arg("axis"),
               py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"));
}

}  // namespace fastconv
