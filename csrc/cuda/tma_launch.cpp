// A convolution's phases as the launches of tma_launch.h: maps, tiles, taps.
#include "cuda/tma_launch.h"

#include <algorithm>

#include "cuda/tma_operands.h"

namespace fastconv::cuda::tma {
namespace {

constexpr int kTileEdge = 8;  // pixels of a patch's tile

int tiles(int size, int tile) { return (size - 1) / tile + 1; }

int batch_of(const CorrelationArguments& a) { return a.rows / (a.out_h * a.out_w); }

/// Elements from one of the source's pixels to the next where they are the rows, else 0.
std::int64_t source_pitch(const CorrelationArguments& a) {
    const bool same = a.taps_h * a.taps_w == 1 && a.step_h == 1 && a.step_w == 1 &&
                      a.offset_h == 0 && a.offset_w == 0 && a.source_h == a.out_h &&
                      a.source_w == a.out_w;
    return same ? line_pitch(a.out_w, a.out_h, batch_of(a), a.source_strides) : 0;
}

/// Whether TMA can copy the result out: boxes of 64 columns must end where a group does.
bool whole_groups(const CorrelationArguments& a) {
    return a.groups == 1 || (a.cols % 64 == 0 && a.out_group_elems == a.cols);
}

std::int64_t out_pitch(const CorrelationArguments& a) {
    return line_pitch(a.out_w, a.out_h, batch_of(a), a.out_strides);
}

MappedTensor source_tensor(const CorrelationArguments& a, bool bfloat16) {
    return image_tensor(a.source, bfloat16, std::int64_t{a.groups} * a.channels, a.source_w,
                        a.source_h, batch_of(a), a.source_strides);
}

Phase phase_of(const CorrelationArguments& a, bool bfloat16, int block_cols) {
    Phase phase{};
    const MappedWeight weight = mapped_weight(a, bfloat16);
    if (weight.cols_contiguous) phase.weight = tiled_map(weight.tensor, {64, 1, 1, 64});
    else phase.weight = tiled_map(weight.tensor, {64, 1, 1, block_cols});
    phase.out = a.out;
    phase.rows = a.rows;
    phase.out_h = a.out_h;
    phase.out_w = a.out_w;
    phase.batch = batch_of(a);
    phase.by_image = Divider(a.out_h * a.out_w);
    phase.by_width = Divider(a.out_w);
    phase.by_tiles_h = Divider(tiles(a.out_h, kTileEdge));
    phase.by_tiles_w = Divider(tiles(a.out_w, kTileEdge));
    phase.first_h = a.offset_h;
    phase.first_w = a.offset_w;
    phase.tap_h = a.offset_step_h;
    phase.tap_w = a.offset_step_w;
    phase.taps_w = a.taps_w;
    phase.taps = a.taps_h * a.taps_w;
    phase.by_taps = Divider(phase.taps);
    phase.by_taps_w = Divider(a.taps_w);
    phase.weight_h = weight.first_h;
    phase.weight_w = weight.first_w;
    phase.weight_step_h = weight.step_h;
    phase.weight_step_w = weight.step_w;
    return phase;
}

/// All but the phases.
Launch launch_of(const CorrelationArguments& first, int block_cols) {
    Launch p{};
    p.groups = first.groups;
    p.cols = first.cols;
    p.by_col_tiles = Divider(tiles(first.cols, block_cols));
    p.channels = first.channels;
    p.channel_blocks = tiles(first.channels, 64);
    p.step_h = first.step_h;
    p.step_w = first.step_w;
    p.ranks = first.cluster;
    p.cols_contiguous = first.weight_channel_elems != 1;
    p.bias = first.bias;
    p.residual = first.residual;
    p.out_strides = first.out_strides;
    p.residual_strides = first.residual_strides;
    p.out_group_elems = first.out_group_elems;
    p.residual_group_elems = first.residual_group_elems;
    p.relu = first.relu;
    p.out_mapped = whole_groups(first) && reinterpret_cast<std::uintptr_t>(first.bias) % 4 == 0;
    return p;
}

void add_phase(Launch& p, const Phase& phase, int row_tiles) {
    Phase& added = p.phase[p.phases++];
    added = phase;
    added.first_tile = p.tiles;
    added.by_row_tiles = Divider(row_tiles);
    p.tiles += row_tiles * static_cast<int>(p.by_col_tiles.divisor) * p.groups;
}

}  // namespace

Launch line_launch(const CorrelationLaunch& phases, bool bfloat16, int block_rows, int block_cols) {
    const CorrelationArguments& first = phases.first;
    Launch p = launch_of(first, block_cols);
    p.rows_in_line = phases.phases == 1 && source_pitch(first) != 0;
    p.out_mapped = p.out_mapped && phases.phases == 1 && out_pitch(first) != 0;
    for (int i = 0; i < phases.phases; ++i) {
        const CorrelationArguments a = phases.phase(i);
        if (a.rows == 0) continue;
        Phase phase = phase_of(a, bfloat16, block_cols);
        phase.source =
            p.rows_in_line
                ? tiled_map(line_tensor(a.source, bfloat16, std::int64_t{a.groups} * a.channels,
                                        a.rows, source_pitch(a)),
                            {64, block_rows, 1, 1})
                : im2col_map(source_tensor(a, bfloat16),
                             {a.offset_w, last_pixel(a.offset_w, a.out_w, a.step_w), a.offset_h,
                              last_pixel(a.offset_h, a.out_h, a.step_h), a.step_w, a.step_h,
                              block_rows});
        if (p.out_mapped)
            phase.out_map = tiled_map(line_tensor(a.out, bfloat16, std::int64_t{a.groups} * a.cols,
                                                  a.rows, out_pitch(a)),
                                      {64, 16, 1, 1});
        add_phase(p, phase, tiles(a.rows, block_rows));
    }
    return p;
}

PatchLaunch patch_launch(const CorrelationLaunch& phases, bool bfloat16, int block_rows,
                         int block_cols) {
    PatchLaunch launched{};
    Launch& p = launched.launch;
    p = launch_of(phases.first, block_cols);
    int reach_h = 0, reach_w = 0;  // of any phase's taps
    for (int i = 0; i < phases.phases; ++i) {
        const CorrelationArguments a = phases.phase(i);
        reach_h = std::max(reach_h, (a.taps_h - 1) * a.offset_step_h);
        reach_w = std::max(reach_w, (a.taps_w - 1) * a.offset_step_w);
    }
    PatchShape& shape = launched.shape;
    shape.width = kTileEdge + reach_w;
    shape.lines = shape.width * (kTileEdge + reach_h);
    shape.bytes = tiles(shape.lines * 128, 1024) * 1024;
    for (int i = 0; i < phases.phases; ++i) {
        const CorrelationArguments a = phases.phase(i);
        if (a.rows == 0) continue;
        Phase phase = phase_of(a, bfloat16, block_cols);
        phase.source =
            tiled_map(source_tensor(a, bfloat16), {64, shape.width, kTileEdge + reach_h, 1});
        if (p.out_mapped)
            phase.out_map = tiled_map(image_tensor(a.out, bfloat16, std::int64_t{a.groups} * a.cols,
                                                   a.out_w, a.out_h, phase.batch, a.out_strides),
                                      {64, kTileEdge, 2, 1});
        const int patches = tiles(a.out_h, kTileEdge) * tiles(a.out_w, kTileEdge) * phase.batch;
        add_phase(p, phase, tiles(patches * 64, block_rows));
    }
    return launched;
}

}  // namespace fastconv::cuda::tma
