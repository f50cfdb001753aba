// grad_input of few channels by im2col's transpose, col2im, a kernel row at a time:
//
//   products[(p, q)][(s, c)] = sum over k of dy[n, p, q, k] * W[k, c, r, s]           for each r
//   dx[n, p * stride + r * dilation - pad, q * stride + s - pad, c] += products[(p, q)][(s, c)]
//
// `direct` has the channels C as its columns and multiplies by zeros up to a whole vector: for C = 3
// in 13 of 16 lanes, S times a kernel row. Here the S C columns of a kernel row lie side by side in
// dx (without dilation along the width), 21 of 32 lanes for a kernel 7 wide, and what padding
// adds is not computed. Price: products are added to a strip of dx in scratch, one load and store a
// vector for K multiply-adds.
// A task owns some rows of one image and group, so nothing is added twice; an element's sum goes by
// rising r and q, whatever the rows. Any strides, padding, groups and memory order; S C columns of at
// most 4 vectors. The strip begins as the bias that transposed convolution has.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/conv2d.h"
#include "cpu/im2col.h"
#include "cpu/kernels_outer.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kFewestFilters = 8;  // fewer do not pay for the additions
constexpr std::int64_t kPositions = 160;    // a kernel row's products: 20 KB of two vectors
constexpr std::int64_t kFewestRows = 6;     // of grad_output: they hide the latency of the additions

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Rows of dx and of grad_output that meet in kernel row r: dx row h + i * stride and grad_output row
/// p + i for i < count.
struct Meeting {
    std::int64_t h, p, count;

    Meeting(const Axis& axis, std::int64_t r, std::int64_t begin, std::int64_t end) {
        const std::int64_t shift = axis.pad_lo - r * axis.dilation;  // h + shift = p * stride
        const std::int64_t first = std::max<std::int64_t>(begin + shift, 0);
        p = ceil_div(first, axis.stride);
        h = p * axis.stride - shift;
        const std::int64_t last =
            std::min(ceil_div(std::max<std::int64_t>(end + shift, 0), axis.stride), axis.out);
        count = std::max<std::int64_t>(0, last - p);
    }
};

template <class T>
struct Layout {
    std::int64_t columns, width;      // of a kernel row's products
    std::int64_t line, line_elems;    // pixels and elements of a line of the strip
    std::int64_t rows, source_rows;   // at most: of dx and of grad_output
    bool gather;                      // grad_output's channels are strided
    std::size_t pointers, out, products, strip, source, bytes = 0;

    Layout(const ConvPlan& plan, const GemmKernels<T>& gemm) {
        const Conv& conv = plan.problem;
        const Axis &height = conv.height, &across = conv.width;
        columns = across.kernel * conv.group_in();
        width = std::int64_t{vectors_for(gemm, columns)} * gemm.lanes;
        line = std::max(across.pad_lo + across.in, (across.out - 1) * across.stride + across.kernel);
        line_elems = line * conv.group_in();
        rows = plan.spread.rows;
        source_rows = std::min(window_count(rows + height.extent() - 2, height.stride), height.out);
        gather = plan.strides.output.channel_elems != 1 && conv.group_out() > 1;
        const std::int64_t positions = ceil_div(rows, height.stride) * across.out;
        pointers = take(positions, sizeof(T*));
        out = take(positions, sizeof(T*));
        products = take(positions * width, sizeof(T));
        strip = take(rows * line_elems, sizeof(T));
        source = take(gather ? source_rows * across.out * conv.group_out() : 0, sizeof(T));
    }

private:
    std::size_t take(std::int64_t count, std::size_t size) {
        const std::size_t begin = bytes;
        bytes += (static_cast<std::size_t>(count) * size + 63) / 64 * 64;
        return begin;
    }
};

