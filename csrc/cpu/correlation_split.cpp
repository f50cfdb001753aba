// Blocking and packing of the implicit GEMM on matrix tiles (cpu/correlation_split.h).
#include "cpu/correlation_split.h"

#include <cstring>

#include "core/parallel.h"
#include "cpu/kernels_copy.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kMostRows = 256, kFewestRows = 16;
constexpr std::size_t kScratchBytes = 1280 << 10;  // a task's part of L2, without weights that it packs

// In multiply-adds of matrix tiles: splitting an element of a row, a result on its way out, and a weight of 6
// bytes from L3.
constexpr double kSplitElement = 55, kCopyElement = 30, kResult = 40, kReadFromL3 = 40, kPackWeight = 75;
constexpr double kMeet = 800e3, kTask = 20e3;  // 4 us until all threads are there, 0.1 us to begin a task
constexpr std::int64_t kPartOfL2 = 512 << 10;

// Multiply-adds of matrix tiles in the time of one of the register tile: 425 and 242 GFLOP/s a thread on a Xeon,
// all operands in L1 and full of bits. The register tile takes for one of its own, as a rule, and to pack a weight:
constexpr double kRate = 1.75, kRegisterTile = 1.25, kPack = 17;

std::int64_t padded_cols(const Correlation& phase) {
    return split_column_tiles(phase) * kSplitLines;
}

// The weights of a task's panels, beside its rows.
bool weights_fit(const Correlation& phase) {
    const std::int64_t part = ceil_div(split_panels(phase), phase.parts) * kSplitPanel;
    return std::min(part, padded_cols(phase)) * split_steps(phase) * kSplitStep * 6 <= kPartOfL2;
}

// What the slowest thread does.
double thread_time(const Correlation& phase, int threads, Packing packing) {
    const double rounds = static_cast<double>(ceil_div(phase.tasks(), threads));
    const double depth = static_cast<double>(split_steps(phase) * kSplitStep);
    const std::int64_t part = ceil_div(split_panels(phase), phase.parts) * kSplitPanel;
    const double cols = static_cast<double>(std::min(part, padded_cols(phase)));
    const double rows = static_cast<double>(phase.rows()) + 4;
    const double all = depth * static_cast<double>(phase.groups * padded_cols(phase));
    double weights = depth * cols * kReadFromL3 * (weights_fit(phase) ? 1 : rounds);
    if (phase.pack_by_task) weights = rounds * depth * cols * kPackWeight;
    else if (packing != Packing::kAhead) weights += all * kPackWeight / threads + kMeet;
    return weights + rounds * (kTask + rows * (depth * (cols + kSplitElement) + cols * kResult));
}

// One image on one thread, in multiply-adds of the register tile.
double split_cost(const Correlation& phase, double rows) {
    const double depth = static_cast<double>(split_steps(phase) * kSplitStep);
    const double cols = static_cast<double>(padded_cols(phase));
    const double element = kSplitElement + (split_whole_steps(phase) ? 0 : kCopyElement);
    const double weight = kReadFromL3 + kPackWeight;
    return (rows * (depth * (cols + element) + cols * kResult) + depth * cols * weight) / kRate;
}

// (tap, channel, column) from `first` on, then zeros up to a whole step
void gather_lines(const Correlation& phase, const Kernels<float>& kernels,
                  const WeightView<float>& weight, PanelPiece<float> piece, std::int64_t first,
                  std::int64_t lines) {
    const std::int64_t depth = phase.segments * phase.depth;
    const std::int64_t count = std::min(lines, depth - first);
    std::fill(piece.to + count * piece.width, piece.to + lines * piece.width, 0.0f);
    piece.channels = phase.channels;
    pack_lines(phase, kernels, weight, piece, first, count);
}

// Taps that lie mixed come apart only together: all of a panel's.
void gather_panel(const Correlation& phase, const Kernels<float>& kernels,
                  const WeightView<float>& weight, PanelPiece<float> piece, float* staging) {
    const std::int64_t depth = phase.segments * phase.depth;
    piece.channels = phase.channels;
    piece.tap_elems = phase.channels * piece.width;
    pack_panel(phase, kernels, weight, piece, staging);
    std::fill(piece.to + depth * piece.width,
              piece.to + split_steps(phase) * kSplitStep * piece.width, 0.0f);
}

PanelPiece<float> panel_piece(const Correlation& phase, std::int64_t group, std::int64_t panel, float* to) {
    PanelPiece<float> piece;
    piece.group = group;
    piece.col = panel * kSplitPanel;
    piece.width = split_tiles_of(phase, panel) * kSplitLines;
    piece.cols = std::min(piece.width, phase.cols - piece.col);
    piece.to = to;
    return piece;
}

constexpr std::int64_t kMostPanelElems = kMaxThreadScratch / sizeof(float);

// All of a panel's taps at once, where they lie mixed.
std::int64_t panel_elems(const Correlation& phase, std::int64_t staging) {
    return split_steps(phase) * kSplitStep * kSplitPanel + staging;
}

}  // namespace

