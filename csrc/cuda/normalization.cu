// Batch normalization and local response normalization: tiles, scratch and launches (kernels:
// batch_norm.cuh, response_norm.cuh).
#include <algorithm>
#include <stdexcept>

#include "cuda/batch_norm.cuh"
#include "cuda/launch.h"
#include "cuda/response_norm_five.cuh"
#include "cuda/response_norm_tiles.cuh"

namespace fastconv::cuda {
namespace {

// ---- batch normalization ------------------------------------------------------------------------

void join(const JoinArguments& arguments, Stream stream) {
    const std::int64_t blocks = (arguments.channels + kJoinChannels - 1) / kJoinChannels;
    launch<join_sums>({dim3(static_cast<unsigned>(blocks)), dim3(kJoinChannels, kJoinThreads),
                       sizeof(double) * 2 * kJoinChannels * kJoinThreads},
                      stream, arguments);
}

template <bool kBackward>
void sum_blocks(const SumArguments& arguments, Stream stream) {
    const ChannelWalk& walk = arguments.walk;
    const auto elems = static_cast<std::size_t>(item_elems_of(arguments.x.dtype, walk.vector));
    const std::size_t shared = walk.columns ? sizeof(double) * 2 * kChannelThreads * elems
                                            : block_sums_bytes<kChannelThreads>;
    launch<channel_sums<kBackward>>({walk.grid(), walk.block(), shared}, stream, arguments);
}

// `grad` null: the forward formula.
void write(const Tensor& out, const Tensor& x, const Tensor* grad, int axis,
           const ChannelParameters* parameters, bool relu, Stream stream) {
    Operand operands[3];
    WriteArguments arguments{};
    arguments.walk = grad ? walk_channels({&out, &x, grad}, axis, kWriteBlocksBackward, operands)
                          : walk_channels({&out, &x}, axis, kWriteBlocks, operands);
    arguments.out = operands[0];
    arguments.x = operands[1];
    arguments.grad = operands[2];
    arguments.parameters = parameters;
    arguments.relu = relu;
    const LaunchShape shape{arguments.walk.grid(), arguments.walk.block()};
    if (grad) return launch<channel_write<true>>(shape, stream, arguments);
    launch<channel_write<false>>(shape, stream, arguments);
}

/// Memory of both runs: parameters (C), then partial sums (blocks, 2, C).
std::size_t scratch_bytes(std::int64_t channels, std::uint32_t blocks) {
    return static_cast<std::size_t>(channels) *
           (sizeof(ChannelParameters) + sizeof(double) * 2 * blocks);
}

// ---- local response normalization ---------------------------------------------------------------

std::size_t response_shared_bytes(const Tiling& tiling, bool backward) {
    return sizeof(std::int64_t) * 3 * kTilePositions +
           sizeof(float) * (backward ? 3 : 1) * static_cast<std::size_t>(tiling.positions) *
               static_cast<std::size_t>(tiling.wide());
}

// Windows of up to a few thousand channels fit; then fewer positions, then fewer channels a tile.
Tiling tile(const ResponseArguments& arguments, bool along_channels) {
    const bool backward = arguments.grad.data != nullptr;
    const auto channels = static_cast<std::int32_t>(arguments.channels);
    Tiling tiling;
    tiling.lanes = along_channels ? 1 : 0;
    tiling.positions = kTilePositions;
    tiling.halo = backward ? arguments.before + arguments.after
                           : std::max(arguments.before, arguments.after);
    tiling.run = along_channels ? std::max(kTileChannels - 2 * tiling.halo, kLeastRun)
                                : kTileChannels;
    tiling.run = std::min(tiling.run, channels);
    const std::size_t most = device(current_device()).shared_bytes;
    while (response_shared_bytes(tiling, backward) > 48 * 1024 && tiling.positions > 1)
        tiling.positions /= 2;
    while (response_shared_bytes(tiling, backward) > most && tiling.run > 1) tiling.run /= 2;
    if (response_shared_bytes(tiling, backward) > most)
        throw std::invalid_argument("local_response_norm: the window has more channels than fit "
                                    "into shared memory");
    tiling.chunks = (arguments.channels + static_cast<std::uint32_t>(tiling.run) - 1) /
                    static_cast<std::uint32_t>(tiling.run);
    return tiling;
}

void run_tiles(ResponseArguments& arguments, const Layout& layout, bool along_channels,
               Stream stream) {
    const Tiling tiling = tile(arguments, along_channels);
    const bool backward = arguments.grad.data != nullptr;
    const std::int64_t blocks =
        (layout.count() + tiling.positions - 1) / tiling.positions * tiling.chunks;
    if (blocks > kMaxItems) throw std::invalid_argument("local_response_norm: too large");
    arguments.positions = walk_of(layout);
    const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), dim3(kResponseThreads),
                            response_shared_bytes(tiling, backward)};
    if (backward) return launch<window_backward>(shape, stream, arguments, tiling);
    launch<window_forward>(shape, stream, arguments, tiling);
}

