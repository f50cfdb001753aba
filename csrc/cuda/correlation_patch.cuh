// The implicit GEMM of correlation_tma.cuh for taps that are next to each other and a unit step, so
// that the source is brought once for all taps: 64 rows are a tile of 8x8 pixels, and a patch is the
// tile's pixels with what its taps reach around it, 64 channels of each:
//
//   lines of 128 bytes  3x3 taps: 10 x 10 a patch instead of 9 x 64, 5x5: 12 x 12 instead of 25 x 64
//
// In shared memory a patch's pixels are lines, one after another, and the operand of a tap begins at
// the line of its first pixel: eight rows are eight pixels of a line of the tile, the next eight are a
// patch's width further. wgmma swizzles by absolute addresses, so any line may be the first.
//
// Patches have a ring of two (a block's patches of 64 channels each), which the first of the producing
// threads fills, the taps' weights one of their own, which all four fill in turn.
//
// Layers of 64 filters, whose products are short beside what they read, are 1.1 to 1.4 times as fast
// as by correlation_tma.cuh. On an H100, bfloat16, batch 32, in us: VGG-16's conv1_2 forward 226
// against 285, conv2_1 grad_input 105 against 147, ResNet's res2 3x3 22.7 against 27.4. Rejected: one
// producing thread, by which such layers are 1.4 times slower.
#pragma once

#include "cuda/tma_correlation.cuh"

namespace fastconv::cuda::tma {

/// Two warpgroups above each other of kMBlocks products of 64 x kN; as Tile, but for the rings.
template <int kMBlocks_, int kN_>
struct PatchTile {
    static constexpr int kMBlocks = kMBlocks_, kN = kN_;
    static constexpr bool kAlongCols = false;
    static constexpr int kWarps = 8, kThreads = kWarps * 32 + 128;
    static constexpr int kBlockRows = 128 * kMBlocks, kBlockCols = kN;
    static constexpr int kPatches = kBlockRows / 64;
    static constexpr int kWeightBytes = kBlockCols * kLineBytes;
    static constexpr int kStagingBytes = kWarps * 4096;
    static constexpr int kBarrierBytes = 8 * (2 * (kPatchStages + kMostWeightStages) + 1);
    static constexpr int kSumPitch = kBlockCols + 8;
    static constexpr int kSharedBytes = 227 * 1024;
    /// What is left for patches and weights.
    static constexpr int kRingBytes = (kSharedBytes - kStagingBytes - kBarrierBytes) / 1024 * 1024;
    static constexpr int weight_stages(int patch_bytes) {
        const int fit = (kRingBytes - kPatchStages * kPatches * patch_bytes) / kWeightBytes;
        return fit < kMostWeightStages ? fit : kMostWeightStages;
    }
    static_assert(kBlockRows * kSumPitch * 4 <= kRingBytes, "all sums fit where the rings were");
};

/// Shared memory: staging, patches, weights, barriers.
template <class Tile>
struct PatchRing {
    unsigned char* stages;  // of patches: where blocks of a cluster leave their sums
    unsigned char* weights;
    ptx::Barrier *full_patch, *empty_patch, *full, *empty, *multiplied;

    __device__ explicit PatchRing(const PatchShape& shape)
        : stages(ptx::shared_memory() + Tile::kStagingBytes),
          weights(stages + kPatchStages * Tile::kPatches * shape.bytes),
          full_patch(reinterpret_cast<ptx::Barrier*>(stages + Tile::kRingBytes)),
          empty_patch(full_patch + kPatchStages),
          full(empty_patch + kPatchStages),
          empty(full + kMostWeightStages),
          multiplied(empty + kMostWeightStages) {}

