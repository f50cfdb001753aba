// The power that local response normalization takes of its denominators, and its parameters.
#pragma once

#include <cmath>

#include "cuda/strided.cuh"

namespace fastconv::cuda {

constexpr int kResponseThreads = 256;

enum class ResponsePower : std::uint8_t { kThreeQuarters, kHalf, kOne, kAny };

inline ResponsePower response_power(double exponent) {
    return exponent == 0.75  ? ResponsePower::kThreeQuarters
           : exponent == 0.5 ? ResponsePower::kHalf
           : exponent == 1.0 ? ResponsePower::kOne
                             : ResponsePower::kAny;
}

struct ResponseArguments {
    Operand out, x, grad;  // no grad: forward
    StridedWalk positions;        // of out, x and, backward, grad; in items
    std::int64_t channel_elems[3] = {};  // in items
    std::uint32_t channels = 0;          // in items
    std::int32_t before = 0, after = 0;  // the window of a channel
    ResponsePower power = ResponsePower::kAny;
    float offset = 0, slope = 0, exponent = 0;  // d = offset + slope * sum of squares
    float factor = 0;                           // 2 alpha beta / size
};

/// d^-exponent and d^(-exponent - 1). Published networks take 3/4: by rsqrt, within 4 ulp.
struct InversePowers {
    float power, next;
};

__device__ inline InversePowers inverse_powers(const ResponseArguments& by, float squares) {
    const float d = fmaf(squares, by.slope, by.offset);
    if (by.power == ResponsePower::kThreeQuarters) {
        const float root = rsqrtf(d), power = root * ptx::square_root_approx(root);
        return {power, power * (root * root)};
    }
    const float inverse = 1.0f / d;
    const float power = by.power == ResponsePower::kHalf  ? rsqrtf(d)
                        : by.power == ResponsePower::kOne ? inverse
                                                          : powf(d, -by.exponent);
    return {power, power * inverse};
}

}  // namespace fastconv::cuda
