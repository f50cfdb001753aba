// The weight gradient by im2col in tiles, as a product over output positions:
//
//   dw[k][(r, s, c)] = sum over positions (n, p, q) of gradient[k][position] matrix[position][(r, s, c)]
//
// The register tile of the forward product with other roles: its rows are filters k, each a gathered
// line of grad_output along the positions; its panel is the im2col matrix, 64 columns (r, s, c) wide;
// depth are 512 positions at a time, cut by shape alone. A task owns its part of dw and goes through
// all positions in order, so there are no partial sums to add. Scratch is under 1 MB; the gathering
// is done again for every task: made for comparison and for odd problems, not for speed.
// Any strides and groups; padding is a zero that takes part.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/conv2d.h"
#include "cpu/im2col.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kFilters = 96;  // a task; 16 tiles of 6 rows
constexpr std::int64_t kFewestFilters = 24;

template <class T>
struct Cut {
    std::int64_t depth;    // columns (r, s, c) of a group
    Panels<T> panels;
    std::int64_t filters;  // a task
    std::int64_t parts;    // of a group's filters
    std::int64_t positions, block;

    Cut(const ConvPlan& plan, const GemmKernels<T>& gemm)
        : depth(plan.problem.taps() * plan.problem.group_in()), panels(gemm, depth) {
        const Conv& conv = plan.problem;
        positions = conv.batch * conv.height.out * conv.width.out;
        block = even_block(positions, kDepthBlock);
        filters = kFilters;
        while (filters > kFewestFilters &&
               conv.groups * panels.count * ceil_div(conv.group_out(), filters) < 4 * plan.threads)
            filters /= 2;
        parts = ceil_div(conv.group_out(), filters);
    }
    std::int64_t tasks(const Conv& conv) const { return conv.groups * panels.count * parts; }
};

template <class T>
class WeightTask {
public:
    WeightTask(const ConvPlan& plan, const ConvPointers& pointers, const Cut<T>& cut,
               std::int64_t task)
        : conv_(plan.problem), strides_(plan.strides), kernels_(plan.isa->kernels<T>()), cut_(cut),
          accumulate_(pointers.accumulate) {
        const std::int64_t part = task % cut.parts;
        task /= cut.parts;
        panel_ = task % cut.panels.count;
        const std::int64_t group = task / cut.panels.count;
        const std::int64_t first = conv_.group_out() * part / cut.parts;
        filters_ = conv_.group_out() * (part + 1) / cut.parts - first;
        const std::int64_t filter = group * conv_.group_out() + first;
        x_ = static_cast<const T*>(pointers.input) +
             group * conv_.group_in() * strides_.input.channel_elems;
        gradient_ = static_cast<const T*>(pointers.output) + filter * strides_.output.channel_elems;
        weight_ = static_cast<T*>(pointers.weight) + filter * strides_.weight.batch_elems;
        width_ = cut.panels.panel_width(panel_, kernels_.gemm->lanes);
        columns_ = cut.panels.panel_cols(panel_);
        lay_out();
    }

    void run() const {
        for (std::int64_t k = 0; k < filters_; ++k) {
            lines_[k] = gathered_ + k * cut_.block;
            out_[k] = sums_ + k * width_;
        }
        std::fill_n(matrix_, cut_.block * width_, T(0));  // columns beyond the last stay 0
        std::int64_t begin = 0;
        do {  // once where the batch is empty
            const std::int64_t end = std::min(begin + cut_.block, cut_.positions);
            gather(begin, end);
            GemmTile<T> tile;
            tile.segments = end > begin;
            tile.depth = end - begin;
            tile.panel = matrix_;
            tile.first = begin == 0;
            tile.last = end == cut_.positions;
            tile.cols = columns_;
            run_tiles<T>(*kernels_.gemm, tile, filters_, width_, lines_, sums_, out_, nullptr);
            begin = end;
        } while (begin < cut_.positions);
        write();
    }

private:
    void lay_out() {
        const auto round = [](std::int64_t elements) { return (elements + 15) / 16 * 16; };
        const std::int64_t sizes[] = {round(cut_.block * width_), round(filters_ * cut_.block),
                                      round(filters_ * width_)};
        const std::size_t bytes =
            static_cast<std::size_t>(sizes[0] + sizes[1] + sizes[2]) * sizeof(T) +
            2 * static_cast<std::size_t>(filters_) * sizeof(T*);
        matrix_ = static_cast<T*>(thread_scratch(bytes));
        gathered_ = matrix_ + sizes[0];
        sums_ = gathered_ + sizes[1];
        lines_ = reinterpret_cast<const T**>(sums_ + sizes[2]);
        out_ = reinterpret_cast<T**>(sums_ + sizes[2]) + filters_;
    }

