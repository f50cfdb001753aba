// Softmax and cross-entropy on CUDA: as bindings/loss.cpp, on device arrays. Nothing is read back:
// losses and their total stay on the device, and a target that is no class makes its row NaN.
#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/cuda_array.h"
#include "ops.h"

namespace fastconv {
namespace {

template <SoftmaxKind kKind>
void softmax(const CudaArray& x, const CudaArray& y, int axis) {
    require_alike(x, y);
    if (axis < 0 || axis >= x.rank()) throw std::invalid_argument("_core: axis out of range");
    const Tensor a = tensor_of(x), result = written_tensor_of(y);
    const CudaCall call({&x, &y});
    py::gil_scoped_release release;
    cuda::run_softmax(kKind, result, a, nullptr, axis, call.stream());
}

template <SoftmaxKind kKind>
void softmax_backward(const CudaArray& grad_output, const CudaArray& output,
                      const CudaArray& grad_input, int axis) {
    require_alike(grad_output, grad_input);
    require_alike(output, grad_input);
    if (axis < 0 || axis >= output.rank()) throw std::invalid_argument("_core: axis out of range");
    const Tensor g = tensor_of(grad_output), y = tensor_of(output);
    const Tensor dx = written_tensor_of(grad_input);
    const CudaCall call({&grad_output, &output, &grad_input});
    py::gil_scoped_release release;
    cuda::run_softmax(kKind, dx, g, &y, axis, call.stream());
}

CrossEntropy problem_of(const CudaArray& logits, const CudaArray& target, double label_smoothing) {
    if (logits.rank() != 2 || target.rank() != 1 || target.shape[0] != logits.shape[0] ||
        target.dtype != DType::kInt64)
        throw std::invalid_argument("_core: logits (N, C) and int64 target (N,) expected");
    CrossEntropy problem;
    problem.logits = tensor_of(logits);
    problem.target = static_cast<const std::int64_t*>(target.data);
    problem.target_elems = target.elems[0];
    problem.label_smoothing = label_smoothing;
    return problem;
}

/// The data of a float32 array of `count` neighbours, or null.
float* floats_of(const CudaArray* array, std::int64_t count, bool written) {
    if (!array) return nullptr;
    if (array->dtype != DType::kFloat32 || array->size() != count || array->rank() > 1 ||
        (count > 1 && array->elems[0] != 1))
        throw std::invalid_argument("_core: a float32 array without gaps expected");
    return static_cast<float*>((written ? written_tensor_of(*array) : tensor_of(*array)).data);
}

void cross_entropy(const CudaArray& logits, const CudaArray& target, double label_smoothing,
                   const CudaArray* losses, const CudaArray* total, double total_scale) {
    const CrossEntropy problem = problem_of(logits, target, label_smoothing);
    float* const each = floats_of(losses, logits.shape[0], true);
    float* const sum = floats_of(total, 1, true);
    const CudaCall call({&logits, &target, losses, total});
    py::gil_scoped_release release;
    cuda::run_cross_entropy(problem, each, sum, static_cast<float>(total_scale), call.stream());
}

void cross_entropy_backward(const CudaArray& logits, const CudaArray& target,
                            double label_smoothing, double scale, const CudaArray* scales,
                            const CudaArray& grad) {
    const CrossEntropy problem = problem_of(logits, target, label_smoothing);
    require_alike(logits, grad);
    const float* const factors = floats_of(scales, logits.shape[0], false);
    const Tensor dx = written_tensor_of(grad);
    const CudaCall call({&logits, &target, scales, &grad});
    py::gil_scoped_release release;
    cuda::run_cross_entropy_backward(problem, dx, scale, factors, call.stream());
}

}  // namespace

void bind_cuda_loss(py::module_& module) {
    module.def("softmax", &softmax<kSoftmax>, py::arg("x"), py::arg("y"), py::arg("axis"));
    module.def("log_softmax", &softmax<kLogSoftmax>, py::arg("x"), py::arg("y"), py::arg("axis"));
    module.def("softmax_backward", &softmax_backward<kSoftmaxBackward>, py::arg("grad_output"),
               py::arg("output"), py::arg("grad_input"), py::arg("axis"));
    module.def("log_softmax_backward", &softmax_backward<kLogSoftmaxBackward>,
               py::arg("grad_output"), py::arg("output"), py::arg("grad_input"), py::arg("axis"));
    module.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("target"),
               py::arg("label_smoothing"), py::arg("losses").none(true), py::arg("total").none(true),
               py::arg("total_scale"));
    module.def("cross_entropy_backward", &cross_entropy_backward, py::arg("logits"),
               py::arg("target"), py::arg("label_smoothing"), py::arg("scale"),
               py::arg("scales").none(true), py::arg("grad"));
}

}  // namespace fastconv
