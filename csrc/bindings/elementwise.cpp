// Activations, arithmetic, dropout and the SGD update: arrays of one shape to one pass over them.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/elementwise_functions.h"
#include "bindings/perform.h"
#include "bindings/tensor.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

struct Cpu {
    template <ElementwiseOp kOp>
    static void unary(const py::array& x, py::array y, double parameter) {
        const Tensor a = tensor_of(x), result = writable_tensor_of(y);
        require_alike(a, result);
        perform(0, {x, y},
                [=, &isa = cpu::current_isa(), threads = num_threads()](void*) {
                    cpu::run_elementwise(kOp, a, nullptr, result, parameter, isa, threads);
                });
    }

    template <ElementwiseOp kOp>
    static void binary(const py::array& x, const py::array& other, py::array y, double parameter) {
        const Tensor a = tensor_of(x), b = tensor_of(other), result = writable_tensor_of(y);
        require_alike(a, result);
        require_alike(b, result);
        perform(0, {x, other, y},
                [=, &isa = cpu::current_isa(), threads = num_threads()](void*) {
                    cpu::run_elementwise(kOp, a, &b, result, parameter, isa, threads);
                });
    }
};

void copy(const py::array& x, py::array y) {
    const Tensor from = tensor_of(x), to = writable_tensor_of(y);
    require_alike(from, to);
    perform(0, {x, y},
            [=, &isa = cpu::current_isa(), threads = num_threads()](void*) {
                cpu::run_copy(from, to, isa, threads);
            });
}

void dropout(const py::array& x, py::array y, std::uint64_t seed, std::uint64_t threshold,
             double scale) {
    const Tensor a = tensor_of(x), result = writable_tensor_of(y);
    require_alike(a, result);
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_dropout(a, result, seed, threshold, scale, isa, num_threads());
}

void sgd_update(py::array parameter, const py::array& grad, std::optional<py::array> velocity,
                double rate, double momentum, double weight_decay, bool nesterov) {
    const Tensor p = writable_tensor_of(parameter), g = tensor_of(grad);
    require_alike(p, g);
    Tensor v;
    if (velocity) {
        v = writable_tensor_of(*velocity);
        require_alike(p, v);
    } else if (momentum != 0) {
        throw std::invalid_argument("sgd_update: momentum needs a velocity");
    }
    const SgdStep step{rate, momentum, weight_decay, nesterov};
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_sgd(p, g, velocity ? &v : nullptr, step, isa, num_threads());
}

}  // namespace

void bind_elementwise(py::module_& module) {
    def_elementwise<Cpu>(module);
    module.def("copy", &copy, py::arg("x"), py::arg("y"));
    module.def("dropout", &dropout, py::arg("x"), py::arg("y"), py::arg("seed"),
               py::arg("threshold"), py::arg("scale"));
    module.def("sgd_update", &sgd_update, py::arg("parameter"), py::arg("grad"),
               py::arg("velocity"), py::arg("lr"), py::arg("momentum"), py::arg("weight_decay"),
               py::arg("nesterov"));
}

}  // namespace fastconv