    // Positions [begin, end): the panel's columns of the im2col matrix, and the gradient's lines.
    void gather(std::int64_t begin, std::int64_t end) const {
        const std::int64_t width = conv_.width.out;
        for (std::int64_t position = begin; position < end;) {
            const std::int64_t q = position % width, line = position / width;
            const std::int64_t p = line % conv_.height.out, n = line / conv_.height.out;
            const std::int64_t count = std::min(width - q, end - position);
            gather_columns(n, p, q, count, matrix_ + (position - begin) * width_);
            const Strides& from = strides_.output;
            kernels_.copy->copy(filters_, count,
                                {gradient_ + n * from.batch_elems + p * from.height_elems +
                                     q * from.width_elems,
                                 from.channel_elems, from.width_elems},
                                {gathered_ + (position - begin), cut_.block, 1});
            position += count;
        }
    }

    void gather_columns(std::int64_t n, std::int64_t p, std::int64_t q, std::int64_t count,
                        T* to) const {
        const std::int64_t first = cut_.panels.first_col(panel_);
        for_taps(first, [&](std::int64_t column, std::int64_t r, std::int64_t s, std::int64_t c,
                            std::int64_t channels) {
            gather_line(*kernels_.copy,
                        {x_ + n * strides_.input.batch_elems + c * strides_.input.channel_elems,
                         &strides_.input, conv_.height.in, conv_.width.in},
                        p * conv_.height.stride + r * conv_.height.dilation - conv_.height.pad_lo,
                        q * conv_.width.stride + s * conv_.width.dilation - conv_.width.pad_lo,
                        conv_.width.stride, count, channels, to + column, width_);
        });
    }

    // body(column in panel, r, s, c, channels) for the taps that the panel's columns belong to.
    template <class Body>
    void for_taps(std::int64_t first, Body&& body) const {
        for (std::int64_t column = 0; column < columns_;) {
            const std::int64_t tap = (first + column) / conv_.group_in();
            const std::int64_t c = (first + column) % conv_.group_in();
            const std::int64_t channels = std::min(conv_.group_in() - c, columns_ - column);
            body(column, tap / conv_.width.kernel, tap % conv_.width.kernel, c, channels);
            column += channels;
        }
    }

    void write() const {
        const Strides& to = strides_.weight;
        for_taps(cut_.panels.first_col(panel_), [&](std::int64_t column, std::int64_t r,
                                                    std::int64_t s, std::int64_t c,
                                                    std::int64_t channels) {
            T* target =
                weight_ + c * to.channel_elems + r * to.height_elems + s * to.width_elems;
            if (!accumulate_)
                return kernels_.copy->copy(filters_, channels, {sums_ + column, width_, 1},
                                           {target, to.batch_elems, to.channel_elems});
            for (std::int64_t k = 0; k < filters_; ++k)
                for (std::int64_t i = 0; i < channels; ++i)
                    target[k * to.batch_elems + i * to.channel_elems] +=
                        sums_[k * width_ + column + i];
        });
    }

    const Conv& conv_;
    const ConvStrides& strides_;
    const Kernels<T>& kernels_;
    const Cut<T>& cut_;
    bool accumulate_;
    std::int64_t panel_, filters_, width_, columns_;
    const T* x_;
    const T* gradient_;
    T* weight_;
    T* matrix_;     // (positions, panel width)
    T* gathered_;   // (filters, positions)
    T* sums_;       // (filters, panel width)
    const T** lines_;
    T** out_;
};

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers) {
    const Cut<T> cut(plan, *plan.isa->kernels<T>().gemm);
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(cut.tasks(plan.problem), plan.threads, mode, [&](std::int64_t task, int) {
        WeightTask<T>(plan, pointers, cut, task).run();
    });
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void*) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers);
    else run<double>(plan, pointers);
}

const char* plan(ConvPlan& plan) {
    plan.phases.clear();
    plan.packed_elems = 0;
    plan.workspace_bytes = 0;
    plan.tasks = plan.problem.dtype == DType::kFloat32
                     ? Cut<float>(plan, *plan.isa->f32.gemm).tasks(plan.problem)
                     : Cut<double>(plan, *plan.isa->f64.gemm).tasks(plan.problem);
    return nullptr;
}

}  // namespace

const Candidate conv2d_grad_weight_im2col{Algorithm::kIm2col, plan, run_either};

}  // namespace fastconv::cpu
