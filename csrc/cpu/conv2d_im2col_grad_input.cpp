// Plan, packing and tasks of grad_input by a product and col2im (cpu/col2im.h, cpu/col2im_run.cpp).
#include "cpu/col2im.h"

#include <algorithm>
#include <cmath>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "core/phases.h"
#include "cpu/im2col.h"
#include "cpu/kernels_copy.h"
#include "cpu/panels.h"
#include "cpu/strip.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kTermsBytes = 32 << 10;    // of a chunk: added while they are in L1
constexpr std::int64_t kBlockBytes = 256 << 10;   // of grad_output: in L2 while the panels pass
constexpr std::int64_t kStripBytes = 768 << 10;   // of dx, for L2
constexpr std::size_t kScratchBytes = kMaxThreadScratch * 3 / 4;
constexpr double kGain = 0.9;

std::int64_t columns(const Conv& conv) { return conv.taps() * conv.group_in(); }

template <class T>
Col2imCost cost(const Conv& conv, const Isa& isa) {
    const GemmKernels<T>& gemm = *isa.kernels<T>().gemm;
    const double filters = static_cast<double>(conv.group_out());
    const double terms = static_cast<double>(Panels<T>(gemm, columns(conv)).padded_cols);
    const double cols = static_cast<double>(Panels<T>(gemm, conv.group_in()).padded_cols);
    // Vectors that a kernel row is added in, each a load of both sides and a store: four cycles, that
    // is eight multiply-adds; and a store when the term leaves its registers.
    const std::int64_t runs = conv.width.dilation == 1 ? conv.height.kernel : conv.taps();
    const double added = static_cast<double>(
        runs * ceil_div(columns(conv) / runs, gemm.lanes) * gemm.lanes);
    const double positions = static_cast<double>(conv.height.out * conv.width.out);
    Col2imCost result;
    result.col2im = positions * (terms * (filters + 2) + 8 * added);
    // Every tap meets every stride-th position of dx along both axes.
    const Axis &h = conv.height, &w = conv.width;
    result.phases = static_cast<double>(ceil_div(h.in, h.stride) * ceil_div(w.in, w.stride)) *
                    static_cast<double>(conv.taps()) * filters * cols;
    return result;
}

// Positions of a chunk and rows of a block: shapes and the panel's width alone, for they fix the bits.
template <class T>
void choose_blocks(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    Col2imBlocking& cut = plan.col2im;
    const std::int64_t out_h = conv.height.out, out_w = conv.width.out;
    const std::int64_t width = Panels<T>(*plan.isa->kernels<T>().gemm, columns(conv))
                                   .panel_width(0, plan.isa->kernels<T>().gemm->lanes);
    const std::int64_t positions = kTermsBytes / (width * static_cast<std::int64_t>(sizeof(T)));
    cut.chunks_w = ceil_div(out_w, positions);
    const std::int64_t rows = std::clamp<std::int64_t>(positions / out_w, 1, out_h);
    cut.chunk_h = ceil_div(out_h, ceil_div(out_h, rows));
    const std::int64_t chunk_bytes = cut.chunk_h * out_w * conv.group_out() *
                                     static_cast<std::int64_t>(sizeof(T));
    cut.block_h = cut.chunk_h * std::clamp<std::int64_t>(kBlockBytes / chunk_bytes, 1,
                                                         ceil_div(out_h, cut.chunk_h));
    cut.depth_block = even_block(conv.group_out(), kDepthBlock);
    cut.strip_w = std::max((out_w - 1) * conv.width.stride + conv.width.extent(),
                           conv.width.in + conv.width.pad_lo);
}

// What the slowest thread does over the mean, with what bands do twice: rows of grad_output that meet two
// of them, as far as a panel's columns are of more kernel rows than a band takes.
template <class T>
double relative_time(const ConvPlan& plan, std::int64_t bands) {
    const Conv& conv = plan.problem;
    const Panels<T> panels(*plan.isa->kernels<T>().gemm, columns(conv));
    const double shared = static_cast<double>(conv.height.extent() - 1) / conv.height.stride;
    const double kernel_row = static_cast<double>(conv.width.kernel * conv.group_in());
    const double rows_a_panel = static_cast<double>(panels.width) / kernel_row;
    const double twice = std::min(1.0, rows_a_panel / static_cast<double>(conv.height.kernel));
    const double again =
        1 + shared * twice * static_cast<double>(bands - 1) / static_cast<double>(conv.height.out);
    const std::int64_t tasks = conv.batch * conv.groups * bands;
    const double rounds = static_cast<double>(ceil_div(tasks, plan.threads));
    return rounds * plan.threads / static_cast<double>(tasks) * again;
}

template <class T>
bool choose_bands(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    Col2imBlocking& cut = plan.col2im;
    const std::int64_t most = conv.height.in;
    const std::int64_t row_bytes = strip_elems(1, 1, cut.strip_w, conv.group_in()) *
                                   static_cast<std::int64_t>(sizeof(T));
    const std::int64_t fewest =
        ceil_div(most, std::clamp<std::int64_t>(kStripBytes / row_bytes, 1, most));
    cut.bands = fewest;
    if (col2im_scratch<T>(plan).bytes > kScratchBytes) return false;
    for (std::int64_t bands = fewest, last = std::min(most, fewest + 4 * plan.threads);
         plan.threads > 1 && bands <= last; ++bands)
        if (relative_time<T>(plan, bands) < relative_time<T>(plan, cut.bands) * 0.99)
            cut.bands = bands;
    cut.scratch_bytes = col2im_scratch<T>(plan).bytes;
    return true;
}

