// From a thread's number to its place in an image: kernels that give each thread one small piece of
// an (N, C, H, W) array count the pieces in 32 bits, along the memory, and divide by multiplication.
//
//   channels inside:   item = ((n * row blocks + h / R) * cols + w) * R + h % R) * channels + c
//   channels outside:  item = ((n * channels + c) * rows + h) * cols + w
//
// R rows side by side (a power of two) let the threads of a block share the rows that overlapping
// windows have in common, in L1 instead of L2.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

#include "core/problem.h"
#include "cuda/divider.h"

namespace fastconv::cuda {

struct Place {
    int n, c, h, w;
};

/// Pieces of `batch` images: channels (or packs of them) by rows by cols (or tiles of them).
struct Walk {
    bool channels_inside = true;
    int rows_together = 0;  // log2 of R
    int rows = 0;
    std::uint32_t items = 0;
    Divider by_channels, by_rows, by_cols;

    Walk() = default;
    Walk(std::int64_t batch, std::int64_t channels, std::int64_t rows_, std::int64_t cols,
         bool inside, int together)
        : channels_inside(inside), rows_together(inside ? together : 0),
          rows(static_cast<int>(rows_)) {
        const std::int64_t block = std::int64_t{1} << rows_together;
        const std::int64_t blocks = (rows_ + block - 1) / block;
        items = static_cast<std::uint32_t>(batch * channels * blocks * block * cols);
        by_channels = Divider(channels);
        by_cols = Divider(cols);
        by_rows = Divider(inside ? blocks : rows_);
    }

    /// False: beyond the last row, or the last item.
    __device__ bool find(std::uint32_t item, Place& place) const {
        if (item >= items) return false;
        if (channels_inside) {
            std::uint32_t rest = by_channels.split(item);
            place.c = static_cast<int>(item);
            const std::uint32_t row = rest & ((1u << rows_together) - 1);
            rest >>= rows_together;
            std::uint32_t block = by_cols.split(rest);
            place.w = static_cast<int>(rest);
            place.n = static_cast<int>(by_rows.split(block));
            place.h = static_cast<int>((block << rows_together) + row);
            return place.h < rows;
        }
        std::uint32_t row = by_cols.split(item);
        place.w = static_cast<int>(item);
        std::uint32_t plane = by_rows.split(row);
        place.h = static_cast<int>(row);
        place.n = static_cast<int>(by_channels.split(plane));
        place.c = static_cast<int>(plane);
        return true;
    }
};

constexpr std::int64_t kMostItems = (std::int64_t{1} << 31) - 1024;  // of a Walk

/// Cuts a batch of images into parts of at most `most` items, or of one channel's, by images and,
/// where one has too many, by channels: run(first image, images, first channel, channels), no part
/// larger than the first. `items`: of one channel's plane.
template <class Run>
void for_parts(std::int64_t batch, std::int64_t channels, std::int64_t items, std::int64_t most,
               Run&& run) {
    if (batch == 0 || channels == 0 || items == 0) return;
    if (items > kMostItems)
        throw std::invalid_argument("cuda: a plane of an image has 2**31 elements");
    const std::int64_t wanted = most < items ? 1 : most / items;  // planes
    const std::int64_t some_channels = channels < wanted ? channels : wanted;
    const std::int64_t fit = wanted / some_channels;
    const std::int64_t some_images = batch < fit ? batch : fit;
    for (std::int64_t n = 0; n < batch; n += some_images)
        for (std::int64_t c = 0; c < channels; c += some_channels)
            run(n, batch - n < some_images ? batch - n : some_images, c,
                channels - c < some_channels ? channels - c : some_channels);
}
template <class Run>
void for_parts(std::int64_t batch, std::int64_t channels, std::int64_t items, Run&& run) {
    for_parts(batch, channels, items, kMostItems, static_cast<Run&&>(run));
}

/// Whether packs of `count` elements along the channels of an (N, C, height, width) operand, 16 bytes
/// each, start at multiples of 16 bytes.
inline bool packs_channels(const void* data, const Strides& strides, std::int64_t batch,
                           std::int64_t height, std::int64_t width, std::int64_t count) {
    const auto even = [count](std::int64_t size, std::int64_t elems) {
        return size <= 1 || elems % count == 0;
    };
    return strides.channel_elems == 1 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
           even(batch, strides.batch_elems) && even(height, strides.height_elems) &&
           even(width, strides.width_elems);
}

inline std::int64_t offset_of(const Strides& strides, std::int64_t n, std::int64_t c) {
    return n * strides.batch_elems + c * strides.channel_elems;
}

}  // namespace fastconv::cuda
