// Lines of local response normalization. A window is `count` lines of n neighbours, `step` elements
// apart: other channels of the same positions (C order), or the same line shifted by one channel
// after the other, zeros beyond its ends (channels last).
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct ResponseWindow {
    const T* first = nullptr;
    std::int64_t step = 0;
    std::int64_t count = 0;
};

/// d = offset + slope * sum of squares; the result is a multiple of d^-exponent.
template <class T>
struct ResponsePower {
    T offset, slope, exponent;
};

template <class T>
struct ResponseNormKernels {
    static constexpr int kFast = 3;  // exponents 3/4, 1/2 and 1 by roots, then any other by pow
    /// y = x * d^-exponent
    void (*forward[kFast + 1])(std::int64_t n, ResponseWindow<T> window, ResponsePower<T> power,
                               const T* x, T* y);
    /// ratio = grad * x * d^(-exponent - 1), out = grad * d^-exponent
    void (*ratios[kFast + 1])(std::int64_t n, ResponseWindow<T> window, ResponsePower<T> power,
                              const T* x, const T* grad, T* ratio, T* out);
    /// out = out - factor * x * sum over the window of ratios
    void (*finish)(std::int64_t n, ResponseWindow<T> ratios, T factor, const T* x, T* out);
};

/// Index into forward and ratios.
inline int response_power_index(double exponent) {
    return exponent == 0.75 ? 0 : exponent == 0.5 ? 1 : exponent == 1.0 ? 2 : 3;
}

}  // namespace fastconv::cpu
