// Weights into the layout that an implicit-GEMM kernel reads:
//
//   (group, col, a, b, c) of any strides -> kColDepth (col, (a, b, c)) or kDepthCol ((a, b, c), col)
//
// Floor: each weight is read and written once. Not here: which layout, and when a weight is read in
// place (conv2d_plan.cpp).
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kPackTile = 32;
constexpr int kPackRows = 8;  // rows of a tile that a block's threads move at once

constexpr int kMostPhases = CorrelationLaunch::kMostPhases;  // of one launch

struct PackedPhase {
    const void* from;
    void* to;
    std::int64_t pitch, to_group_elems;
    int taps_w;
    int first_tap;  // of the launch's taps, which follow each other along the grid's y
};

struct PackArguments {
    PackedPhase phase[kMostPhases];
    int cols, channels;
    std::int64_t group_elems, col_elems, channel_elems, tap_h_elems, tap_w_elems;
    int col_tiles;
    bool by_depth, read_along_cols;
    int element_bytes;  // 2 or 4
};

/// One tile of (cols, channels) of one tap and group: read along the source's short stride, turned in
/// shared memory, written along the destination's.
template <class Bits>
__device__ inline void pack_weights_of(const PackArguments& p) {
    auto* tile = reinterpret_cast<Bits*>(ptx::shared_memory());  // (kPackTile cols, kPackTile + 1 channels)
    const int launched_tap = static_cast<int>(blockIdx.y);
    int index = 0;
    for (int i = 1; i < kMostPhases; ++i) index += launched_tap >= p.phase[i].first_tap;
    const PackedPhase& phase = p.phase[index];
    const int tap = launched_tap - phase.first_tap;
    const int tap_h = tap / phase.taps_w, tap_w = tap % phase.taps_w;
    const int col0 = static_cast<int>(blockIdx.x) % p.col_tiles * kPackTile;
    const int channel0 = static_cast<int>(blockIdx.x) / p.col_tiles * kPackTile;
    const auto* from = static_cast<const Bits*>(phase.from) + blockIdx.z * p.group_elems +
                       tap_h * p.tap_h_elems + tap_w * p.tap_w_elems;
    auto* to = static_cast<Bits*>(phase.to) + blockIdx.z * phase.to_group_elems;
    const std::int64_t to_col_elems = p.by_depth ? 1 : phase.pitch;
    const std::int64_t to_depth_elems = p.by_depth ? phase.pitch : 1;
    const int fast = threadIdx.x;
    for (int slow = threadIdx.y; slow < kPackTile; slow += kPackRows) {
        const int col = p.read_along_cols ? fast : slow, channel = p.read_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels)
            tile[col * (kPackTile + 1) + channel] =
                from[(col0 + col) * p.col_elems + (channel0 + channel) * p.channel_elems];
    }
    __syncthreads();
    for (int slow = threadIdx.y; slow < kPackTile; slow += kPackRows) {
        const int col = p.by_depth ? fast : slow, channel = p.by_depth ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels) {
            const std::int64_t depth = static_cast<std::int64_t>(tap) * p.channels + channel0 + channel;
            to[(col0 + col) * to_col_elems + depth * to_depth_elems] =
                tile[col * (kPackTile + 1) + channel];
        }
    }
}

__global__ void __launch_bounds__(kPackTile * kPackRows) pack_weights(const PackArguments p) {
    if (p.element_bytes == 4) return pack_weights_of<std::uint32_t>(p);
    pack_weights_of<std::uint16_t>(p);
}

}  // namespace
}  // namespace fastconv::cuda
