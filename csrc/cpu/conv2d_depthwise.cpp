// Depthwise convolution: as many groups as channels, M = K / C filters a channel.
//
//   forward      y[p,k]  = sum over r, s of x[h(p,r), k / M] w[k,r,s]
//   grad_input   dx[h,c] = sum over m, r, s of dy[p(h,r), c * M + m] w[c * M + m,r,s], by the phases of a
//                          strided convolution (core/phases.h)
//   grad_weight  dw[k,r,s] = sum over images and p of dy[p,k] x[h(p,r), k / M]
//
// A product for every element loaded: bound by memory, and by loads where that is a cache. Vectors lie
// along channels; M = 1 on channels-last operands is read in place, all else a strip at a time.
// Any kernel, stride, padding, dilation, memory order. Not for one group: that is a dense problem.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/depthwise.h"
#include "core/phases.h"

namespace fastconv::cpu {
namespace {

// Channels a task: in place, 1 KB of every pixel (9 KB of 3x3 weights stay in L1); through strips, 256 B.
constexpr std::int64_t kChunkBytes = 1024;
constexpr std::int64_t kStripChunkBytes = 256;
// Source bytes of a task's rows: a part of every L2.
constexpr std::int64_t kSourceBytes = 256 << 10;
constexpr std::int64_t kFewestRows = 4;  // a task reads kernel - 1 lines beside its own
constexpr std::size_t kScratchBytes = kMaxThreadScratch * 3 / 4;

// `whole` cut evenly into blocks of at most `most`.
std::int64_t even(std::int64_t whole, std::int64_t most) {
    return ceil_div(whole, ceil_div(whole, std::max<std::int64_t>(1, most)));
}

const char* reject(const ConvPlan& plan) {
    const Conv& conv = plan.problem;
    if (conv.groups != conv.in_channels) return "depthwise: groups differ from the input's channels";
    if (conv.groups <= 1) return "depthwise: one group is a dense convolution";
    if (conv.out_channels == 0) return "depthwise: there are no filters";
    return nullptr;
}

void count_blocks(ConvPlan& plan, std::int64_t out_h, std::int64_t out_w) {
    DepthwiseBlocking& cut = plan.depthwise;
    cut.blocks_h = ceil_div(out_h, cut.block_h);
    cut.blocks_w = ceil_div(out_w, cut.block_w);
    cut.chunks = ceil_div(vector_channels(plan), cut.chunk);
    plan.tasks = plan.problem.batch * cut.blocks_h * cut.blocks_w * cut.chunks;
}

// A 7x7 image has two edge columns for five others: one strip is cheaper than three parts.
bool mostly_edges(const Correlation& phase) {
    const ColumnRange inner = inner_columns(phase);
    return (inner.end - inner.begin) * 4 < phase.out_w * 3;
}

template <class T>
const char* block(ConvPlan& plan) {
    DepthwiseBlocking& cut = plan.depthwise;
    const Correlation& first = plan.phases[0];  // the largest
    const std::int64_t lanes = plan.isa->kernels<T>().depthwise->lanes;
    const std::int64_t size = sizeof(T);
    cut.gather = multiplier(plan.problem) != 1 || first.source.channel_elems != 1 ||
                 mostly_edges(first);
    const std::int64_t vectors = ceil_div(vector_channels(plan), lanes);
    const std::int64_t most = (cut.gather ? kStripChunkBytes : kChunkBytes) / size / lanes;
    cut.chunk = even(vectors, most) * lanes;
    cut.block_w = first.out_w;
    const std::int64_t step = std::clamp<std::int64_t>(first.taps_h.step, 1, 16);
    const std::int64_t line = first.source_w * cut.chunk * size * step;  // bytes
    cut.block_h = even(first.out_h, std::max(kFewestRows, kSourceBytes / line));
    count_blocks(plan, first.out_h, first.out_w);
    // More tasks where threads would stand idle: fewer rows, then fewer channels each.
    while (plan.tasks < 4 * plan.threads && cut.block_h > kFewestRows) {
        cut.block_h = even(first.out_h, std::max(kFewestRows, cut.block_h / 2));
        count_blocks(plan, first.out_h, first.out_w);
    }
    while (plan.tasks < 2 * plan.threads && cut.chunk >= 4 * lanes) {
        cut.chunk = even(vectors, cut.chunk / lanes / 2) * lanes;
        count_blocks(plan, first.out_h, first.out_w);
    }
    while ((cut.scratch_bytes = depthwise_scratch_bytes<T>(plan)) > kScratchBytes) {
        if (cut.block_h > 1) cut.block_h = (cut.block_h + 1) / 2;
        else if (cut.block_w > 16) cut.block_w = (cut.block_w + 1) / 2;
        else if (cut.chunk > lanes) cut.chunk = lanes;
        else if (cut.block_w > 1) cut.block_w = 1;
        else return "depthwise: one output needs more scratch than a thread may have (4 MB)";
    }
    count_blocks(plan, first.out_h, first.out_w);
    plan.packed_elems = 0;  // what pack_weight makes is not for this
    std::int64_t elements = 0;
    for (Correlation& phase : plan.phases) {
        describe_depthwise(plan, phase);
        phase.packed_first_elems = elements;
        elements += depthwise_packed_elems(plan, phase, static_cast<int>(lanes));
    }
    plan.workspace_bytes = static_cast<std::size_t>(elements * size);
    return nullptr;
}

// ---- weights -------------------------------------------------------------------------------------

template <class T>
struct PackWeights {
    const ConvPlan& plan;
    const CopyKernels<T>& copy;
    std::int64_t lanes;
    const T* weight;