double split_share(const Correlation& phase, const Kernels<float>& kernels, std::int64_t image_rows) {
    if (!kernels.split->multiply || phase.segments * phase.depth == 0) return 1;
    constexpr double kGain = 0.95;  // below it the model's own error decides
    const double depth = static_cast<double>(phase.segments * phase.depth);
    const double rows = static_cast<double>(image_rows), cols = static_cast<double>(phase.cols);
    const double register_tile =
        depth * cols * (rows * kRegisterTile * products_share(phase, kernels) + kPack);
    const double share = split_cost(phase, rows) / register_tile;
    return share < kGain ? share : 1;
}

bool block_split(Correlation& phase, const Kernels<float>& kernels, int threads, Packing packing) {
    phase.parts = 1;
    phase.pack_by_task = false;
    phase.order = PositionOrder::kRows;
    if (phase.batch * phase.out_h * phase.out_w == 0) return true;
    const bool in_place = phase.out.channel_elems == 1 && phase.residual.channel_elems == 1;
    Correlation best;
    double best_time = 0;
    for (std::int64_t rows = kMostRows; rows >= kFewestRows; rows = rows * 3 / 4) {
        choose_block(phase, rows);
        for (std::int64_t parts = 1; parts <= split_panels(phase); parts = parts < 4 ? parts + 1 : parts * 2) {
            phase.parts = parts;
            phase.pack_by_task = false;
            phase.split_rows_first = in_place && weights_fit(phase);
            if (scratch_layout(phase, kernels).bytes > kScratchBytes) continue;
            for (const bool by_task : {false, true}) {
                if (by_task ? packing == Packing::kAhead || phase.staging_elems > 0
                            : packing == Packing::kTask)
                    continue;
                phase.pack_by_task = by_task;
                const double time = thread_time(phase, threads, packing);
                if (best_time != 0 && time >= best_time * 0.99) continue;
                best = phase;
                best_time = time;
            }
        }
    }
    if (best_time == 0) return false;
    phase = best;
    phase.scratch_bytes = scratch_layout(phase, kernels).bytes;
    return true;
}

void split_lines(const SplitKernels<float>& kernels, const float* lines, std::int64_t width,
                 std::int64_t steps, std::int64_t tile_count, char* tiles, bool* raw) {
    constexpr std::size_t kLineBytes = kSplitLines * sizeof(float);
    const std::int64_t pitch = tile_count * kSplitTileBytes;
    for (std::int64_t tile = 0; tile < tile_count; ++tile) {
        const float* from = lines + tile * kSplitLines;
        char* to = tiles + tile * kSplitTileBytes;
        raw[tile] = false;
        for (std::int64_t s = 0; s < steps; ++s)
            raw[tile] |= kernels.columns(from + s * kSplitStep * width, width, to + s * pitch);
        for (std::int64_t d = 0; raw[tile] && d < steps * kSplitStep; ++d)
            std::memcpy(to + d / kSplitStep * pitch + d % kSplitStep * kLineBytes, from + d * width, kLineBytes);
    }
}

void pack_split_piece(const Correlation& phase, const Kernels<float>& kernels,
                      const WeightView<float>& weight, const SplitPiece& piece, float* lines, char* tiles,
                      bool* raw) {
    gather_lines(phase, kernels, weight, panel_piece(phase, piece.group, piece.panel, lines),
                 piece.step * kSplitStep, piece.steps * kSplitStep);
    const std::int64_t tile_count = split_tiles_of(phase, piece.panel);
    split_lines(*kernels.split, lines, tile_count * kSplitLines, piece.steps, tile_count, tiles, raw);
}

void pack_split(const Correlation& phase, const Kernels<float>& kernels,
                const WeightView<float>& weight, char* packed, int threads) {
    const std::int64_t panels = split_panels(phase), blocks = split_blocks(phase);
    const std::int64_t steps = split_steps(phase);
    std::int64_t staging = pack_staging_elems(phase, kernels, weight);
    if (panel_elems(phase, staging) > kMostPanelElems) staging = 0;
    const std::int64_t pieces = staging > 0 ? 1 : blocks;
    const std::int64_t elems = staging > 0 ? panel_elems(phase, staging) : split_line_elems(phase);
    parallel_for(phase.groups * panels * pieces, threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::int64_t first = task % pieces, panel = task / pieces % panels;
        const std::int64_t group = task / pieces / panels, tile_count = split_tiles_of(phase, panel);
        const std::int64_t tile = group * split_column_tiles(phase) + panel * 2;
        float* lines = static_cast<float*>(thread_scratch(static_cast<std::size_t>(elems) * sizeof(float)));
        const PanelPiece<float> piece = panel_piece(phase, group, panel, lines);
        if (staging > 0)
            gather_panel(phase, kernels, weight, piece, lines + panel_elems(phase, 0));
        for (std::int64_t block = first; block < (staging > 0 ? blocks : first + 1); ++block) {
            const std::int64_t step = block * phase.split_steps_per_block;
            const std::int64_t count = std::min(phase.split_steps_per_block, steps - step);
            char* tiles = packed + split_raw_bytes(phase) + (tile * steps + step * tile_count) * kSplitTileBytes;
            bool raw[2];
            const float* from = lines;
            if (staging > 0) from += step * kSplitStep * piece.width;
            else gather_lines(phase, kernels, weight, piece, step * kSplitStep, count * kSplitStep);
            split_lines(*kernels.split, from, piece.width, count, tile_count, tiles, raw);
            for (std::int64_t i = 0; i < tile_count; ++i) packed[(tile + i) * blocks + block] = raw[i];
        }
    });
}

}  // namespace fastconv::cpu
