// The loop nest of the sum of outer products. A task has all taps of some channels, some column
// panels, and one of the sums (a run of chunks):
//
//   for each chunk                    ~100 positions
//     gather                          the source strip, where it is not read in place
//     for each group of panels        64 columns; several where there are few positions
//       copy the chunk's lines        (positions, 64): any strides in, 24 KB out, for L1
//       for each segment              a tap, or with `merge` a kernel row
//         for each tile of channels, panel    the register tile: kernels_outer.h
//   totals (rows, 64) to the weight   at once with one sum, else after all sums are added in order;
//                                     one sum without taps may be made in the weight itself
//
// Any strides work; no tensor is copied whole.
#include <algorithm>
#include <cstdint>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/outer_part.h"
#include "cpu/outer_split.h"
#include "cpu/strip.h"
#include "cpu/sum_tasks.h"

namespace fastconv::cpu {
namespace {

template <class T>
class SumTask {
public:
    SumTask(const OuterPart<T>& part, const OuterScratch& layout, char* scratch)
        : part_(part), view_(part.view), kernels_(part.kernels), layout_(layout), scratch_(scratch) {}

    /// totals = the sum over chunks [begin, end), in order.
    void run(std::int64_t begin, std::int64_t end, T* totals) {
        if (begin == end) std::fill_n(totals, part_.totals_elems(), T(0));
        if constexpr (sizeof(T) == 4)
            if (part_.blocking.split) return run_split(begin, end, totals);
        streams_ = end - begin == 1 && !part_.operands.accumulate && beyond_caches();
        for (std::int64_t c = begin; c < end; ++c) {
            const OuterChunk chunk(view_, part_.blocking, c);
            if (view_.gather) gather(chunk);
            find_runs(chunk);
            for (std::int64_t p = part_.panel_begin, next; p < part_.panel_end; p = next) {
                next = group_end(p);
                for (std::int64_t panel = p; panel < next; ++panel)
                    copy_lines(chunk, panel, lines(chunk, panel - p));
                const T* ahead = nullptr;
                if (next < part_.panel_end) ahead = first_line(chunk, next);
                else if (c + 1 < end)
                    ahead = first_line(OuterChunk(view_, part_.blocking, c + 1), part_.panel_begin);
                add_chunk(chunk, p, next, c == begin, ahead, totals);
            }
        }
        if (streams_) kernels_.outer->settle();
    }

private:
    void run_split(std::int64_t begin, std::int64_t end, T* totals) {
        OuterSplit split(part_, layout_, scratch_);
        for (std::int64_t c = begin; c < end; ++c) {
            const OuterChunk chunk(view_, part_.blocking, c);
            find_runs(chunk);
            split.split_source(at<OuterRun<T>>(layout_.runs), *at<std::int64_t>(layout_.run_counts),
                               x_pitch(), chunk.positions());
            for (std::int64_t panel = part_.panel_begin; panel < part_.panel_end; ++panel) {
                copy_lines(chunk, panel, lines(chunk, 0));
                split.add_panel(panel, lines(chunk, 0), c == begin, totals);
            }
        }
        split.finish();
    }

    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    // A group has panels of one width; a last panel that is not full is one of its own.
    std::int64_t group_end(std::int64_t panel) const {
        const std::int64_t end = std::min(panel + part_.blocking.group_panels, part_.panel_end);
        const bool last_not_full =
            end == part_.panels.count &&
            part_.panels.panel_cols(end - 1) < part_.panels.panel_width(0, kernels_.outer->lanes);
        return last_not_full && end - 1 > panel ? end - 1 : end;
    }

    // Whether the weight will have left the caches when it is read next, and has whole lines of theirs.
    // To write 25 MB took the same time either way (Xeon, an L3 of 480 MB shared with strangers), 100 MB
    // 4.0 instead of 10.5 ms.
    bool beyond_caches() const {
        constexpr std::int64_t kBytes = 64 << 20, kLine = 64, kElement = sizeof(T);
        const std::int64_t row = part_.blocking.weight_channel_elems * kElement;
        return part_.blocking.in_place && view_.groups == 1 && view_.channels * row >= kBytes && row % kLine == 0 &&
               reinterpret_cast<std::uintptr_t>(part_.operands.weight) % kLine == 0;
    }

    T* lines(const OuterChunk& chunk, std::int64_t index) const {
        return at<T>(layout_.lines) + index * chunk.positions() * part_.panels.width;
    }

    const T* source_image(std::int64_t n) const {
        return part_.operands.source + n * view_.source.batch_elems +
               part_.group * view_.source_group_elems +
               part_.channel_begin * view_.source.channel_elems;
    }