    // staging (tap in the kernel, lane) of the filters first, first + every, ...: `count` of them.
    void stage(std::int64_t first, std::int64_t every, std::int64_t count, T* staging) const {
        const Strides& w = plan.strides.weight;
        const std::int64_t taps_w = plan.problem.width.kernel, taps = plan.problem.taps();
        const T* from = weight + first * w.batch_elems;
        if (w.width_elems == 1 && w.height_elems == taps_w)
            return copy.copy(count, taps, {from, every * w.batch_elems, 1}, {staging, 1, lanes});
        for (std::int64_t tap = 0; tap < taps; ++tap)
            copy.copy(1, count,
                      {from + tap / taps_w * w.height_elems + tap % taps_w * w.width_elems, 0,
                       every * w.batch_elems},
                      {staging + tap * lanes, lanes, 1});
    }

    // packed (vector, term, tap of the phase, lane)
    void phase_vector(const Correlation& phase, std::int64_t vector, std::int64_t terms,
                      std::int64_t term, const T* staging, T* packed) const {
        const AxisTaps &th = phase.taps_h, &tw = phase.taps_w;
        T* to = packed + phase.packed_first_elems +
                (vector * terms + term) * th.count * tw.count * lanes;
        for (std::int64_t a = 0; a < th.count; ++a)
            for (std::int64_t b = 0; b < tw.count; ++b, to += lanes) {
                const std::int64_t r = th.kernel + a * th.kernel_step;
                const std::int64_t s = tw.kernel + b * tw.kernel_step;
                std::copy_n(staging + (r * plan.problem.width.kernel + s) * lanes, lanes, to);
            }
    }
};

template <class T>
void pack(const ConvPlan& plan, const T* weight, T* packed) {
    const std::int64_t lanes = plan.isa->kernels<T>().depthwise->lanes;
    const PackWeights<T> pack{plan, *plan.isa->kernels<T>().copy, lanes, weight};
    const std::int64_t channels = vector_channels(plan);
    const std::int64_t terms =
        plan.direction == Direction::kGradInput ? multiplier(plan.problem) : 1;
    T* staging = static_cast<T*>(thread_scratch(plan.problem.taps() * lanes * sizeof(T)));
    std::fill_n(staging, plan.problem.taps() * lanes, T(0));  // lanes beyond the last channel
    for (std::int64_t v = 0; v < channels; v += lanes) {
        const std::int64_t count = std::min(lanes, channels - v);
        for (std::int64_t term = 0; term < terms; ++term) {
            pack.stage(v * terms + term, terms, count, staging);
            for (const Correlation& phase : plan.phases)
                pack.phase_vector(phase, v / lanes, terms, term, staging, packed);
        }
    }
}

const char* plan(ConvPlan& plan) {
    if (const char* reason = reject(plan)) return reason;
    const Conv& conv = plan.problem;
    if (conv.taps() * 64 > static_cast<std::int64_t>(kScratchBytes))  // staging of one vector
        return "depthwise: the kernel needs more scratch than a thread may have (4 MB)";
    if (plan.direction == Direction::kGradWeight) return plan_depthwise_grad_weight(plan);
    plan.phases = dense_phases(plan.problem, plan.direction, plan.strides);
    const char* reason = conv.dtype == DType::kFloat32 ? block<float>(plan) : block<double>(plan);
    if (reason) plan.tasks = 0;
    return reason;
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    T* memory = static_cast<T*>(workspace);
    if (plan.direction == Direction::kGradWeight)
        return run_depthwise_grad_weight(plan, pointers, memory);
    pack(plan, static_cast<const T*>(pointers.weight), memory);
    run_depthwise<T>(plan, pointers, memory);
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers, workspace);
    else run<double>(plan, pointers, workspace);
}

}  // namespace

