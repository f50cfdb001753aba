// exp and what is made of it, on vectors. Comparisons, conversions and bit patterns use GCC's vector
// extension, so that one source serves every ISA.
//
//     exp(x) = 2^n * exp(r)        n = round(x / ln 2), r = x - n ln 2, |r| <= 0.347
//
// exp(r) is its Taylor polynomial, degree 7 in float32 (remainder 0.35^8 / 8! = 5e-9, a tenth of an
// ulp) and 13 in float64 (4e-18). ln 2 is subtracted in two parts, the first short enough that
// n * part is exact even without FMA (Cody and Waite; the split is that of Moshier's Cephes). 2^n is
// applied as two factors, so that results down to the least denormal are rounded once. exp: at most
// 1 ulp, without FMA 2 (measured 0.93 and 1.18 over the range, denormal results included).
#pragma once

#include "cpu/tiles/vector.h"

namespace {

template <class T>
struct Bits;
template <>
struct Bits<float> {
    typedef std::uint32_t Unsigned;
    typedef std::uint32_t Lanes __attribute__((vector_size(Vec<float>::kLanes * 4)));
    static constexpr int kMantissa = 23;
    static constexpr Unsigned kBias = 127;
};
template <>
struct Bits<double> {
    typedef std::uint64_t Unsigned;
    typedef std::uint64_t Lanes __attribute__((vector_size(Vec<double>::kLanes * 8)));
    static constexpr int kMantissa = 52;
    static constexpr Unsigned kBias = 1023;
};

template <class T>
FC_INLINE typename Bits<T>::Lanes bits_of(Vec<T> x) {
    return (typename Bits<T>::Lanes)(x.v);
}
template <class T>
FC_INLINE Vec<T> from_bits(typename Bits<T>::Lanes bits) {
    return {(decltype(Vec<T>::v))(bits)};
}
template <class T>
FC_INLINE Vec<T> absolute(Vec<T> x) {
    return from_bits<T>(bits_of(x) & (~typename Bits<T>::Unsigned{0} >> 1));
}
template <class T>
FC_INLINE Vec<T> with_sign_of(Vec<T> magnitude, Vec<T> sign) {
    const auto bit = ~(~typename Bits<T>::Unsigned{0} >> 1);
    return from_bits<T>(bits_of(magnitude) | (bits_of(sign) & bit));
}

/// The first `count` lanes of x, `other` in the rest.
template <class T>
FC_INLINE Vec<T> first_lanes(Vec<T> x, int count, T other) {
    typename Bits<T>::Lanes index;
#pragma GCC unroll 16
    for (int i = 0; i < Vec<T>::kLanes; ++i) index[i] = static_cast<typename Bits<T>::Unsigned>(i);
    const auto limit =
        typename Bits<T>::Lanes{} + static_cast<typename Bits<T>::Unsigned>(count);
    return {index < limit ? x.v : Vec<T>::broadcast(other).v};
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
    static constexpr float kHighest = 89, kLowest = -105;  // exp is inf and 0 there
    static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integers
    static constexpr int kDegree = 7;
};
template <>
struct ExpConstants<double> {
    static constexpr double kHighest = 710, kLowest = -747;
    static constexpr double kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723212e-6;
    static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int kDegree = 13;
};

constexpr double inverse_factorial(int n) { return n <= 1 ? 1.0 : inverse_factorial(n - 1) / n; }

/// (exp(r) - 1) / r for |r| <= 0.347.
template <class T, int I = ExpConstants<T>::kDegree>
FC_INLINE Vec<T> exp_quotient(Vec<T> r) {
    Vec<T> sum = Vec<T>::broadcast(static_cast<T>(inverse_factorial(I)));
#pragma GCC unroll 16
    for (int i = I - 1; i >= 1; --i)
        sum = fma(sum, r, Vec<T>::broadcast(static_cast<T>(inverse_factorial(i))));
    return sum;
}

/// x = n ln 2 + r. `rounded` holds n in its low bits, above those of kRounder.
template <class T>
struct Reduced {
    Vec<T> r;
    Vec<T> rounded;
};
template <class T>
FC_INLINE Reduced<T> reduce(Vec<T> x) {
    using C = ExpConstants<T>;
    const Vec<T> rounder = Vec<T>::broadcast(C::kRounder);
    const T log2e = static_cast<T>(1.44269504088896340736);
    const Vec<T> rounded = fma(x, Vec<T>::broadcast(log2e), rounder);
    const Vec<T> n = rounded - rounder;
    Vec<T> r = fma(n, Vec<T>::broadcast(-C::kLn2High), x);
    r = fma(n, Vec<T>::broadcast(-C::kLn2Low), r);
    return {r, rounded};
}

template <class T>
FC_INLINE Vec<T> exp(Vec<T> x) {
    using C = ExpConstants<T>;
    using B = Bits<T>;
    // min and max give their second operand where one is NaN.
    const Vec<T> clamped =
        max(Vec<T>::broadcast(C::kLowest), min(Vec<T>::broadcast(C::kHighest), x));
    const Reduced<T> reduced = reduce(clamped);
    const Vec<T> one = Vec<T>::broadcast(1);
    const Vec<T> value = fma(exp_quotient(reduced.r), reduced.r, one);
    // n + 2 bias is the sum of two biased exponents.
    const auto sum = bits_of(reduced.rounded) -
                     (bits_of(Vec<T>::broadcast(C::kRounder)) - 2 * B::kBias);
    const auto half = sum >> 1;
    const Vec<T> first = from_bits<T>(half << B::kMantissa);
    const Vec<T> second = from_bits<T>((sum - half) << B::kMantissa);
    return value * first * second;
}

/// exp(x) - 1 for 0 <= x <= 44, relative precision down to denormals.
template <class T>
FC_INLINE Vec<T> exp_minus_one(Vec<T> x) {
    using B = Bits<T>;
    const Reduced<T> reduced = reduce(x);
    const auto exponent =
        bits_of(reduced.rounded) - (bits_of(Vec<T>::broadcast(ExpConstants<T>::kRounder)) - B::kBias);
    const Vec<T> power = from_bits<T>(exponent << B::kMantissa);
    return fma(power, exp_quotient(reduced.r) * reduced.r, power - Vec<T>::broadcast(1));
}

template <class T>
FC_INLINE Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> one = Vec<T>::broadcast(1);
    const Vec<T> small = exp(Vec<T>::zero() - absolute(x));
    const Vec<T> top = {x.v < Vec<T>::zero().v ? small.v : one.v};
    return top / (one + small);
}

template <class T>
FC_INLINE Vec<T> tanh(Vec<T> x) {
    const Vec<T> twice = absolute(x) + absolute(x);
    // tanh is 1 in both dtypes from 22 on; min keeps NaN.
    const Vec<T> e = exp_minus_one(min(Vec<T>::broadcast(44), twice));
    return with_sign_of(e / (e + Vec<T>::broadcast(2)), x);
}

}  // namespace
