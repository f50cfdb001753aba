// Sums of outer products on matrix tiles (cpu/outer_split.h).
#include "cpu/outer_split.h"

#include <algorithm>
#include <cstring>

#include "cpu/correlation_split.h"

namespace fastconv::cpu {

bool outer_split_pays(const Correlation& view, const Kernels<float>& kernels) {
    if (!kernels.split->multiply || view.segments != 1 || view.gather) return false;
    // In multiply-adds of matrix tiles: splitting an element of a channel, which is also transposed, or of a
    // filter, and taking a sum through the totals, once a chunk. The rates as in correlation_split.cpp.
    constexpr double kChannel = 55, kFilter = 65, kTotal = 50, kRate = 1.75, kRegisterTile = 1.25, kGain = 0.95;
    const std::int64_t positions = std::min(kOuterSplitPositions, view.batch * view.out_h * view.out_w);
    const double depth = static_cast<double>(ceil_div(positions, kSplitStep) * kSplitStep);
    const double channels = static_cast<double>(view.channels), cols = static_cast<double>(view.cols);
    const double sums = static_cast<double>(ceil_div(view.channels, kSplitLines) * kSplitLines *
                                            ceil_div(view.cols, kSplitLines) * kSplitLines);
    const double split = (sums * (depth + kTotal) + (kChannel * channels + kFilter * cols) * depth) / kRate;
    return split < kGain * kRegisterTile * channels * cols * static_cast<double>(positions);
}

void OuterSplit::split_source(const OuterRun<float>* runs, std::int64_t count, std::int64_t x_pitch,
                              std::int64_t positions) {
    positions_ = positions;
    steps_ = ceil_div(positions, kSplitStep);
    const float** pointers = at<const float*>(layout_.split_pointers);
    static constexpr float kZeros[kSplitLines] = {};
    std::fill_n(pointers, steps_ * kSplitStep, nullptr);
    for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j < runs[i].count; ++j)
            pointers[runs[i].pixel + j] = runs[i].x + j * x_pitch;
    for (std::int64_t c = 0; c < part_.channels; c += kSplitLines) {
        const std::int64_t some = std::min(kSplitLines, part_.channels - c);
        char* tiles = at<char>(layout_.split_rows) + c / kSplitLines * row_tile_bytes();
        unsigned raw = 0;
        for (std::int64_t s = 0; s < steps_; ++s) {
            const float* elements[kSplitStep];
            for (std::int64_t d = 0; d < kSplitStep; ++d) {
                const float* pixel = pointers[s * kSplitStep + d];
                elements[d] = pixel ? pixel + c : kZeros;
            }
            raw |= part_.kernels.split->transposed(elements, some, tiles + s * kSplitTileBytes);
        }
        at<std::uint16_t>(layout_.split_raw)[c / kSplitLines] = static_cast<std::uint16_t>(raw);
        for (std::int64_t r = 0; r < some; ++r)
            for (std::int64_t d = 0; (raw >> r & 1) != 0 && d < steps_ * kSplitStep; ++d) {
                const float value = pointers[d] ? pointers[d][c + r] : 0.0f;
                std::memcpy(tiles + d / kSplitStep * kSplitTileBytes +
                                d % kSplitStep / kSplitLines * kSplitPartBytes + r * 64 + d % kSplitLines * 4,
                            &value, sizeof(value));
            }
    }
}

unsigned OuterSplit::split_columns(const float* lines, std::int64_t width, std::int64_t pair) {
    bool raw[2] = {};
    split_lines(*part_.kernels.split, lines + pair * kSplitPanel, width, steps_,
                std::min<std::int64_t>(2, width / kSplitLines - pair * 2),
                at<char>(layout_.split_columns) + pair * 2 * row_tile_bytes(), raw);
    return (raw[0] ? 1u : 0u) | (raw[1] ? 2u : 0u);
}

void OuterSplit::add_panel(std::int64_t panel, float* lines, bool first, float* totals) {
    const std::int64_t width = part_.width(panel), row_elems = part_.row_elems(panel);
    std::fill(lines + positions_ * width, lines + steps_ * kSplitStep * width, 0.0f);
    float* to = part_.panel_totals(totals, panel);
    const bool adds = !first || (part_.in_place(panel) && part_.operands.accumulate);
    for (std::int64_t pair = 0; pair * kSplitPanel < width; ++pair) {
        const unsigned raw = split_columns(lines, width, pair);
        for (std::int64_t row = 0; row < part_.channels; row += kSplitRows) {
            const std::int64_t count = std::min(kSplitRows, part_.channels - row);
            SplitResults& results = results_[turn_];
            results.count = count;
            results.tile.cols = std::min(kSplitPanel, width - pair * kSplitPanel);
            results.pitch = results.tile.cols;
            for (std::int64_t r = 0; r < count; ++r)
                out_[turn_][r] = to + (row + r) * row_elems + pair * kSplitPanel;
            results.tile.out = out_[turn_];
            results.tile.residual = adds ? out_[turn_] : nullptr;
            multiply(row, pair, raw, results);
        }
    }
}

void OuterSplit::multiply(std::int64_t row, std::int64_t pair, unsigned raw_columns,
                          SplitResults& results) {
    SplitProduct product;
    product.rows = at<char>(layout_.split_rows) + row / kSplitLines * row_tile_bytes();
    product.row_tile_bytes = row_tile_bytes();
    product.count = results.count;
    const std::uint16_t* raw = at<std::uint16_t>(layout_.split_raw) + row / kSplitLines;
    product.raw_rows = raw[0];
    if (results.count > kSplitLines) product.raw_rows |= std::uint32_t{raw[1]} << kSplitLines;
    product.columns = at<char>(layout_.split_columns) + pair * 2 * row_tile_bytes();
    product.column_tiles = static_cast<int>(results.pitch / kSplitLines);
    product.raw_columns = raw_columns;
    product.steps = steps_;
    product.fresh = at<float>(layout_.split_fresh) + turn_ * kSplitRows * kSplitPanel;
    if (pending_) product.results = &results_[turn_ ^ 1];
    part_.kernels.split->multiply(product, configured_);
    results.fresh = product.fresh;
    pending_ = true;
    turn_ ^= 1;
}

void OuterSplit::finish() {
    if (pending_) part_.kernels.split->deliver(results_[turn_ ^ 1]);
    pending_ = false;
    part_.kernels.split->release();
    configured_ = 0;
}

}  // namespace fastconv::cpu
