// Pooling forward: y[n, c, p, q] = max, or sum / divisor, of x's window at (p, q). A thread has one
// output pixel of 16 bytes of channels, or one element; any strides.
//
//   max_kernel      kWindow > 0: square windows without dilation, all taps loaded at once
//   average_kernel  one thread a window
//   reduce_kernel   averages of large windows: `slices` threads share one, tap by tap, and add up in
//                   a fixed order; slices follow from the image alone
//
// NaN is kept, the first of equal maxima wins, padding never does.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda/items.cuh"
#include "cuda/pool2d_windows.cuh"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {

constexpr int kPoolThreads = 256;

/// Operands of a direction, as in PoolPlan: `source` is read, `target` written, indices with one of
/// them. `walk` goes over the target.
struct PoolArguments {
    const void* source = nullptr;
    void* target = nullptr;
    std::int64_t* indices = nullptr;
    DType dtype = DType::kFloat32;
    bool packs = false;  // of 16 bytes of channels; else single elements
    Strides source_strides, target_strides, index_strides;
    PoolAxis height, width;
    Walk walk;
    float divisor = 0;  // of every window; 0: the window's own
    int lanes = 1;             // reduce_kernel: outputs a block
    bool slices_inside = false;  // reduce_kernel: neighbouring threads share a window
};

__device__ inline std::int64_t offset_of(const Strides& strides, const Place& at, int channels) {
    return at.n * strides.batch_elems + std::int64_t{at.c} * channels * strides.channel_elems +
           at.h * strides.height_elems + at.w * strides.width_elems;
}

__device__ inline std::uint32_t global_item() { return blockIdx.x * blockDim.x + threadIdx.x; }

template <int kCount, class T>
__device__ Item<T, kCount> load_item(const T* from) {
    return *reinterpret_cast<const Item<T, kCount>*>(from);
}

/// take(elements, r, s) for taps first, first + step, ... < end of a window `cols` wide, tap
/// r * cols + s, four of them loaded at a time.
template <int kCount, class T, class Take>
__device__ void for_taps(const T* window, int cols, int end, int step, int first,
                         std::int64_t row_elems, std::int64_t col_elems, Take take) {
    constexpr int kAtOnce = 4;
    if (first >= end) return;
    const int step_r = step == 1 ? cols == 1 : step / cols;
    const int step_s = step == 1 ? cols != 1 : step % cols;
    int r = first == 0 ? 0 : first / cols, s = first == 0 ? 0 : first % cols;
    for (int tap = first; tap < end; tap += kAtOnce * step) {
        Item<T, kCount> x[kAtOnce];
        int rows[kAtOnce], columns[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            rows[i] = r;
            columns[i] = s;
            if (tap + i * step < end) x[i] = load_item<kCount>(window + r * row_elems + s * col_elems);
            r += step_r;
            s += step_s;
            if (s >= cols) {
                s -= cols;
                ++r;
            }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (tap + i * step < end) take(x[i], rows[i], columns[i]);
    }
}

template <class T, int kCount>
__device__ Item<T, kCount> lowest_item() {
    Pack<T, kCount> pack;
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.value[i] = from_float<T>(-INFINITY);
    Item<T, kCount> item;
    memcpy(item.word, &pack, sizeof pack);
    return item;
}

/// The maximum so far, in T itself: 16-bit elements two at a time.
template <class T, int kCount>
struct Maximum {
    Item<T, kCount> best = lowest_item<T, kCount>();

    __device__ void take(const Item<T, kCount>& x, int) {
        using Word = typename Item<T, kCount>::Word;
#pragma unroll
        for (int i = 0; i < Item<T, kCount>::kWords; ++i) {
            const std::uint32_t a = best.word[i], b = x.word[i];
            if constexpr (std::is_same_v<T, float>)
                best.word[i] =
                    __float_as_uint(ptx::max_nan(__uint_as_float(a), __uint_as_float(b)));
            else
                best.word[i] = static_cast<Word>(std::is_same_v<T, Half>
                                                     ? ptx::max_nan_f16x2(a, b)
                                                     : ptx::max_nan_bf16x2(a, b));
        }
    }
    __device__ Pack<T, kCount> value() const {
        Pack<T, kCount> pack;
        memcpy(&pack, best.word, sizeof pack);
        return pack;
    }
    __device__ void write_indices(std::int64_t*) const {}
};

/// The maximum and its place h * W + w in the image.
template <class T, int kCount>
struct PlacedMaximum {
    float best[kCount];
    int place[kCount];

    __device__ explicit PlacedMaximum(int first) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            best[i] = -INFINITY;
            place[i] = first;
        }
    }
    __device__ void take(const Item<T, kCount>& x, int at) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float value = x.at(i);
            const bool wins = !(value <= best[i]) && best[i] == best[i];
            best[i] = wins ? value : best[i];
            place[i] = wins ? at : place[i];
        }
    }
    __device__ Pack<T, kCount> value() const {
        Pack<T, kCount> pack;
#pragma unroll
        for (int i = 0; i < kCount; ++i) pack.value[i] = from_float<T>(best[i]);
        return pack;
    }
    __device__ void write_indices(std::int64_t* to) const {
        if constexpr (kCount == 1) {
            *to = place[0];
        } else {
#pragma unroll
            for (int i = 0; i < kCount; i += 2)
                store_pack(to + i, Pack<std::int64_t, 2>{{place[i], place[i + 1]}});
        }
    }
};

