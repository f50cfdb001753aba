// Register tiles along a row of output positions, for few filters and channels whose images lie as
// planes: vectors hold neighbouring positions, not channels.
//
//   forward   out[k][q] = sum over c, r, s of x[c][r][q + s * dilation] * weight[c, r, s][k] + bias[k]
//   sums      sum[k][s][lane] += sum over rows p, vectors of grad[k][p][q] * x[p][q + s * dilation]
//
// Loads of x need no alignment; forward's reach to the end of the last pair of vectors.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

template <class T>
struct PlanesForward {
    const T* x = nullptr;  // plane 0 at tap (0, 0) of the first position
    std::int64_t plane_elems = 0, row_elems = 0, tap_elems = 0;  // from c, r, s to the next
    std::int64_t channels = 0, taps_h = 0, taps_w = 0;
    const T* weights = nullptr;  // (c, r, s, k)
    const T* bias = nullptr;     // (k), or null
    bool relu = false;
    T* out = nullptr;  // two vectors a filter
    std::int64_t out_plane_elems = 0;
};

template <class T>
struct PlanesSums {
    const T* x = nullptr;  // at the first of the taps of the first position
    std::int64_t x_row_elems = 0, tap_elems = 0;
    const T* grad = nullptr;
    std::int64_t grad_row_elems = 0, grad_plane_elems = 0;
    std::int64_t rows = 0, cols = 0;
    T* sums = nullptr;  // one vector each: taps follow each other
    std::int64_t filter_elems = 0;
};

template <class T>
struct PlanesKernels {
    static constexpr int kVectors = 2;  // of positions, forward
    static constexpr int kFewestFilters = 3, kMostFilters = 8;
    static constexpr int kFilters = 3, kTaps = 5;  // at most together, sums
    int lanes;
    void (*forward[kMostFilters + 1])(const PlanesForward<T>&);       // by filters
    void (*sums[kFilters + 1][kTaps + 1])(const PlanesSums<T>&);     // by filters and taps
};

}  // namespace fastconv::cpu
