// Vec<T>: the vector of the ISA this file is compiled for, and the few operations tiles are made of.
// Everything lies in an anonymous namespace, so that code of one ISA can never be linked into
// another's. "scalar" is four floats (two doubles) of GCC's vector extension, which the compiler
// lowers to whatever the baseline has (SSE2, NEON).
//
// NaN: max(a, b) and min(a, b) return b where either is NaN (x86's rule, kept on every ISA), so
// relu(v) = max(zero, v) propagates NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FC_INLINE inline __attribute__((always_inline))

namespace {

template <class T>
struct Vec;

#if defined(__AVX512F__)

template <>
struct Vec<float> {
    static constexpr int kLanes = 16;
    __m512 v;
    static FC_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
    static FC_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
    static FC_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static FC_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
    /// The first `count` lanes; the others are zero and their memory is not touched.
    static FC_INLINE Vec load(const float* p, int count) {
        return {_mm512_maskz_loadu_ps(first(count), p)};
    }
    FC_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
    FC_INLINE void store(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), v); }
};
FC_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
FC_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm512_div_ps(a.v, b.v)}; }
FC_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_max_ps(a.v, b.v)}; }
FC_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_min_ps(a.v, b.v)}; }
FC_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm512_sqrt_ps(a.v)}; }

template <>
struct Vec<double> {
    static constexpr int kLanes = 8;
    __m512d v;
    static FC_INLINE Vec zero() { return {_mm512_setzero_pd()}; }
    static FC_INLINE Vec broadcast(double x) { return {_mm512_set1_pd(x)}; }
    static FC_INLINE Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
    static FC_INLINE __mmask8 first(int count) { return static_cast<__mmask8>((1u << count) - 1u); }
    static FC_INLINE Vec load(const double* p, int count) {
        return {_mm512_maskz_loadu_pd(first(count), p)};
    }
    FC_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
    FC_INLINE void store(double* p, int count) const { _mm512_mask_storeu_pd(p, first(count), v); }
};
FC_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
FC_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm512_div_pd(a.v, b.v)}; }
FC_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
FC_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
FC_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm512_sqrt_pd(a.v)}; }

#elif defined(__AVX2__)

// Lanes -1 then 0: a load at element (lanes - count) gives the mask of the first `count` lanes.
alignas(64) const std::int32_t kMask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
alignas(64) const std::int64_t kMask64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};

template <>
struct Vec<float> {
    static constexpr int kLanes = 8;
    __m256 v;
    static FC_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
    static FC_INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
    static FC_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static FC_INLINE __m256i first(int count) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask32 + 8 - count));
    }
    static FC_INLINE Vec load(const float* p, int count) {
        return {_mm256_maskload_ps(p, first(count))};
    }
    FC_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
    FC_INLINE void store(float* p, int count) const { _mm256_maskstore_ps(p, first(count), v); }
};
FC_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
FC_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm256_sub_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
FC_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm256_div_ps(a.v, b.v)}; }
FC_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
FC_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm256_min_ps(a.v, b.v)}; }
FC_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm256_sqrt_ps(a.v)}; }

template <>
struct Vec<double> {
    static constexpr int kLanes = 4;
    __m256d v;
    static FC_INLINE Vec zero() { return {_mm256_setzero_pd()}; }
    static FC_INLINE Vec broadcast(double x) { return {_mm256_set1_pd(x)}; }
    static FC_INLINE Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
    static FC_INLINE __m256i first(int count) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask64 + 4 - count));
    }
    static FC_INLINE Vec load(const double* p, int count) {
        return {_mm256_maskload_pd(p, first(count))};
    }
    FC_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
    FC_INLINE void store(double* p, int count) const { _mm256_maskstore_pd(p, first(count), v); }
};
FC_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
FC_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm256_add_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm256_sub_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm256_mul_pd(a.v, b.v)}; }
FC_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm256_div_pd(a.v, b.v)}; }
FC_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
FC_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
FC_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm256_sqrt_pd(a.v)}; }

#else

template <class T>
struct Vec {
    static constexpr int kLanes = 16 / static_cast<int>(sizeof(T));
    typedef T Lanes __attribute__((vector_size(16)));
    Lanes v;
    static FC_INLINE Vec zero() { return {Lanes{}}; }
    static FC_INLINE Vec broadcast(T x) { return {Lanes{} + x}; }
    static FC_INLINE Vec load(const T* p) {
        Vec result;
        std::memcpy(&result.v, p, sizeof(Lanes));
        return result;
    }
    static FC_INLINE Vec load(const T* p, int count) {
        Vec result = zero();
        for (int i = 0; i < count; ++i) result.v[i] = p[i];
        return result;
    }
    FC_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof(Lanes)); }
    FC_INLINE void store(T* p, int count) const {
        for (int i = 0; i < count; ++i) p[i] = v[i];
    }
};
template <class T>
FC_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {  // two roundings: the baseline has no FMA
    return {a.v * b.v + c.v};
}
template <class T>
FC_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {a.v + b.v}; }
template <class T>
FC_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {a.v - b.v}; }
template <class T>
FC_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {a.v * b.v}; }
template <class T>
FC_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {a.v / b.v}; }
template <class T>
FC_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return {a.v > b.v ? a.v : b.v}; }
template <class T>
FC_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return {a.v < b.v ? a.v : b.v}; }
template <class T>
FC_INLINE Vec<T> sqrt(Vec<T> a) {
    for (int i = 0; i < Vec<T>::kLanes; ++i) {
        if constexpr (sizeof(T) == 4) a.v[i] = __builtin_sqrtf(a.v[i]);
        else a.v[i] = __builtin_sqrt(a.v[i]);
    }
    return a;
}

#endif

/// Columns of a vector that starts at column `start`, of `cols` in all: 0 .. kLanes.
template <class T>
FC_INLINE int lanes_left(std::int64_t cols, std::int64_t start) {
    const std::int64_t left = cols - start;
    return left >= Vec<T>::kLanes ? Vec<T>::kLanes : left > 0 ? static_cast<int>(left) : 0;
}

}  // namespace