template <class T>
bool plan_type(ConvPlan& plan) {
    choose_blocks<T>(plan);
    if (!choose_bands<T>(plan)) return false;
    const Conv& conv = plan.problem;
    plan.tasks = conv.batch * conv.groups * plan.col2im.bands;
    plan.packed_elems = conv.out_channels *
                        Panels<T>(*plan.isa->kernels<T>().gemm, columns(conv)).padded_cols;
    return true;
}

// packed[group][panel][k][column], columns (r, s, c) beyond the last zero. Lines of a weight that is not
// channels last are brought into that order first.
template <class T>
void pack(const ConvPlan& plan, const T* weight, T* packed) {
    const Conv& conv = plan.problem;
    const Kernels<T>& kernels = plan.isa->kernels<T>();
    const Strides& w = plan.strides.weight;
    const std::int64_t channels = conv.group_in(), cols = columns(conv), depth = conv.group_out();
    const std::int64_t R = conv.height.kernel, S = conv.width.kernel;
    const Panels<T> panels(*kernels.gemm, cols);
    const bool in_order = (channels == 1 || w.channel_elems == 1) &&
                          (S == 1 || w.width_elems == channels) &&
                          (R == 1 || w.height_elems == S * channels);
    const bool taps_inside = (S == 1 || w.width_elems == 1) && (R == 1 || w.height_elems == S);
    constexpr std::int64_t kLines = 16;
    const std::int64_t chunks = ceil_div(depth, kLines);
    parallel_for(conv.groups * chunks, plan.threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::int64_t group = task / chunks, first = task % chunks * kLines;
        const std::int64_t lines = std::min(kLines, depth - first);
        const T* from = weight + (group * depth + first) * w.batch_elems;
        T* to = packed + group * depth * panels.padded_cols;
        const auto cut_lines = [&](std::int64_t k, std::int64_t count, const T* line,
                                   std::int64_t pitch) {
            for (std::int64_t p = 0; p < panels.count; ++p) {
                const std::int64_t width = panels.panel_width(p, kernels.gemm->lanes);
                const std::int64_t some = panels.panel_cols(p);
                T* panel = to + panels.first_col(p) * depth + k * width;
                kernels.copy->copy(count, some, {line + panels.first_col(p), pitch, 1},
                                   {panel, width, 1});
                for (std::int64_t i = 0; i < count; ++i)
                    std::fill_n(panel + i * width + some, width - some, T(0));
            }
        };
        if (in_order) return cut_lines(first, lines, from, w.batch_elems);
        T* staging = static_cast<T*>(thread_scratch(static_cast<std::size_t>(cols) * sizeof(T)));
        for (std::int64_t k = 0; k < lines; ++k, from += w.batch_elems) {
            if (taps_inside)
                kernels.copy->copy(channels, R * S, {from, w.channel_elems, 1}, {staging, 1, channels});
            else
                for (std::int64_t r = 0; r < R; ++r)
                    kernels.copy->copy(S, channels,
                                       {from + r * w.height_elems, w.width_elems, w.channel_elems},
                                       {staging + r * S * channels, channels, 1});
            cut_lines(first + k, 1, staging, 0);
        }
    });
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    T* packed = static_cast<T*>(workspace);
    pack(plan, static_cast<const T*>(pointers.weight), packed);
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(plan.tasks, plan.threads, mode,
                 [&](std::int64_t task, int) { run_col2im_band<T>(plan, pointers, packed, task); });
}

}  // namespace

Col2imCost col2im_cost(const Conv& conv, const Isa& isa) {
    return conv.dtype == DType::kFloat32 ? cost<float>(conv, isa) : cost<double>(conv, isa);
}

bool plan_col2im(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    plan.col2im = {};
    // One window is a product over the batch, which direct makes of it.
    if (is_one_window(conv)) return false;
    if (conv.macs() == 0 || conv.height.in * conv.width.in == 0) return false;
    if (columns(conv) * conv.element_bytes() > static_cast<std::int64_t>(kScratchBytes)) return false;
    const Col2imCost costs = col2im_cost(conv, *plan.isa);
    if (costs.col2im > kGain * costs.phases) return false;
    const bool fits = conv.dtype == DType::kFloat32 ? plan_type<float>(plan) : plan_type<double>(plan);
    if (!fits) {
        plan.col2im = {};
        return false;
    }
    plan.phases.clear();
    plan.workspace_bytes = static_cast<std::size_t>(plan.packed_elems * conv.element_bytes());
    return true;
}

void run_col2im(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

template <class T>
Col2imScratch col2im_scratch(const ConvPlan& plan) {
    const Conv& conv = plan.problem;
    const Col2imBlocking& cut = plan.col2im;
    Col2imScratch layout;
    const auto take = [&layout](std::int64_t elements, std::size_t size) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * size + 63) / 64 * 64;
        return begin;
    };
    const std::int64_t positions = cut.block_h * conv.width.out;
    const std::int64_t width = Panels<T>(*plan.isa->kernels<T>().gemm, columns(conv)).width;
    layout.pointers = take(positions, sizeof(T*));
    layout.terms = take(cut.chunk_h * ceil_div(conv.width.out, cut.chunks_w) * width, sizeof(T));
    layout.gathered =
        take(plan.strides.output.channel_elems == 1 ? 0 : positions * conv.group_out(), sizeof(T));
    const std::int64_t rows = ceil_div(conv.height.in, cut.bands);
    layout.strip = take(strip_elems(1, rows, cut.strip_w, conv.group_in()), sizeof(T));
    return layout;
}

template Col2imScratch col2im_scratch<float>(const ConvPlan&);
template Col2imScratch col2im_scratch<double>(const ConvPlan&);

}  // namespace fastconv::cpu
