// Sums over positions and the affine pass of batch normalization, for a tile of positions.
//
//   per column   (rows = positions, cols = channels): every column is a channel (channels last)
//   per tile     (rows, cols) positions of one channel (C order); parameter and sum arrays have
//                one element
//
// Sums are made in T over at most a tile (256 terms an accumulator, 512 without AVX), about a shift
// near their mean, and joined in float64 by the caller.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct PositionTile {
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    const T* x = nullptr;
    std::int64_t x_pitch = 0;
    const T* grad = nullptr;  // grad_output; in the passes backward only
    std::int64_t grad_pitch = 0;
    T* out = nullptr;
    std::int64_t out_pitch = 0;
    const T* residual = nullptr;
    std::int64_t residual_pitch = 0;
};

/// What g is, backward: grad; through a ReLU, 0 where (x - mean) * scale + bias <= 0. That is the
/// forward pass's own formula, so that its output need not be kept. Arrays per channel; `bias` is read
/// through a ReLU only.
template <class T>
struct Masked {
    const T *mean, *scale, *bias;
};

/// What follows the normalization in the same pass; kernels come one for each. Backward, the ReLU after
/// an addition is an operation of its own (cpu/kernels_elementwise.h), tile by tile.
enum AfterNorm { kNothing, kRelu, kAddRelu };

template <class T>
struct BatchNormKernels {
    struct Form {
        /// shift = mean of the tile, rounded; sum = sum of (x - shift), squares of (x - shift)^2.
        void (*moments)(const PositionTile<T>& tile, T* shift, T* sum, T* squares);
        /// sum = sum of g, products = sum of g * (x - mean).
        void (*products[2])(const PositionTile<T>& tile, const Masked<T>& mask, T* sum,
                            T* products);
        /// out = (x - mean) * scale + offset, or its ReLU, or max(that + residual, 0)
        void (*normalize[3])(const PositionTile<T>& tile, const T* mean, const T* scale,
                             const T* offset);
        /// out = (g - offset - (x - mean) * slope) * scale
        void (*grad_input[2])(const PositionTile<T>& tile, const Masked<T>& mask, const T* offset,
                              const T* slope);
    };
    Form per_column;
    Form per_tile;
    /// Joins the moments of `count` more values to mean and deviations = sum of (x - mean)^2 of
    /// `before` values, channel by channel (Chan, Golub and LeVeque, 1979).
    void (*join)(std::int64_t channels, double before, double count, const T* shift, const T* sum,
                 const T* squares, double* mean, double* deviations);
};

}  // namespace fastconv::cpu
