// The element-wise functions of a device's module, CPU's or CUDA's: one list of names for both.
#pragma once

#include <pybind11/pybind11.h>

#include "core/operation.h"

namespace fastconv {

/// `Device` has `unary<op>(x, y, parameter)` and `binary<op>(a, b, y, parameter)` over its arrays.
template <typename Device, ElementwiseOp kOp, ElementwiseOp kBackward>
void def_activation(pybind11::module_& module, const char* name, const char* backward) {
    using pybind11::arg;
    module.def(name, &Device::template unary<kOp>, arg("x"), arg("y"), arg("parameter") = 0.0);
    module.def(backward, &Device::template binary<kBackward>, arg("grad_output"), arg("output"),
               arg("grad_input"), arg("parameter") = 0.0);
}

template <typename Device, ElementwiseOp kOp>
void def_arithmetic(pybind11::module_& module, const char* name) {
    using pybind11::arg;
    module.def(name, &Device::template binary<kOp>, arg("a"), arg("b"), arg("y"),
               arg("parameter") = 0.0);
}

template <typename Device>
void def_elementwise(pybind11::module_& module) {
    using Op = ElementwiseOp;
    def_activation<Device, Op::kRelu, Op::kReluBackward>(module, "relu", "relu_backward");
    def_activation<Device, Op::kLeakyRelu, Op::kLeakyReluBackward>(module, "leaky_relu",
                                                                   "leaky_relu_backward");
    def_activation<Device, Op::kSigmoid, Op::kSigmoidBackward>(module, "sigmoid",
                                                               "sigmoid_backward");
    def_activation<Device, Op::kTanh, Op::kTanhBackward>(module, "tanh", "tanh_backward");
    def_arithmetic<Device, Op::kAdd>(module, "add");
    def_arithmetic<Device, Op::kSubtract>(module, "subtract");
    def_arithmetic<Device, Op::kMultiply>(module, "multiply");
    def_arithmetic<Device, Op::kAddRelu>(module, "add_relu");
}

}  // namespace fastconv
