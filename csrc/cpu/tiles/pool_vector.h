// What pooling needs beside Vec<T>: masks, NaN, and an index in every lane. Lane<float> holds indices
// of 32 bits, Lane<double> of 64; in memory they are int64.
#pragma once

#include "cpu/tiles/vector.h"

namespace {

template <class T>
struct Lane;

#if defined(__AVX512F__)

FC_INLINE __m512i lane_steps(std::int64_t lane_add) {
    return _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0),
                              _mm512_set1_epi64(lane_add));
}
FC_INLINE __mmask8 first8(int count) {
    return static_cast<__mmask8>(count >= 8 ? 0xFFu : count > 0 ? (1u << count) - 1u : 0u);
}
/// Eight indices, or the first `count` of them.
template <bool Partial>
FC_INLINE __m512i load_words(const std::int64_t* p, int count) {
    if constexpr (Partial) return _mm512_maskz_loadu_epi64(first8(count), p);
    else return _mm512_loadu_si512(p);
}
template <bool Partial>
FC_INLINE void store_words(__m512i v, std::int64_t* p, int count) {
    if constexpr (Partial) _mm512_mask_storeu_epi64(p, first8(count), v);
    else _mm512_storeu_si512(p, v);
}

template <>
struct Lane<float> {
    using Mask = __mmask16;
    using Index = __m512i;
    struct Target {
        __m512i lo, hi;
    };
    static FC_INLINE Mask none() { return 0; }
    static FC_INLINE Mask either(Mask a, Mask b) { return _kor_mask16(a, b); }
    static FC_INLINE Mask is_nan(Vec<float> a) {
        return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    }
    /// x > best or x is NaN, unless best is NaN.
    static FC_INLINE Mask beats(Vec<float> x, Vec<float> best) {
        return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(best.v, best.v, _CMP_ORD_Q), x.v, best.v,
                                       _CMP_NLE_UQ);
    }
    static FC_INLINE Vec<float> select(Mask mask, Vec<float> yes, Vec<float> no) {
        return {_mm512_mask_blend_ps(mask, no.v, yes.v)};
    }
    static FC_INLINE Index index(std::int64_t i) { return _mm512_set1_epi32(static_cast<int>(i)); }
    static FC_INLINE Index select_index(Mask mask, Index yes, Index no) {
        return _mm512_mask_blend_epi32(mask, no, yes);
    }
    template <bool Partial>
    static FC_INLINE void store_index(Index index, std::int64_t add, std::int64_t lane_add,
                                      std::int64_t* out, int count) {
        const __m512i step = _mm512_add_epi64(_mm512_set1_epi64(add), lane_steps(lane_add));
        const __m512i half = _mm512_set1_epi64(8 * lane_add);
        const __m512i lo = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(index));
        const __m512i hi = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(index, 1));
        store_words<Partial>(_mm512_add_epi64(lo, step), out, count);
        store_words<Partial>(_mm512_add_epi64(_mm512_add_epi64(hi, half), step), out + 8,
                             count - 8);
    }
    static FC_INLINE Target target(std::int64_t first, std::int64_t lane_add) {
        const __m512i lo = _mm512_add_epi64(_mm512_set1_epi64(first), lane_steps(lane_add));
        return {lo, _mm512_add_epi64(lo, _mm512_set1_epi64(8 * lane_add))};
    }
    template <bool Partial>
    static FC_INLINE Vec<float> add_where(Vec<float> sum, Vec<float> x, const std::int64_t* index,
                                          Target target, int count) {
        // Lanes beyond `count` may match, but hold zeros.
        const __mmask8 lo = _mm512_cmpeq_epi64_mask(load_words<Partial>(index, count), target.lo);
        const __mmask8 hi =
            _mm512_cmpeq_epi64_mask(load_words<Partial>(index + 8, count - 8), target.hi);
        return {_mm512_mask_add_ps(sum.v, _mm512_kunpackb(hi, lo), sum.v, x.v)};
    }
};

