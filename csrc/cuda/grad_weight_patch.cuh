// grad_weight of 3x3 taps next to each other by TMA and wgmma (grad_weight_tma.cuh), with the source
// brought once for all taps: a step is a tile of 8x8 pixels of `out`, 64 filters of it, and the patch of
// 10x10 pixels of the source around it, 64 channels: 164 lines of 128 bytes for 64 x 576 sums.
//
// Each of three warpgroups has a row of taps: 64 filters x three taps of 64 channels are one product,
// whose panels of 64 channels begin a pixel, 128 bytes, apart in the patch. Of 16 pixels, eight are a
// line of the tile and the next eight the next line, a patch's width further.
//
// Only for results of whole tiles: where a tile went beyond the image, zeros would meet what may be an
// infinity.
#pragma once

#include "cuda/grad_weight_tma.cuh"

namespace fastconv::cuda::tma {

struct WeightPatchTile {
    static constexpr int kMBlocks = 1, kN = 192;
    static constexpr bool kAlongCols = true;
    static constexpr int kWarps = 12, kThreads = kWarps * 32 + 128;
    static constexpr int kStages = 8;
    static constexpr int kBlockRows = 64, kBlockCols = 3 * kN;
    static constexpr int kPatchWidth = 10, kPatchLines = kPatchWidth * kPatchWidth;
    static constexpr int kRowBytes = kPanelBytes;  // of a stage: `out`, then the patch
    static constexpr int kStageBytes = kRowBytes + (kPatchLines * kLineBytes + 1023) / 1024 * 1024;
    static constexpr int kRingBytes = kStages * kStageBytes;
    static constexpr int kStagingBytes = kWarps * 4096;
    static constexpr int kBarrierBytes = (2 * kStages + 1) * 8;
    static constexpr int kSharedBytes = kRingBytes + kStagingBytes + kBarrierBytes;
    static constexpr int kSumPitch = kBlockCols + 8;
    static constexpr int kPatches = 1;
    // 3 * 152 + 40 of a multiprocessor's 512 registers for every 128 threads.
    static constexpr int kProducerRegisters = 40, kRegisters = 152;
    static_assert(kBlockRows * kSumPitch * 4 <= kRingBytes, "all sums fit where the ring was");
    static_assert(kSharedBytes <= 227 * 1024);
};

/// One thread of each of the producer's warps: starts the copies of its steps of a tile.
template <class Tile>
__device__ void copy_weight_patches(const WeightLaunch& p, const WeightWork& work,
                                    const Ring<Tile>& ring, RingPlace& place, Turn& turn) {
    const Panel panel(p, work.panel);
    for (int step = 0; step < work.steps; ++step, place.advance(Tile::kStages)) {
        if (!turn.take()) continue;
        const BoxPlace at(p, work.begin + step);
        ptx::barrier_wait(ring.empty + place.stage, place.parity ^ 1);
        unsigned char* stage = ring.stages + place.stage * Tile::kStageBytes;
        ptx::Barrier* full = ring.full + place.stage;
        ptx::barrier_arrive_expect(full, Tile::kRowBytes + Tile::kPatchLines * kLineBytes);
        ptx::copy_tile(stage, p.out, work.group * p.cols + work.col, at.j, at.i, at.n, full);
        ptx::copy_tile(stage + Tile::kRowBytes, p.source,
                       work.group * p.channels + panel.channel, p.first_w + at.j, p.first_h + at.i,
                       at.n, full);
    }
}

/// The multiplying threads' steps of a tile.
template <class Tile, class Sums>
__device__ void add_weight_patches(Sums& sums, int steps, const Ring<Tile>& ring,
                                   RingPlace& place) {
    if (steps == 0) sums.clear();
    constexpr int kEightPixels = Tile::kPatchWidth * kLineBytes;  // from one line to the next
    const int tap_row = sums.col() / Tile::kN;
    RingPlace before = place;
    for (int step = 0; step < steps; ++step) {
        ptx::barrier_wait(ring.full + place.stage, place.parity);
        const unsigned char* out = ring.stages + place.stage * Tile::kStageBytes;
        const unsigned char* patch = out + Tile::kRowBytes + tap_row * kEightPixels;
        sums.multiply_step(
            [&](int, int part) {
                return ptx::matrix_descriptor(out + part * 16 * kLineBytes, kPanelBytes,
                                              8 * kLineBytes);
            },
            [&](int part) {
                return ptx::matrix_descriptor(patch + part * 2 * kEightPixels, kLineBytes,
                                              kEightPixels);
            },
            step > 0);
        if (step > 0) {
            ptx::wgmma_wait<1>();
            give_back(ring.empty, before);
        }
        before = place;
        place.advance(Tile::kStages);
    }
    ptx::wgmma_wait<0>();
    if (steps > 0) give_back(ring.empty, before);
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    grad_weight_patch(const __grid_constant__ WeightLaunch p) {
    Ring<Tile> ring;
    ring.start();
    const int ranks = p.ranks, rank = ranks > 1 ? ptx::cluster_rank() : 0;
    const int first = static_cast<int>(blockIdx.x) / ranks;
    const int stride = static_cast<int>(gridDim.x) / ranks;
    RingPlace place;
    if (threadIdx.x >= Tile::kWarps * 32) {
        ptx::give_registers<Tile::kProducerRegisters>();
        Turn turn(static_cast<int>(threadIdx.x) / 32 - Tile::kWarps);
        if (threadIdx.x == Tile::kWarps * 32) {
            ptx::prefetch_map(p.out);
            ptx::prefetch_map(p.source);
        }
        for (int tile = first; tile < p.tiles; tile += stride) {
            if (threadIdx.x % 32 == 0)
                copy_weight_patches<Tile>(p, WeightWork::of<Tile>(p, tile, rank), ring, place,
                                          turn);
            __syncwarp();
            attend_tile(ranks);
        }
    } else {
        ptx::take_registers<Tile::kRegisters>();
        WarpgroupSums<T, Tile, true, true> sums;
        int staged = 0;
        for (int tile = first; tile < p.tiles; tile += stride) {
            const WeightWork work = WeightWork::of<Tile>(p, tile, rank);
            add_weight_patches(sums, work.steps, ring, place);
            finish_tile<T, Tile>(ring, sums, WeightStore<T>(p, work), rank, ranks, staged);
        }
        finish_block();
    }
}

}  // namespace fastconv::cuda::tma
