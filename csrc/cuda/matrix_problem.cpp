// Sizes of a plan's phases for the cost model (cuda/matrix_problem.h).
#include "cuda/matrix_problem.h"

#include <algorithm>

#include "core/ceil_div.h"
#include "cuda/conv2d_operands.h"
#include "cuda/conv2d_pack.h"

namespace fastconv::cuda {

MatrixProblem correlations_problem(const CudaConvPlan& plan) {
    const Correlation& first = plan.phases.front();
    MatrixProblem problem;
    problem.m = 0;
    problem.n = first.cols;
    problem.terms = depth_of(first);  // the most
    problem.phases = 0;
    std::int64_t products = 0;
    for (const Correlation& phase : plan.phases) {
        if (depth_of(phase) == 0) continue;
        ++problem.phases;
        problem.m += rows_of(phase);
        products += rows_of(phase) * depth_of(phase);
        problem.tile_rows += phase.batch * ceil_div(phase.out_h, std::int64_t{8}) *
                             ceil_div(phase.out_w, std::int64_t{8}) * 64;
    }
    const PatchLines patch = patch_lines(plan.phases);
    problem.patch_lines_a_step = static_cast<double>(patch.width * patch.height) /
                                 static_cast<double>(first.taps_h.count * first.taps_w.count);
    problem.lines = problem.phases == 1 && first.taps_h.count * first.taps_w.count == 1 &&
                    first.taps_h.step == 1 && first.taps_w.step == 1;
    problem.source_pixels = std::min(first.batch * first.source_h * first.source_w,
                                     problem.m * first.taps_h.count * first.taps_w.count);
    problem.mean_terms = problem.m == 0 ? 0 : static_cast<double>(products) / problem.m;
    problem.groups = first.groups;
    problem.channels = first.channels;
    problem.element_bytes = static_cast<int>(plan.problem.element_bytes());
    return problem;
}

MatrixProblem grad_weight_problem(const CudaConvPlan& plan) {
    const Correlation& view = plan.phases.front();
    MatrixProblem problem;
    problem.m = view.cols;
    problem.n = depth_of(view);
    problem.terms = rows_of(view);
    problem.groups = view.groups;
    problem.channels = view.channels;
    problem.grad_weight = true;
    problem.source_pixels = std::min(view.batch * view.source_h * view.source_w,
                                     problem.terms * view.taps_h.count * view.taps_w.count);
    problem.lines = view.taps_h.count * view.taps_w.count == 1 && view.taps_h.step == 1 &&
                    view.taps_w.step == 1;
    problem.element_bytes = static_cast<int>(plan.problem.element_bytes());
    problem.always_partial = !lies_in_order(view, plan.strides.weight);
    return problem;
}

}  // namespace fastconv::cuda
