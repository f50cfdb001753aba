// The register tile under the fully connected layer: a few rows of x by a few rows of w, both
// contiguous along the depth, which is what the vectors run along. Nothing is packed.
//
//        depth ->                      sums[i][k] (+)= x[i] . w[k], lane by lane:
//   x 0  [ . . . . | . . . . | . . ]   lane l sums the elements d with d % lanes == l
//   x 1  [ . . . . | . . . . | . . ]
//                                      a vector of lanes for each (i, k), in memory (i, k, lane)
//   w 0  [ . . . . | . . . . | . . ]   between depth blocks; `finish` adds the lanes in one fixed
//   w 1  [ . . . . | . . . . | . . ]   order, then bias and ReLU.
//
// An element's sum knows nothing of its neighbours: the same bits for any batch and any tile. Each
// call sums its depth block from zero and then adds to what is there.
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
    T* sums = nullptr;  // row i, column k at sums + (i * sums_pitch + k) * lanes
    std::int64_t sums_pitch = 0;
    bool first = true;  // store instead of adding
};

template <class T>
using DotFunction = void (*)(const DotTile<T>&);

template <class T>
struct DotKernels {
    static constexpr int kMaxRows = 4;
    static constexpr int kMaxCols = 6;
    int lanes;
    int max_rows, max_cols;
    DotFunction<T> tile[kMaxRows + 1][kMaxCols + 1];  // by rows and columns

    /// out(i, k) = relu?(the lanes of sums[i][k] + bias[k]) for rows x cols; bias may be null.
    void (*finish)(std::int64_t rows, std::int64_t cols, const T* sums, std::int64_t sums_pitch,
                   const T* bias, bool relu, MatrixView<T> out);
};

}  // namespace fastconv::cpu
