// Sorting, turning and merging dimensions, and the choice of tiles; see grid.h.
#include "cpu/grid.h"

#include <cstdlib>

namespace fastconv::cpu {
namespace {

// Elements a tile where everything is walked in place: 64 KB of float32, so that handing a tile out
// (50 ns) is noise. Where something is gathered, all operands' tiles stay in L1: 16 KB of float32.
constexpr std::int64_t kTileInPlace = 16384;
constexpr std::int64_t kTileGathered = 4096;
constexpr std::int64_t kGatheredSide = 64;

void swap_dimensions(Grid& grid, int a, int b) {
    std::swap(grid.size[a], grid.size[b]);
    for (int k = 0; k < grid.operands; ++k) std::swap(grid.elems[k][a], grid.elems[k][b]);
}

void turn_and_sort(Grid& grid, bool may_turn) {
    for (int d = 0; may_turn && d < grid.rank; ++d) {
        if (grid.elems[0][d] >= 0) continue;
        for (int k = 0; k < grid.operands; ++k) {
            grid.first[k] += (grid.size[d] - 1) * grid.elems[k][d];
            grid.elems[k][d] = -grid.elems[k][d];
        }
    }
    for (int i = 1; i < grid.rank; ++i)
        for (int d = i; d > 0 && std::abs(grid.elems[0][d - 1]) < std::abs(grid.elems[0][d]); --d)
            swap_dimensions(grid, d - 1, d);
}

void merge(Grid& grid) {
    int last = 0;
    for (int d = 1; d < grid.rank; ++d) {
        bool even = true;
        for (int k = 0; k < grid.operands; ++k)
            even = even && grid.elems[k][last] == grid.elems[k][d] * grid.size[d];
        if (even) {
            grid.size[last] *= grid.size[d];
        } else {
            grid.size[++last] = grid.size[d];
        }
        for (int k = 0; k < grid.operands; ++k) grid.elems[k][last] = grid.elems[k][d];
    }
    grid.rank = last + 1;
}

// (..., rows, cols): cols stay innermost; rows become the dimension along which the first operand
// that cannot be walked in place has neighbours.
void choose_rows(Grid& grid) {
    if (grid.rank == 1) {
        grid.size[1] = grid.size[0];
        grid.size[0] = 1;
        for (int k = 0; k < grid.operands; ++k) {
            grid.elems[k][1] = grid.elems[k][0];
            grid.elems[k][0] = grid.size[1] * grid.elems[k][1];
        }
        grid.rank = 2;
    }
    for (int k = 0; k < grid.operands; ++k) {
        if (grid.in_place[k]) continue;
        for (int d = 0; d < grid.rank - 2; ++d)
            if (std::abs(grid.elems[k][d]) == 1) return swap_dimensions(grid, d, grid.rank - 2);
    }
}

}  // namespace

Grid make_grid(const Tensor* const* operands, int count, bool may_turn) {
    Grid grid;
    const Tensor& shape = *operands[0];
    grid.operands = count;
    for (int d = 0; d < shape.rank; ++d) {
        if (shape.size[d] == 0) grid.empty = true;
        if (shape.size[d] == 1) continue;
        grid.size[grid.rank] = shape.size[d];
        for (int k = 0; k < count; ++k) grid.elems[k][grid.rank] = operands[k]->elems[d];
        ++grid.rank;
    }
    if (grid.rank == 0) {
        grid.rank = grid.size[0] = 1;
        for (int k = 0; k < grid.operands; ++k) grid.elems[k][0] = 1;
    }
    turn_and_sort(grid, may_turn);
    merge(grid);
    bool all_in_place = true;
    for (int k = 0; k < grid.operands; ++k) {
        grid.in_place[k] = grid.elems[k][grid.rank - 1] == 1;
        all_in_place = all_in_place && grid.in_place[k];
    }
    choose_rows(grid);
    if (all_in_place) {
        grid.tile_cols = std::clamp<std::int64_t>(grid.cols(), 1, kTileInPlace);
        grid.tile_rows = kTileInPlace / grid.tile_cols;
    } else {
        const std::int64_t rows = std::clamp<std::int64_t>(grid.rows(), 1, kGatheredSide);
        grid.tile_cols = std::clamp<std::int64_t>(grid.cols(), 1, kTileGathered / rows);
        grid.tile_rows = kTileGathered / grid.tile_cols;
    }
    grid.tile_rows = std::clamp<std::int64_t>(grid.rows(), 1, grid.tile_rows);
    grid.row_tiles = (grid.rows() + grid.tile_rows - 1) / grid.tile_rows;
    grid.col_tiles = (grid.cols() + grid.tile_cols - 1) / grid.tile_cols;
    grid.outer = 1;
    for (int d = 0; d < grid.rank - 2; ++d) grid.outer *= grid.size[d];
    return grid;
}

}  // namespace fastconv::cpu
