// A walk over arrays (..., C, ...) in which every channel has sums or parameters of its own: the frame
// of batch normalization.
//
//   per column   where channels are closer in memory than positions: tiles (positions, C)
//   per tile     else: tiles (rows, cols) of positions, one channel after the other
//
// A task is a group of neighbouring tiles for some channels (all, per column). Groups depend on
// shape and strides alone, so that sums over a group, joined in order, have the same bits for any
// number of threads.
#pragma once

#include <algorithm>

#include "cpu/grid.h"

namespace fastconv::cpu {

struct ChannelWalk {
    Grid grid;  // of the positions
    std::int64_t channels = 0;
    std::int64_t channel_elems[kMaxOperands] = {};
    std::int64_t positions = 0;
    double elements = 0;
    bool per_column = false;
    std::int64_t tile_rows = 1, tile_cols = 1;  // positions
    std::int64_t row_tiles = 0, col_tiles = 0, tiles = 0;
    std::int64_t tiles_per_group = 1;
    std::int64_t channels_per_task = 1;

    /// Whether sums over tiles and groups have the same order, and so the same bits.
    bool cuts_as(const ChannelWalk& other) const {
        return tile_rows == other.tile_rows && tile_cols == other.tile_cols && tiles == other.tiles &&
               tiles_per_group == other.tiles_per_group && per_column == other.per_column;
    }
    std::int64_t groups() const { return (tiles + tiles_per_group - 1) / tiles_per_group; }
    std::int64_t channel_tasks() const {
        return (channels + channels_per_task - 1) / channels_per_task;
    }
    double positions_of_group(std::int64_t group) const;
};

/// Where a tile of positions begins in each operand (channel 0), and its size.
struct TilePlace {
    std::int64_t offset[kMaxOperands] = {};
    std::int64_t rows = 0, cols = 0;
};
TilePlace place_tile(const ChannelWalk& walk, std::int64_t tile);

/// The first operand decides the order of the walk and which form it has; others may be null, and are
/// left out then.
ChannelWalk walk_channels(std::initializer_list<const Tensor*> operands, int axis);

template <class T>
struct ChannelTask {
    const ChannelWalk& walk;
    T* const* data;
    const Access* access;
    const CopyKernels<T>& copy;
    std::int64_t group;
    std::int64_t first_channel, channels;
    T* slots;    // (operands, tile) for what cannot stay in place
    T* partial;  // (3, channels at once) for the body

    /// body(channel, channels, positions before in this group, positions, views, rows, cols): one
    /// matrix of `channels` channels from `channel` (counted from first_channel) on.
    template <class Body>
    void for_tiles(Body&& body) const {
        const std::int64_t begin = group * walk.tiles_per_group;
        const std::int64_t end = std::min(begin + walk.tiles_per_group, walk.tiles);
        double before = 0;
        for (std::int64_t t = begin; t < end; ++t) {
            const TilePlace place = place_tile(walk, t);
            const double positions = static_cast<double>(place.rows * place.cols);
            const std::int64_t steps = walk.per_column ? 1 : channels;
            for (std::int64_t c = 0; c < steps; ++c) {
                MatrixView<T> at[kMaxOperands], view[kMaxOperands];
                const std::int64_t rows = walk.per_column ? place.cols : place.rows;
                const std::int64_t cols = walk.per_column ? channels : place.cols;
                for (int k = 0; k < walk.grid.operands; ++k) {
                    const std::int64_t across = walk.grid.col_elems(k);
                    const std::int64_t channel = walk.channel_elems[k];
                    at[k].data = data[k] + place.offset[k] + (first_channel + c) * channel;
                    at[k].row_elems = walk.per_column ? across : walk.grid.row_elems(k);
                    at[k].col_elems = cols == 1 ? 1 : walk.per_column ? channel : across;
                    T* const slot =
                        slots + k * walk.tile_rows * walk.tile_cols * (walk.per_column ? cols : 1);
                    view[k] = bring(copy, rows, cols, at[k], slot, access[k]);
                }
                body(c, walk.per_column ? channels : 1, before, positions,
                     static_cast<const MatrixView<T>*>(view), rows, cols);
                for (int k = 0; k < walk.grid.operands; ++k)
                    take_back(copy, rows, cols, view[k], at[k], access[k]);
            }
            before += positions;
        }
    }
};

template <class T, class Body>
void for_channel_tasks(const ChannelWalk& walk, T* const* data, const Access* access,
                       const Kernels<T>& kernels, int threads, Body&& body) {
    const std::int64_t at_once = walk.per_column ? walk.channels : 1;
    const std::int64_t slot = walk.tile_rows * walk.tile_cols * at_once;
    const std::int64_t channel_tasks = walk.channel_tasks();
    parallel_for(walk.groups() * channel_tasks, threads, FloatMode::kIeee,
                 [&](std::int64_t index, int) {
        Workspace borrowed;
        const std::int64_t elems = 3 * at_once + slot * walk.grid.operands;
        T* const memory = static_cast<T*>(
            tile_memory(sizeof(T) * static_cast<std::size_t>(elems), borrowed));
        const std::int64_t first = index % channel_tasks * walk.channels_per_task;
        ChannelTask<T> task{walk,
                            data,
                            access,
                            *kernels.copy,
                            index / channel_tasks,
                            first,
                            std::min(walk.channels_per_task, walk.channels - first),
                            memory + 3 * at_once,
                            memory};
        body(task);
    });
}

}  // namespace fastconv::cpu
