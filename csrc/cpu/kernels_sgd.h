// One line of a step of stochastic gradient descent, in PyTorch's order of operations:
//
//     g = grad + weight_decay * p        v = momentum * v + g
//     p = p - rate * (nesterov ? g + momentum * v : v)          without momentum: p - rate * g
//
// Products are added by one FMA each, as PyTorch's add(..., alpha) does; momentum * v is rounded by
// itself. Source: I. Sutskever et al., "On the importance of initialization and momentum" (2013), in
// PyTorch's form, which applies the rate to the velocity and not to the gradient.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct SgdCoefficients {
    T rate, momentum, weight_decay;
    bool nesterov;
};

template <class T>
struct SgdKernels {
    /// velocity may be null where momentum is 0.
    void (*step)(std::int64_t n, T* parameter, const T* grad, T* velocity,
                 SgdCoefficients<T> coefficients);
};

}  // namespace fastconv::cpu
