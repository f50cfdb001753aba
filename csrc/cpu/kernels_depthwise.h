// The inner loops of depthwise convolution: vectors lie along channels, each channel with its own
// kernel, and several neighbouring outputs are summed in registers.
//
//      lines[0]  -> c c c c  c c c c  c c c c  c c c c  c c c c  c c c c     a column = its channels,
//      lines[1]  -> c c c c  c c c c  c c c c  c c c c  c c c c  c c c c     pitches[i] apart
//      lines[2]  -> c c c c  ...
//      lines[3]  -> c c c c  ...                                   3x3, stride 1: these 4 x 6 columns
//                       \______ output rows 0 and 1, columns 0..3  give 2 x 4 outputs
//
// A line of padding is any `channels` zeros with pitch 0. Columns of padding must be there, as zeros:
// whoever calls clips the columns or copies the source into a padded strip. Every output sums its
// taps row by row, column by column, whatever tile computes it: neighbours do not enter its bits.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct DepthwiseTile {
    const T* const* lines = nullptr;  // output row t and kernel row a read lines[t * step + a]
    const std::int64_t* pitches = nullptr;
    std::int64_t taps_h = 0, taps_w = 0;
    std::int64_t step = 1;      // source columns (and lines) from one output to the next
    std::int64_t tap_step = 1;  // source columns from one tap to the next
    const T* weights = nullptr;  // (vector of channels, tap, lane)
    std::int64_t channels = 0;
    std::int64_t columns = 0;  // outputs in a row

    T* out[2] = {};  // output row t, column j, channel c at out[t][j * out_pitch + c]
    std::int64_t out_pitch = 0;
    const T* bias = nullptr;  // (channels) or null
    const T* residual[2] = {};
    std::int64_t residual_pitch = 0;
    bool relu = false;
};

/// sum[v][a][b][lane] += sum over rows p and columns q of
///                       grad[p][q][c] * source[p * step + a * tap_step_h][q * step + b * tap_step_w][c]
/// Source and gradient hold all columns and lines asked for; rows * columns is one accumulator's sum.
template <class T>
struct DepthwiseGradTile {
    const T* source = nullptr;
    std::int64_t source_line = 0, source_pitch = 0;  // elements between lines, between columns
    const T* grad = nullptr;
    std::int64_t grad_line = 0, grad_pitch = 0;
    std::int64_t rows = 0, columns = 0;
    std::int64_t step_h = 1, step_w = 1;
    std::int64_t tap_step_h = 1, tap_step_w = 1;
    std::int64_t taps_h = 0, taps_w = 0;
    std::int64_t channels = 0;
    T* sum = nullptr;  // (vector of channels, tap, lane)
};

template <class T>
using DepthwiseFunction = void (*)(const DepthwiseTile<T>&);
template <class T>
using DepthwiseGradFunction = void (*)(const DepthwiseGradTile<T>&);

template <class T>
struct DepthwiseKernels {
    int lanes;

    /// One output row; any kernel, step and tap_step. `lines` has one line a kernel row.
    DepthwiseFunction<T> any;
    /// Kernel 3, 5 or 7, step 1 or 2, one or two output rows (indices from 0); tap_step 1. Null where
    /// `any` is to be used.
    DepthwiseFunction<T> fixed[3][2][2];

    DepthwiseGradFunction<T> grad_any;
    DepthwiseGradFunction<T> grad_3x3;  // any step; tap steps 1
};

}  // namespace fastconv::cpu
