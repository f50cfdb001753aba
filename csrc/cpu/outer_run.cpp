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

#include "core/parallel.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// What several places of a task need to agree on: its part of the weight.
template <class T>
struct Part {
    const Correlation& view;
    const OuterBlocking& blocking;
    const Kernels<T>& kernels;
    const OuterOperands<T>& operands;
    Panels<T> panels;
    std::int64_t group, channel_begin, channels, panel_begin, panel_end;
    std::int64_t segment_rows;  // rows of one segment in this part

    Part(const Correlation& v, const OuterBlocking& b, const Kernels<T>& k,
         const OuterOperands<T>& o, std::int64_t index)
        : view(v), blocking(b), kernels(k), operands(o), panels(*k.outer, v.cols) {
        const std::int64_t p = index % b.panel_parts;
        const std::int64_t c = index / b.panel_parts % b.channel_parts;
        group = index / b.panel_parts / b.channel_parts;
        const std::int64_t units = b.channel_units(v.channels);
        channel_begin = units * c / b.channel_parts * b.channel_unit;
        channels = std::min(v.channels, units * (c + 1) / b.channel_parts * b.channel_unit) -
                   channel_begin;
        panel_begin = panels.count * p / b.panel_parts;
        panel_end = panels.count * (p + 1) / b.panel_parts;
        segment_rows = v.merge ? v.depth : channels;
    }

    std::int64_t rows() const { return view.segments * segment_rows; }
    std::int64_t width(std::int64_t panel) const {
        return panels.panel_width(panel, kernels.outer->lanes);
    }
    std::int64_t totals_elems() const {
        std::int64_t elems = 0;
        for (std::int64_t p = panel_begin; p < panel_end; ++p) elems += rows() * width(p);
        return elems;
    }
    bool in_place(std::int64_t panel) const {
        return blocking.in_place && panels.panel_cols(panel) == width(panel);
    }
    /// Where the panel's part of the weight begins.
    T* panel_weight(std::int64_t panel) const {
        return operands.weight + group * blocking.weight_group_elems +
               channel_begin * blocking.weight_channel_elems +
               panels.first_col(panel) * blocking.weight_col_elems;
    }
    /// Totals of a panel: (segment, row, column), or (row, segment, column) with taps_inside.
    T* panel_totals(T* totals, std::int64_t panel) const {
        if (in_place(panel)) return panel_weight(panel);
        return blocking.in_place ? totals : totals + (panel - panel_begin) * rows() * panels.width;
    }
    std::int64_t segment_elems(std::int64_t panel) const {
        return (blocking.taps_inside ? 1 : segment_rows) * width(panel);
    }
    std::int64_t row_elems(std::int64_t panel) const {
        if (in_place(panel)) return blocking.weight_channel_elems;
        return (blocking.taps_inside ? view.segments : 1) * width(panel);
    }

    /// Totals into the weight, through `stage` where they are added to it.
    void write(T* totals, T* stage) const {
        for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
            if (in_place(panel)) continue;
            T* from = panel_totals(totals, panel);
            T* to = panel_weight(panel);
            if (blocking.taps_inside) {
                write_rows(panel, rows(), from, to, blocking.weight_tap_elems, stage);
                continue;
            }
            const std::int64_t taps_w = view.taps_w.count;
            for (std::int64_t tap = 0; tap < view.taps_h.count * taps_w; ++tap)
                write_rows(panel, channels, from + tap * channels * width(panel),
                           to + tap / taps_w * blocking.weight_row_elems +
                               tap % taps_w * blocking.weight_tap_elems,
                           blocking.weight_channel_elems, stage);
        }
    }

