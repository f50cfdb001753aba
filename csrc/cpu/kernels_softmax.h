// Softmax and log-softmax of a tile of lines, their gradients, and what cross-entropy needs of a line.
//
//   along rows       every row is a line of its own        sums run over lanes, then across them
//   down columns     every column is a line of its own     a line stays in its lane
//
// Sums are made in blocks of at most 512 terms an accumulator. A line that holds a NaN, +inf, or
// nothing but -inf becomes NaN, as in PyTorch.
#pragma once

#include <cstdint>

#include "core/operation.h"

namespace fastconv::cpu {

/// (rows, cols): operand k's element (r, c) is data[k][r * pitch[k] + c]. Operand 0 is written.
///   forward    1 = x
///   backward   1 = grad_output, 2 = output
/// 0 may be 1 or 2.
template <class T>
struct SoftmaxTile {
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    T* data[3] = {};
    std::int64_t pitch[3] = {};
};

/// Of one line: its maximum m, sum of exp(x - m), sum of (x - m) (0 unless it was asked for).
struct LineSums {
    double maximum, exponentials, differences;
};

template <class T>
using SoftmaxFunction = void (*)(const SoftmaxTile<T>&);

template <class T>
struct SoftmaxKernels {
    SoftmaxFunction<T> along_rows[4];    // by SoftmaxKind
    SoftmaxFunction<T> down_columns[4];  // by SoftmaxKind
    LineSums (*line_sums)(std::int64_t n, const T* x, bool differences);
    /// y = (y - subtracted) * scale
    void (*shift_and_scale)(std::int64_t n, T* y, T subtracted, T scale);
};

}  // namespace fastconv::cpu
