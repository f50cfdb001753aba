// Formulas of one element: activations and their gradients, and the words of Philox4x32-10.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/operation.h"

namespace fastconv::cuda {

/// Calls body(formula), formula(a, b) -> y, of the operation; all threads take the same branch.
template <class Body>
__device__ inline void with_formula(ElementwiseOp op, float parameter, const Body& body) {
    using Op = ElementwiseOp;
    switch (op) {
        case Op::kRelu: return body([](float a, float) { return a <= 0 ? 0.0f : a; });
        case Op::kReluBackward: return body([](float a, float b) { return b <= 0 ? 0.0f : a; });
        case Op::kLeakyRelu:
            return body([=](float a, float) { return a > 0 ? a : a * parameter; });
        case Op::kLeakyReluBackward:
            return body([=](float a, float b) { return b > 0 ? a : a * parameter; });
        case Op::kSigmoid:  // exp(-|a|) does not overflow
            return body([](float a, float) {
                const float e = expf(-fabsf(a));
                return (a < 0 ? e : 1.0f) / (1.0f + e);
            });
        case Op::kSigmoidBackward: return body([](float a, float b) { return a * b * (1.0f - b); });
        case Op::kTanh: return body([](float a, float) { return tanhf(a); });
        case Op::kTanhBackward: return body([](float a, float b) { return a * (1.0f - b * b); });
        case Op::kAdd: return body([](float a, float b) { return a + b; });
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
