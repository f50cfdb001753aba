// Pooling, its gradients and unpooling: arrays and numbers to a plan, the plan run without the GIL.
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bindings/array.h"
#include "bindings/perform.h"
#include "bindings/plan_memo.h"
#include "bindings/pool_problem.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

PoolArray pool_array(const py::array& array) {
    require_rank(array, 4);
    return {{array.shape(0), array.shape(1), array.shape(2), array.shape(3)}, dtype_of(array)};
}

PoolArray index_array(const py::array& array) {
    require_rank(array, 4);
    if (array.dtype().kind() != 'i' || array.itemsize() != 8)
        throw std::invalid_argument("_core: indices must be int64");
    return {{array.shape(0), array.shape(1), array.shape(2), array.shape(3)}, DType::kInt64};
}

/// pybind11's own way through ten numbers takes 0.2 us longer.
std::vector<std::int64_t> numbers_of(const py::tuple& tuple) {
    std::vector<std::int64_t> numbers(tuple.size());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i)));
        if (numbers[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
    }
    return numbers;
}

std::shared_ptr<const PoolPlan> plan_of_call(const PoolProblem& problem, const PoolStrides& strides) {
    const cpu::Isa& isa = cpu::current_isa();
    const int threads = num_threads();
    PlanKey key;
    key.add(problem.operation, problem.dtype, problem.pool.batch, problem.pool.channels);
    key.add(problem.pool.height).add(problem.pool.width);
    key.add(problem.adaptive, problem.count_include_pad, problem.divisor_override, problem.with_indices);
    key.add(strides.input).add(strides.output).add(strides.indices).add_object(&isa).add(threads);
    thread_local PlanMemo<PoolPlan> memo;
    return memo.find(key, [&] { return cpu::plan_pool2d(problem, strides, isa, threads); });
}

/// Arguments as pool_problem says.
void pool2d(int operation, py::array input, py::array output, std::optional<py::array> indices,
            const py::tuple& numbers, bool count_include_pad, std::int64_t divisor_override) {
    const std::vector<std::int64_t> windows = numbers_of(numbers);
    std::optional<PoolArray> places;
    if (indices) places = index_array(*indices);
    const PoolProblem problem =
        pool_problem(operation, pool_array(input), pool_array(output), places, windows,
                     count_include_pad, divisor_override);
    PoolStrides strides{strides_of(input), strides_of(output), {}};
    PoolPointers pointers;
    pointers.input = problem.backward() ? writable_data_of(input) : data_of(input);
    pointers.output = problem.backward() ? data_of(output) : writable_data_of(output);
    if (indices) {
        strides.indices = strides_of(*indices);
        pointers.indices = static_cast<std::int64_t*>(
            problem.backward() ? data_of(*indices) : writable_data_of(*indices));
    }
    perform(0, {input, output, handle_of(indices)},
            [plan = plan_of_call(problem, strides), pointers](void*) { cpu::run_pool2d(*plan, pointers); });
}

/// Returns the first index found outside the image, or -1.
std::int64_t unpool2d(bool backward, py::array input, py::array output, py::array indices) {
    UnpoolProblem problem = unpool_problem(backward, pool_array(input), pool_array(output),
                                           index_array(indices));
    problem.input = strides_of(input);
    problem.output = strides_of(output);
    problem.indices = strides_of(indices);
    PoolPointers pointers;
    pointers.input = backward ? writable_data_of(input) : data_of(input);
    pointers.output = backward ? data_of(output) : writable_data_of(output);
    pointers.indices = static_cast<std::int64_t*>(data_of(indices));
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
