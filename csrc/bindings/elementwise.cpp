// Activations, arithmetic, dropout and the SGD update: arrays of one shape to one pass over them.
#include <pybind11/stl.h>

#include <optional>
#include <vector>

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

// Of lists of arrays, a parameter, its gradient and its velocity at the same place in each.
void sgd_update(std::vector<py::array> parameters, const std::vector<py::array>& grads,
                std::optional<std::vector<py::array>> velocities, double rate, double momentum,
                double weight_decay, bool nesterov) {
    if (!velocities && momentum != 0)
        throw std::invalid_argument("sgd_update: momentum needs a velocity");
    if (grads.size() != parameters.size() || (velocities && velocities->size() != parameters.size()))
        throw std::invalid_argument("sgd_update: lists of one length expected");
    std::vector<SgdOperands> all(parameters.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i].parameter = writable_tensor_of(parameters[i]);
        all[i].grad = tensor_of(grads[i]);
        require_alike(all[i].parameter, all[i].grad);
        if (all[i].parameter.dtype != all[0].parameter.dtype)
            throw std::invalid_argument("sgd_update: parameters of one dtype expected");
        if (!velocities) continue;
        all[i].velocity = writable_tensor_of((*velocities)[i]);
        all[i].has_velocity = true;
        require_alike(all[i].parameter, all[i].velocity);
    }
    const SgdStep step{rate, momentum, weight_decay, nesterov};
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_sgd(all, step, isa, num_threads());
}

}  // namespace

void bind_elementwise(py::module_& module) {
    def_elementwise<Cpu>(module);
    module.def("copy", &copy, py::arg("x"), py::arg("y"));
    module.def("dropout_scale", &cpu::dropout_scale, py::arg("p"));
    module.def("dropout", &dropout, py::arg("x"), py::arg("y"), py::arg("seed"),
               py::arg("threshold"), py::arg("scale"));
    module.def("sgd_update", &sgd_update, py::arg("parameters"), py::arg("grads"),
               py::arg("velocities"), py::arg("lr"), py::arg("momentum"), py::arg("weight_decay"),
               py::arg("nesterov"));
}

}  // namespace fastconv
