// The gradient of a convolution's weights and of its bias, without im2col:
//   grad_weight[k, c, r, s] = sum over n, p, q of
//       grad_output[n, k, p, q] * x[n, c, p * stride + r * dilation - pad, q * stride + ...]
//   grad_bias[k]            = sum over n, p, q of grad_output[n, k, p, q]
//
// A matrix product whose long dimension, the positions, is summed: cpu/outer.h. Any stride, dilation,
// padding, groups and memory order, float32 and float64. What the padding would add is not computed
// (with fewer than 16 channels it is: there a whole kernel row is one row of the product). Few channels
// and filters go over planes instead: cpu/planes.h.
#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "cpu/conv2d.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/panels.h"
#include "cpu/planes.h"
#include "core/phases.h"

namespace fastconv::cpu {
namespace {

constexpr const char* kTooLarge =
    "one output position needs more scratch than a thread may have (4 MB)";

const char* finish_plan(ConvPlan& plan) {
    const bool single = plan.problem.dtype == DType::kFloat32;
    Correlation& view = plan.phases[0];
    const bool fits =
        single ? block_outer(view, plan.outer, plan.isa->kernels<float>(), plan.threads)
               : block_outer(view, plan.outer, plan.isa->kernels<double>(), plan.threads);
    const bool empty = view.groups * view.channels * view.cols == 0;
    plan.tasks = empty ? 0 : plan.outer.sums * plan.outer.parts(view.groups);
    plan.packed_elems = 0;
    plan.workspace_bytes = outer_workspace_bytes(
        view, plan.outer, static_cast<std::size_t>(plan.problem.element_bytes()));
    return fits ? nullptr : kTooLarge;
}

const char* plan_direct(ConvPlan& plan) {
    start_grad_weight(plan);
    if (is_one_window(plan.problem)) line_up_images(plan.phases[0]);
    const char* const reason = finish_plan(plan);
    if (!reason) plan_planes(plan);
    return reason;
}

// How much of the panels' lanes `cols` columns use.
double lanes_used(const ConvPlan& plan, std::int64_t cols) {
    const auto padded = [&plan, cols](auto zero) {
        using T = decltype(zero);
        return Panels<T>(*plan.isa->kernels<T>().outer, cols).padded_cols;
    };
    return static_cast<double>(cols) /
           static_cast<double>(plan.problem.dtype == DType::kFloat32 ? padded(0.0f) : padded(0.0));
}

// Without taps the product is symmetric: source and grad_output may change places, so that the
// totals' lines lie along the weight's contiguous dimension and leave without a transpose.
void swap_operands(Correlation& view, OuterBlocking& outer) {
    std::swap(view.source, view.out);
    std::swap(view.source_group_elems, view.out_group_elems);
    std::swap(view.channels, view.cols);
    std::swap(outer.weight_channel_elems, outer.weight_col_elems);
    outer.swapped = !outer.swapped;
}

const char* plan_pointwise(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    for (const Axis* axis : {&conv.height, &conv.width}) {
        if (axis->kernel != 1) return "pointwise: the kernel is not 1x1";
        if (axis->pad_lo != 0 || axis->pad_hi != 0) return "pointwise: there is padding";
    }
    start_grad_weight(plan);
    flatten_pointwise(plan.phases[0]);
    if (plan.outer.weight_channel_elems == 1 && conv.group_in() > 0 && conv.group_out() > 0 &&
        lanes_used(plan, conv.group_in()) >= lanes_used(plan, conv.group_out()))
        swap_operands(plan.phases[0], plan.outer);
    return finish_plan(plan);
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    const bool swapped = plan.outer.swapped;
    OuterOperands<T> operands;
    operands.source = static_cast<const T*>(swapped ? pointers.output : pointers.input);
    operands.out = static_cast<const T*>(swapped ? pointers.input : pointers.output);
    operands.weight = static_cast<T*>(pointers.weight);
    operands.workspace = static_cast<T*>(workspace);
    operands.accumulate = pointers.accumulate;
    run_outer(plan.phases[0], plan.outer, plan.isa->kernels<T>(), operands, plan.threads);
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.planes.rows > 0) return run_planes_grad_weight(plan, pointers, workspace);
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace

void start_grad_weight(ConvPlan& plan) {
    plan.phases.assign(1, forward_phase(plan.problem, plan.strides));
    settle(plan.phases[0]);
    const Strides& weight = plan.strides.weight;
    plan.outer = {};
    plan.outer.weight_group_elems = plan.problem.group_out() * weight.batch_elems;
    plan.outer.weight_row_elems = weight.height_elems;
    plan.outer.weight_tap_elems = weight.width_elems;
    plan.outer.weight_channel_elems = weight.channel_elems;
    plan.outer.weight_col_elems = weight.batch_elems;
}

const Candidate conv2d_grad_weight_direct{Algorithm::kDirect, plan_direct, run_either};
const Candidate conv2d_grad_weight_pointwise{Algorithm::kPointwise, plan_pointwise, run_either};

}  // namespace fastconv::cpu
