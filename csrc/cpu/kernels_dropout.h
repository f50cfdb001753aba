// Dropout's random numbers: Philox4x32-10 (J. Salmon et al., "Parallel Random Numbers: As Easy as 1,
// 2, 3", 2011), one 32-bit word an element. Element i takes word i % 4 of the counter (i / 4, 0) of
// four 32-bit words, low word first; the key is the seed's low and high word.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct DropoutKernels {
    /// factor[i] = scale if element first + i is kept (its word is at least threshold), else 0.
    void (*factors)(std::int64_t n, std::uint64_t first, std::uint64_t seed,
                    std::uint64_t threshold, T scale, T* factor);
    /// y[i] = factor[i] == 0 ? 0 : x[i] * factor[i], so that a dropped NaN is 0. y may be x.
    void (*apply)(std::int64_t n, const T* x, const T* factor, T* y);
};

}  // namespace fastconv::cpu
