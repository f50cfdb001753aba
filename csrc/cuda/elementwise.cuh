// Formulas of one element: activations, their gradients, arithmetic, and the words of Philox4x32-10.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/operation.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {

/// 1 / (1 + exp(-a)). `coarse`: by two approximate instructions, within 2^-17 of itself, for results
/// that are rounded to 16 bits; below 2^-126 it is 0. Else within 2 ulp of float32: exp(-|a|) does not
/// overflow, and a denominator in 1 .. 2 takes one Newton step instead of a division with its branches.
__device__ inline float sigmoid(float a, bool coarse) {
    constexpr float kLog2E = 1.44269504f;
    if (coarse) return ptx::reciprocal_approx(1.0f + ptx::exp2_approx(-kLog2E * a));
    const float e = expf(-fabsf(a)), d = 1.0f + e;
    const float r = ptx::reciprocal_approx(d);
    return (a < 0 ? e : 1.0f) * fmaf(fmaf(-d, r, 1.0f), r, r);
}

/// `coarse`: 1 - 2 / (1 + exp(2 a)) within 2^-17 of itself, for results of 16 bits; where that cancels,
/// its series up to the fifth power.
__device__ inline float hyperbolic_tangent(float a, bool coarse) {
    constexpr float kTwoLog2E = 2.88539008f, kSeries = 0.125f;
    if (!coarse) return tanhf(a);
    const float square = a * a;
    const float near = a * fmaf(square, fmaf(square, 2.0f / 15, -1.0f / 3), 1.0f);
    const float far =
        fmaf(-2.0f, ptx::reciprocal_approx(1.0f + ptx::exp2_approx(kTwoLog2E * a)), 1.0f);
    return fabsf(a) < kSeries ? near : far;
}


/// Calls body(formula), formula(a, b) -> y, of the operation; all threads take the same branch.
/// kOperands: 1 or 2, as the operation takes; 0: either.
template <int kOperands, class Body>
__device__ inline void with_formula(ElementwiseOp op, float parameter, bool coarse,
                                    const Body& body) {
    using Op = ElementwiseOp;
    if constexpr (kOperands != 2) {
        switch (op) {
            case Op::kRelu: return body([](float a, float) { return a <= 0 ? 0.0f : a; });
            case Op::kLeakyRelu:
                return body([=](float a, float) { return a > 0 ? a : a * parameter; });
            case Op::kSigmoid: return body([=](float a, float) { return sigmoid(a, coarse); });
            case Op::kTanh:
                return body([=](float a, float) { return hyperbolic_tangent(a, coarse); });
            default: break;
        }
    }
    if constexpr (kOperands != 1) {
        switch (op) {
            case Op::kReluBackward: return body([](float a, float b) { return b <= 0 ? 0.0f : a; });
            case Op::kLeakyReluBackward:
                return body([=](float a, float b) { return b > 0 ? a : a * parameter; });
            case Op::kSigmoidBackward:
                return body([](float a, float b) { return a * b * (1.0f - b); });
            case Op::kTanhBackward:
                return body([](float a, float b) { return a * (1.0f - b * b); });
            case Op::kAdd: return body([](float a, float b) { return a + b; });
            case Op::kSubtract: return body([](float a, float b) { return a - b; });
            case Op::kMultiply: return body([](float a, float b) { return a * b; });
            case Op::kAddRelu:
                return body([](float a, float b) { return a + b <= 0 ? 0.0f : a + b; });
            default: break;
        }
    }
}

struct Words {
    std::uint32_t word[4];
    /// word[i] without indexing by a variable, which would put the words into memory.
    __device__ std::uint32_t pick(std::uint64_t i) const {
        const std::uint32_t low = (i & 1) ? word[1] : word[0], high = (i & 1) ? word[3] : word[2];
        return (i & 2) ? high : low;
    }
};

/// Philox4x32-10 of counter (counter, 0) (J. Salmon et al., "Parallel Random Numbers: As Easy as
/// 1, 2, 3", 2011).
__device__ inline Words philox(std::uint64_t counter, std::uint64_t seed) {
    std::uint32_t a = static_cast<std::uint32_t>(counter);
    std::uint32_t b = static_cast<std::uint32_t>(counter >> 32), c = 0, d = 0;
    std::uint32_t k = static_cast<std::uint32_t>(seed), l = static_cast<std::uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t left = std::uint64_t{a} * 0xD2511F53u;
        const std::uint64_t right = std::uint64_t{c} * 0xCD9E8D57u;
        a = static_cast<std::uint32_t>(right >> 32) ^ b ^ k;
        b = static_cast<std::uint32_t>(right);
        c = static_cast<std::uint32_t>(left >> 32) ^ d ^ l;
        d = static_cast<std::uint32_t>(left);
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
}

}  // namespace fastconv::cuda
