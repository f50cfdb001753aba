// Arrays as (positions, channels): how the kernels of batch normalization walk them.
//
//   columns    channels are neighbours in memory (channels last): a block has blockDim.x items of
//              channels and blockDim.y positions abreast
//   runs       otherwise: a block has one channel and blockDim.x items of its positions abreast
//
// A tile is kChannelLoads positions of each thread, loaded at once. Block b of `blocks` takes tiles b,
// b + blocks, ...: all blocks advance through memory together, so that a pass which starts at its end
// finds in L2 what the pass before read last. Which form, and 16-byte or single accesses, follows from
// shapes, strides and addresses; blocks from these and the number of multiprocessors.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "cuda/launch.h"
#include "cuda/strided.cuh"

namespace fastconv::cuda {

constexpr int kChannelThreads = 256;
constexpr int kChannelLoads = 4;
/// Positions that one thread sums in float32 before its sums are joined in float64.
constexpr std::int64_t kMostTerms = 1024;

struct ChannelWalk {
    bool columns = false, vector = false;
    std::uint32_t channel_items = 0;  // C / item elements as columns, else C
    std::int64_t channel_elems[3] = {};  // between channels, in items, of each operand
    StridedWalk positions;
    std::uint32_t tiles = 0, blocks = 0;  // along positions
    int threads_x = kChannelThreads;

    dim3 block() const {
        return dim3(static_cast<unsigned>(threads_x),
                    static_cast<unsigned>(kChannelThreads / threads_x));
    }
    dim3 grid() const {
        const auto x = static_cast<std::uint32_t>(columns ? threads_x : 1);
        return dim3((channel_items + x - 1) / x, blocks);
    }
};

/// Threads across channels: a power of two up to a warp that leaves few of them idle.
inline int threads_across(std::uint32_t items) {
    int best = 1;
    double best_share = 0;
    for (int x = 1; x <= 32; x *= 2) {
        const auto width = static_cast<std::uint32_t>(x);
        const std::uint32_t padded = (items + width - 1) / width * width;
        const double share = static_cast<double>(items) / padded;
        if (share < 0.9 * best_share) continue;
        best = x;
        best_share = std::max(share, best_share);
    }
    return best;
}

/// `operands` are anchored where their walk begins. `resident`: blocks a multiprocessor runs at once.
inline ChannelWalk walk_channels(std::initializer_list<const Tensor*> tensors, int axis,
                                 int resident, Operand* operands) {
    Layout layout = layout_of(tensors, axis);
    const Tensor& first = **tensors.begin();
    const std::int64_t channels = first.size[axis], positions = layout.count();
    if (positions > kMaxItems || channels > kMaxItems)
        throw std::invalid_argument("batch_norm: more than 2^31 channels or values per channel");
    ChannelWalk walk;
    const int pack = item_elems_of(first.dtype, true);
    bool unit = true, packed = true, aligned = true;
    int k = 0;
    for (const Tensor* tensor : tensors) {
        walk.channel_elems[k] = tensor->elems[axis];
        unit = unit && tensor->elems[axis] == 1;
        packed = packed && tensor->elems[axis] % pack == 0;
        operands[k] = anchored(*tensor, layout, k);
        aligned = aligned && is_aligned(operands[k], pack);
        ++k;
    }
    walk.columns = unit && channels > 1 && (positions == 1 || layout.inner_elems(0) != 1);
    walk.channel_items = static_cast<std::uint32_t>(channels);
    if (walk.columns) {
        bool rows_packed = channels % pack == 0;
        for (int i = 0; i < k; ++i)
            for (int d = 0; d < layout.rank; ++d)
                rows_packed = rows_packed && layout.elems[i][d] % pack == 0;
        walk.vector = rows_packed && aligned;
        if (walk.vector) {
            walk.channel_items /= static_cast<std::uint32_t>(pack);
            for (int i = 0; i < k; ++i)
                for (int d = 0; d < layout.rank; ++d) layout.elems[i][d] /= pack;
        }
        walk.threads_x = threads_across(walk.channel_items);
    } else {
        walk.vector = layout.comes_in_packs(pack, k) && (packed || channels == 1) && aligned;
        if (walk.vector) {
            layout.in_packs(pack, k);
            for (int i = 0; i < k; ++i) walk.channel_elems[i] /= pack;
        }
    }
    walk.positions = walk_of(layout);
    const std::int64_t items = walk.positions.count;
    const std::int64_t abreast = walk.columns ? walk.block().y : kChannelThreads;
    const std::int64_t across = std::max<std::int64_t>(walk.grid().x, 1);
    const std::int64_t tiles = (items + abreast * kChannelLoads - 1) / (abreast * kChannelLoads);
    // Columns fill the device once: each block has partial sums of many channels, and parameters. Runs
    // have one channel's, and come in 4 waves, whose end is even.
    const std::int64_t at_once =
        std::int64_t{device(current_device()).multiprocessors} * resident;
    const std::int64_t wanted =
        walk.columns ? at_once / across : (4 * at_once + across - 1) / across;
    const std::int64_t most = std::max<std::int64_t>(tiles / 2, 1);  // two tiles a thread
    const std::int64_t fewest = (tiles * kChannelLoads + kMostTerms - 1) / kMostTerms;
    std::int64_t blocks = std::max(std::min(wanted, most), fewest);
    blocks = std::min<std::int64_t>(std::max<std::int64_t>(blocks, 1), 65535);
    const std::int64_t rounds = (tiles + blocks - 1) / blocks;
    walk.tiles = static_cast<std::uint32_t>(tiles);
    walk.blocks = static_cast<std::uint32_t>(rounds ? (tiles + rounds - 1) / rounds : 0);
    return walk;
}

/// Where a thread works: in tile t at positions first + t * tile + u * step, u below kChannelLoads.
struct ChannelPlace {
    std::uint32_t channel;  // item as columns, else channel; exists if below channel_items
    std::uint32_t first, step, tile;
};

__device__ inline ChannelPlace place_of(const ChannelWalk& walk) {
    if (walk.columns)
        return {blockIdx.x * blockDim.x + threadIdx.x, threadIdx.y, blockDim.y,
                blockDim.y * kChannelLoads};
    return {blockIdx.x, threadIdx.x, blockDim.x, blockDim.x * kChannelLoads};
}

/// body(position, Count<n>): of n positions from there, place.step apart, that exist; tiles are taken
/// from the last one to the first if `backwards`.
template <int kCount>
struct Count {
    static constexpr int value = kCount;
};
template <class Body>
__device__ inline void for_positions(const ChannelWalk& walk, const ChannelPlace& place,
                                     bool backwards, const Body& body) {
    const std::uint32_t count = walk.positions.count;
    for (std::uint32_t t = blockIdx.y; t < walk.tiles; t += gridDim.y) {
        std::uint32_t p = place.first + (backwards ? walk.tiles - 1 - t : t) * place.tile;
        if (p + (kChannelLoads - 1) * place.step < count) {
            body(p, Count<kChannelLoads>());
            continue;
        }
#pragma unroll 1
        for (; p < count; p += place.step) body(p, Count<1>());
    }
}

}  // namespace fastconv::cuda
