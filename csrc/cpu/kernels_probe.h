// Probes of the machine: what the arithmetic and the memory can do, to compare kernels with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct ProbeKernels {
    int lanes;  // elements of T in one vector register of this instruction set

    // `iterations` rounds of independent fused multiply-adds on registers only.
    // Returns the floating-point operations done (2 for each lane of each FMA).
    std::int64_t (*fma)(std::int64_t iterations);

    // Reads `elements` values once, in order; returns their sum so that the reads must happen.
    T (*read)(const T* data, std::size_t elements);
};

}  // namespace fastconv::cpu