template <class T, int kCount, int kWindow, bool kIndices>
__device__ inline void max_of(const PoolArguments& a, const Place& at, const Span& rows,
                              const Span& cols) {
    const Strides& strides = a.source_strides;
    const T* image = static_cast<const T*>(a.source) + at.n * strides.batch_elems +
                     std::int64_t{at.c} * kCount * strides.channel_elems;
    using Best = std::conditional_t<kIndices, PlacedMaximum<T, kCount>, Maximum<T, kCount>>;
    Best best = [&] {
        if constexpr (!kIndices) return Best();
        else return Best(rows.count * cols.count > 0 ? rows.first * a.width.in + cols.first : -1);
    }();
    if constexpr (kWindow > 0) {
        const int h = a.height.start(at.h), w = a.width.start(at.w);
        Item<T, kCount> x[kWindow][kWindow];
        const T* row = image + h * strides.height_elems + w * strides.width_elems;
#pragma unroll
        for (int r = 0; r < kWindow; ++r, row += strides.height_elems) {
            const T* tap = row;
#pragma unroll
            for (int s = 0; s < kWindow; ++s, tap += strides.width_elems) {
                const bool inside = static_cast<unsigned>(h + r) < unsigned(a.height.in) &&
                                    static_cast<unsigned>(w + s) < unsigned(a.width.in);
                x[r][s] = inside ? load_item<kCount>(tap) : lowest_item<T, kCount>();
            }
        }
#pragma unroll
        for (int r = 0; r < kWindow; ++r)
#pragma unroll
            for (int s = 0; s < kWindow; ++s) best.take(x[r][s], (h + r) * a.width.in + w + s);
    } else {
        const int step_h = a.height.dilation, step_w = a.width.dilation;
        const int first = rows.first * a.width.in + cols.first, taps = rows.count * cols.count;
        for_taps<kCount>(image + rows.first * strides.height_elems +
                             cols.first * strides.width_elems,
                         cols.count, taps, 1, 0, step_h * strides.height_elems,
                         step_w * strides.width_elems,
                         [&](const Item<T, kCount>& x, int r, int s) {
                             best.take(x, first + r * step_h * a.width.in + s * step_w);
                         });
    }
    store_pack(static_cast<T*>(a.target) + offset_of(a.target_strides, at, kCount), best.value());
    if constexpr (kIndices)
        best.write_indices(a.indices + offset_of(a.index_strides, at, kCount));
}

/// kWindow: taps of a square window, all loaded at once; 0: any window. 2x2 needs none of its own: any
/// window's taps are loaded four at a time. Nor do single elements with indices, which are bound by
/// storing those, and are not launched with one.
template <int kWindow, bool kIndices>
__global__ void __launch_bounds__(kPoolThreads) max_kernel(const PoolArguments a) {
    Place at;
    if (!a.walk.find(global_item(), at)) return;
    const Span rows = a.height.window(at.h), cols = a.width.window(at.w);
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        using T = typename decltype(tag)::type;
        constexpr int kCount = decltype(count)::value;
        if constexpr (kWindow == 0 || !kIndices || kCount > 1)
            max_of<T, kCount, kWindow, kIndices>(a, at, rows, cols);
    });
}

