// Convolution as dense correlations without im2col: forward, grad_input and transposed convolution.
//
//   forward     out[p] = sum_r x[p * stride + r * dilation - pad] w[r]                 one correlation
//   grad_input  dx[h]  = sum_r dy[(h + pad - r * dilation) / stride] w[r]   where that divides exactly:
//               the positions h = a + stride * i form phase a, in which the same taps always divide,
//               so a phase is a unit-stride correlation over dy (stride sectors, as in oneDNN)
//               (where that would mostly multiply padding, im2col does better: cpu/col2im.h)
//   pointwise   1x1 without padding: strides go into the views, and images, rows and columns that
//               lie evenly spaced become one long row of positions
//
//   planes      where filters and channels are few: cpu/planes.h
//
// Any stride, dilation, padding, groups and memory order, float32 and float64.
#include <algorithm>

#include "core/phases.h"
#include "core/workspace.h"
#include "cpu/col2im.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "cpu/correlation_split.h"
#include "cpu/planes.h"

namespace fastconv::cpu {
namespace {

constexpr const char* kTooLarge =
    "one output position needs more scratch than a thread may have (4 MB)";

// Packed weights beyond the workspace's limit, which `auto` would decline for some batches and threads
// only, are packed by the tasks, a depth block at a time, even where it would take staging to do it well.
Packing packing_of(std::size_t bytes, bool packed_ahead) {
    if (packed_ahead) return Packing::kAhead;
    return bytes <= workspace_limit() ? Packing::kAllOrTask : Packing::kTask;
}

void split(Correlation& phase) {
    choose_segments(phase);
    phase.split = true;
    phase.split_steps_per_block = split_block_steps(phase);
}

// Whether matrix tiles compute the plan: if every phase is worth it. Decided once; nothing that says how the
// weights come or who computes what may enter.
bool takes_tiles(const ConvPlan& plan) {
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    return std::all_of(plan.phases.begin(), plan.phases.end(), [&](Correlation phase) {
        const std::int64_t positions = phase.batch * phase.out_h * phase.out_w;
        if (positions * phase.channels * phase.taps_h.count * phase.taps_w.count == 0) return false;
        split(phase);
        return split_share(phase, kernels, positions / plan.problem.batch) < 1 &&
               block_split(phase, kernels, 1, Packing::kAhead);
    });
}

void start_plan(ConvPlan& plan) {
    for (Correlation& phase : plan.phases) settle(phase);
    if (plan.problem.dtype != DType::kFloat32 || plan.phases.empty() || !takes_tiles(plan)) return;
    for (Correlation& phase : plan.phases) split(phase);
}

template <class T>
const char* finish_plan(ConvPlan& plan, bool packed_ahead) {
    const Kernels<T>& kernels = plan.isa->kernels<T>();
    plan.packed_elems = 0;
    for (Correlation& phase : plan.phases) {
        phase.packed_first_elems = plan.packed_elems;
        plan.packed_elems += packed_elems<T>(phase, kernels);
    }
    plan.packed_format = packed_ahead && !plan.phases.empty() && plan.phases[0].split ? 1 : 0;
    const std::size_t bytes = static_cast<std::size_t>(plan.packed_elems) * sizeof(T);
    const Packing packing = packing_of(bytes, packed_ahead);
    plan.workspace_bytes = 0;
    for (Correlation& phase : plan.phases) {
        phase.staging_elems =
            packing == Packing::kTask
                ? 0
                : pack_staging_elems(phase, kernels, weight_view<T>(plan, nullptr));
        if (!block_correlation<T>(phase, kernels, plan.threads, packing)) return kTooLarge;
        if (!phase.pack_by_task) plan.workspace_bytes = bytes;
    }
    return nullptr;
}

const char* finish_plan(ConvPlan& plan, bool packed_ahead) {
    return plan.problem.dtype == DType::kFloat32 ? finish_plan<float>(plan, packed_ahead)
                                                 : finish_plan<double>(plan, packed_ahead);
}

void prepack(ConvPlan& plan) {
    if (plan.planes.rows > 0) return;
    finish_plan(plan, true);
    plan.workspace_bytes = 0;
}

const char* plan_direct(ConvPlan& plan) {
    const auto phases = is_one_window(plan.problem) ? one_window_phases : dense_phases;
    plan.phases = phases(plan.problem, plan.direction, plan.strides);
    start_plan(plan);
    const char* const reason = finish_plan(plan, false);
    if (!reason && plan_planes(plan)) {  // which reads the weight as it is
        plan.workspace_bytes = 0;
        plan.packed_elems = 0;
    }
    return reason;
}

const char* plan_pointwise(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    for (const Axis* axis : {&conv.height, &conv.width}) {
        if (axis->kernel != 1) return "pointwise: the kernel is not 1x1";
        if (axis->pad_lo != 0 || axis->pad_hi != 0) return "pointwise: there is padding";
        if (plan.direction == Direction::kGradInput && (axis->stride != 1))
            return "pointwise: grad_input with a stride leaves gaps";
    }
    plan.phases.assign(1, plan.direction == Direction::kForward
                              ? forward_phase(plan.problem, plan.strides)
                              : grad_input_phase(plan.problem, plan.strides, 0, 0));
    flatten_pointwise(plan.phases[0]);
    start_plan(plan);
    return finish_plan(plan, false);
}

template <class T>
void pack(const ConvPlan& plan, const void* weight, T* packed, bool all) {
    for (const Correlation& phase : plan.phases)
        if (all || !phase.pack_by_task)
            pack_correlation(phase, plan.isa->kernels<T>(), weight_view<T>(plan, weight),
                             packed + phase.packed_first_elems, plan.threads);
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    CorrelationWeights<T> weights;
    weights.packed = static_cast<const T*>(pointers.packed);
    weights.packed_ahead = weights.packed != nullptr;
    if (!weights.packed_ahead) {
        weights.view = weight_view<T>(plan, pointers.weight);
        pack(plan, pointers.weight, static_cast<T*>(workspace), false);
        weights.packed = static_cast<const T*>(workspace);
    }
    const bool forward = plan.direction == Direction::kForward;
    const Epilogue<T> epilogue{static_cast<const T*>(pointers.bias),
                               static_cast<const T*>(pointers.residual), pointers.relu};
    run_correlations<T>(plan.phases, plan.isa->kernels<T>(),
                        static_cast<const T*>(forward ? pointers.input : pointers.output), weights,
                        epilogue, static_cast<T*>(forward ? pointers.output : pointers.input),
                        plan.threads);
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.planes.rows > 0) return run_planes(plan, pointers);
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace

void pack_panels(const ConvPlan& plan, const void* weight, void* packed) {
    if (plan.problem.dtype == DType::kFloat32)
        pack(plan, weight, static_cast<float*>(packed), true);
    else
        pack(plan, weight, static_cast<double*>(packed), true);
}

namespace {

const char* decline_direct(const ConvPlan& plan) {
    if (plan.direction != Direction::kGradInput) return nullptr;
    ConvPlan other = plan;
    const bool better = plan_col2im(other) && other.workspace_bytes <= workspace_limit();
    return better ? "possible, but im2col multiplies less padding" : nullptr;
}

}  // namespace

const Candidate conv2d_direct{Algorithm::kDirect, plan_direct, run_either, decline_direct, prepack};
const Candidate conv2d_pointwise{Algorithm::kPointwise, plan_pointwise, run_either, nullptr,
                                  prepack};

}  // namespace fastconv::cpu
