// Pooling's gradients: dx[n, c, h, w] gathers from the windows that hold (h, w), in row-major order.
//
//   max       dx = sum of dy[p, q] over windows whose index is h * W + w
//   average   dx = sum of dy[p, q] / divisor(p, q); divided once where all windows divide alike
//
// A thread has a tile of 2 x kCols elements, of 16 bytes of channels or of one: 3x3 windows two apart
// then are read 4 times for 4 elements instead of 9, those one apart 16 times instead of 36.
// kCols is 2 for packs; single elements lie along W, where pairs would break up the accesses.
#pragma once

#include "cuda/pool2d_forward.cuh"

namespace fastconv::cuda {

constexpr int kPoolRows = 2;
constexpr int pool_cols(int count) { return count > 1 ? 2 : 1; }

template <class T, int kCount>
struct GradientTile {
    static constexpr int kRows = kPoolRows, kCols = pool_cols(kCount);
    float sum[kRows][kCols][kCount] = {};

    /// Divided by `divisor` unless that is 0.
    __device__ void store(const PoolArguments& a, const Place& at, float divisor) const {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
            for (int j = 0; j < kCols; ++j) {
                if (at.h + i >= a.height.in || at.w + j >= a.width.in) continue;
                Pack<T, kCount> x;
#pragma unroll
                for (int k = 0; k < kCount; ++k)
                    x.value[k] = from_float<T>(divisor != 0 ? sum[i][j][k] / divisor : sum[i][j][k]);
                store_pack(static_cast<T*>(a.target) +
                               offset_of(a.target_strides, {at.n, at.c, at.h + i, at.w + j}, kCount),
                           x);
            }
        }
    }
};

/// The tile's place, from its number, and the windows that hold its elements.
__device__ inline bool find_tile(const PoolArguments& a, Place& at, Span& rows, Span& cols) {
    if (!a.walk.find(global_item(), at)) return false;
    const int width = a.packs ? pool_cols(2) : pool_cols(1);
    at.h *= kPoolRows;
    at.w *= width;
    rows = a.height.holders(at.h, at.h + kPoolRows - 1);
    cols = a.width.holders(at.w, at.w + width - 1);
    return true;
}

/// Indices of kCount channels; what is no place of the image becomes -1.
template <int kCount>
__device__ void load_places(const std::int64_t* from, int (&place)[kCount]) {
    const auto narrow = [](std::int64_t index) {
        return index >> 31 == 0 ? static_cast<int>(index) : -1;
    };
    if constexpr (kCount == 1) {
        place[0] = narrow(*from);
    } else {
#pragma unroll
        for (int k = 0; k < kCount; k += 2) {
            const auto two = *reinterpret_cast<const Pack<std::int64_t, 2>*>(from + k);
            place[k] = narrow(two.value[0]);
            place[k + 1] = narrow(two.value[1]);
        }
    }
}

template <class T, int kCount>
__device__ inline void max_backward_of(const PoolArguments& a, const Place& at, const Span& rows,
                                       const Span& cols) {
    using Tile = GradientTile<T, kCount>;
    const Strides &grads = a.source_strides, &places = a.index_strides;
    const Place corner{at.n, at.c, rows.first, cols.first};
    const T* grad_row = static_cast<const T*>(a.source) + offset_of(grads, corner, kCount);
    const std::int64_t* place_row = a.indices + offset_of(places, corner, kCount);
    const int first = at.h * a.width.in + at.w;
    // A column beyond the image is another row's first: it is summed for nothing and not stored.
    Tile tile;
    for (int r = 0; r < rows.count; ++r) {
#pragma unroll 2
        for (int s = 0; s < cols.count; ++s) {
            int place[kCount];
            load_places(place_row + s * places.width_elems, place);
            const Item<T, kCount> grad = load_item<kCount>(grad_row + s * grads.width_elems);
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                const float value = grad.at(k);
#pragma unroll
                for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
                    for (int j = 0; j < Tile::kCols; ++j)
                        if (place[k] == first + i * a.width.in + j) tile.sum[i][j][k] += value;
            }
        }
        grad_row += grads.height_elems;
        place_row += places.height_elems;
    }
    tile.store(a, at, 0);
}

__global__ void __launch_bounds__(kPoolThreads) max_backward_kernel(const PoolArguments a) {
    Place at;
    Span rows, cols;
    if (!find_tile(a, at, rows, cols)) return;
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        max_backward_of<typename decltype(tag)::type, decltype(count)::value>(a, at, rows, cols);
    });
}

template <class T, int kCount>
__device__ inline void average_backward_of(const PoolArguments& a, const Place& at,
                                           const Span& rows, const Span& cols) {
    using Tile = GradientTile<T, kCount>;
    const Strides& grads = a.source_strides;
    const T* grad_row = static_cast<const T*>(a.source) +
                        offset_of(grads, {at.n, at.c, rows.first, cols.first}, kCount);
    Tile tile;
    for (int r = 0; r < rows.count; ++r, grad_row += grads.height_elems) {
        const Span window_h = a.height.window(rows.first + r);
        for (int s = 0; s < cols.count; ++s) {
            const Span window_w = a.width.window(cols.first + s);
            const Item<T, kCount> grad = load_item<kCount>(grad_row + s * grads.width_elems);
            const float divisor = window_divisor(a, window_h, window_w);
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                const float own = grad.at(k);
                const float value = a.divisor != 0 ? own : own / divisor;
#pragma unroll
                for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
                    for (int j = 0; j < Tile::kCols; ++j) {
                        const bool held = static_cast<unsigned>(at.h + i - window_h.first) <
                                              static_cast<unsigned>(window_h.count) &&
                                          static_cast<unsigned>(at.w + j - window_w.first) <
                                              static_cast<unsigned>(window_w.count);
                        if (held) tile.sum[i][j][k] += value;
                    }
            }
        }
    }
    tile.store(a, at, a.divisor);
}

__global__ void __launch_bounds__(kPoolThreads) average_backward_kernel(const PoolArguments a) {
    Place at;
    Span rows, cols;
    if (!find_tile(a, at, rows, cols)) return;
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        average_backward_of<typename decltype(tag)::type, decltype(count)::value>(a, at, rows,
                                                                                  cols);
    });
}

}  // namespace fastconv::cuda