    // strip[n][u][v][c] = the source at row y(u), column x(v), or zero outside of it.
    void gather(const OuterChunk& chunk) const {
        const AxisTaps &th = view_.taps_h, &tw = view_.taps_w;
        Strip cut;
        cut.first_y = chunk.i0 * th.step + th.offset;
        cut.first_x = chunk.j0 * tw.step + tw.offset;
        cut.pace_y = th.count == 1 ? th.step : 1;
        cut.pace_x = tw.count == 1 ? tw.step : 1;
        cut.height = (chunk.h - 1) * view_.strip_step_h() + 1 + th.last_offset() - th.offset;
        cut.width = (chunk.w - 1) * view_.strip_step_w() + 1 + tw.last_offset() - tw.offset;
        cut.line_pixels = layout_.strip_w;
        for (std::int64_t n = 0; n < chunk.n; ++n)
            fill_strip(*kernels_.copy, view_, source_image(chunk.n0 + n), cut, part_.channels,
                       strip(n, 0, 0));
    }

    T* strip(std::int64_t n, std::int64_t u, std::int64_t v) const {
        return at<T>(layout_.strip) +
               ((n * layout_.strip_h + u) * layout_.strip_w + v) * part_.channels;
    }

    std::int64_t x_pitch() const {
        return view_.gather ? view_.strip_step_w() * part_.channels
                            : view_.taps_w.step * view_.source.width_elems;
    }

    // For every segment, the runs of positions at which its tap falls inside the source; runs that
    // continue each other become one.
    void find_runs(const OuterChunk& chunk) const {
        const std::int64_t pitch = x_pitch();
        const std::int64_t segments_w = view_.merge ? 1 : view_.taps_w.count;
        for (std::int64_t a = 0; a < view_.taps_h.count; ++a)
            for (std::int64_t b = 0; b < segments_w; ++b) {
                const std::int64_t segment = a * segments_w + b;
                OuterRun<T>* const runs =
                    at<OuterRun<T>>(layout_.runs) + segment * layout_.runs_per_segment;
                std::int64_t count = 0;
                for_rows(chunk, a, b, [&](const OuterRun<T>& run) {
                    OuterRun<T>* const last = count > 0 ? runs + count - 1 : nullptr;
                    if (last && last->pixel + last->count == run.pixel &&
                        last->x + last->count * pitch == run.x)
                        last->count += run.count;
                    else
                        runs[count++] = run;
                });
                at<std::int64_t>(layout_.run_counts)[segment] = count;
            }
    }

    template <class Take>
    void for_rows(const OuterChunk& chunk, std::int64_t a, std::int64_t b, Take&& take) const {
        const AxisTaps &th = view_.taps_h, &tw = view_.taps_w;
        // Columns [begin, end) for which the tap is inside; all of them with merge.
        const std::int64_t x0 = tw.offset + b * tw.offset_step;
        std::int64_t begin = chunk.j0, end = chunk.j0 + chunk.w;
        if (!view_.merge) {
            if (x0 < 0) begin = std::max(begin, ceil_div(-x0, tw.step));
            const std::int64_t inside = view_.source_w - x0;
            end = std::min(end, inside > 0 ? ceil_div(inside, tw.step) : 0);
        }
        if (begin >= end) return;
        for (std::int64_t n = 0; n < chunk.n; ++n)
            for (std::int64_t i = 0; i < chunk.h; ++i) {
                const std::int64_t y = (chunk.i0 + i) * th.step + th.offset + a * th.offset_step;
                if (y < 0 || y >= view_.source_h) continue;
                const T* x =
                    view_.gather
                        ? strip(n, i * view_.strip_step_h() + a * th.offset_step,
                                (begin - chunk.j0) * view_.strip_step_w() + b * tw.offset_step)
                        : source_image(chunk.n0 + n) + y * view_.source.height_elems +
                              (begin * tw.step + x0) * view_.source.width_elems;
                take(OuterRun<T>{x, (n * chunk.h + i) * chunk.w + begin - chunk.j0, end - begin});
            }
    }

    const T* first_line(const OuterChunk& chunk, std::int64_t panel) const {
        const Strides& out = view_.out;
        return part_.operands.out + part_.group * view_.out_group_elems +
               part_.panels.first_col(panel) * out.channel_elems + chunk.n0 * out.batch_elems +
               chunk.i0 * out.height_elems + chunk.j0 * out.width_elems;
    }

    // lines[position][k] of one panel, columns beyond the last zero.
    void copy_lines(const OuterChunk& chunk, std::int64_t panel, T* to) const {
        const std::int64_t width = part_.width(panel), cols = part_.panels.panel_cols(panel);
        const Strides& out = view_.out;
        const T* from = first_line(chunk, panel);
        const bool even = chunk.h == 1 || out.height_elems == chunk.w * out.width_elems;
        const std::int64_t pieces = even ? 1 : chunk.h;
        const std::int64_t count = chunk.h * chunk.w / pieces;
        for (std::int64_t n = 0; n < chunk.n; ++n)
            for (std::int64_t i = 0; i < pieces; ++i)
                kernels_.copy->copy(count, cols,
                                    {from + n * out.batch_elems + i * out.height_elems,
                                     out.width_elems, out.channel_elems},
                                    {to + (n * pieces + i) * count * width, width, 1});
        if (cols < width)
            for (std::int64_t r = 0; r < chunk.positions(); ++r)
                std::fill_n(to + r * width + cols, width - cols, T(0));
    }

