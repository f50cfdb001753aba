// float32 products of float32 accuracy on tensor cores, by three tf32 products (3xTF32): x = hi + lo
// with hi the nearest tf32 and lo the rest, and
//
//   a * b = a.lo * b.hi + a.hi * b.lo + a.hi * b.hi      in this order: the small ones first
//
// Left out are a.lo * b.lo (2^-22 |a b|) and what of lo is beyond tf32 (2^-23 of each factor): a
// product is within 2^-21 |a b|, of either sign alike, since hi is rounded to nearest. Of operands
// below 2^-102 lo is subnormal, and tf32 ends at 2^-136.
//
// Tensor cores add towards zero. In one chain of sums that error, always against the sum's sign,
// grows to twenty times float32's at some thousands of terms (docs/numerics.md); so chains are short,
// from zero, and their sums are added to the rest by ordinary additions (H. Ootomo, R. Yokota, "Recovering single precision
// accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/ptx.cuh"

namespace fastconv::cuda {

/// The nearest tf32, ties away from zero, for mma.sync, which ignores the 13 low bits: these may be
/// anything. Adding to a NaN's bits would make a number of it. nvcc 13.0 makes the same two
/// instructions of cvt.rna, but masks a part of the results and spills more for it (128x256: 84 bytes
/// of loads, here 8; none on sm_80).
__device__ inline std::uint32_t round_tf32(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (fabsf(x) < INFINITY) bits += 0x1000u;
    return bits;
}

/// A float as two operands of mma.sync: the low bits of lo, too, may be anything.
///
/// An infinity or NaN is in lo alone: hi would make a NaN of the other factor's lo, whose sign is
/// anything and which may be 0. Beside it hi is 1 with the sign of an infinity (its exponent without
/// the highest bit), or some finite number for a NaN. So it is for what would be rounded to infinity,
/// from 2^128 - 2^116: tf32 alone in lo.
__device__ inline void split_tf32(float x, std::uint32_t& hi, std::uint32_t& lo) {
    std::memcpy(&hi, &x, sizeof hi);
    hi += 0x1000u;
    if (!(fabsf(x) < 0x1.ffep127f)) hi -= 0x40000000u;
    hi &= 0xffffe000u;
    float high;
    std::memcpy(&high, &hi, sizeof high);
    const float low = x - high;
    std::memcpy(&lo, &low, sizeof lo);
}

/// sums[i][j] += a(i) x b(j) for 16 x 8 tiles and 8 terms: a(i, r) and b(j, r) are register r of
/// mma.m16n8k8's operands in float32.
template <int kRowTiles, int kColTiles, class A, class B>
__device__ inline void multiply_3xtf32(float (&sums)[kRowTiles][kColTiles][4], A a, B b) {
    std::uint32_t b_hi[kColTiles][2], b_lo[kColTiles][2];
#pragma unroll
    for (int j = 0; j < kColTiles; ++j)
#pragma unroll
        for (int r = 0; r < 2; ++r) split_tf32(b(j, r), b_hi[j][r], b_lo[j][r]);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
        std::uint32_t a_hi[4], a_lo[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) split_tf32(a(i, r), a_hi[r], a_lo[r]);
        // One after another of all tiles, for a product waits for the one before of its tile.
#pragma unroll
        for (int j = 0; j < kColTiles; ++j)
            ptx::mma_16x8x8_tf32(sums[i][j], a_lo, b_hi[j][0], b_hi[j][1]);
#pragma unroll
        for (int j = 0; j < kColTiles; ++j)
            ptx::mma_16x8x8_tf32(sums[i][j], a_hi, b_lo[j][0], b_lo[j][1]);
#pragma unroll
        for (int j = 0; j < kColTiles; ++j)
            ptx::mma_16x8x8_tf32(sums[i][j], a_hi, b_hi[j][0], b_hi[j][1]);
    }
}

/// The sums of a warp: with kChains, chains of products stay apart until close().
template <int kRowTiles, int kColTiles, bool kChains>
struct WarpSums {
    float sum[kRowTiles][kColTiles][4] = {};

    __device__ auto& chain() { return sum; }
    __device__ void close() {}
};
template <int kRowTiles, int kColTiles>
struct WarpSums<kRowTiles, kColTiles, true> {
    float sum[kRowTiles][kColTiles][4] = {}, part[kRowTiles][kColTiles][4] = {};

    __device__ auto& chain() { return part; }
    __device__ void close() {
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int j = 0; j < kColTiles; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    sum[i][j][e] += part[i][j][e];
                    part[i][j][e] = 0.0f;
                }
    }
};

}  // namespace fastconv::cuda
