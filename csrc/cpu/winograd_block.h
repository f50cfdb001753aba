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
    std::size_t v_rows = 0, m_rows = 0;  // pointers to their rows (point, tile)
    std::size_t zeros = 0, strip = 0;    // a line of zeros; a segment's source, channels last
    std::size_t out_strip = 0, residual_strip = 0;  // (m, tiles * m, width)
    std::size_t bytes = 0;
};

WinogradLayout winograd_layout(const ConvPlan& plan, const WinogradVariant<float>& variant,
                               std::int64_t width);

struct WinogradOperands {
    const float* source;
    const float* packed;       // (group, panel, tap, c, k in panel)
    const float* transformed;  // U, unless weights_by_task
    Epilogue<float> epilogue;
    float* out;
};

/// Channels whose products are summed before M is touched again, whichever way U comes, so that the
/// bits are the same: 36 x 64 x 64 floats of U are 590 KB and stay in L2.
constexpr std::int64_t kWinogradChunk = 64;

/// points[point][c][k] from taps[tap][c][k] for `channels` channels of one panel.
void transform_winograd_weights(const WinogradVariant<float>& variant, const float* taps,
                                std::int64_t tap_elems, std::int64_t channels, std::int64_t width,
                                int lanes, float* points, std::int64_t point_elems);

void run_winograd_block(const ConvPlan& plan, const WinogradOperands& operands, std::int64_t task);

}  // namespace fastconv::cpu
