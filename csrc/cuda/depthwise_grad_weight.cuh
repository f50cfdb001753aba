// Depthwise convolution's grad_weight (cuda/conv2d_depthwise.cu), in two stages and a fixed order:
//
//   weight_kernel      partial[slice, tap, k] = sum over the slice's positions, a tree over threads
//   add_slices_kernel  dw[k, tap] (+)= sum over slices
#pragma once

#include "cuda/depthwise.cuh"
#include "cuda/items.cuh"

namespace fastconv::cuda {

constexpr int kSubSlices = 8;  // threads that share a sum of slices

/// Shared memory: (group of positions, lane, channel) floats.
template <class T, int kCount, int kRows, int kCols>
__device__ inline void weight_of(const DepthwiseArguments& a, const DepthwiseThread& thread) {
    // The first of this block's taps.
    const int group_cols = a.width.kernel / kCols;
    const int r0 = static_cast<int>(blockIdx.y) / group_cols * kRows;
    const int s0 = static_cast<int>(blockIdx.y) % group_cols * kCols;
    float sum[kRows][kCols][kCount] = {};
    if (thread.valid) {
        const Strides &grads = a.out_strides, &strides = a.source_strides;
        const T* const grad = static_cast<const T*>(a.out) +
                              std::int64_t{thread.channel} * kCount * grads.channel_elems;
        const T* const source =
            static_cast<const T*>(a.source) +
            std::int64_t{thread.channel / a.multiplier} * kCount * strides.channel_elems;
        const std::uint32_t first = thread.block * a.positions_each;
        const std::uint32_t end = std::min(a.positions, first + a.positions_each);
        for (std::uint32_t position = first + thread.group; position < end;
             position += thread.groups) {
            const Place at = position_of(a, position);
            const auto dy = load_item<kCount>(grad + at.n * grads.batch_elems +
                                                  at.h * grads.height_elems +
                                                  at.w * grads.width_elems,
                                              true);
            const int h = at.h * a.height.stride - a.height.pad + r0 * a.height.dilation;
            const int w = at.w * a.width.stride - a.width.pad + s0 * a.width.dilation;
            const T* const image = source + at.n * strides.batch_elems;
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                Item<T, kCount> value[kCols];
#pragma unroll
                for (int s = 0; s < kCols; ++s) {
                    const int y = h + r * a.height.dilation, x = w + s * a.width.dilation;
                    const bool inside = within(y, a.height.source) && within(x, a.width.source);
                    value[s] = load_item<kCount>(
                        image + y * strides.height_elems + x * strides.width_elems, inside);
                }
#pragma unroll
                for (int s = 0; s < kCols; ++s)
#pragma unroll
                    for (int i = 0; i < kCount; ++i)
                        sum[r][s][i] = fmaf(dy.at(i), value[s].at(i), sum[r][s][i]);
            }
        }
    }
    float* const shared = reinterpret_cast<float*>(ptx::shared_memory());
    const int pitch = a.lanes * kCount;
    float* const own = shared + thread.group * pitch + thread.lane * kCount;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int s = 0; s < kCols; ++s) {
#pragma unroll
            for (int i = 0; i < kCount; ++i) own[i] = sum[r][s][i];
            for (int half = thread.groups / 2; half > 0; half /= 2) {
                __syncthreads();
                if (thread.group < half)
#pragma unroll
                    for (int i = 0; i < kCount; ++i) own[i] += own[half * pitch + i];
            }
            if (thread.group == 0 && thread.valid) {
                const std::int64_t tap =
                    std::int64_t{thread.block} * a.height.kernel * a.width.kernel +
                    (r0 + r) * a.width.kernel + s0 + s;
                float* const to =
                    a.partial + (tap * a.channels + thread.channel) * kCount;
#pragma unroll
                for (int i = 0; i < kCount; ++i) to[i] = own[i];
            }
            __syncthreads();  // before the next tap overwrites what is being read
        }
}

/// Rows by columns of taps at once; single elements have one, and are not launched with more.
template <int kRows, int kCols>
__global__ void __launch_bounds__(kDepthwiseThreads, 2) weight_kernel(const DepthwiseArguments a) {
    const DepthwiseThread thread(a);
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        constexpr int kCount = decltype(count)::value;
        if constexpr (kRows * kCols == 1 || kCount > 1)
            weight_of<typename decltype(tag)::type, kCount, kRows, kCols>(a, thread);
    });
}

struct SlicesArguments {
    const float* partial = nullptr;  // (slices, taps, filters)
    Operand weight;
    Strides strides;
    int slices = 1, filters = 0, taps = 1, width = 1;
    bool accumulate = false;
};

__global__ void __launch_bounds__(32 * kSubSlices) add_slices_kernel(const SlicesArguments a) {
    const int lane = threadIdx.x % 32, sub = threadIdx.x / 32;
    const std::int64_t result = std::int64_t{blockIdx.x} * 32 + lane;  // tap * filters + k
    const std::int64_t results = std::int64_t{a.taps} * a.filters;
    float sum = 0;
    if (result < results)
        for (int slice = sub; slice < a.slices; slice += kSubSlices)
            sum += a.partial[slice * results + result];
    float* const sums = reinterpret_cast<float*>(ptx::shared_memory());
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (sub != 0 || result >= results) return;
    for (int i = 1; i < kSubSlices; ++i) sum += sums[i * 32 + lane];
    const std::int64_t tap = result / a.filters, k = result % a.filters;
    const std::int64_t to = k * a.strides.batch_elems + tap / a.width * a.strides.height_elems +
                            tap % a.width * a.strides.width_elems;
    store_element(a.weight, to, a.accumulate ? load_element(a.weight, to) + sum : sum);
}

}  // namespace fastconv::cuda
