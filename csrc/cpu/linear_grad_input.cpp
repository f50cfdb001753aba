// grad_input[n, c] = sum over k of grad_output[n, k] * W[k, c]: the implicit GEMM's register tile
// (cpu/kernels_gemm.h) with rows = n, columns = c, depth = k.
//
// W is copied (depth block, a group of 64-column panels) at a time into scratch, where all rows of a
// block read it: W is read from memory once a block of rows, 1 KB of a row at a time, and needs no
// workspace. Any strides: the copy transposes W where it must; grad_output without unit stride is
// copied a block at a time.
// A batch of at most 8 reads W in place instead, 8 rows of it at a time, once, at the memory's speed.
// An element's order of summation depends on K alone: blocks of 128 terms, one after the other within
// a block. So the bits are the same for any batch and any thread.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_dot.h"
#include "cpu/kernels_gemm.h"
#include "cpu/kernels_outer.h"
#include "cpu/linear.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kDepthBlock = 128;  // short, so that a group of panels stays in L2: 256 KB
constexpr std::int64_t kMostRows = 96;
constexpr std::int64_t kRowsAtOnce = 8;  // of W, copied or read over all columns of a task

constexpr std::int64_t kFewRows = 8;
constexpr std::int64_t kColsUnit = 64;
constexpr std::int64_t kMostCols = 4096;  // 8 rows of W: 128 KB, read twice for a batch of 8

struct Scratch {
    std::size_t pointers, out_pointers, panels, sums, rows, bytes;

    template <class T>
    static Scratch of(const LinearPlan& plan, std::int64_t width) {
        const auto aligned = [](std::int64_t count, std::size_t size) {
            return (static_cast<std::size_t>(count) * size + 63) / 64 * 64;
        };
        const std::int64_t rows = plan.block_rows;
        Scratch s;
        s.pointers = 0;
        s.out_pointers = s.pointers + aligned(rows, sizeof(T*));
        s.panels = s.out_pointers + aligned(rows, sizeof(T*));
        s.sums = s.panels + aligned(plan.group_panels * kDepthBlock * width, sizeof(T));
        s.rows = s.sums + aligned(plan.group_panels * rows * width, sizeof(T));
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
        const std::int64_t groups = ceil_div(panels_.count, plan.group_panels);
        begin_ = panels_.count * (task % groups) / groups;
        end_ = panels_.count * (task % groups + 1) / groups;
        row_ = task / groups * plan.block_rows;
        rows_ = std::min(plan.block_rows, plan.problem.batch - row_);
    }

    void run() const {
        const std::int64_t depth = plan_.problem.out;
        for (std::int64_t k = 0; k == 0 || k < depth; k += kDepthBlock) {
            GemmTile<T> tile;
            tile.segments = 1;
            tile.row_pitch = rows_;
            tile.depth = std::min(kDepthBlock, depth - k);
            tile.first = k == 0;
            tile.last = k + tile.depth == depth;
            copy_panels(k, tile.depth);
            point_rows(k, tile.depth);
            for (std::int64_t panel = begin_; panel < end_; ++panel) run_panel(tile, panel);
        }
    }

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    std::int64_t width(std::int64_t panel) const { return panels_.panel_width(panel, gemm_.lanes); }
    T* panel_data(std::int64_t panel) const {
        return at<T>(layout_.panels) + (panel - begin_) * kDepthBlock * panels_.width;
    }

    // panel[d][c] = W[k + d][first column + c], columns beyond the last zero.
    void copy_panels(std::int64_t k, std::int64_t depth) const {
        const MatrixStrides& w = plan_.strides.weight;
        const T* weight = static_cast<const T*>(pointers_.weight) + k * w.row_elems;
        for (std::int64_t d = 0; d < depth; d += kRowsAtOnce)
            for (std::int64_t p = begin_; p < end_; ++p) {
                const std::int64_t line = width(p), cols = panels_.panel_cols(p);
                const std::int64_t some = std::min(kRowsAtOnce, depth - d);
                T* to = panel_data(p) + d * line;
                copy_.copy(some, cols,
                           {weight + d * w.row_elems + panels_.first_col(p) * w.col_elems,
                            w.row_elems, w.col_elems},
                           {to, line, 1});
                for (std::int64_t i = 0; i < some && cols < line; ++i)
                    std::fill_n(to + i * line + cols, line - cols, T(0));
            }
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

    // Strided columns of the result leave through the sums.
    void run_panel(GemmTile<T>& tile, std::int64_t panel) const {
        const std::int64_t line = width(panel);
        const int vectors = static_cast<int>(line / gemm_.lanes);
        const std::int64_t tiles = ceil_div(rows_, gemm_.max_rows[vectors]);
        const MatrixStrides& x = plan_.strides.x;
        T* const out = static_cast<T*>(pointers_.x) + row_ * x.row_elems +
                       panels_.first_col(panel) * x.col_elems;
        T* const sums = at<T>(layout_.sums) + (panel - begin_) * rows_ * panels_.width;
        const bool through_sums = x.col_elems != 1;
        T** out_pointers = at<T*>(layout_.out_pointers);
        for (std::int64_t i = 0; i < rows_ && tile.last; ++i)
            out_pointers[i] = through_sums ? sums + i * line : out + i * x.row_elems;
        tile.panel = panel_data(panel);
        tile.cols = panels_.panel_cols(panel);
        for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
            const std::int64_t next = rows_ * (t + 1) / tiles;
            tile.rows = at<const T*>(layout_.pointers) + row;
            tile.sum = sums + row * line;
            tile.out = out_pointers + row;
            gemm_.tile[vectors][next - row](tile);
            row = next;
        }
        if (through_sums && tile.last)
            copy_.copy(rows_, tile.cols, {sums, line, 1}, {out, x.row_elems, x.col_elems});
    }

