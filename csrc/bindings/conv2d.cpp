// conv2d and its gradients: arrays and numbers to a plan, the plan run without the GIL.
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <memory>
#include <optional>

#include "bindings/array.h"
#include "bindings/conv_problem.h"
#include "bindings/packed_weight.h"
#include "bindings/perform.h"
#include "bindings/plan_memo.h"
#include "bindings/tensor.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "cpu/kernels_split.h"
#include "cpu/winograd_choice.h"
#include "ops.h"

namespace fastconv {
namespace {

void require_same_layout(const py::array& residual, const py::array& result) {
    bool same = residual.ndim() == result.ndim() && dtype_of(residual) == dtype_of(result);
    for (int d = 0; same && d < result.ndim(); ++d)
        same = residual.shape(d) == result.shape(d) &&
               (residual.strides(d) == result.strides(d) || result.shape(d) == 1);
    if (!same) throw std::invalid_argument("_core: a residual laid out as the gradient expected");
}

/// A tensor of the size of `x` in C order at `data`.
Tensor in_c_order(const Tensor& x, void* data) {
    Tensor copy = x;
    copy.data = data;
    std::int64_t step = 1;
    for (int d = x.rank - 1; d >= 0; --d) {
        copy.elems[d] = step;
        step *= x.size[d];
    }
    return copy;
}

std::shared_ptr<const ConvPlan> plan_of_call(const Conv& problem, Direction direction, const ConvStrides& strides,
                                             const cpu::Isa& isa, int algorithm, bool packed, bool wide_tiles) {
    const int threads = num_threads();
    PlanKey key;
    key.add(problem).add(strides).add_object(&isa);
    key.add(direction, threads, algorithm, packed, wide_tiles, workspace_limit());
    thread_local PlanMemo<ConvPlan> memo;
    return memo.find(key, [&] {
        return cpu::plan_conv2d(problem, direction, strides, isa, threads, algorithm_of(algorithm), packed,
                                wide_tiles);
    });
}

// Writes into the operand that the direction computes; returns the algorithm's index. `pooled`:
// forward, the output is max-pooled, 2x2 and stride 2, while the residual is not.
int conv2d(int direction_index, py::array input, py::array weight, py::array output,
           PackedConvWeight* packed, std::optional<py::array> bias,
           std::optional<py::array> residual, const py::tuple& geometry, bool relu, bool accumulate,
           int algorithm, bool wide_tiles, bool pooled) {
    const Direction direction = direction_of(direction_index);
    if (pooled && direction != Direction::kForward)
        throw std::invalid_argument("_core: only a forward convolution pools");
    ConvStrides strides{strides_of(input), strides_of(weight), strides_of(output), {}, false, pooled};
    if (residual) {
        strides.residual = strides_of(*residual);
        strides.has_residual = true;
        if (direction == Direction::kGradInput) require_same_layout(*residual, input);
    }
    const Geometry numbers = geometry_of(geometry);
    const Conv problem =
        problem_of(input.shape(), weight.shape(), output.shape(), numbers, dtype_of(input), pooled);
    const cpu::Isa& isa = cpu::current_isa();
    if (direction != Direction::kForward || (packed && !packed->fits(weight, numbers.groups, isa)))
        packed = nullptr;
    const std::shared_ptr<const ConvPlan> plan =
        plan_of_call(problem, direction, strides, isa, algorithm, packed != nullptr, wide_tiles);
    ConvPointers pointers;
    py::array& result = direction == Direction::kForward     ? output
                        : direction == Direction::kGradInput ? input
                                                             : weight;
    pointers.input = data_of(input);
    pointers.weight = data_of(weight);
    pointers.output = data_of(output);
    writable_data_of(result);  // throws if it is not
    if (packed) pointers.packed = packed->find(*plan);
    if (bias) pointers.bias = bias->data();
    const bool apart = residual && !cpu::adds_residual(*plan);
    if (residual && !apart) pointers.residual = residual->data();
    const Tensor sum = apart ? tensor_of(result) : Tensor{};
    const Tensor added = apart ? tensor_of(*residual) : Tensor{};
    // A residual that is the result, which is written over before it is added: a copy waits.
    const bool copied = apart && added.data == sum.data;
    const std::size_t copy_at = (plan->workspace_bytes + 63) / 64 * 64;
    const std::size_t bytes =
        copied ? copy_at + static_cast<std::size_t>(result.nbytes()) : plan->workspace_bytes;
    pointers.relu = relu;
    pointers.accumulate = accumulate;
    perform(bytes,
            {input, weight, output, packed ? py::cast(packed) : py::object(), handle_of(bias),
             handle_of(residual)},
            [plan, pointers, apart, copied, copy_at, sum, added](void* workspace) {
                Tensor term = added;
                if (copied) {
                    term = in_c_order(added, static_cast<std::byte*>(workspace) + copy_at);
                    cpu::run_copy(added, term, *plan->isa, plan->threads);
                }
                cpu::run_conv2d(*plan, pointers, workspace);
                if (apart)
                    cpu::run_elementwise(ElementwiseOp::kAdd, sum, &term, sum, 0, *plan->isa,
                                         plan->threads);
            });
    return static_cast<int>(plan->algorithm);
}

// Packs ahead what the plan of a forward call reads; the arrays of that call need not be there.
void conv2d_prepack(PackedConvWeight& packed, const py::array& weight,
                    const std::vector<std::int64_t>& input, const std::vector<std::int64_t>& output,
                    const py::tuple& geometry, int algorithm, bool wide_tiles) {
    const std::vector<py::ssize_t> x(input.begin(), input.end()), y(output.begin(), output.end());
    const Geometry numbers = geometry_of(geometry);
    if (!packed.fits(weight, numbers.groups, cpu::current_isa())) return;
    const Conv problem = problem_of(x.data(), weight.shape(), y.data(), numbers, dtype_of(weight));
    const ConvStrides strides{{0, 1, 0, 0}, strides_of(weight), {0, 1, 0, 0}, {}, false};
    packed.find(cpu::plan_conv2d(problem, Direction::kForward, strides, cpu::current_isa(),
                                 num_threads(), algorithm_of(algorithm), true, wide_tiles));
}

// The plan of a problem given by shapes, as a dict: what fc.explain prints. The operands lie as
// `strides` says, which are input's, weight's and output's in elements and the residual's if there is
// one; else all channels last or in C order.
py::dict conv2d_plan(int direction_index, const std::vector<std::int64_t>& input,
                     const std::vector<std::int64_t>& weight,
                     const std::vector<std::int64_t>& output, const py::tuple& geometry,
                     bool float64, bool channels_last, int algorithm, int threads,
                     bool wide_tiles, bool packed,
                     const std::optional<std::vector<std::array<std::int64_t, 4>>>& strides) {
    const auto in_order = [channels_last](const std::vector<std::int64_t>& s) -> Strides {
        if (channels_last) return {s[1] * s[2] * s[3], 1, s[3] * s[1], s[1]};
        return {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1};
    };
    const std::vector<py::ssize_t> x(input.begin(), input.end()), w(weight.begin(), weight.end()),
        y(output.begin(), output.end());
    const Direction direction = direction_of(direction_index);
    const Conv problem = problem_of(x.data(), w.data(), y.data(), geometry_of(geometry),
                                    float64 ? DType::kFloat64 : DType::kFloat32);
    ConvStrides all{in_order(input), in_order(weight), in_order(output), {}, false};
    if (strides) {
        if (strides->size() != 3 && strides->size() != 4)
            throw std::invalid_argument("_core: strides of three or four operands expected");
        Strides* const operands[] = {&all.input, &all.weight, &all.output, &all.residual};
        for (std::size_t i = 0; i < strides->size(); ++i) {
            const auto& [n, c, h, w] = (*strides)[i];
            *operands[i] = {n, c, h, w};
        }
        all.has_residual = strides->size() == 4;
    }
    const cpu::Isa& isa = cpu::current_isa();
    const auto plan = cpu::plan_conv2d(problem, direction, all, isa, threads, algorithm_of(algorithm),
                                       packed, wide_tiles);

    py::dict rejected;
    for (int i = 0; i < kAlgorithms; ++i) try {
            cpu::plan_conv2d(problem, direction, all, isa, threads, static_cast<Algorithm>(i), false,
                             wide_tiles);
        } catch (const std::invalid_argument& error) {
            rejected[kAlgorithmNames[i]] = error.what();
        }
    py::dict declined;
    for (int i = 0; i < kAlgorithms; ++i)
        if (plan.rejected[i] && !rejected.contains(kAlgorithmNames[i]))
            declined[kAlgorithmNames[i]] = plan.rejected[i];
    py::list phases;
    std::int64_t tasks = 0;
    for (const Correlation& phase : plan.phases) {
        py::dict entry;
        entry["rows"] = phase.batch * phase.out_h * phase.out_w;
        entry["cols"] = phase.cols;
        entry["taps"] = py::make_tuple(phase.taps_h.count, phase.taps_w.count);
        entry["channels"] = phase.channels;
        entry["gather"] = phase.gather;
        entry["merge"] = phase.merge;
        entry["segments_per_block"] = phase.segments_per_block;
        entry["depth_per_block"] = phase.depth_per_block;
        const bool split = phase.split && plan.planes.rows == 0;
        entry["split"] = split || plan.outer.split;
        if (split) {
            entry["segments_per_block"] = 1;
            entry["depth_per_block"] = phase.split_steps_per_block * cpu::kSplitStep;
        }
        entry["block"] = py::make_tuple(phase.block_n, phase.block_h, phase.block_w);
        entry["parts"] = phase.parts;
        entry["tasks"] = phase.tasks();
        entry["scratch_bytes"] = phase.scratch_bytes;
        entry["planes"] = plan.planes.rows > 0;
        if (plan.planes.rows > 0) {
            entry["block"] = py::make_tuple(1, plan.planes.rows, phase.out_w);
            entry["tasks"] = plan.tasks;
            entry["scratch_bytes"] = plan.planes.scratch_bytes;
        }
        phases.append(entry);
        tasks += phase.tasks();
    }
    py::dict result;
    result["algorithm"] = kAlgorithmNames[static_cast<int>(plan.algorithm)];
    result["rejected"] = rejected;
    result["declined"] = declined;
    result["isa"] = isa.name;
    result["phases"] = phases;
    result["tasks"] = plan.tasks > 0 ? plan.tasks : tasks;
    if (plan.winograd.m > 0) {
        py::dict winograd;
        const auto& variant = cpu::winograd_variant(plan);
        winograd["m"] = plan.winograd.m;
        winograd["r"] = variant.r;
        winograd["folded"] = plan.winograd.folded;
        winograd["channels"] = plan.winograd.channels;
        winograd["subkernels"] = plan.winograd.subkernels();
        const bool trimmed = direction != Direction::kGradWeight;
        winograd["products"] = cpu::work_of_image(plan, variant, trimmed).products;
        winograd["tiles"] = py::make_tuple(plan.winograd.tiles_h, plan.winograd.tiles_w);
        winograd["block_tiles"] = plan.winograd.block_tiles;
        winograd["blocks"] = plan.winograd.blocks;
        winograd["parts"] = plan.winograd.parts;
        if (direction == Direction::kGradWeight) winograd["sums"] = plan.outer.sums;
        else winograd["weights_by_task"] = plan.winograd.weights_by_task;
        result["winograd"] = winograd;
    }
    if (plan.col2im.bands > 0) {
        const Col2imBlocking& cut = plan.col2im;
        py::dict col2im;
        col2im["bands"] = cut.bands;
        col2im["chunk"] = py::make_tuple(
            cut.chunk_h, (problem.width.out + cut.chunks_w - 1) / cut.chunks_w);
        col2im["block_h"] = cut.block_h;
        col2im["depth_per_block"] = cut.depth_block;
        col2im["scratch_bytes"] = cut.scratch_bytes;
        result["col2im"] = col2im;
    }
    result["workspace_bytes"] = plan.workspace_bytes;
    result["packed_elems"] = plan.packed_elems;
    result["packed"] = packed && plan.packed_elems > 0;
    result["macs"] = problem.macs();
    result["bytes"] = problem.bytes();
    return result;
}

// out (K,) = the sum of grad_output (N, K, P, Q) over N, P and Q.
void conv2d_grad_bias(const py::array& grad_output, py::array out, bool accumulate) {
    const Strides strides = strides_of(grad_output);
    require_rank(out, 1);
    const py::ssize_t* shape = grad_output.shape();
    Conv conv;
    conv.batch = shape[0];
    conv.out_channels = shape[1];
    conv.height.out = shape[2];
    conv.width.out = shape[3];
    conv.dtype = dtype_of(grad_output);
    if (out.shape(0) != shape[1] || dtype_of(out) != conv.dtype)
        throw std::invalid_argument("_core: shapes do not belong together");
    const void* grad = grad_output.data();
    void* target = writable_data_of(out);
    const std::int64_t out_elems = out.strides(0) / out.itemsize();
    const cpu::Isa& isa = cpu::current_isa();
    const int threads = num_threads();
    py::gil_scoped_release release;
    const Workspace workspace = Workspace::acquire(cpu::grad_bias_workspace_bytes(conv));
    cpu::run_grad_bias(conv, strides, isa, threads, grad, target, out_elems, accumulate,
                       workspace.data());
}

}  // namespace

void bind_conv2d(py::module_& module) {
    py::list names;
    for (const char* name : kAlgorithmNames) names.append(name);
    module.attr("conv2d_algorithms") = py::tuple(names);
    module.def(
        "output_size",
        [](std::int64_t in, std::int64_t kernel, std::int64_t stride, std::int64_t dilation,
           std::int64_t pad_lo, std::int64_t pad_hi, bool ceil_mode) {
            return output_size({in, kernel, stride, dilation, pad_lo, pad_hi, 0}, ceil_mode);
        },
        py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("dilation"),
        py::arg("pad_lo"), py::arg("pad_hi"), py::arg("ceil_mode"));
    module.def("conv2d_plan", &conv2d_plan, py::arg("direction"), py::arg("input"),
               py::arg("weight"), py::arg("output"), py::arg("geometry"), py::arg("float64"),
               py::arg("channels_last"), py::arg("algorithm"), py::arg("threads"),
               py::arg("wide_tiles") = false, py::arg("packed") = false,
               py::arg("strides") = py::none());
    py::class_<PackedConvWeight>(module, "PackedConvWeight")
        .def(py::init<py::array, std::int64_t>(), py::arg("weight"), py::arg("groups"))
        .def("pack", &conv2d_prepack, py::arg("weight"), py::arg("input"), py::arg("output"),
             py::arg("geometry"), py::arg("algorithm"), py::arg("wide_tiles") = false)
        .def_property_readonly("formats", &PackedConvWeight::formats)
        .def_property_readonly("nbytes", &PackedConvWeight::bytes);
    module.def("conv2d", &conv2d, py::arg("direction"), py::arg("input"), py::arg("weight"),
               py::arg("output"), py::arg("packed"), py::arg("bias"), py::arg("residual"),
               py::arg("geometry"), py::arg("relu"), py::arg("accumulate"), py::arg("algorithm"),
               py::arg("wide_tiles") = false, py::arg("pooled") = false);
    module.def("conv2d_grad_bias", &conv2d_grad_bias, py::arg("grad_output"), py::arg("out"),
               py::arg("accumulate"));
}

}  // namespace fastconv
