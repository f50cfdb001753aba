// Register tiles of the implicit GEMM (contract and picture: cpu/kernels_gemm.h):
//   out[i][k] = relu?( sum over segments s, d < depth of rows[s][i][d] * panel[s, d][k]
//                      + bias[k] + residual[i][k] )
//
// AVX-512, 32 registers: 6 x 4 = 24 sums + 4 panel + 1 broadcast = 29, and 9 x 3, 12 x 2, 12 x 1 for
// few columns (12 row pointers are what fits the 16 general registers). AVX2 and baseline, 16
// registers: 6 x 2 = 12 sums + 2 panel + 1 broadcast = 15, and 12 x 1. float64 has the widest tile
// only: it verifies, it does not race. The shapes are those that oneDNN, BLIS and ONNX Runtime chose.
#include "cpu/kernels_gemm.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::GemmFunction;
using fastconv::cpu::GemmKernels;
using fastconv::cpu::GemmTile;

#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// Whole vectors and no residual: nothing is asked a vector. With a depth of 27, 147 -> 176 GFLOP/s.
template <class T, int Rows, int Vectors>
FC_INLINE void finish_whole(const GemmTile<T>& tile, Vec<T> (&acc)[Rows][Vectors]) {
    constexpr int kLanes = Vec<T>::kLanes;
    if (tile.bias)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            const Vec<T> bias = Vec<T>::load(tile.bias + v * kLanes);
#pragma GCC unroll 12
            for (int i = 0; i < Rows; ++i) acc[i][v] = acc[i][v] + bias;
        }
    if (tile.relu)
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) acc[i][v] = max(Vec<T>::zero(), acc[i][v]);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
        T* out = tile.out[i] + tile.out_offset;
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[i][v].store(out + v * kLanes);
    }
}

template <class T, int Rows, int Vectors>
FC_INLINE void finish(const GemmTile<T>& tile, Vec<T> (&acc)[Rows][Vectors]) {
    constexpr int kLanes = Vec<T>::kLanes;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
        const std::int64_t col = static_cast<std::int64_t>(v) * kLanes;
        const int lanes = lanes_left<T>(tile.cols, col);
        if (lanes == 0) break;
        const Vec<T> bias = tile.bias ? Vec<T>::load(tile.bias + col, lanes) : Vec<T>::zero();
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            Vec<T> y = tile.bias ? acc[i][v] + bias : acc[i][v];
            if (tile.residual)
                y = y + Vec<T>::load(tile.residual[i] + tile.out_offset + col, lanes);
            if (tile.relu) y = max(Vec<T>::zero(), y);
            T* out = tile.out[i] + tile.out_offset + col;
            if (lanes == kLanes) y.store(out);
            else y.store(out, lanes);
        }
    }
}

/// Into L1, to be written: what the compiler only does where every processor of the set can.
FC_INLINE void fetch_to_write(const void* line) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
    __builtin_prefetch(line, 1, 3);
#endif
}

// What finish() will touch, while the products are summed: without it the loads of a residual and the
// lines that stores must own wait for L3. One thread of a Xeon: 1x1 64 -> 256 on 56x56, 114 -> 134
// GFLOP/s with and without a residual.
// Lines that follow each other come by themselves, a little sooner (151 -> 156 GFLOP/s); not so on a Zen 4,
// where 3x3 3 -> 64 went from 1.13 to 0.97 ms, 1x1 64 -> 64 by a tenth, with those lines owned ahead.
template <class T, int Rows, int Vectors, class Line>
FC_INLINE void fetch_rows(Line* const* lines, std::int64_t offset, bool own) {
    const bool follow =
        kRegisters >= 32 && lines[Rows - 1] - lines[0] == (Rows - 1) * Vectors * Vec<T>::kLanes;
    if (follow && !own) return;
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            Line* const line = lines[i] + offset + v * Vec<T>::kLanes;
            if (follow) fetch_to_write(line);  // others so: 0.94x on the Zen 4
            else __builtin_prefetch(line, 1, 2);
        }
}

// acc[i] += row[i][d] * line
template <class T, int Rows, int Vectors>
FC_INLINE void multiply_add(const T* panel_line, const T* const (&row)[Rows], std::int64_t d,
                            Vec<T> (&acc)[Rows][Vectors]) {
    Vec<T> line[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) line[v] = Vec<T>::load(panel_line + v * Vec<T>::kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
        const Vec<T> x = Vec<T>::broadcast(row[i][d]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[i][v] = fma(x, line[v], acc[i][v]);
    }
}

template <int Rows, class T>
FC_INLINE bool all_are(const T* const* rows, const T* zeros) {
    bool all = true;
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) all &= rows[i] == zeros;
    return all;
}

enum class Ahead { kNothing, kL2, kL1 };

template <Ahead kWhere, class T>
FC_INLINE void fetch(const T* line, std::int64_t second) {
    if constexpr (kWhere == Ahead::kL1) {
        __builtin_prefetch(line, 0, 3);
        __builtin_prefetch(line + second, 0, 3);
    } else {
        __builtin_prefetch(line, 0, 2);
    }
}

