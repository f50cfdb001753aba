// The loop nest of depthwise grad_weight:
//
//   dw[k][r][s] = sum over units (image, rows, columns) of
//                 sum over (p, q) in the unit of dy[p,q,k] x[p * stride_h + r * dilation_h - top, ..., k / M]
//
// A unit has at most 512 positions, what one accumulator sums. Units are cut into slices; a task adds
// the units of one slice for a chunk of channels, in order, into a partial sum of its own, and the
// slices' partial sums are then added in order. Units and slices follow from the shape alone.
// The source goes through a zero-padded strip (so padding is a zero that takes part), the gradient
// too where its channels are strided.
#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/depthwise.h"
#include "core/phases.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kUnitPositions = 512;
constexpr std::int64_t kChunkBytes = 256;
constexpr std::int64_t kTasks = 64;  // enough for many cores; partial sums stay small
constexpr std::size_t kScratchBytes = kMaxThreadScratch * 3 / 4;

std::int64_t even(std::int64_t whole, std::int64_t most) {
    return ceil_div(whole, ceil_div(whole, std::max<std::int64_t>(1, most)));
}

bool gathers_gradient(const ConvPlan& plan) { return plan.strides.output.channel_elems != 1; }

// Elements of a unit's strips, source and gradient.
std::int64_t strip_elems(const ConvPlan& plan) {
    const DepthwiseBlocking& cut = plan.depthwise;
    const Correlation& phase = plan.phases[0];
    std::int64_t positions =
        sources(cut.block_h, phase.taps_h) * sources(cut.block_w, phase.taps_w);
    if (gathers_gradient(plan)) positions += cut.block_h * cut.block_w;
    return positions * cut.chunk;
}

template <class T>
class GradWeight {
public:
    GradWeight(const ConvPlan& plan, const ConvPointers& pointers, T* partials)
        : plan_(plan), cut_(plan.depthwise), phase_(plan.phases[0]),
          kernels_(plan.isa->kernels<T>()), lanes_(kernels_.depthwise->lanes),
          channels_(plan.problem.out_channels), taps_(plan.problem.taps()),
          slice_elems_(ceil_div(channels_, lanes_) * lanes_ * taps_),
          x_(static_cast<const T*>(pointers.input)), grad_(static_cast<const T*>(pointers.output)),
          weight_(static_cast<T*>(pointers.weight)), accumulate_(pointers.accumulate),
          partials_(partials) {}

    void run() const {
        const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
        parallel_for(plan_.tasks, plan_.threads, mode, [this](std::int64_t task, int) {
            sum_slice(task / cut_.chunks, task % cut_.chunks);
        });
        constexpr std::int64_t kTogether = 8;  // vectors a task
        const std::int64_t vectors = ceil_div(channels_, lanes_);
        parallel_for(ceil_div(vectors, kTogether), plan_.threads, mode,
                     [this, vectors](std::int64_t task, int) {
            const std::int64_t end = std::min(vectors, (task + 1) * kTogether);
            for (std::int64_t v = task * kTogether; v < end; ++v) add_slices(v);
        });
    }

private:
    void sum_slice(std::int64_t slice, std::int64_t chunk) const {
        const std::int64_t v = chunk * cut_.chunk;
        const std::int64_t channels = std::min(cut_.chunk, channels_ - v);
        T* strip = static_cast<T*>(thread_scratch(cut_.scratch_bytes));
        T* sum = partials_ + slice * slice_elems_ + v * taps_;
        std::fill_n(sum, ceil_div(channels, lanes_) * lanes_ * taps_, T(0));
        const std::int64_t begin = cut_.units * slice / cut_.slices;
        const std::int64_t end = cut_.units * (slice + 1) / cut_.slices;
        for (std::int64_t unit = begin; unit < end; ++unit) add_unit(unit, v, channels, strip, sum);
    }

    void add_unit(std::int64_t unit, std::int64_t v, std::int64_t channels, T* strip,
                  T* sum) const {
        const AxisTaps &th = phase_.taps_h, &tw = phase_.taps_w;
        const std::int64_t j = unit % cut_.blocks_w * cut_.block_w;
        const std::int64_t i = unit / cut_.blocks_w % cut_.blocks_h * cut_.block_h;
        const std::int64_t image = unit / cut_.blocks_w / cut_.blocks_h;
        DepthwiseGradTile<T> tile;
        tile.rows = std::min(cut_.block_h, phase_.out_h - i);
        tile.columns = std::min(cut_.block_w, phase_.out_w - j);
        tile.step_h = th.step;
        tile.step_w = tw.step;
        tile.tap_step_h = th.offset_step;
        tile.tap_step_w = tw.offset_step;
        tile.taps_h = th.count;
        tile.taps_w = tw.count;
        tile.channels = channels;
        tile.sum = sum;

        StripCopy<T> copy;
        copy.image = x_ + image * phase_.source.batch_elems;
        copy.strides = &phase_.source;
        copy.height = phase_.source_h;
        copy.width = phase_.source_w;
        copy.y = i * th.step + th.offset;
        copy.x = j * tw.step + tw.offset;
        copy.lines = sources(tile.rows, th);
        copy.columns = sources(tile.columns, tw);
        copy.v_begin = v;
        copy.channels = channels;
        copy.repeat = multiplier(plan_.problem);
        copy_strip(*kernels_.copy, copy, strip);
        tile.source = strip;
        tile.source_pitch = channels;
        tile.source_line = copy.columns * channels;
        T* gradient_strip = strip + copy.lines * tile.source_line;
        point_gradient(tile, image, i, j, v, gradient_strip);

        const bool small = th.count == 3 && tw.count == 3 && th.offset_step == 1 && tw.offset_step == 1;
        (small ? kernels_.depthwise->grad_3x3 : kernels_.depthwise->grad_any)(tile);
    }

