// A block's sums by wgmma (conv2d_grad_weight_sm90.cu), each warpgroup those of some columns:
//
//   sums[col, d] += sum over the stage's rows of out[row, col] * source[row, d]
//
// Rows, the summed dimension, are not the fastest in memory: both operands are MN-major, as wgmma
// calls it. A stage has panels of 64 channels, a line of 128 bytes a row:
//
//   out:    panel 0 (rows, cols 0..63)  | panel 1 (rows, cols 64..127)  | ...
//   source: panel 0 (rows, depth 0..63) | panel 1 (rows, depth 64..127) | ...
//
// 8 rows are an atom of 1024 bytes; the next atom of a panel follows it (stride_bytes = 1024), the
// next 64 channels are a panel further (leading_bytes = kRows * 128). VectorLoader's swizzle,
// chunk ^ (row & 7), is wgmma's of 128 bytes, for panels start at multiples of 1024 bytes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/grad_weight_load.cuh"
#include "cuda/ptx.cuh"
#include "cuda/ptx_sm90.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda::grad_weight {

template <int kCols_, int kDepth_, int kWarpgroups_, int kRows_, int kStages_, int kBlocks_>
struct WarpgroupTile {
    static constexpr int kCols = kCols_, kDepth = kDepth_, kWarpgroups = kWarpgroups_;
    static constexpr int kRows = kRows_, kStages = kStages_;
    static constexpr int kBlocks = kBlocks_;  // a multiprocessor
    static constexpr int kThreads = kWarpgroups * 128;
    static constexpr bool kSourceCached = true;  // copies go through L1
    static constexpr int kLanes = 8;  // of VectorLoader: a line
    static constexpr int kLine = 128;  // bytes, as all below
    static constexpr int kOutPitch = kLine, kSourcePitch = kLine;
    static constexpr int kPanelBytes = kRows * kLine;
    static constexpr int kOutPanel = kPanelBytes, kSourcePanel = kPanelBytes;
    static constexpr int kOutBytes = kCols / 64 * kPanelBytes;
    static constexpr int kStageBytes = kOutBytes + kDepth / 64 * kPanelBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes;
    static_assert(kCols % (64 * kWarpgroups) == 0 && kDepth % 64 == 0 && kRows % 16 == 0, "");
    static_assert(kStages >= 3, "two are being multiplied");
};

/// What VectorLoader wants to know.
template <class Tile, class T>
struct WarpgroupShape : Tile {
    using Element = T;

    /// The result's depth at `depth` of the block's tile, which begins at `first`. Where channels
    /// are a multiple of 64, panels are in the order of (64 channels, tap): neighbouring taps read
    /// mostly the same pixels at a time, of which L1 can give back what one of them brought.
    __device__ static int depth_at(const KernelArguments& k, int first, int depth) {
        const int panel = first / 64 + depth / 64, in_panel = depth % 64;
        if (k.panel_taps == 0) return panel * 64 + in_panel;
        const int channels = panel / k.panel_taps, tap = panel - channels * k.panel_taps;
        return channels * 64 < k.problem.channels
                   ? tap * k.problem.channels + channels * 64 + in_panel
                   : k.problem.depth;
    }
};

template <class T, int kSums>
__device__ inline void multiply(float (&sums)[kSums], std::uint64_t a, std::uint64_t b) {
    constexpr bool kHalf = std::is_same_v<T, Half>;
    if constexpr (kSums == 32) {
        if constexpr (kHalf) ptx::wgmma_64x64x16_f16<true, true>(sums, a, b, true);
        else ptx::wgmma_64x64x16_bf16<true, true>(sums, a, b, true);
    } else if constexpr (kSums == 64) {
        if constexpr (kHalf) ptx::wgmma_64x128x16_f16<true, true>(sums, a, b, true);
        else ptx::wgmma_64x128x16_bf16<true, true>(sums, a, b, true);
    } else if constexpr (kSums == 96) {
        if constexpr (kHalf) ptx::wgmma_64x192x16_f16<true, true>(sums, a, b, true);
        else ptx::wgmma_64x192x16_bf16<true, true>(sums, a, b, true);
    } else {
        static_assert(kSums == 128, "");
        if constexpr (kHalf) ptx::wgmma_64x256x16_f16<true, true>(sums, a, b, true);
        else ptx::wgmma_64x256x16_bf16<true, true>(sums, a, b, true);
    }
}

