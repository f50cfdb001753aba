// The implicit GEMM of correlation_sm80.cuh with the tensor cores' asynchronous products (wgmma,
// compute capability 9.0): forward and grad_input of a correlation for each group by itself,
//
//   out[row, col] = sum over d of source[row, d] * weight[col, d]
//
// in float16 or bfloat16, sums in float32. The same cp.async copies gather the operands into the
// same swizzled rows of 128 bytes (correlation_sm80_gather.cuh), which are what wgmma calls
// K-major with a 128-byte swizzle, and the same stores take the sums away
// (correlation_sm80_store.cuh). Not here: tf32 (wgmma truncates floats that it reads from shared
// memory, and rounding them there would be a pass more), sources that do not come 16 bytes at a
// time.
//
// A warpgroup adds 64 x kN sums at once, and either operand may be the one of 64: the positions,
// or, with kFiltersFirst, the filters, which leaves 256 positions for the wide side where there
// are only 64 or 128 filters. What shared memory delivers for it, of 128 bytes a cycle and
// multiprocessor:
//
//   64 x 256 x 16   2 KB + 8 KB in 128 cycles    80 bytes a cycle
//   64 x 128 x 16   2 KB + 4 KB in  64 cycles    96
//   64 x  64 x 16   2 KB + 2 KB in  32 cycles   128
//
// and the copies of a step's (rows + cols) * 128 bytes come on top.
//
// The ring: at step s the products of s are issued while those of s - 1 (kInFlight of them) still
// run, and copies go to the stage that was multiplied before those:
//
//   stage   s - 1     s         s + 1 ...           s + kAhead
//           running   issued    copies in flight    copies issued, where s - 1 - kInFlight was
//
// Every thread of the block says by the barrier of step s that its copies of s have arrived and its
// warpgroup's products of s - 1 - kInFlight are done.
#pragma once

#include <cstdint>

#include "cuda/correlation_phases.cuh"
#include "cuda/correlation_sm80.cuh"
#include "cuda/ptx_sm90.cuh"

namespace fastconv::cuda::sm90 {

using sm80::kRowBytes;

template <int kBlockRows_, int kBlockCols_, bool kFiltersFirst_, int kN_, int kThreads_,
          int kStages_, int kInFlight_, int kBlocks_>
struct Tile {
    static constexpr int kBlockRows = kBlockRows_, kBlockCols = kBlockCols_;
    static constexpr bool kFiltersFirst = kFiltersFirst_;
    static constexpr int kN = kN_;  // of one product: 64 x kN
    static constexpr int kThreads = kThreads_;
    static constexpr int kStages = kStages_, kInFlight = kInFlight_;
    static constexpr int kAhead = kStages - 1 - kInFlight;  // steps copied before they are needed
    static constexpr int kBlocks = kBlocks_;                // on a multiprocessor
    static constexpr int kSourceBytes = kBlockRows * kRowBytes;
    static constexpr int kStageBytes = (kBlockRows + kBlockCols) * kRowBytes;
    static constexpr int kRingBytes = kStages * kStageBytes;
    static constexpr int kSumBytes =
        static_cast<int>(sizeof(sm80::SumTile<kBlockRows, kBlockCols>));
    static constexpr int kSharedBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;

