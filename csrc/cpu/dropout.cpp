// Dropout: y = x * factor, the factor a function of (seed, position in C order of the shape) alone.
//
// The position is a third operand of the grid, without data: an array of the shape whose C-order
// strides lead to it. Where a tile's rows hold neighbours in that order, factors are made straight
// into a line; where its columns do (channels last), they are made column by column, four elements
// a counter all the same, and transposed; anything else takes one counter an element.
#include "core/float_mode.h"
#include "cpu/grid.h"
#include "cpu/kernels_dropout.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 1.0;            // nanoseconds an element, roughly
constexpr std::int64_t kPiece = 1024;    // factors made before they are used: 4 KB, in L1

struct Draw {
    std::uint64_t seed;
    std::uint64_t threshold;
    double scale;
};

template <class T>
void along_lines(const Tile<T>& tile, const Draw& draw, std::int64_t row_step,
                 const DropoutKernels<T>& kernels) {
    T factor[kPiece];
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        const T* x = tile.data[1] + r * tile.pitch[1];
        T* y = tile.data[0] + r * tile.pitch[0];
        for (std::int64_t c = 0; c < tile.cols; c += kPiece) {
            const std::int64_t n = std::min(kPiece, tile.cols - c);
            const auto first = static_cast<std::uint64_t>(tile.offset[2] + r * row_step + c);
            kernels.factors(n, first, draw.seed, draw.threshold, static_cast<T>(draw.scale),
                            factor);
            kernels.apply(n, x + c, factor, y + c);
        }
    }
}

template <class T>
void across_lines(const Tile<T>& tile, const Draw& draw, std::int64_t row_step,
                  std::int64_t col_step, const Kernels<T>& kernels) {
    T* const drawn = tile.scratch + 3 * tile.slot_elems;   // (cols, rows)
    T* const factor = tile.scratch + 2 * tile.slot_elems;  // (rows, cols)
    const T scale = static_cast<T>(draw.scale);
    for (std::int64_t c = 0; c < tile.cols; ++c) {
        T* const line = drawn + c * tile.rows;
        const auto first = static_cast<std::uint64_t>(tile.offset[2] + c * col_step);
        if (row_step == 1) {
            kernels.dropout->factors(tile.rows, first, draw.seed, draw.threshold, scale, line);
            continue;
        }
        for (std::int64_t r = 0; r < tile.rows; ++r)
            kernels.dropout->factors(1, first + static_cast<std::uint64_t>(r * row_step),
                                     draw.seed, draw.threshold, scale, line + r);
    }
    kernels.copy->copy(tile.rows, tile.cols, {drawn, 1, tile.rows}, {factor, tile.cols, 1});
    for (std::int64_t r = 0; r < tile.rows; ++r)
        kernels.dropout->apply(tile.cols, tile.data[1] + r * tile.pitch[1],
                               factor + r * tile.cols, tile.data[0] + r * tile.pitch[0]);
}

template <class T>
void run(const Tensor& x, const Tensor& y, const Draw& draw, const Isa& isa, int threads) {
    Tensor position = y;
    std::int64_t step = 1;
    for (int d = y.rank - 1; d >= 0; --d) {
        position.elems[d] = step;
        step *= y.size[d];
    }
    const Grid grid = make_grid({&y, &x, &position});
    const Kernels<T>& kernels = isa.kernels<T>();
    T* const data[] = {static_cast<T*>(y.data), static_cast<T*>(x.data), nullptr};
    const Access access[] = {kWrite, kRead, kNone};
    threads = threads_for(kCost * static_cast<double>(y.count()), threads);
    for_tiles<T>(grid, data, access, kernels, threads, [&](const Tile<T>& tile) {
        if (grid.in_place[2]) return along_lines(tile, draw, grid.row_elems(2), *kernels.dropout);
        across_lines(tile, draw, grid.row_elems(2), grid.col_elems(2), kernels);
    });
}

}  // namespace

double dropout_scale(double p) {
    const FloatModeScope scope(FloatMode::kIeee);
    return p < 1 ? 1 / (1 - p) : 0;
}

void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, const Isa& isa, int threads) {
    const Draw draw{seed, threshold, scale};
    if (y.dtype == DType::kFloat32) return run<float>(x, y, draw, isa, threads);
    run<double>(x, y, draw, isa, threads);
}

}  // namespace fastconv::cpu