private:
    void write_rows(std::int64_t panel, std::int64_t count, T* from, T* to, std::int64_t to_elems,
                    T* stage) const {
        const std::int64_t line = width(panel), cols = panels.panel_cols(panel);
        const std::int64_t col_elems = blocking.weight_col_elems;
        for (std::int64_t r = 0; r < count; r += kOuterStageRows) {
            const std::int64_t some = std::min(kOuterStageRows, count - r);
            T* const piece = from + r * line;
            T* const target = to + r * to_elems;
            if (operands.accumulate) {
                kernels.copy->copy(some, cols, {target, to_elems, col_elems}, {stage, line, 1});
                for (std::int64_t i = 0; i < some; ++i)
                    kernels.outer->add(cols, stage + i * line, piece + i * line);
            }
            kernels.copy->copy(some, cols, {piece, line, 1}, {target, to_elems, col_elems});
        }
    }
};

/// One chunk's positions: images [n0, n0 + n), rows [i0, i0 + h), columns [j0, j0 + w).
struct Chunk {
    std::int64_t n0, n, i0, h, j0, w;
    std::int64_t positions() const { return n * h * w; }

    Chunk(const Correlation& view, const OuterBlocking& b, std::int64_t index) {
        const auto cut = [](std::int64_t size, std::int64_t pieces, std::int64_t i,
                            std::int64_t& begin, std::int64_t& count) {
            begin = size * i / pieces;
            count = size * (i + 1) / pieces - begin;
        };
        cut(view.out_w, b.chunks_w, index % b.chunks_w, j0, w);
        cut(view.out_h, b.chunks_h, index / b.chunks_w % b.chunks_h, i0, h);
        cut(view.batch, b.chunks_n, index / b.chunks_w / b.chunks_h, n0, n);
    }
};

template <class T>
class SumTask {
public:
    SumTask(const Part<T>& part, const OuterScratch& layout, char* scratch)
        : part_(part), view_(part.view), kernels_(part.kernels), layout_(layout), scratch_(scratch) {}

    /// totals = the sum over chunks [begin, end), in order.
    void run(std::int64_t begin, std::int64_t end, T* totals) const {
        if (begin == end) std::fill_n(totals, part_.totals_elems(), T(0));
        for (std::int64_t c = begin; c < end; ++c) {
            const Chunk chunk(view_, part_.blocking, c);
            if (view_.gather) gather(chunk);
            find_runs(chunk);
            for (std::int64_t p = part_.panel_begin, next; p < part_.panel_end; p = next) {
                next = group_end(p);
                for (std::int64_t panel = p; panel < next; ++panel)
                    copy_lines(chunk, panel, lines(chunk, panel - p));
                add_chunk(chunk, p, next, c == begin, totals);
            }
        }
    }

private:
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

    T* lines(const Chunk& chunk, std::int64_t index) const {
        return at<T>(layout_.lines) + index * chunk.positions() * part_.panels.width;
    }

    const T* source_image(std::int64_t n) const {
        return part_.operands.source + n * view_.source.batch_elems +
               part_.group * view_.source_group_elems +
               part_.channel_begin * view_.source.channel_elems;
    }

