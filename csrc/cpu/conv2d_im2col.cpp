// Convolution by im2col in tiles: forward, and grad_input as the phases of direct.
//
//   matrix[row][d] = source[n, y(i, a), x(j, b), c],  d = (a * taps_w + b) * channels + c
//   out[row][k]    = sum over d of matrix[row][d] * packed[d][k], + bias, residual, ReLU
//
// Never a column buffer of an image: a task gathers (a block of rows) x (a block of depth), at most
// 96 x 512 elements, multiplies it with all its panels, and goes on to the next block of depth. So the
// scratch is bounded whatever the kernel's size, and what is too large for direct ends here. Any
// strides; packed weights as direct's. grad_weight: conv2d_im2col_grad_weight.cpp; grad_input where that
// multiplies less: col2im.h.
// Source: K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural networks for
// document processing" (2006), less its buffer.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/col2im.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "cpu/im2col.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_gemm.h"
#include "cpu/panels.h"
#include "core/phases.h"

namespace fastconv::cpu {
namespace {

// 96 rows are 16 tiles of 6: a panel is used that often for each time it is read. With the deepest
// block and float64: matrix 384 KB, sums 768 KB, residual 48 KB, of 4 MB.
constexpr std::int64_t kRows = 96;
constexpr std::int64_t kFewestRows = 24;
constexpr std::int64_t kColsPerPart = 1024;

void choose_block(Correlation& phase, std::int64_t rows) {
    phase.blocks_w = ceil_div(phase.out_w, rows);
    phase.block_w = ceil_div(phase.out_w, phase.blocks_w);
    phase.blocks_h = ceil_div(phase.out_h, std::max<std::int64_t>(1, rows / phase.block_w));
    phase.block_h = ceil_div(phase.out_h, phase.blocks_h);
}

/// Where a task's scratch has what.
template <class T>
struct Scratch {
    const T** pointers;  // (rows) into matrix
    T** out;             // (rows) into a panel's sums
    const T** residual_pointers;
    T* matrix;    // (rows, depth block)
    T* sums;      // (panels, rows, panel width)
    T* residual;  // (rows, panel width)
    std::size_t bytes = 0;

