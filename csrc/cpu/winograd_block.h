// The task of a fused Winograd convolution: a block of tiles (cpu/conv2d_winograd.cpp).
#pragma once

#include "core/plan.h"
#include "cpu/correlation.h"
#include "cpu/kernels_winograd.h"

namespace fastconv::cpu {

/// Where a task's scratch has what, in bytes from its beginning.
struct WinogradLayout {
    // Transformed tiles (point, tile, c) and (point, tile, k); with weights_by_task (chunk, point, tile, c),
    // so that the products with a chunk of U read V from end to end. V is of one subkernel; where there are
    // several, M of each panel waits for the last, m_panel_elems from the next, else they share one.
    std::size_t v = 0, m = 0;
    std::size_t u = 0;                   // (point, chunk, width), with weights_by_task
    std::size_t weights = 0;             // of WinogradWeights, with weights_by_task
    std::int64_t v_pitch = 0, v_point_elems = 0, v_chunk_elems = 0;
    std::int64_t m_point_elems = 0, m_panel_elems = 0;
    std::size_t begun = 0;               // as m: sums of a block of channels, with weights_by_task
    std::size_t sum = 0;                 // of a register tile
    std::size_t v_rows = 0, m_rows = 0;  // pointers to their rows (point, tile)
    std::size_t zeros = 0, strip = 0;    // a line of zeros; a segment's source, channels last
    std::size_t out_strip = 0, residual_strip = 0;  // (m, tiles * m, width); pooled: of it a quarter
    std::size_t bytes = 0;
};

WinogradLayout winograd_layout(const ConvPlan& plan, const WinogradVariant<float>& variant);

struct WinogradOperands {
    const float* source;
    WeightView<float> weight;
    const float* transformed;  // U as TransformedWeights has it, unless weights_by_task
    Epilogue<float> epilogue;
    float* out;
};

void run_winograd_block(const ConvPlan& plan, const WinogradOperands& operands, std::int64_t task);

}  // namespace fastconv::cpu
