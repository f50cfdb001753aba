// Conversions of float32 to and from the 16-bit formats, as bit patterns: to the nearest, ties to
// even; too large becomes infinity, denormals are kept, a NaN becomes 0x7fff as on hardware.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulation {

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline float bfloat16_to_float(std::uint16_t bits) { return float_of(std::uint32_t{bits} << 16); }

inline std::uint16_t float_to_bfloat16(float x) {
    const std::uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float half_to_float(std::uint16_t bits) {
    // Exponent and mantissa in float32's place are 2^112 too small, also for denormals (which
    // float32 normalises in the product); infinity and NaN get float32's exponent.
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t magnitude = (bits & 0x7fffu) << 13;
    std::uint32_t result = bits_of(float_of(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000u) result = magnitude | 0x7f800000u;
    return float_of(sign | result);
}

inline std::uint16_t float_to_half(float x) {
    const std::uint32_t bits = bits_of(x);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
    std::uint32_t half;
    if (magnitude < 0x38800000u) {  // below 2^-14: multiples of 2^-24, rounded by the addition
        half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    } else {
        half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | half);
}

}  // namespace emulation
