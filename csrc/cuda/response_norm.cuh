// Local response normalization across channels, any strides, forward and backward.
//
//     y[c] = x[c] * d[c]^-beta        d[c] = k + alpha / size * sum of x[j]^2 over j near c
//     near(c) = c - size / 2 .. c + (size - 1) / 2, as far as those channels exist
//     dx[c] = g[c] * d[c]^-beta
//             - 2 alpha beta / size * x[c] * sum of g[j] x[j] d[j]^(-beta - 1) over j that c is near
//
// Two kernels of each direction. With channels last, size 5 and 16-byte items, a thread has an item and
// loads its neighbours too, which are in L1: windows are sums of registers. Otherwise a block stages
// kTilePositions positions by a run of channels and its halo in shared memory, its lanes along
// whichever is contiguous. A window is always summed anew: nothing is subtracted, which would cancel.
// Bytes moved per byte of x: forward 2, backward 3; runs read 2 halo / run of it again, from L2.
// Source: A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), section 3.3; alpha
// divided by size, as in PyTorch and Caffe.
//
// Here: the power that it takes of its denominators, and its parameters.
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
