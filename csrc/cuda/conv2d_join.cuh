// Partial sums of implicit-GEMM kernels, added in their order, into the result:
//
//   join      out[row, col] = relu(sum over s of partial[s, row, col] + bias[col] + residual[row, col])
//   store     weight[col, d] (+)= sum over s of partial[s, col, d], the weight of any strides
//
// Floor: 4 bytes read an element and split, each result written once.
#pragma once

#include "cuda/conv2d_pack.h"
#include "cuda/items.cuh"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kJoinThreads = 256;

/// The sum of kCount neighbours of all splits, valid in threads of threadIdx.y == 0. Of several warps
/// (blockDim.y, of blockDim.x lanes) each adds the splits that many apart, and the first one adds
/// those sums in order.
template <int kCount>
__device__ void sum_of_splits(const float* partial, std::int64_t split_elems, int splits, bool valid,
                              float (&sum)[kCount]) {
    const int warps = static_cast<int>(blockDim.y), lanes = static_cast<int>(blockDim.x);
    for (int v = 0; v < kCount; ++v) sum[v] = 0;
    if (valid)
#pragma unroll 4
        for (int s = threadIdx.y; s < splits; s += warps) {
            const auto part = *reinterpret_cast<const Pack<float, kCount>*>(partial + s * split_elems);
            for (int v = 0; v < kCount; ++v) sum[v] += part.value[v];
        }
    if (warps == 1) return;
    auto* shares = reinterpret_cast<float*>(ptx::shared_memory());  // (warps, kCount, lanes)
    for (int v = 0; v < kCount; ++v)
        shares[(threadIdx.y * kCount + v) * lanes + threadIdx.x] = sum[v];
    __syncthreads();
    if (threadIdx.y == 0)
        for (int v = 0; v < kCount; ++v)
            for (int w = 1; w < warps && w < splits; ++w)
                sum[v] += shares[(w * kCount + v) * lanes + threadIdx.x];
    __syncthreads();  // before the next round writes shares again
}

/// sum += kCount elements of `from`, `step` apart from `at` on, all loaded before the first is added.
template <int kCount>
__device__ inline void add_elements(float (&sum)[kCount], const Operand& from, std::int64_t at,
                                    std::int64_t step) {
    with_stored_type(from.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const T* const elements = static_cast<const T*>(from.data) + at;
        T element[kCount];
        for (int v = 0; v < kCount; ++v) element[v] = elements[v * step];
        for (int v = 0; v < kCount; ++v) sum[v] += to_float(element[v]);
    });
}

/// kCount neighbouring cols a thread; with kCount 4 they lie side by side in out and residual.
template <int kCount>
__device__ inline void join_correlation_of(const CorrelationArguments& p,
                                           const CorrelationPhase& phase, DType dtype) {
    const int chunks = (p.cols + kCount - 1) / kCount;
    const std::int64_t items = static_cast<std::int64_t>(p.groups) * phase.rows * chunks;
    const std::int64_t split_elems = static_cast<std::int64_t>(p.groups) * phase.rows * p.cols;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x; first < items;
         first += step) {
        const std::int64_t item = first + threadIdx.x;
        const std::int64_t line = item / chunks;  // (group, row)
        const int col = static_cast<int>(item - line * chunks) * kCount;
        float sum[kCount];
        sum_of_splits(phase.partial + line * p.cols + col, split_elems, phase.splits,
                      item < items, sum);
        if (item >= items || threadIdx.y != 0) continue;
        const int group = static_cast<int>(line / phase.rows);
        const int row = static_cast<int>(line % phase.rows), pixels = phase.out_h * phase.out_w;
        const int n = row / pixels, ij = row % pixels;
        const int i = ij / phase.out_w, j = ij % phase.out_w;
        const auto offset_in = [&](const Strides& s, std::int64_t group_elems) {
            return group * group_elems + n * s.batch_elems + i * s.height_elems +
                   j * s.width_elems + col * s.channel_elems;
        };
        if (p.bias) add_elements(sum, {const_cast<void*>(p.bias), dtype}, std::int64_t{group} * p.cols + col, 1);
        if (p.residual)
            add_elements(sum, {const_cast<void*>(p.residual), dtype},
                         offset_in(p.residual_strides, p.residual_group_elems),
                         p.residual_strides.channel_elems);
        for (int v = 0; v < kCount; ++v) sum[v] = p.relu && sum[v] <= 0 ? 0.0f : sum[v];
        store_neighbours({phase.out, dtype}, offset_in(p.out_strides, p.out_group_elems), sum);
    }
}

