// conv2d, its gradients and linear on CUDA: arrays and numbers to a plan, kept for the next call of
// the same problem, and its kernels onto the caller's stream.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>

#include "bindings/conv_problem.h"
#include "bindings/cuda_array.h"
#include "bindings/plan_memo.h"

namespace fastconv {
namespace {

/// The plan for the current device.
std::shared_ptr<const cuda::CudaConvPlan> plan_for(const Conv& problem, Direction direction,
                                                   const ConvStrides& strides, int precision,
                                                   cuda::Aligned aligned, int algorithm,
                                                   const std::string& kernel) {
    const int device = cuda::current_device();
    PlanKey key;
    key.add(problem).add(strides).set_name(kernel);
    key.add(direction, device, precision, aligned.read, aligned.written, algorithm);
    thread_local PlanMemo<cuda::CudaConvPlan> memo;
    return memo.find(key, [&] {
        return cuda::plan_conv2d(problem, direction, strides, cuda::device(device),
                                 static_cast<cuda::Precision>(precision), aligned,
                                 algorithm_of(algorithm), kernel);
    });
}

bool address_aligned(const CudaArray& array) {
    return reinterpret_cast<std::uintptr_t>(array.data) % 16 == 0;
}

void require_rank(const CudaArray& array, int rank) {
    if (array.rank() != rank) throw std::invalid_argument("_core: array of another rank expected");
}

void require_written(const CudaArray& array) {
    if (!array.writable) throw std::invalid_argument("_core: the result is read-only");
}

// ---- calls -----------------------------------------------------------------------------------------

/// Runs one direction; `result` is the operand that it writes.
int run(Direction direction, const Conv& problem, const ConvStrides& strides, const CudaArray& input,
        const CudaArray& weight, const CudaArray& output, const CudaArray* bias,
        const CudaArray* residual, bool relu, bool accumulate, int algorithm, int precision,
        const std::string& kernel) {
    const CudaCall call({&input, &weight, &output, bias, residual});
    const CudaArray& result = direction == Direction::kForward     ? output
                              : direction == Direction::kGradInput ? input
                                                                   : weight;
    require_written(result);
    cuda::Aligned aligned;
    for (const CudaArray* operand : {&input, &weight, &output})
        if (operand != &result) aligned.read = aligned.read && address_aligned(*operand);
    aligned.written = address_aligned(result) && (!residual || address_aligned(*residual));
    ConvPointers pointers;
    pointers.input = input.data;
    pointers.weight = weight.data;
    pointers.output = output.data;
    if (bias) pointers.bias = bias->data;
    if (residual) pointers.residual = residual->data;
    pointers.relu = relu;
    pointers.accumulate = accumulate;
    py::gil_scoped_release release;
    const auto plan = plan_for(problem, direction, strides, precision, aligned, algorithm, kernel);
    cuda::run_conv2d(*plan, pointers, call.stream());
    return static_cast<int>(plan->algorithm);
}

// Writes into the operand that the direction computes; returns the algorithm's index. `packed` is the
// CPU's: here weights are packed by each call that needs it.
int conv2d(int direction, const CudaArray& input, const CudaArray& weight, const CudaArray& output,
           py::handle /*packed*/, py::handle bias, py::handle added,
           const py::tuple& geometry, bool relu, bool accumulate, int algorithm, int precision,
           const std::string& kernel) {
    ConvStrides strides{strides_of(input), strides_of(weight), strides_of(output), {}, false};
    const CudaArray* const residual = array_or_null(added);
    if (residual) {
        strides.residual = strides_of(*residual);
        strides.has_residual = true;
    }
    const Conv problem = problem_of(input.shape.data(), weight.shape.data(), output.shape.data(),
                                    geometry_of(geometry), input.dtype);
    return run(direction_of(direction), problem, strides, input, weight, output,
               array_or_null(bias), residual, relu, accumulate, algorithm, precision, kernel);
}

// y = relu?(x W^T + bias) as a 1x1 convolution of one image of one row, whose pixels are x's rows.
int linear(int direction, const CudaArray& x, const CudaArray& weight, const CudaArray& y,
           py::handle bias, bool relu, bool accumulate, int precision, const std::string& kernel) {
    for (const CudaArray* array : {&x, &weight, &y}) require_rank(*array, 2);
    if (weight.shape[1] != x.shape[1] || y.shape[0] != x.shape[0] || y.shape[1] != weight.shape[0] ||
        weight.dtype != x.dtype || y.dtype != x.dtype)
        throw std::invalid_argument("_core: shapes do not belong together");
    Conv problem;
    problem.batch = 1;
    problem.in_channels = x.shape[1];
    problem.out_channels = weight.shape[0];
    problem.width.in = problem.width.out = x.shape[0];
    problem.dtype = x.dtype;
    const auto rows = [](const CudaArray& m) -> Strides { return {0, m.elems[1], 0, m.elems[0]}; };
    const Strides filters{weight.elems[0], weight.elems[1], 0, 0};
    return run(direction_of(direction), problem, {rows(x), filters, rows(y), {}, false}, x, weight, y,
               array_or_null(bias), nullptr, relu, accumulate, -1, precision, kernel);
}

void conv2d_grad_bias(const CudaArray& grad_output, const CudaArray& out, bool accumulate) {
    const Strides strides = strides_of(grad_output);
    require_rank(out, 1);
    require_written(out);
    Conv conv;
    conv.batch = grad_output.shape[0];
    conv.out_channels = grad_output.shape[1];
    conv.height.out = grad_output.shape[2];
    conv.width.out = grad_output.shape[3];
    conv.dtype = grad_output.dtype;
    if (out.shape[0] != conv.out_channels)
        throw std::invalid_argument("_core: shapes do not belong together");
    const CudaCall call({&grad_output, &out});
    py::gil_scoped_release release;
    cuda::run_grad_bias(conv, strides, grad_output.data, out.data, out.dtype, out.elems[0],
                        accumulate, call.stream());
}

// ---- explain ---------------------------------------------------------------------------------------

std::size_t shared_bytes_of(int capability) {
    switch (capability) {
        case 75: return 64 * 1024;
        case 80: case 87: return 163 * 1024;
        case 86: case 89: case 120: return 99 * 1024;
        default: return 227 * 1024;
    }
}

DType dtype_named(const std::string& name) {
    if (name == "float32") return DType::kFloat32;
    if (name == "float16") return DType::kFloat16;
    if (name == "bfloat16") return DType::kBFloat16;
    throw std::invalid_argument("dtype is '" + name + "'; float32, float16 or bfloat16 is wanted");
}

// The plan of a problem given by shapes, on a device that need not be there.
py::dict conv2d_plan(int direction_index, const std::vector<std::int64_t>& input,
                     const std::vector<std::int64_t>& weight,
                     const std::vector<std::int64_t>& output, const py::tuple& geometry,
                     const std::string& dtype, bool channels_last, int algorithm, int precision,
                     const std::string& kernel, int capability, int multiprocessors,
                     bool reads_aligned, bool stores_aligned) {
    const auto strides = [channels_last](const std::vector<std::int64_t>& s) -> Strides {
        if (channels_last) return {s[1] * s[2] * s[3], 1, s[3] * s[1], s[1]};
        return {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1};
    };
    if (input.size() != 4 || weight.size() != 4 || output.size() != 4)
        throw std::invalid_argument("_core: shapes of four sizes expected");
    const Conv problem = problem_of(input.data(), weight.data(), output.data(),
                                    geometry_of(geometry), dtype_named(dtype));
    cuda::DeviceInfo device;
    device.capability = capability;
    device.multiprocessors = multiprocessors;
    device.shared_bytes = shared_bytes_of(capability);
    const auto plan = cuda::plan_conv2d(
        problem, direction_of(direction_index),
        {strides(input), strides(weight), strides(output), {}, false}, device,
        static_cast<cuda::Precision>(precision), {reads_aligned, stores_aligned},
        algorithm_of(algorithm), kernel);
    py::dict result, rejected;
    for (const auto& [name, reason] : plan.rejected) rejected[name.c_str()] = reason;
    result["algorithm"] = kAlgorithmNames[static_cast<int>(plan.algorithm)];
    result["kernel"] = plan.kernel;
    result["arithmetic"] = cuda::kArithmeticNames[static_cast<int>(plan.arithmetic)];
    result["vector"] = plan.vector;
    result["tiles"] = plan.tiles;
    result["splits"] = plan.splits;
    result["cluster"] = plan.cluster;
    result["phases"] = plan.phases.size();
    result["expected_cycles"] = plan.cycles;
    result["packed_bytes"] = plan.packed_bytes;
    result["workspace_bytes"] = plan.workspace_bytes;
    result["rejected"] = rejected;
    result["macs"] = problem.macs();
    result["bytes"] = problem.bytes();
    return result;
}

}  // namespace

void bind_cuda_conv2d(py::module_& module) {
    module.def("conv2d", &conv2d, py::arg("direction"), py::arg("input"), py::arg("weight"),
               py::arg("output"), py::arg("packed"), py::arg("bias"), py::arg("residual"),
               py::arg("geometry"), py::arg("relu"), py::arg("accumulate"), py::arg("algorithm"),
               py::arg("precision") = 0, py::arg("kernel") = "");
    module.def("linear", &linear, py::arg("direction"), py::arg("x"), py::arg("weight"),
               py::arg("y"), py::arg("bias"), py::arg("relu"), py::arg("accumulate"),
               py::arg("precision") = 0, py::arg("kernel") = "");
    module.def("conv2d_grad_bias", &conv2d_grad_bias, py::arg("grad_output"), py::arg("out"),
               py::arg("accumulate"));
    module.def("conv_kernels",
               [](int direction) { return cuda::conv_kernels(direction_of(direction)); },
               py::arg("direction"));
    module.def("conv2d_plan", &conv2d_plan, py::arg("direction"), py::arg("input"),
               py::arg("weight"), py::arg("output"), py::arg("geometry"), py::arg("dtype"),
               py::arg("channels_last"), py::arg("algorithm"), py::arg("precision"),
               py::arg("kernel"), py::arg("capability"), py::arg("multiprocessors"),
               py::arg("reads_aligned") = true, py::arg("stores_aligned") = true);
}

}  // namespace fastconv