    void point_gradient(DepthwiseGradTile<T>& tile, std::int64_t image, std::int64_t i,
                        std::int64_t j, std::int64_t v, T* strip) const {
        const Strides& from = plan_.strides.output;
        tile.grad = grad_ + image * from.batch_elems + i * from.height_elems +
                    j * from.width_elems + v * from.channel_elems;
        tile.grad_line = from.height_elems;
        tile.grad_pitch = from.width_elems;
        if (!gathers_gradient(plan_)) return;
        StripCopy<T> copy;
        copy.image = grad_ + image * from.batch_elems;
        copy.strides = &from;
        copy.height = phase_.out_h;
        copy.width = phase_.out_w;
        copy.y = i;
        copy.x = j;
        copy.lines = tile.rows;
        copy.columns = tile.columns;
        copy.v_begin = v;
        copy.channels = tile.channels;
        copy_strip(*kernels_.copy, copy, strip);
        tile.grad = strip;
        tile.grad_pitch = tile.channels;
        tile.grad_line = tile.columns * tile.channels;
    }

    // The slices of one vector of channels, in order, then out.
    void add_slices(std::int64_t vector) const {
        T* total = partials_ + vector * lanes_ * taps_;
        for (std::int64_t slice = 1; slice < cut_.slices; ++slice) {
            const T* next = total + slice * slice_elems_;
            for (std::int64_t i = 0; i < lanes_ * taps_; ++i) total[i] += next[i];
        }
        const Strides& to = plan_.strides.weight;
        const std::int64_t taps_w = plan_.problem.width.kernel;
        const std::int64_t count = std::min<std::int64_t>(lanes_, channels_ - vector * lanes_);
        T* weight = weight_ + vector * lanes_ * to.batch_elems;
        if (!accumulate_ && to.width_elems == 1 && to.height_elems == taps_w)
            return kernels_.copy->copy(count, taps_, {total, 1, lanes_}, {weight, to.batch_elems, 1});
        for (std::int64_t k = 0; k < count; ++k)
            for (std::int64_t tap = 0; tap < taps_; ++tap) {
                T& place = weight[k * to.batch_elems + tap / taps_w * to.height_elems +
                                  tap % taps_w * to.width_elems];
                const T sum = total[tap * lanes_ + k];
                place = accumulate_ ? place + sum : sum;
            }
    }

    const ConvPlan& plan_;
    const DepthwiseBlocking& cut_;
    const Correlation& phase_;
    const Kernels<T>& kernels_;
    std::int64_t lanes_, channels_, taps_, slice_elems_;
    const T* x_;
    const T* grad_;
    T* weight_;
    bool accumulate_;
    T* partials_;  // (slices, vectors, taps, lanes)
};

template <class T>
const char* block(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    DepthwiseBlocking& cut = plan.depthwise;
    const Correlation& phase = plan.phases[0];
    const std::int64_t lanes = plan.isa->kernels<T>().depthwise->lanes;
    const std::int64_t vectors = ceil_div(conv.out_channels, lanes);
    cut.chunk =
        even(vectors, std::max<std::int64_t>(1, kChunkBytes / std::int64_t{sizeof(T)} / lanes)) * lanes;
    cut.gather = true;
    cut.block_w = even(phase.out_w, kUnitPositions);
    cut.block_h = even(phase.out_h, kUnitPositions / cut.block_w);
    while ((cut.scratch_bytes = static_cast<std::size_t>(strip_elems(plan)) * sizeof(T)) >
           kScratchBytes) {
        if (cut.chunk > lanes) cut.chunk = lanes;
        else if (cut.block_h > 1) cut.block_h = (cut.block_h + 1) / 2;
        else if (cut.block_w > 1) cut.block_w = (cut.block_w + 1) / 2;
        else return "depthwise: one output needs more scratch than a thread may have (4 MB)";
    }
    cut.blocks_h = ceil_div(phase.out_h, cut.block_h);
    cut.blocks_w = ceil_div(phase.out_w, cut.block_w);
    cut.chunks = ceil_div(conv.out_channels, cut.chunk);
    cut.units = conv.batch * cut.blocks_h * cut.blocks_w;
    cut.slices =
        std::clamp<std::int64_t>(kTasks / cut.chunks, 1, std::max<std::int64_t>(1, cut.units));
    plan.tasks = cut.slices * cut.chunks;
    describe_depthwise(plan, plan.phases[0]);
    plan.packed_elems = 0;
    plan.workspace_bytes =
        static_cast<std::size_t>(cut.slices * vectors * lanes * conv.taps()) * sizeof(T);
    return nullptr;
}

}  // namespace

const char* plan_depthwise_grad_weight(ConvPlan& plan) {
    plan.phases.assign(1, forward_phase(plan.problem, plan.strides));
    return plan.problem.dtype == DType::kFloat32 ? block<float>(plan) : block<double>(plan);
}

template <class T>
void run_depthwise_grad_weight(const ConvPlan& plan, const ConvPointers& pointers, T* workspace) {
    GradWeight<T>(plan, pointers, workspace).run();
}

template void run_depthwise_grad_weight(const ConvPlan&, const ConvPointers&, float*);
template void run_depthwise_grad_weight(const ConvPlan&, const ConvPointers&, double*);

}  // namespace fastconv::cpu
