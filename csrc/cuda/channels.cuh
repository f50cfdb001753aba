// Arrays as (positions, channels): how the kernels of batch normalization walk them.
//
//   columns    channels are neighbours in memory (channels last): a block has blockDim.x items of
//              channels and walks down a slab of positions with blockDim.y threads abreast
//   runs       otherwise: a block has one channel and walks a slab of its positions
//
// Both take kLoads items a thread at once. Which form, and 16-byte or single accesses, follows from
// shapes, strides and addresses; slabs from these and the number of multiprocessors.
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
    std::uint32_t slab = 0;   // positions of a slab
    std::uint32_t slabs = 0;
    int threads_x = kChannelThreads;

    dim3 block() const {
        return dim3(static_cast<unsigned>(threads_x),
                    static_cast<unsigned>(kChannelThreads / threads_x));
    }
    dim3 grid() const {
        const auto x = static_cast<std::uint32_t>(columns ? threads_x : 1);
        return dim3((channel_items + x - 1) / x, slabs);
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

/// `operands` are anchored where their walk begins. `blocks_each`: blocks wanted a multiprocessor; 2
/// or 3 run at once, more even out the end, and each has its partial sums and parameters.
inline ChannelWalk walk_channels(std::initializer_list<const Tensor*> tensors, int axis,
                                 int blocks_each, Operand* operands) {
    Layout layout = layout_of(tensors, axis);
    const Tensor& first = **tensors.begin();
    const std::int64_t channels = first.size[axis], positions = layout.count();
    if (positions > kMaxItems || channels > kMaxItems)
        throw std::invalid_argument("batch_norm: more than 2^31 channels or values per channel");
    ChannelWalk walk;
    const int pack = pack_elems_of(first.dtype);
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
    // At least two rounds of loads a thread, at most kMostTerms.
    const std::int64_t items = walk.positions.count;
    const std::int64_t abreast = walk.columns ? walk.block().y : kChannelThreads;
    const std::int64_t across = std::max<std::int64_t>(walk.grid().x, 1);
    const std::int64_t most = std::max<std::int64_t>(items / (2 * abreast * kChannelLoads), 1);
    const std::int64_t blocks = std::int64_t{device(current_device()).multiprocessors} * blocks_each;
    const std::int64_t wanted = (blocks + across - 1) / across;
    const std::int64_t fewest = (items + abreast * kMostTerms - 1) / (abreast * kMostTerms);
    const std::int64_t slabs =
        std::min<std::int64_t>(std::max(std::min(wanted, most), fewest), 65535);
    walk.slab = static_cast<std::uint32_t>((items + slabs - 1) / slabs);
    walk.slabs = walk.slab ? static_cast<std::uint32_t>((items + walk.slab - 1) / walk.slab) : 0;
    return walk;
}

/// Where a thread works: positions first, first + step, ... below end.
struct ChannelPlace {
    std::uint32_t channel;  // item as columns, else channel; exists if below channel_items
    std::uint32_t first, end, step;
};

__device__ inline ChannelPlace place_of(const ChannelWalk& walk, std::uint32_t slab) {
    ChannelPlace place;
    const std::uint32_t begin = slab * walk.slab;
    const std::uint32_t count = walk.positions.count;
    place.end = walk.slab < count - begin ? begin + walk.slab : count;
    if (walk.columns) {
        place.channel = blockIdx.x * blockDim.x + threadIdx.x;
        place.first = begin + threadIdx.y;
        place.step = blockDim.y;
    } else {
        place.channel = blockIdx.x;
        place.first = begin + threadIdx.x;
        place.step = blockDim.x;
    }
    return place;
}

}  // namespace fastconv::cuda
