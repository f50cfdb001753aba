// The product of float32 tiles on ordinary multiply-adds (FFMA), which the simt kernels share:
//
//   sum[m, n] += sum over k < kDepth of tile_m[k, m] * tile_n[k, n]
//
// Tiles lie in shared memory as (kDepth, kM) and (kDepth, kN), m and n fastest, two of each: one is
// multiplied while the next is fetched through registers (no cp.async, so that sm_75 has it too).
// A warp has 8 x 4 lanes, a lane kQuadsM x kQuadsN quads of 4 x 4 sums:
//
//       n:  4 a lane, the next quad 16 further
//       +----+----+----+----+----
//   m:  |  0 |  1 |  4 |  5 | next quad
//   4 a +----+----+----+----+           Lane bit 0 moves along n, bit 1 along m: of four lanes in a
//  lane,|  2 |  3 |  6 |  7 |           row two and two share an address, so 16 bytes a lane take 2
//  next +----+----+----+----+          passes of the shared memory's 128 bytes, the least there is.
//  quad |  8 |  9 | 12 | 13 |           2 x 2 quads: 4 such loads a depth feed 64 FFMA, and 4 warps
//   32  +----+----+----+----+           need 32 of the 64 cycles that their FFMA take.
// further   ...   down to 31
//
// The pitch is 4 more than a multiple of 32, so that the transposing stores of 16 rows x 2 chunks
// (or 4 rows x 8 depths) of a warp fall into 32 different banks, and rows stay 16-byte aligned.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/scalar.cuh"

namespace fastconv::cuda::simt {

template <int kWarpsM_, int kWarpsN_, int kQuadsM_, int kQuadsN_, int kBlocks_,
          int kDepth_ = 8>
struct Tile {
    static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
    static constexpr int kQuadsM = kQuadsM_, kQuadsN = kQuadsN_;
    static constexpr int kBlocks = kBlocks_;  // on a multiprocessor
    static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
    static constexpr int kM = kWarpsM * kQuadsM * 32;
    static constexpr int kN = kWarpsN * kQuadsN * 16;
    static constexpr int kDepth = kDepth_;  // of a step between barriers
    static constexpr int kPitchM = kM + 4, kPitchN = kN + 4;
    static constexpr int kStageM = kDepth * kPitchM;  // floats
    static constexpr int kStage = kStageM + kDepth * kPitchN;
};

/// Where an element is: its distance from the operand's first, and its pixel. Pixels of rows or
/// depths beyond the end are so far to the negative that their sum with any is outside the image.
struct alignas(16) Place {
    std::int64_t elems;
    int y, x;
};
constexpr int kOutside = -(1 << 30);

/// 16 bytes of T on their way from global to shared memory, as words: 16-bit elements that are
/// taken apart at once would cost twice the registers.
template <class T>
struct Chunk {
    static constexpr int kElems = kPackElems<T>;
    uint4 words;

    __device__ void clear() { words = make_uint4(0, 0, 0, 0); }
    __device__ void load(const T* from) { words = *reinterpret_cast<const uint4*>(from); }
    __device__ Pack<T, kElems> elements() const {
        Pack<T, kElems> pack;
        memcpy(&pack, &words, sizeof(pack));
        return pack;
    }
    /// To consecutive floats, 16-byte aligned.
    __device__ void store(float* to) const {
        const Pack<T, kElems> pack = elements();
#pragma unroll
        for (int e = 0; e < kElems; e += 4)
            *reinterpret_cast<float4*>(to + e) =
                make_float4(to_float(pack.value[e]), to_float(pack.value[e + 1]),
                            to_float(pack.value[e + 2]), to_float(pack.value[e + 3]));
    }
};

template <class Tile>
struct Sums {
    static constexpr int kRowsM = 4 * Tile::kQuadsM, kRowsN = 4 * Tile::kQuadsN;
    float sum[kRowsM][kRowsN] = {};

    __device__ explicit Sums(const float* stage)
        : at_m_(stage + m()), at_n_(stage + Tile::kStageM + n()) {}

    /// Of this thread's first quad, within the tile.
    __device__ static int m() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp / Tile::kWarpsN * Tile::kQuadsM * 32 + (lane >> 1 & 1) * 4 + (lane >> 3) * 8;
    }
    __device__ static int n() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp % Tile::kWarpsN * Tile::kQuadsN * 16 + (lane & 1) * 4 + (lane >> 2 & 1) * 8;
    }

    /// Loads what step() begins with. Depth k goes to the registers of k % 2.
    __device__ void load(int k = 0) {
#pragma unroll
        for (int q = 0; q < Tile::kQuadsM; ++q)
            load_quad(&m_[k % 2][4 * q], at_m_ + k * Tile::kPitchM + 32 * q);
#pragma unroll
        for (int q = 0; q < Tile::kQuadsN; ++q)
            load_quad(&n_[k % 2][4 * q], at_n_ + k * Tile::kPitchN + 16 * q);
    }

    /// One step. Before its last depth, when the stage has been read, `between()` runs, and then
    /// the first depth of the other stage is loaded, `flip` floats from this one.
    template <class Between>
    __device__ void step(int flip, Between&& between) {
#pragma unroll
        for (int k = 0; k < Tile::kDepth; ++k) {
            if (k == Tile::kDepth - 1) {
                between();
                at_m_ += flip;
                at_n_ += flip;
            }
            load((k + 1) % Tile::kDepth);
#pragma unroll
            for (int i = 0; i < kRowsM; ++i)
#pragma unroll
                for (int j = 0; j < kRowsN; ++j)
                    sum[i][j] = fmaf(m_[k % 2][i], n_[k % 2][j], sum[i][j]);
        }
    }

    /// Rows 32 slab .. 32 slab + 31 of the tile, as (32, kPitchN).
    __device__ void store(float* to, int slab) const {
        if (static_cast<int>(threadIdx.x) / 32 / Tile::kWarpsN != slab / Tile::kQuadsM) return;
        store_quads<0>(to + m() % 32 * Tile::kPitchN + n(), slab % Tile::kQuadsM);
    }

private:
    /// A template, not a loop: sums stay in registers only where their indices are constants.
    template <int kQuad>
    __device__ void store_quads(float* to, int wanted) const {
        if (wanted == kQuad) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int q = 0; q < Tile::kQuadsN; ++q) {
                    const float* from = &sum[4 * kQuad + i][4 * q];
                    *reinterpret_cast<float4*>(to + i * Tile::kPitchN + 16 * q) =
                        make_float4(from[0], from[1], from[2], from[3]);
                }
        }
        if constexpr (kQuad + 1 < Tile::kQuadsM) store_quads<kQuad + 1>(to, wanted);
    }

    const float *at_m_, *at_n_;
    float m_[2][kRowsM], n_[2][kRowsN];

    __device__ static void load_quad(float* to, const float* from) {
        const float4 quad = *reinterpret_cast<const float4*>(from);
        to[0] = quad.x, to[1] = quad.y, to[2] = quad.z, to[3] = quad.w;
    }
};

}  // namespace fastconv::cuda::simt