template <>
struct Lane<double> {
    using Mask = __mmask8;
    using Index = __m512i;
    using Target = __m512i;
    static FC_INLINE Mask none() { return 0; }
    static FC_INLINE Mask either(Mask a, Mask b) { return _kor_mask8(a, b); }
    static FC_INLINE Mask is_nan(Vec<double> a) {
        return _mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q);
    }
    static FC_INLINE Mask beats(Vec<double> x, Vec<double> best) {
        return _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(best.v, best.v, _CMP_ORD_Q), x.v, best.v,
                                       _CMP_NLE_UQ);
    }
    static FC_INLINE Vec<double> select(Mask mask, Vec<double> yes, Vec<double> no) {
        return {_mm512_mask_blend_pd(mask, no.v, yes.v)};
    }
    static FC_INLINE Index index(std::int64_t i) { return _mm512_set1_epi64(i); }
    static FC_INLINE Index select_index(Mask mask, Index yes, Index no) {
        return _mm512_mask_blend_epi64(mask, no, yes);
    }
    template <bool Partial>
    static FC_INLINE void store_index(Index index, std::int64_t add, std::int64_t lane_add,
                                      std::int64_t* out, int count) {
        const __m512i step = _mm512_add_epi64(_mm512_set1_epi64(add), lane_steps(lane_add));
        store_words<Partial>(_mm512_add_epi64(index, step), out, count);
    }
    static FC_INLINE Target target(std::int64_t first, std::int64_t lane_add) {
        return _mm512_add_epi64(_mm512_set1_epi64(first), lane_steps(lane_add));
    }
    template <bool Partial>
    static FC_INLINE Vec<double> add_where(Vec<double> sum, Vec<double> x,
                                           const std::int64_t* index, Target target, int count) {
        const __mmask8 hit = _mm512_cmpeq_epi64_mask(load_words<Partial>(index, count), target);
        return {_mm512_mask_add_pd(sum.v, hit, sum.v, x.v)};
    }
};

#elif defined(__AVX2__)

/// first + lane * lane_add in four 64-bit lanes.
FC_INLINE __m256i lane_steps(std::int64_t first, std::int64_t lane_add) {
    return _mm256_set_epi64x(first + 3 * lane_add, first + 2 * lane_add, first + lane_add, first);
}
FC_INLINE __m256i first4(int count) {
    const int lanes = count > 4 ? 4 : count < 0 ? 0 : count;
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask64 + 4 - lanes));
}
/// Four indices, or the first `count` of them.
template <bool Partial>
FC_INLINE __m256i load_words(const std::int64_t* p, int count) {
    if constexpr (Partial)
        return _mm256_maskload_epi64(reinterpret_cast<const long long*>(p), first4(count));
    else return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
template <bool Partial>
FC_INLINE void store_words(__m256i v, std::int64_t* p, int count) {
    if constexpr (Partial)
        _mm256_maskstore_epi64(reinterpret_cast<long long*>(p), first4(count), v);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}

template <>
struct Lane<float> {
    using Mask = __m256;
    using Index = __m256i;
    struct Target {
        __m256i lo, hi;
    };
    static FC_INLINE Mask none() { return _mm256_setzero_ps(); }
    static FC_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
    static FC_INLINE Mask is_nan(Vec<float> a) { return _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q); }
    static FC_INLINE Mask beats(Vec<float> x, Vec<float> best) {
        return _mm256_and_ps(_mm256_cmp_ps(x.v, best.v, _CMP_NLE_UQ),
                             _mm256_cmp_ps(best.v, best.v, _CMP_ORD_Q));
    }
    static FC_INLINE Vec<float> select(Mask mask, Vec<float> yes, Vec<float> no) {
        return {_mm256_blendv_ps(no.v, yes.v, mask)};
    }
    static FC_INLINE Index index(std::int64_t i) { return _mm256_set1_epi32(static_cast<int>(i)); }
    static FC_INLINE Index select_index(Mask mask, Index yes, Index no) {
        return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(mask));
    }
    template <bool Partial>
    static FC_INLINE void store_index(Index index, std::int64_t add, std::int64_t lane_add,
                                      std::int64_t* out, int count) {
        const __m256i lo = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(index));
        const __m256i hi = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(index, 1));
        store_words<Partial>(_mm256_add_epi64(lo, lane_steps(add, lane_add)), out, count);
        store_words<Partial>(_mm256_add_epi64(hi, lane_steps(add + 4 * lane_add, lane_add)),
                             out + 4, count - 4);
    }
    static FC_INLINE Target target(std::int64_t first, std::int64_t lane_add) {
        return {lane_steps(first, lane_add), lane_steps(first + 4 * lane_add, lane_add)};
    }
    template <bool Partial>
    static FC_INLINE Vec<float> add_where(Vec<float> sum, Vec<float> x, const std::int64_t* index,
                                          Target target, int count) {
        const __m256i lo = _mm256_cmpeq_epi64(load_words<Partial>(index, count), target.lo);
        const __m256i hi = _mm256_cmpeq_epi64(load_words<Partial>(index + 4, count - 4), target.hi);
        // Even 32-bit halves of (lo, hi), which shuffle_ps takes by 128-bit lanes, put in order.
        const __m256 halves =
            _mm256_shuffle_ps(_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi), 0x88);
        const __m256i hit = _mm256_permute4x64_epi64(_mm256_castps_si256(halves), 0xD8);
        return {_mm256_add_ps(sum.v, _mm256_and_ps(x.v, _mm256_castsi256_ps(hit)))};
    }
};

