// What the correlations by TMA are launched with (correlation_tma.cuh, correlation_patch.cuh), made on
// the host.
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/divider.h"
#include "cuda/tensor_map.h"

namespace fastconv::cuda::tma {

/// What the phases of grad_input differ in.
struct Phase {
    TensorMap source, weight, out_map;  // the last where out_mapped
    void* out;
    int first_tile;  // of the launch's: phases follow each other
    int rows, out_h, out_w, batch;
    Divider by_row_tiles, by_image, by_width;  // blocks of rows; the result's pixels
    Divider by_tiles_h, by_tiles_w;            // of 8x8 pixels (correlation_patch.cuh)
    int first_h, first_w;  // source pixel of the first row's first tap
    int tap_h, tap_w;      // source pixels from tap to tap
    int taps_w, taps;
    Divider by_taps, by_taps_w;
    int weight_h, weight_w;            // the first tap's place in the map,
    int weight_step_h, weight_step_w;  // and the next one's
};

/// A kernel's parameter, 2.5 KB of the 4 KB that it may have.
struct Launch {
    Phase phase[CorrelationLaunch::kMostPhases];
    int phases, tiles, groups;
    int cols;  // of a group, as channels
    Divider by_col_tiles;
    int channels, channel_blocks;  // of 64
    int step_h, step_w;
    int ranks;  // blocks of a cluster
    bool cols_contiguous;  // of the weight, else channels are
    const void *bias, *residual;
    Strides out_strides, residual_strides;
    std::int64_t out_group_elems, residual_group_elems;
    bool relu;
    bool rows_in_line;  // of the source: a pointwise problem's, which are copied as a tile
    bool out_mapped;    // the result is copied out by TMA
};

constexpr int kPatchStages = 2, kMostWeightStages = 8;

/// What patches take of shared memory, the same for all phases: as far as any of their taps reaches.
struct PatchShape {
    int width, lines;   // of a patch
    int bytes;          // of a patch: whole 1024s
    int weight_stages;  // at most kMostWeightStages
};

struct PatchLaunch {
    Launch launch;
    PatchShape shape;
};

/// The problem for blocks of block_rows x block_cols, whose source comes by im2col, or as a tile where
/// rows lie evenly.
Launch line_launch(const CorrelationLaunch& phases, bool bfloat16, int block_rows, int block_cols);

/// The same for patches; weight_stages is left to the caller, who knows what fits.
PatchLaunch patch_launch(const CorrelationLaunch& phases, bool bfloat16, int block_rows,
                         int block_cols);

}  // namespace fastconv::cuda::tma
