// A warp's part of conv2d_grad_weight_sm80.cu: fragments from the (rows, channels) tiles in shared
// memory, the products, and the sums' way out.
//
//   sums[col, d] += sum over the tile's rows of out[row, col] * source[row, d]
//
// For mma.sync, a is (cols, rows) and b is (rows, depth). Rows are the summed dimension but not the
// fastest in memory, so both operands' 16-bit fragments come transposed, by ldmatrix.trans. There
// is no such thing for 4-byte elements: TF32 fragments are read by plain 16-byte loads of four
// columns each, and which column stands for which row of a (or column of b) is chosen so that this
// works: row g + 8 h of a's tile u is column 4 g + 2 u + h of 32, column g of b's tile v is 4 g + v
// of 32.
#pragma once

#include <cstdint>

#include "cuda/grad_weight_load.cuh"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"
#include "cuda/tf32.cuh"

namespace fastconv::cuda::grad_weight {

/// What one mma step needs. load() takes tiles at the step's first row.
template <class Shape, class T>
struct Fragments {  // 16-bit
    static constexpr int kStepRows = 16;
    std::uint32_t a[Shape::kWarpCols / 16][4];  // (cols, 16 rows)
    std::uint32_t b[Shape::kWarpDepth / 8][2];  // (16 rows, depth)

    /// This lane's first chunk: matrices (cols 0, rows 0), (cols 8, rows 0), (cols 0, rows 8), ...
    __device__ static int out_bytes(int lane, int col) {
        return tile_bytes<T, Shape::kCols>(lane / 16 * 8 + lane % 8, col / 8 + lane / 8 % 2);
    }
    /// Matrices (rows 0, depth 0), (rows 8, depth 0), (rows 0, depth 8), (rows 8, depth 8).
    __device__ static int source_bytes(int lane, int depth) {
        return tile_bytes<T, Shape::kDepth>(lane / 8 % 2 * 8 + lane % 8, depth / 8 + lane / 16);
    }

    /// The next 16 columns are two chunks further: with a swizzled chunk, its bit 1 flipped, and so
    /// on.
    __device__ void load(const unsigned char* out_tile, int out_bytes,
                         const unsigned char* source_tile, int source_bytes) {
#pragma unroll
        for (int m = 0; m < Shape::kWarpCols / 16; ++m)
            ptx::ldmatrix_x4_trans(a[m], out_tile + (out_bytes ^ (m * 32)));
#pragma unroll
        for (int n = 0; n < Shape::kWarpDepth / 16; ++n) {
            std::uint32_t r[4];
            ptx::ldmatrix_x4_trans(r, source_tile + (source_bytes ^ (n * 32)));
            b[2 * n][0] = r[0];
            b[2 * n][1] = r[1];
            b[2 * n + 1][0] = r[2];
            b[2 * n + 1][1] = r[3];
        }
    }

    __device__ void multiply(float (&sums)[Shape::kWarpCols / 16][Shape::kWarpDepth / 8][4]) {
#pragma unroll
        for (int m = 0; m < Shape::kWarpCols / 16; ++m)
#pragma unroll
            for (int n = 0; n < Shape::kWarpDepth / 8; ++n)
                if constexpr (std::is_same_v<T, Half>)
                    ptx::mma_16x8x16_f16(sums[m][n], a[m], b[n][0], b[n][1]);
                else
                    ptx::mma_16x8x16_bf16(sums[m][n], a[m], b[n][0], b[n][1]);
    }

    /// f(col, depth, run) for this lane's sums, in runs along depth.
    template <class F>
    __device__ static void each(
        const float (&sums)[Shape::kWarpCols / 16][Shape::kWarpDepth / 8][4], int lane, F f) {
#pragma unroll
        for (int m = 0; m < Shape::kWarpCols / 16; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int n = 0; n < Shape::kWarpDepth / 8; ++n)
                    f(m * 16 + h * 8 + lane / 4, n * 8 + lane % 4 * 2,
                      Pack<float, 2>{{sums[m][n][2 * h], sums[m][n][2 * h + 1]}});
    }
};

template <class Shape>
struct Fragments<Shape, float> {  // TF32, once or three times
    static constexpr int kStepRows = 8;
    Pack<float, 4> a[Shape::kWarpCols / 32][2];   // (32 cols, 8 rows): rows t and t + 4
    Pack<float, 4> b[Shape::kWarpDepth / 32][2];  // (8 rows, 32 depth)

    __device__ static int out_bytes(int lane, int col) {
        return tile_bytes<float, Shape::kCols>(lane % 4, col / 4 + lane / 4);
    }
    __device__ static int source_bytes(int lane, int depth) {
        return tile_bytes<float, Shape::kDepth>(lane % 4, depth / 4 + lane / 4);
    }

    __device__ void load(const unsigned char* out_tile, int out_bytes,
                         const unsigned char* source_tile, int source_bytes) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int m = 0; m < Shape::kWarpCols / 32; ++m)
                a[m][h] = *reinterpret_cast<const Pack<float, 4>*>(
                    out_tile + out_bytes + h * 4 * Shape::kOutPitch + m * 128);
#pragma unroll
            for (int n = 0; n < Shape::kWarpDepth / 32; ++n)
                b[n][h] = *reinterpret_cast<const Pack<float, 4>*>(
                    source_tile + source_bytes + h * 4 * Shape::kSourcePitch + n * 128);
        }
    }

    /// Rounds here rather than in load(), which would then wait for the shared memory.
    __device__ void multiply(float (&sums)[Shape::kWarpCols / 16][Shape::kWarpDepth / 8][4]) const {
        const auto left_of = [this](int m, int r) {
            return a[m / 2][r / 2].value[m % 2 * 2 + r % 2];
        };
        const auto right_of = [this](int n, int h) { return b[n / 4][h].value[n % 4]; };
        if constexpr (Shape::k3xTf32) multiply_3xtf32(sums, left_of, right_of);
        else multiply_tf32(sums, left_of, right_of);
    }

    template <class Left, class Right>
    __device__ static void multiply_tf32(
        float (&sums)[Shape::kWarpCols / 16][Shape::kWarpDepth / 8][4], const Left& left_of,
        const Right& right_of) {
        std::uint32_t right[Shape::kWarpDepth / 8][2];
#pragma unroll
        for (int n = 0; n < Shape::kWarpDepth / 8; ++n)
#pragma unroll
            for (int h = 0; h < 2; ++h) right[n][h] = round_tf32(right_of(n, h));
#pragma unroll
        for (int m = 0; m < Shape::kWarpCols / 16; ++m) {
            std::uint32_t left[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) left[r] = round_tf32(left_of(m, r));
#pragma unroll
            for (int n = 0; n < Shape::kWarpDepth / 8; ++n)
                ptx::mma_16x8x8_tf32(sums[m][n], left, right[n][0], right[n][1]);
        }
    }

    template <class F>
    __device__ static void each(
        const float (&sums)[Shape::kWarpCols / 16][Shape::kWarpDepth / 8][4], int lane, F f) {
#pragma unroll
        for (int m = 0; m < Shape::kWarpCols / 16; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int n = 0; n < Shape::kWarpDepth / 32; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        Pack<float, 4> run;
#pragma unroll
                        for (int v = 0; v < 4; ++v) run.value[v] = sums[m][n * 4 + v][2 * h + e];
                        f(m / 2 * 32 + lane / 4 * 4 + m % 2 * 2 + h,
                          n * 32 + lane % 4 * 8 + e * 4, run);
                    }
    }
};

}  // namespace fastconv::cuda::grad_weight
