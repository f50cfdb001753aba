// The sum of outer products on matrix tiles (cpu/kernels_split.h), for one tap: a chunk's positions are the
// depth, x's channels the rows, grad_output's filters the columns.
//
//   rows      (row tiles, steps) of 3 KB      x, transposed: once a chunk
//   columns   (column pairs, steps, 2) of 3 KB   a panel of grad_output, of 64 columns
#pragma once

#include "core/ceil_div.h"
#include "cpu/kernels_split.h"
#include "cpu/outer.h"
#include "cpu/outer_part.h"

namespace fastconv::cpu {

/// Positions of a chunk, at most: terms of one accumulator, 8 steps.
constexpr std::int64_t kOuterSplitPositions = 256;

/// Whether the sum is made so, by the shapes alone.
bool outer_split_pays(const Correlation& view, const Kernels<float>& kernels);

inline std::int64_t outer_split_steps(const OuterBlocking& blocking) {
    return ceil_div(blocking.positions(), kSplitStep);
}

/// The chunks of one task, one after the other.
class OuterSplit {
public:
    OuterSplit(const OuterPart<float>& part, const OuterScratch& layout, char* scratch)
        : part_(part), layout_(layout), scratch_(scratch) {}

    /// Positions that no run has are zero.
    void split_source(const OuterRun<float>* runs, std::int64_t count, std::int64_t x_pitch,
                      std::int64_t positions);

    /// totals (+)= the chunk's products with a panel's lines, behind which there is room for a whole step.
    void add_panel(std::int64_t panel, float* lines, bool first, float* totals);

    /// After the last.
    void finish();

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    std::int64_t row_tile_bytes() const { return outer_split_steps(part_.blocking) * kSplitTileBytes; }
    unsigned split_columns(const float* lines, std::int64_t width, std::int64_t pair);
    void multiply(std::int64_t row, std::int64_t pair, unsigned raw_columns, SplitResults& results);

    const OuterPart<float>& part_;
    const OuterScratch& layout_;
    char* scratch_;
    std::int64_t positions_ = 0, steps_ = 0;
    int configured_ = 0, turn_ = 0;
    bool pending_ = false;
    SplitResults results_[2];
    float* out_[2][kSplitRows];
};

}  // namespace fastconv::cpu
