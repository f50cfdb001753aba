// The loop nest of depthwise forward and grad_input. A task is a block of output rows (and columns) of
// one image and a chunk of channels:
//
//   for each phase                        one forward, stride_h * stride_w backward
//     for left edge, middle, right edge   columns whose taps reach into padding go through a strip
//       for each pair of rows             the register tile: kernels_depthwise.h
//
// The middle of a channels-last source is read in place. Any other source is copied whole, a task's
// part at a time, into a strip: channels last, zero-padded (`gather`).
#include <numeric>

#include "core/parallel.h"
#include "cpu/depthwise.h"

namespace fastconv::cpu {
namespace {

/// Where a task's scratch has what.
template <class T>
struct Scratch {
    const T** lines;
    std::int64_t* pitches;
    T* zeros;     // (chunk)
    T* strip;     // (terms, lines, columns, chunk)
    T* out;       // (2, columns, chunk), where the result's channels are strided
    T* residual;  // (2, columns, chunk), likewise
    std::size_t bytes = 0;

    Scratch(const ConvPlan& plan, char* memory) {
        const DepthwiseBlocking& cut = plan.depthwise;
        const std::int64_t terms = plan.direction == Direction::kGradInput ? multiplier(plan.problem) : 1;
        std::int64_t most_lines = 0, most_strip = 0;
        for (const Correlation& phase : plan.phases) {
            const std::int64_t second_row = phase.taps_h.step <= 2 ? phase.taps_h.step : 0;
            most_lines = std::max(most_lines, terms * phase.taps_h.count + second_row);
            std::int64_t columns = cut.block_w;
            if (!cut.gather) {
                const ColumnRange inner = inner_columns(phase);
                columns = std::max(inner.begin, phase.out_w - inner.end);
                columns = std::min(columns, cut.block_w);
            }
            if (columns > 0)
                most_strip = std::max(most_strip, sources(cut.block_h, phase.taps_h) *
                                                      sources(columns, phase.taps_w));
        }
        const Correlation& first = plan.phases[0];
        lines = take<const T*>(memory, most_lines);
        pitches = take<std::int64_t>(memory, most_lines);
        zeros = take<T>(memory, cut.chunk);
        strip = take<T>(memory, terms * most_strip * cut.chunk);
        out = take<T>(memory, first.out.channel_elems == 1 ? 0 : 2 * cut.block_w * cut.chunk);
        const bool strided = plan.strides.has_residual && first.residual.channel_elems != 1;
        residual = take<T>(memory, strided ? 2 * cut.block_w * cut.chunk : 0);
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
class DepthwiseTask {
public:
    DepthwiseTask(const ConvPlan& plan, const ConvPointers& pointers, const T* packed,
                  std::int64_t task)
        : plan_(plan), cut_(plan.depthwise), kernels_(plan.isa->kernels<T>()), packed_(packed),
          forward_(plan.direction == Direction::kForward),
          filters_(multiplier(plan.problem)), terms_(forward_ ? 1 : filters_),
          scratch_(plan, static_cast<char*>(thread_scratch(cut_.scratch_bytes))),
          source_(static_cast<const T*>(forward_ ? pointers.input : pointers.output)),
          out_(static_cast<T*>(forward_ ? pointers.output : pointers.input)),
          residual_(static_cast<const T*>(pointers.residual)) {
        const std::int64_t chunk = task % cut_.chunks;
        task /= cut_.chunks;
        const std::int64_t block_w = task % cut_.blocks_w;
        task /= cut_.blocks_w;
        i_begin_ = task % cut_.blocks_h * cut_.block_h;
        i_end_ = i_begin_ + cut_.block_h;
        j_begin_ = block_w * cut_.block_w;
        j_end_ = j_begin_ + cut_.block_w;
        image_ = task / cut_.blocks_h;
        v_begin_ = chunk * cut_.chunk;
        tile_.channels = std::min(cut_.chunk, vector_channels(plan) - v_begin_);
        tile_.bias = pointers.bias ? static_cast<const T*>(pointers.bias) + v_begin_ : nullptr;
        tile_.relu = pointers.relu;
        std::fill_n(scratch_.zeros, cut_.chunk, T(0));
    }

    void run() {
        for (const Correlation& phase : plan_.phases) {
            const std::int64_t i_end = std::min(i_end_, phase.out_h);
            const std::int64_t j_end = std::min(j_end_, phase.out_w);
            const std::int64_t taps = phase.taps_h.count * phase.taps_w.count;
            tile_.taps_h = terms_ * phase.taps_h.count;
            tile_.taps_w = phase.taps_w.count;
            tile_.step = phase.taps_w.step;
            tile_.weights = packed_ + phase.packed_first_elems + v_begin_ * terms_ * taps;
            if (cut_.gather && taps > 0) {
                run_columns(phase, i_end, j_begin_, j_end, true);
                continue;
            }
            const ColumnRange inner = inner_columns(phase);
            const std::int64_t left = std::clamp(inner.begin, j_begin_, std::max(j_begin_, j_end));
            const std::int64_t right = std::clamp(inner.end, left, std::max(left, j_end));
            run_columns(phase, i_end, j_begin_, left, true);
            run_columns(phase, i_end, left, right, false);
            run_columns(phase, i_end, right, j_end, true);
        }
    }

private:
    const T* source_image(const Correlation& phase) const {
        return source_ + image_ * phase.source.batch_elems;
    }

    void run_columns(const Correlation& phase, std::int64_t i_end, std::int64_t j_begin,
                     std::int64_t j_end, bool gather) {
        if (j_begin >= j_end || i_begin_ >= i_end) return;
        tile_.columns = j_end - j_begin;
        strip_lines_ = sources(i_end - i_begin_, phase.taps_h);
        strip_columns_ = sources(tile_.columns, phase.taps_w);
        if (gather) gather_strip(phase, j_begin);
        const auto* fixed = fixed_tiles(phase);
        tile_.tap_step = phase.taps_w.offset_step;
        for (std::int64_t i = i_begin_; i < i_end;) {
            const int rows = fixed && i + 2 <= i_end ? 2 : 1;
            point_lines(phase, i, j_begin, rows, gather);
            run_rows(phase, i, j_begin, rows, fixed ? fixed[0][rows - 1] : kernels_.depthwise->any);
            i += rows;
        }
    }

    const DepthwiseFunction<T> (*fixed_tiles(const Correlation& phase) const)[2] {
        const AxisTaps &th = phase.taps_h, &tw = phase.taps_w;
        if (terms_ != 1 || th.count != tw.count || th.step != tw.step || th.offset_step != 1 ||
            tw.offset_step != 1 || th.step > 2 || th.count % 2 == 0 || th.count < 3 || th.count > 7)
            return nullptr;
        const auto* tiles = &kernels_.depthwise->fixed[(th.count - 3) / 2][th.step - 1];
        return (*tiles)[0] ? tiles : nullptr;
    }

    void gather_strip(const Correlation& phase, std::int64_t j_begin) const {
        StripCopy<T> copy;
        copy.image = source_image(phase);
        copy.strides = &phase.source;
        copy.height = phase.source_h;
        copy.width = phase.source_w;
        copy.y = i_begin_ * phase.taps_h.step + phase.taps_h.offset;
        copy.x = j_begin * phase.taps_w.step + phase.taps_w.offset;
        copy.lines = strip_lines_;
        copy.columns = strip_columns_;
        copy.v_begin = v_begin_;
        copy.channels = tile_.channels;
        copy.repeat = forward_ ? filters_ : 1;
        copy.every = terms_;
        for (copy.term = 0; copy.term < terms_; ++copy.term)
            copy_strip(*kernels_.copy, copy,
                       scratch_.strip + copy.term * strip_lines_ * strip_columns_ * copy.channels);
    }

    // The lines that `rows` output rows from i on read.
    void point_lines(const Correlation& phase, std::int64_t i, std::int64_t j_begin, int rows,
                     bool gather) {
        const AxisTaps &th = phase.taps_h, &tw = phase.taps_w;
        const std::int64_t shared = rows == 2 ? th.step : 0;  // lines beyond the first row's
        std::int64_t* pitch = scratch_.pitches;
        const T** line = scratch_.lines;
        for (std::int64_t term = 0; term < terms_; ++term)
            for (std::int64_t a = 0; a < th.count + shared; ++a, ++line, ++pitch) {
                if (gather) {
                    const std::int64_t u = (i - i_begin_) * th.step + a * th.offset_step;
                    *line = scratch_.strip +
                            (term * strip_lines_ + u) * strip_columns_ * tile_.channels;
                    *pitch = tile_.channels;
                    continue;
                }
                const std::int64_t y = i * th.step + th.offset + a * th.offset_step;
                const bool inside = y >= 0 && y < phase.source_h;
                *pitch = inside ? phase.source.width_elems : 0;
                *line = inside ? source_image(phase) + y * phase.source.height_elems +
                                     (j_begin * tw.step + tw.offset) * phase.source.width_elems +
                                     v_begin_
                               : scratch_.zeros;
            }
        tile_.lines = scratch_.lines;
        tile_.pitches = scratch_.pitches;
    }

    void run_rows(const Correlation& phase, std::int64_t i, std::int64_t j, int rows,
                  DepthwiseFunction<T> function) {
        const bool through = phase.out.channel_elems != 1;
        const std::int64_t staged = tile_.columns * tile_.channels;
        T* first = out_ + phase.out_first_elems + image_ * phase.out.batch_elems +
                   v_begin_ * phase.out.channel_elems + j * phase.out.width_elems;
        for (int t = 0; t < rows; ++t) {
            tile_.out[t] = through ? scratch_.out + t * staged
                                   : first + (i + t) * phase.out.height_elems;
            if (residual_) point_residual(phase, i, j, t);
        }
        tile_.out_pitch = through ? tile_.channels : phase.out.width_elems;
        function(tile_);
        if (!through) return;
        for (int t = 0; t < rows; ++t)
            kernels_.copy->copy(tile_.columns, tile_.channels,
                                {tile_.out[t], tile_.channels, 1},
                                {first + (i + t) * phase.out.height_elems, phase.out.width_elems,
                                 phase.out.channel_elems});
    }

    void point_residual(const Correlation& phase, std::int64_t i, std::int64_t j, int t) {
        const Strides& from = phase.residual;
        const T* line = residual_ + phase.residual_first_elems + image_ * from.batch_elems +
                        v_begin_ * from.channel_elems + (i + t) * from.height_elems +
                        j * from.width_elems;
        tile_.residual[t] = line;
        tile_.residual_pitch = from.width_elems;
        if (from.channel_elems == 1) return;
        T* staged = scratch_.residual + t * tile_.columns * tile_.channels;
        kernels_.copy->copy(tile_.columns, tile_.channels,
                            {line, from.width_elems, from.channel_elems},
                            {staged, tile_.channels, 1});
        tile_.residual[t] = staged;
        tile_.residual_pitch = tile_.channels;
    }

    const ConvPlan& plan_;
    const DepthwiseBlocking& cut_;
    const Kernels<T>& kernels_;
    const T* packed_;
    bool forward_;
    std::int64_t filters_;  // a channel
    std::int64_t terms_;    // filters that an output sums over
    Scratch<T> scratch_;
    const T* source_;
    T* out_;
    const T* residual_;
    DepthwiseTile<T> tile_;
    std::int64_t image_, v_begin_, i_begin_, i_end_, j_begin_, j_end_;
    std::int64_t strip_lines_ = 0, strip_columns_ = 0;
};

}  // namespace

ColumnRange inner_columns(const Correlation& phase) {
    const AxisTaps& taps = phase.taps_w;
    if (taps.count == 0 || phase.taps_h.count == 0) return {0, phase.out_w};
    const auto ceil_div = [](std::int64_t a, std::int64_t b) { return a > 0 ? (a + b - 1) / b : 0; };
    const std::int64_t begin = std::min(ceil_div(-taps.offset, taps.step), phase.out_w);
    const std::int64_t room = phase.source_w - taps.last_offset();  // j * step < room
    return {begin, std::clamp(ceil_div(room, taps.step), begin, phase.out_w)};
}

template <class T>
std::size_t depthwise_scratch_bytes(const ConvPlan& plan) {
    return Scratch<T>(plan, nullptr).bytes;
}

template <class T>
void run_depthwise(const ConvPlan& plan, const ConvPointers& pointers, const T* packed) {
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(plan.tasks, plan.threads, mode, [&](std::int64_t task, int) {
        DepthwiseTask<T>(plan, pointers, packed, task).run();
    });
}

template std::size_t depthwise_scratch_bytes<float>(const ConvPlan&);
template std::size_t depthwise_scratch_bytes<double>(const ConvPlan&);
template void run_depthwise(const ConvPlan&, const ConvPointers&, const float*);
template void run_depthwise(const ConvPlan&, const ConvPointers&, const double*);

}  // namespace fastconv::cpu
