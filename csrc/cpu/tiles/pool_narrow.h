// Indices of 32 bits beside 32-bit lanes: how they are made of int64, and the sum that they select.
#pragma once

#include "cpu/tiles/pool_vector.h"

namespace {

/// A vector's worth of indices, or the first `count` of them; -1 where one needs more than 32 bits.
template <bool Partial>
FC_INLINE void narrow_lanes(const std::int64_t* from, std::int32_t* to, int count) {
#if defined(__AVX512F__)
    const __m512i a = load_words<Partial>(from, count);
    const __m512i b = load_words<Partial>(from + 8, count - 8);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __m512i high = _mm512_permutex2var_epi32(a, odd, b);
    const __m512i low = _mm512_mask_set1_epi32(_mm512_permutex2var_epi32(a, even, b),
                                               _mm512_test_epi32_mask(high, high), -1);
    if constexpr (Partial) _mm512_mask_storeu_epi32(to, Vec<float>::first(count), low);
    else _mm512_storeu_si512(to, low);
#elif defined(__AVX2__)
    // shuffle_ps takes halves by 128-bit lanes, permute4x64 puts them in order.
    const __m256 a = _mm256_castsi256_ps(load_words<Partial>(from, count));
    const __m256 b = _mm256_castsi256_ps(load_words<Partial>(from + 4, count - 4));
    const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD));
    const __m256i fits = _mm256_cmpeq_epi32(high, _mm256_setzero_si256());
    const __m256i ones = _mm256_set1_epi32(-1);
    const __m256i index =
        _mm256_permute4x64_epi64(_mm256_or_si256(low, _mm256_xor_si256(fits, ones)), 0xD8);
    if constexpr (Partial) _mm256_maskstore_epi32(to, Vec<float>::first(count), index);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), index);
#else
    for (int l = 0; l < count; ++l)
        to[l] = (from[l] >> 32) == 0 ? static_cast<std::int32_t>(from[l]) : -1;
#endif
}

/// sum + x in the lanes whose index is `target`.
template <bool Partial>
FC_INLINE Vec<float> add_where_narrow(Vec<float> sum, Vec<float> x, const std::int32_t* index,
                                      Lane<float>::Index target, int count) {
    // Lanes beyond `count` may match, but hold zeros.
#if defined(__AVX512F__)
    __m512i taken;
    if constexpr (Partial) taken = _mm512_maskz_loadu_epi32(Vec<float>::first(count), index);
    else taken = _mm512_loadu_si512(index);
    return {_mm512_mask_add_ps(sum.v, _mm512_cmpeq_epi32_mask(taken, target), sum.v, x.v)};
#elif defined(__AVX2__)
    __m256i taken;
    if constexpr (Partial) taken = _mm256_maskload_epi32(index, Vec<float>::first(count));
    else taken = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
    const __m256 hit = _mm256_castsi256_ps(_mm256_cmpeq_epi32(taken, target));
    return {_mm256_add_ps(sum.v, _mm256_and_ps(x.v, hit))};
#else
    for (int l = 0; l < count; ++l)
        if (index[l] == target[l]) sum.v[l] += x.v[l];
    return sum;
#endif
}

}  // namespace