/// `four`: four cols a thread, else one.
__global__ void __launch_bounds__(kJoinThreads)
    join_correlation(const CorrelationLaunch launched, DType dtype, bool four) {
    // What phases share stays where arguments are: a copy would take registers.
    CorrelationPhase phase = launched.first;
    if (blockIdx.y > 0) phase = launched.further[blockIdx.y - 1];
    if (four) return join_correlation_of<4>(launched.first, phase, dtype);
    join_correlation_of<1>(launched.first, phase, dtype);
}

struct StoreArguments {
    const float* partial;
    Operand weight;
    int splits, cols, channels, taps, taps_w;
    std::int64_t elements;
    std::int64_t group_elems;
    Strides strides;
    bool accumulate;
};

/// The weight lies as the partial sums do, or is the first of them: kCount neighbours a thread.
template <int kCount>
__device__ inline void store_in_order_of(const StoreArguments& p) {
    const std::int64_t tile = std::int64_t{blockDim.x} * kCount;
    for (std::int64_t first = blockIdx.x * tile; first < p.elements; first += gridDim.x * tile) {
        const std::int64_t e = first + threadIdx.x * kCount;
        float sum[kCount];
        sum_of_splits(p.partial + e, p.elements, p.splits, e < p.elements, sum);
        if (e >= p.elements || threadIdx.y != 0) continue;
        if (p.accumulate) add_elements(sum, p.weight, e, 1);
        store_neighbours(p.weight, e, sum);
    }
}

__global__ void __launch_bounds__(kJoinThreads) store_in_order(const StoreArguments p, bool four) {
    if (four) return store_in_order_of<4>(p);
    store_in_order_of<1>(p);
}


/// A weight of any strides. A block has 32 channels and all taps of one filter: read along channels,
/// turned in shared memory, written along taps, which is contiguous in C order.
__global__ void __launch_bounds__(kJoinThreads) store_by_taps(const StoreArguments p) {
    auto* tile = reinterpret_cast<float*>(ptx::shared_memory());  // (kStoreChannels, pitch)
    const int pitch = p.taps | 1;  // odd: the banks of 32 channels differ
    const int chunks = (p.channels + kStoreChannels - 1) / kStoreChannels;
    const int channel0 = static_cast<int>(blockIdx.x) % chunks * kStoreChannels;
    const int line = static_cast<int>(blockIdx.x) / chunks;  // (group, col)
    const int count = p.channels - channel0 < kStoreChannels ? p.channels - channel0 : kStoreChannels;
    const std::int64_t base = static_cast<std::int64_t>(line) * p.taps * p.channels + channel0;
    for (int i = threadIdx.x; i < p.taps * kStoreChannels; i += kJoinThreads) {
        const int tap = i / kStoreChannels, c = i % kStoreChannels;
        if (c >= count) continue;
        float sum[1];
        sum_of_splits(p.partial + base + tap * p.channels + c, p.elements, p.splits, true, sum);
        tile[c * pitch + tap] = sum[0];
    }
    __syncthreads();
    const std::int64_t filter =
        line / p.cols * p.group_elems + line % p.cols * p.strides.batch_elems;
    for (int i = threadIdx.x; i < p.taps * count; i += kJoinThreads) {
        const int c = i / p.taps, tap = i % p.taps;
        const std::int64_t to = filter + (channel0 + c) * p.strides.channel_elems +
                                tap / p.taps_w * p.strides.height_elems +
                                tap % p.taps_w * p.strides.width_elems;
        float value = tile[c * pitch + tap];
        if (p.accumulate) value += load_element(p.weight, to);
        store_element(p.weight, to, value);
    }
}

}  // namespace
}  // namespace fastconv::cuda
