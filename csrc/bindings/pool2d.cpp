// Pooling, its gradients and unpooling: arrays and numbers to a plan, the plan run without the GIL.
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/array.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

std::int64_t* indices_of(py::array& indices, const py::array& like, bool written) {
    if (indices.dtype().kind() != 'i' || indices.itemsize() != 8)
        throw std::invalid_argument("_core: indices must be int64");
    for (int i = 0; i < 4; ++i)
        if (indices.shape(i) != like.shape(i))
            throw std::invalid_argument("_core: indices of another shape");
    return static_cast<std::int64_t*>(written ? writable_data_of(indices) : data_of(indices));
}

void require_same_planes(const py::array& a, const py::array& b) {
    if (a.shape(0) != b.shape(0) || a.shape(1) != b.shape(1) || dtype_of(a) != dtype_of(b))
        throw std::invalid_argument("_core: arrays do not belong together");
}

bool fits(const Axis& axis, bool adaptive) {
    if (adaptive) return axis.in >= 1 && axis.out >= 1;
    return axis.kernel >= 1 && axis.stride >= 1 && axis.dilation >= 1 && axis.pad_lo >= 0 &&
           axis.pad_hi >= 0 && axis.pad_lo < axis.extent() && axis.pad_hi < axis.extent() &&
           (axis.out == output_size(axis) || axis.out == output_size(axis, true));
}

/// windows: (kernel, stride, dilation, pad_lo, pad_hi) of the height, then of the width; none for
/// adaptive windows. `input` and `output` are x and y, or grad_input and grad_output.
void pool2d(int operation, py::array input, py::array output, std::optional<py::array> indices,
            const std::vector<std::int64_t>& windows, bool count_include_pad,
            std::int64_t divisor_override) {
    PoolProblem problem;
    problem.operation = static_cast<PoolOperation>(operation);
    problem.dtype = dtype_of(input);
    problem.adaptive = windows.empty();
    problem.count_include_pad = count_include_pad;
    problem.divisor_override = divisor_override;
    problem.with_indices = indices.has_value();
    PoolStrides strides{strides_of(input), strides_of(output), {}};
    require_same_planes(input, output);
    Pool& pool = problem.pool;
    pool.batch = input.shape(0);
    pool.channels = input.shape(1);
    if (!problem.adaptive) {
        if (windows.size() != 10) throw std::invalid_argument("_core: ten numbers expected");
        const std::int64_t* n = windows.data();
        pool.height = {0, n[0], n[1], n[2], n[3], n[4], 0};
        pool.width = {0, n[5], n[6], n[7], n[8], n[9], 0};
    }
    pool.height.in = input.shape(2);
    pool.width.in = input.shape(3);
    pool.height.out = output.shape(2);
    pool.width.out = output.shape(3);
    const bool dilated = pool.height.dilation != 1 || pool.width.dilation != 1;
    if (!fits(pool.height, problem.adaptive) || !fits(pool.width, problem.adaptive) ||
        (dilated && !problem.max()) || operation < 0 || operation > 3 ||
        (problem.operation == PoolOperation::kMaxBackward) > problem.with_indices)
        throw std::invalid_argument("_core: shapes do not belong together");
    PoolPointers pointers;
    pointers.input = problem.backward() ? writable_data_of(input) : data_of(input);
    pointers.output = problem.backward() ? data_of(output) : writable_data_of(output);
    if (indices) {
        strides.indices = strides_of(*indices);
        pointers.indices = indices_of(*indices, output, !problem.backward());
    }
    py::gil_scoped_release release;
    cpu::run_pool2d(cpu::plan_pool2d(problem, strides, cpu::current_isa(), num_threads()),
                    pointers);
}

/// Returns the first index found outside the image, or -1.
std::int64_t unpool2d(bool backward, py::array input, py::array output, py::array indices) {
    require_rank(indices, 4);
    UnpoolProblem problem;
    problem.input = strides_of(input);
    problem.output = strides_of(output);
    problem.indices = strides_of(indices);
    require_same_planes(input, output);
    problem.dtype = dtype_of(input);
    problem.batch = input.shape(0);
    problem.channels = input.shape(1);
    problem.in_h = input.shape(2);
    problem.in_w = input.shape(3);
    problem.out_h = output.shape(2);
    problem.out_w = output.shape(3);
    problem.backward = backward;
    PoolPointers pointers;
    pointers.input = backward ? writable_data_of(input) : data_of(input);
    pointers.output = backward ? data_of(output) : writable_data_of(output);
    pointers.indices = indices_of(indices, input, false);
    py::gil_scoped_release release;
    return cpu::run_unpool2d(problem, pointers, num_threads());
}

}  // namespace

void bind_pool2d(py::module_& module) {
    module.def("pool2d", &pool2d, py::arg("operation"), py::arg("input"), py::arg("output"),
               py::arg("indices"), py::arg("windows"), py::arg("count_include_pad"),
               py::arg("divisor_override"));
    module.def("unpool2d", &unpool2d, py::arg("backward"), py::arg("input"), py::arg("output"),
               py::arg("indices"));
}

}  // namespace fastconv
