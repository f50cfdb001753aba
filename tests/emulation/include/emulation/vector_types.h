// CUDA's vector types and dim3.
#pragma once

#include <cstdint>

#define FASTCONV_VECTORS(name, type, align2, align4) \
    struct name##1 { type x; }; \
    struct alignas(align2) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct alignas(align4) name##4 { type x, y, z, w; }; \
    constexpr name##1 make_##name##1(type x) { return {x}; } \
    constexpr name##2 make_##name##2(type x, type y) { return {x, y}; } \
    constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
    constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

FASTCONV_VECTORS(char, signed char, 2, 4)
FASTCONV_VECTORS(uchar, unsigned char, 2, 4)
FASTCONV_VECTORS(short, short, 4, 8)
FASTCONV_VECTORS(ushort, unsigned short, 4, 8)
FASTCONV_VECTORS(int, int, 8, 16)
FASTCONV_VECTORS(uint, unsigned, 8, 16)
FASTCONV_VECTORS(longlong, long long, 16, 16)
FASTCONV_VECTORS(ulonglong, unsigned long long, 16, 16)
FASTCONV_VECTORS(float, float, 8, 16)
FASTCONV_VECTORS(double, double, 16, 16)
#undef FASTCONV_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