template <>
struct Lane<double> {
    using Mask = __m256d;
    using Index = __m256i;
    using Target = __m256i;
    static FC_INLINE Mask none() { return _mm256_setzero_pd(); }
    static FC_INLINE Mask either(Mask a, Mask b) { return _mm256_or_pd(a, b); }
    static FC_INLINE Mask is_nan(Vec<double> a) { return _mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q); }
    static FC_INLINE Mask beats(Vec<double> x, Vec<double> best) {
        return _mm256_and_pd(_mm256_cmp_pd(x.v, best.v, _CMP_NLE_UQ),
                             _mm256_cmp_pd(best.v, best.v, _CMP_ORD_Q));
    }
    static FC_INLINE Vec<double> select(Mask mask, Vec<double> yes, Vec<double> no) {
        return {_mm256_blendv_pd(no.v, yes.v, mask)};
    }
    static FC_INLINE Index index(std::int64_t i) { return _mm256_set1_epi64x(i); }
    static FC_INLINE Index select_index(Mask mask, Index yes, Index no) {
        return _mm256_blendv_epi8(no, yes, _mm256_castpd_si256(mask));
    }
    template <bool Partial>
    static FC_INLINE void store_index(Index index, std::int64_t add, std::int64_t lane_add,
                                      std::int64_t* out, int count) {
        store_words<Partial>(_mm256_add_epi64(index, lane_steps(add, lane_add)), out, count);
    }
    static FC_INLINE Target target(std::int64_t first, std::int64_t lane_add) {
        return lane_steps(first, lane_add);
    }
    template <bool Partial>
    static FC_INLINE Vec<double> add_where(Vec<double> sum, Vec<double> x,
                                           const std::int64_t* index, Target target, int count) {
        const __m256i hit = _mm256_cmpeq_epi64(load_words<Partial>(index, count), target);
        return {_mm256_add_pd(sum.v, _mm256_and_pd(x.v, _mm256_castsi256_pd(hit)))};
    }
};

#else

template <class T>
struct LaneWord;
template <>
struct LaneWord<float> {
    using type = std::int32_t;
};
template <>
struct LaneWord<double> {
    using type = std::int64_t;
};

template <class T>
struct Lane {
    static constexpr int kLanes = Vec<T>::kLanes;
    using Word = typename LaneWord<T>::type;
    typedef Word Mask __attribute__((vector_size(16)));
    typedef Word Index __attribute__((vector_size(16)));
    struct Target {
        std::int64_t first, lane_add;
    };
    static FC_INLINE Mask none() { return Mask{}; }
    static FC_INLINE Mask either(Mask a, Mask b) { return a | b; }
    static FC_INLINE Mask is_nan(Vec<T> a) { return a.v != a.v; }
    static FC_INLINE Mask beats(Vec<T> x, Vec<T> best) {
        return ((x.v > best.v) | (x.v != x.v)) & (best.v == best.v);
    }
    static FC_INLINE Vec<T> select(Mask mask, Vec<T> yes, Vec<T> no) {
        return {mask ? yes.v : no.v};
    }
    static FC_INLINE Index index(std::int64_t i) { return Index{} + static_cast<Word>(i); }
    static FC_INLINE Index select_index(Mask mask, Index yes, Index no) { return mask ? yes : no; }
    template <bool Partial>
    static FC_INLINE void store_index(Index index, std::int64_t add, std::int64_t lane_add,
                                      std::int64_t* out, int count) {
        for (int l = 0; l < count && l < kLanes; ++l) out[l] = index[l] + add + l * lane_add;
    }
    static FC_INLINE Target target(std::int64_t first, std::int64_t lane_add) {
        return {first, lane_add};
    }
    template <bool Partial>
    static FC_INLINE Vec<T> add_where(Vec<T> sum, Vec<T> x, const std::int64_t* index,
                                      Target target, int count) {
        for (int l = 0; l < count && l < kLanes; ++l)
            if (index[l] == target.first + l * target.lane_add) sum.v[l] += x.v[l];
        return sum;
    }
};

#endif

}  // namespace
