// The register tile under every weight gradient: a sum of outer products over pixels.
//
//              lines (pixels, width), packed: width = vectors * lanes
//              +------------------+
//   pixel 0    | k0 k1 ... k63    |        sum[i][k] (+)= sum over the runs' pixels j of
//   pixel 1    | k0 k1 ... k63    |                       x[j * x_pitch + i] * lines[pixel + j][k]
//              |                  |
//   x ->  i i i i i i                      rows i lie side by side at every pixel of x, each is
//         (rows) at pixel 0, then +x_pitch broadcast against the pixel's line
//
// A run is a stretch of pixels that lie x_pitch apart in x and one line apart in `lines`: a row of
// the output, clipped to the pixels for which the tap falls inside the input. So the tile is blind
// to rank, stride, padding and dilation, and what padding would add is not computed at all.
// Each call sums its runs from zero, in their order, and then adds: depth is summed in blocks, and
// the tile's height and the neighbours do not enter an element's bits.
#pragma once

#include <cstdint>

#include "cpu/kernels_copy.h"

namespace fastconv::cpu {

template <class T>
struct OuterRun {
    const T* x = nullptr;
    std::int64_t pixel = 0;  // its first line
    std::int64_t count = 0;  // pixels
};

template <class T>
struct OuterTile {
    const OuterRun<T>* runs = nullptr;
    std::int64_t run_count = 0;
    std::int64_t x_offset = 0;  // elements added to every run's x (the tile's first row)
    std::int64_t x_pitch = 0;
    const T* lines = nullptr;
    T* sum = nullptr;  // row i at sum + i * sum_pitch, width elements each
    std::int64_t sum_pitch = 0;
    bool first = true;  // store instead of adding
    bool cold = false;  // sum is probably not in the cache
    // With first: sum is too large to stay in any cache, is written once and lies on whole cache lines
    // (64 bytes): stores pass the caches by, which would read it first. `settle` after the last one.
    bool stream = false;
    // What will be copied to `lines` next is fetched into L2 meanwhile: a cache line a pixel,
    // `ahead_step` elements apart.
    const T* ahead = nullptr;  // null: nothing
    std::int64_t ahead_step = 0;
};

/// to[i * line_elems + j * step + c] += from[i * from_line_elems + j * from_step + c] for lines i,
/// positions j and columns c, at most those of the widest tile. Lines do not overlap; positions may.
template <class T>
struct Spread {
    std::int64_t lines = 0, positions = 0, cols = 0;
    const T* from = nullptr;
    std::int64_t from_line_elems = 0, from_step = 0;
    T* to = nullptr;
    std::int64_t line_elems = 0, step = 0;
};

template <class T>
using OuterFunction = void (*)(const OuterTile<T>&);

template <class T>
struct OuterKernels {
    static constexpr int kMaxVectors = 4;
    static constexpr bool kNarrowerPanels = false;  // they would change what a chunk sums
    static constexpr int kMaxRows = 24;
    int lanes;
    int max_rows[kMaxVectors + 1];  // by vectors; 0: no tile of that width
    OuterFunction<T> tile[kMaxVectors + 1][kMaxRows + 1];  // by vectors and rows
    void (*settle)();  // other threads see what was streamed before what this thread stores next

    /// to[i] += from[i]
    void (*add)(std::int64_t count, const T* from, T* to);

    /// sum[c] = sum over rows r of from(r, c), in an order that rows and strides decide.
    void (*sum_rows)(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, T* sum);

    /// Positions one after the other, each with all its lines.
    void (*spread)(const Spread<T>& spread);
};

}  // namespace fastconv::cpu
