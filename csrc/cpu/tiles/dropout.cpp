// Philox4x32-10 on 64-bit lanes, a counter a lane (contract: cpu/kernels_dropout.h).
//
// A round of counter words a b c d under key (k, l) is
//     (a, b, c, d) <- (hi(c * M1) ^ b ^ k, lo(c * M1), hi(a * M0) ^ d ^ l, lo(a * M0))
// Only the low half of a lane counts: vpmuludq reads nothing else, so what the exclusive ors leave
// in the upper halves does no harm until the words are put together at the end.
#include "cpu/kernels_dropout.h"
#include "cpu/tiles/line.h"

namespace {

using fastconv::cpu::DropoutKernels;

constexpr int kCounters = Vec<double>::kLanes;
typedef std::uint64_t Words __attribute__((vector_size(kCounters * 8)));
constexpr std::uint64_t kLow = 0xFFFFFFFFu;
constexpr int kWords = 4 * kCounters;

FC_INLINE Words product_of_low_halves(Words a, Words b) {
#if defined(__AVX512F__)
    return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
    return (a & kLow) * (b & kLow);
#endif
}

// The words of elements 4 * block to 4 * (block + kCounters) - 1.
FC_INLINE void philox(std::uint64_t block, std::uint64_t seed, std::uint32_t* words) {
    const Words m0 = Words{} + 0xD2511F53u, m1 = Words{} + 0xCD9E8D57u;
    Words lane;
#pragma GCC unroll 8
    for (int i = 0; i < kCounters; ++i) lane[i] = static_cast<std::uint64_t>(i);
    const Words counter = lane + block;
    Words a = counter, b = counter >> 32, c = Words{}, d = Words{};
    std::uint32_t k = static_cast<std::uint32_t>(seed), l = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const Words p0 = product_of_low_halves(a, m0), p1 = product_of_low_halves(c, m1);
        a = (p1 >> 32) ^ b ^ (Words{} + k);
        c = (p0 >> 32) ^ d ^ (Words{} + l);
        b = p1;
        d = p0;
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
    const Words ab = (a & kLow) | (b << 32), cd = (c & kLow) | (d << 32);
    std::uint64_t low[kCounters], high[kCounters];
    std::memcpy(low, &ab, sizeof low);
    std::memcpy(high, &cd, sizeof high);
#pragma GCC unroll 8
    for (int i = 0; i < kCounters; ++i) {
        words[4 * i] = static_cast<std::uint32_t>(low[i]);
        words[4 * i + 1] = static_cast<std::uint32_t>(low[i] >> 32);
        words[4 * i + 2] = static_cast<std::uint32_t>(high[i]);
        words[4 * i + 3] = static_cast<std::uint32_t>(high[i] >> 32);
    }
}

template <class T>
void factors(std::int64_t n, std::uint64_t first, std::uint64_t seed, std::uint64_t threshold,
             T scale, T* factor) {
    const bool drop_all = threshold > kLow;
    const std::uint32_t limit = static_cast<std::uint32_t>(threshold);
    const T kept = drop_all ? T(0) : scale;
    std::uint32_t words[kWords];
    std::uint64_t block = first / 4;
    int skip = static_cast<int>(first % 4);
    for (std::int64_t i = 0; i < n; block += kCounters) {
        philox(block, seed, words);
        const std::int64_t room = kWords - skip;
        const int count = static_cast<int>(n - i < room ? n - i : room);
        if (count == kWords) {
            for (int j = 0; j < kWords; ++j) factor[i + j] = words[j] >= limit ? kept : T(0);
        } else {
            for (int j = 0; j < count; ++j) factor[i + j] = words[skip + j] >= limit ? kept : T(0);
        }
        i += count;
        skip = 0;
    }
}

template <class T>
FC_INLINE Vec<T> masked(Vec<T> x, Vec<T> factor) {
    const Vec<T> zero = Vec<T>::zero();
    return {factor.v == zero.v ? zero.v : (x * factor).v};
}

template <class T>
void apply(std::int64_t n, const T* x, const T* factor, T* y) {
    for_vectors<T>(n, [&](std::int64_t i, int count) {
        store_some(masked(load_some(x + i, count), load_some(factor + i, count)), y + i, count);
    });
}

template <class T>
constexpr DropoutKernels<T> table() {
    return {factors<T>, apply<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const DropoutKernels<float> dropout_f32 = table<float>();
extern const DropoutKernels<double> dropout_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