    Scratch(const Correlation& phase, const Panels<T>& panels, char* memory) {
        const std::int64_t rows = phase.rows();
        pointers = take<const T*>(memory, rows);
        out = take<T*>(memory, rows);
        residual_pointers = take<const T*>(memory, rows);
        matrix = take<T>(memory, rows * phase.depth_per_block);
        sums = take<T>(memory, rows * ceil_div(panels.count, phase.parts) * panels.width);
        residual = take<T>(memory, rows * panels.width);
    }

private:
    template <class U>
    U* take(char* memory, std::int64_t count) {
        U* place = reinterpret_cast<U*>(memory + bytes);
        bytes += (static_cast<std::size_t>(count) * sizeof(U) + 63) / 64 * 64;
        return place;
    }
};

template <class T>
void block_phase(Correlation& phase, const Kernels<T>& kernels, int threads) {
    phase.gather = true;
    phase.segments = phase.segments_per_block = 1;
    phase.depth = phase.taps_h.count * phase.taps_w.count * phase.channels;
    phase.depth_per_block = even_block(phase.depth, kDepthBlock);
    const Panels<T> panels(*kernels.gemm, phase.cols);
    phase.parts = std::max<std::int64_t>(1, ceil_div(panels.count * panels.width, kColsPerPart));
    if (phase.batch * phase.out_h * phase.out_w == 0) return;
    std::int64_t rows = kRows;
    choose_block(phase, rows);
    while (phase.tasks() < 4 * threads && rows > kFewestRows) choose_block(phase, rows /= 2);
    phase.scratch_bytes = Scratch<T>(phase, panels, nullptr).bytes;
}

template <class T>
class Im2colTask {
public:
    Im2colTask(const Correlation& phase, const Kernels<T>& kernels, const ConvPointers& pointers,
               const T* source, const T* packed, T* out, std::int64_t task)
        : phase_(phase), kernels_(kernels), panels_(*kernels.gemm, phase.cols),
          scratch_(phase, panels_, static_cast<char*>(thread_scratch(phase.scratch_bytes))),
          bias_(static_cast<const T*>(pointers.bias)),
          residual_(static_cast<const T*>(pointers.residual)), relu_(pointers.relu) {
        const std::int64_t part = task % phase.parts;
        task /= phase.parts;
        const std::int64_t block_w = task % phase.blocks_w;
        task /= phase.blocks_w;
        const std::int64_t block_h = task % phase.blocks_h;
        task /= phase.blocks_h;
        const std::int64_t group = task % phase.groups;
        const std::int64_t image = task / phase.groups;
        begin_panel_ = panels_.count * part / phase.parts;
        end_panel_ = panels_.count * (part + 1) / phase.parts;
        i_begin_ = phase.out_h * block_h / phase.blocks_h;
        i_end_ = phase.out_h * (block_h + 1) / phase.blocks_h;
        j_begin_ = phase.out_w * block_w / phase.blocks_w;
        j_end_ = phase.out_w * (block_w + 1) / phase.blocks_w;
        width_ = j_end_ - j_begin_;
        rows_ = (i_end_ - i_begin_) * width_;
        source_ = source + image * phase.source.batch_elems + group * phase.source_group_elems;
        packed_ = packed + phase.packed_first_elems + group * phase.depth * panels_.padded_cols;
        out_ = out + phase.out_first_elems + image * phase.out.batch_elems +
               group * phase.out_group_elems;
        if (bias_) bias_ += group * phase.cols;
        if (residual_)
            residual_ += phase.residual_first_elems + image * phase.residual.batch_elems +
                         group * phase.residual_group_elems;
    }

    void run() {
        for (std::int64_t r = 0; r < rows_; ++r)
            scratch_.pointers[r] = scratch_.matrix + r * phase_.depth_per_block;
        std::int64_t d = 0;
        do {  // once where there are no taps: the bias remains
            const std::int64_t end = std::min(d + phase_.depth_per_block, phase_.depth);
            gather(d, end);
            for (std::int64_t panel = begin_panel_; panel < end_panel_; ++panel)
                multiply(panel, d, end);
            d = end;
        } while (d < phase_.depth);
    }

private:
    // Depth elements [begin, end) of every row, tap by tap.
    void gather(std::int64_t begin, std::int64_t end) const {
        const AxisTaps &th = phase_.taps_h, &tw = phase_.taps_w;
        for (std::int64_t d = begin; d < end;) {
            const std::int64_t tap = d / phase_.channels, c = d % phase_.channels;
            const std::int64_t channels = std::min(phase_.channels - c, end - d);
            const std::int64_t y = th.offset + tap / tw.count * th.offset_step;
            const std::int64_t x = tw.offset + tap % tw.count * tw.offset_step;
            for (std::int64_t i = i_begin_; i < i_end_; ++i)
                gather_line(*kernels_.copy,
                            {source_ + c * phase_.source.channel_elems, &phase_.source,
                             phase_.source_h, phase_.source_w},
                            i * th.step + y, j_begin_ * tw.step + x, tw.step, width_, channels,
                            scratch_.matrix + (i - i_begin_) * width_ * phase_.depth_per_block +
                                (d - begin),
                            phase_.depth_per_block);
            d += channels;
        }
    }

