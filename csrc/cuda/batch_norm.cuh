// Batch normalization and its gradient, over arrays of any strides. Per channel, M positions:
//
//     mean = sum(x) / M, var = sum((x - mean)^2) / M, rstd = 1 / sqrt(var + eps)
//     y = (x - mean) * rstd * weight + bias, or its positive part
//     dbias = sum(g)        dweight = rstd * sum(g * (x - mean))
//     dx = weight * rstd * (g - sum(g) / M - (x - mean) * rstd^2 * sum(g * (x - mean)) / M)
//     dx = weight * rstd * g                                                       in evaluation
//
// Three launches: sums of each block, their join in a fixed order with what follows from it per
// channel, and the affine pass, which walks backwards, so that it begins with what L2 still holds.
// Forward, a thread sums deviations from the mean of its first few values: at worst as inexact as a
// plain float32 sum of its at most kMostTerms terms, wherever the mean lies. Threads and blocks are
// joined in float64 as deviations from the channel's first value.
// Bytes moved per byte of x: forward 3 (x, x, y), backward 5 (g, x, g, x, dx), evaluation 2 and
// backward 4; less where x stays in L2.
// Source: S. Ioffe, C. Szegedy, "Batch Normalization" (2015), algorithm 1; T. Chan, G. Golub,
// R. LeVeque, "Algorithms for Computing the Sample Variance" (1983), for shifted sums.
#pragma once

#include "cuda/batch_norm_join.cuh"

namespace fastconv::cuda {

constexpr int kWriteBlocks = 3, kWriteBlocksBackward = 2;  // at once on a multiprocessor

struct WriteArguments {
    ChannelWalk walk;  // of out, x and, where given, grad
    Operand out, x, grad;
    const ChannelParameters* parameters;  // (C)
    bool relu;  // forward
};

// out = relu?((x - mean) * scale + offset), or (grad - offset - (x - mean) * slope) * scale.
template <class T, bool kBackward>
__device__ inline void channel_write_of(const WriteArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const ChannelWalk& walk = arguments.walk;
    const ChannelPlace place = place_of(walk);
    if (place.channel >= walk.channel_items) return;
    ChannelParameters by[kElems];
#pragma unroll
    for (int i = 0; i < kElems; ++i)
        by[i] = arguments.parameters[walk.columns ? std::int64_t{place.channel} * kElems + i
                                                  : std::int64_t{place.channel}];
    for_positions(walk, place, true, [&](std::uint32_t position, auto loads) {
        constexpr int kLoads = decltype(loads)::value;
        [[maybe_unused]] typename Access<T>::Item x[kLoads], grad[kLoads];
        std::int64_t out[kLoads];
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
            std::int64_t at[3];
            locate(walk.positions, position + static_cast<std::uint32_t>(u) * place.step, at);
            out[u] = offset_of(walk, place, at, 0);
            x[u] = Access<T>::load_once(arguments.x, offset_of(walk, place, at, 1));
            if constexpr (kBackward)
                grad[u] = Access<T>::load_once(arguments.grad, offset_of(walk, place, at, 2));
        }
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
            float value[kElems];
#pragma unroll
            for (int i = 0; i < kElems; ++i) {
                const float d = x[u].at(i) - by[i].mean;
                if constexpr (kBackward)
                    value[i] =
                        fmaf(-d, by[i].slope, grad[u].at(i) - by[i].offset) * by[i].scale;
                else
                    value[i] = fmaf(d, by[i].scale, by[i].offset);
                if (arguments.relu && value[i] <= 0) value[i] = 0.0f;
            }
            Access<T>::store(arguments.out, out[u], value);
        }
    });
}

template <bool kBackward>
__global__ void __launch_bounds__(kChannelThreads, kBackward ? kWriteBlocksBackward : kWriteBlocks)
    channel_write(const WriteArguments arguments) {
    with_items(arguments.out.dtype, arguments.walk.vector, [&](auto tag) {
        channel_write_of<typename decltype(tag)::type, kBackward>(arguments);
    });
}

}  // namespace fastconv::cuda
