// One line of an element-wise operation: n neighbours in, n neighbours out.
//
// Bounds, in units in the last place of the result (ulp), tested over the range against 80-bit values:
// sigmoid 3, tanh 4 (measured on every ISA: at most 2.4 and 3.1). A result does not depend
// on its place in the line: tails are partial loads into the same instructions.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

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
};
constexpr int kElementwiseOps = 9;

template <class T>
struct ElementwiseKernels {
    /// y may be a or b. `b` is not read by an operation of one operand.
    void (*run[kElementwiseOps])(std::int64_t n, const T* a, const T* b, T* y, T parameter);
};

}  // namespace fastconv::cpu