    /// By all threads; ends with a barrier.
    __device__ void start() {
        if (threadIdx.x == 0) {
            for (int i = 0; i < kPatchStages; ++i) {
                ptx::barrier_init(full_patch + i, 1);
                ptx::barrier_init(empty_patch + i, Tile::kWarps);
            }
            for (int i = 0; i < kMostWeightStages; ++i) {
                ptx::barrier_init(full + i, 1);
                ptx::barrier_init(empty + i, Tile::kWarps);
            }
            ptx::barrier_init(multiplied, Tile::kWarps);
            ptx::fence_barrier_init();
        }
        __syncthreads();
    }
    __device__ unsigned char* patches(const PatchShape& shape, int stage) const {
        return stages + stage * Tile::kPatches * shape.bytes;
    }
    __device__ unsigned char* staging(int warp) const {
        return ptx::shared_memory() + warp * 4096;
    }
};

/// Where both rings are, from one side.
struct PatchPlace {
    RingPlace patch, weight;
};

/// One thread of each of the producer's warps: starts the copies of its steps of a tile.
template <class Tile, bool kColsContiguous>
__device__ void copy_patch_steps(const PatchLaunch& launched, const Work& work, int rank,
                                 const PatchRing<Tile>& ring, PatchPlace& place, Turn& turn) {
    const Launch& p = launched.launch;
    const PatchShape& shape = launched.shape;
    const Phase& phase = p.phase[work.phase];
    const int channel = work.group * p.channels, col = work.group * p.cols + work.col;
    const Share share(phase.taps * p.channel_blocks, rank, p.ranks);
    const int bytes = weight_bytes<Tile, kColsContiguous>(p, work);
    TapWalk at(phase, share.begin);
    for (int step = share.begin; step < share.end; ++step) {
        const bool taken = turn.take();
        const int c = channel + at.channel;
        if (step == share.begin || at.is_first()) {
            if (turn.mine == 0) {  // alone: the ring is too short for turns (Turn)
                ptx::barrier_wait(ring.empty_patch + place.patch.stage, place.patch.parity ^ 1);
                ptx::Barrier* full = ring.full_patch + place.patch.stage;
                ptx::barrier_arrive_expect(full, Tile::kPatches * shape.lines * kLineBytes);
                unsigned char* to = ring.patches(shape, place.patch.stage);
                for (int i = 0; i < Tile::kPatches; ++i) {
                    const Pixel pixel = PatchRows::pixel(phase, work.row + i * 64);
                    ptx::copy_tile(to + i * shape.bytes, phase.source, c, phase.first_w + pixel.j,
                                   phase.first_h + pixel.i, pixel.n, full);
                }
            }
            place.patch.advance(kPatchStages);
        }
        if (taken) {
            ptx::barrier_wait(ring.empty + place.weight.stage, place.weight.parity ^ 1);
            ptx::Barrier* full = ring.full + place.weight.stage;
            ptx::barrier_arrive_expect(full, bytes);
            copy_weights<Tile, kColsContiguous>(
                ring.weights + place.weight.stage * Tile::kWeightBytes, bytes, phase, at, work.col,
                col, c, full);
        }
        place.weight.advance(shape.weight_stages);
        at.advance(phase);
    }
}

/// The multiplying threads' steps of a tile.
template <class Tile, class Sums>
__device__ void add_patch_steps(Sums& sums, const PatchShape& shape, const Phase& phase,
                                const Share& share, const PatchRing<Tile>& ring,
                                PatchPlace& place) {
    if (share.begin == share.end) sums.clear();
    TapWalk at(phase, share.begin);
    PatchPlace before = place;
    bool ended = false;  // the patch of the step before
    const int eight_rows = shape.width * kLineBytes;  // of the tile, from one line to the next
    const int next_tap_h = phase.tap_h * eight_rows, next_tap_w = phase.tap_w * kLineBytes;
    for (int step = share.begin; step < share.end; ++step) {
        if (step == share.begin || at.is_first())
            ptx::barrier_wait(ring.full_patch + place.patch.stage, place.patch.parity);
        ptx::barrier_wait(ring.full + place.weight.stage, place.weight.parity);
        const unsigned char* first = ring.patches(shape, place.patch.stage) +
                                     sums.row() / 64 * shape.bytes + at.a * next_tap_h +
                                     at.b * next_tap_w;
        sums.multiply_step(
            [&](int m, int part) {
                return ptx::matrix_descriptor(first + m * shape.bytes + part * 32, 0, eight_rows);
            },
            [&](int part) {
                return sums.operand_cols(ring.weights + place.weight.stage * Tile::kWeightBytes,
                                         part);
            },
            step > share.begin);
        if (step > share.begin) {
            ptx::wgmma_wait<1>();
            give_back(ring.empty, before.weight);
            if (ended) give_back(ring.empty_patch, before.patch);
        }
        before = place;
        at.advance(phase);
        ended = at.is_first();
        if (ended || step == share.end - 1) place.patch.advance(kPatchStages);
        place.weight.advance(shape.weight_stages);
    }
    ptx::wgmma_wait<0>();
    if (share.begin == share.end) return;
    give_back(ring.empty, before.weight);
    give_back(ring.empty_patch, before.patch);
}

template <class T, class Tile, bool kColsContiguous>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    correlation_patch(const __grid_constant__ PatchLaunch launched) {
    const Launch& p = launched.launch;
    PatchRing<Tile> ring(launched.shape);
    ring.start();
    const int ranks = p.ranks, rank = ranks > 1 ? ptx::cluster_rank() : 0;
    const int first = static_cast<int>(blockIdx.x) / ranks;
    const int stride = static_cast<int>(gridDim.x) / ranks;
    PatchPlace place;
    if (threadIdx.x >= Tile::kWarps * 32) {
        ptx::give_registers<kProducerRegisters>();
        Turn turn(static_cast<int>(threadIdx.x) / 32 - Tile::kWarps);
        if (threadIdx.x == Tile::kWarps * 32) prefetch_maps(p);
        for (int tile = first; tile < p.tiles; tile += stride) {
            if (threadIdx.x % 32 == 0)
                copy_patch_steps<Tile, kColsContiguous>(launched, Work::of<Tile>(p, tile), rank,
                                                        ring, place, turn);
            __syncwarp();
            attend_tile(ranks);
        }
    } else {
        ptx::take_registers<kRegisters>();
        WarpgroupSums<T, Tile, false, kColsContiguous> sums;
        int staged = 0;
        for (int tile = first; tile < p.tiles; tile += stride) {
            const Work work = Work::of<Tile>(p, tile);
            const Phase& phase = p.phase[work.phase];
            const Share share(phase.taps * p.channel_blocks, rank, ranks);
            add_patch_steps(sums, launched.shape, phase, share, ring, place);
            finish_tile<T, Tile>(ring, sums, CorrelationStore<T, PatchRows>(p, work), rank, ranks,
                                 staged);
        }
        finish_block();
    }
}

}  // namespace fastconv::cuda::tma
