// FMA peak and read bandwidth of one core; contract in kernels_probe.h.
#include "cpu/kernels_probe.h"

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

template <class T>
std::int64_t fma(std::int64_t iterations) {
    typename Vec<T>::Type sums[kChains] = {}, a, b;
    a = typename Vec<T>::Type{} + T(0.5);
    b = typename Vec<T>::Type{} + T(0.5);
    for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 10
        for (int k = 0; k < kChains; ++k) {
            sums[k] = a * b + sums[k];
            asm volatile("" : "+x"(sums[k]));
        }
    }
    return iterations * kChains * std::int64_t(kBytes / sizeof(T)) * 2;
}

template <class T>
T read(const T* data, std::size_t elements) {
    T sum = 0;
    for (std::size_t i = 0; i < elements; ++i) sum += data[i];
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