template <class T>
class SpreadTask {
public:
    SpreadTask(const ConvPlan& plan, const ConvPointers& pointers, const T* packed,
               const Layout<T>& layout, std::int64_t task)
        : conv_(plan.problem), strides_(plan.strides), kernels_(plan.isa->kernels<T>()),
          layout_(layout), scratch_(static_cast<char*>(thread_scratch(layout.bytes))) {
        const std::int64_t block = task % plan.spread.blocks;
        task /= plan.spread.blocks;
        group_ = task % conv_.groups;
        const std::int64_t image = task / conv_.groups;
        begin_ = conv_.height.in * block / plan.spread.blocks;
        end_ = conv_.height.in * (block + 1) / plan.spread.blocks;
        grad_ = static_cast<const T*>(pointers.output) + image * strides_.output.batch_elems +
                group_ * conv_.group_out() * strides_.output.channel_elems;
        dx_ = static_cast<T*>(pointers.input) + image * strides_.input.batch_elems +
              group_ * conv_.group_in() * strides_.input.channel_elems;
        bias_ = static_cast<const T*>(pointers.bias);
        packed_ = packed + group_ * conv_.height.kernel * conv_.group_out() * layout.width;
    }

    void run() {
        begin_strip();
        if (layout_.gather) gather();
        for (std::int64_t r = 0; r < conv_.height.kernel; ++r) {
            const Meeting meeting(conv_.height, r, begin_, end_);
            if (meeting.count == 0) continue;
            multiply(r, meeting);
            spread(meeting);
        }
        for (std::int64_t h = begin_; h < end_; ++h) write_line(h);
    }

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    T* strip_line(std::int64_t h) const {
        return at<T>(layout_.strip) + (h - begin_) * layout_.line_elems;
    }

    void begin_strip() const {
        T* const strip = at<T>(layout_.strip);
        const std::int64_t channels = conv_.group_in();
        const std::int64_t elems = (end_ - begin_) * layout_.line_elems;
        if (!bias_) std::fill_n(strip, elems, T(0));
        else
            for (std::int64_t i = 0; i < elems; i += channels)
                std::copy_n(bias_ + group_ * channels, channels, strip + i);
    }

    // The first row of grad_output that any row of dx meets.
    std::int64_t first_source_row() const {
        const Axis& height = conv_.height;
        const std::int64_t most = begin_ + height.pad_lo - (height.kernel - 1) * height.dilation;
        return most <= 0 ? 0 : ceil_div(most, height.stride);
    }

    void gather() const {
        const Axis &height = conv_.height, &width = conv_.width;
        const std::int64_t first = first_source_row();
        const std::int64_t last =
            std::min(window_count(end_ - 1 + height.pad_lo, height.stride), height.out);
        for (std::int64_t p = first; p < last; ++p)
            kernels_.copy->copy(width.out, conv_.group_out(),
                                {grad_ + p * strides_.output.height_elems,
                                 strides_.output.width_elems, strides_.output.channel_elems},
                                {at<T>(layout_.source) + (p - first) * width.out * conv_.group_out(),
                                 conv_.group_out(), 1});
    }

    const T* source(std::int64_t p, std::int64_t q) const {
        if (layout_.gather)
            return at<T>(layout_.source) +
                   ((p - first_source_row()) * conv_.width.out + q) * conv_.group_out();
        return grad_ + p * strides_.output.height_elems + q * strides_.output.width_elems;
    }

    void multiply(std::int64_t r, const Meeting& meeting) const {
        const std::int64_t across = conv_.width.out, positions = meeting.count * across;
        const T** const rows = at<const T*>(layout_.pointers);
        T** const out = at<T*>(layout_.out);
        T* const products = at<T>(layout_.products);
        for (std::int64_t i = 0; i < meeting.count; ++i)
            for (std::int64_t q = 0; q < across; ++q)
                rows[i * across + q] = source(meeting.p + i, q);
        for (std::int64_t row = 0; row < positions; ++row) out[row] = products + row * layout_.width;
        const std::int64_t depth = conv_.group_out(), block = even_block(depth, kDepthBlock);
        for (std::int64_t k = 0; k < depth; k += block) {
            GemmTile<T> tile;
            tile.row_offset = k;
            tile.segments = 1;
            tile.depth = std::min(block, depth - k);
            tile.panel = packed_ + (r * depth + k) * layout_.width;
            tile.first = k == 0;
            tile.last = k + tile.depth == depth;
            tile.cols = layout_.columns;
            run_tiles<T>(*kernels_.gemm, tile, positions, layout_.width, rows, products, out, nullptr);
        }
    }