std::int64_t depthwise_packed_elems(const ConvPlan& plan, const Correlation& phase, int lanes) {
    const std::int64_t terms =
        plan.direction == Direction::kGradInput ? multiplier(plan.problem) : 1;
    return ceil_div(vector_channels(plan), lanes) * lanes * terms * phase.taps_h.count *
           phase.taps_w.count;
}

void describe_depthwise(const ConvPlan& plan, Correlation& phase) {
    const DepthwiseBlocking& cut = plan.depthwise;
    const std::int64_t terms =
        plan.direction == Direction::kGradInput ? multiplier(plan.problem) : 1;
    phase.gather = cut.gather;
    phase.block_h = cut.block_h;
    phase.block_w = cut.block_w;
    phase.blocks_h = cut.blocks_h;
    phase.blocks_w = cut.blocks_w;
    phase.parts = cut.chunks;
    phase.segments = phase.segments_per_block = 1;
    phase.depth = phase.depth_per_block = terms * phase.taps_h.count * phase.taps_w.count;
    phase.scratch_bytes = cut.scratch_bytes;
}

template <class T>
void copy_strip(const CopyKernels<T>& kernels, const StripCopy<T>& strip, T* to) {
    const Strides& from = *strip.strides;
    // Columns [begin, end) lie inside.
    const std::int64_t begin = std::clamp<std::int64_t>(-strip.x, 0, strip.columns);
    const std::int64_t end =
        std::clamp<std::int64_t>(strip.width - strip.x, begin, strip.columns);
    const std::int64_t pitch = strip.channels;
    for (std::int64_t u = 0; u < strip.lines; ++u, to += strip.columns * pitch) {
        const std::int64_t y = strip.y + u;
        if (y < 0 || y >= strip.height || begin == end) {
            std::fill_n(to, strip.columns * pitch, T(0));
            continue;
        }
        std::fill_n(to, begin * pitch, T(0));
        std::fill_n(to + end * pitch, (strip.columns - end) * pitch, T(0));
        const T* line = strip.image + y * from.height_elems + (strip.x + begin) * from.width_elems;
        for (std::int64_t m = 0; m < strip.repeat; ++m) {
            // The first v that is m modulo repeat.
            const std::int64_t v =
                strip.v_begin + (m + strip.repeat - strip.v_begin % strip.repeat) % strip.repeat;
            const std::int64_t count =
                ceil_div(std::max<std::int64_t>(0, strip.v_begin + strip.channels - v), strip.repeat);
            const std::int64_t channel = v / strip.repeat * strip.every + strip.term;
            if (count > 0)
                kernels.copy(end - begin, count,
                             {line + channel * from.channel_elems, from.width_elems,
                              strip.every * from.channel_elems},
                             {to + begin * pitch + (v - strip.v_begin), pitch, strip.repeat});
        }
    }
}

template void copy_strip(const CopyKernels<float>&, const StripCopy<float>&, float*);
template void copy_strip(const CopyKernels<double>&, const StripCopy<double>&, double*);

const Candidate conv2d_depthwise{Algorithm::kDepthwise, plan, run_either};

}  // namespace fastconv::cpu
