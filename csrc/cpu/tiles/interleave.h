// A line's even and odd elements: two vectors of the line from and to one vector of each.
//
//     split_pair   a = l0 l1 .. , b = ..      ->  even = l0 l2 l4 .., odd = l1 l3 l5 ..
//     merge_pair   even, odd                  ->  the line
#pragma once

#include "cpu/tiles/vector.h"

namespace {

#if defined(__AVX512F__)

FC_INLINE void split_pair(Vec<float> a, Vec<float> b, float* even, float* odd) {
    const __m512i pick =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i next = _mm512_add_epi32(pick, _mm512_set1_epi32(1));
    _mm512_storeu_ps(even, _mm512_permutex2var_ps(a.v, pick, b.v));
    _mm512_storeu_ps(odd, _mm512_permutex2var_ps(a.v, next, b.v));
}

FC_INLINE void merge_pair(Vec<float> even, Vec<float> odd, float* out) {
    const __m512i pick = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i next = _mm512_add_epi32(pick, _mm512_set1_epi32(8));
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(even.v, pick, odd.v));
    _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(even.v, next, odd.v));
}

FC_INLINE void split_pair(Vec<double> a, Vec<double> b, double* even, double* odd) {
    const __m512i pick = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i next = _mm512_add_epi64(pick, _mm512_set1_epi64(1));
    _mm512_storeu_pd(even, _mm512_permutex2var_pd(a.v, pick, b.v));
    _mm512_storeu_pd(odd, _mm512_permutex2var_pd(a.v, next, b.v));
}

FC_INLINE void merge_pair(Vec<double> even, Vec<double> odd, double* out) {
    const __m512i pick = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    const __m512i next = _mm512_add_epi64(pick, _mm512_set1_epi64(4));
    _mm512_storeu_pd(out, _mm512_permutex2var_pd(even.v, pick, odd.v));
    _mm512_storeu_pd(out + 8, _mm512_permutex2var_pd(even.v, next, odd.v));
}

#elif defined(__AVX2__)

FC_INLINE void split_pair(Vec<float> a, Vec<float> b, float* even, float* odd) {
    const __m256 e = _mm256_shuffle_ps(a.v, b.v, 0x88);
    const __m256 o = _mm256_shuffle_ps(a.v, b.v, 0xDD);
    _mm256_storeu_pd(reinterpret_cast<double*>(even),
                     _mm256_permute4x64_pd(_mm256_castps_pd(e), 0xD8));
    _mm256_storeu_pd(reinterpret_cast<double*>(odd),
                     _mm256_permute4x64_pd(_mm256_castps_pd(o), 0xD8));
}

FC_INLINE void merge_pair(Vec<float> even, Vec<float> odd, float* out) {
    const __m256 lo = _mm256_unpacklo_ps(even.v, odd.v);
    const __m256 hi = _mm256_unpackhi_ps(even.v, odd.v);
    _mm256_storeu_ps(out, _mm256_permute2f128_ps(lo, hi, 0x20));
    _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
}

FC_INLINE void split_pair(Vec<double> a, Vec<double> b, double* even, double* odd) {
    _mm256_storeu_pd(even, _mm256_permute4x64_pd(_mm256_unpacklo_pd(a.v, b.v), 0xD8));
    _mm256_storeu_pd(odd, _mm256_permute4x64_pd(_mm256_unpackhi_pd(a.v, b.v), 0xD8));
}

FC_INLINE void merge_pair(Vec<double> even, Vec<double> odd, double* out) {
    const __m256d lo = _mm256_unpacklo_pd(even.v, odd.v);
    const __m256d hi = _mm256_unpackhi_pd(even.v, odd.v);
    _mm256_storeu_pd(out, _mm256_permute2f128_pd(lo, hi, 0x20));
    _mm256_storeu_pd(out + 4, _mm256_permute2f128_pd(lo, hi, 0x31));
}

#else

template <class T>
FC_INLINE void split_pair(Vec<T> a, Vec<T> b, T* even, T* odd) {
    for (int l = 0; l < Vec<T>::kLanes / 2; ++l) {
        even[l] = a.v[2 * l];
        odd[l] = a.v[2 * l + 1];
        even[Vec<T>::kLanes / 2 + l] = b.v[2 * l];
        odd[Vec<T>::kLanes / 2 + l] = b.v[2 * l + 1];
    }
}

template <class T>
FC_INLINE void merge_pair(Vec<T> even, Vec<T> odd, T* out) {
    for (int l = 0; l < Vec<T>::kLanes; ++l) {
        out[2 * l] = even.v[l];
        out[2 * l + 1] = odd.v[l];
    }
}

#endif

}  // namespace
