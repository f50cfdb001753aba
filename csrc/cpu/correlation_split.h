// The implicit GEMM on matrix tiles: float32 as three bfloat16 (cpu/kernels_split.h).
//
// The depth of all segments is one run of elements in steps of 32, blocks of at most 16 steps. Packed weights:
//   raw     (groups, column tiles, blocks) bytes: 1 where a tile's weights lie raw; padded to 64 bytes
//   tiles   (groups, panels of 32 columns, steps, column tiles of the panel) of 3 KB
#pragma once

#include <algorithm>

#include "core/ceil_div.h"
#include "cpu/correlation.h"
#include "cpu/kernels_split.h"

namespace fastconv::cpu {

/// Whether every step lies in one segment, and is read where it is.
inline bool split_whole_steps(const Correlation& phase) { return phase.depth % kSplitStep == 0; }
inline std::int64_t split_steps(const Correlation& phase) {
    return ceil_div(phase.segments * phase.depth, kSplitStep);
}
inline std::int64_t split_block_steps(const Correlation& phase) {
    return ceil_div(split_steps(phase), ceil_div(split_steps(phase), kSplitMostSteps));
}
inline std::int64_t split_column_tiles(const Correlation& phase) {
    return ceil_div(phase.cols, kSplitLines);
}
inline std::int64_t split_panels(const Correlation& phase) {
    return ceil_div(phase.cols, kSplitPanel);
}
/// Rows are split in chunks of 32, of which all are kept, or two in turn.
inline std::int64_t split_chunk_bytes(const Correlation& phase) {
    return 2 * phase.split_steps_per_block * kSplitTileBytes;
}
inline std::int64_t split_kept_chunks(const Correlation& phase) {
    const std::int64_t chunks = ceil_div(phase.rows(), kSplitRows);
    return phase.split_rows_first ? std::min<std::int64_t>(2, chunks) : chunks;
}
/// Panels whose weights a task packs at once.
inline std::int64_t split_task_panels(const Correlation& phase) {
    return phase.split_rows_first ? ceil_div(split_panels(phase), phase.parts) : 1;
}
/// Columns whose sums a task keeps: those of its panels, or of one where the depth is one block.
inline std::int64_t split_sum_cols(const Correlation& phase) {
    const bool through_sum = phase.out.channel_elems != 1;
    if (phase.split_steps_per_block >= split_steps(phase) && !through_sum) return 0;
    return ceil_div(split_panels(phase), phase.parts) * kSplitPanel;
}
inline std::int64_t split_blocks(const Correlation& phase) {
    return ceil_div(split_steps(phase), phase.split_steps_per_block);
}
inline std::int64_t split_raw_bytes(const Correlation& phase) {
    return ceil_div(phase.groups * split_column_tiles(phase) * split_blocks(phase), 64) * 64;
}
/// Bytes of the packed weights.
inline std::int64_t split_packed_bytes(const Correlation& phase) {
    return split_raw_bytes(phase) +
           phase.groups * split_column_tiles(phase) * split_steps(phase) * kSplitTileBytes;
}

/// The share of the register tile's time that matrix tiles take, by the cost model, for the `rows` positions of an
/// image, or of a batch where that may choose; 1, and then the phase is not split, where there are no tiles or they
/// would take about as long. The phase has its segments. Neither threads nor packing decide.
double split_share(const Correlation& phase, const Kernels<float>& kernels, std::int64_t rows);

/// Sets the blocking of `phase`, which is split, and how tasks are cut for `threads`. Returns false, whatever the
/// threads and the packing, where the smallest block needs too much scratch.
bool block_split(Correlation& phase, const Kernels<float>& kernels, int threads, Packing packing);

/// Column tiles of a panel.
inline std::int64_t split_tiles_of(const Correlation& phase, std::int64_t panel) {
    return std::min<std::int64_t>(2, split_column_tiles(phase) - panel * 2);
}

/// A panel's weights in one depth block.
struct SplitPiece {
    std::int64_t group, panel, step, steps;
};

/// Splits lines of `tile_count` column tiles, a line of `width` for each element of the steps, into (steps, column
/// tiles) tiles, or copies column tiles that must lie raw; raw[i] says so of the i-th.
void split_lines(const SplitKernels<float>& kernels, const float* lines, std::int64_t width,
                 std::int64_t steps, std::int64_t tile_count, char* tiles, bool* raw);

/// Packs a piece as split_lines() does; `lines` has room for split_line_elems().
void pack_split_piece(const Correlation& phase, const Kernels<float>& kernels,
                      const WeightView<float>& weight, const SplitPiece& piece, float* lines, char* tiles,
                      bool* raw);
inline std::int64_t split_line_elems(const Correlation& phase) {
    return phase.split_steps_per_block * kSplitStep * kSplitPanel;
}

void pack_split(const Correlation& phase, const Kernels<float>& kernels,
                const WeightView<float>& weight, char* packed, int threads);

struct SplitOperands {
    const float* source;
    const char* packed;               // null: each task packs for itself
    const WeightView<float>* weight;
    Epilogue<float> epilogue;
    float* out;
};

void run_split_task(const Correlation& phase, const Kernels<float>& kernels,
                    const SplitOperands& operands, std::int64_t task);

}  // namespace fastconv::cpu
