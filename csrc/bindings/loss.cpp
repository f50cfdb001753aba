// Softmax and cross-entropy.
#include <pybind11/stl.h>

#include <cstddef>
#include <optional>
#include <string>

#include "bindings/perform.h"
#include "bindings/tensor.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "ops.h"

namespace fastconv {
namespace {

using Targets = py::array_t<std::int64_t>;

template <SoftmaxKind kKind>
void softmax(const py::array& x, py::array y, int axis) {
    const Tensor a = tensor_of(x), result = writable_tensor_of(y);
    require_alike(a, result);
    if (axis < 0 || axis >= a.rank) throw std::invalid_argument("_core: axis out of range");
    perform(0, {x, y},
            [=, &isa = cpu::current_isa(), threads = num_threads()](void*) {
                cpu::run_softmax(kKind, result, a, nullptr, axis, isa, threads);
            });
}

template <SoftmaxKind kKind>
void softmax_backward(const py::array& grad_output, const py::array& output, py::array grad_input,
                      int axis) {
    const Tensor g = tensor_of(grad_output), y = tensor_of(output);
    const Tensor dx = writable_tensor_of(grad_input);
    require_alike(g, dx);
    require_alike(y, dx);
    if (axis < 0 || axis >= dx.rank) throw std::invalid_argument("_core: axis out of range");
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_softmax(kKind, dx, g, &y, axis, isa, num_threads());
}

CrossEntropy problem_of(const char* function, const py::array& logits, const Targets& target,
                             double label_smoothing) {
    CrossEntropy problem;
    problem.logits = tensor_of(logits);
    if (logits.ndim() != 2 || target.ndim() != 1 || target.shape(0) != logits.shape(0) ||
        target.strides(0) % 8 != 0)
        throw std::invalid_argument("_core: logits (N, C) and target (N,) expected");
    problem.target = target.data();
    problem.target_elems = target.strides(0) / 8;
    problem.label_smoothing = label_smoothing;
    const std::int64_t classes = logits.shape(1);
    for (py::ssize_t n = 0; n < target.shape(0); ++n) {
        const std::int64_t value = problem.target[n * problem.target_elems];
        if (value < 0 || value >= classes)
            throw std::invalid_argument(
                std::string(function) + ": target[" + std::to_string(n) + "] is " +
                std::to_string(value) + ", but logits have " + std::to_string(classes) +
                " classes: 0 <= target < " + std::to_string(classes) + " is wanted");
    }
    return problem;
}

// The sum of the losses in the order of the rows, or their mean; each of them goes to `out` if there
// is one.
double cross_entropy(const py::array& logits, const Targets& target, double label_smoothing,
                     bool mean, std::optional<py::array> out) {
    const CrossEntropy problem = problem_of("cross_entropy", logits, target, label_smoothing);
    const std::int64_t rows = problem.logits.size[0];
    const Tensor each = out ? writable_tensor_of(*out) : Tensor{};
    if (out && (each.rank != 1 || each.size[0] != rows || each.dtype != problem.logits.dtype))
        throw std::invalid_argument("_core: losses (N,) expected");
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    const Workspace workspace =
        Workspace::acquire(sizeof(double) * static_cast<std::size_t>(rows));
    return cpu::run_cross_entropy(problem, static_cast<double*>(workspace.data()), mean,
                                  out ? &each : nullptr, isa, num_threads());
}

// `scales`: one factor, or one a row; of the mean's gradient they are divided by the rows.
void cross_entropy_backward(const py::array& logits, const Targets& target, double label_smoothing,
                            bool mean, const py::array_t<double>& scales, py::array grad) {
    const CrossEntropy problem =
        problem_of("cross_entropy_backward", logits, target, label_smoothing);
    const Tensor dx = writable_tensor_of(grad);
    require_alike(problem.logits, dx);
    if (scales.ndim() != 1 || (scales.shape(0) != 1 && scales.shape(0) != dx.size[0]) ||
        scales.strides(0) % 8 != 0)
        throw std::invalid_argument("_core: scales (1,) or (N,) expected");
    const std::int64_t step = scales.shape(0) == 1 ? 0 : scales.strides(0) / 8;
    const cpu::Isa& isa = cpu::current_isa();
    const double* factors = scales.data();
    const double divisor = mean ? static_cast<double>(dx.size[0]) : 1.0;
    py::gil_scoped_release release;
    cpu::run_cross_entropy_backward(problem, dx, factors, step, divisor, isa, num_threads());
}

}  // namespace

void bind_loss(py::module_& module) {
    module.def("softmax", &softmax<kSoftmax>, py::arg("x"), py::arg("y"), py::arg("axis"));
    module.def("log_softmax", &softmax<kLogSoftmax>, py::arg("x"), py::arg("y"),
               py::arg("axis"));
    module.def("softmax_backward", &softmax_backward<kSoftmaxBackward>,
               py::arg("grad_output"), py::arg("output"), py::arg("grad_input"), py::arg("axis"));
    module.def("log_softmax_backward", &softmax_backward<kLogSoftmaxBackward>,
               py::arg("grad_output"), py::arg("output"), py::arg("grad_input"), py::arg("axis"));
    module.def("cross_entropy", &cross_entropy, py::arg("logits"),
               py::arg("target").noconvert(), py::arg("label_smoothing"), py::arg("mean"),
               py::arg("losses"));
    module.def("cross_entropy_backward", &cross_entropy_backward, py::arg("logits"),
               py::arg("target").noconvert(), py::arg("label_smoothing"), py::arg("mean"),
               py::arg("scales"), py::arg("grad"));
}

}  // namespace fastconv
