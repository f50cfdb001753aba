// The tasks of Winograd's weight gradient (cpu/conv2d_winograd_grad_weight.cpp).
#pragma once

#include "core/plan.h"
#include "cpu/kernels_winograd.h"
#include "cpu/sum_tasks.h"

namespace fastconv::cpu {

/// Where a task's scratch has what, in bytes from its beginning; the steps between points in elements.
struct WinogradGradientLayout {
    std::size_t v = 0, w = 0;  // (point, tile, c) of x and (point, panel, tile, k) of grad_output
    std::size_t zeros = 0, strip = 0;        // a line of zeros; a segment's pixels, channels last
    std::size_t totals = 0;                  // where there is one sum only
    std::size_t stage = 0, stage_added = 0;  // taps of some channels on their way out
    std::int64_t pitch = 0;                  // from one tile's channels to the next's
    std::int64_t v_point_elems = 0, w_point_elems = 0;
    std::int64_t totals_point_elems = 0;  // M of a panel: (point, c, k)
    std::size_t bytes = 0;
};

WinogradGradientLayout winograd_gradient_layout(const ConvPlan& plan);

/// A part is one subkernel's, of some channels and panels: all parts of a subkernel follow each other.
SumTasks winograd_sum_tasks(const ConvPlan& plan);

/// Elements of M of one task: its channels and panels, all points.
std::int64_t winograd_totals_elems(const ConvPlan& plan, const WinogradGradientLayout& layout);

struct WinogradGradientOperands {
    const float* source;  // x
    const float* out;     // grad_output
    float* weight;
    float* workspace;  // (sum, part, totals), where there are several sums
    bool accumulate;
};

void run_winograd_gradient(const ConvPlan& plan, const WinogradGradientOperands& operands);

}  // namespace fastconv::cpu
