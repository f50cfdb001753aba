// Batch normalization's sums of each block's positions, per channel: of deviations and their squares
// forward, of g and g (x - mean) backward. Each thread in float32, threads joined in float64.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/reduce.cuh"

namespace fastconv::cuda {

/// A float32 array (C) of any stride; without one, the same value everywhere.
struct ChannelArray {
    float* data = nullptr;
    std::int64_t elems = 0;

    ChannelArray() = default;
    explicit ChannelArray(const Tensor* tensor) {
        if (tensor) *this = ChannelArray(*tensor);
    }
    explicit ChannelArray(const Tensor& tensor)
        : data(static_cast<float*>(tensor.data)), elems(tensor.elems[0]) {}
    __device__ float at(std::int64_t c, float otherwise) const {
        return data ? data[c * elems] : otherwise;
    }
    __device__ void set(std::int64_t c, float value) const {
        if (data) data[c * elems] = value;
    }
};

struct SumArguments {
    ChannelWalk walk;  // of x and, backward, grad
    Operand x, grad;   // no grad: forward
    ChannelArray mean;  // backward
    double* partial;    // (blocks, 2, C)
};

template <int kElems>
struct Sums {
    float shift[kElems], first[kElems], second[kElems];
    std::uint32_t count;
};

/// Item of channel place.channel at `position` of operand k.
__device__ inline std::int64_t offset_of(const ChannelWalk& walk, const ChannelPlace& place,
                                         const std::int64_t (&at)[3], int k) {
    return at[k] + std::int64_t{place.channel} * walk.channel_elems[k];
}

// Forward: the mean of the thread's first tile, as far as it exists; else the channels' means.
template <class T, bool kBackward>
__device__ inline void begin_sums(const SumArguments& arguments, const ChannelPlace& place,
                                  Sums<kItemElems<T>>& sums) {
    constexpr int kElems = kItemElems<T>;
    const ChannelWalk& walk = arguments.walk;
    typename Access<T>::Item x[kChannelLoads];
    if constexpr (!kBackward) {
        const std::uint32_t last = walk.positions.count - 1;
#pragma unroll
        for (int u = 0; u < kChannelLoads; ++u) {
            const std::uint32_t position = place.first + blockIdx.y * place.tile +
                                           static_cast<std::uint32_t>(u) * place.step;
            std::int64_t at[3];
            locate(walk.positions, position < last ? position : last, at);
            x[u] = Access<T>::load(arguments.x, offset_of(walk, place, at, 0));
        }
    }
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
        sums.first[i] = sums.second[i] = 0;
        if constexpr (kBackward) {
            const std::int64_t c = walk.columns ? std::int64_t{place.channel} * kElems + i
                                                : std::int64_t{place.channel};
            sums.shift[i] = arguments.mean.at(c, 0);
        } else {
            float total = 0;
#pragma unroll
            for (int u = 0; u < kChannelLoads; ++u) total += x[u].at(i);
            sums.shift[i] = total * (1.0f / kChannelLoads);
        }
    }
    sums.count = 0;
}

// Sums of deviations from `shift` and their squares, or of g and g (x - mean).
template <class T, bool kBackward>
__device__ inline Sums<kItemElems<T>> sums_of_thread(const SumArguments& arguments,
                                                     const ChannelPlace& place) {
    constexpr int kElems = kItemElems<T>;
    const ChannelWalk& walk = arguments.walk;
    Sums<kElems> sums;
    begin_sums<T, kBackward>(arguments, place, sums);
    for_positions(walk, place, false, [&](std::uint32_t position, auto loads) {
        constexpr int kLoads = decltype(loads)::value;
        [[maybe_unused]] typename Access<T>::Item x[kLoads], grad[kLoads];
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
            std::int64_t at[3];
            locate(walk.positions, position + static_cast<std::uint32_t>(u) * place.step, at);
            x[u] = Access<T>::load(arguments.x, offset_of(walk, place, at, 0));
            if constexpr (kBackward)
                grad[u] = Access<T>::load(arguments.grad, offset_of(walk, place, at, 1));
        }
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
#pragma unroll
            for (int i = 0; i < kElems; ++i) {
                const float d = x[u].at(i) - sums.shift[i];
                const float a = kBackward ? grad[u].at(i) : d;
                sums.first[i] += a;
                sums.second[i] = fmaf(a, d, sums.second[i]);
            }
        }
        sums.count += kLoads;
    });
    return sums;
}

