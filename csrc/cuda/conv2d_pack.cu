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
};

/// One tile of (cols, channels) of one tap and group: read along the source's short stride, turned in
/// shared memory, written along the destination's.
template <class Bits>
__global__ void pack_weights(const PackArguments p) {
    auto* tile = reinterpret_cast<Bits*>(ptx::shared_memory());  // (kTile cols, kTile + 1 channels)
    const int launched_tap = static_cast<int>(blockIdx.y);
    int index = 0;
    for (int i = 1; i < kMostPhases; ++i) index += launched_tap >= p.phase[i].first_tap;
    const PackedPhase& phase = p.phase[index];
    const int tap = launched_tap - phase.first_tap;
    const int tap_h = tap / phase.taps_w, tap_w = tap % phase.taps_w;
    const int col0 = static_cast<int>(blockIdx.x) % p.col_tiles * kTile;
    const int channel0 = static_cast<int>(blockIdx.x) / p.col_tiles * kTile;
    const auto* from = static_cast<const Bits*>(phase.from) + blockIdx.z * p.group_elems +
                       tap_h * p.tap_h_elems + tap_w * p.tap_w_elems;
    auto* to = static_cast<Bits*>(phase.to) + blockIdx.z * phase.to_group_elems;
    const std::int64_t to_col_elems = p.by_depth ? 1 : phase.pitch;
    const std::int64_t to_depth_elems = p.by_depth ? phase.pitch : 1;
    const int fast = threadIdx.x;
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.read_along_cols ? fast : slow, channel = p.read_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels)
            tile[col * (kTile + 1) + channel] =
                from[(col0 + col) * p.col_elems + (channel0 + channel) * p.channel_elems];
    }
    __syncthreads();
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.by_depth ? fast : slow, channel = p.by_depth ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels) {
            const std::int64_t depth = static_cast<std::int64_t>(tap) * p.channels + channel0 + channel;
            to[(col0 + col) * to_col_elems + depth * to_depth_elems] =
                tile[col * (kTile + 1) + channel];
        }
    }
}

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }

}  // namespace

void pack_correlation_weights(const CudaConvPlan& plan, WeightLayout layout, const void* weight,
                              void* workspace, Stream stream) {
    const std::int64_t bytes = plan.problem.element_bytes();
    const bool by_depth = layout == WeightLayout::kDepthCol;
    const auto taps_of = [](const Correlation& phase) {
        return phase.taps_h.count * phase.taps_w.count;
    };
    for (std::size_t i = 0; i < plan.phases.size(); ++i) {
        const Correlation& phase = plan.phases[i];
        const CudaWeight& view = plan.weights[i];
        if (!view.in_place &&
            view.pitch != (by_depth ? phase.cols : taps_of(phase) * phase.channels)) {
            check(cudaMemsetAsync(workspace, 0, static_cast<std::size_t>(plan.packed_bytes),
                                  stream_of(stream)),
                  "cudaMemsetAsync");
            break;
        }
    }
    // Phases have the same filters and channels, and the same distances between taps.
    const Correlation& first = plan.phases.front();
    const CudaWeight& strides = plan.weights.front();
    PackArguments p{};
    p.cols = static_cast<int>(first.cols);
    p.channels = static_cast<int>(first.channels);
    p.group_elems = strides.group_elems;
    p.col_elems = strides.col_elems;
    p.channel_elems = strides.channel_elems;
    p.tap_h_elems = strides.tap_h_elems;
    p.tap_w_elems = strides.tap_w_elems;
    p.by_depth = by_depth;
    p.read_along_cols = magnitude(p.col_elems) < magnitude(p.channel_elems);
    p.col_tiles = (p.cols + kTile - 1) / kTile;
    const int channel_tiles = (p.channels + kTile - 1) / kTile;
    const LaunchShape shape{dim3(static_cast<unsigned>(p.col_tiles * channel_tiles), 1,
                                 static_cast<unsigned>(first.groups)),
                            dim3(kTile, kTileRows),
                            static_cast<std::size_t>(kTile * (kTile + 1) * bytes)};
    int phases = 0, taps = 0;
    const auto start = [&] {
        for (int i = phases; i < kMostPhases; ++i) p.phase[i].first_tap = taps;  // no block's
        LaunchShape now = shape;
        now.grid.y = static_cast<unsigned>(taps);
        if (bytes == 4) launch<pack_weights<std::uint32_t>>(now, stream, p);
        else launch<pack_weights<std::uint16_t>>(now, stream, p);
        phases = taps = 0;
    };
    for (std::size_t i = 0; i < plan.phases.size(); ++i) {
        const CudaWeight& view = plan.weights[i];
        if (view.in_place || taps_of(plan.phases[i]) == 0) continue;
        if (phases == kMostPhases) start();
        p.phase[phases++] = {static_cast<const char*>(weight) + view.first_elems * bytes,
                             static_cast<char*>(workspace) + view.packed_offset,
                             view.pitch, view.packed_group_elems,
                             static_cast<int>(plan.phases[i].taps_w.count), taps};
        taps += static_cast<int>(taps_of(plan.phases[i]));
    }
    if (phases > 0) start();
}

}  // namespace fastconv::cuda