    // strip[n][u][v][c] = the source at row y(u), column x(v), or zero outside of it.
    void gather(const Chunk& chunk) const {
        const AxisTaps &th = view_.taps_h, &tw = view_.taps_w;
        const std::int64_t pace_h = th.count == 1 ? th.step : 1;
        const std::int64_t pace_w = tw.count == 1 ? tw.step : 1;
        const std::int64_t first_y = chunk.i0 * th.step + th.offset;
        const std::int64_t first_x = chunk.j0 * tw.step + tw.offset;
        const std::int64_t height = (chunk.h - 1) * view_.strip_step_h() + 1 + th.last_offset() - th.offset;
        const std::int64_t width = (chunk.w - 1) * view_.strip_step_w() + 1 + tw.last_offset() - tw.offset;
        // Columns [v_begin, v_end) of the strip lie inside the source.
        const std::int64_t v_begin =
            std::clamp<std::int64_t>(first_x < 0 ? ceil_div(-first_x, pace_w) : 0, 0, width);
        const std::int64_t inside = view_.source_w - first_x;
        const std::int64_t v_end =
            std::clamp<std::int64_t>(inside > 0 ? ceil_div(inside, pace_w) : 0, v_begin, width);
        const std::int64_t channels = part_.channels;
        for (std::int64_t n = 0; n < chunk.n; ++n)
            for (std::int64_t u = 0; u < height; ++u) {
                T* line = strip(n, u, 0);
                const std::int64_t y = first_y + u * pace_h;
                if (y < 0 || y >= view_.source_h || v_begin == v_end) {
                    std::fill_n(line, width * channels, T(0));
                    continue;
                }
                std::fill_n(line, v_begin * channels, T(0));
                kernels_.copy->copy(
                    v_end - v_begin, channels,
                    {source_image(chunk.n0 + n) + y * view_.source.height_elems +
                         (first_x + v_begin * pace_w) * view_.source.width_elems,
                     view_.source.width_elems * pace_w, view_.source.channel_elems},
                    {line + v_begin * channels, channels, 1});
                std::fill_n(line + v_end * channels, (width - v_end) * channels, T(0));
            }
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
    void find_runs(const Chunk& chunk) const {
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
    void for_rows(const Chunk& chunk, std::int64_t a, std::int64_t b, Take&& take) const {
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

    // lines[position][k] of one panel, columns beyond the last zero.
    void copy_lines(const Chunk& chunk, std::int64_t panel, T* to) const {
        const std::int64_t width = part_.width(panel), cols = part_.panels.panel_cols(panel);
        const Strides& out = view_.out;
        const T* from = part_.operands.out + part_.group * view_.out_group_elems +
                        part_.panels.first_col(panel) * out.channel_elems +
                        chunk.n0 * out.batch_elems + chunk.i0 * out.height_elems +
                        chunk.j0 * out.width_elems;
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
    void add_chunk(const Chunk& chunk, std::int64_t panel_begin, std::int64_t panel_end, bool first,
                   T* totals) const {
        const int vectors =
            static_cast<int>(part_.width(panel_begin) / kernels_.outer->lanes);
        const std::int64_t rows = part_.segment_rows;
        const std::int64_t tiles = ceil_div(rows, kernels_.outer->max_rows[vectors]);
        OuterTile<T> tile;
        tile.x_pitch = x_pitch();
        tile.sum_pitch = part_.row_elems(panel_begin);
        tile.cold = part_.in_place(panel_begin);
        tile.first = first && !(part_.in_place(panel_begin) && part_.operands.accumulate);
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
                    kernels_.outer->tile[vectors][next - row](tile);
                }
                row = next;
            }
        }
    }

    const Part<T>& part_;
    const Correlation& view_;
    const Kernels<T>& kernels_;
    const OuterScratch& layout_;
    char* scratch_;
};

}  // namespace

template <class T>
void run_outer(const Correlation& view, const OuterBlocking& blocking, const Kernels<T>& kernels,
               const OuterOperands<T>& operands, int threads) {
    if (view.groups * view.channels * view.cols == 0) return;
    const OuterScratch layout = outer_scratch(view, blocking, kernels);
    const std::int64_t parts = view.groups * blocking.channel_parts * blocking.panel_parts;
    const std::int64_t sums = blocking.sums, chunks = blocking.chunks();
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(parts * sums, threads, mode, [&](std::int64_t task, int) {
        const Part<T> part(view, blocking, kernels, operands, task % parts);
        const std::int64_t sum = task / parts;
        char* scratch = static_cast<char*>(thread_scratch(layout.bytes));
        T* totals = sums > 1 ? operands.workspace + task * blocking.total_elems
                             : reinterpret_cast<T*>(scratch + layout.totals);
        SumTask<T>(part, layout, scratch)
            .run(chunks * sum / sums, chunks * (sum + 1) / sums, totals);
        if (sums == 1) part.write(totals, reinterpret_cast<T*>(scratch + layout.stage));
    });
    if (sums == 1) return;
    parallel_for(parts, threads, mode, [&](std::int64_t task, int) {
        const Part<T> part(view, blocking, kernels, operands, task);
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
