// One walk over the elements of a few arrays of one shape, whatever their strides: the frame of every
// element-wise loop nest.
//
//   make_grid   dimensions sorted by the first operand's strides, its reversed ones turned around,
//               and merged where every operand is evenly spaced: identical dense layouts become one
//               flat row
//   for_tiles   cuts the grid into cache-sized tiles (rows, cols) and hands them to the threads. An
//               operand without unit stride along cols is gathered into scratch before and scattered
//               after (a transpose in registers where rows are its unit stride), so that a body
//               only ever sees rows of neighbours.
//
// Tiles depend on shapes and strides alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/kernels_copy.h"

namespace fastconv::cpu {

constexpr int kMaxOperands = 5;

struct Grid {
    int rank = 0;  // at least 2 after make_grid: (..., rows, cols)
    int operands = 0;
    std::int64_t size[kMaxRank + 1] = {};
    std::int64_t elems[kMaxOperands][kMaxRank + 1] = {};
    std::int64_t first[kMaxOperands] = {};  // offset of the element where the walk begins

    bool in_place[kMaxOperands] = {};  // unit stride along cols
    std::int64_t tile_rows = 1;
    std::int64_t tile_cols = 1;
    std::int64_t row_tiles = 0;
    std::int64_t col_tiles = 0;
    std::int64_t outer = 0;  // product of the other dimensions
    bool empty = false;

    std::int64_t rows() const { return size[rank - 2]; }
    std::int64_t cols() const { return size[rank - 1]; }
    std::int64_t row_elems(int operand) const { return elems[operand][rank - 2]; }
    std::int64_t col_elems(int operand) const { return elems[operand][rank - 1]; }
    std::int64_t tasks() const { return outer * row_tiles * col_tiles; }
};

/// The first operand, usually the result, decides the order of the walk. `may_turn`: a dimension may
/// be walked backwards.
Grid make_grid(const Tensor* const* operands, int count, bool may_turn);
inline Grid make_grid(std::initializer_list<const Tensor*> operands, bool may_turn = true) {
    return make_grid(operands.begin(), static_cast<int>(operands.size()), may_turn);
}

/// kNone: only the offset matters, the operand has no data.
enum Access : std::uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };

/// What a body gets: operand k's row r begins at data[k] + r * pitch[k].
template <class T>
struct Tile {
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    T* data[kMaxOperands] = {};
    std::int64_t pitch[kMaxOperands] = {};
    std::int64_t offset[kMaxOperands] = {};  // of the tile's first element, from the operand's data
    T* scratch = nullptr;         // kMaxOperands slots; slot k is free unless operand k is gathered
    std::int64_t slot_elems = 0;  // at least rows * cols

    /// Calls line(n, pointers...) for every row, or once if all rows follow each other.
    template <class Line>
    void for_lines(int operands, Line&& line) const {
        bool dense = true;
        for (int k = 0; k < operands; ++k) dense = dense && pitch[k] == cols;
        T* at[kMaxOperands] = {};
        for (std::int64_t r = 0; r < (dense ? 1 : rows); ++r) {
            for (int k = 0; k < operands; ++k) at[k] = data[k] + r * pitch[k];
            line(dense ? rows * cols : cols, at);
        }
    }
};

/// Threads worth waking for this much work: below 30 us the caller is done before they begin.
inline int threads_for(double nanoseconds, int threads) { return nanoseconds < 30e3 ? 1 : threads; }

/// Memory of one task: the thread's scratch, or where one line alone is too long for that (hundreds of
/// thousands of elements), a workspace that lives as long as `borrowed`.
inline void* tile_memory(std::size_t bytes, Workspace& borrowed) {
    if (bytes <= kMaxThreadScratch) return thread_scratch(bytes);
    borrowed = Workspace::acquire(bytes);
    return borrowed.data();
}

/// `at` itself where its columns are neighbours; else `slot`, (rows, cols), filled where it is read.
template <class T>
MatrixView<T> bring(const CopyKernels<T>& copy, std::int64_t rows, std::int64_t cols,
                    MatrixView<T> at, T* slot, Access access) {
    if (at.col_elems == 1) return at;
    if (access & kRead)
        copy.copy(rows, cols, {at.data, at.row_elems, at.col_elems}, {slot, cols, 1});
    return {slot, cols, 1};
}

/// Writes what `bring` brought back to where it came from.
template <class T>
void take_back(const CopyKernels<T>& copy, std::int64_t rows, std::int64_t cols,
               MatrixView<T> brought, MatrixView<T> at, Access access) {
    if (at.col_elems != 1 && (access & kWrite))
        copy.copy(rows, cols, {brought.data, brought.row_elems, 1}, at);
}

/// One of grid.tasks() tiles: brought, given to the body, taken back.
template <class T, class Body>
void run_tile(const Grid& grid, T* const* data, const Access* access, const Kernels<T>& kernels,
              std::int64_t task, Body&& body) {
    const std::int64_t col = task % grid.col_tiles * grid.tile_cols;
    task /= grid.col_tiles;
    const std::int64_t row = task % grid.row_tiles * grid.tile_rows;
    task /= grid.row_tiles;
    Tile<T> tile;
    tile.rows = std::min(grid.tile_rows, grid.rows() - row);
    tile.cols = std::min(grid.tile_cols, grid.cols() - col);
    for (int k = 0; k < grid.operands; ++k)
        tile.offset[k] = grid.first[k] + row * grid.row_elems(k) + col * grid.col_elems(k);
    for (int d = grid.rank - 3; d >= 0; --d) {
        const std::int64_t index = task % grid.size[d];
        task /= grid.size[d];
        for (int k = 0; k < grid.operands; ++k) tile.offset[k] += index * grid.elems[k][d];
    }
    tile.slot_elems = grid.tile_rows * grid.tile_cols;
    tile.scratch = static_cast<T*>(thread_scratch(sizeof(T) * tile.slot_elems * kMaxOperands));
    MatrixView<T> at[kMaxOperands];
    for (int k = 0; k < grid.operands; ++k) {
        if (access[k] == kNone) continue;
        at[k] = {data[k] + tile.offset[k], grid.row_elems(k), grid.col_elems(k)};
        const MatrixView<T> here = bring(*kernels.copy, tile.rows, tile.cols, at[k],
                                         tile.scratch + k * tile.slot_elems, access[k]);
        tile.data[k] = here.data;
        tile.pitch[k] = here.row_elems;
    }
    body(static_cast<const Tile<T>&>(tile));
    for (int k = 0; k < grid.operands; ++k)
        take_back(*kernels.copy, tile.rows, tile.cols, {tile.data[k], tile.pitch[k], 1}, at[k],
                  access[k]);
}

template <class T, class Body>
void for_tiles(const Grid& grid, T* const* data, const Access* access, const Kernels<T>& kernels,
               int threads, Body&& body) {
    if (grid.empty) return;
    parallel_for(grid.tasks(), threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        run_tile(grid, data, access, kernels, task, body);
    });
}

}  // namespace fastconv::cpu
