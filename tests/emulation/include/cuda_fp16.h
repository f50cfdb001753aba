// CUDA's cuda_fp16.h: storage, conversions to and from float32, and arithmetic through float32.
#pragma once

#include <cuda_runtime.h>

#include "emulation/float16.h"

struct alignas(2) __half {
    __half() = default;
    __half(float x) : bits(emulation::float_to_half(x)) {}
    __half(double x) : __half(static_cast<float>(x)) {}
    __half(int x) : __half(static_cast<float>(x)) {}
    operator float() const { return emulation::half_to_float(bits); }
    static __half of(unsigned short bits) {
        __half result;
        result.bits = bits;
        return result;
    }
    unsigned short bits;
};

struct alignas(4) __half2 {
    __half2() = default;
    __half2(__half x_, __half y_) : x(x_), y(y_) {}
    __half x, y;
};

using half = __half;
using half2 = __half2;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __double2half(double x) { return __half(static_cast<float>(x)); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline short __half_as_short(__half x) { return static_cast<short>(x.bits); }
inline __half __ushort_as_half(unsigned short bits) { return __half::of(bits); }
inline __half __short_as_half(short bits) { return __half::of(static_cast<unsigned short>(bits)); }

inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline float __low2float(__half2 v) { return v.x; }
inline float __high2float(__half2 v) { return v.y; }
inline bool __hisnan(__half x) { return (x.bits & 0x7fffu) > 0x7c00u; }
