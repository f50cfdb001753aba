// linear and its gradients: matrices to a plan, the plan run without the GIL.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/array.h"
#include "bindings/perform.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

MatrixStrides matrix_strides_of(const py::array& array) {
    require_rank(array, 2);
    const py::ssize_t size = array.itemsize();
    for (int d = 0; d < 2; ++d)
        if (array.strides(d) % size != 0 && array.shape(d) > 1 && array.size() > 0)
            throw std::invalid_argument("_core: strides split an element");
    return {array.strides(0) / size, array.strides(1) / size};
}

// Writes into the operand that the direction computes: y, x or weight.
void linear(int direction_index, py::array x, py::array weight, py::array y,
            std::optional<py::array> bias, bool relu, bool accumulate) {
    const Direction direction = static_cast<Direction>(direction_index);
    const LinearStrides strides{matrix_strides_of(x), matrix_strides_of(weight), matrix_strides_of(y)};
    const Linear problem{x.shape(0), x.shape(1), weight.shape(0), dtype_of(x)};
    if (weight.shape(1) != problem.in || y.shape(0) != problem.batch || y.shape(1) != problem.out ||
        dtype_of(weight) != problem.dtype || dtype_of(y) != problem.dtype)
        throw std::invalid_argument("_core: shapes do not belong together");
    LinearPointers pointers;
    py::array& result = direction == Direction::kForward     ? y
                        : direction == Direction::kGradInput ? x
                                                             : weight;
    pointers.x = data_of(x);
    pointers.weight = data_of(weight);
    pointers.y = data_of(y);
    writable_data_of(result);  // throws if it is not
    if (bias) pointers.bias = bias->data();
    pointers.relu = relu;
    pointers.accumulate = accumulate;
    LinearPlan plan =
        cpu::plan_linear(problem, direction, strides, cpu::current_isa(), num_threads());
    perform(plan.workspace_bytes, {x, weight, y, handle_of(bias)},
            [plan = std::move(plan), pointers](void* workspace) {
                cpu::run_linear(plan, pointers, workspace);
            });
}

}  // namespace

void bind_linear(py::module_& module) {
    module.def("linear", &linear, py::arg("direction"), py::arg("x"), py::arg("weight"),
               py::arg("y"), py::arg("bias"), py::arg("relu"), py::arg("accumulate"));
}

}  // namespace fastconv
