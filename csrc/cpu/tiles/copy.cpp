// Strided copies of a matrix tile (contract: cpu/kernels_copy.h).
//
// Four cases, by where the unit strides are: along columns on both sides, lines are copied; along
// rows on one side and columns on the other, it is a transpose, done in 8 x 8 blocks of float (4 x 4
// of double) within registers on AVX2 and up; anything else goes element by element.
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

constexpr int kBlock32 = 8;
constexpr int kBlock64 = 4;

// to[j * to_pitch + i] = from[i * from_pitch + j] for i, j < 8
FC_INLINE void transpose_block(const float* from, std::int64_t from_pitch, float* to,
                               std::int64_t to_pitch) {
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * from_pitch);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
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

// from has unit stride along columns, to along rows. Bands of one block of source columns keep the
// target lines that are being filled in L1.
template <class T>
void transpose(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to) {
    constexpr std::int64_t kBlock = sizeof(T) == 4 ? kBlock32 : kBlock64;
    const std::int64_t block_rows = rows / kBlock * kBlock;
    const std::int64_t block_cols = cols / kBlock * kBlock;
    for (std::int64_t c = 0; c < block_cols; c += kBlock)
        for (std::int64_t r = 0; r < block_rows; r += kBlock)
            transpose_block(from.data + r * from.row_elems + c, from.row_elems,
                            to.data + c * to.col_elems + r, to.col_elems);
    copy_elements<T>(rows, cols - block_cols,
                     {from.data + block_cols, from.row_elems, 1},
                     {to.data + block_cols * to.col_elems, 1, to.col_elems});
    copy_elements<T>(rows - block_rows, block_cols,
                     {from.data + block_rows * from.row_elems, from.row_elems, 1},
                     {to.data + block_rows, 1, to.col_elems});
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
