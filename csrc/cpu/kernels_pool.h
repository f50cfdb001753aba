// The pooling tiles: several windows at once, one lane each, blind to what a lane is.
//
//     tap (r, s) of position i, lane l   source[r * row_elems + cols[s] + i * step_elems + l]
//     result of position i, lane l       out[i * out_step_elems + l]
//
//     channels last: a lane is a channel       C order: a lane is a column of the output
//                  l = c                                     l = q
//     row r   [s0: c c c c][s1: c c c c]      row r  phase 0   x0 x2 x4 x6      cols[0] = 0
//     row r+1 [s0: c c c c][s1: c c c c]             phase 1   x1 x3 x5 x7      cols[1] = pitch
//             i counts the pixels                              x0 x2 x4 x6      cols[2] = 1
//
// A stride along the lanes is undone before (`split`), so that lanes are contiguous. Windows are
// clipped to the input by the caller: every tap exists, and a window may have none. The gradients
// are the same thing seen from the input: the taps of an input position are the output positions
// whose windows hold it.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct PoolTile {
    const T* source = nullptr;
    std::int64_t rows = 0;
    std::int64_t row_elems = 0;
    const std::int64_t* cols = nullptr;  // (col_count)
    std::int64_t col_count = 0;
    std::int64_t positions = 0;
    std::int64_t step_elems = 0;
    std::int64_t lanes = 0;
    T* out = nullptr;
    std::int64_t out_step_elems = 0;
    // average only
    T divisor = 1;
    T reciprocal = 1;         // 1 / divisor where that is exact, else 0
    bool accumulate = false;  // add to what is there
};

/// Indices of the taps. Forward writes, at data[i * step_elems + l], the winner's
///     first + r * row_add + col_adds[s] + i * step_add + l * lane_add,
/// whose part r * row_add + col_adds[s] must fit 31 bits for float. Backward reads, at
/// data[r * row_elems + cols[s] + i * step_elems + l], and takes a tap where it finds
///     first + i * step_add + l * lane_add.
struct PoolIndexTile {
    std::int64_t* data = nullptr;
    std::int64_t step_elems = 0;
    std::int64_t row_elems = 0;
    const std::int64_t* cols = nullptr;
    std::int64_t first = 0;
    std::int64_t row_add = 0;
    const std::int64_t* col_adds = nullptr;
    std::int64_t step_add = 0;
    std::int64_t lane_add = 0;
};

/// Indices of 32 bits for the gradient of max pooling, in strips that `narrow` wrote: half the bytes
/// and a third of the instructions of a tap. Lanes are channels: a tap counts where it finds
/// first + i * step_add, at data[r * row_elems + cols[s] + i * step_elems + l].
struct PoolNarrowTile {
    const std::int32_t* data = nullptr;
    std::int64_t step_elems = 0;
    std::int64_t row_elems = 0;
    const std::int64_t* cols = nullptr;
    std::int64_t first = 0;
    std::int64_t step_add = 0;
};

template <class T>
struct PoolKernels {
    int lanes;
    /// The maximum, NaN if any tap is NaN, -inf without a tap.
    void (*max)(const PoolTile<T>&);
    /// The same with the index of the first maximum, taps in row-major order; -1 without a tap.
    void (*max_index)(const PoolTile<T>&, const PoolIndexTile&);
    /// (sum of the taps) / divisor, summed in blocks of about 256; 0 without a tap.
    void (*average)(const PoolTile<T>&);
    /// The sum of the taps whose index says that they took this position.
    void (*max_backward)(const PoolTile<T>&, const PoolIndexTile&);
    /// The same from narrow indices; null for double, whose lanes are as wide as an index.
    void (*max_backward_narrow)(const PoolTile<T>&, const PoolNarrowTile&);
    /// to[i * to_step + l] = from[i * from_step + l] for `positions` of `lanes`, -1 for what needs
    /// more than 32 bits.
    void (*narrow)(std::int64_t positions, std::int64_t lanes, const std::int64_t* from,
                   std::int64_t from_step, std::int32_t* to, std::int64_t to_step);
    /// even[j] = line[2 j], odd[j] = line[2 j + 1], for `count` elements of line; and back.
    void (*split)(std::int64_t count, const T* line, T* even, T* odd);
    void (*merge)(std::int64_t count, const T* even, const T* odd, T* line);
};

}  // namespace fastconv::cpu
