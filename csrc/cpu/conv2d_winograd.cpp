// Winograd convolution, fused: 3x3 by F(2,3), F(4,3) and F(6,3), 4x4 by F(3,4), 5x5 by F(2,5) and F(4,5), float32;
// forward, and grad_input of unit stride (a correlation with the kernel turned around, core/phases.h).
//
// Kernels of other sizes are cut into subkernels of 3x3 taps, or of 4x4 where that takes a tenth fewer products
// (7x7, 8x8; winograd_choice.cpp), the last ones completed with zeros: 9x9 is the sum of nine convolutions of the
// moved source. They share their outputs' tiles, so M sums them up and is transformed once. With a stride the taps
// that meet the same pixels make subkernels of their own: 5x5 of stride 2 is 3x3, 3x2, 2x3 and 2x2 taps over a quarter
// of the pixels each. Of few channels, where a vector would not be full, forward folds those phases into channels:
// AlexNet's 11x11 of stride 4 over 3 channels is 3x3 over 48, with 3.4 times fewer products, ResNet's 7x7 of stride 2
// is 4x4 over 12, with 3.1 times fewer.
//
// A task is a block of T tiles, in row-major order through rows and images, and some column panels. For each
// subkernel:
//   1. V[point][tile][c]  = input transform of the tiles, all channels
//   2. for each panel of 64 columns, for each point:
//        M[tile][k] (+)= sum_c V[point][tile][c] U[point][c][k]      the register tile of the GEMM
//      and after the last the output transform of each tile, with bias, residual and ReLU, and the maxima of 2x2
// so V and M are never whole: M of a panel stays in L2, V up to 256 channels, else near it. With several subkernels
// M is of all a task's panels, in L2 with V up to 128 channels and columns. U, the transformed weights, comes packed
// ahead, or is made once a call, or by each task, a chunk of channels at a time, and then never leaves L2
// (cpu/winograd_weights.h).
// Products: alpha^2 a tile instead of m^2 r^2: 2.25 (F(2,3)), 4 (F(4,3)), 5.06 (F(6,3)), 2.78 (F(2,5)),
// 6.25 (F(4,5)) times fewer. Two kinds are left out:
//   - at the edges, where m does not divide the output, a tile takes the points that its outputs need
//     (cpu/kernels_winograd.h): of F(4,3) on 7x7 and 14x14 16 % fewer, on 13x13 23 %. The tiles of a block are put
//     in an order in which those that have a point follow each other (TileOrder). U is the same for all.
//   - a subkernel with fewer than r rows or columns of taps has nothing at the point infinity, its last tap.
// So of F(4,3)'s subkernels 2.56 (2x2), 4 (6x6, 9x9), 3.66 (11x11) times fewer, of F(3,4)'s 4 (4x4, 8x8), 3.64 (7x7);
// of stride 2 1.44 (3x3), 2.56 (4x4), 3.31 (5x5), 3.64 (7x7).
//
// Rounding is tile-wise (docs/numerics.md); an infinity or NaN may make its whole tile NaN.
// Not handled: strides in grad_input, dilation, kernels of one row or column, float64.
// A. Lavin, S. Gray (2015); subkernels: D. Huang et al., "DWM: A Decomposable Winograd Method for Convolution
// Acceleration" (2020); fusing per block of tiles: Gelashvili et al., arXiv 1912.02165.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "core/phases.h"
#include "cpu/col2im.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "cpu/correlation_split.h"
#include "cpu/kernels_gemm.h"
#include "cpu/kernels_winograd.h"
#include "cpu/position_order.h"
#include "cpu/winograd_block.h"
#include "cpu/winograd_choice.h"
#include "cpu/winograd_cut.h"
#include "cpu/winograd_weights.h"

