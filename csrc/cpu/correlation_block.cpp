// Blocking of the implicit GEMM: how deep a block is, how many output positions a task has, and how
// tasks are split when there are few. The depth blocks depend on the problem's shape alone, so they
// fix the bits; everything else only decides who computes what.
#include <algorithm>
#include <cmath>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/correlation.h"
#include "cpu/correlation_split.h"
#include "cpu/panels.h"
#include "cpu/position_order.h"
#include "cpu/strip.h"

namespace fastconv::cpu {
namespace {

// Terms one accumulator sums before its block's sum is added: bounds the rounding error, and keeps a
// panel of 64 columns at 128 KB (192 at most), a fraction of every L2 since 2015.
constexpr std::int64_t kDepthBlock = 512;
constexpr std::int64_t kDepthBlockMost = 768;

// Below this many channels a pointer a tap costs more than copying the strip once, zero-padded, so
// that a whole kernel row (S * C elements) is one segment.
constexpr std::int64_t kMergeBelowChannels = 16;

// Source lines of one task stay in L2 beside the panel.
constexpr std::int64_t kSourceBytes = 512 << 10;
constexpr std::int64_t kMostRows = 252;  // 42 tiles of 6: the panel is read from L1/L2 that often
constexpr std::int64_t kMostRowsThin = 4 * kMostRows;  // few channels: fewer lines gathered twice
constexpr std::int64_t kFewestRows = 24;
// So many times more, images of small maps, where a task packs: once rather than twice. Weights that are
// packed already gain nothing by it.
constexpr std::int64_t kMoreImages = 2;
constexpr std::size_t kScratchBytes = kMaxThreadScratch * 3 / 4;

// In multiply-adds: packing a weight, and reading one that another core has packed. On two cores of a Xeon
// 1x1 832 -> 192 on 7x7 took 98 us with panels packed by all threads first, 66 with panels that each
// thread packs for itself, 48 of them for the products.
constexpr double kPack = 17, kReadPacked = 20;
constexpr std::int64_t kMostPanelBytes = 1280 << 10;

// What the slowest thread does: a panel is loaded for every block, a strip is gathered for every part.
// Parts of panels packed ahead are whole panels: of three in two parts one thread has two.
template <class T>
double thread_time(const Correlation& phase, const Panels<T>& panels, int lanes, int threads) {
    const std::int64_t part = phase.pack_by_task
                                  ? ceil_div(panels.padded_cols / lanes, phase.parts) * lanes
                                  : ceil_div(panels.count, phase.parts) * panels.width;
    // Without taps there are zeros to write.
    const double depth = static_cast<double>(std::max<std::int64_t>(1, phase.segments * phase.depth));
    const double weights = depth * static_cast<double>(std::min(part, panels.padded_cols));
    const double rounds = static_cast<double>(ceil_div(phase.tasks(), threads));
    const double again = 1.0 + 8.0 / static_cast<double>(phase.rows()) +
                         (phase.gather ? 0.05 : 0.01) * static_cast<double>(phase.parts - 1);
    const double products = rounds * static_cast<double>(phase.rows()) * weights * again;
    if (phase.pack_by_task) return products + rounds * weights * kPack;
    return products + depth * static_cast<double>(phase.groups * panels.padded_cols) *
                          (kPack / threads + kReadPacked);
}

// Each way of packing that there is: by all threads before the tasks, whose parts are then whole panels, or a
// panel at a time by each task, whose parts are whole vectors. Above `most` rows only the latter.
template <class T, class Body>
void for_packings(Correlation& phase, const Kernels<T>& kernels, std::int64_t panels,
                  Packing packing, std::int64_t most, Body&& body) {
    phase.pack_by_task = false;
    const bool more = phase.rows() > most;
    if (packing != Packing::kTask && phase.parts <= panels && !more) body();
    const std::int64_t width = widest_panel(*kernels.gemm);
    const std::int64_t bytes =
        phase.segments * phase.depth * width * static_cast<std::int64_t>(sizeof(T));
    if (packing == Packing::kAhead) return;
    phase.pack_by_task = true;
    if (!packs_by_block(phase) && (bytes > kMostPanelBytes || more)) return;
    if (scratch_layout<T>(phase, kernels).bytes <= kMaxThreadScratch) body();
}

}  // namespace

void choose_segments(Correlation& phase) {
    const bool unit = phase.source.channel_elems == 1 || phase.channels == 1;
    const bool neighbours = phase.taps_w.count > 1 && phase.taps_w.offset_step == 1;
    phase.gather = !unit || (neighbours && phase.channels < kMergeBelowChannels);
    if (phase.taps_h.count * phase.taps_w.count == 0) phase.gather = false;
    phase.merge = phase.gather && neighbours;
    phase.segments = phase.taps_h.count * (phase.merge ? 1 : phase.taps_w.count);
    phase.depth = phase.channels * (phase.merge ? phase.taps_w.count : 1);
    phase.depth_per_block = phase.depth;
    phase.segments_per_block = phase.segments;
    if (phase.segments * phase.depth <= kDepthBlockMost) return;
    if (phase.depth > kDepthBlockMost) {
        phase.segments_per_block = 1;
        phase.depth_per_block = ceil_div(phase.depth, ceil_div(phase.depth, kDepthBlock));
        return;
    }
    const std::int64_t most = std::max<std::int64_t>(1, kDepthBlock / phase.depth);
    phase.segments_per_block = ceil_div(phase.segments, ceil_div(phase.segments, most));
}

// On 7x7 maps a panel
// of weights is then read for four images at once, not for each.
void choose_block(Correlation& phase, std::int64_t rows) {
    const std::int64_t images =
        std::clamp<std::int64_t>(rows / (phase.out_h * phase.out_w), 1, phase.batch);
    phase.block_n = ceil_div(phase.batch, ceil_div(phase.batch, images));
    if (phase.out_w >= rows) {
        phase.blocks_w = ceil_div(phase.out_w, rows);
        phase.blocks_h = phase.out_h;
    } else {
        phase.blocks_w = 1;
        phase.blocks_h = ceil_div(phase.out_h, std::max<std::int64_t>(1, rows / phase.out_w));
    }
    phase.block_w = ceil_div(phase.out_w, phase.blocks_w);
    phase.block_h = ceil_div(phase.out_h, phase.blocks_h);
}

double products_share(const Correlation& phase, const Kernels<float>& kernels) {
    Correlation block = phase;
    block.gather = false;
    block.block_n = block.blocks_w = 1;
    block.blocks_h = phase.out_h * phase.out_w <= kMostRows ? 1 : 2;
    return choose_order(block, widest_tile_rows(*kernels.gemm)).share;
}

template <class T>
bool block_correlation(Correlation& phase, const Kernels<T>& kernels, int threads,
                       Packing packing) {
    if constexpr (sizeof(T) == 4)
        if (phase.split) return block_split(phase, kernels, threads, packing);
    choose_segments(phase);
    phase.parts = 1;
    phase.pack_by_task = packing == Packing::kTask;
    phase.order = PositionOrder::kRows;
    if (phase.batch * phase.out_h * phase.out_w == 0) return true;
    phase.order = PositionOrder::kSpiral;  // chosen at the end: until then its lists count
    // With one tap only a depth block of each position is in use at a time.
    const std::int64_t line = phase.segments == 1 ? phase.depth_per_block : phase.channels;
    const std::int64_t line_bytes =
        std::max<std::int64_t>(1, line) * static_cast<std::int64_t>(sizeof(T));
    std::int64_t most =
        std::clamp(kSourceBytes / line_bytes, 2 * kFewestRows,
                   phase.channels < kMergeBelowChannels ? kMostRowsThin : kMostRows);
    choose_block(phase, most);
    while (scratch_layout<T>(phase, kernels).bytes > kScratchBytes) {
        if (phase.rows() == 1) {
            if (packing != Packing::kTask) return false;
            return block_correlation(phase, kernels, threads, Packing::kAllOrTask);
        }
        most = std::max<std::int64_t>(1, std::min(most, phase.rows()) / 2);
        choose_block(phase, most);
    }

    const Panels<T> panels(*kernels.gemm, phase.cols);
    const int lanes = kernels.gemm->lanes;
    Correlation best = phase;
    double best_time = 0;
    std::int64_t rows = kMoreImages * most;
    for (; rows >= kFewestRows || rows >= most; rows = rows > most ? most : rows * 3 / 4) {
        choose_block(phase, rows);
        if (rows > most && phase.block_n == 1) continue;
        const std::int64_t most_parts =
            packing == Packing::kAhead ? panels.count : panels.padded_cols / lanes;
        for (std::int64_t parts = 1; parts <= std::max<std::int64_t>(1, most_parts);
             parts = parts < 4 ? parts + 1 : parts * 2) {
            phase.parts = parts;
            for_packings(phase, kernels, std::max<std::int64_t>(1, panels.count), packing, most,
                         [&] {
                const double time = thread_time(phase, panels, lanes, threads);
                if (best_time != 0 && time >= best_time * 0.99) return;
                best = phase;
                best_time = time;
            });
        }
        if (threads == 1 && rows == most) break;
    }
    phase = best;
    phase.order = choose_order(phase, widest_tile_rows(*kernels.gemm)).order;
    phase.rings = padded_rings(phase);
    phase.scratch_bytes = scratch_layout<T>(phase, kernels).bytes;
    return true;
}

template <class T>
ScratchLayout scratch_layout(const Correlation& phase, const Kernels<T>& kernels) {
    ScratchLayout layout;
    const auto take = [&layout](std::int64_t elements, std::size_t size) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * size + 63) / 64 * 64;
        return begin;
    };
    const std::int64_t rows = phase.rows();
    const std::int64_t width = phase.split ? kSplitPanel : widest_panel(*kernels.gemm);
    layout.pointers = take(rows * (phase.merge ? 1 : phase.segments), sizeof(T*));
    layout.out_pointers = take(rows, sizeof(T*));
    layout.residual_pointers = take(rows, sizeof(T*));
    layout.sum = take(rows * (phase.split ? split_sum_cols(phase) : width), sizeof(T));
    layout.residual = take(phase.residual.channel_elems == 1 ? 0 : rows * width, sizeof(T));
    layout.order = take(phase.order == PositionOrder::kRows ? 0 : rows, sizeof(std::int32_t));
    layout.ends = take(rows + 1, sizeof(std::int32_t));
    layout.moved = take(phase.order == PositionOrder::kRows ? 0 : rows, sizeof(T*));
    const std::int64_t lines = packs_by_block(phase) ? phase.segments_per_block * phase.depth_per_block
                                                     : phase.segments * phase.depth;
    const bool packs = phase.pack_by_task && !phase.split;
    layout.panel = take(packs ? lines * width : 0, sizeof(T));
    layout.staging = take(packs ? phase.staging_elems : 0, sizeof(T));
    if (phase.split) {
        layout.split_rows = take(split_kept_chunks(phase) * split_chunk_bytes(phase), 1);
        layout.split_lines =
            take(split_whole_steps(phase) ? 0 : kSplitRows * phase.split_steps_per_block * kSplitStep,
                 sizeof(T));
        layout.split_raw = take(split_kept_chunks(phase), sizeof(std::uint32_t));
        layout.split_fresh = take(2 * kSplitRows * kSplitPanel, sizeof(T));
        layout.panel = take(phase.pack_by_task ? split_task_panels(phase) * phase.split_steps_per_block *
                                                     2 * kSplitTileBytes
                                               : 0, 1);
        layout.staging = take(phase.pack_by_task ? split_line_elems(phase) : 0, sizeof(T));
        layout.split_raw_columns = take(phase.pack_by_task ? 2 * split_task_panels(phase) : 0, 1);
    }
    layout.strip_h = (phase.block_h - 1) * phase.strip_step_h() + 1;
    layout.strip_w = (phase.block_w - 1) * phase.strip_step_w() + 1;
    if (phase.taps_h.count > 0) layout.strip_h += phase.taps_h.last_offset() - phase.taps_h.offset;
    if (phase.taps_w.count > 0) layout.strip_w += phase.taps_w.last_offset() - phase.taps_w.offset;
    layout.strip = take(phase.gather ? strip_elems(phase.block_n, layout.strip_h, layout.strip_w,
                                                   phase.channels)
                                     : phase.channels,
                        sizeof(T));
    return layout;
}

template bool block_correlation(Correlation&, const Kernels<float>&, int, Packing);
template bool block_correlation(Correlation&, const Kernels<double>&, int, Packing);
template ScratchLayout scratch_layout(const Correlation&, const Kernels<float>&);
template ScratchLayout scratch_layout(const Correlation&, const Kernels<double>&);

}  // namespace fastconv::cpu
