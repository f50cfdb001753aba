// Division by what is known when a kernel is launched: Granlund and Montgomery, "Division by Invariant
// Integers using Multiplication", 1994.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastconv::cuda {

/// n / divisor for 0 <= n < 2^31 and divisor >= 1: one multiplication, one addition, one shift.
struct Divider {
    std::uint32_t divisor = 1;
    std::uint32_t multiplier = 1;
    std::uint32_t shift = 0;

    Divider() = default;
    explicit Divider(std::int64_t by) : divisor(static_cast<std::uint32_t>(by)) {
        while ((std::uint64_t{1} << shift) < divisor) ++shift;
        const std::uint64_t excess = (std::uint64_t{1} << shift) - divisor;
        multiplier = static_cast<std::uint32_t>((excess << 32) / divisor + 1);
    }
    __host__ __device__ std::uint32_t quotient(std::uint32_t n) const {
        const auto high =
            static_cast<std::uint32_t>((std::uint64_t{n} * multiplier) >> 32);
        return (high + n) >> shift;
    }
    /// The quotient; n becomes the remainder.
    __host__ __device__ std::uint32_t split(std::uint32_t& n) const {
        const std::uint32_t q = quotient(n);
        n -= q * divisor;
        return q;
    }
};

}  // namespace fastconv::cuda
