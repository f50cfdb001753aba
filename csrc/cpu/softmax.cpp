// Softmax and log-softmax along any axis of arrays of any strides, forward and backward.
//
// Lines run along the axis. Where the axis has the smaller stride, a tile is some lines as rows;
// else some neighbouring lines as columns. An operand whose neighbours lie elsewhere is gathered
// into scratch and the result scattered, a transpose at most.
#include <cstdlib>

#include "cpu/grid.h"
#include "cpu/kernels_softmax.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 1.5;  // nanoseconds an element, roughly
constexpr std::int64_t kTileElements = 8192;  // 32 KB of float32 an operand: three passes from L2

/// Lines along one axis of up to three arrays; operand 0 is the result.
struct Lines {
    Grid grid;  // of the other axes
    std::int64_t length = 0;
    std::int64_t step[kMaxOperands] = {};  // along the axis
    bool as_rows = true;
    std::int64_t lines_per_tile = 1;
    std::int64_t tiles = 0;  // along the grid's innermost dimension

    std::int64_t tasks() const {
        return grid.empty ? 0 : grid.outer * grid.rows() * tiles;
    }
};

Tensor without_axis(const Tensor& x, int axis) {
    Tensor rest = x;
    for (int d = axis; d + 1 < x.rank; ++d) {
        rest.size[d] = x.size[d + 1];
        rest.elems[d] = x.elems[d + 1];
    }
    --rest.rank;
    return rest;
}

Lines cut_lines(const Tensor* const* operands, int count, int axis) {
    Tensor rest[3];
    for (int k = 0; k < count; ++k) rest[k] = without_axis(*operands[k], axis);
    Lines lines;
    lines.grid = count == 2 ? make_grid({&rest[0], &rest[1]})
                            : make_grid({&rest[0], &rest[1], &rest[2]});
    lines.length = operands[0]->size[axis];
    lines.grid.empty = lines.grid.empty || lines.length == 0;
    for (int k = 0; k < count; ++k) lines.step[k] = lines.length == 1 ? 1 : operands[k]->elems[axis];
    lines.as_rows = std::abs(lines.step[0]) <= std::abs(lines.grid.col_elems(0));
    const std::int64_t least = lines.as_rows ? 1 : 64;  // columns: four vectors of the widest ISA
    const std::int64_t fitting =
        kTileElements / std::max<std::int64_t>(lines.length, 1) / least * least;
    lines.lines_per_tile = std::clamp(fitting, least, std::max(least, lines.grid.cols()));
    lines.tiles = (lines.grid.cols() + lines.lines_per_tile - 1) / lines.lines_per_tile;
    return lines;
}

/// body(tile) for every tile of lines, operands other than 0 read, 0 written.
template <class T, class Body>
void for_lines(const Lines& lines, T* const* data, const Kernels<T>& kernels, int threads,
               Body&& body) {
    const Grid& grid = lines.grid;
    const double elements = static_cast<double>(lines.tasks()) *
                            static_cast<double>(lines.lines_per_tile * lines.length);
    parallel_for(lines.tasks(), threads_for(kCost * elements, threads), FloatMode::kIeee,
                 [&](std::int64_t task, int) {
        const std::int64_t first = task % lines.tiles * lines.lines_per_tile;
        task /= lines.tiles;
        const std::int64_t count = std::min(lines.lines_per_tile, grid.cols() - first);
        std::int64_t offset[3] = {};
        for (int k = 0; k < grid.operands; ++k)
            offset[k] = grid.first[k] + first * grid.col_elems(k);
        for (int d = grid.rank - 2; d >= 0; --d) {
            const std::int64_t index = task % grid.size[d];
            task /= grid.size[d];
            for (int k = 0; k < grid.operands; ++k) offset[k] += index * grid.elems[k][d];
        }
        SoftmaxTile<T> tile;
        tile.rows = lines.as_rows ? count : lines.length;
        tile.cols = lines.as_rows ? lines.length : count;
        MatrixView<T> at[3];
        bool gathers = false;
        for (int k = 0; k < grid.operands; ++k) {
            at[k].data = data[k] + offset[k];
            at[k].row_elems = lines.as_rows ? grid.col_elems(k) : lines.step[k];
            at[k].col_elems = lines.as_rows ? lines.step[k] : grid.col_elems(k);
            if (tile.cols == 1) at[k].col_elems = 1;
            gathers = gathers || at[k].col_elems != 1;
        }
        const std::int64_t slot = tile.rows * tile.cols;
        const auto bytes = sizeof(T) * static_cast<std::size_t>(slot * grid.operands);
        Workspace borrowed;
        T* const scratch = gathers ? static_cast<T*>(tile_memory(bytes, borrowed)) : nullptr;
        for (int k = 0; k < grid.operands; ++k) {
            const MatrixView<T> here = bring(*kernels.copy, tile.rows, tile.cols, at[k],
                                             scratch + k * slot, k == 0 ? kWrite : kRead);
            tile.data[k] = here.data;
            tile.pitch[k] = here.row_elems;
        }
        body(tile);
        take_back(*kernels.copy, tile.rows, tile.cols, {tile.data[0], tile.pitch[0], 1}, at[0],
                  kWrite);
    });
}

template <class T>
void run(SoftmaxKind kind, const Tensor* const* operands, int count, int axis, const Isa& isa,
         int threads) {
    const Lines lines = cut_lines(operands, count, axis);
    const Kernels<T>& kernels = isa.kernels<T>();
    const SoftmaxFunction<T> function =
        (lines.as_rows ? kernels.softmax->along_rows : kernels.softmax->down_columns)[kind];
    T* data[3] = {};
    for (int k = 0; k < count; ++k) data[k] = static_cast<T*>(operands[k]->data);
    for_lines<T>(lines, data, kernels, threads,
                 [&](const SoftmaxTile<T>& tile) { function(tile); });
}

}  // namespace

void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 const Isa& isa, int threads) {
    const Tensor* operands[] = {&result, &a, b};
    const int count = b ? 3 : 2;
    if (result.dtype == DType::kFloat32)
        return run<float>(kind, operands, count, axis, isa, threads);
    run<double>(kind, operands, count, axis, isa, threads);
}

}  // namespace fastconv::cpu
