// Weights into the layout that an implicit-GEMM kernel reads:
//
//   (group, col, a, b, c) of any strides -> kColDepth (col, (a, b, c)) or kDepthCol ((a, b, c), col)
//
// Floor: each weight is read and written once. Not here: which layout, and when a weight is read in
// place (conv2d_plan.cpp).
#include "cuda/conv2d_pack.h"

#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;  // rows of a tile that a block's threads move at once

struct PackArguments {
    const void* from;
    void* to;
    int cols, channels, taps_w;
    std::int64_t group_elems, col_elems, channel_elems, tap_h_elems, tap_w_elems;
    std::int64_t to_group_elems, to_col_elems, to_depth_elems;
    int col_tiles;
    bool read_along_cols, write_along_cols;
};

/// One tile of (cols, channels) of one tap and group: read along the source's short stride, turned in
/// shared memory, written along the destination's.
template <class Bits>
__global__ void pack_weight(PackArguments p) {
    auto* tile = reinterpret_cast<Bits*>(ptx::shared_memory());  // (kTile cols, kTile + 1 channels)
    const int tap = blockIdx.y, tap_h = tap / p.taps_w, tap_w = tap % p.taps_w;
    const int col0 = static_cast<int>(blockIdx.x) % p.col_tiles * kTile;
    const int channel0 = static_cast<int>(blockIdx.x) / p.col_tiles * kTile;
    const auto* from = static_cast<const Bits*>(p.from) + blockIdx.z * p.group_elems +
                       tap_h * p.tap_h_elems + tap_w * p.tap_w_elems;
    auto* to = static_cast<Bits*>(p.to) + blockIdx.z * p.to_group_elems;
    const int fast = threadIdx.x;
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.read_along_cols ? fast : slow, channel = p.read_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels)
            tile[col * (kTile + 1) + channel] =
                from[(col0 + col) * p.col_elems + (channel0 + channel) * p.channel_elems];
    }
    __syncthreads();
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.write_along_cols ? fast : slow;
        const int channel = p.write_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels) {
            const std::int64_t depth = static_cast<std::int64_t>(tap) * p.channels + channel0 + channel;
            to[(col0 + col) * p.to_col_elems + depth * p.to_depth_elems] =
                tile[col * (kTile + 1) + channel];
        }
    }
}

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }

}  // namespace

void pack_correlation_weight(const Correlation& phase, const CudaWeight& view, WeightLayout layout,
                             DType dtype, const void* weight, void* packed, Stream stream) {
    const std::int64_t bytes = element_bytes_of(dtype);
    const bool by_depth = layout == WeightLayout::kDepthCol;
    const std::int64_t taps = phase.taps_h.count * phase.taps_w.count;
    const std::int64_t length = by_depth ? phase.cols : taps * phase.channels;
    if (view.pitch != length)
        check(cudaMemsetAsync(packed, 0,
                              static_cast<std::size_t>(phase.groups * view.packed_group_elems * bytes),
                              stream_of(stream)),
              "cudaMemsetAsync");
    PackArguments p{};
    p.from = static_cast<const char*>(weight) + view.first_elems * bytes;
    p.to = packed;
    p.cols = static_cast<int>(phase.cols);
    p.channels = static_cast<int>(phase.channels);
    p.taps_w = static_cast<int>(phase.taps_w.count);
    p.group_elems = view.group_elems;
    p.col_elems = view.col_elems;
    p.channel_elems = view.channel_elems;
    p.tap_h_elems = view.tap_h_elems;
    p.tap_w_elems = view.tap_w_elems;
    p.to_group_elems = view.packed_group_elems;
    p.to_col_elems = by_depth ? 1 : view.pitch;
    p.to_depth_elems = by_depth ? view.pitch : 1;
    p.read_along_cols = magnitude(view.col_elems) < magnitude(view.channel_elems);
    p.write_along_cols = by_depth;
    p.col_tiles = (p.cols + kTile - 1) / kTile;
    const int channel_tiles = (p.channels + kTile - 1) / kTile;
    const LaunchShape shape{
        dim3(static_cast<unsigned>(p.col_tiles * channel_tiles), static_cast<unsigned>(taps),
             static_cast<unsigned>(phase.groups)),
        dim3(kTile, kTileRows), static_cast<std::size_t>(kTile * (kTile + 1) * bytes)};
    if (bytes == 4) launch<pack_weight<std::uint32_t>>(shape, stream, p);
    else launch<pack_weight<std::uint16_t>>(shape, stream, p);
}

}  // namespace fastconv::cuda
