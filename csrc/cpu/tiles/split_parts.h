// float32 as three bfloat16 and back, 32 elements at a time (contract: cpu/kernels_split.h).
#pragma once

#include "cpu/kernels_split.h"
#include "cpu/tiles/vector.h"

#if defined(__AMX_BF16__)

namespace {

constexpr std::int64_t kPartBytes = fastconv::cpu::kSplitPartBytes;

/// The largest and the smallest leading part, without signs; zeros count as large.
struct Range {
    __m512i most = _mm512_setzero_si512();
    __m512i least = _mm512_set1_epi16(-1);

    FC_INLINE void add(__m512i parts) {
        const __m512i magnitude = _mm512_add_epi16(parts, parts);
        most = _mm512_max_epu16(most, magnitude);
        least = _mm512_min_epu16(least, _mm512_sub_epi16(magnitude, _mm512_set1_epi16(1)));
    }
    /// Whether all are 0 or in [2^smallest, 2^kSplitLimit).
    FC_INLINE bool fits(int smallest) const { return misfits(smallest) == 0; }

    /// A bit a part of 16 bits.
    FC_INLINE std::uint32_t misfits(int smallest) const {
        const auto bits = [](int exponent) {
            return _mm512_set1_epi16(static_cast<short>((127 + exponent) << 8));
        };
        const __m512i one = _mm512_set1_epi16(1);
        return _mm512_cmpge_epu16_mask(most, bits(fastconv::cpu::kSplitLimit)) |
               _mm512_cmplt_epu16_mask(least, _mm512_sub_epi16(bits(smallest), one));
    }
};

// To nearest by the magnitude's bits, halves away from zero: 8 bits of significand. Of a NaN zero may come, which no
// range tells; what is left of it is NaN, and so is its last part.
FC_INLINE __m512i rounded(__m512 x) {
    return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}
FC_INLINE __m512 rest(__m512 x, __m512i rounded_bits) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(rounded_bits, high)));
}
// The upper halves of both: a in the lower half of each 32 bits.
FC_INLINE __m512i paired(__m512i a, __m512i b) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b);
}

/// Elements a[i] and b[i] as pair i: h, m and l to `line`, + 1 KB, + 2 KB.
FC_INLINE void split(__m512 a, __m512 b, char* line, Range& range) {
    const __m512i ha = rounded(a), hb = rounded(b);
    const __m512i h = paired(ha, hb);
    range.add(h);
    a = rest(a, ha);
    b = rest(b, hb);
    const __m512i ma = rounded(a), mb = rounded(b);
    _mm512_storeu_si512(line, h);
    _mm512_storeu_si512(line + kPartBytes, paired(ma, mb));
    _mm512_storeu_si512(line + 2 * kPartBytes,
                        paired(_mm512_castps_si512(rest(a, ma)), _mm512_castps_si512(rest(b, mb))));
}

struct Pair {
    __m512 a, b;  // elements p and p + 16
};

// The sum of a line's parts, or the line as it is.
FC_INLINE Pair joined(const char* line, bool raw) {
    if (raw) return {_mm512_loadu_ps(line), _mm512_loadu_ps(line + kPartBytes)};
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    Pair sum{_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int part = 2; part >= 0; --part) {
        const __m512i bits = _mm512_loadu_si512(line + part * kPartBytes);
        sum.a = _mm512_add_ps(sum.a, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
        sum.b = _mm512_add_ps(sum.b, _mm512_castsi512_ps(_mm512_and_si512(bits, high)));
    }
    return sum;
}

// 16 x 16 numbers of 32 bits, rows to columns.
FC_INLINE void transpose(const char* from, char* to) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_load_si512(from + i * 64);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {  // rows i .. i + 3: columns 0, 1, 2, 3 of each 128 bits
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
        const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88);  // 128 bits 0 and 2 of each
        const __m512i high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        const __m512i high_odd = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_store_si512(to + c * 64, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_store_si512(to + (8 + c) * 64, _mm512_shuffle_i32x4(low, high, 0xdd));
        _mm512_store_si512(to + (4 + c) * 64, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
        _mm512_store_si512(to + (12 + c) * 64, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
    }
}

}  // namespace

#endif
