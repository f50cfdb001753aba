// Blocking of the sum of outer products: the chunks that fix the bits, and the tasks that do not.
#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/outer_split.h"
#include "cpu/panels.h"
#include "cpu/strip.h"
#include "cpu/sum_tasks.h"

namespace fastconv::cpu {
namespace {

// The lines of a chunk stay in L1 beside the rows' cache lines: 96 x 64 floats are 24 of 32 KB. The
// totals are read and written once a chunk, 24 vectors each way for 24 * 96 multiply-adds.
constexpr std::int64_t kLinesBytes = 24 << 10;
constexpr std::int64_t kMostPositions = 512;  // terms of one accumulator

// As in the forward direction (correlation_block.cpp): few channels make rows of a whole kernel row.
constexpr std::int64_t kMergeBelowChannels = 16;
constexpr std::int64_t kMostMergedRows = 2048;  // all in one task, 512 KB of totals

// Several sums where the weights alone make fewer tasks of about 128 x 64 than many threads need.
constexpr std::int64_t kTaskElems = 128 * 64;
constexpr std::int64_t kTasksWanted = 32;
constexpr std::int64_t kMostSums = 8;

// Few positions (a small batch of linear): several panels' lines share L1, so that rows of the weight
// are written in longer pieces, and few rows, so that their pages stay in the TLB.
constexpr std::int64_t kFewPositions = 16;
constexpr std::int64_t kGroupBytes = 128 << 10;  // in L2: then it is the weight's bytes that take time
constexpr std::int64_t kMostGroupPanels = 64;
constexpr std::int64_t kMostRowsInPlace = 512;

// Parts of the channels begin at lines of the cache and at whole blocks of a transpose.
constexpr std::int64_t kChannelUnit = 16;

constexpr std::size_t kScratchBytes = kMaxThreadScratch * 3 / 4;
constexpr std::size_t kTotalsBytes = std::size_t{512} << 10;  // a fraction of L2

void choose_segments(Correlation& view) {
    const bool neighbours = view.taps_w.count > 1 && view.taps_w.offset_step == 1;
    const bool few = view.channels < kMergeBelowChannels &&
                     view.channels * view.taps_h.count * view.taps_w.count <= kMostMergedRows;
    view.gather = view.source.channel_elems != 1 || (neighbours && few);
    view.merge = neighbours && few;
    view.segments = view.taps_h.count * (view.merge ? 1 : view.taps_w.count);
    view.depth = view.channels * (view.merge ? view.taps_w.count : 1);
}

void choose_chunks(const Correlation& view, std::int64_t positions, OuterBlocking& blocking) {
    blocking.chunk_n = 1;
    if (view.out_w >= positions) {
        blocking.chunk_h = 1;
        blocking.chunk_w = ceil_div(view.out_w, ceil_div(view.out_w, positions));
    } else {
        const std::int64_t bands = ceil_div(view.out_h, std::max<std::int64_t>(1, positions / view.out_w));
        blocking.chunk_w = view.out_w;
        blocking.chunk_h = ceil_div(view.out_h, bands);
        if (bands == 1)
            blocking.chunk_n = std::clamp<std::int64_t>(positions / (view.out_h * view.out_w), 1,
                                                        view.batch);
    }
    blocking.chunks_n = ceil_div(view.batch, blocking.chunk_n);
    blocking.chunks_h = ceil_div(view.out_h, blocking.chunk_h);
    blocking.chunks_w = ceil_div(view.out_w, blocking.chunk_w);
}

void choose_sums(const Correlation& view, OuterBlocking& blocking, std::size_t element_bytes) {
    const std::int64_t rows = view.segments * view.depth;
    const std::int64_t tasks = std::max<std::int64_t>(1, view.groups * rows * view.cols / kTaskElems);
    blocking.sums = std::clamp<std::int64_t>(kTasksWanted / tasks, 1,
                                             std::min(kMostSums, (blocking.chunks() + 1) / 2));
    // A quarter more than the rows, for columns that fill the last vector.
    const std::size_t all = static_cast<std::size_t>(view.groups * rows * (view.cols + 64));
    if (static_cast<std::size_t>(blocking.sums) * all * element_bytes > workspace_limit())
        blocking.sums = 1;
}

// Multiply-add time of the slowest thread, in units of a vector multiply-add a position, with what a
// task does beside: it packs its lines (one load, one store a vector), gathers its source.
template <class T>
double relative_time(const Correlation& view, const OuterBlocking& blocking,
                     const Kernels<T>& kernels, int threads) {
    const Panels<T> panels(*kernels.outer, view.cols);
    const double vectors = static_cast<double>(panels.padded_cols / kernels.outer->lanes) /
                           static_cast<double>(blocking.panel_parts);
    const double channels = static_cast<double>(blocking.part_channels(view.channels));
    const double rows = channels * static_cast<double>(view.taps_h.count * view.taps_w.count);
    const OuterScratch scratch = outer_scratch(view, blocking, kernels);
    const double positions = static_cast<double>(blocking.positions());
    const std::int64_t pixels =
        strip_elems(blocking.chunk_n, scratch.strip_h, scratch.strip_w, 1);
    const double gathered =
        view.gather ? static_cast<double>(pixels) * channels / positions : 0.0;
    const double totals = rows * vectors * static_cast<double>(kernels.outer->lanes) * sizeof(T);
    const double spill = totals > static_cast<double>(kTotalsBytes) ? 1.1 : 1.0;
    const double task = rows * (vectors + 0.5) * spill +
                        vectors * (view.out.channel_elems == 1 ? 3.0 : 8.0) + gathered;
    // Without positions there are totals to fill for each sum.
    const std::int64_t chunks = std::max(blocking.sums, blocking.chunks());
    const SumTasks tasks{blocking.parts(view.groups), blocking.sums, chunks};
    return task * static_cast<double>(tasks.longest_stretch(threads));
}

template <class T>
void choose_parts(const Correlation& view, OuterBlocking& blocking, const Kernels<T>& kernels,
                  int threads) {
    const std::int64_t panels = Panels<T>(*kernels.outer, view.cols).count;
    const std::int64_t most_channel_parts =
        view.merge ? 1 : std::max<std::int64_t>(1, blocking.channel_units(view.channels));
    OuterBlocking best = blocking;
    double best_time = 0;
    for (std::int64_t c = 1; c <= most_channel_parts; c = c < 8 ? c + 1 : c * 5 / 4) {
        for (std::int64_t p = 1; p <= panels; p = p < 8 ? p + 1 : p * 5 / 4) {
            blocking.channel_parts = c;
            blocking.panel_parts = p;
            if (outer_scratch(view, blocking, kernels).bytes > kScratchBytes) continue;
            if (blocking.in_place && view.channels > c * kMostRowsInPlace) continue;
            const double time = relative_time(view, blocking, kernels, threads);
            if (best_time == 0 || time < best_time * 0.99) {
                best = blocking;
                best_time = time;
            }
        }
    }
    blocking = best;
}

}  // namespace

template <class T>
bool block_outer(Correlation& view, OuterBlocking& blocking, const Kernels<T>& kernels, int threads) {
    if (view.groups * view.channels * view.cols == 0) return true;  // no weight: nothing to sum
    choose_segments(view);
    const Panels<T> panels(*kernels.outer, view.cols);
    // Totals of a weight in C order lie as there, so that they leave by one transpose.
    const std::int64_t taps = view.taps_h.count * view.taps_w.count;
    blocking.taps_inside = !view.merge && taps > 1 &&
                           blocking.weight_row_elems == view.taps_w.count * blocking.weight_tap_elems &&
                           blocking.weight_channel_elems == taps * blocking.weight_tap_elems;
    if (view.batch * view.out_h * view.out_w > 0) {
        const std::int64_t width = panels.panel_width(0, kernels.outer->lanes);
        const std::int64_t line_bytes = width * static_cast<std::int64_t>(sizeof(T));
        if constexpr (sizeof(T) == 4) blocking.split = outer_split_pays(view, kernels);
        std::int64_t positions = blocking.split ? kOuterSplitPositions
                                                : std::min(kMostPositions, kLinesBytes / line_bytes);
        OuterBlocking smallest = blocking;
        smallest.panel_parts = panels.count;
        const auto fits = [&](std::int64_t unit) {
            smallest.channel_unit = unit;
            smallest.channel_parts = view.merge ? 1 : smallest.channel_units(view.channels);
            choose_chunks(view, positions, smallest);
            return outer_scratch(view, smallest, kernels).bytes <= kScratchBytes;
        };
        while (!fits(kChannelUnit) && !fits(1)) {
            if (positions == 1) return false;
            positions /= 2;
        }
        blocking.channel_unit = smallest.channel_unit;
        choose_chunks(view, positions, blocking);
        choose_sums(view, blocking, sizeof(T));
        blocking.in_place =
            taps == 1 && blocking.weight_col_elems == 1 && blocking.sums == 1;
        const bool few = blocking.positions() <= kFewPositions;
        blocking.group_panels =
            std::clamp<std::int64_t>((few ? kGroupBytes : kLinesBytes) /
                                         (line_bytes * blocking.positions()),
                                     1, blocking.split ? 1 : kMostGroupPanels);
    }
    choose_parts(view, blocking, kernels, threads);
    const OuterScratch scratch = outer_scratch(view, blocking, kernels);
    blocking.scratch_bytes = scratch.bytes;
    const std::int64_t part_rows =
        view.merge ? view.depth : blocking.part_channels(view.channels);
    blocking.total_elems = view.segments * part_rows *
                           ceil_div(panels.count, blocking.panel_parts) *
                           panels.panel_width(0, kernels.outer->lanes);
    return scratch.bytes <= kScratchBytes;
}

template <class T>
OuterScratch outer_scratch(const Correlation& view, const OuterBlocking& blocking,
                           const Kernels<T>& kernels) {
    OuterScratch layout;
    const auto take = [&layout](std::int64_t elements, std::size_t size) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * size + 63) / 64 * 64;
        return begin;
    };
    const Panels<T> panels(*kernels.outer, view.cols);
    const std::int64_t channels = blocking.part_channels(view.channels);
    const std::int64_t rows = view.segments * (view.merge ? view.depth : channels);
    const std::int64_t width = panels.panel_width(0, kernels.outer->lanes);
    layout.strip_h = (blocking.chunk_h - 1) * view.strip_step_h() + 1 +
                     view.taps_h.last_offset() - view.taps_h.offset;
    layout.strip_w = (blocking.chunk_w - 1) * view.strip_step_w() + 1 +
                     view.taps_w.last_offset() - view.taps_w.offset;
    layout.runs_per_segment = blocking.chunk_n * blocking.chunk_h;
    layout.run_counts = take(view.segments, sizeof(std::int64_t));
    layout.runs = take(view.segments * layout.runs_per_segment, sizeof(OuterRun<T>));
    const std::int64_t lines = blocking.split ? outer_split_steps(blocking) * kSplitStep : blocking.positions();
    layout.lines = take(lines * width * blocking.group_panels, sizeof(T));
    layout.strip = take(
        view.gather ? strip_elems(blocking.chunk_n, layout.strip_h, layout.strip_w, channels) : 0,
        sizeof(T));
    const bool full = panels.cols % width == 0;
    const std::int64_t panels_kept = blocking.sums > 1    ? 0
                                     : blocking.in_place ? (full ? 0 : 1)
                                                         : ceil_div(panels.count, blocking.panel_parts);
    layout.totals = take(rows * panels_kept * width, sizeof(T));
    layout.stage = take(kOuterStageRows * width, sizeof(T));
    if (!blocking.split) return layout;
    const std::int64_t row_tiles = ceil_div(channels, kSplitLines), steps = outer_split_steps(blocking);
    layout.split_rows = take(row_tiles * steps * kSplitTileBytes, 1);
    layout.split_raw = take(row_tiles, sizeof(std::uint16_t));
    layout.split_columns = take(ceil_div(width, kSplitLines) * steps * kSplitTileBytes, 1);
    layout.split_fresh = take(2 * kSplitRows * kSplitPanel, sizeof(T));
    layout.split_pointers = take(steps * kSplitStep, sizeof(T*));
    return layout;
}

std::size_t outer_workspace_bytes(const Correlation& view, const OuterBlocking& blocking,
                                  std::size_t element_bytes) {
    if (blocking.sums == 1) return 0;
    return static_cast<std::size_t>(blocking.sums * blocking.parts(view.groups) * blocking.total_elems) *
           element_bytes;
}

template bool block_outer(Correlation&, OuterBlocking&, const Kernels<float>&, int);
template bool block_outer(Correlation&, OuterBlocking&, const Kernels<double>&, int);
template OuterScratch outer_scratch(const Correlation&, const OuterBlocking&, const Kernels<float>&);
template OuterScratch outer_scratch(const Correlation&, const OuterBlocking&, const Kernels<double>&);

}  // namespace fastconv::cpu
