// What the directions of im2col share: gathering a line of the matrix, a block of rows through the
// register tiles, and how depth is cut.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/problem.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

/// Terms one accumulator takes at most.
constexpr std::int64_t kDepthBlock = 512;

/// The size of a block when `whole` is cut evenly into as few blocks of at most `most` as there must
/// be; at least 1.
inline std::int64_t even_block(std::int64_t whole, std::int64_t most) {
    const std::int64_t blocks = std::max<std::int64_t>(1, (whole + most - 1) / most);
    return std::max<std::int64_t>(1, (whole + blocks - 1) / blocks);
}

/// One image of an operand, its first channel of interest at `data`.
template <class T>
struct ImageView {
    const T* data;
    const Strides* strides;
    std::int64_t height, width;
};

/// to[j * to_pitch + c] = image(y, x + j * step, c) for j < count and c < channels; zero outside.
template <class T>
void gather_line(const CopyKernels<T>& kernels, const ImageView<T>& image, std::int64_t y,
                 std::int64_t x, std::int64_t step, std::int64_t count, std::int64_t channels, T* to,
                 std::int64_t to_pitch) {
    // Positions [begin, end) lie inside.
    std::int64_t begin = 0, end = 0;
    if (y >= 0 && y < image.height) {
        begin = std::clamp<std::int64_t>(x < 0 ? (-x + step - 1) / step : 0, 0, count);
        end = std::clamp<std::int64_t>(x < image.width ? (image.width - x + step - 1) / step : 0,
                                       begin, count);
    }
    for (std::int64_t j = 0; j < begin; ++j) std::fill_n(to + j * to_pitch, channels, T(0));
    for (std::int64_t j = end; j < count; ++j) std::fill_n(to + j * to_pitch, channels, T(0));
    if (begin == end) return;
    kernels.copy(end - begin, channels,
                 {image.data + y * image.strides->height_elems +
                      (x + begin * step) * image.strides->width_elems,
                  step * image.strides->width_elems, image.strides->channel_elems},
                 {to + begin * to_pitch, to_pitch, 1});
}

/// `rows` rows of one panel in tiles of nearly equal heights; `tile` has all but the rows' pointers.
template <class T>
void run_tiles(const GemmKernels<T>& gemm, GemmTile<T> tile, std::int64_t rows, std::int64_t width,
               const T* const* pointers, T* sums, T* const* out, const T* const* residual) {
    const int vectors = static_cast<int>(width / gemm.lanes);
    const std::int64_t tiles = (rows + gemm.max_rows[vectors] - 1) / gemm.max_rows[vectors];
    tile.row_pitch = rows;
    for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
        const std::int64_t next = rows * (t + 1) / tiles;
        tile.rows = pointers + row;
        tile.sum = sums + row * width;
        tile.out = out + row;
        tile.residual = residual ? residual + row : nullptr;
        gemm.tile[vectors][next - row](tile);
        row = next;
    }
}

}  // namespace fastconv::cpu