    static constexpr int kFirst = kFiltersFirst ? kBlockCols : kBlockRows;
    static constexpr int kSecond = kFiltersFirst ? kBlockRows : kBlockCols;
    static constexpr int kWarpgroups = kThreads / 128;
    static_assert(kFirst / 64 * (kSecond / kN) == kWarpgroups, "a product a warpgroup");
    static_assert(kAhead >= 1);
};

template <class T, int kN>
__device__ inline void multiply(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b) {
    constexpr bool kHalf = sizeof(T) == 2 && std::is_same_v<T, Half>;
    if constexpr (kN == 64 && kHalf) ptx::wgmma_64x64x16_f16(d, a, b, true);
    if constexpr (kN == 64 && !kHalf) ptx::wgmma_64x64x16_bf16(d, a, b, true);
    if constexpr (kN == 128 && kHalf) ptx::wgmma_64x128x16_f16(d, a, b, true);
    if constexpr (kN == 128 && !kHalf) ptx::wgmma_64x128x16_bf16(d, a, b, true);
    if constexpr (kN == 256 && kHalf) ptx::wgmma_64x256x16_f16(d, a, b, true);
    if constexpr (kN == 256 && !kHalf) ptx::wgmma_64x256x16_bf16(d, a, b, true);
}

/// A warpgroup's share of the block's product.
template <class T, class Tile>
class WarpgroupTile {
    static constexpr int kN = Tile::kN;
    static constexpr int kAlongFirst = Tile::kFirst / 64;

public:
    __device__ WarpgroupTile() {
        // The same in all lanes, which the compiler does not know of threadIdx.
        const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
        first_ = warpgroup % kAlongFirst * 64;
        second_ = warpgroup / kAlongFirst * kN;
#pragma unroll
        for (float& sum : sum_) sum = 0.0f;
    }
    /// Issues the products of one step, a group.
    __device__ void multiply_add(const unsigned char* stage) {
        const unsigned char* rows = stage;
        const unsigned char* cols = stage + Tile::kSourceBytes;
        const unsigned char* a = (Tile::kFiltersFirst ? cols : rows) + first_ * kRowBytes;
        const unsigned char* b = (Tile::kFiltersFirst ? rows : cols) + second_ * kRowBytes;
        ptx::wgmma_fence();
#pragma unroll
        for (int part = 0; part < kRowBytes / 32; ++part)
            multiply<T, kN>(sum_, ptx::matrix_descriptor(a + part * 32, 0, 8 * kRowBytes),
                            ptx::matrix_descriptor(b + part * 32, 0, 8 * kRowBytes));
        ptx::wgmma_commit();
    }
    /// Once nothing is in flight.
    template <class Sums>
    __device__ void write(Sums& sums) const {
        const int thread = static_cast<int>(threadIdx.x) % 128;
        const int i = first_ + thread / 32 * 16 + thread % 32 / 4, j = second_ + thread % 4 * 2;
        if constexpr (Tile::kFiltersFirst) {
            // Lanes of a warp are 2 rows of sums apart, 8 columns more than a multiple of 32 each:
            // half of them begin with the second row, so that they meet every bank once.
            const int swap = thread / 2 % 2;
            float* at = &sums.sum[j * Sums::kPitch + i];
#pragma unroll
            for (int n = 0; n < kN / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float lo = sum_[4 * n + 2 * half], hi = sum_[4 * n + 2 * half + 1];
                    float* pair = at + n * 8 * Sums::kPitch + half * 8;
                    pair[swap * Sums::kPitch] = swap ? hi : lo;
                    pair[(swap ^ 1) * Sums::kPitch] = swap ? lo : hi;
                }
        } else {
            float* at = &sums.sum[i * Sums::kPitch + j];
#pragma unroll
            for (int n = 0; n < kN / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    *reinterpret_cast<Pack<float, 2>*>(at + half * 8 * Sums::kPitch + n * 8) = {
                        {sum_[4 * n + 2 * half], sum_[4 * n + 2 * half + 1]}};
        }
    }

private:
    int first_, second_;  // of the block's, by the operands' order
    float sum_[kN / 2];
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    correlation(const CorrelationLaunch launched, const sm80::Store store) {
    constexpr int kLastStage = (Tile::kStages - 1) * Tile::kStageBytes;
    unsigned char* const ring = ptx::shared_memory();
    const BlockPhase phase(launched);
    const CorrelationArguments p = launched.phase(phase.index);
    const int group = phase.group, split = static_cast<int>(blockIdx.z);
    if (launched.phases > 1 && !has_tile<Tile::kBlockRows, Tile::kBlockCols>(p, split)) return;
    const sm80::BlockOrigin<Tile> origin(p);
    const sm80::DepthRange<T> range(p, split);
    WarpgroupTile<T, Tile> warpgroup;

    if (range.steps > 0) {
        sm80::Loader<T, Tile, true> loader(p, group, origin, range, nullptr);
        int write = 0, read = 0;  // stages, in bytes
        const auto copy = [&] {
            loader.template copy<0>(ring + write);
            loader.template copy<1>(ring + write);
            loader.template copy<2>(ring + write);
            write = write == kLastStage ? 0 : write + Tile::kStageBytes;
        };
        for (int step = 0; step < Tile::kAhead; ++step) copy();
        for (int step = 0; step < range.steps; ++step) {
            ptx::cp_async_wait<Tile::kAhead - 1>();
            ptx::fence_proxy_async();
            __syncthreads();
            warpgroup.multiply_add(ring + read);
            read = read == kLastStage ? 0 : read + Tile::kStageBytes;
            copy();
            ptx::wgmma_wait<Tile::kInFlight>();
        }
        ptx::wgmma_wait<0>();
        __syncthreads();  // the sums' place is the stages'
    }

    auto& sums = *reinterpret_cast<sm80::SumTile<Tile::kBlockRows, Tile::kBlockCols>*>(ring);
    sm80::TileStore<T, Tile::kBlockRows, Tile::kBlockCols, Tile::kThreads> out(
        p, sums, group, split, origin.row0, origin.col0);
    warpgroup.write(sums);
    out.prepare();
    __syncthreads();
    out.run(store);
}

}  // namespace fastconv::cuda::sm90