    const LinearPlan& plan_;
    const LinearPointers& pointers_;
    const GemmKernels<T>& gemm_;
    const CopyKernels<T>& copy_;
    Panels<T> panels_;
    Scratch layout_;
    char* scratch_;
    std::int64_t row_, rows_, begin_, end_;
};

// W in place for a small batch: chain[n][c] sums one depth block, total[n][c] the blocks.
template <class T>
void run_few(const LinearPlan& plan, const LinearPointers& pointers, std::int64_t task) {
    const Kernels<T>& kernels = plan.isa->kernels<T>();
    const std::int64_t batch = plan.problem.batch, depth = plan.problem.out;
    const std::int64_t col = task * plan.block_cols;
    const std::int64_t cols = std::min(plan.block_cols, plan.problem.in - col);
    const MatrixStrides &w = plan.strides.weight, &x = plan.strides.x, &y = plan.strides.y;
    T* const total = static_cast<T*>(
        thread_scratch(static_cast<std::size_t>(2 * batch * plan.block_cols) * sizeof(T)));
    T* const chain = total + batch * plan.block_cols;
    if (depth == 0) std::fill_n(total, batch * plan.block_cols, T(0));
    RowSum<T> sum;
    sum.y_row_elems = y.row_elems;
    sum.y_depth_elems = y.col_elems;
    sum.w_pitch = w.row_elems;
    sum.sums_pitch = plan.block_cols;
    sum.cols = cols;
    for (std::int64_t k = 0; k < depth; k += kRowsAtOnce) {
        sum.w = static_cast<const T*>(pointers.weight) + k * w.row_elems + col;
        sum.depth = std::min(kRowsAtOnce, depth - k);
        sum.first = k % kDepthBlock == 0;
        const bool block_ends = (k + sum.depth) % kDepthBlock == 0 || k + sum.depth == depth;
        T* const target = k < kDepthBlock ? total : chain;
        for (std::int64_t n = 0; n < batch; n += DotKernels<T>::kMaxRows) {
            sum.y = static_cast<const T*>(pointers.y) + n * y.row_elems + k * y.col_elems;
            sum.sums = target + n * plan.block_cols;
            kernels.dot->row_sum[std::min<std::int64_t>(DotKernels<T>::kMaxRows, batch - n)](sum);
        }
        if (block_ends && target == chain)
            for (std::int64_t n = 0; n < batch; ++n)
                kernels.outer->add(cols, chain + n * plan.block_cols, total + n * plan.block_cols);
    }
    kernels.copy->copy(batch, cols, {total, plan.block_cols, 1},
                       {static_cast<T*>(pointers.x) + col * x.col_elems, x.row_elems, x.col_elems});
}

}  // namespace

void block_linear_grad_input(LinearPlan& plan) {
    if (plan.problem.out == 1) plan.strides.y.col_elems = 1;
    if (plan.problem.in == 1) plan.strides.x.col_elems = 1;
    plan.block_rows = even_block(plan.problem.batch, kMostRows);
    const std::int64_t panels =
        plan.problem.dtype == DType::kFloat32
            ? Panels<float>(*plan.isa->kernels<float>().gemm, plan.problem.in).count
            : Panels<double>(*plan.isa->kernels<double>().gemm, plan.problem.in).count;
    plan.few_rows = plan.problem.batch <= kFewRows && plan.strides.weight.col_elems == 1;
    if (plan.few_rows) {
        const std::int64_t most = ceil_div(plan.problem.in, plan.threads > 1 ? 4 * plan.threads : 1);
        plan.block_cols = std::clamp<std::int64_t>(ceil_div(most, kColsUnit) * kColsUnit, kColsUnit,
                                                   kMostCols);
        return;
    }
    // Four tasks a thread, and 1 KB of a row of W at a time.
    const std::int64_t tasks = ceil_div(plan.problem.batch, plan.block_rows) * panels;
    plan.group_panels = std::clamp<std::int64_t>(tasks / (4 * plan.threads), 1, 4);
}

template <class T>
void run_linear_grad_input(const LinearPlan& plan, const LinearPointers& pointers) {
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    if (plan.few_rows) {
        parallel_for(ceil_div(plan.problem.in, plan.block_cols), plan.threads, mode,
                     [&](std::int64_t task, int) { run_few<T>(plan, pointers, task); });
        return;
    }
    const std::int64_t panels = Panels<T>(*plan.isa->kernels<T>().gemm, plan.problem.in).count;
    const std::int64_t tasks =
        ceil_div(plan.problem.batch, plan.block_rows) * ceil_div(panels, plan.group_panels);
    parallel_for(tasks, plan.threads, mode,
                 [&](std::int64_t task, int) { GradInputTask<T>(plan, pointers, task).run(); });
}

template void run_linear_grad_input<float>(const LinearPlan&, const LinearPointers&);
template void run_linear_grad_input<double>(const LinearPlan&, const LinearPointers&);

}  // namespace fastconv::cpu