    void spread(const Meeting& meeting) const {
        const Axis &height = conv_.height, &width = conv_.width;
        kernels_.outer->spread({meeting.count, width.out, layout_.columns, at<T>(layout_.products),
                                layout_.width, strip_line(meeting.h),
                                height.stride * layout_.line_elems,
                                width.stride * conv_.group_in()});
    }

    void write_line(std::int64_t h) const {
        const std::int64_t channels = conv_.group_in();
        kernels_.copy->copy(conv_.width.in, channels,
                            {strip_line(h) + conv_.width.pad_lo * channels, channels, 1},
                            {dx_ + h * strides_.input.height_elems, strides_.input.width_elems,
                             strides_.input.channel_elems});
    }

    const Conv& conv_;
    const ConvStrides& strides_;
    const Kernels<T>& kernels_;
    const Layout<T>& layout_;
    char* scratch_;
    std::int64_t group_, begin_, end_;
    const T* grad_;
    T* dx_;
    const T* bias_;
    const T* packed_;
};

// packed[group][r][k][(s, c)], columns beyond the last zero.
template <class T>
void pack(const ConvPlan& plan, const Layout<T>& layout, const T* weight, T* packed) {
    const Conv& conv = plan.problem;
    const Strides& from = plan.strides.weight;
    const std::int64_t filters = conv.group_out(), channels = conv.group_in();
    for (std::int64_t g = 0; g < conv.groups; ++g)
        for (std::int64_t r = 0; r < conv.height.kernel; ++r) {
            T* const panel = packed + (g * conv.height.kernel + r) * filters * layout.width;
            std::fill_n(panel, filters * layout.width, T(0));
            for (std::int64_t c = 0; c < channels; ++c)
                plan.isa->kernels<T>().copy->copy(
                    filters, conv.width.kernel,
                    {weight + g * filters * from.batch_elems + c * from.channel_elems +
                         r * from.height_elems,
                     from.batch_elems, from.width_elems},
                    {panel + c, layout.width, channels});
        }
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    T* const packed = static_cast<T*>(workspace);
    const Layout<T> layout(plan, *plan.isa->kernels<T>().gemm);
    pack(plan, layout, static_cast<const T*>(pointers.weight), packed);
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(plan.tasks, plan.threads, mode, [&](std::int64_t task, int) {
        SpreadTask<T>(plan, pointers, packed, layout, task).run();
    });
}

template <class T>
bool plan_either(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    const GemmKernels<T>& gemm = *plan.isa->kernels<T>().gemm;
    const std::int64_t columns = conv.width.kernel * conv.group_in();
    if (columns > GemmKernels<T>::kMaxVectors * gemm.lanes) return false;
    // Multiply-adds a filter and kernel row, in vectors: half as many again must be saved.
    const int mine = vectors_for(gemm, columns), direct = vectors_for(gemm, conv.group_in());
    if (mine * gemm.lanes < columns || 3 * mine > 2 * direct * conv.width.kernel) return false;
    plan.spread.rows = conv.height.stride *
                       std::max(kFewestRows, ceil_div(kPositions, conv.width.out));
    plan.spread.blocks = ceil_div(conv.height.in, plan.spread.rows);
    plan.spread.rows = ceil_div(conv.height.in, plan.spread.blocks);
    const Layout<T> layout(plan, gemm);
    if (layout.bytes > kMaxThreadScratch) return false;
    plan.packed_elems = conv.groups * conv.height.kernel * conv.group_out() * layout.width;
    return true;
}

}  // namespace

bool plan_spread(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    if (plan.direction != Direction::kGradInput || conv.width.dilation != 1 ||
        conv.height.pad_lo < 0 || conv.width.pad_lo < 0 || conv.group_out() < kFewestFilters ||
        conv.group_in() == 0 || conv.height.out * conv.width.out == 0)
        return false;
    const bool taken = plan.problem.dtype == DType::kFloat32 ? plan_either<float>(plan)
                                                              : plan_either<double>(plan);
    if (!taken) {
        plan.spread = {};
        return false;
    }
    plan.tasks = conv.batch * conv.groups * plan.spread.blocks;
    plan.workspace_bytes =
        static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes());
    return true;
}

void run_spread(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace fastconv::cpu
