// The register tile under the fully connected layer: a few rows of x by a few rows of w, both
// contiguous along the depth, which is what the vectors run along. Nothing is packed.
//
//        depth ->                      sums[i][k] (+)= x[i] . w[k], lane by lane:
//   x 0  [ . . . . | . . . . | . . ]   lane l sums the elements d with d % lanes == l
//   x 1  [ . . . . | . . . . | . . ]
//                                      a vector of lanes for each (i, k), in memory (i, k, lane)
//   w 0  [ . . . . | . . . . | . . ]   between depth blocks; the last block adds the lanes in one
//   w 1  [ . . . . | . . . . | . . ]   fixed order, then bias, ReLU, and writes out.
//
// An element's sum knows nothing of its neighbours: the same bits for any batch and any tile. Each
// call sums its depth block from zero; all but the first then add the sums of the blocks before.
#pragma once

#include <cstdint>

#include "cpu/kernels_copy.h"

namespace fastconv::cpu {

template <class T>
struct DotTile {
    const T* x = nullptr;
    std::int64_t x_pitch = 0;  // elements from row to row
    const T* w = nullptr;
    std::int64_t w_pitch = 0;
    std::int64_t depth = 0;
    // Two rows of w that will be wanted soon, fetched into L2 meanwhile; null: nothing.
    const T* ahead[2] = {nullptr, nullptr};
    T* sums = nullptr;  // row i, column k at sums + (i * sums_pitch + k) * lanes
    std::int64_t sums_pitch = 0;
    bool first = true;
    bool last = true;

    const T* bias = nullptr;  // the last block only: (columns) or null
    bool relu = false;
    MatrixView<T> out;  // the tile's first element
};

template <class T>
using DotFunction = void (*)(const DotTile<T>&);

/// A few rows of y times a few rows of w that lie side by side along the columns, read in place:
///   sums[n][c] = (first ? 0 : sums[n][c]) + y[n][0] * w[0][c] + y[n][1] * w[1][c] + ...
/// added one product after the other, so that cutting the depth does not change bits.
template <class T>
struct RowSum {
    const T* y = nullptr;
    std::int64_t y_row_elems = 0;
    std::int64_t y_depth_elems = 0;
    const T* w = nullptr;
    std::int64_t w_pitch = 0;
    std::int64_t depth = 0;
    T* sums = nullptr;
    std::int64_t sums_pitch = 0;
    std::int64_t cols = 0;
    bool first = true;
};

template <class T>
using RowSumFunction = void (*)(const RowSum<T>&);

template <class T>
struct DotKernels {
    static constexpr int kMaxRows = 4;
    static constexpr int kMaxCols = 6;
    int lanes;
    int max_rows, max_cols;
    DotFunction<T> tile[kMaxRows + 1][kMaxCols + 1];  // by rows and columns
    RowSumFunction<T> row_sum[kMaxRows + 1];          // by rows, 1 .. kMaxRows
};

}  // namespace fastconv::cpu
