// The frame of the kernels that copy by TMA and multiply by wgmma (compute capability 9.0): a block is
// two warpgroups that multiply, or three, and one of which four threads have copies made for them. The
// last gives them its registers: of 168 each, two that hold 128 sums a thread have 224 then.
//
// A step is 64 terms of the sum: (rows + cols) lines of 128 bytes, swizzled by 128 bytes, in one of
// the ring's stages:
//
//   K-major operand    a line is 64 terms of one row: row after row
//   MN-major operand   a line is 64 rows of one term: panels of 64 rows, in each term after term
//
//   producer   waits until a stage is empty, says how many bytes come, starts the copies
//   products   wait until it is full; while they run, the step before is awaited and its stage
//              given back
//
// So what a multiprocessor has on its way from memory is all of the ring but two stages: 80 to 144 KB,
// by tile. A block that has several tiles goes on copying while the last one's sums are stored.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/ptx_sm90.cuh"
#include "cuda/ptx_tma.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda::tma {

constexpr int kLineBytes = 128, kStepTerms = 64;  // of 16 bits
constexpr int kPanelBytes = 64 * kLineBytes;
constexpr int kProducerRegisters = 56, kRegisters = 224;
constexpr int kProducers = 4;  // threads that copy (Turn)

/// A warpgroup's products are kMBlocks of 64 x kN; the two stand beside each other along columns
/// (kAlongCols) or rows.
template <int kMBlocks_, int kN_, bool kAlongCols_, int kStages_>
struct Tile {
    static constexpr int kMBlocks = kMBlocks_, kN = kN_;
    static constexpr bool kAlongCols = kAlongCols_;
    static constexpr int kWarps = 8;                   // that multiply
    static constexpr int kThreads = kWarps * 32 + 128;  // and the producer's
    static constexpr int kStages = kStages_;
    static constexpr int kPatches = 0;  // of a block: it has none (correlation_patch.cuh)
    static constexpr int kBlockRows = 64 * kMBlocks * (kAlongCols ? 1 : 2);
    static constexpr int kBlockCols = kN * (kAlongCols ? 2 : 1);
    static constexpr int kRowBytes = kBlockRows * kLineBytes;  // of a stage
    static constexpr int kStageBytes = (kBlockRows + kBlockCols) * kLineBytes;
    static constexpr int kRingBytes = kStages * kStageBytes;
    static constexpr int kStagingBytes = kWarps * 4096;  // sums on their way out (tma_store.cuh)
    static constexpr int kBarrierBytes = (2 * kStages + 1) * 8;
    static constexpr int kSharedBytes = kRingBytes + kStagingBytes + kBarrierBytes;
    static constexpr int kSumPitch = kBlockCols + 8;  // floats, where blocks add up their sums
    static_assert(kBlockRows * kSumPitch * 4 <= kRingBytes, "all sums fit where the ring was");
    static_assert(kSharedBytes <= 227 * 1024);
    static_assert(kBlockCols % 64 == 0 && kStages >= kProducers);
};

/// The ring's memory and its barriers: two a stage.
template <class Tile>
struct Ring {
    unsigned char* stages = ptx::shared_memory();
    ptx::Barrier* full = reinterpret_cast<ptx::Barrier*>(stages + Tile::kRingBytes +
                                                         Tile::kStagingBytes);
    ptx::Barrier* empty = full + Tile::kStages;
    ptx::Barrier* multiplied = empty + Tile::kStages;  // by all warps: the tile is

    /// By all threads; ends with a barrier.
    __device__ void start() {
        if (threadIdx.x == 0) {
            for (int i = 0; i < Tile::kStages; ++i) {
                ptx::barrier_init(full + i, 1);
                ptx::barrier_init(empty + i, Tile::kWarps);
            }
            ptx::barrier_init(multiplied, Tile::kWarps);
            ptx::fence_barrier_init();
        }
        __syncthreads();
    }
    __device__ unsigned char* staging(int warp) const {
        return stages + Tile::kRingBytes + warp * 4096;
    }
};

