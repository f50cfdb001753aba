// The fully connected layer: plan and dispatch.
//   forward      y = relu?(x W^T + bias)   linear_forward.cpp: dot products, nothing packed
//   grad_input   dx = dy W                 linear_grad_input.cpp: the GEMM tile, W packed in passing
//   grad_weight  dW = dy^T x               the sum of outer products (cpu/outer.h) over the batch
#include "cpu/linear.h"

#include <stdexcept>

#include "cpu/outer.h"

namespace fastconv::cpu {
namespace {

// Rows of the batch are positions. Lines run along the weight's contiguous dimension, so that the
// totals leave without a transpose: usually x is `out` and grad_output the `source`.
void plan_grad_weight(LinearPlan& plan) {
    const Linear& linear = plan.problem;
    const LinearStrides& strides = plan.strides;
    plan.outer.swapped = strides.weight.col_elems == 1;
    const MatrixStrides& source = plan.outer.swapped ? strides.y : strides.x;
    const MatrixStrides& lines = plan.outer.swapped ? strides.x : strides.y;
    Correlation& view = plan.view;
    view.batch = 1;
    view.channels = plan.outer.swapped ? linear.out : linear.in;
    view.cols = plan.outer.swapped ? linear.in : linear.out;
    view.source_h = view.out_h = 1;
    view.source_w = view.out_w = linear.batch;
    view.taps_h.count = view.taps_w.count = 1;
    view.source = {0, source.col_elems, 0, source.row_elems};
    view.out = {0, lines.col_elems, 0, lines.row_elems};
    if (view.channels == 1) view.source.channel_elems = 1;
    if (view.cols == 1) view.out.channel_elems = 1;
    plan.outer.weight_channel_elems =
        plan.outer.swapped ? strides.weight.row_elems : strides.weight.col_elems;
    plan.outer.weight_col_elems =
        plan.outer.swapped ? strides.weight.col_elems : strides.weight.row_elems;
    const bool fits = linear.dtype == DType::kFloat32
                          ? block_outer(view, plan.outer, plan.isa->kernels<float>(), plan.threads)
                          : block_outer(view, plan.outer, plan.isa->kernels<double>(), plan.threads);
    if (!fits) throw std::invalid_argument("one row needs more scratch than a thread may have (4 MB)");
    plan.workspace_bytes = outer_workspace_bytes(view, plan.outer,
                                                 static_cast<std::size_t>(linear.element_bytes()));
}

template <class T>
void run(const LinearPlan& plan, const LinearPointers& pointers, void* workspace) {
    if (plan.direction == Direction::kForward) return run_linear_forward<T>(plan, pointers);
    if (plan.direction == Direction::kGradInput) return run_linear_grad_input<T>(plan, pointers);
    OuterOperands<T> operands;
    operands.source = static_cast<const T*>(plan.outer.swapped ? pointers.y : pointers.x);
    operands.out = static_cast<const T*>(plan.outer.swapped ? pointers.x : pointers.y);
    operands.weight = static_cast<T*>(pointers.weight);
    operands.workspace = static_cast<T*>(workspace);
    operands.accumulate = pointers.accumulate;
    run_outer(plan.view, plan.outer, plan.isa->kernels<T>(), operands, plan.threads);
}

}  // namespace

LinearPlan plan_linear(const Linear& problem, Direction direction, const LinearStrides& strides,
                       const Isa& isa, int threads) {
    LinearPlan plan;
    plan.problem = problem;
    plan.direction = direction;
    plan.strides = strides;
    plan.isa = &isa;
    plan.threads = threads;
    switch (direction) {
        case Direction::kForward: block_linear_forward(plan); break;
        case Direction::kGradInput: block_linear_grad_input(plan); break;
        case Direction::kGradWeight: plan_grad_weight(plan); break;
    }
    return plan;
}

void run_linear(const LinearPlan& plan, const LinearPointers& pointers, void* workspace) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace fastconv::cpu
