// y[n, k] = relu?( sum over c of x[n, c] * W[k, c] + bias[k] ) by dot products: nothing is packed.
//
// A small batch reads W once at the memory's speed: six rows of it stream by. A large one is cut
// into blocks of rows of x that stay in L2 by a depth block (768 floats), against which six rows of
// W stay in L1. The sums of lanes of some columns wait in scratch between depth blocks. Any strides:
// rows without unit stride are copied a depth block at a time.
// An element's order of summation depends on C alone: the same bits for any batch and any thread.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_dot.h"
#include "cpu/linear.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kDepthBytes = 3072;  // of one row: 6 rows of W are 18 of 32 KB of L1
constexpr std::int64_t kMostRows = 96;      // 288 KB of x in L2
constexpr std::int64_t kGroupCols = 24;     // 96 x 24 sums of 64 bytes: 147 KB
constexpr std::int64_t kMacsWorthThreads = 1 << 15;

struct Scratch {
    std::size_t sums, x, w, bytes;

    template <class T>
    static Scratch of(const LinearPlan& plan, const DotKernels<T>& kernels) {
        const auto aligned = [](std::int64_t elems) {
            return (static_cast<std::size_t>(elems) * sizeof(T) + 63) / 64 * 64;
        };
        const std::int64_t depth = kDepthBytes / static_cast<std::int64_t>(sizeof(T));
        Scratch s;
        s.sums = 0;
        s.x = s.sums + aligned(plan.block_rows * plan.group_cols * kernels.lanes);
        s.w = s.x + (plan.strides.x.col_elems == 1 ? 0 : aligned(plan.block_rows * depth));
        s.bytes = s.w + (plan.strides.weight.col_elems == 1 ? 0 : aligned(kernels.max_cols * depth));
        return s;
    }
};

template <class T>
class ForwardTask {
public:
    ForwardTask(const LinearPlan& plan, const LinearPointers& pointers, std::int64_t task)
        : plan_(plan), pointers_(pointers), dot_(*plan.isa->kernels<T>().dot),
          copy_(*plan.isa->kernels<T>().copy), layout_(Scratch::of(plan, dot_)),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))) {
        const std::int64_t row_blocks = ceil_div(plan.problem.batch, plan.block_rows);
        row_ = task % row_blocks * plan.block_rows;
        rows_ = std::min(plan.block_rows, plan.problem.batch - row_);
        col_begin_ = task / row_blocks * plan.block_cols;
        col_end_ = std::min(col_begin_ + plan.block_cols, plan.problem.out);
    }

    void run() const {
        for (std::int64_t col = col_begin_; col < col_end_; col += plan_.group_cols)
            run_group(col, std::min(plan_.group_cols, col_end_ - col));
    }