    // Tiles of nearly equal heights, as in the implicit GEMM.
    void add_chunk(const OuterChunk& chunk, std::int64_t panel_begin, std::int64_t panel_end, bool first,
                   const T* ahead, T* totals) const {
        const int vectors =
            static_cast<int>(part_.width(panel_begin) / kernels_.outer->lanes);
        const std::int64_t rows = part_.segment_rows;
        const std::int64_t tiles = ceil_div(rows, kernels_.outer->max_rows[vectors]);
        OuterTile<T> tile;
        tile.x_pitch = x_pitch();
        tile.sum_pitch = part_.row_elems(panel_begin);
        tile.cold = part_.in_place(panel_begin);
        tile.first = first && !(part_.in_place(panel_begin) && part_.operands.accumulate);
        tile.stream = streams_ && part_.in_place(panel_begin);
        // The lines that are copied next, a cache line of each a tile: copying does not overlap with the
        // products by itself, and grad_output of a first layer comes from memory.
        constexpr std::int64_t kCacheLine = 64 / static_cast<std::int64_t>(sizeof(T));
        std::int64_t to_fetch = view_.out.channel_elems == 1 && ahead ? part_.width(panel_begin) : 0;
        const OuterRun<T>* runs = at<OuterRun<T>>(layout_.runs);
        const std::int64_t* counts = at<std::int64_t>(layout_.run_counts);
        for (std::int64_t s = 0; s < view_.segments; ++s) {
            tile.runs = runs + s * layout_.runs_per_segment;
            tile.run_count = counts[s];
            for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
                const std::int64_t next = rows * (t + 1) / tiles;
                tile.x_offset = row;
                for (std::int64_t p = panel_begin; p < panel_end; ++p) {
                    tile.lines = lines(chunk, p - panel_begin);
                    tile.sum = part_.panel_totals(totals, p) + s * part_.segment_elems(p) +
                               row * tile.sum_pitch;
                    tile.ahead = to_fetch > 0 ? ahead : nullptr;
                    tile.ahead_step = to_fetch > 0 ? view_.out.width_elems : 0;
                    if (to_fetch > 0) ahead += kCacheLine;
                    to_fetch -= kCacheLine;
                    kernels_.outer->tile[vectors][next - row](tile);
                }
                row = next;
            }
        }
    }

    const OuterPart<T>& part_;
    const Correlation& view_;
    const Kernels<T>& kernels_;
    const OuterScratch& layout_;
    char* scratch_;
    bool streams_ = false;
};

}  // namespace

template <class T>
void run_outer(const Correlation& view, const OuterBlocking& blocking, const Kernels<T>& kernels,
               const OuterOperands<T>& operands, int threads) {
    if (view.groups * view.channels * view.cols == 0) return;
    const OuterScratch layout = outer_scratch(view, blocking, kernels);
    const SumTasks tasks{blocking.parts(view.groups), blocking.sums, blocking.chunks()};
    const std::int64_t parts = tasks.parts, sums = tasks.sums;
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(tasks.count(), threads, mode, [&](std::int64_t task, int) {
        const std::int64_t number = tasks.part(task), sum = tasks.sum(task);
        const OuterPart<T> part(view, blocking, kernels, operands, number);
        char* scratch = static_cast<char*>(thread_scratch(layout.bytes));
        T* totals = sums > 1 ? operands.workspace + (sum * parts + number) * blocking.total_elems
                             : reinterpret_cast<T*>(scratch + layout.totals);
        SumTask<T>(part, layout, scratch)
            .run(tasks.begin(sum), tasks.begin(sum + 1), totals);
        if (sums == 1) part.write(totals, reinterpret_cast<T*>(scratch + layout.stage));
    });
    if (sums == 1) return;
    parallel_for(parts, threads, mode, [&](std::int64_t task, int) {
        const OuterPart<T> part(view, blocking, kernels, operands, task);
        char* scratch = static_cast<char*>(thread_scratch(layout.bytes));
        T* totals = operands.workspace + task * blocking.total_elems;
        for (std::int64_t sum = 1; sum < sums; ++sum)
            kernels.outer->add(part.totals_elems(), totals + sum * parts * blocking.total_elems,
                               totals);
        part.write(totals, reinterpret_cast<T*>(scratch + layout.stage));
    });
}

template void run_outer(const Correlation&, const OuterBlocking&, const Kernels<float>&,
                        const OuterOperands<float>&, int);
template void run_outer(const Correlation&, const OuterBlocking&, const Kernels<double>&,
                        const OuterOperands<double>&, int);

}  // namespace fastconv::cpu