/// One warpgroup's columns of the tile, 64 of them each kSums registers a thread.
template <class S>
struct Warpgroup {
    using T = typename S::Element;
    static constexpr int kPanels = S::kCols / 64 / S::kWarpgroups;
    static constexpr int kSums = S::kDepth / 2;

    int index;  // of the block's warpgroups
    float sums[kPanels][kSums] = {};

    __device__ Warpgroup()
        // By a shuffle, for the compiler to know that a warp's threads have the same.
        : index(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0)) {}

    /// Starts the stage's products as one group.
    __device__ void multiply_stage(const unsigned char* stage) {
        constexpr int kStepRows = 16, kAtomBytes = 8 * S::kLine;
        const unsigned char* out = stage + index * kPanels * S::kPanelBytes;
        const unsigned char* source = stage + S::kOutBytes;
        ptx::wgmma_fence();
#pragma unroll
        for (int row = 0; row < S::kRows; row += kStepRows) {
            const std::uint64_t b = ptx::matrix_descriptor(source + row * S::kLine, S::kPanelBytes,
                                                           kAtomBytes);
#pragma unroll
            for (int panel = 0; panel < kPanels; ++panel)
                multiply<T>(sums[panel],
                            ptx::matrix_descriptor(out + panel * S::kPanelBytes + row * S::kLine,
                                                   S::kPanelBytes, kAtomBytes),
                            b);
        }
        ptx::wgmma_commit();
    }

    /// f(col, depth, run) for this thread's sums, in pairs along depth: col of the block's tile,
    /// depth of the result; `first` is the block's depth.
    template <class F>
    __device__ void each(const KernelArguments& k, int first, F f) const {
        const int thread = static_cast<int>(threadIdx.x);
        const int lane = thread % 32, warp = thread / 32 % 4;
#pragma unroll
        for (int part = 0; part < S::kDepth / 64; ++part) {
            const int depth = S::depth_at(k, first, part * 64) + lane % 4 * 2;
#pragma unroll
            for (int panel = 0; panel < kPanels; ++panel)
#pragma unroll
                for (int h = 0; h < 2; ++h)
#pragma unroll
                    for (int n = 0; n < 8; ++n) {
                        const float* pair = &sums[panel][part * 32 + n * 4 + h * 2];
                        f((index * kPanels + panel) * 64 + warp * 16 + h * 8 + lane / 4,
                          depth + n * 8, Pack<float, 2>{{pair[0], pair[1]}});
                    }
        }
    }
};

/// The ring: while a step's products run, those of the step before end, and kStages - 2 steps are
/// on their way. At the barrier everyone's copies of the step are there, and everyone's products of
/// two steps before are done, whose stage the next copies take.
template <class S>
__device__ void sum_warpgroups(Warpgroup<S>& warpgroup, VectorLoader<S, true>& loader,
                               unsigned char* shared, int steps) {
    constexpr int kStages = S::kStages, kAhead = kStages - 2;
    // Beyond the last step too, where all rows are invalid and nothing is read.
    const auto copy = [&](int step) {
        unsigned char* stage = shared + step % kStages * S::kStageBytes;
        loader.copy(stage, stage + S::kOutBytes);
        ptx::cp_async_commit();
    };
    for (int step = 0; step < kAhead; ++step) copy(step);
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait<kAhead - 1>();
        ptx::fence_proxy_async();
        __syncthreads();
        warpgroup.multiply_stage(shared + step % kStages * S::kStageBytes);
        copy(step + kAhead);
        ptx::wgmma_wait<1>();
    }
    ptx::wgmma_wait<0>();
    ptx::cp_async_wait<0>();
}

}  // namespace fastconv::cuda::grad_weight
