// Batch normalization between its passes: blocks' sums in order, and per channel what follows from
// them: mean, rstd, running statistics and what the affine pass multiplies by.
#pragma once

#include "cuda/batch_norm_sums.cuh"

namespace fastconv::cuda {

/// What the affine pass knows of a channel.
struct alignas(16) ChannelParameters {
    float mean, scale, offset, slope;
};

// 8 channels a block, a sector of 64 bytes: 256 channels still are 32 blocks, with 64 sums in flight each.
constexpr int kJoinChannels = 8;
constexpr int kJoinThreads = 64;  // a channel

struct JoinArguments {
    const double* partial;  // (blocks, 2, C), or null: nothing was summed
    std::uint32_t blocks;
    std::int64_t channels;
    double positions;
    Operand reference;  // forward: the channels' first values
    std::int64_t reference_elems;
    ChannelArray weight, bias, mean, rstd, running_mean, running_var;
    ChannelArray grad_weight, grad_bias;
    bool backward, training;
    double momentum, eps;
    ChannelParameters* parameters;  // (C)
};

// A constant channel's sum of squares may come out below zero by rounding; NaN stays.
__device__ inline double not_negative(double x) { return x < 0 ? 0 : x; }

__device__ inline void finish_forward(const JoinArguments& by, std::int64_t c, double first,
                                      double second) {
    const bool measured = by.partial != nullptr;
    double mean = by.training ? 0.0 : static_cast<double>(by.running_mean.at(c, 0));
    double var = by.training ? 0.0 : static_cast<double>(by.running_var.at(c, 0));
    if (measured) {
        const double shift = first / by.positions;
        const double squares = not_negative(second - first * shift);
        mean = static_cast<double>(load_element(by.reference, c * by.reference_elems)) + shift;
        var = squares / by.positions;
        const double keep = 1 - by.momentum, unbiased = squares / (by.positions - 1);
        const auto moved = [&](const ChannelArray& running, double value) {
            const double old = static_cast<double>(running.at(c, 0));
            running.set(c, static_cast<float>(keep * old + by.momentum * value));
        };
        moved(by.running_mean, mean);
        moved(by.running_var, unbiased);
    }
    const double rstd = 1 / sqrt(var + by.eps);
    by.mean.set(c, static_cast<float>(mean));
    by.rstd.set(c, static_cast<float>(rstd));
    const double scale = rstd * static_cast<double>(by.weight.at(c, 1));
    by.parameters[c] = {static_cast<float>(mean), static_cast<float>(scale), by.bias.at(c, 0), 0};
}

__device__ inline void finish_backward(const JoinArguments& by, std::int64_t c, double sum,
                                       double product) {
    const double rstd = static_cast<double>(by.rstd.at(c, 0));
    by.grad_bias.set(c, static_cast<float>(sum));
    by.grad_weight.set(c, static_cast<float>(product * rstd));
    const auto scale = static_cast<float>(rstd * static_cast<double>(by.weight.at(c, 1)));
    by.parameters[c] = {0, scale, 0, 0};
    if (by.training)
        by.parameters[c] = {by.mean.at(c, 0), scale, static_cast<float>(sum / by.positions),
                            static_cast<float>(product * rstd * rstd / by.positions)};
}

__global__ void __launch_bounds__(kJoinChannels * kJoinThreads) join_sums(JoinArguments arguments) {
    auto* const shared = reinterpret_cast<double*>(ptx::shared_memory());
    const std::int64_t c = std::int64_t{blockIdx.x} * kJoinChannels + threadIdx.x;
    const std::int64_t channels = arguments.channels;
    double first = 0, second = 0;
    if (c < channels && arguments.partial) {
#pragma unroll 4
        for (std::uint32_t block = threadIdx.y; block < arguments.blocks; block += kJoinThreads) {
            first += arguments.partial[std::int64_t{block} * 2 * channels + c];
            second += arguments.partial[(std::int64_t{block} * 2 + 1) * channels + c];
        }
    }
    double* const mine = shared + (threadIdx.y * 2 * kJoinChannels + threadIdx.x);  // (threads, 2, 8)
    mine[0] = first;
    mine[kJoinChannels] = second;
    for (unsigned half = kJoinThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y >= half) continue;
        mine[0] += mine[half * 2 * kJoinChannels];
        mine[kJoinChannels] += mine[(half * 2 + 1) * kJoinChannels];
    }
    if (threadIdx.y != 0 || c >= channels) return;
    first = mine[0];
    second = mine[kJoinChannels];
    if (arguments.backward) finish_backward(arguments, c, first, second);
    else finish_forward(arguments, c, first, second);
}

}  // namespace fastconv::cuda
