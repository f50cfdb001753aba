// Tiles of dot products (contract and picture: cpu/kernels_dot.h):
//   sums[i][k][lane] (+)= sum over d % lanes == lane of x[i][d] * w[k][d]
//
// AVX-512, 32 registers: 4 x 6 = 24 sums + 4 of x + 1 of w = 29: 10 loads for 24 multiply-adds.
// AVX2 and baseline, 16 registers: 3 x 4 = 12 sums + 3 + 1 = 16: 7 loads for 12.
#include "cpu/kernels_dot.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::DotKernels;
using fastconv::cpu::DotTile;
using fastconv::cpu::MatrixView;

#if defined(__AVX512F__)
constexpr int kRows = 4, kCols = 6;
#else
constexpr int kRows = 3, kCols = 4;
#endif

// `count` lanes; the others are zero on both sides and add nothing.
template <class T, bool Whole>
FC_INLINE Vec<T> load(const T* p, int count) {
    if constexpr (Whole) return Vec<T>::load(p);
    else return Vec<T>::load(p, count);
}

template <bool Whole, class T, int Rows, int Cols>
FC_INLINE void add_products(const DotTile<T>& tile, std::int64_t d, int count,
                            Vec<T> (&acc)[Rows][Cols]) {
    Vec<T> x[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) x[i] = load<T, Whole>(tile.x + i * tile.x_pitch + d, count);
#pragma GCC unroll 6
    for (int k = 0; k < Cols; ++k) {
        const Vec<T> w = load<T, Whole>(tile.w + k * tile.w_pitch + d, count);
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i) acc[i][k] = fma(x[i], w, acc[i][k]);
    }
}

template <class T, int Rows, int Cols>
void dot_tile(const DotTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[Rows][Cols];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 6
        for (int k = 0; k < Cols; ++k) acc[i][k] = Vec<T>::zero();
    std::int64_t d = 0;
    for (; d + kLanes <= tile.depth; d += kLanes)
        add_products<true>(tile, d, kLanes, acc);
    if (const int left = lanes_left<T>(tile.depth, d))
        add_products<false>(tile, d, left, acc);
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 6
        for (int k = 0; k < Cols; ++k) {
            T* sums = tile.sums + (i * tile.sums_pitch + k) * kLanes;
            (tile.first ? acc[i][k] : Vec<T>::load(sums) + acc[i][k]).store(sums);
        }
}

// Halves are added until one lane is left: the same tree on every ISA of as many lanes.
#if defined(__AVX2__)
FC_INLINE float sum_lanes(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}
FC_INLINE double sum_lanes(__m128d v) {
    return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)));
}
FC_INLINE float sum_lanes(__m256 v) {
    return sum_lanes(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}
FC_INLINE double sum_lanes(__m256d v) {
    return sum_lanes(_mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1)));
}
#endif
#if defined(__AVX512F__)
FC_INLINE float sum_lanes(__m512 v) {
    return sum_lanes(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
FC_INLINE double sum_lanes(__m512d v) {
    return sum_lanes(_mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)));
}
#endif
#if !defined(__AVX2__)
template <class Lanes>
FC_INLINE auto sum_lanes(Lanes v) {
    if constexpr (sizeof(v) / sizeof(v[0]) == 4) return (v[0] + v[2]) + (v[1] + v[3]);
    else return v[0] + v[1];
}
#endif

template <class T>
void finish(std::int64_t rows, std::int64_t cols, const T* sums, std::int64_t sums_pitch,
            const T* bias, bool relu, MatrixView<T> out) {
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t k = 0; k < cols; ++k) {
            T y = sum_lanes(Vec<T>::load(sums + (i * sums_pitch + k) * kLanes).v);
            if (bias) y += bias[k];
            if (relu && y < T(0)) y = T(0);  // NaN stays
            out.data[i * out.row_elems + k * out.col_elems] = y;
        }
}

template <class T, int Rows, int Cols>
constexpr void add_tiles(DotKernels<T>& kernels) {
    kernels.tile[Rows][Cols] = dot_tile<T, Rows, Cols>;
    if constexpr (Cols > 1) add_tiles<T, Rows, Cols - 1>(kernels);
    else if constexpr (Rows > 1) add_tiles<T, Rows - 1, kCols>(kernels);
}

template <class T>
constexpr DotKernels<T> table() {
    DotKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
    kernels.max_rows = kRows;
    kernels.max_cols = kCols;
    kernels.finish = finish<T>;
    add_tiles<T, kRows, kCols>(kernels);
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const DotKernels<float> dot_f32 = table<float>();
extern const DotKernels<double> dot_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
