// FMA peak and read bandwidth of one core; contract in kernels_probe.h.
#include "cpu/kernels_probe.h"

#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class T>
struct Vec {
    typedef T Type __attribute__((vector_size(kBytes)));
};

// 10 chains cover 2 FMA units of latency 4 to 5 and, with the two operands, fit 16 registers.
constexpr int kChains = 10;

// sum += a * b in one instruction where the set has it. Assembly, because a compiler may neither
// contract the two operations (-ffp-contract=off) nor may it hoist the constant product: a loop of
// additions alone would measure another unit.
template <class V>
inline void multiply_add(V& sum, const V& a, const V& b, float) {
#if defined(__FMA__)
    asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    V product = a * b;
    asm volatile("" : "+x"(product));
    sum += product;
#endif
}

template <class V>
inline void multiply_add(V& sum, const V& a, const V& b, double) {
#if defined(__FMA__)
    asm volatile("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    V product = a * b;
    asm volatile("" : "+x"(product));
    sum += product;
#endif
}

template <class T>
std::int64_t fma(std::int64_t iterations) {
    typename Vec<T>::Type sums[kChains] = {}, a, b;
    a = typename Vec<T>::Type{} + T(0.5);
    b = typename Vec<T>::Type{} + T(0.5);
    asm volatile("" : "+x"(a), "+x"(b));
    for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 10
        for (int k = 0; k < kChains; ++k) multiply_add(sums[k], a, b, T(0));
    }
#pragma GCC unroll 10
    for (int k = 0; k < kChains; ++k) asm volatile("" : "+x"(sums[k]));
    return iterations * kChains * std::int64_t(kBytes / sizeof(T)) * 2;
}

// 8 sums: one chain of additions would wait for its own latency at each load.
template <class T>
T read(const T* data, std::size_t elements) {
    using V = typename Vec<T>::Type;
    constexpr std::size_t kLanes = kBytes / sizeof(T), kStep = 8 * kLanes;
    V sums[8] = {};
    std::size_t i = 0;
    for (; i + kStep <= elements; i += kStep) {
#pragma GCC unroll 8
        for (std::size_t k = 0; k < 8; ++k) {
            V value;
            std::memcpy(&value, data + i + k * kLanes, kBytes);
            sums[k] += value;
        }
    }
    for (int k = 1; k < 8; ++k) sums[0] += sums[k];
    T sum = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) sum += sums[0][lane];
    for (; i < elements; ++i) sum += data[i];
    return sum;
}

template <class T>
constexpr fastconv::cpu::ProbeKernels<T> table() {
    return {int(kBytes / sizeof(T)), fma<T>, read<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {

extern const ProbeKernels<float> probe_f32 = table<float>();
extern const ProbeKernels<double> probe_f64 = table<double>();

}  // namespace fastconv::cpu::FC_ISA
