// Strided copies of a matrix tile (contract: cpu/kernels_copy.h).
//
// Four cases, by where the unit strides are: along columns on both sides, lines are copied; along
// rows on one side and columns on the other, it is a transpose, done in 16 x 16 blocks of float on
// AVX-512, 8 x 8 on AVX2 (4 x 4 of double) within registers; anything else goes element by element.
#include "cpu/kernels_copy.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::CopyKernels;
using fastconv::cpu::MatrixView;

template <class T>
void copy_elements(std::int64_t rows, std::int64_t cols, MatrixView<const T> from,
                   MatrixView<T> to) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c)
            to.data[r * to.row_elems + c * to.col_elems] =
                from.data[r * from.row_elems + c * from.col_elems];
}

template <class T>
void copy_lines(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to) {
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t r = 0; r < rows; ++r) {
        const T* source = from.data + r * from.row_elems;
        T* target = to.data + r * to.row_elems;
        std::int64_t c = 0;
        for (; c + kLanes <= cols; c += kLanes) Vec<T>::load(source + c).store(target + c);
        if (const int left = lanes_left<T>(cols, c))
            Vec<T>::load(source + c, left).store(target + c, left);
    }
}

#if defined(__AVX2__)

constexpr int kBlock32 = Vec<float>::kLanes;
constexpr int kBlock64 = 4;

#if defined(__AVX512F__)
using Floats = __m512;
// Element 4 q .. 4 q + 3 of four rows, one a quarter of the vector: three masked broadcasts, which
// take no turn at the one port that shuffles.
FC_INLINE Floats quarters(__m128 a, __m128 b, __m128 c, __m128 d) {
    const __m512 first = _mm512_castps128_ps512(a);
    const __m512 second = _mm512_mask_broadcast_f32x4(first, 0x00F0, b);
    const __m512 third = _mm512_mask_broadcast_f32x4(second, 0x0F00, c);
    return _mm512_mask_broadcast_f32x4(third, 0xF000, d);
}
FC_INLINE Floats low(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
FC_INLINE Floats high(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
FC_INLINE Floats low_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x44); }
FC_INLINE Floats high_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xEE); }
#else
using Floats = __m256;
FC_INLINE Floats halves(__m128 a, __m128 b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(a), b, 1);
}
FC_INLINE Floats low(Floats a, Floats b) { return _mm256_unpacklo_ps(a, b); }
FC_INLINE Floats high(Floats a, Floats b) { return _mm256_unpackhi_ps(a, b); }
FC_INLINE Floats low_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x44); }
FC_INLINE Floats high_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xEE); }
#endif

// Four columns of kBlock32 rows: row 4 g + i is lane group g of the i-th vector, so that transposing
// 4 x 4 within the groups makes whole columns. Rows from `rows` on repeat the last and are not stored.
template <class Load>
FC_INLINE void transpose_columns(int rows, Load&& load, int cols, float* to, std::int64_t to_pitch) {
    Floats t[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#if defined(__AVX512F__)
        t[i] = quarters(load(i), load(4 + i), load(8 + i), load(12 + i));
#else
        t[i] = halves(load(i), load(4 + i));
#endif
    }
    const Floats a = low(t[0], t[1]), b = high(t[0], t[1]);
    const Floats c = low(t[2], t[3]), d = high(t[2], t[3]);
    const Vec<float> column[4] = {
        {low_pairs(a, c)}, {high_pairs(a, c)}, {low_pairs(b, d)}, {high_pairs(b, d)}};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        if (j >= cols) break;
        if (rows == kBlock32) column[j].store(to + j * to_pitch);
        else column[j].store(to + j * to_pitch, rows);
    }
}

// to[j * to_pitch + i] = from[i * from_pitch + j] for i, j < kBlock32
FC_INLINE void transpose_block(const float* from, std::int64_t from_pitch, float* to,
                               std::int64_t to_pitch) {
#pragma GCC unroll 4
    for (int col = 0; col < kBlock32; col += 4)
        transpose_columns(
            kBlock32, [&](int row) { return _mm_loadu_ps(from + row * from_pitch + col); }, 4,
            to + col * to_pitch, to_pitch);
}

