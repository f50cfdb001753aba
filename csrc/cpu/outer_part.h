// What a task of the sum of outer products works on (cpu/outer_run.cpp): its part of the weight, where
// the totals of that part lie and how they leave; and a chunk of positions.
#pragma once

#include <algorithm>

#include "cpu/kernels_copy.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/panels.h"

namespace fastconv::cpu {

/// A task's part of the weight: some channels and column panels of a group, all taps.
template <class T>
struct OuterPart {
    const Correlation& view;
    const OuterBlocking& blocking;
    const Kernels<T>& kernels;
    const OuterOperands<T>& operands;
    Panels<T> panels;
    std::int64_t group, channel_begin, channels, panel_begin, panel_end;
    std::int64_t segment_rows;  // rows of one segment in this part

    OuterPart(const Correlation& v, const OuterBlocking& b, const Kernels<T>& k,
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

    /// Rows of one panel's totals to `to`, to_elems apart; `stage` as for write().
    void write_rows(std::int64_t panel, std::int64_t count, T* from, T* to, std::int64_t to_elems,
                    T* stage) const {
        const std::int64_t line = width(panel), cols = panels.panel_cols(panel);
        const std::int64_t col_elems = blocking.weight_col_elems;
        const std::int64_t piece_rows = operands.accumulate ? kOuterStageRows : kOuterPieceRows;
        for (std::int64_t r = 0; r < count; r += piece_rows) {
            const std::int64_t some = std::min(piece_rows, count - r);
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
struct OuterChunk {
    std::int64_t n0, n, i0, h, j0, w;
    std::int64_t positions() const { return n * h * w; }

    OuterChunk(const Correlation& view, const OuterBlocking& b, std::int64_t index) {
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

}  // namespace fastconv::cpu
