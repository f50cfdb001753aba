// Activations, arithmetic, dropout and the SGD update: arrays of one shape to one pass over them.
#include <pybind11/stl.h>

#include <optional>

#include "bindings/tensor.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

template <ElementwiseOp kOp>
void unary(const py::array& x, py::array y, double parameter) {
    const Tensor a = tensor_of(x), result = writable_tensor_of(y);
    require_alike(a, result);
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_elementwise(kOp, a, nullptr, result, parameter, isa, num_threads());
}

template <ElementwiseOp kOp>
void binary(const py::array& x, const py::array& other, py::array y, double parameter) {
    const Tensor a = tensor_of(x), b = tensor_of(other), result = writable_tensor_of(y);
    require_alike(a, result);
    require_alike(b, result);
    const cpu::Isa& isa = cpu::current_isa();
    py::gil_scoped_release release;
    cpu::run_elementwise(kOp, a, &b, result, parameter, isa, num_threads());
}

template <ElementwiseOp kOp>
void def_unary(py::module_& module, const char* name) {
    module.def(name, &unary<kOp>, py::arg("x"), py::arg("y"), py::arg("parameter") = 0.0);
}

template <ElementwiseOp kOp>
void def_binary(py::module_& module, const char* name) {
    module.def(name, &binary<kOp>, py::arg("a"), py::arg("b"), py::arg("y"),
               py::arg("parameter") = 0.0);
}

template <ElementwiseOp kOp>
void def_backward(py::module_& module, const char* name) {
    module.def(name, &binary<kOp>, py::arg("grad_output"), py::arg("output"),
               py::arg("grad_input"), py::arg("parameter") = 0.0);
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
    using Op = ElementwiseOp;
    def_unary<Op::kRelu>(module, "relu");
    def_unary<Op::kLeakyRelu>(module, "leaky_relu");
    def_unary<Op::kSigmoid>(module, "sigmoid");
    def_unary<Op::kTanh>(module, "tanh");
    def_backward<Op::kReluBackward>(module, "relu_backward");
    def_backward<Op::kLeakyReluBackward>(module, "leaky_relu_backward");
    def_backward<Op::kSigmoidBackward>(module, "sigmoid_backward");
    def_backward<Op::kTanhBackward>(module, "tanh_backward");
    def_binary<Op::kAdd>(module, "add");
    def_binary<Op::kSubtract>(module, "subtract");
    def_binary<Op::kMultiply>(module, "multiply");
    module.def("dropout", &dropout, py::arg("x"), py::arg("y"), py::arg("seed"),
               py::arg("threshold"), py::arg("scale"));
    module.def("sgd_update", &sgd_update, py::arg("parameter"), py::arg("grad"),
               py::arg("velocity"), py::arg("lr"), py::arg("momentum"), py::arg("weight_decay"),
               py::arg("nesterov"));
}

}  // namespace fastconv
