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
// Any stride, dilation, padding, groups and memory order, float32 and float64.
#include "cpu/col2im.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "core/phases.h"

namespace fastconv::cpu {
namespace {

constexpr const char* kTooLarge =
    "one output position needs more scratch than a thread may have (4 MB)";

const char* finish_plan(ConvPlan& plan) {
    plan.packed_elems = 0;
    const auto block = [&plan](auto zero) {
        using T = decltype(zero);
        const Kernels<T>& kernels = plan.isa->kernels<T>();
        for (Correlation& phase : plan.phases) {
            settle(phase);
            if (!block_correlation<T>(phase, kernels, plan.threads)) return false;
            phase.packed_first_elems = plan.packed_elems;
            plan.packed_elems += packed_elems<T>(phase, kernels);
        }
        return true;
    };
    const bool fits = plan.problem.dtype == DType::kFloat32 ? block(0.0f) : block(0.0);
    if (!fits) return kTooLarge;
    plan.workspace_bytes =
        static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes());
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
void pack(const ConvPlan& plan, const T* weight, T* packed) {
    const Strides& w = plan.strides.weight;
    const bool forward = plan.direction == Direction::kForward;
    WeightView<T> view;
    view.data = weight;
    view.group_elems = plan.problem.group_out() * w.batch_elems;
    view.row_elems = w.height_elems;
    view.tap_elems = w.width_elems;
    view.channel_elems = forward ? w.channel_elems : w.batch_elems;
    view.col_elems = forward ? w.batch_elems : w.channel_elems;
    for (const Correlation& phase : plan.phases)
        pack_correlation(phase, plan.isa->kernels<T>(), view, packed + phase.packed_first_elems,
                         plan.threads);
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    const T* packed = static_cast<const T*>(pointers.packed);
    if (!packed) {
        pack(plan, static_cast<const T*>(pointers.weight), static_cast<T*>(workspace));
        packed = static_cast<const T*>(workspace);
    }
    const bool forward = plan.direction == Direction::kForward;
    const Epilogue<T> epilogue{static_cast<const T*>(pointers.bias),
                               static_cast<const T*>(pointers.residual), pointers.relu};
    run_correlations<T>(plan.phases, plan.isa->kernels<T>(),
                        static_cast<const T*>(forward ? pointers.input : pointers.output), packed,
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
        pack(plan, static_cast<const float*>(weight), static_cast<float*>(packed));
    else
        pack(plan, static_cast<const double*>(weight), static_cast<double*>(packed));
}

namespace {

const char* decline_direct(const ConvPlan& plan) {
    if (plan.direction != Direction::kGradInput) return nullptr;
    ConvPlan other = plan;
    return plan_col2im(other) ? "possible, but im2col multiplies less padding" : nullptr;
}

}  // namespace

const Candidate conv2d_direct{Algorithm::kDirect, plan_direct, run_either, decline_direct};
const Candidate conv2d_pointwise{Algorithm::kPointwise, plan_pointwise, run_either};

}  // namespace fastconv::cpu
