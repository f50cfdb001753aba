// The names of operations that differ in one formula only; every device's kernels share them.
#pragma once

#include <cstdint>

namespace fastconv {

enum class ElementwiseOp : std::uint8_t {
    kRelu,               // a <= 0 ? 0 : a, so that NaN stays
    kReluBackward,       // b <= 0 ? 0 : a              a is grad_output, b output, here and below
    kLeakyRelu,          // a > 0 ? a : a * parameter
    kLeakyReluBackward,  // b > 0 ? a : a * parameter
    kSigmoid,            // e / (1 + e) or 1 / (1 + e), e = exp(-|a|)
    kSigmoidBackward,    // a * b * (1 - b)
    kTanh,               // e / (e + 2) with a's sign, e = exp(2 |a|) - 1
    kTanhBackward,       // a * (1 - b * b)
    kAdd,                // a + b
    kSubtract,           // a - b
    kMultiply,           // a * b
    kAddRelu,            // a + b <= 0 ? 0 : a + b
};
constexpr int kElementwiseOps = 12;

enum SoftmaxKind : int { kSoftmax, kLogSoftmax, kSoftmaxBackward, kLogSoftmaxBackward };

}  // namespace fastconv
