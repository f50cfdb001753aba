// A strip of an operand on its way to scratch and back.
//
//   kChannels  (row, column, channel): transposed by the copy tile where the tensor is C order
//   kWidth     (row, phase, column) of one channel: line w goes to phase w % split, place w / split
#pragma once

#include "core/pool_plan.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_pool.h"
#include "cpu/pool2d.h"

namespace fastconv::cpu {

/// Rows h and columns w of `channels` channels from `data` (channel 0 of the strip, row 0, column
/// 0).
template <class T>
struct Strip {
    T* data = nullptr;
    Extent h, w;
    std::int64_t channels = 1;
};

/// Where a strip's scratch would have row 0, column 0: its first column rounded down to a whole
/// split.
inline std::int64_t strip_origin(const PoolOperand& operand, const Extent& h, const Extent& w) {
    return h.lo * operand.row_elems + operand.column(w.lo / operand.split * operand.split);
}

template <class T>
struct StripKernels {
    void (*copy)(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to);
    void (*split)(std::int64_t count, const T* line, T* even, T* odd);
    void (*merge)(std::int64_t count, const T* even, const T* odd, T* line);
};

// Channels: one copy a row, or one for all rows where both sides run on evenly.
template <class T, class Copy>
void for_channel_lines(const PoolOperand& operand, const Strip<T>& strip, T* scratch, Copy copy) {
    const Strides& x = operand.strides;
    const std::int64_t width = strip.w.size();
    T* data = strip.data + strip.h.lo * x.height_elems + strip.w.lo * x.width_elems;
    const bool even =
        x.height_elems == width * x.width_elems && operand.row_elems == width * operand.col_elems;
    const std::int64_t lines = even ? 1 : strip.h.size();
    const std::int64_t points = even ? width * strip.h.size() : width;
    for (std::int64_t i = 0; i < lines; ++i)
        copy(points, strip.channels,
             MatrixView<T>{data + i * x.height_elems, x.width_elems, x.channel_elems},
             MatrixView<T>{scratch + i * operand.row_elems, operand.col_elems, 1});
}

template <class T, class Copy, class Pair>
void for_width_lines(const PoolOperand& operand, const Strip<T>& strip, T* scratch, Copy copy,
                     Pair pair) {
    const Strides& x = operand.strides;
    const std::int64_t split = operand.split;
    const std::int64_t first = strip.w.lo / split * split;
    for (std::int64_t h = strip.h.lo; h < strip.h.hi; ++h, scratch += operand.row_elems) {
        T* line = strip.data + h * x.height_elems;
        if (split == 2 && x.width_elems == 1 && first == strip.w.lo) {
            pair(strip.w.size(), line + first, scratch, scratch + operand.phase_elems);
            continue;
        }
        for (std::int64_t phase = 0; phase < split; ++phase) {
            std::int64_t w = first + phase;
            T* place = scratch + phase * operand.phase_elems;
            for (; w < strip.w.lo; w += split) ++place;
            if (w >= strip.w.hi) continue;
            const std::int64_t count = (strip.w.hi - w + split - 1) / split;
            copy(1, count, MatrixView<T>{line + w * x.width_elems, 0, split * x.width_elems},
                 MatrixView<T>{place, 0, 1});
        }
    }
}

template <class T>
MatrixView<const T> constant(const MatrixView<T>& view) {
    return {view.data, view.row_elems, view.col_elems};
}

template <class T>
void load_strip(const StripKernels<T>& kernels, PoolLanes lanes, const PoolOperand& operand,
                const Strip<T>& strip, T* scratch) {
    if (strip.h.size() <= 0 || strip.w.size() <= 0) return;
    const auto copy = [&](std::int64_t rows, std::int64_t cols, MatrixView<T> tensor,
                          MatrixView<T> buffer) {
        kernels.copy(rows, cols, constant(tensor), buffer);
    };
    const auto split = [&](std::int64_t count, T* line, T* even, T* odd) {
        kernels.split(count, line, even, odd);
    };
    if (lanes == PoolLanes::kChannels) for_channel_lines(operand, strip, scratch, copy);
    else for_width_lines(operand, strip, scratch, copy, split);
}

template <class T>
void store_strip(const StripKernels<T>& kernels, PoolLanes lanes, const PoolOperand& operand,
                 const Strip<T>& strip, T* scratch) {
    if (strip.h.size() <= 0 || strip.w.size() <= 0) return;
    const auto copy = [&](std::int64_t rows, std::int64_t cols, MatrixView<T> tensor,
                          MatrixView<T> buffer) {
        kernels.copy(rows, cols, constant(buffer), tensor);
    };
    const auto merge = [&](std::int64_t count, T* line, T* even, T* odd) {
        kernels.merge(count, even, odd, line);
    };
    if (lanes == PoolLanes::kChannels) for_channel_lines(operand, strip, scratch, copy);
    else for_width_lines(operand, strip, scratch, copy, merge);
}

}  // namespace fastconv::cpu