private:
    T* at(std::size_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }

    void run_group(std::int64_t col, std::int64_t cols) const {
        const std::int64_t block = kDepthBytes / static_cast<std::int64_t>(sizeof(T));
        DotTile<T> tile;
        tile.sums_pitch = plan_.group_cols;
        tile.relu = pointers_.relu;
        const T* x = static_cast<const T*>(pointers_.x) + row_ * plan_.strides.x.row_elems;
        for (std::int64_t d = 0; d == 0 || d < plan_.problem.in; d += block) {
            tile.first = d == 0;
            tile.depth = std::min(block, plan_.problem.in - d);
            tile.last = d + tile.depth == plan_.problem.in;
            take(x + d * plan_.strides.x.col_elems, plan_.strides.x, rows_, tile.depth,
                 at(layout_.x), tile.x, tile.x_pitch);
            run_columns(tile, col, cols, d);
        }
    }

    // All rows against `cols` columns, a depth block: six rows of W at a time.
    void run_columns(DotTile<T>& tile, std::int64_t col, std::int64_t cols, std::int64_t d) const {
        const MatrixStrides& w = plan_.strides.weight;
        const T* const x = tile.x;
        const std::int64_t tiles = ceil_div(rows_, dot_.max_rows);
        const T* bias = static_cast<const T*>(pointers_.bias);
        const MatrixStrides& y = plan_.strides.y;
        T* const out = static_cast<T*>(pointers_.y) + row_ * y.row_elems + col * y.col_elems;
        for (std::int64_t k = 0; k < cols; k += dot_.max_cols) {
            const std::int64_t some = std::min<std::int64_t>(dot_.max_cols, cols - k);
            take(static_cast<const T*>(pointers_.weight) + (col + k) * w.row_elems + d * w.col_elems,
                 w, some, tile.depth, at(layout_.w), tile.w, tile.w_pitch);
            if (bias) tile.bias = bias + col + k;
            for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
                const std::int64_t next = rows_ * (t + 1) / tiles;
                tile.x = x + row * tile.x_pitch;
                fetch_ahead(tile, col, cols, k, d, t);
                tile.sums = at(layout_.sums) + (row * tile.sums_pitch + k) * dot_.lanes;
                tile.out = {out + row * y.row_elems + k * y.col_elems, y.row_elems, y.col_elems};
                dot_.tile[next - row][some](tile);
                row = next;
            }
        }
        tile.x = x;
    }

    // Tile `t` fetches two of the rows of W that come after those of columns k: of the same depth, or
    // after the last of a group of the next. Without it six rows come from memory while the first
    // tile waits: 16 rows against 411 MB of W took 2.1 times as long as reading it.
    void fetch_ahead(DotTile<T>& tile, std::int64_t col, std::int64_t cols, std::int64_t k,
                     std::int64_t d, std::int64_t t) const {
        const MatrixStrides& w = plan_.strides.weight;
        if (w.col_elems != 1) return;
        std::int64_t next = col + k + dot_.max_cols, depth = d;
        if (k + dot_.max_cols >= cols) {
            depth = d + tile.depth;
            next = tile.last ? col + cols : col;
            if (tile.last) depth = 0;
        }
        for (int i = 0; i < 2; ++i) {
            const std::int64_t row = next + 2 * t + i;
            tile.ahead[i] = 2 * t + i < dot_.max_cols && row < plan_.problem.out
                                ? static_cast<const T*>(pointers_.weight) + row * w.row_elems + depth
                                : nullptr;
        }
    }

    // The block where it is, or a copy of it with unit stride.
    void take(const T* from, const MatrixStrides& strides, std::int64_t rows, std::int64_t depth,
              T* copy, const T*& data, std::int64_t& pitch) const {
        data = from;
        pitch = strides.row_elems;
        if (strides.col_elems == 1) return;
        data = copy;
        pitch = kDepthBytes / static_cast<std::int64_t>(sizeof(T));
        copy_.copy(rows, depth, {from, strides.row_elems, strides.col_elems}, {copy, pitch, 1});
    }

    const LinearPlan& plan_;
    const LinearPointers& pointers_;
    const DotKernels<T>& dot_;
    const CopyKernels<T>& copy_;
    Scratch layout_;
    char* scratch_;
    std::int64_t row_, rows_, col_begin_, col_end_;
};

}  // namespace

void block_linear_forward(LinearPlan& plan) {
    const Linear& linear = plan.problem;
    const std::int64_t tile_cols = linear.dtype == DType::kFloat32
                                       ? plan.isa->kernels<float>().dot->max_cols
                                       : plan.isa->kernels<double>().dot->max_cols;
    if (linear.in == 1) plan.strides.x.col_elems = plan.strides.weight.col_elems = 1;
    plan.block_rows = even_block(linear.batch, kMostRows);
    plan.group_cols = linear.batch <= DotKernels<float>::kMaxRows ? tile_cols : kGroupCols;
    plan.block_cols = linear.out;
    if (linear.macs() < kMacsWorthThreads) return;
    // Eight tasks a thread even out what the machine does beside; whole groups of columns each.
    const std::int64_t row_blocks = ceil_div(linear.batch, plan.block_rows);
    const std::int64_t wanted = plan.threads > 1 ? ceil_div(8 * plan.threads, row_blocks) : 1;
    const std::int64_t unit = ceil_div(linear.out, wanted) < plan.group_cols ? tile_cols
                                                                             : plan.group_cols;
    plan.block_cols = std::max(unit, ceil_div(ceil_div(linear.out, wanted), unit) * unit);
}

template <class T>
void run_linear_forward(const LinearPlan& plan, const LinearPointers& pointers) {
    const std::int64_t tasks = ceil_div(plan.problem.batch, plan.block_rows) *
                               ceil_div(plan.problem.out, std::max<std::int64_t>(1, plan.block_cols));
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(tasks, plan.threads, mode,
                 [&](std::int64_t task, int) { ForwardTask<T>(plan, pointers, task).run(); });
}

template void run_linear_forward<float>(const LinearPlan&, const LinearPointers&);
template void run_linear_forward<double>(const LinearPlan&, const LinearPointers&);

}  // namespace fastconv::cpu
