// grad_input[n, c] = sum over k of grad_output[n, k] * W[k, c]: the implicit GEMM's register tile
// (cpu/kernels_gemm.h) with rows = n, columns = c, depth = k.
//
// W is copied (depth block, 64 columns) at a time into scratch, 128 KB, where all rows of a block
// read it: W is read from memory once a block of rows (252), and needs no workspace. Any strides: the
// copy transposes W where it must; grad_output without unit stride is copied a block at a time.
// An element's order of summation depends on K alone: the same bits for any batch and any thread.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_gemm.h"
#include "cpu/linear.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kDepthBlock = 512;  // as in correlation_block.cpp
constexpr std::int64_t kMostRows = 252;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Scratch {
    std::size_t pointers, out_pointers, panel, sums, rows, bytes;

    template <class T>
    static Scratch of(const LinearPlan& plan, std::int64_t width) {
        const auto aligned = [](std::int64_t count, std::size_t size) {
            return (static_cast<std::size_t>(count) * size + 63) / 64 * 64;
        };
        const std::int64_t rows = plan.block_rows;
        Scratch s;
        s.pointers = 0;
        s.out_pointers = s.pointers + aligned(rows, sizeof(T*));
        s.panel = s.out_pointers + aligned(rows, sizeof(T*));
        s.sums = s.panel + aligned(kDepthBlock * width, sizeof(T));
        s.rows = s.sums + aligned(rows * width, sizeof(T));
        s.bytes = s.rows +
                  (plan.strides.y.col_elems == 1 ? 0 : aligned(rows * kDepthBlock, sizeof(T)));
        return s;
    }
};

template <class T>
class GradInputTask {
public:
    GradInputTask(const LinearPlan& plan, const LinearPointers& pointers, std::int64_t task)
        : plan_(plan), pointers_(pointers), gemm_(*plan.isa->kernels<T>().gemm),
          copy_(*plan.isa->kernels<T>().copy), panels_(gemm_, plan.problem.in),
          layout_(Scratch::of<T>(plan, panels_.width)),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))) {
        const std::int64_t panel = task % panels_.count;
        row_ = task / panels_.count * plan.block_rows;
        rows_ = std::min(plan.block_rows, plan.problem.batch - row_);
        col_ = panels_.first_col(panel);
        cols_ = panels_.panel_cols(panel);
        width_ = panels_.panel_width(panel, gemm_.lanes);
    }

    void run() const {
        const MatrixStrides& x = plan_.strides.x;
        T* out = static_cast<T*>(pointers_.x) + row_ * x.row_elems + col_ * x.col_elems;
        const bool through_sums = x.col_elems != 1;
        T** out_pointers = at<T*>(layout_.out_pointers);
        for (std::int64_t i = 0; i < rows_; ++i)
            out_pointers[i] = through_sums ? at<T>(layout_.sums) + i * width_ : out + i * x.row_elems;
        GemmTile<T> tile;
        tile.row_pitch = rows_;
        tile.panel = at<T>(layout_.panel);
        tile.cols = cols_;
        const std::int64_t depth = plan_.problem.out;
        for (std::int64_t k = 0; k == 0 || k < depth; k += kDepthBlock) {
            tile.segments = 1;
            tile.depth = std::min(kDepthBlock, depth - k);
            tile.first = k == 0;
            tile.last = k + tile.depth == depth;
            copy_panel(k, tile.depth);
            point_rows(k, tile.depth);
            run_tiles(tile);
        }
        if (through_sums)
            copy_.copy(rows_, cols_, {at<T>(layout_.sums), width_, 1}, {out, x.row_elems, x.col_elems});
    }

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    // panel[d][c] = W[k + d][col + c], columns beyond the last zero.
    void copy_panel(std::int64_t k, std::int64_t depth) const {
        const MatrixStrides& w = plan_.strides.weight;
        T* panel = at<T>(layout_.panel);
        copy_.copy(depth, cols_,
                   {static_cast<const T*>(pointers_.weight) + k * w.row_elems + col_ * w.col_elems,
                    w.row_elems, w.col_elems},
                   {panel, width_, 1});
        if (cols_ < width_)
            for (std::int64_t d = 0; d < depth; ++d)
                std::fill_n(panel + d * width_ + cols_, width_ - cols_, T(0));
    }

    void point_rows(std::int64_t k, std::int64_t depth) const {
        const MatrixStrides& y = plan_.strides.y;
        const T* from = static_cast<const T*>(pointers_.y) + row_ * y.row_elems + k * y.col_elems;
        std::int64_t pitch = y.row_elems;
        if (y.col_elems != 1) {
            T* rows = at<T>(layout_.rows);
            copy_.copy(rows_, depth, {from, y.row_elems, y.col_elems}, {rows, kDepthBlock, 1});
            from = rows;
            pitch = kDepthBlock;
        }
        for (std::int64_t i = 0; i < rows_; ++i) at<const T*>(layout_.pointers)[i] = from + i * pitch;
    }

    void run_tiles(GemmTile<T>& tile) const {
        const int vectors = static_cast<int>(width_ / gemm_.lanes);
        const std::int64_t tiles = ceil_div(rows_, gemm_.max_rows[vectors]);
        for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
            const std::int64_t next = rows_ * (t + 1) / tiles;
            tile.rows = at<const T*>(layout_.pointers) + row;
            tile.sum = at<T>(layout_.sums) + row * width_;
            tile.out = at<T*>(layout_.out_pointers) + row;
            gemm_.tile[vectors][next - row](tile);
            row = next;
        }
    }

    const LinearPlan& plan_;
    const LinearPointers& pointers_;
    const GemmKernels<T>& gemm_;
    const CopyKernels<T>& copy_;
    Panels<T> panels_;
    Scratch layout_;
    char* scratch_;
    std::int64_t row_, rows_, col_, cols_, width_;
};

}  // namespace

void block_linear_grad_input(LinearPlan& plan) {
    if (plan.problem.out == 1) plan.strides.y.col_elems = 1;
    if (plan.problem.in == 1) plan.strides.x.col_elems = 1;
    plan.block_rows = even_block(plan.problem.batch, kMostRows);
}

template <class T>
void run_linear_grad_input(const LinearPlan& plan, const LinearPointers& pointers) {
    const std::int64_t panels = Panels<T>(*plan.isa->kernels<T>().gemm, plan.problem.in).count;
    const std::int64_t tasks = ceil_div(plan.problem.batch, plan.block_rows) * panels;
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(tasks, plan.threads, mode,
                 [&](std::int64_t task, int) { GradInputTask<T>(plan, pointers, task).run(); });
}

template void run_linear_grad_input<float>(const LinearPlan&, const LinearPointers&);
template void run_linear_grad_input<double>(const LinearPlan&, const LinearPointers&);

}  // namespace fastconv::cpu
