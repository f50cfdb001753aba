// Lines along one axis of a few arrays of one shape, whatever their strides: the frame of softmax and of
// local response normalization.
//
// Where the axis has the smaller stride, a tile is some lines as rows; else some neighbouring lines
// as columns. An operand whose neighbours lie elsewhere is gathered into scratch and the result
// scattered, a transpose at most. Tiles depend on shapes and strides alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/grid.h"

namespace fastconv::cpu {

constexpr int kMaxLineOperands = 3;

struct Lines {
    Grid grid;  // of the other axes
    std::int64_t length = 0;
    std::int64_t step[kMaxLineOperands] = {};  // along the axis
    bool as_rows = true;
    std::int64_t lines_per_tile = 1;
    std::int64_t tiles = 0;  // along the grid's innermost dimension

    std::int64_t tasks() const { return grid.empty ? 0 : grid.outer * grid.rows() * tiles; }
    double elements() const {
        return static_cast<double>(tasks()) * static_cast<double>(lines_per_tile * length);
    }
    std::int64_t most_rows() const { return as_rows ? lines_per_tile : length; }
    std::int64_t most_cols() const { return as_rows ? length : lines_per_tile; }
};

/// Operand 0 is the result and decides the order.
Lines cut_lines(const Tensor* const* operands, int count, int axis);

/// body(rows, cols, views, extra) for every tile: operand 0 is written, the others are read, all
/// have col_elems == 1; `extra` is scratch of extra_elems elements.
template <class T, class Body>
void for_lines(const Lines& lines, T* const* data, std::int64_t extra_elems,
               const Kernels<T>& kernels, int threads, Body&& body) {
    const Grid& grid = lines.grid;
    parallel_for(lines.tasks(), threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::int64_t first = task % lines.tiles * lines.lines_per_tile;
        task /= lines.tiles;
        const std::int64_t count = std::min(lines.lines_per_tile, grid.cols() - first);
        std::int64_t offset[kMaxLineOperands] = {};
        for (int k = 0; k < grid.operands; ++k)
            offset[k] = grid.first[k] + first * grid.col_elems(k);
        for (int d = grid.rank - 2; d >= 0; --d) {
            const std::int64_t index = task % grid.size[d];
            task /= grid.size[d];
            for (int k = 0; k < grid.operands; ++k) offset[k] += index * grid.elems[k][d];
        }
        const std::int64_t rows = lines.as_rows ? count : lines.length;
        const std::int64_t cols = lines.as_rows ? lines.length : count;
        MatrixView<T> at[kMaxLineOperands], view[kMaxLineOperands];
        std::int64_t gathered = 0;
        for (int k = 0; k < grid.operands; ++k) {
            at[k].data = data[k] + offset[k];
            at[k].row_elems = lines.as_rows ? grid.col_elems(k) : lines.step[k];
            at[k].col_elems = lines.as_rows ? lines.step[k] : grid.col_elems(k);
            if (cols == 1) at[k].col_elems = 1;
            if (at[k].col_elems != 1) gathered += rows * cols;
        }
        Workspace borrowed;
        const std::int64_t elems = extra_elems + gathered;
        T* const extra = elems == 0 ? nullptr
                                    : static_cast<T*>(tile_memory(
                                          sizeof(T) * static_cast<std::size_t>(elems), borrowed));
        T* slot = extra + extra_elems;
        for (int k = 0; k < grid.operands; ++k) {
            view[k] = bring(*kernels.copy, rows, cols, at[k], slot, k == 0 ? kWrite : kRead);
            if (at[k].col_elems != 1) slot += rows * cols;
        }
        body(rows, cols, static_cast<const MatrixView<T>*>(view), extra);
        take_back(*kernels.copy, rows, cols, view[0], at[0], kWrite);
    });
}

}  // namespace fastconv::cpu
