// Lines of SGD: parameter, gradient and velocity are each read once, the first and last written once
// (contract: cpu/kernels_sgd.h).
#include "cpu/kernels_sgd.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::SgdCoefficients;
using fastconv::cpu::SgdKernels;

template <class T>
struct Broadcast {
    Vec<T> minus_rate, momentum, weight_decay;
    bool decays, nesterov;
};

// Gives the new parameter; `velocity` becomes the new velocity where kMomentum.
template <bool kMomentum, class T>
FC_INLINE Vec<T> stepped(Vec<T> parameter, Vec<T> grad, Vec<T>& velocity, const Broadcast<T>& by) {
    if (by.decays) grad = fma(parameter, by.weight_decay, grad);
    if constexpr (kMomentum) {
        velocity = velocity * by.momentum + grad;
        grad = by.nesterov ? fma(velocity, by.momentum, grad) : velocity;
    }
    return fma(grad, by.minus_rate, parameter);
}

template <bool kMomentum, class T>
void step(std::int64_t n, T* parameter, const T* grad, T* velocity, const Broadcast<T>& by) {
    constexpr int kLanes = Vec<T>::kLanes;
    std::int64_t i = 0;
    Vec<T> v = Vec<T>::zero();
    for (; i + kLanes <= n; i += kLanes) {
        if (kMomentum) v = Vec<T>::load(velocity + i);
        stepped<kMomentum>(Vec<T>::load(parameter + i), Vec<T>::load(grad + i), v, by)
            .store(parameter + i);
        if (kMomentum) v.store(velocity + i);
    }
    if (const int left = lanes_left<T>(n, i)) {
        if (kMomentum) v = Vec<T>::load(velocity + i, left);
        stepped<kMomentum>(Vec<T>::load(parameter + i, left), Vec<T>::load(grad + i, left), v, by)
            .store(parameter + i, left);
        if (kMomentum) v.store(velocity + i, left);
    }
}

template <class T>
void choose(std::int64_t n, T* parameter, const T* grad, T* velocity, SgdCoefficients<T> c) {
    const Broadcast<T> by{Vec<T>::broadcast(-c.rate), Vec<T>::broadcast(c.momentum),
                          Vec<T>::broadcast(c.weight_decay), c.weight_decay != 0, c.nesterov};
    if (velocity) return step<true>(n, parameter, grad, velocity, by);
    step<false>(n, parameter, grad, velocity, by);
}

template <class T>
constexpr SgdKernels<T> table() {
    return {choose<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const SgdKernels<float> sgd_f32 = table<float>();
extern const SgdKernels<double> sgd_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