// Two depths at a time: what counts and moves pointers takes turns at the ports of the multiply-adds.
// One thread of a Xeon, operands in L1: 225 -> 237 of 240 GFLOP/s (AVX-512), 119 -> 125 (AVX2); not where
// the sums leave no register for the second's loads. 12 row pointers leave none for `ahead`. AVX2 with a fetch
// for each of the two: 0.94x to 1.02x; where other tiles fetch the channels left out, no gain seen.
template <Ahead kWhere, class T, int Rows, int Vectors>
FC_INLINE void multiply_segments(const GemmTile<T>& tile, Vec<T> (&acc)[Rows][Vectors]) {
    constexpr int kWidth = Vectors * Vec<T>::kLanes;
    constexpr bool kAhead = kWhere != Ahead::kNothing;
    const T* panel = tile.panel;
    const T *ahead = tile.ahead, *ahead_begin = ahead;
    const std::int64_t ahead_step = tile.ahead_step, second = tile.ahead_second;
    const T* const* rows = tile.rows;
    std::int64_t offset = tile.row_offset;
    for (std::int64_t s = 0; s < tile.segments; ++s) {
        const T* row[Rows];
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) row[i] = rows[i] + offset;
        const bool padding = tile.zeros && all_are<Rows>(rows, tile.zeros);
        rows += tile.row_pitch;
        offset += tile.segment_elems;
        if (padding) {
            panel += tile.depth * kWidth;
            continue;
        }
        std::int64_t d = 0, end = tile.depth;
        do {
            if constexpr (kAhead)
                end = tile.depth - d < tile.ahead_run ? tile.depth : d + tile.ahead_run;
            if constexpr (Rows * Vectors <= 24)
                for (; d + 2 <= end; d += 2, panel += 2 * kWidth) {
                    if constexpr (kAhead) fetch<kWhere>(ahead, second);
                    multiply_add<T, Rows, Vectors>(panel, row, d, acc);
                    if constexpr (kAhead && kRegisters >= 32) fetch<kWhere>(ahead + ahead_step, second);
                    multiply_add<T, Rows, Vectors>(panel + kWidth, row, d + 1, acc);
                    if constexpr (kAhead) ahead += 2 * ahead_step;
                }
            for (; d < end; ++d, panel += kWidth) {
                if constexpr (kAhead) {
                    fetch<kWhere>(ahead, second);
                    ahead += ahead_step;
                }
                multiply_add<T, Rows, Vectors>(panel, row, d, acc);
            }
            if constexpr (kAhead) ahead = ahead_begin += tile.ahead_jump;
        } while (kAhead && d < tile.depth);
    }
}

template <class T, int Rows, int Vectors>
void gemm_tile(const GemmTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    constexpr int kWidth = Vectors * kLanes;
    Vec<T> acc[Rows][Vectors];
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[i][v] = Vec<T>::zero();
    if (tile.begun) {
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                acc[i][v] = Vec<T>::load(tile.begun + i * kWidth + v * kLanes);
    }

    if (tile.last) {
        fetch_rows<T, Rows, Vectors>(tile.out, tile.out_offset, tile.own_out);
        if (tile.residual) fetch_rows<T, Rows, Vectors>(tile.residual, tile.out_offset, false);
    }
    if (Rows == 12 || !tile.ahead) multiply_segments<Ahead::kNothing>(tile, acc);
    else if (tile.ahead_near) multiply_segments<Ahead::kL1>(tile, acc);
    else multiply_segments<Ahead::kL2>(tile, acc);
    if (!tile.first) {
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                acc[i][v] = Vec<T>::load(tile.sum + i * kWidth + v * kLanes) + acc[i][v];
    }
    if (tile.last) {
        if (tile.cols >= kWidth && !tile.residual) return finish_whole<T, Rows, Vectors>(tile, acc);
        return finish<T, Rows, Vectors>(tile, acc);
    }
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[i][v].store(tile.sum + i * kWidth + v * kLanes);
}

template <class T, int Vectors, int Rows>
constexpr void add_tiles(GemmKernels<T>& kernels) {
    if constexpr (Rows > 0) {
        add_tiles<T, Vectors, Rows - 1>(kernels);
        kernels.tile[Vectors][Rows] = gemm_tile<T, Rows, Vectors>;
        kernels.max_rows[Vectors] = Rows;
    }
}

template <class T>
constexpr GemmKernels<T> table() {
    GemmKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
#if defined(__AVX512F__)
    add_tiles<T, 4, 6>(kernels);
    if constexpr (sizeof(T) == 4) {
        add_tiles<T, 3, 9>(kernels);
        add_tiles<T, 2, 12>(kernels);
        add_tiles<T, 1, 12>(kernels);
    }
#else
    add_tiles<T, 2, 6>(kernels);
    if constexpr (sizeof(T) == 4) add_tiles<T, 1, 12>(kernels);
#endif
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const GemmKernels<float> gemm_f32 = table<float>();
extern const GemmKernels<double> gemm_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