void run_response(const ResponseNorm& call, const Tensor& out, const Tensor* grad, Stream stream) {
    if (out.count() == 0) return;
    const std::int64_t channels = call.x.size[call.axis];
    Layout layout = grad ? layout_of({&out, &call.x, grad}, call.axis)
                         : layout_of({&out, &call.x}, call.axis);
    if (channels > kMaxItems / 4 || layout.count() > kMaxItems)
        throw std::invalid_argument("local_response_norm: at least 2^31 positions or 2^29 channels");
    ResponseArguments arguments{};
    arguments.out = anchored(out, layout, 0);
    arguments.x = anchored(call.x, layout, 1);
    if (grad) arguments.grad = anchored(*grad, layout, 2);
    const double slope = call.alpha / static_cast<double>(call.size);
    arguments.power = response_power(call.beta);
    arguments.offset = static_cast<float>(call.k);
    arguments.slope = static_cast<float>(slope);
    arguments.exponent = static_cast<float>(call.beta);
    arguments.factor = static_cast<float>(2 * slope * call.beta);
    arguments.channels = static_cast<std::uint32_t>(channels);
    // No window is longer than the channels on both sides of one.
    arguments.before = static_cast<std::int32_t>(std::min(call.size / 2, channels));
    arguments.after = static_cast<std::int32_t>(std::min((call.size - 1) / 2, channels));

    const int pack = item_elems_of(out.dtype, true);
    const Tensor* tensors[] = {&out, &call.x, grad};
    const Operand* operands[] = {&arguments.out, &arguments.x, &arguments.grad};
    bool last = true, packed = call.size == 2 * kFiveReach + 1 && channels % pack == 0;
    for (int k = 0; k < layout.operands; ++k) {
        arguments.channel_elems[k] = tensors[k]->elems[call.axis];
        last = last && (arguments.channel_elems[k] == 1 || channels == 1);
        packed = packed && is_aligned(*operands[k], pack);
        for (int d = 0; d < layout.rank; ++d) packed = packed && layout.elems[k][d] % pack == 0;
    }
    const std::int64_t items = channels / pack * layout.count();
    if (!last || !packed || items > kMaxItems) {
        const bool along_channels = channels > 1 && last && layout.inner_elems(0) != 1;
        return run_tiles(arguments, layout, along_channels, stream);
    }
    for (int k = 0; k < layout.operands; ++k)
        for (int d = 0; d < layout.rank; ++d) layout.elems[k][d] /= pack;
    arguments.positions = walk_of(layout);
    const Divider across(channels / pack);
    const std::int64_t blocks = (items + kResponseThreads - 1) / kResponseThreads;
    const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), dim3(kResponseThreads)};
    if (grad) return launch<window_of_five<true>>(shape, stream, arguments, across);
    launch<window_of_five<false>>(shape, stream, arguments, across);
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
        sum_blocks<false>(sums, stream);
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
    write(call.y, call.x, nullptr, call.axis, parameters, call.relu, stream);
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
        sum_blocks<true>(sums, stream);
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
        write(call.grad_input, call.x, &call.grad_output, call.axis, parameters, false, stream);
    else
        write(call.grad_input, call.grad_output, nullptr, call.axis, parameters, false, stream);
}

void run_response_norm(const ResponseNorm& call, const Tensor& y, Stream stream) {
    run_response(call, y, nullptr, stream);
}

void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, Stream stream) {
    run_response(call, grad_input, &grad_output, stream);
}

}  // namespace fastconv::cuda
