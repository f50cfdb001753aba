// Partial sums of implicit-GEMM kernels, added in their order, into the result:
//
//   join      out[row, col] = relu(sum over s of partial[s, row, col] + bias[col] + residual[row, col])
//   store     weight[col, d] (+)= sum over s of partial[s, col, d], the weight of any strides
//
// Floor: 4 bytes read an element and split, each result written once.
#include "cuda/conv2d_pack.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kJoinThreads = 256;
constexpr int kFewSplits = 8;  // beyond them a block's warps share the splits of 32 results

/// The sum of `count` neighbours of all splits, valid in threads of threadIdx.y == 0. With kWarps 8
/// each warp adds every eighth split, and the first warp adds those sums in order.
template <int kCount, int kWarps>
__device__ void sum_of_splits(const float* partial, std::int64_t split_elems, int splits, bool valid,
                              float (&sum)[kCount]) {
    for (int v = 0; v < kCount; ++v) sum[v] = 0;
    if (valid)
#pragma unroll 4
        for (int s = threadIdx.y; s < splits; s += kWarps) {
            const auto part = *reinterpret_cast<const Pack<float, kCount>*>(partial + s * split_elems);
            for (int v = 0; v < kCount; ++v) sum[v] += part.value[v];
        }
    if (kWarps == 1) return;
    constexpr int kLanes = kJoinThreads / kWarps;
    auto* shares = reinterpret_cast<float*>(ptx::shared_memory());  // (warps, kCount, lanes)
    for (int v = 0; v < kCount; ++v)
        shares[(threadIdx.y * kCount + v) * kLanes + threadIdx.x] = sum[v];
    __syncthreads();
    if (threadIdx.y == 0)
        for (int v = 0; v < kCount; ++v)
            for (int w = 1; w < kWarps && w < splits; ++w)
                sum[v] += shares[(w * kCount + v) * kLanes + threadIdx.x];
    __syncthreads();  // before the next round writes shares again
}

/// kCount neighbouring cols a thread; with kCount 4 they lie side by side in out and residual.
template <class T, int kCount, int kWarps>
__global__ void join_correlation(const CorrelationLaunch launched) {
    const CorrelationArguments p = launched.phase(static_cast<int>(blockIdx.y));
    constexpr int kLanes = kJoinThreads / kWarps;
    const int chunks = (p.cols + kCount - 1) / kCount;
    const std::int64_t items = static_cast<std::int64_t>(p.groups) * p.rows * chunks;
    const std::int64_t split_elems = static_cast<std::int64_t>(p.groups) * p.rows * p.cols;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kLanes;
    for (std::int64_t first = blockIdx.x * std::int64_t{kLanes}; first < items; first += step) {
        const std::int64_t item = first + threadIdx.x;
        const std::int64_t line = item / chunks;  // (group, row)
        const int col = static_cast<int>(item - line * chunks) * kCount;
        float sum[kCount];
        sum_of_splits<kCount, kWarps>(p.partial + line * p.cols + col, split_elems, p.splits,
                                      item < items, sum);
        if (item >= items || threadIdx.y != 0) continue;
        const int group = static_cast<int>(line / p.rows), row = static_cast<int>(line % p.rows);
        const int n = row / (p.out_h * p.out_w), ij = row % (p.out_h * p.out_w);
        const int i = ij / p.out_w, j = ij % p.out_w;
        const auto offset_in = [&](const Strides& s, std::int64_t group_elems) {
            return group * group_elems + n * s.batch_elems + i * s.height_elems +
                   j * s.width_elems + col * s.channel_elems;
        };
        if (p.bias)
            for (int v = 0; v < kCount; ++v)
                sum[v] += to_float(static_cast<const T*>(p.bias)[group * p.cols + col + v]);
        if (p.residual) {
            const T* residual = static_cast<const T*>(p.residual) +
                                offset_in(p.residual_strides, p.residual_group_elems);
            for (int v = 0; v < kCount; ++v)
                sum[v] += to_float(residual[v * p.residual_strides.channel_elems]);
        }
        T* out = static_cast<T*>(p.out) + offset_in(p.out_strides, p.out_group_elems);
        Pack<T, kCount> pack;
        for (int v = 0; v < kCount; ++v)
            pack.value[v] = from_float<T>(p.relu && sum[v] <= 0 ? 0.0f : sum[v]);
        store_pack(out, pack);
    }
}

struct StoreArguments {
    const float* partial;
    void* weight;
    int splits, cols, channels, taps, taps_w;
    std::int64_t elements;
    std::int64_t group_elems;
    Strides strides;
    bool accumulate;
};

/// The weight lies as the partial sums do, or is the first of them: kCount neighbours a thread.
template <class T, int kCount, int kWarps>
__global__ void store_in_order(StoreArguments p) {
    constexpr int kLanes = kJoinThreads / kWarps;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kLanes * kCount;
    for (std::int64_t first = blockIdx.x * std::int64_t{kLanes * kCount}; first < p.elements;
         first += step) {
        const std::int64_t e = first + threadIdx.x * kCount;
        float sum[kCount];
        sum_of_splits<kCount, kWarps>(p.partial + e, p.elements, p.splits, e < p.elements, sum);
        if (e >= p.elements || threadIdx.y != 0) continue;
        T* to = static_cast<T*>(p.weight) + e;
        if (p.accumulate) {
            const auto before = *reinterpret_cast<const Pack<T, kCount>*>(to);
            for (int v = 0; v < kCount; ++v) sum[v] += to_float(before.value[v]);
        }
        Pack<T, kCount> pack;
        for (int v = 0; v < kCount; ++v) pack.value[v] = from_float<T>(sum[v]);
        store_pack(to, pack);
    }
}