namespace fastconv::cpu {
namespace {

bool cut(ConvPlan& plan) {
    const bool fits = cut_winograd(plan);
    plan.phases[0].scratch_bytes =
        winograd_layout(plan, winograd_variant(plan)).bytes;
    plan.tasks = plan.phases[0].groups * plan.winograd.blocks * plan.winograd.parts;
    return fits;
}

const char* plan_winograd(ConvPlan& plan, int m) {
    plan.phases.assign(1, plan.direction == Direction::kForward
                              ? forward_phase(plan.problem, plan.strides)
                              : grad_input_phase(plan.problem, plan.strides, 0, 0));
    Correlation& phase = plan.phases[0];
    settle(phase);
    if (plan.strides.pooled) {  // an odd last row or column is in no window
        phase.out_h -= phase.out_h % 2;
        phase.out_w -= phase.out_w % 2;
    }
    if (const char* reason = choose_winograd(plan, m)) return reason;
    phase.gather = plan.winograd.folded || phase.source.channel_elems != 1;
    if (phase.channels * phase.cols == 0) return "winograd: there are no channels";
    plan.winograd.cost = winograd_cost(plan, winograd_variant(plan));
    return nullptr;
}

const char* complete(ConvPlan& plan) {
    const Correlation& phase = plan.phases[0];
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    WinogradPlan& winograd = plan.winograd;
    winograd.pitch = (ceil_div(winograd.channels, kernels.gemm->lanes) + 1) * kernels.gemm->lanes;
    if (!cut(plan))
        return "winograd: a block of tiles needs more scratch than a thread may have (8 MB)";
    plan.packed_elems = packed_elems<float>(phase, kernels);
    if (!winograd.weights_by_task)
        winograd.transformed_elems = TransformedWeights(plan).elems();
    plan.workspace_bytes = static_cast<std::size_t>(winograd.transformed_elems) * sizeof(float);
    return nullptr;
}

void prepack(ConvPlan& plan) {
    plan.packed_format = 2 + plan.winograd.variant;
    plan.packed_elems = TransformedWeights(plan).elems();
    plan.winograd.weights_by_task = false;
    plan.winograd.transformed_elems = 0;
    plan.workspace_bytes = 0;
    cut(plan);  // without U in the scratch it fits all the more
}

// ---- whether it pays: one image by itself, on one thread ------------------------------------------

double direct_cost(const ConvPlan& plan) {
    const Correlation& phase = plan.phases[0];
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    const double weights = static_cast<double>(phase.channels * phase.cols);
    const double taps = static_cast<double>(phase.taps_h.count * phase.taps_w.count);
    const double rows = static_cast<double>(phase.out_h * phase.out_w);
    const double other = other_work(*plan.isa);
    const bool narrow = vectors_for(*kernels.gemm, phase.cols) == 1;
    // A tap's row pointers take as long as eight of its channels; below 16 a kernel row is one segment.
    const double start = phase.channels < 16 ? 0 : 8 / static_cast<double>(phase.channels);
    const double register_tile =
        rows * taps * weights * ((narrow ? 1.6 : 1.05) + other * start) * products_share(phase, kernels) +
        other * kPackTapCost * taps * weights;
    // Each tap is split for itself, and weights of 6 bytes are read: 3x3 gains less than the model says.
    constexpr double kOptimism = 1.25;
    Correlation direct = phase;
    choose_segments(direct);
    const double share = split_share(direct, kernels, phase.out_h * phase.out_w);
    return register_tile * std::min(1.0, kOptimism * share);
}

const char* decline(const ConvPlan& plan) {
    const Correlation& phase = plan.phases[0];
    double direct = direct_cost(plan);
    if (plan.direction == Direction::kGradInput) {
        const double weights = static_cast<double>(plan.problem.taps() * phase.channels * phase.cols);
        direct = std::min(direct, 1.05 * col2im_cost(plan.problem, *plan.isa).col2im + 32 * weights);
    }
    return decline_winograd(plan, direct, winograd_cost);
}

const char* plan_winograd2(ConvPlan& plan) { return plan_winograd(plan, 2); }
const char* plan_winograd4(ConvPlan& plan) { return plan_winograd(plan, 4); }
const char* plan_winograd6(ConvPlan& plan) { return plan_winograd(plan, 6); }

void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    float* memory = static_cast<float*>(workspace);
    const bool packed = plan.packed_format != 0;
    if (!packed && !plan.winograd.weights_by_task) transform_weights(plan, pointers.weight, memory);
    const bool forward = plan.direction == Direction::kForward;
    const WinogradOperands operands{
        static_cast<const float*>(forward ? pointers.input : pointers.output),
        weight_view<float>(plan, pointers.weight),
        packed ? static_cast<const float*>(pointers.packed) : memory,
        {static_cast<const float*>(pointers.bias), static_cast<const float*>(pointers.residual),
         pointers.relu},
        static_cast<float*>(forward ? pointers.output : pointers.input)};
    parallel_for(plan.tasks, plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) { run_winograd_block(plan, operands, task); });
}

}  // namespace

void pack_transformed(const ConvPlan& plan, const void* weight, void* packed) {
    transform_weights(plan, weight, static_cast<float*>(packed));
}

const Candidate conv2d_winograd2{Algorithm::kWinograd2, plan_winograd2, run, decline, prepack, complete};
const Candidate conv2d_winograd6{Algorithm::kWinograd6, plan_winograd6, run, decline, prepack, complete};
const Candidate conv2d_winograd4{Algorithm::kWinograd4, plan_winograd4, run, decline, prepack, complete};

}  // namespace fastconv::cpu
