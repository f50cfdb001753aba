// Tiles and groups of a walk by channels; see channel_walk.h.
#include "cpu/channel_walk.h"

#include <cstdlib>

#include "core/ceil_div.h"

namespace fastconv::cpu {
namespace {

// Per column: 128 KB of float32, half an L2 of 256 KB; at most 256 rows, so that no sum in T has more
// terms, and at least 16, so that joining sums in float64 stays a small part.
constexpr std::int64_t kColumnElements = 32768;
constexpr std::int64_t kLeastRows = 16, kMostRows = 256;
// Per tile: 32 KB of float32, an L1.
constexpr std::int64_t kTileElements = 8192;
// A task: 256 KB of float32, 10 us or more. A channel of at most 512 KB of float32 is one task's, which
// can use it again while it is in cache, if there are channels enough for the threads of any machine
// to share.
constexpr std::int64_t kTaskElements = 65536;
constexpr std::int64_t kWholeChannel = 131072;
constexpr std::int64_t kManyChannels = 16;

}  // namespace

ChannelWalk walk_channels(std::initializer_list<const Tensor*> operands, int axis) {
    ChannelWalk walk;
    Tensor rest[kMaxOperands];
    const Tensor* pointers[kMaxOperands];
    int count = 0;
    for (const Tensor* operand : operands) {
        if (!operand) continue;
        rest[count] = without_axis(*operand, axis);
        pointers[count] = &rest[count];
        walk.channel_elems[count++] = operand->elems[axis];
    }
    walk.grid = make_grid(pointers, count, true);
    const Grid& grid = walk.grid;
    walk.channels = (*operands.begin())->size[axis];
    walk.positions = rest[0].count();
    walk.elements = static_cast<double>(walk.positions) * static_cast<double>(walk.channels);
    if (walk.positions == 0 || walk.channels == 0) return walk;
    walk.per_column = walk.channels > 1 &&
                      std::abs(walk.channel_elems[0]) < std::abs(grid.col_elems(0));
    if (walk.per_column) {
        walk.tile_cols = std::min(
            grid.cols(), std::clamp(kColumnElements / walk.channels, kLeastRows, kMostRows));
        walk.channels_per_task = walk.channels;
    } else {
        walk.tile_cols = std::min(grid.cols(), kTileElements);
        walk.tile_rows = std::clamp<std::int64_t>(kTileElements / walk.tile_cols, 1, grid.rows());
        walk.channels_per_task =
            std::clamp<std::int64_t>(kTaskElements / walk.positions, 1, walk.channels);
    }
    walk.row_tiles = ceil_div(grid.rows(), walk.tile_rows);
    walk.col_tiles = ceil_div(grid.cols(), walk.tile_cols);
    walk.tiles = grid.outer * walk.row_tiles * walk.col_tiles;
    const std::int64_t at_once = walk.per_column ? walk.channels : 1;
    walk.tiles_per_group = std::max<std::int64_t>(
        1, kTaskElements / (walk.tile_rows * walk.tile_cols * at_once));
    if (!walk.per_column && walk.channels >= kManyChannels && walk.positions <= kWholeChannel)
        walk.tiles_per_group = walk.tiles;
    return walk;
}

TilePlace place_tile(const ChannelWalk& walk, std::int64_t tile) {
    const Grid& grid = walk.grid;
    TilePlace place;
    const std::int64_t col = tile % walk.col_tiles * walk.tile_cols;
    tile /= walk.col_tiles;
    const std::int64_t row = tile % walk.row_tiles * walk.tile_rows;
    tile /= walk.row_tiles;
    place.rows = std::min(walk.tile_rows, grid.rows() - row);
    place.cols = std::min(walk.tile_cols, grid.cols() - col);
    for (int k = 0; k < grid.operands; ++k)
        place.offset[k] = grid.first[k] + row * grid.row_elems(k) + col * grid.col_elems(k);
    for (int d = grid.rank - 3; d >= 0; --d) {
        const std::int64_t index = tile % grid.size[d];
        tile /= grid.size[d];
        for (int k = 0; k < grid.operands; ++k) place.offset[k] += index * grid.elems[k][d];
    }
    return place;
}

double ChannelWalk::positions_of_group(std::int64_t group) const {
    double sum = 0;
    const std::int64_t end = std::min((group + 1) * tiles_per_group, tiles);
    for (std::int64_t t = group * tiles_per_group; t < end; ++t) {
        const TilePlace place = place_tile(*this, t);
        sum += static_cast<double>(place.rows * place.cols);
    }
    return sum;
}

}  // namespace fastconv::cpu