constexpr int kStoreChannels = 32;

/// A weight of any strides. A block has 32 channels and all taps of one filter: read along channels,
/// turned in shared memory, written along taps, which is contiguous in C order.
template <class T>
__global__ void store_by_taps(StoreArguments p) {
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
        sum_of_splits<1, 1>(p.partial + base + tap * p.channels + c, p.elements, p.splits, true, sum);
        tile[c * pitch + tap] = sum[0];
    }
    __syncthreads();
    T* weight = static_cast<T*>(p.weight) + line / p.cols * p.group_elems +
                line % p.cols * p.strides.batch_elems;
    for (int i = threadIdx.x; i < p.taps * count; i += kJoinThreads) {
        const int c = i / p.taps, tap = i % p.taps;
        T* to = weight + (channel0 + c) * p.strides.channel_elems +
                tap / p.taps_w * p.strides.height_elems + tap % p.taps_w * p.strides.width_elems;
        float value = tile[c * pitch + tap];
        if (p.accumulate) value += to_float(*to);
        *to = from_float<T>(value);
    }
}

/// One launch of store_in_order.
template <class T, int kCount>
void launch_store(const StoreArguments& p, Stream stream) {
    const std::int64_t items = (p.elements + kCount - 1) / kCount;
    if (p.splits <= kFewSplits) {
        launch<store_in_order<T, kCount, 1>>({dim3(blocks_for(items, kJoinThreads, 16)),
                                              dim3(kJoinThreads)}, stream, p);
    } else {
        launch<store_in_order<T, kCount, 8>>({dim3(blocks_for(items, kJoinThreads / 8, 16)),
                                              dim3(kJoinThreads / 8, 8),
                                              kJoinThreads * kCount * sizeof(float)}, stream, p);
    }
}

template <class T, int kCount>
void launch_join(const CorrelationLaunch& phases, Stream stream) {
    const CorrelationArguments& p = phases.first;
    const std::int64_t items = static_cast<std::int64_t>(p.groups) * phases.most_rows() *
                               ((p.cols + kCount - 1) / kCount);
    const auto y = static_cast<unsigned>(phases.phases);
    if (phases.most_splits() <= kFewSplits) {
        launch<join_correlation<T, kCount, 1>>({dim3(blocks_for(items, kJoinThreads, 16), y),
                                                dim3(kJoinThreads)}, stream, phases);
    } else {
        launch<join_correlation<T, kCount, 8>>({dim3(blocks_for(items, kJoinThreads / 8, 16), y),
                                                dim3(kJoinThreads / 8, 8),
                                                kJoinThreads * kCount * sizeof(float)}, stream,
                                               phases);
    }
}

bool multiple_of_4(const Strides& s) {
    return s.channel_elems == 1 && s.batch_elems % 4 == 0 && s.height_elems % 4 == 0 &&
           s.width_elems % 4 == 0;
}

bool aligned_for_4(const void* pointer, std::int64_t element_bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % (4 * element_bytes) == 0;
}

}  // namespace

void join_correlation_splits(const CorrelationLaunch& phases, DType dtype, Stream stream) {
    const bool single = phases.store([&](const CorrelationArguments& p) {
        return !(p.cols % 4 == 0 && multiple_of_4(p.out_strides) && p.out_group_elems % 4 == 0 &&
                 aligned_for_4(p.out, element_bytes_of(dtype)) && aligned_for_4(p.partial, 4));
    });
    with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (single) launch_join<T, 1>(phases, stream);
        else launch_join<T, 4>(phases, stream);
    });
}

void store_grad_weight_splits(const Correlation& view, const Strides& weight, int splits,
                              float* partial, DType dtype, bool accumulate, void* out,
                              Stream stream) {
    StoreArguments p{};
    p.partial = partial;
    p.weight = out;
    p.splits = splits;
    p.cols = static_cast<int>(view.cols);
    p.channels = static_cast<int>(view.channels);
    p.taps = static_cast<int>(view.taps_h.count * view.taps_w.count);
    p.taps_w = static_cast<int>(view.taps_w.count);
    const std::int64_t depth = static_cast<std::int64_t>(p.taps) * p.channels;
    p.elements = view.groups * view.cols * depth;
    p.group_elems = view.cols * weight.batch_elems;
    p.strides = weight;
    p.accumulate = accumulate;
    const bool same = lies_in_order(view, weight);
    const bool four = p.elements % 4 == 0 && aligned_for_4(partial, 4);
    if (!same && splits > kFewSplits) {  // into the first of them, so that few reads remain
        StoreArguments sum = p;
        sum.weight = partial;
        sum.accumulate = false;
        if (four) launch_store<float, 4>(sum, stream);
        else launch_store<float, 1>(sum, stream);
        p.splits = 1;
    }
    with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (same && four && aligned_for_4(out, element_bytes_of(dtype))) {
            launch_store<T, 4>(p, stream);
        } else if (same) {
            launch_store<T, 1>(p, stream);
        } else {
            const std::int64_t blocks = view.groups * view.cols *
                                        ((view.channels + kStoreChannels - 1) / kStoreChannels);
            launch<store_by_taps<T>>({dim3(static_cast<unsigned>(blocks)), dim3(kJoinThreads),
                                      kStoreChannels * sizeof(float) *
                                          static_cast<std::size_t>(p.taps | 1)}, stream, p);
        }
    });
}

}  // namespace fastconv::cuda
