// Local response normalization across channels, any strides, forward and backward.
//
//     y[c] = x[c] * d[c]^-beta        d[c] = k + alpha / size * sum of x[j]^2 over j near c
//     near(c) = c - size / 2 .. c + (size - 1) / 2, as far as those channels exist
//     dx[c] = g[c] * d[c]^-beta
//             - 2 alpha beta / size * x[c] * sum of g[j] x[j] d[j]^(-beta - 1) over j that c is near
//
// Two kernels of each direction. With channels last, size 5 and 16-byte items, a thread has an item and
// loads its neighbours too, which are in L1: windows are sums of registers. Otherwise a block stages
// kTilePositions positions by a run of channels and its halo in shared memory, its lanes along
// whichever is contiguous. A window is always summed anew: nothing is subtracted, which would cancel.
// Bytes moved per byte of x: forward 2, backward 3; runs read 2 halo / run of it again, from L2.
// Source: A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), section 3.3; alpha
// divided by size, as in PyTorch and Caffe.
#include <algorithm>
#include <stdexcept>

#include "cuda/launch.h"
#include "cuda/response_norm_five.cuh"
#include "cuda/response_norm_tiles.cuh"

namespace fastconv::cuda {
namespace {

std::size_t shared_bytes(const Tiling& tiling, bool backward) {
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
    while (shared_bytes(tiling, backward) > 48 * 1024 && tiling.positions > 1)
        tiling.positions /= 2;
    while (shared_bytes(tiling, backward) > most && tiling.run > 1) tiling.run /= 2;
    if (shared_bytes(tiling, backward) > most)
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
                            shared_bytes(tiling, backward)};
    if (backward) return launch<window_backward>(shape, stream, arguments, tiling);
    launch<window_forward>(shape, stream, arguments, tiling);
}

void run(const ResponseNorm& call, const Tensor& out, const Tensor* grad, Stream stream) {
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

    const int pack = pack_elems_of(out.dtype);
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
    with_type(out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (grad) return launch<window_of_five<T, true>>(shape, stream, arguments, across);
        launch<window_of_five<T, false>>(shape, stream, arguments, across);
    });
}

}  // namespace

void run_response_norm(const ResponseNorm& call, const Tensor& y, Stream stream) {
    run(call, y, nullptr, stream);
}

void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, Stream stream) {
    run(call, grad_input, &grad_output, stream);
}

}  // namespace fastconv::cuda
