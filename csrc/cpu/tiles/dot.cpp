// Tiles of dot products (contract and picture: cpu/kernels_dot.h):
//   sums[i][k][lane] (+)= sum over d % lanes == lane of x[i][d] * w[k][d]
//
// AVX-512, 32 registers: 4 x 6 = 24 sums + 4 of x + 1 of w = 29: 10 loads for 24 multiply-adds.
// AVX2 and baseline, 16 registers: 3 x 4 = 12 sums + 3 + 1 = 16: 7 loads for 12.
// row_sum is limited by reading w: 8 rows of it stream by, in place.
#include "cpu/kernels_dot.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::DotKernels;
using fastconv::cpu::DotTile;
using fastconv::cpu::RowSum;

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

// The lanes' sum by halves: l and l + 8, then l and l + 4, ... On AVX2 and up four vectors of float
// at a time: 9 shuffles for 4 sums instead of 16, and the shuffle port is what limits short depths.
template <class T>
FC_INLINE T sum_lanes(Vec<T> a) {
    constexpr int kLanes = Vec<T>::kLanes;
    T lanes[kLanes];
    a.store(lanes);
#pragma GCC unroll 4
    for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    return lanes[0];
}

#if defined(__AVX2__)
// (a0 + a4, a1 + a5, .. | c ..) and so on: t = (a, c | b, d), two lanes of each left.
FC_INLINE __m128 sum_halves(__m256 ab, __m256 cd) {
    const __m256 t = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    const __m256 u = _mm256_add_ps(t, _mm256_shuffle_ps(t, t, 0xB1));
    const __m128 ac = _mm256_castps256_ps128(u), bd = _mm256_extractf128_ps(u, 1);
    return _mm_unpacklo_ps(_mm_shuffle_ps(ac, ac, 0x88), _mm_shuffle_ps(bd, bd, 0x88));
}
#endif

#if defined(__AVX512F__)
FC_INLINE __m128 sum_four(Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44),
                                    _mm512_shuffle_f32x4(a.v, b.v, 0xEE));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44),
                                    _mm512_shuffle_f32x4(c.v, d.v, 0xEE));
    // 128-bit parts: (a, b, c, d), four lanes of each left
    const __m512 t = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88),
                                   _mm512_shuffle_f32x4(ab, cd, 0xDD));
    const __m512 u = _mm512_add_ps(t, _mm512_permute_ps(t, 0x4E));
    const __m512 v = _mm512_add_ps(u, _mm512_permute_ps(u, 0xB1));
    const __m512i every_fourth = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(every_fourth, v));
}
#elif defined(__AVX2__)
FC_INLINE __m128 sum_four(Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d) {
    const __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a.v, b.v, 0x20),
                                    _mm256_permute2f128_ps(a.v, b.v, 0x31));
    const __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c.v, d.v, 0x20),
                                    _mm256_permute2f128_ps(c.v, d.v, 0x31));
    return sum_halves(ab, cd);
}
#endif

template <class T, int Cols>
FC_INLINE void sum_row(const Vec<T> (&acc)[Cols], T* sums) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
#pragma GCC unroll 2
        for (int k = 0; k < Cols; k += 4) {
            const auto at = [&acc](int i) __attribute__((always_inline)) {
                return i < Cols ? acc[i] : Vec<T>::zero();
            };
            _mm_storeu_ps(sums + k, sum_four(at(k), at(k + 1), at(k + 2), at(k + 3)));
        }
        return;
    }
#endif
#pragma GCC unroll 6
    for (int k = 0; k < Cols; ++k) sums[k] = sum_lanes(acc[k]);
}

template <class T, int Rows, int Cols>
FC_INLINE void finish(const DotTile<T>& tile, const Vec<T> (&acc)[Rows][Cols]) {
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) {
        T sums[(Cols + 3) / 4 * 4];
        sum_row<T, Cols>(acc[i], sums);
        T* out = tile.out.data + i * tile.out.row_elems;
        for (int k = 0; k < Cols; ++k) {
            T y = sums[k];
            if (tile.bias) y += tile.bias[k];
            if (tile.relu && y < T(0)) y = T(0);  // NaN stays
            out[k * tile.out.col_elems] = y;
        }
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
    const T* const ahead[] = {tile.ahead[0] ? tile.ahead[0] : tile.w,
                              tile.ahead[1] ? tile.ahead[1] : tile.w};
    std::int64_t d = 0;
    for (; d + kLanes <= tile.depth; d += kLanes) {
        if constexpr (Rows > 1) {
            __builtin_prefetch(ahead[0] + d, 0, 2);
            __builtin_prefetch(ahead[1] + d, 0, 2);
        }
        add_products<true>(tile, d, kLanes, acc);
    }
    if (const int left = lanes_left<T>(tile.depth, d)) add_products<false>(tile, d, left, acc);
    if (!tile.first) {
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 6
            for (int k = 0; k < Cols; ++k)
                acc[i][k] = Vec<T>::load(tile.sums + (i * tile.sums_pitch + k) * kLanes) + acc[i][k];
    }
    if (tile.last) return finish<T, Rows, Cols>(tile, acc);
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 6
        for (int k = 0; k < Cols; ++k)
            acc[i][k].store(tile.sums + (i * tile.sums_pitch + k) * kLanes);
}

template <bool Whole, class T, int Rows, int Vectors>
FC_INLINE void sum_rows_at(const RowSum<T>& sum, std::int64_t c, int count) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[Rows][Vectors];
#pragma GCC unroll 4
    for (int n = 0; n < Rows; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
            acc[n][v] = sum.first ? Vec<T>::zero()
                                  : load<T, Whole>(sum.sums + n * sum.sums_pitch + c + v * kLanes, count);
    const T* w = sum.w + c;
    for (std::int64_t d = 0; d < sum.depth; ++d, w += sum.w_pitch) {
        Vec<T> line[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) line[v] = load<T, Whole>(w + v * kLanes, count);
#pragma GCC unroll 4
        for (int n = 0; n < Rows; ++n) {
            const Vec<T> y = Vec<T>::broadcast(sum.y[n * sum.y_row_elems + d * sum.y_depth_elems]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) acc[n][v] = fma(y, line[v], acc[n][v]);
        }
    }
#pragma GCC unroll 4
    for (int n = 0; n < Rows; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            T* to = sum.sums + n * sum.sums_pitch + c + v * kLanes;
            if constexpr (Whole) acc[n][v].store(to);
            else acc[n][v].store(to, count);
        }
}

// AVX-512: 4 x 4 sums + 4 of w + 1; AVX2 and baseline: 4 x 2 + 2 + 1.
template <class T, int Rows>
void row_sum(const RowSum<T>& sum) {
    constexpr int kLanes = Vec<T>::kLanes;
    constexpr int kVectors = kCols > 4 ? 4 : 2;
    std::int64_t c = 0;
    for (; c + kVectors * kLanes <= sum.cols; c += kVectors * kLanes)
        sum_rows_at<true, T, Rows, kVectors>(sum, c, kLanes);
    for (; c < sum.cols; c += kLanes)
        sum_rows_at<false, T, Rows, 1>(sum, c, lanes_left<T>(sum.cols, c));
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
    add_tiles<T, kRows, kCols>(kernels);
    kernels.row_sum[1] = row_sum<T, 1>;
    kernels.row_sum[2] = row_sum<T, 2>;
    kernels.row_sum[3] = row_sum<T, 3>;
    kernels.row_sum[4] = row_sum<T, 4>;
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const DotKernels<float> dot_f32 = table<float>();
extern const DotKernels<double> dot_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