// The same for i < rows, j < cols.
void transpose_edge(int rows, int cols, const float* from, std::int64_t from_pitch, float* to,
                    std::int64_t to_pitch) {
    for (int col = 0; col < cols; col += 4) {
        const int some = cols - col < 4 ? cols - col : 4;
        const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(some), _mm_set_epi32(3, 2, 1, 0));
        transpose_columns(
            rows,
            [&](int row) {
                return _mm_maskload_ps(from + (row < rows ? row : rows - 1) * from_pitch + col, mask);
            },
            some, to + col * to_pitch, to_pitch);
    }
}

FC_INLINE void transpose_block(const double* from, std::int64_t from_pitch, double* to,
                               std::int64_t to_pitch) {
    __m256d a[4], b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) a[i] = _mm256_loadu_pd(from + i * from_pitch);
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
        b[i] = _mm256_unpacklo_pd(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_pd(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        _mm256_storeu_pd(to + i * to_pitch, _mm256_permute2f128_pd(b[i], b[i + 2], 0x20));
        _mm256_storeu_pd(to + (i + 2) * to_pitch, _mm256_permute2f128_pd(b[i], b[i + 2], 0x31));
    }
}

#else

constexpr int kBlock32 = 4;
constexpr int kBlock64 = 4;

template <class T>
FC_INLINE void transpose_block(const T* from, std::int64_t from_pitch, T* to,
                               std::int64_t to_pitch) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
}

#endif

template <class T>
void transpose_edge(int rows, int cols, const T* from, std::int64_t from_pitch, T* to,
                    std::int64_t to_pitch) {
    copy_elements<T>(rows, cols, {from, from_pitch, 1}, {to, 1, to_pitch});
}

// from has unit stride along columns, to along rows. Along a block's rows whole lines are read, as
// many streams as it has rows; bands of four lines keep the target lines that are being filled in L1.
template <class T>
void transpose(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to) {
    constexpr std::int64_t kBlock = sizeof(T) == 4 ? kBlock32 : kBlock64;
    constexpr std::int64_t kBand = 64;
    for (std::int64_t band = 0; band < cols; band += kBand) {
        const std::int64_t end = band + kBand < cols ? band + kBand : cols;
        for (std::int64_t r = 0; r < rows; r += kBlock)
            for (std::int64_t c = band; c < end; c += kBlock) {
                const T* source = from.data + r * from.row_elems + c;
                T* target = to.data + c * to.col_elems + r;
                if (r + kBlock <= rows && c + kBlock <= end)
                    transpose_block(source, from.row_elems, target, to.col_elems);
                else
                    transpose_edge(static_cast<int>(rows - r < kBlock ? rows - r : kBlock),
                                   static_cast<int>(end - c < kBlock ? end - c : kBlock), source,
                                   from.row_elems, target, to.col_elems);
            }
    }
}

template <class T>
void copy(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to) {
    if (from.col_elems == 1 && to.col_elems == 1) return copy_lines(rows, cols, from, to);
    if (from.row_elems == 1 && to.row_elems == 1)
        return copy_lines<T>(cols, rows, {from.data, from.col_elems, 1},
                             {to.data, to.col_elems, 1});
    if (from.col_elems == 1 && to.row_elems == 1) return transpose(rows, cols, from, to);
    if (from.row_elems == 1 && to.col_elems == 1)
        return transpose<T>(cols, rows, {from.data, from.col_elems, 1}, {to.data, 1, to.row_elems});
    copy_elements(rows, cols, from, to);
}

template <class T>
constexpr CopyKernels<T> table() {
    return {copy<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const CopyKernels<float> copy_f32 = table<float>();
extern const CopyKernels<double> copy_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