/// Where in a ring one of its two sides is.
struct RingPlace {
    int stage = 0, parity = 0;
    __device__ void advance(int stages) {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/// Four threads copy, each every fourth step: what one does for a step, a chain of some hundred cycles,
/// would be longer than the step's products. A ring has as many stages at least: then whoever waits for
/// a stage knows that the phase before the one waited for is over, and parity tells the two apart.
struct Turn {
    int mine, next = 0;  // of the four; who has the next step
    __device__ explicit Turn(int warp) : mine(warp) {}
    __device__ bool take() {
        const bool taken = next == mine;
        next = (next + 1) % kProducers;
        return taken;
    }
};

/// A warp's products from that stage are done.
__device__ inline void give_back(ptx::Barrier* empty, const RingPlace& place) {
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(empty + place.stage);
}

/// The steps that one of the `ranks` blocks of a cluster has of a tile.
struct Share {
    int begin, end;
    __device__ Share(int steps, int rank, int ranks)
        : begin(static_cast<int>(std::int64_t{steps} * rank / ranks)),
          end(static_cast<int>(std::int64_t{steps} * (rank + 1) / ranks)) {}
};

/// 64 rows by 2 kSums columns by 16 terms.
template <class T, bool kTransposeA, bool kTransposeB, int kSums>
__device__ inline void multiply(float (&sums)[kSums], std::uint64_t a, std::uint64_t b, bool add) {
    constexpr bool kHalf = std::is_same_v<T, Half>;
    if constexpr (kSums == 32) {
        if constexpr (kHalf) ptx::wgmma_64x64x16_f16<kTransposeA, kTransposeB>(sums, a, b, add);
        else ptx::wgmma_64x64x16_bf16<kTransposeA, kTransposeB>(sums, a, b, add);
    } else if constexpr (kSums == 64) {
        if constexpr (kHalf) ptx::wgmma_64x128x16_f16<kTransposeA, kTransposeB>(sums, a, b, add);
        else ptx::wgmma_64x128x16_bf16<kTransposeA, kTransposeB>(sums, a, b, add);
    } else if constexpr (kSums == 96) {
        if constexpr (kHalf) ptx::wgmma_64x192x16_f16<kTransposeA, kTransposeB>(sums, a, b, add);
        else ptx::wgmma_64x192x16_bf16<kTransposeA, kTransposeB>(sums, a, b, add);
    } else {
        static_assert(kSums == 128);
        if constexpr (kHalf) ptx::wgmma_64x256x16_f16<kTransposeA, kTransposeB>(sums, a, b, add);
        else ptx::wgmma_64x256x16_bf16<kTransposeA, kTransposeB>(sums, a, b, add);
    }
}

/// A warpgroup's sums: rows from row(), columns from col() of the block's tile. Operands are MN-major
/// where transposed.
template <class T, class Tile, bool kTransposeA, bool kTransposeB>
class WarpgroupSums {
public:
    static constexpr int kMBlocks = Tile::kMBlocks, kN = Tile::kN;

    __device__ WarpgroupSums()
        // The same in all lanes, which the compiler does not know of threadIdx.
        : index_(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0)) {}

    __device__ int row() const { return Tile::kAlongCols ? 0 : index_ * 64 * kMBlocks; }
    __device__ int col() const { return Tile::kAlongCols ? index_ * kN : 0; }

    /// A tile's steps in the ring; `place` goes on to the next tile's first. The sums begin anew.
    __device__ void add_steps(const Ring<Tile>& ring, RingPlace& place, int steps) {
        if (steps == 0) clear();
        RingPlace before = place;
        for (int step = 0; step < steps; ++step) {
            ptx::barrier_wait(ring.full + place.stage, place.parity);
            const unsigned char* stage = ring.stages + place.stage * Tile::kStageBytes;
            multiply_step(
                [&](int m, int part) { return operand<kTransposeA>(stage, row() + m * 64, part); },
                [&](int part) { return operand_cols(stage + Tile::kRowBytes, part); }, step > 0);
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
    /// Starts a step's products as one group, by descriptors of 16 terms each: rows(m, part) of 64
    /// rows, cols(part) of this warpgroup's columns. Without `add` the sums begin anew.
    template <class Rows, class Cols>
    __device__ void multiply_step(const Rows& rows, const Cols& cols, bool add) {
        ptx::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const std::uint64_t b = cols(part);
#pragma unroll
            for (int m = 0; m < kMBlocks; ++m)
                multiply<T, kTransposeA, kTransposeB>(sum_[m], rows(m, part), b, add || part > 0);
        }
        ptx::wgmma_commit();
    }
    /// This warpgroup's of the columns' lines.
    __device__ std::uint64_t operand_cols(const unsigned char* lines, int part) const {
        return operand<kTransposeB>(lines, col(), part);
    }
    __device__ void clear() {
#pragma unroll
        for (int m = 0; m < kMBlocks; ++m)
#pragma unroll
            for (int i = 0; i < kN / 2; ++i) sum_[m][i] = 0.0f;
    }
    /// Of 64 rows, as wgmma leaves them (ptx_sm90.cuh).
    __device__ const float (&block(int m) const)[kN / 2] { return sum_[m]; }

private:
    /// The descriptor of 16 terms, the `part`th of the step, from `row` on.
    template <bool kTranspose>
    __device__ static std::uint64_t operand(const unsigned char* lines, int row, int part) {
        constexpr int kEightLines = 8 * kLineBytes;
        return kTranspose ? ptx::matrix_descriptor(
                                lines + row / 64 * kPanelBytes + part * 16 * kLineBytes,
                                kPanelBytes, kEightLines)
                          : ptx::matrix_descriptor(lines + row * kLineBytes + part * 32, 0,
                                                   kEightLines);
    }
    int index_;
    float sum_[kMBlocks][kN / 2];
};

}  // namespace fastconv::cuda::tma
