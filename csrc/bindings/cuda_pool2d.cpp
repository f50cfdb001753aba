// Pooling, its gradients and unpooling on CUDA: _core.cuda.pool2d and unpool2d, as bindings/pool2d.cpp.
#include <pybind11/stl.h>

#include "bindings/cuda_array.h"
#include "bindings/pool_problem.h"
#include "ops.h"

namespace fastconv {
namespace {

PoolArray pool_array(const CudaArray& array) {
    if (array.rank() != 4) throw std::invalid_argument("_core: array of another rank expected");
    return {{array.shape[0], array.shape[1], array.shape[2], array.shape[3]}, array.dtype};
}

void* data_of(const CudaArray& array, bool written) {
    if (written && !array.writable) throw std::invalid_argument("_core: array is read-only");
    return array.data;
}

void pool2d(int operation, const CudaArray& input, const CudaArray& output,
            const CudaArray* indices, const std::vector<std::int64_t>& windows,
            bool count_include_pad, std::int64_t divisor_override) {
    std::optional<PoolArray> places;
    if (indices) places = pool_array(*indices);
    const PoolProblem problem =
        pool_problem(operation, pool_array(input), pool_array(output), places, windows,
                     count_include_pad, divisor_override);
    const bool backward = problem.backward();
    PoolStrides strides{strides_of(input), strides_of(output), {}};
    PoolPointers pointers;
    pointers.input = data_of(input, backward);
    pointers.output = data_of(output, !backward);
    if (indices) {
        strides.indices = strides_of(*indices);
        pointers.indices = static_cast<std::int64_t*>(data_of(*indices, !backward));
    }
    // The array that was there first says on which stream to work.
    const CudaCall call{backward ? &output : &input, backward ? &input : &output, indices};
    py::gil_scoped_release release;
    cuda::run_pool2d(problem, strides, pointers, call.stream());
}

/// -1: nobody waits for the device to look at the indices; those outside the image are skipped.
std::int64_t unpool2d(bool backward, const CudaArray& input, const CudaArray& output,
                      const CudaArray& indices) {
    UnpoolProblem problem =
        unpool_problem(backward, pool_array(input), pool_array(output), pool_array(indices));
    problem.input = strides_of(input);
    problem.output = strides_of(output);
    problem.indices = strides_of(indices);
    const PoolPointers pointers{data_of(input, backward), data_of(output, !backward),
                                static_cast<std::int64_t*>(data_of(indices, false))};
    const CudaCall call{backward ? &output : &input, backward ? &input : &output, &indices};
    py::gil_scoped_release release;
    cuda::run_unpool2d(problem, pointers, call.stream());
    return -1;
}

}  // namespace

void bind_cuda_pool2d(py::module_& module) {
    module.def("pool2d", &pool2d, py::arg("operation"), py::arg("input"), py::arg("output"),
               py::arg("indices").none(true), py::arg("windows"), py::arg("count_include_pad"),
               py::arg("divisor_override"));
    module.def("unpool2d", &unpool2d, py::arg("backward"), py::arg("input"), py::arg("output"),
               py::arg("indices"));
}

}  // namespace fastconv
