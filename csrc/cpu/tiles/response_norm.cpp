// Lines of local response normalization (contract: cpu/kernels_response_norm.h). d^(-3/4), the power of
// every published network, takes two square roots and a division: s = sqrt(d), 1 / (s * sqrt(s)).
// The window is summed anew for every element: no sum is ever subtracted from, which would cancel.
#include "cpu/kernels_response_norm.h"
#include "cpu/tiles/line.h"

namespace {

using fastconv::cpu::ResponseNormKernels;
using fastconv::cpu::ResponsePower;
using fastconv::cpu::ResponseWindow;

enum Power { kThreeQuarters, kHalf, kOne, kAny };

template <class T>
FC_INLINE Vec<T> denominator(const ResponseWindow<T>& window, const ResponsePower<T>& power,
                             std::int64_t i, int count) {
    Vec<T> sum = Vec<T>::zero();
    const T* line = window.first + i;
    for (std::int64_t j = 0; j < window.count; ++j, line += window.step) {
        const Vec<T> x = load_some(line, count);
        sum = fma(x, x, sum);
    }
    return fma(sum, Vec<T>::broadcast(power.slope), Vec<T>::broadcast(power.offset));
}

template <class T>
Vec<T> any_power(Vec<T> d, T exponent) {
    T lanes[Vec<T>::kLanes];
    d.store(lanes);
    for (int i = 0; i < Vec<T>::kLanes; ++i)
        lanes[i] = static_cast<T>(
            __builtin_pow(static_cast<double>(lanes[i]), -static_cast<double>(exponent)));
    return Vec<T>::load(lanes);
}

template <Power kPower, class T>
FC_INLINE Vec<T> inverse_power(Vec<T> d, T exponent) {
    const Vec<T> one = Vec<T>::broadcast(1);
    if constexpr (kPower == kThreeQuarters) {
        const Vec<T> root = sqrt(d);
        return one / (root * sqrt(root));
    }
    if constexpr (kPower == kHalf) return one / sqrt(d);
    if constexpr (kPower == kOne) return one / d;
    return any_power(d, exponent);
}

template <Power kPower, class T>
void forward(std::int64_t n, ResponseWindow<T> window, ResponsePower<T> power, const T* x, T* y) {
    for_vectors<T>(n, [&](std::int64_t i, int count) {
        const Vec<T> d = denominator(window, power, i, count);
        store_some(load_some(x + i, count) * inverse_power<kPower>(d, power.exponent), y + i,
                   count);
    });
}

template <Power kPower, class T>
void ratios(std::int64_t n, ResponseWindow<T> window, ResponsePower<T> power, const T* x,
            const T* grad, T* ratio, T* out) {
    for_vectors<T>(n, [&](std::int64_t i, int count) {
        const Vec<T> d = denominator(window, power, i, count);
        const Vec<T> scaled =
            load_some(grad + i, count) * inverse_power<kPower>(d, power.exponent);
        store_some(scaled * load_some(x + i, count) / d, ratio + i, count);
        store_some(scaled, out + i, count);
    });
}

template <class T>
void finish(std::int64_t n, ResponseWindow<T> window, T factor, const T* x, T* out) {
    for_vectors<T>(n, [&](std::int64_t i, int count) {
        Vec<T> sum = Vec<T>::zero();
        const T* line = window.first + i;
        for (std::int64_t j = 0; j < window.count; ++j, line += window.step)
            sum = sum + load_some(line, count);
        const Vec<T> scaled = load_some(x + i, count) * Vec<T>::broadcast(factor);
        store_some(load_some(out + i, count) - scaled * sum, out + i, count);
    });
}

template <class T>
constexpr ResponseNormKernels<T> table() {
    return {{forward<kThreeQuarters, T>, forward<kHalf, T>, forward<kOne, T>, forward<kAny, T>},
            {ratios<kThreeQuarters, T>, ratios<kHalf, T>, ratios<kOne, T>, ratios<kAny, T>},
            finish<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const ResponseNormKernels<float> response_norm_f32 = table<float>();
extern const ResponseNormKernels<double> response_norm_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
