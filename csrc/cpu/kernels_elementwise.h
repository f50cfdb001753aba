// One line of an element-wise operation: n neighbours in, n neighbours out.
//
// Bounds, in units in the last place of the result (ulp), tested over the range against 80-bit values:
// sigmoid 3, tanh 4 (measured on every ISA: at most 2.4 and 3.1). A result does not depend
// on its place in the line: tails are partial loads into the same instructions.
#pragma once

#include <cstdint>

#include "core/operation.h"

namespace fastconv::cpu {

template <class T>
struct ElementwiseKernels {
    /// y may be a or b. `b` is not read by an operation of one operand.
    void (*run[kElementwiseOps])(std::int64_t n, const T* a, const T* b, T* y, T parameter);
};

}  // namespace fastconv::cpu
