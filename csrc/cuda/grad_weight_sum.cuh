// The main loops of conv2d_grad_weight_sm80.cu: a block's tile of (cols, depth) and its parts,
// summed over the block's rows. Stages lie in shared memory as [out (rows, cols) | source (rows,
// depth)].
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/grad_weight_load.cuh"
#include "cuda/grad_weight_tile.cuh"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"
#include "cuda/tf32.cuh"

namespace fastconv::cuda::grad_weight {

/// A block's tile; kRows 16-bit rows a stage, or half as many of TF32. k3xTf32_: of float32, each
/// product by three of tf32 (tf32.cuh).
template <int kCols_, int kDepth_, int kWarpCols_, int kWarpDepth_, int kRows_, int kStages_,
          int kBlocks_, bool k3xTf32_ = false>
struct Tile {
    static constexpr bool k3xTf32 = k3xTf32_;
    static constexpr int kCols = kCols_, kDepth = kDepth_;
    static constexpr int kWarpCols = kWarpCols_, kWarpDepth = kWarpDepth_;
    static constexpr int kRows = kRows_, kStages = kStages_;
    static constexpr int kBlocks = kBlocks_;  // a multiprocessor
    static constexpr int kThreads = kCols / kWarpCols * (kDepth / kWarpDepth) * 32;
    static constexpr int kSharedBytes = kStages * kRows * (kCols + kDepth) * 2;
};

template <class Tile, class T>
struct Shape {
    using Element = T;
    static constexpr int kCols = Tile::kCols, kDepth = Tile::kDepth;
    static constexpr int kWarpCols = Tile::kWarpCols, kWarpDepth = Tile::kWarpDepth;
    static constexpr bool k3xTf32 = Tile::k3xTf32;
    static constexpr int kRows = Tile::kRows * 2 / static_cast<int>(sizeof(T));
    static constexpr int kStages = Tile::kStages, kThreads = Tile::kThreads;
    static constexpr int kOutPitch = kCols * static_cast<int>(sizeof(T));  // bytes, as all below
    static constexpr int kSourcePitch = kDepth * static_cast<int>(sizeof(T));
    static constexpr int kOutBytes = kRows * kOutPitch;
    static constexpr int kStageBytes = kOutBytes + kRows * kSourcePitch;
    // Of VectorLoader: at most two chunks of the source, each with a tap in three registers.
    static constexpr int kLanes = (kDepth > 128 ? kDepth / 2 : 64) / kPackElems<T>;
    static constexpr int kTaps = kDepth + kDepth / kPackElems<T>;  // of ElementLoader's table
    static constexpr int kTableBytes = kTaps * static_cast<int>(sizeof(Tap));
};

/// The sums of one warp and where it reads in a stage.
template <class S>
struct Warp {
    using T = typename S::Element;
    using Step = Fragments<S, T>;
    static constexpr int kSteps = S::kRows / Step::kStepRows;
    static_assert(kSteps % 2 == 0, "fragments are double-buffered");

    int lane, col, depth;  // col, depth: of the block's tile
    int out_bytes, source_bytes;
    WarpSums<S::kWarpCols / 16, S::kWarpDepth / 8, S::k3xTf32> sums;

    __device__ Warp() {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        lane = static_cast<int>(threadIdx.x) % 32;
        col = warp % (S::kCols / S::kWarpCols) * S::kWarpCols;
        depth = warp / (S::kCols / S::kWarpCols) * S::kWarpDepth;
        out_bytes = Step::out_bytes(lane, col);
        source_bytes = Step::source_bytes(lane, depth);
    }

    __device__ void load(Step& to, const unsigned char* stage, int step) const {
        to.load(stage + step * Step::kStepRows * S::kOutPitch, out_bytes,
                stage + S::kOutBytes + step * Step::kStepRows * S::kSourcePitch, source_bytes);
    }

    /// f(col, depth, run) for this lane's sums, col and depth of the block's tile.
    template <class F>
    __device__ void each(F f) const {
        Step::each(sums.sum, lane,
                   [&](int c, int d, const auto& run) { f(c + col, d + depth, run); });
    }
};

/// The ring: while a stage is multiplied, kStages - 2 are on their way, and the next is there
/// already.
template <class S>
__device__ void sum_vector(Warp<S>& warp, VectorLoader<S, true>& loader, unsigned char* shared,
                           int steps) {
    constexpr int kStages = S::kStages;
    // Beyond the last step too, where all rows are invalid and nothing is read: without a branch
    // the copies' arithmetic finds its place among the products.
    const auto copy = [&](int step) {
        unsigned char* stage = shared + step % kStages * S::kStageBytes;
        loader.copy(stage, stage + S::kOutBytes);
        ptx::cp_async_commit();
    };
    for (int step = 0; step + 1 < kStages; ++step) copy(step);
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();

    typename Warp<S>::Step fragments[2];
    warp.load(fragments[0], shared, 0);
    for (int step = 0; step < steps; ++step) {
        const unsigned char* stage = shared + step % kStages * S::kStageBytes;
#pragma unroll
        for (int s = 0; s < Warp<S>::kSteps; ++s) {
            if (s + 1 < Warp<S>::kSteps) {
                warp.load(fragments[(s + 1) % 2], stage, s + 1);
            } else {
                // All of this stage is read: the barrier lets the next copy overwrite it.
                ptx::cp_async_wait<kStages - 2>();
                __syncthreads();
                warp.load(fragments[0], shared + (step + 1) % kStages * S::kStageBytes, 0);
            }
            if (s == 0) copy(step + kStages - 1);
            fragments[s % 2].multiply(warp.sums.chain());
        }
        warp.sums.close();
    }
    ptx::cp_async_wait<0>();
}

/// Two stages: the next one's elements are on their way to registers while one is multiplied; `out`
/// may come by cp.async meanwhile.
template <class S, class OutLoader, class SourceLoader>
__device__ void sum_elements(Warp<S>& warp, OutLoader& out, SourceLoader& source,
                             unsigned char* shared, int steps) {
    constexpr bool kOutVector = std::is_same_v<OutLoader, VectorLoader<S, false>>;
    const auto load = [&](int step) {
        if constexpr (kOutVector) {
            out.copy(shared + step % 2 * S::kStageBytes, nullptr);
            ptx::cp_async_commit();
        } else {
            out.load();
        }
        source.load();
    };
    const auto store = [&](int step) {
        unsigned char* stage = shared + step % 2 * S::kStageBytes;
        source.store(stage + S::kOutBytes);
        if constexpr (kOutVector)
            ptx::cp_async_wait<0>();
        else
            out.store(stage);
    };
    __syncthreads();  // the table of taps
    if (steps == 0) return;
    load(0);
    store(0);
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load(step + 1);
#pragma unroll
        for (int s = 0; s < Warp<S>::kSteps; ++s) {
            typename Warp<S>::Step fragments;
            warp.load(fragments, shared + step % 2 * S::kStageBytes, s);
            fragments.multiply(warp.sums.chain());
        }
        warp.sums.close();
        if (step + 1 < steps) store(step + 1);
        __syncthreads();
    }
}

}  // namespace fastconv::cuda::grad_weight