    void multiply(std::int64_t panel, std::int64_t begin, std::int64_t end) const {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        const std::int64_t col = panels_.first_col(panel);
        T* sums = scratch_.sums + (panel - begin_panel_) * rows_ * panels_.width;
        GemmTile<T> tile;
        tile.segments = end > begin;
        tile.depth = end - begin;
        tile.panel = packed_ + col * phase_.depth + begin * width;
        tile.first = begin == 0;
        tile.last = end == phase_.depth;
        tile.cols = panels_.panel_cols(panel);
        tile.bias = bias_ ? bias_ + col : nullptr;
        tile.relu = relu_;
        if (tile.last) {
            for (std::int64_t r = 0; r < rows_; ++r) scratch_.out[r] = sums + r * width;
            if (residual_) fetch_residual(col, tile.cols, width);
        }
        const T* const* residual = residual_ ? scratch_.residual_pointers : nullptr;
        run_tiles(*kernels_.gemm, tile, rows_, width, scratch_.pointers, sums, scratch_.out,
                  residual);
        if (!tile.last) return;
        for (std::int64_t i = i_begin_; i < i_end_; ++i)
            kernels_.copy->copy(width_, tile.cols, {sums + (i - i_begin_) * width_ * width, width, 1},
                                {out_ + i * phase_.out.height_elems +
                                     j_begin_ * phase_.out.width_elems + col * phase_.out.channel_elems,
                                 phase_.out.width_elems, phase_.out.channel_elems});
    }

    void fetch_residual(std::int64_t col, std::int64_t cols, std::int64_t width) const {
        const Strides& from = phase_.residual;
        for (std::int64_t i = i_begin_; i < i_end_; ++i)
            kernels_.copy->copy(width_, cols,
                                {residual_ + i * from.height_elems + j_begin_ * from.width_elems +
                                     col * from.channel_elems,
                                 from.width_elems, from.channel_elems},
                                {scratch_.residual + (i - i_begin_) * width_ * width, width, 1});
        for (std::int64_t r = 0; r < rows_; ++r)
            scratch_.residual_pointers[r] = scratch_.residual + r * width;
    }

    const Correlation& phase_;
    const Kernels<T>& kernels_;
    Panels<T> panels_;
    Scratch<T> scratch_;
    const T* bias_;
    const T* residual_;
    bool relu_;
    const T* source_;
    const T* packed_;
    T* out_;
    std::int64_t begin_panel_, end_panel_, i_begin_, i_end_, j_begin_, j_end_, width_, rows_;
};

template <class T>
void plan_phases(ConvPlan& plan) {
    const Kernels<T>& kernels = plan.isa->kernels<T>();
    for (Correlation& phase : plan.phases) {
        settle(phase);
        block_phase(phase, kernels, plan.threads);
        phase.packed_first_elems = plan.packed_elems;
        plan.packed_elems += packed_elems<T>(phase, kernels);
    }
}

const char* plan(ConvPlan& plan) {
    if (plan.direction == Direction::kGradInput && plan_col2im(plan)) return nullptr;
    plan.phases = dense_phases(plan.problem, plan.direction, plan.strides);
    plan.packed_elems = 0;
    if (plan.problem.dtype == DType::kFloat32) plan_phases<float>(plan);
    else plan_phases<double>(plan);
    plan.workspace_bytes =
        static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes());
    return nullptr;
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    const void* packed = pointers.packed;
    if (!packed) pack_panels(plan, pointers.weight, workspace);
    const T* weights = static_cast<const T*>(packed ? packed : workspace);
    const bool forward = plan.direction == Direction::kForward;
    const T* source = static_cast<const T*>(forward ? pointers.input : pointers.output);
    T* out = static_cast<T*>(forward ? pointers.output : pointers.input);
    std::int64_t tasks = 0;
    for (const Correlation& phase : plan.phases) tasks += phase.tasks();
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(tasks, plan.threads, mode, [&](std::int64_t task, int) {
        std::size_t p = 0;
        for (; task >= plan.phases[p].tasks(); ++p) task -= plan.phases[p].tasks();
        Im2colTask<T>(plan.phases[p], plan.isa->kernels<T>(), pointers, source, weights, out, task)
            .run();
    });
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.col2im.bands > 0) return run_col2im(plan, pointers, workspace);
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace

const Candidate conv2d_im2col{Algorithm::kIm2col, plan, run_either};

}  // namespace fastconv::cpu