__device__ inline float window_divisor(const PoolArguments& a, const Span& rows, const Span& cols) {
    return a.divisor != 0 ? a.divisor
                          : static_cast<float>(std::int64_t{rows.divisor} * cols.divisor);
}

template <class T, int kCount>
__device__ void add_item(float (&sum)[kCount], const Item<T, kCount>& x) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] += x.at(i);
}

template <class T, int kCount>
__device__ inline void average_of(const PoolArguments& a, const Place& at, const Span& rows,
                                  const Span& cols) {
    const Strides& strides = a.source_strides;
    const T* const window = static_cast<const T*>(a.source) +
                            offset_of(strides, {at.n, at.c, rows.first, cols.first}, kCount);
    float sum[kCount] = {};
    for_taps<kCount>(window, cols.count, rows.count * cols.count, 1, 0, strides.height_elems,
                     strides.width_elems,
                     [&](const Item<T, kCount>& x, int, int) { add_item(sum, x); });
    const float divisor = window_divisor(a, rows, cols);
    Pack<T, kCount> y;
#pragma unroll
    for (int i = 0; i < kCount; ++i) y.value[i] = from_float<T>(sum[i] / divisor);
    store_pack(static_cast<T*>(a.target) + offset_of(a.target_strides, at, kCount), y);
}

__global__ void __launch_bounds__(kPoolThreads) average_kernel(const PoolArguments a) {
    Place at;
    if (!a.walk.find(global_item(), at)) return;
    const Span rows = a.height.window(at.h), cols = a.width.window(at.w);
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        average_of<typename decltype(tag)::type, decltype(count)::value>(a, at, rows, cols);
    });
}

/// Shared memory: (slice, lane, channel) floats.
template <class T, int kCount>
__device__ inline void reduce_of(const PoolArguments& a) {
    constexpr int kBlock = 64;  // terms an accumulator takes before it is added to the total
    const int slices = kPoolThreads / a.lanes;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = a.slices_inside ? thread / slices : thread % a.lanes;
    const int slice = a.slices_inside ? thread % slices : thread / a.lanes;
    const std::uint32_t first = blockIdx.x * a.lanes;
    float total[kCount] = {};
    Place at;
    if (a.walk.find(first + lane, at)) {
        const Span rows = a.height.window(at.h), cols = a.width.window(at.w);
        const Strides& strides = a.source_strides;
        const T* window = static_cast<const T*>(a.source) +
                          offset_of(strides, {at.n, at.c, rows.first, cols.first}, kCount);
        const int taps = rows.count * cols.count;
        for (int begin = slice; begin < taps; begin += kBlock * slices) {
            float sum[kCount] = {};
            for_taps<kCount>(window, cols.count, std::min(taps, begin + kBlock * slices), slices,
                             begin, strides.height_elems, strides.width_elems,
                             [&](const Item<T, kCount>& x, int, int) { add_item(sum, x); });
#pragma unroll
            for (int i = 0; i < kCount; ++i) total[i] += sum[i];
        }
    }
    float* sums = reinterpret_cast<float*>(ptx::shared_memory());
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[(slice * a.lanes + lane) * kCount + i] = total[i];
    __syncthreads();
    if (thread >= a.lanes * kCount || !a.walk.find(first + thread / kCount, at)) return;
    float sum = 0;
    for (int i = 0; i < slices; ++i) sum += sums[i * a.lanes * kCount + thread];
    const float divisor = window_divisor(a, a.height.window(at.h), a.width.window(at.w));
    T* target = static_cast<T*>(a.target) + offset_of(a.target_strides, at, kCount);
    target[thread % kCount] = from_float<T>(sum / divisor);
}

__global__ void __launch_bounds__(kPoolThreads) reduce_kernel(const PoolArguments a) {
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        reduce_of<typename decltype(tag)::type, decltype(count)::value>(a);
    });
}

}  // namespace fastconv::cuda
