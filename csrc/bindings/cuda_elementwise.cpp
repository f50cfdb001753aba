// Activations, arithmetic, dropout and the SGD update on CUDA: as bindings/elementwise.cpp, on device
// arrays.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>

#include "bindings/cuda_array.h"
#include "bindings/elementwise_functions.h"
#include "ops.h"

namespace fastconv {
namespace {

struct Cuda {
    template <ElementwiseOp kOp>
    static void unary(const CudaArray& x, const CudaArray& y, double parameter) {
        require_alike(x, y);
        const Tensor a = tensor_of(x), result = written_tensor_of(y);
        const CudaCall call({&x, &y});
        py::gil_scoped_release release;
        cuda::run_elementwise(kOp, a, nullptr, result, parameter, call.stream());
    }

    template <ElementwiseOp kOp>
    static void binary(const CudaArray& x, const CudaArray& other, const CudaArray& y,
                       double parameter) {
        require_alike(x, y);
        require_alike(other, y);
        const Tensor a = tensor_of(x), b = tensor_of(other), result = written_tensor_of(y);
        const CudaCall call({&x, &other, &y});
        py::gil_scoped_release release;
        cuda::run_elementwise(kOp, a, &b, result, parameter, call.stream());
    }
};

void dropout(const CudaArray& x, const CudaArray& y, std::uint64_t seed, std::uint64_t threshold,
             double scale) {
    require_alike(x, y);
    const Tensor a = tensor_of(x), result = written_tensor_of(y);
    const CudaCall call({&x, &y});
    py::gil_scoped_release release;
    cuda::run_dropout(a, result, seed, threshold, scale, call.stream());
}

void require_shape(const CudaArray& array, const CudaArray& parameter) {
    if (array.shape != parameter.shape)
        throw std::invalid_argument("sgd_update: arrays of the parameter's shape expected");
}

// The parameter and its velocity are float32; `copy` gets the new parameter in its own dtype.
void sgd_update(const CudaArray& parameter, const CudaArray& grad, py::handle old_velocity,
                double rate, double momentum, double weight_decay, bool nesterov,
                py::handle sixteen_bit_copy) {
    const CudaArray* const velocity = array_or_null(old_velocity);
    const CudaArray* const copy = array_or_null(sixteen_bit_copy);
    if (parameter.dtype != DType::kFloat32 || (velocity && velocity->dtype != DType::kFloat32))
        throw std::invalid_argument("sgd_update: parameter and velocity are float32 on CUDA");
    if (!velocity && momentum != 0)
        throw std::invalid_argument("sgd_update: momentum needs a velocity");
    require_shape(grad, parameter);
    const Tensor p = written_tensor_of(parameter), g = tensor_of(grad);
    Tensor v, c;
    if (velocity) {
        require_shape(*velocity, parameter);
        v = written_tensor_of(*velocity);
    }
    if (copy) {
        require_shape(*copy, parameter);
        if (copy->dtype != DType::kFloat32 && copy->dtype != DType::kFloat16 &&
            copy->dtype != DType::kBFloat16)
            throw std::invalid_argument("sgd_update: copy is float32, float16 or bfloat16");
        c = written_tensor_of(*copy);
    }
    const SgdStep step{rate, momentum, weight_decay, nesterov};
    const CudaCall call({&parameter, &grad, velocity, copy});
    py::gil_scoped_release release;
    cuda::run_sgd(p, g, velocity ? &v : nullptr, copy ? &c : nullptr, step, call.stream());
}

}  // namespace

void bind_cuda_elementwise(py::module_& module) {
    def_elementwise<Cuda>(module);
    module.def("dropout", &dropout, py::arg("x"), py::arg("y"), py::arg("seed"),
               py::arg("threshold"), py::arg("scale"));
    module.def("sgd_update", &sgd_update, py::arg("parameter"), py::arg("grad"),
               py::arg("velocity"), py::arg("lr"), py::arg("momentum"),
               py::arg("weight_decay"), py::arg("nesterov"), py::arg("copy") = py::none());
}

}  // namespace fastconv
