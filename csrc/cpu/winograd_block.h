// The task of a fused Winograd convolution: a block of tiles (cpu/conv2d_winograd.cpp).
#pragma once

#include "core/plan.h"
#include "cpu/correlation.h"
#include "cpu/kernels_winograd.h"

namespace fastconv::cpu {

/// Where a task's scratch has what, in bytes from its beginning.
struct WinogradLayout {
    std::size_t v = 0, m = 0;            // transformed tiles (point, tile, c) and (point, tile, k)
    std::size_t u = 0;                   // (point, chunk, width), with weights_by_task
    std::size_t weights = 0;             // of WinogradWeights, with weights_by_task
    std::size_t v_rows = 0, m_rows = 0;  // pointers to their rows (point, tile)
    std::size_t zeros = 0, strip = 0;    // a line of zeros; a segment's source, channels last
    std::size_t out_strip = 0, residual_strip = 0;  // (m, tiles * m, width)
    std::size_t bytes = 0;
};

WinogradLayout winograd_layout(const ConvPlan& plan, const WinogradVariant<float>& variant);

struct WinogradOperands {
    const float* source;
    WeightView<float> weight;
    const float* transformed;  // U (group, panel, point, c, k in panel), unless weights_by_task
    Epilogue<float> epilogue;
    float* out;
};

/// Channels whose products are summed before M is touched again, whichever way U comes, so that the
/// bits are the same: 36 x 64 x 64 floats of U are 590 KB and stay in L2.
constexpr std::int64_t kWinogradChunk = 64;

/// The weights' transform: points[point][c][k] of some channels and columns, whose taps go through
/// `scratch`, a few channels at a time.
class WinogradWeights {
public:
    WinogradWeights(const ConvPlan& plan, const WeightView<float>& weight);
    std::int64_t scratch_elems() const;
    /// Of `piece` all but `to` and tap_elems count.
    void transform(PanelPiece<float> piece, float* points, std::int64_t point_elems,
                   float* scratch) const;

private:
    const Correlation& phase_;
    const Kernels<float>& kernels_;
    const WinogradVariant<float>& variant_;
    WeightView<float> weight_;
};

void run_winograd_block(const ConvPlan& plan, const WinogradOperands& operands, std::int64_t task);

}  // namespace fastconv::cpu
