// Convolution as dense correlations without im2col: forward, grad_input and transposed convolution.
//
//   forward     out[p] = sum_r x[p * stride + r * dilation - pad] w[r]                 one correlation
//   grad_input  dx[h]  = sum_r dy[(h + pad - r * dilation) / stride] w[r]   where that divides exactly:
//               the positions h = a + stride * i form phase a, in which the same taps always divide,
//               so a phase is a unit-stride correlation over dy (stride sectors, as in oneDNN)
//   pointwise   1x1 without padding: strides go into the views, and images, rows and columns that
//               lie evenly spaced become one long row of positions
//
// Any stride, dilation, padding, groups and memory order, float32 and float64.
#include "core/parallel.h"
#include "core/phases.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

constexpr const char* kTooLarge =
    "one output position needs more scratch than a thread may have (4 MB)";

// A task packs its panels for itself, one after the other, where no thread packs more than all of them
// twice: a panel is then in the L2 of the core that reads it. Packed first by all threads it comes from
// another core's L2, which took twice as long: on two cores of a Xeon 1x1 832 -> 192 on 7x7 98 us
// against 71, of these 48 for the products.
constexpr std::int64_t kMostPanelBytes = 1280 << 10;

template <class T>
void choose_packing(const ConvPlan& plan, Correlation& phase, const Kernels<T>& kernels) {
    const Panels<T> panels(*kernels.gemm, phase.cols);
    const std::int64_t depth = phase.taps_h.count * phase.taps_w.count * phase.channels;
    const std::int64_t bytes = depth * panels.width * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t rounds = (phase.tasks() + plan.threads - 1) / plan.threads;
    const std::int64_t packed = rounds * ((panels.count + phase.parts - 1) / phase.parts);
    if (packed > 2 * panels.count * phase.groups || bytes > kMostPanelBytes) return;
    Correlation by_task = phase;
    by_task.pack_by_task = true;
    by_task.staging_elems = pack_staging_elems(phase, kernels, weight_view<T>(plan, nullptr));
    by_task.scratch_bytes = scratch_layout<T>(by_task, kernels).bytes;
    if (by_task.scratch_bytes <= kMaxThreadScratch) phase = by_task;
}

const char* finish_plan(ConvPlan& plan) {
    plan.packed_elems = 0;
    bool ahead = false;  // some phase's panels are packed before its tasks
    const auto block = [&plan, &ahead](auto zero) {
        using T = decltype(zero);
        const Kernels<T>& kernels = plan.isa->kernels<T>();
        for (Correlation& phase : plan.phases) {
            settle(phase);
            if (!block_correlation<T>(phase, kernels, plan.threads)) return false;
            choose_packing<T>(plan, phase, kernels);
            ahead = ahead || !phase.pack_by_task;
            phase.packed_first_elems = plan.packed_elems;
            plan.packed_elems += packed_elems<T>(phase, kernels);
        }
        return true;
    };
    const bool fits = plan.problem.dtype == DType::kFloat32 ? block(0.0f) : block(0.0);
    if (!fits) return kTooLarge;
    plan.workspace_bytes =
        ahead ? static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes()) : 0;
    return nullptr;
}

const char* plan_direct(ConvPlan& plan) {
    const auto phases = is_one_window(plan.problem) ? one_window_phases : dense_phases;
    plan.phases = phases(plan.problem, plan.direction, plan.strides);
    return finish_plan(plan);
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
    return finish_plan(plan);
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
    ConvPlan other = plan;
    return plan_spread(other) ? "possible, but for so few channels im2col multiplies fewer zeros"
                              : nullptr;
}

}  // namespace

const Candidate conv2d_direct{Algorithm::kDirect, plan_direct, run_either, decline_direct};
const Candidate conv2d_pointwise{Algorithm::kPointwise, plan_pointwise, run_either};

}  // namespace fastconv::cpu
