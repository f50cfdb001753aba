// The implicit GEMM on tensor cores (sm_80 and up): a correlation's forward and grad_input for each
// group by itself (conv_kernels.h),
//
//   out[row, col] = sum over d of source[row, d] * weight[col, d]
//
// in float16, bfloat16 or, from float32 storage, tf32 once or three times (tf32.cuh); sums in
// float32. Source of any strides (a path of its own where channels do not come in 16-byte chunks),
// weights packed (cols, depth), out of any strides. Not here: packing, the sum of split depths.
//
//            depth: 128 bytes a step                 a block:  kBlockRows x kBlockCols sums
//          +---------+                               a warp:   kWarpRows x kWarpCols of them,
//   rows   | source  |  x  (weight tile)^T  ->  out            in 16 x 8 fragments of mma.sync
//          +---------+                               a step:   4 times 32 bytes of depth
//
// Steps go through a ring of kStages shared-memory stages. While step s is multiplied, the copies
// of step s + kStages - 1 run (cp.async), and ldmatrix reads the next 32 bytes' fragments before
// the current ones are multiplied. A tf32 row of 4 floats is 16 bytes as a 16-bit row of 8 is, and
// the fragments of m16n8k8 tf32 are those of m16n8k16 by 32-bit registers (PTX ISA 9.7.14.5), so
// that one loop serves all three.
//
// Shared memory a warp step of 64 x 64: 4 ldmatrix x4 of each operand, 4 KB, for 32 mma: 64 FMA a
// byte, twice what a 32 x 32 warp tile gets; a 128 x 256 block writes 48 KB and reads 128 KB a
// step. Registers of 64 x 64: 128 sums + 2 x 32 fragments + 3 a gathered row and thread.
//
// Tile order within the grid and the ring follow CUTLASS's multistage GEMM (include/cutlass/gemm/
// threadblock/mma_multistage.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/correlation_sm80_store.cuh"
#include "cuda/tf32.cuh"

namespace fastconv::cuda::sm80 {

/// k3xTf32_: of float32, each product by three of tf32.
template <int kBlockRows_, int kBlockCols_, int kWarpRows_, int kWarpCols_, int kStages_,
          int kBlocks_, bool k3xTf32_ = false>
struct Tile {
    static constexpr bool k3xTf32 = k3xTf32_;
    static constexpr int kBlockRows = kBlockRows_, kBlockCols = kBlockCols_;
    static constexpr int kWarpRows = kWarpRows_, kWarpCols = kWarpCols_;
    static constexpr int kStages = kStages_;
    static constexpr int kBlocks = kBlocks_;  // on a multiprocessor
    static constexpr int kThreads = kBlockRows / kWarpRows * (kBlockCols / kWarpCols) * 32;
    static constexpr int kSourceBytes = kBlockRows * kRowBytes;
    static constexpr int kStageBytes = (kBlockRows + kBlockCols) * kRowBytes;
    static constexpr int kRingBytes = kStages * kStageBytes;
    static constexpr int kSumBytes = static_cast<int>(sizeof(SumTile<kBlockRows, kBlockCols>));
    static constexpr int kSharedBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
};

__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1, Half) {
    ptx::mma_16x8x16_f16(d, a, b0, b1);
}
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1, BFloat16) {
    ptx::mma_16x8x16_bf16(d, a, b0, b1);
}
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1, float) {
    ptx::mma_16x8x8_tf32(d, a, b0, b1);
}

