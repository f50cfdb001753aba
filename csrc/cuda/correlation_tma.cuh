// The implicit GEMM of a correlation by TMA and wgmma (tma_tile.cuh), in float16 or bfloat16 with
// sums in float32, forward and grad_input:
//
//   out[row, col] = sum over d of source[row, d] * weight[col, d]
//
// Copies gather the source by themselves (im2col: rows go on over the ends of image rows and images,
// padding arrives as zeros). The weight is read where it is, in either of two ways: channels
// contiguous (K-major: forward's channels-last weight), or columns contiguous (MN-major: the same
// memory for grad_input, whose columns are the input's channels).
//
// A step is a tap of 64 channels; taps are the inner ones, for their pixels are mostly the same and
// found in L2. Blocks are as many as multiprocessors and take tiles in turn, columns innermost; or
// clusters of blocks have a tile each and share its steps.
#pragma once

#include <cstdint>

#include "cuda/tma_correlation.cuh"

namespace fastconv::cuda::tma {

/// One thread of each of the producer's warps: starts the copies of its steps of a tile.
template <class Tile, bool kColsContiguous>
__device__ void copy_tile_steps(const Launch& p, const Work& work, int rank, const Ring<Tile>& ring,
                                RingPlace& place, Turn& turn) {
    const Phase& phase = p.phase[work.phase];
    const Pixel pixel = LineRows::pixel(phase, work.row);
    const int h = phase.first_h + pixel.i * p.step_h, w = phase.first_w + pixel.j * p.step_w;
    const int channel = work.group * p.channels, col = work.group * p.cols + work.col;
    const Share share(phase.taps * p.channel_blocks, rank, p.ranks);
    const int bytes = weight_bytes<Tile, kColsContiguous>(p, work);
    TapWalk at(phase, share.begin);
    for (int step = share.begin; step < share.end; ++step) {
        if (turn.take()) {
            ptx::barrier_wait(ring.empty + place.stage, place.parity ^ 1);
            unsigned char* stage = ring.stages + place.stage * Tile::kStageBytes;
            ptx::Barrier* full = ring.full + place.stage;
            ptx::barrier_arrive_expect(full, Tile::kRowBytes + bytes);
            const int c = channel + at.channel;
            if (p.rows_in_line) ptx::copy_tile(stage, phase.source, c, work.row, 0, 0, full);
            else
                ptx::copy_im2col(stage, phase.source, c, w, h, pixel.n, at.b * phase.tap_w,
                                 at.a * phase.tap_h, full);
            copy_weights<Tile, kColsContiguous>(stage + Tile::kRowBytes, bytes, phase, at, work.col,
                                                col, c, full);
        }
        place.advance(Tile::kStages);
        at.advance(phase);
    }
}

template <class T, class Tile, bool kColsContiguous>
__global__ void __launch_bounds__(Tile::kThreads, 1) correlation(const __grid_constant__ Launch p) {
    Ring<Tile> ring;
    ring.start();
    const int ranks = p.ranks, rank = ranks > 1 ? ptx::cluster_rank() : 0;
    const int first = static_cast<int>(blockIdx.x) / ranks;
    const int stride = static_cast<int>(gridDim.x) / ranks;
    RingPlace place;
    if (threadIdx.x >= Tile::kWarps * 32) {
        ptx::give_registers<kProducerRegisters>();
        Turn turn(static_cast<int>(threadIdx.x) / 32 - Tile::kWarps);
        if (threadIdx.x == Tile::kWarps * 32) prefetch_maps(p);
        for (int tile = first; tile < p.tiles; tile += stride) {
            if (threadIdx.x % 32 == 0)
                copy_tile_steps<Tile, kColsContiguous>(p, Work::of<Tile>(p, tile), rank, ring,
                                                       place, turn);
            __syncwarp();
            attend_tile(ranks);
        }
    } else {
        ptx::take_registers<kRegisters>();
        WarpgroupSums<T, Tile, false, kColsContiguous> sums;
        int staged = 0;
        for (int tile = first; tile < p.tiles; tile += stride) {
            const Work work = Work::of<Tile>(p, tile);
            const Share share(p.phase[work.phase].taps * p.channel_blocks, rank, ranks);
            sums.add_steps(ring, place, share.end - share.begin);
            finish_tile<T, Tile>(ring, sums, CorrelationStore<T, LineRows>(p, work), rank, ranks,
                                 staged);
        }
        finish_block();
    }
}

}  // namespace fastconv::cuda::tma
