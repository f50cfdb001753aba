// Batch normalization's sums of slabs of positions, per channel: of deviations and their squares
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
    double* partial;    // (slabs, 2, C)
};

template <int kElems>
struct Sums {
    float shift[kElems], first[kElems], second[kElems];
    std::uint32_t count;
};

// Sums of deviations from a mean of the first few, or of g and g (x - mean).
template <class T>
__device__ inline Sums<kItemElems<T>> sums_of_thread(const SumArguments& arguments,
                                                     const ChannelPlace& place) {
    constexpr int kElems = kItemElems<T>;
    using Item = typename Access<T>::Item;
    const bool backward = arguments.grad.data != nullptr;
    Sums<kElems> sums;
    sums.count = 0;
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
        const std::int64_t c = arguments.walk.columns
                                   ? std::int64_t{place.channel} * kElems + i
                                   : std::int64_t{place.channel};
        sums.shift[i] = backward ? arguments.mean.at(c, 0) : 0.0f;
        sums.first[i] = sums.second[i] = 0;
    }
    for (std::uint32_t p = place.first; p < place.end; p += kChannelLoads * place.step) {
        Item x[kChannelLoads], grad[kChannelLoads];
        std::uint32_t have = 0;
#pragma unroll
        for (int u = 0; u < kChannelLoads; ++u) {
            const std::uint32_t position = p + static_cast<std::uint32_t>(u) * place.step;
            if (position >= place.end) continue;
            std::int64_t at[2];
            locate(arguments.walk.positions, position, at);
            const std::int64_t c = place.channel;
            x[u] = Access<T>::load(arguments.x, at[0] + c * arguments.walk.channel_elems[0]);
            if (backward)
                grad[u] = Access<T>::load(arguments.grad,
                                          at[1] + c * arguments.walk.channel_elems[1]);
            ++have;
        }
        if (!backward && sums.count == 0) {
#pragma unroll
            for (int i = 0; i < kElems; ++i) {
                float total = 0;
#pragma unroll
                for (int u = 0; u < kChannelLoads; ++u)
                    if (static_cast<std::uint32_t>(u) < have) total += to_float(x[u].value[i]);
                sums.shift[i] = total / static_cast<float>(have);
            }
        }
#pragma unroll
        for (int u = 0; u < kChannelLoads; ++u) {
            if (static_cast<std::uint32_t>(u) >= have) continue;
#pragma unroll
            for (int i = 0; i < kElems; ++i) {
                const float d = to_float(x[u].value[i]) - sums.shift[i];
                const float a = backward ? to_float(grad[u].value[i]) : d;
                sums.first[i] += a;
                sums.second[i] = fmaf(a, d, sums.second[i]);
            }
        }
        sums.count += have;
    }
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

template <class T>
__global__ void __launch_bounds__(kChannelThreads, 2) column_sums(SumArguments arguments) {
    constexpr int kElems = kItemElems<T>;
    const ChannelPlace place = place_of(arguments.walk, blockIdx.y);
    const bool exists = place.channel < arguments.walk.channel_items;
    const int width = static_cast<int>(blockDim.x) * kElems;  // channels of the block
    auto* const shared = reinterpret_cast<double*>(ptx::shared_memory());  // (blockDim.y, 2, width)
    double* const mine = shared + static_cast<int>(threadIdx.y) * 2 * width +
                         static_cast<int>(threadIdx.x) * kElems;
    if (exists) {
        const bool backward = arguments.grad.data != nullptr;
        const Sums<kElems> sums = sums_of_thread<T>(arguments, place);
        const auto reference = reference_of<T>(arguments, place.channel);
#pragma unroll
        for (int i = 0; i < kElems; ++i)
            widen(sums, i, backward, to_float(reference.value[i]), mine[i], mine[width + i]);
    }
    __syncthreads();
    const std::int64_t channels = std::int64_t{arguments.walk.channel_items} * kElems;
    const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
    for (int i = thread; i < 2 * width; i += kChannelThreads) {
        const std::int64_t c = std::int64_t{blockIdx.x} * width + i % width;
        if (c >= channels) continue;
        double sum = 0;
        for (int y = 0; y < static_cast<int>(blockDim.y); ++y) sum += shared[y * 2 * width + i];
        arguments.partial[(std::int64_t{blockIdx.y} * 2 + i / width) * channels + c] = sum;
    }
}

template <class T>
__global__ void __launch_bounds__(kChannelThreads, 2) run_sums(SumArguments arguments) {
    constexpr int kElems = kItemElems<T>;
    const ChannelPlace place = place_of(arguments.walk, blockIdx.y);
    const bool backward = arguments.grad.data != nullptr;
    const Sums<kElems> sums = sums_of_thread<T>(arguments, place);
    const auto reference = reference_of<T>(arguments, place.channel);
    double total[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
        double first, second;
        widen(sums, i, backward, to_float(reference.value[0]), first, second);
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

}  // namespace fastconv::cuda
