// Which kernel computes a correlation or a weight gradient on a device: a written cost model over the
// kernel tables, in processor cycles. Pure host code without CUDA headers: tested without a GPU.
//
//   time = launches + waves over the multiprocessors * (main loop + epilogue of a tile) + joining splits
//
// A main-loop step of a block costs the most of its multiply-adds over the multiprocessor's rate, its
// tile bytes over what L2 delivers to one multiprocessor, and a latency that blocks beside it hide.
// Of a kernel by TMA it costs the more of its multiply-adds and its lines of 128 bytes: gathered by
// im2col, tiled, or beyond a tensor's end. No kernel is faster than memory brings the operands.
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"

namespace fastconv::cuda {

/// The sizes a kernel row is judged by, the same for both kinds of kernels.
struct TileShape {
    std::int64_t tile_m = 0, tile_n = 0;  // of the result
    int step = 0;                         // terms of the sum a main-loop step
    int blocks_per_multiprocessor = 1;
    double efficiency = 1;
    int patches = 0;
};
inline TileShape tile_of(const CorrelationKernel& kernel) {
    return {kernel.block_rows, kernel.block_cols, kernel.block_depth,
            kernel.blocks_per_multiprocessor, kernel.efficiency, kernel.patches};
}
inline TileShape tile_of(const GradWeightKernel& kernel) {
    return {kernel.block_cols, kernel.block_depth, kernel.block_rows,
            kernel.blocks_per_multiprocessor, kernel.efficiency, kernel.patches};
}

struct MatrixProblem {
    std::int64_t m = 0, n = 0, terms = 0, groups = 1;
    std::int64_t channels = 0;  // of one tap: what terms, or grad_weight's n, are a multiple of
    std::int64_t tile_rows = 0;     // m in whole tiles of 8x8 pixels, of kernels that have patches
    double patch_lines_a_step = 0;  // of one patch, where taps are the most
    std::int64_t source_pixels = 0;  // that are read, each once
    bool lines = false;             // the source's pixels are the rows
    bool grad_weight = false;
    std::int64_t phases = 1;  // that make up m, about equally, and are computed together
    double mean_terms = 0;    // of a result, where phases differ: `terms` are the most; else 0
    Arithmetic arithmetic = Arithmetic::kFloat32;
    bool tensor_cores = false;
    int element_bytes = 4;
    bool always_partial = false;  // the result goes through partial sums even without splits
};

struct Split {
    int splits = 1;
    int per_split = 0;
    int cluster = 1;  // blocks that share a split of a tile
    std::int64_t tiles = 0;
    double cycles = 0;
};

/// The best number of splits of a kernel for a problem, and what the model expects of it. Partial sums
/// take at most `workspace` bytes.
Split best_split(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                 std::int64_t workspace);

/// The same of a kernel by TMA: the blocks of a cluster share a tile's sum; grad_weight may have
/// partial sums beside.
Split best_clusters(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                    std::int64_t workspace);

}  // namespace fastconv::cuda