// Forward: deviations from `shift` become deviations from `reference`, in float64.
template <int kElems>
__device__ inline void widen(const Sums<kElems>& sums, int i, bool backward, float reference,
                             double& first, double& second) {
    first = static_cast<double>(sums.first[i]);
    second = static_cast<double>(sums.second[i]);
    if (backward || sums.count == 0) return;
    const double move = static_cast<double>(sums.shift[i]) - static_cast<double>(reference);
    const double count = sums.count;
    second += move * (2 * first + count * move);
    first += count * move;
}

// The channel's first value.
template <class T>
__device__ inline typename Access<T>::Item reference_of(const SumArguments& arguments,
                                                        std::uint32_t channel) {
    std::int64_t at[1];
    locate(arguments.walk.positions, 0, at);
    return Access<T>::load(arguments.x,
                           at[0] + std::int64_t{channel} * arguments.walk.channel_elems[0]);
}

constexpr int kSumBlocks = 4, kSumBlocksBackward = 3;  // at once on a multiprocessor

template <class T, bool kBackward>
__device__ inline void column_sums(const SumArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const ChannelPlace place = place_of(arguments.walk);
    const bool exists = place.channel < arguments.walk.channel_items;
    const int across = static_cast<int>(blockDim.x), width = across * kElems;
    // (blockDim.y, 2, kElems, blockDim.x): neighbouring threads are neighbours
    auto* const shared = reinterpret_cast<double*>(ptx::shared_memory());
    double* const mine = shared + static_cast<int>(threadIdx.y) * 2 * width +
                         static_cast<int>(threadIdx.x);
    if (exists) {
        const Sums<kElems> sums = sums_of_thread<T, kBackward>(arguments, place);
        const auto reference = reference_of<T>(arguments, place.channel);
#pragma unroll
        for (int i = 0; i < kElems; ++i)
            widen(sums, i, kBackward, reference.at(i), mine[i * across],
                  mine[width + i * across]);
    }
    __syncthreads();
    const std::int64_t channels = std::int64_t{arguments.walk.channel_items} * kElems;
    const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
    for (int i = thread; i < 2 * width; i += kChannelThreads) {
        const int within = i % width;
        const std::int64_t c =
            std::int64_t{blockIdx.x} * width + within % across * kElems + within / across;
        if (c >= channels) continue;
        double sum = 0;
        for (int y = 0; y < static_cast<int>(blockDim.y); ++y) sum += shared[y * 2 * width + i];
        arguments.partial[(std::int64_t{blockIdx.y} * 2 + i / width) * channels + c] = sum;
    }
}

template <class T, bool kBackward>
__device__ inline void run_sums(const SumArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const ChannelPlace place = place_of(arguments.walk);
    const Sums<kElems> sums = sums_of_thread<T, kBackward>(arguments, place);
    const auto reference = reference_of<T>(arguments, place.channel);
    double total[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
        double first, second;
        widen(sums, i, kBackward, reference.at(0), first, second);
        total[0] += first;
        total[1] += second;
    }
    block_sums<kChannelThreads>(total);
    if (threadIdx.x != 0) return;
    const std::int64_t channels = arguments.walk.channel_items;
    double* const partial = arguments.partial + std::int64_t{blockIdx.y} * 2 * channels;
    partial[place.channel] = total[0];
    partial[channels + place.channel] = total[1];
}

template <bool kBackward>
__global__ void __launch_bounds__(kChannelThreads, kBackward ? kSumBlocksBackward : kSumBlocks)
    channel_sums(const SumArguments arguments) {
    with_items(arguments.x.dtype, arguments.walk.vector, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (arguments.walk.columns) return column_sums<T, kBackward>(arguments);
        run_sums<T, kBackward>(arguments);
    });
}

}  // namespace fastconv::cuda
