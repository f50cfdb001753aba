// Which of a launch's phases (conv_kernels.h: CorrelationLaunch) a block of a correlation computes.
#pragma once

#include "cuda/conv_kernels.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {

struct BlockPhase {
    int index, group;
    __device__ explicit BlockPhase(const CorrelationLaunch& launch) {
        const int y = static_cast<int>(blockIdx.y);
        index = launch.phases > 1 ? y / launch.first.groups : 0;
        group = y - index * launch.first.groups;
    }
};

/// Whether the block has a tile: the grid is as large as the largest of its phases needs.
template <int kBlockRows, int kBlockCols>
__device__ inline bool has_tile(const CorrelationArguments& p, int split) {
    const int row_tiles = (p.rows - 1) / kBlockRows + 1, col_tiles = (p.cols - 1) / kBlockCols + 1;
    return split < p.splits && static_cast<int>(blockIdx.x) < row_tiles * col_tiles;
}

}  // namespace fastconv::cuda
