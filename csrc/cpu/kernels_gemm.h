// The register tile under every convolution that multiplies: a few rows (output pixels) by a few
// vectors of columns (output channels), summed over a list of row pointers.
//
//                       panel (segments * depth, width), packed, width = vectors * lanes
//                       +------------------+
//   segment 0   depth   | k0 k1 ... k63    |
//               ...     |                  |        segment = a tap, or a whole kernel row
//   segment 1   depth   |                  |        depth   = contiguous elements at each pointer
//                       +------------------+
//   rows[0][i] ->  x x x x x (depth)        each element is broadcast against one panel line
//   rows[1][i] ->  x x x x x
//
// The pointers make the tile blind to rank, stride, padding (a pointer at a line of zeros) and
// dilation. Depth comes in blocks: all but the first add the `sum` of the blocks before, all but the
// last leave theirs there, the last adds bias and residual, applies ReLU and writes `out`. A block that
// comes in pieces is summed as if it came at once: each piece but the first goes on with the sums `begun`.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct GemmTile {
    const T* const* rows = nullptr;  // pointer of row i for segment s: rows[s * row_pitch + i]
    std::int64_t row_pitch = 0;
    std::int64_t segment_elems = 0;  // added to every row pointer for each segment before
    std::int64_t row_offset = 0;  // elements added to every row pointer (a depth block's channel)
    const T* zeros = nullptr;  // or the pointer that stands for padding: what is so for all rows is skipped
    std::int64_t segments = 0;
    std::int64_t depth = 0;
    const T* panel = nullptr;
    // What will be wanted next is fetched into L2 meanwhile: a cache line a panel line, `ahead_step`
    // elements apart for `ahead_run` lines, or to a segment's end; the next run begins `ahead_jump`
    // elements after this one. With 16 registers every other one: all lines where the step is at most half a
    // cache line, and where it is a channel half of them. Into L1 (`ahead_near`) a second line for each, `ahead_second`
    // elements from it.
    const T* ahead = nullptr;  // null: nothing
    std::int64_t ahead_step = 0;
    std::int64_t ahead_run = INT64_MAX / 2;
    std::int64_t ahead_jump = 0;
    std::int64_t ahead_second = 0;
    bool ahead_near = false;  // into L1 too (cpu/isa.h: fetches_near)

    T* sum = nullptr;  // (rows, width) partial sums of the depth blocks so far
    bool first = true;
    bool last = true;
    const T* begun = nullptr;  // (rows, width) sums of this block's pieces so far, which go on; null: none

    T* const* out = nullptr;  // used by the last block only: pointer of row i
    std::int64_t out_offset = 0;  // elements added to out's and residual's pointers (a column)
    std::int64_t cols = 0;        // columns that exist, 1 .. width
    const T* bias = nullptr;      // (cols) or null
    const T* const* residual = nullptr;  // pointers of rows, or null
    bool relu = false;
    bool own_out = false;  // rows of `out` that follow each other in memory are asked for, too, to be written
};

/// For tile number `t` of `tiles` over one panel block: each fetches its share of the block at `next`.
/// Reading a block from L3 when it is due does not overlap with the products of the first tile: on a
/// Xeon with 14 GB/s a core, 1x1 on 7x7 maps with weights out of L2 went from 105 to 157 GFLOP/s. A panel line is
/// up to four cache lines: fewer tiles than that fetch two at a time, as two pieces. On a Zen 4, three tiles of
/// Winograd's 14x14, U from memory: 256 -> 256 1.16x, 512 -> 512 1.14x, of U in L3 1.0x to 1.06x.
template <class T>
void fetch_ahead(GemmTile<T>& tile, const T* next, std::int64_t width, std::int64_t t,
                 std::int64_t tiles) {
    constexpr std::int64_t kCacheLine = 64 / static_cast<std::int64_t>(sizeof(T));
    const bool few = tile.ahead_near && tiles * kCacheLine < width;
    const std::int64_t pieces = few ? 2 * tiles : tiles;
    tile.ahead_step = (width + pieces - 1) / pieces;
    tile.ahead_run = tile.depth;
    tile.ahead_jump = tile.depth * tile.ahead_step;
    const std::int64_t piece_elems = tile.segments * tile.depth * tile.ahead_step;
    tile.ahead = next + (few ? 2 * t : t) * piece_elems;
    tile.ahead_second = few ? piece_elems : 0;
}

template <class T>
using GemmFunction = void (*)(const GemmTile<T>&);

template <class T>
struct GemmKernels {
    static constexpr int kMaxVectors = 4;
    static constexpr bool kNarrowerPanels = true;
    static constexpr int kMaxRows = 12;
    int lanes;
    int max_rows[kMaxVectors + 1];  // by vectors; 0: no tile of that width
    GemmFunction<T> tile[kMaxVectors + 1][kMaxRows + 1];  // by vectors and rows
};

}  // namespace fastconv::cpu
