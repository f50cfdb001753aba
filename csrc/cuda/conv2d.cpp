// run_conv2d on CUDA: a plan and pointers to launches. Nothing is decided here (conv2d_plan.cpp).
#include <algorithm>

#include "cuda/conv2d_pack.h"
#include "cuda/device.h"

namespace fastconv::cuda {
namespace {

template <class Arguments>
void set_sizes(Arguments& p, const Correlation& phase) {
    p.rows = static_cast<int>(rows_of(phase));
    p.cols = static_cast<int>(phase.cols);
    p.depth = static_cast<int>(depth_of(phase));
    p.groups = static_cast<int>(phase.groups);
    p.out_h = static_cast<int>(phase.out_h);
    p.out_w = static_cast<int>(phase.out_w);
    p.source_h = static_cast<int>(phase.source_h);
    p.source_w = static_cast<int>(phase.source_w);
    p.taps_h = static_cast<int>(phase.taps_h.count);
    p.taps_w = static_cast<int>(phase.taps_w.count);
    p.channels = static_cast<int>(phase.channels);
    p.step_h = static_cast<int>(phase.taps_h.step);
    p.step_w = static_cast<int>(phase.taps_w.step);
    p.offset_h = static_cast<int>(phase.taps_h.offset);
    p.offset_w = static_cast<int>(phase.taps_w.offset);
    p.offset_step_h = static_cast<int>(phase.taps_h.offset_step);
    p.offset_step_w = static_cast<int>(phase.taps_w.offset_step);
    p.source_strides = phase.source;
    p.out_strides = phase.out;
    p.source_group_elems = phase.source_group_elems;
    p.out_group_elems = phase.out_group_elems;
}

void* at(void* base, std::int64_t bytes) {
    return base == nullptr ? nullptr : static_cast<char*>(base) + bytes;
}

/// A phase's positions of grad_input: the bias, or 0.
void fill_phase(const Correlation& phase, DType dtype, const void* bias, void* out, Stream stream) {
    Tensor tensor;
    tensor.data = at(out, phase.out_first_elems * element_bytes_of(dtype));
    tensor.dtype = dtype;
    tensor.rank = 5;
    const std::int64_t size[5] = {phase.batch, phase.groups, phase.cols, phase.out_h, phase.out_w};
    const std::int64_t elems[5] = {phase.out.batch_elems, phase.out_group_elems,
                                   phase.out.channel_elems, phase.out.height_elems,
                                   phase.out.width_elems};
    std::copy(size, size + 5, tensor.size);
    std::copy(elems, elems + 5, tensor.elems);
    if (bias == nullptr) return run_fill(tensor, 0, stream);
    Tensor repeated = tensor;
    repeated.data = const_cast<void*>(bias);
    const std::int64_t bias_elems[5] = {0, phase.cols, 1, 0, 0};
    std::copy(bias_elems, bias_elems + 5, repeated.elems);
    run_copy(repeated, tensor, stream);
}

/// The positions that no tap reaches, those of the phases from `computed` on. Several phases are not
/// worth a launch each: then everything, before the others are computed.
bool fill_all_first(const CudaConvPlan& plan, std::size_t computed, const ConvPointers& pointers,
                    Stream stream) {
    if (plan.direction != Direction::kGradInput || plan.phases.size() < computed + 2) return false;
    Correlation whole = plan.phases.front();
    whole.out = plan.strides.input;
    whole.out_first_elems = 0;
    whole.out_h = plan.problem.height.in;
    whole.out_w = plan.problem.width.in;
    fill_phase(whole, plan.problem.dtype, pointers.bias, pointers.input, stream);
    return true;
}

CorrelationArguments arguments_of(const CudaConvPlan& plan, const ConvPointers& pointers,
                                  std::size_t index, void* workspace) {
    const Correlation& phase = plan.phases[index];
    const CudaWeight& view = plan.weights[index];
    const std::int64_t bytes = plan.problem.element_bytes();
    const bool forward = plan.direction == Direction::kForward;
    CorrelationArguments p;
    set_sizes(p, phase);
    p.source = forward ? pointers.input : pointers.output;
    p.out = at(forward ? pointers.output : pointers.input, phase.out_first_elems * bytes);
    p.bias = pointers.bias;
    p.residual = forward ? pointers.residual : nullptr;
    p.residual_strides = phase.residual;
    p.residual_group_elems = phase.residual_group_elems;
    p.relu = forward && pointers.relu;
    p.weight_pitch = view.pitch;
    p.weight_group_elems = view.packed_group_elems;
    p.weight_col_elems = view.in_place ? view.col_elems : view.pitch;
    p.weight_channel_elems = view.in_place ? view.channel_elems : 1;
    p.weight_tap_w_elems = view.in_place ? view.tap_w_elems : phase.channels;
    p.weight_tap_h_elems = view.in_place ? view.tap_h_elems : phase.taps_w.count * phase.channels;
    p.cluster = plan.cluster;
    p.weight = view.in_place ? at(pointers.weight, view.first_elems * bytes)
                             : at(workspace, view.packed_offset);
    // Phases of grad_input may have fewer terms than the first, which the splits were made for.
    p.depth_per_split = plan.per_split;
    p.splits = (p.depth + p.depth_per_split - 1) / p.depth_per_split;
    return p;
}

void run_correlations(const CudaConvPlan& plan, const ConvPointers& pointers, void* workspace,
                      Stream stream) {
    if (plan.phases.empty()) return;
    const Correlation& first = plan.phases.front();
    if (rows_of(first) == 0 || first.cols == 0) return;
    const DType dtype = plan.problem.dtype;
    const auto& kernel = *static_cast<const CorrelationKernel*>(plan.row);
    // By falling depth: those without any are the last.
    std::size_t computed = 0;
    while (computed < plan.phases.size() && depth_of(plan.phases[computed]) > 0) ++computed;

    const bool filled = fill_all_first(plan, computed, pointers, stream);
    if (computed > 0)
        pack_correlation_weights(plan, kernel.layout, pointers.weight, workspace, stream);
    auto* partial = static_cast<float*>(at(workspace, plan.packed_bytes));
    const auto next = [&](std::size_t index) {
        CorrelationArguments p = arguments_of(plan, pointers, index, workspace);
        if (plan.splits > 1) {
            p.partial = partial;
            partial += std::int64_t{p.splits} * p.groups * p.rows * p.cols;
        }
        return p;
    };
    constexpr std::size_t kTogether = CorrelationLaunch::kMostPhases;
    for (std::size_t i = 0; i < computed;) {
        const std::size_t end = std::min(computed, i + kTogether);
        CorrelationLaunch launch(next(i));
        while (++i < end) launch.add(next(i));
        kernel.run(launch, plan.arithmetic, plan.vector, stream);
        if (plan.splits > 1) join_correlation_splits(launch, dtype, stream);
    }
    void* out = plan.direction == Direction::kForward ? pointers.output : pointers.input;
    for (std::size_t i = computed; !filled && i < plan.phases.size(); ++i)
        fill_phase(plan.phases[i], dtype, pointers.bias, out, stream);
}

void run_grad_weight(const CudaConvPlan& plan, const ConvPointers& pointers, void* workspace,
                     Stream stream) {
    const Correlation& view = plan.phases.front();
    const auto& kernel = *static_cast<const GradWeightKernel*>(plan.row);
    GradWeightArguments p;
    set_sizes(p, view);
    if (p.cols == 0 || p.depth == 0) return;
    p.out = pointers.output;
    p.source = pointers.input;
    p.splits = plan.splits;
    p.rows_per_split = plan.per_split;
    p.cluster = plan.cluster;
    if (plan.stores) {
        p.weight = pointers.weight;
        p.accumulate = pointers.accumulate;
    } else {
        p.partial = static_cast<float*>(workspace);
    }
    kernel.run(p, plan.arithmetic, plan.vector, stream);
    if (plan.stores) return;
    store_grad_weight_splits(view, plan.strides.weight, plan.splits, p.partial, plan.problem.dtype,
                             pointers.accumulate, pointers.weight, stream);
}

}  // namespace

void run_conv2d(const CudaConvPlan& plan, const ConvPointers& pointers, Stream stream) {
    if (plan.algorithm == Algorithm::kNaive) return run_naive(plan, pointers, stream);
    const Scratch workspace(static_cast<std::size_t>(plan.workspace_bytes), stream);
    if (plan.algorithm == Algorithm::kDepthwise)
        return run_depthwise(plan, pointers, workspace.data(), stream);
    if (plan.direction == Direction::kGradWeight)
        return run_grad_weight(plan, pointers, workspace.data(), stream);
    run_correlations(plan, pointers, workspace.data(), stream);
}

}  // namespace fastconv::cuda