/// A warp's share of the block's product.
template <class T, class Tile>
class WarpTile {
    static constexpr int kRowTiles = Tile::kWarpRows / 16;
    static constexpr int kColPairs = Tile::kWarpCols / 16;  // two 8-column fragments an ldmatrix_x4
    static constexpr int kWarpsAlongRows = Tile::kBlockRows / Tile::kWarpRows;

public:
    __device__ WarpTile() {
        const int lane = threadIdx.x % 32;
        // Matrices of a: rows 0-7 and 8-15 of chunk 0, then of chunk 1; of b: chunks 0 and 1 of
        // columns 0-7, then of 8-15.
        const int a_row = row0() + lane % 16, a_chunk = lane / 16;
        const int b_row = col0() + lane % 8 + lane / 16 * 8, b_chunk = lane / 8 % 2;
        a_at_ = a_row * kRowBytes + (a_chunk ^ (lane & 7)) * kChunkBytes;
        b_at_ = Tile::kSourceBytes + b_row * kRowBytes + (b_chunk ^ (lane & 7)) * kChunkBytes;
    }
    /// Fragments of 32 bytes of depth, part kPart of the step at `stage`, into buffer kPart % 2.
    template <int kPart>
    __device__ void load(const unsigned char* ring, int stage) {
        // Two chunks further within a swizzled row; after the addition, or the compiler keeps all
        // four sums in registers.
        const unsigned char* a = ring + ((stage + a_at_) ^ (kPart * 2 * kChunkBytes));
        const unsigned char* b = ring + ((stage + b_at_) ^ (kPart * 2 * kChunkBytes));
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
            ptx::ldmatrix_x4(a_[kPart % 2][i], a + i * 16 * kRowBytes);
#pragma unroll
        for (int j = 0; j < kColPairs; ++j)
            ptx::ldmatrix_x4(b_[kPart % 2][j], b + j * 16 * kRowBytes);
    }
    template <int kPart>
    __device__ void multiply_add() {
        auto& a = a_[kPart % 2];
        auto& b = b_[kPart % 2];
        auto& sum = sums_.chain();
        if constexpr (Tile::k3xTf32) {
            multiply_3xtf32(
                sum, [&](int i, int r) { return float_of(a[i][r]); },
                [&](int j, int r) { return float_of(b[j / 2][j % 2 * 2 + r]); });
            if constexpr (kPart == 3) sums_.close();
        } else {
            if constexpr (sizeof(T) == 4) {
                for (auto& fragment : a) round(fragment);
                for (auto& fragment : b) round(fragment);
            }
#pragma unroll
            for (int j = 0; j < kColPairs; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
#pragma unroll
                    for (int i = 0; i < kRowTiles; ++i)
                        multiply(sum[i][2 * j + half], a[i], b[j][2 * half], b[j][2 * half + 1],
                                 T{});
        }
    }
    template <class Sums>
    __device__ void write(Sums& sums) const {
        const int lane = threadIdx.x % 32;
        float* at = &sums.sum[(row0() + lane / 4) * Sums::kPitch + col0() + lane % 4 * 2];
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int j = 0; j < 2 * kColPairs; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    *reinterpret_cast<Pack<float, 2>*>(
                        at + (i * 16 + half * 8) * Sums::kPitch + j * 8) = {
                        {sums_.sum[i][j][2 * half], sums_.sum[i][j][2 * half + 1]}};
    }

private:
    __device__ static int row0() {
        return static_cast<int>(threadIdx.x) / 32 % kWarpsAlongRows * Tile::kWarpRows;
    }
    __device__ static int col0() {
        return static_cast<int>(threadIdx.x) / 32 / kWarpsAlongRows * Tile::kWarpCols;
    }
    __device__ static float float_of(std::uint32_t bits) {
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    __device__ static void round(std::uint32_t (&fragment)[4]) {
#pragma unroll
        for (auto& bits : fragment) bits = round_tf32(float_of(bits));
    }

    int a_at_, b_at_;  // of the lane's first ldmatrix row within a stage
    std::uint32_t a_[2][kRowTiles][4], b_[2][kColPairs][4];
    WarpSums<kRowTiles, 2 * kColPairs, Tile::k3xTf32> sums_;
};

/// A block's row and column tile. Blocks that run together take a few row tiles and all column
/// tiles of them, so that both operands are read again from L2.
template <class Tile>
struct BlockOrigin {
    static constexpr int kRowTilesTogether = 8;
    int row0, col0;
    __device__ explicit BlockOrigin(const CorrelationArguments& p) {
        const int block = static_cast<int>(blockIdx.x);
        const int row_tiles = (p.rows - 1) / Tile::kBlockRows + 1;
        const int col_tiles = (p.cols - 1) / Tile::kBlockCols + 1;
        const int band = block / (kRowTilesTogether * col_tiles);
        const int in_band = block - band * kRowTilesTogether * col_tiles;
        const int first = band * kRowTilesTogether;
        const int together =
            row_tiles - first < kRowTilesTogether ? row_tiles - first : kRowTilesTogether;
        row0 = (first + in_band % together) * Tile::kBlockRows;
        col0 = in_band / together * Tile::kBlockCols;
    }
};

/// Both operands on their way into the ring: three calls a step, then a commit.
template <class T, class Tile, bool kVector>
class Loader {
    using Weight = WeightTile<T, Tile::kBlockCols, Tile::kThreads>;
    static constexpr int kParts = 3;

public:
    using Source = std::conditional_t<kVector, VectorSource<T, Tile::kBlockRows, Tile::kThreads>,
                                      ScalarSource<T, Tile::kBlockRows, Tile::kThreads>>;

    __device__ Loader(const CorrelationArguments& p, int group, const BlockOrigin<Tile>& origin,
                      const DepthRange<T>& range, unsigned char* table)
        : p_(p), source_(p, group, origin.row0, range.begin, table),
          weight_(p, group, origin.col0, range.begin), left_(range.steps) {}

    /// A third of the next step's copies; the last commits, whether or not there was a next step.
    template <int kPart>
    __device__ void copy(unsigned char* stage) {
        if (left_ > 0) {
            if constexpr (kVector) {
                constexpr int kCopies = Source::kCopies;
                source_.template copy<kPart * kCopies / kParts, (kPart + 1) * kCopies / kParts>(
                    p_, stage);
            } else {
                if constexpr (kPart > 0) source_.template place<kPart - 1>(stage);
                if constexpr (kPart < 2) source_.template fetch<kPart>(p_);
            }
            weight_.template copy<kPart * Weight::kCopies / kParts,
                                  (kPart + 1) * Weight::kCopies / kParts>(stage +
                                                                          Tile::kSourceBytes);
        }
        if constexpr (kPart == kParts - 1) {
            ptx::cp_async_commit();
            source_.advance(p_);
            weight_.advance();
            --left_;
        }
    }

private:
    const CorrelationArguments& p_;
    Source source_;
    Weight weight_;
    int left_;
};

template <class T, class Tile, bool kVector>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    correlation(const CorrelationArguments p, const Store store) {
    constexpr int kStages = Tile::kStages, kLastStage = (kStages - 1) * Tile::kStageBytes;
    unsigned char* const ring = ptx::shared_memory();
    const int group = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z);
    const BlockOrigin<Tile> origin(p);
    const DepthRange<T> range(p, split);
    WarpTile<T, Tile> warp;

    if (range.steps > 0) {
        Loader<T, Tile, kVector> loader(p, group, origin, range, ring + Tile::kRingBytes);
        int write = 0;  // stages, in bytes
        for (int stage = 0; stage < kStages - 1; ++stage) {
            loader.template copy<0>(ring + write);
            loader.template copy<1>(ring + write);
            loader.template copy<2>(ring + write);
            write += Tile::kStageBytes;
        }
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();
        int read = 0;
        warp.template load<0>(ring, read);
        for (int step = 0; step < range.steps; ++step) {
            warp.template load<1>(ring, read);
            loader.template copy<0>(ring + write);
            warp.template multiply_add<0>();
            warp.template load<2>(ring, read);
            loader.template copy<1>(ring + write);
            warp.template multiply_add<1>();
            warp.template load<3>(ring, read);
            loader.template copy<2>(ring + write);
            warp.template multiply_add<2>();
            // The stage just read is the next to be written, which this barrier allows; the next to
            // be read has arrived, which it makes known.
            write = write == kLastStage ? 0 : write + Tile::kStageBytes;
            read = read == kLastStage ? 0 : read + Tile::kStageBytes;
            ptx::cp_async_wait<kStages - 2>();
            __syncthreads();
            if (step + 1 < range.steps) warp.template load<0>(ring, read);
            warp.template multiply_add<3>();
        }
    }

    auto& sums = *reinterpret_cast<SumTile<Tile::kBlockRows, Tile::kBlockCols>*>(ring);
    TileStore<T, Tile::kBlockRows, Tile::kBlockCols, Tile::kThreads> out(
        p, sums, group, split, origin.row0, origin.col0);
    warp.write(sums);
    out.prepare();
    __syncthreads();
    out.run(store);
}

}  // namespace fastconv::cuda::sm80
