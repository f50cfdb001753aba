// Batch normalization and its gradient, over arrays of any strides. Per channel, M positions:
//
//     mean = sum(x) / M, var = sum((x - mean)^2) / M, rstd = 1 / sqrt(var + eps)
//     y = (x - mean) * rstd * weight + bias
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
#include "cuda/batch_norm_join.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kWriteBlocks = 3, kWriteBlocksBackward = 2;  // at once on a multiprocessor

struct WriteArguments {
    ChannelWalk walk;  // of out, x and, where given, grad
    Operand out, x, grad;
    const ChannelParameters* parameters;  // (C)
};

// out = (x - mean) * scale + offset, or (grad - offset - (x - mean) * slope) * scale.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kChannelThreads, kBackward ? kWriteBlocksBackward : kWriteBlocks)
    channel_write(WriteArguments arguments) {
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
            }
            Access<T>::store(arguments.out, out[u], value);
        }
    });
}

// ---- launches -----------------------------------------------------------------------------------

void join(const JoinArguments& arguments, Stream stream) {
    const std::int64_t blocks = (arguments.channels + kJoinChannels - 1) / kJoinChannels;
    launch<join_sums>({dim3(static_cast<unsigned>(blocks)), dim3(kJoinChannels, kJoinThreads),
                       sizeof(double) * 2 * kJoinChannels * kJoinThreads},
                      stream, arguments);
}

template <bool kBackward>
void sum_blocks(const SumArguments& arguments, DType dtype, Stream stream) {
    const ChannelWalk& walk = arguments.walk;
    with_items(dtype, walk.vector, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (walk.columns)
            return launch<column_sums<T, kBackward>>(
                {walk.grid(), walk.block(), sizeof(double) * 2 * kChannelThreads * kItemElems<T>},
                stream, arguments);
        launch<run_sums<T, kBackward>>(
            {walk.grid(), walk.block(), block_sums_bytes<kChannelThreads>}, stream, arguments);
    });
}

// `grad` null: the forward formula.
void write(const Tensor& out, const Tensor& x, const Tensor* grad, int axis,
           const ChannelParameters* parameters, Stream stream) {
    Operand operands[3];
    WriteArguments arguments{};
    arguments.walk = grad ? walk_channels({&out, &x, grad}, axis, kWriteBlocksBackward, operands)
                          : walk_channels({&out, &x}, axis, kWriteBlocks, operands);
    arguments.out = operands[0];
    arguments.x = operands[1];
    arguments.grad = operands[2];
    arguments.parameters = parameters;
    with_items(out.dtype, arguments.walk.vector, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const LaunchShape shape{arguments.walk.grid(), arguments.walk.block()};
        if (grad) return launch<channel_write<T, true>>(shape, stream, arguments);
        launch<channel_write<T, false>>(shape, stream, arguments);
    });
}

/// Memory of both runs: parameters (C), then partial sums (blocks, 2, C).
std::size_t scratch_bytes(std::int64_t channels, std::uint32_t blocks) {
    return static_cast<std::size_t>(channels) *
           (sizeof(ChannelParameters) + sizeof(double) * 2 * blocks);
}

}  // namespace

void run_batch_norm(const BatchNorm& call, Stream stream) {
    Operand operands[3];
    SumArguments sums{};
    sums.walk = walk_channels({&call.x}, call.axis, kSumBlocks, operands);
    sums.x = operands[0];
    const std::int64_t channels = call.x.size[call.axis];
    const std::int64_t positions = channels ? call.x.count() / channels : 0;
    const bool measures = call.training && positions > 0;
    const Scratch scratch(scratch_bytes(channels, measures ? sums.walk.blocks : 0), stream);
    auto* const parameters = static_cast<ChannelParameters*>(scratch.data());
    JoinArguments by{};
    if (measures) {
        sums.partial = reinterpret_cast<double*>(parameters + channels);
        sum_blocks<false>(sums, call.x.dtype, stream);
        by.partial = sums.partial;
        by.blocks = sums.walk.blocks;
        by.reference = operands[0];
        by.reference_elems = call.x.elems[call.axis];
    }
    by.channels = channels;
    by.positions = static_cast<double>(positions);
    by.weight = ChannelArray(call.weight);
    by.bias = ChannelArray(call.bias);
    by.mean = ChannelArray(call.mean);
    by.rstd = ChannelArray(call.rstd);
    by.running_mean = ChannelArray(call.running_mean);
    by.running_var = ChannelArray(call.running_var);
    by.training = call.training;
    by.momentum = call.momentum;
    by.eps = call.eps;
    by.parameters = parameters;
    join(by, stream);
    write(call.y, call.x, nullptr, call.axis, parameters, stream);
}

void run_batch_norm_backward(const BatchNormBackward& call, Stream stream) {
    Operand operands[3];
    SumArguments sums{};
    sums.walk =
        walk_channels({&call.x, &call.grad_output}, call.axis, kSumBlocksBackward, operands);
    sums.x = operands[0];
    sums.grad = operands[1];
    sums.mean = ChannelArray(call.mean);
    const std::int64_t channels = call.x.size[call.axis];
    const std::int64_t positions = channels ? call.x.count() / channels : 0;
    const Scratch scratch(scratch_bytes(channels, sums.walk.blocks), stream);
    auto* const parameters = static_cast<ChannelParameters*>(scratch.data());
    JoinArguments by{};
    if (positions > 0) {
        sums.partial = reinterpret_cast<double*>(parameters + channels);
        sum_blocks<true>(sums, call.x.dtype, stream);
        by.partial = sums.partial;
        by.blocks = sums.walk.blocks;
    }
    by.channels = channels;
    by.positions = static_cast<double>(std::max<std::int64_t>(positions, 1));
    by.weight = ChannelArray(call.weight);
    by.mean = ChannelArray(call.mean);
    by.rstd = ChannelArray(call.rstd);
    by.grad_weight = ChannelArray(call.grad_weight);
    by.grad_bias = ChannelArray(call.grad_bias);
    by.backward = true;
    by.training = call.training;
    by.parameters = parameters;
    join(by, stream);
    // In evaluation nothing depends on x: the gradient takes its place in the forward formula.
    if (call.training)
        write(call.grad_input, call.x, &call.grad_output, call.axis, parameters, stream);
    else
        write(call.grad_input, call.grad_output, nullptr, call.axis, parameters, stream);
}

}  // namespace fastconv::cuda
