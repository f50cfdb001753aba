// Walking a line of neighbours by vectors: full ones, then one partial, through the same instructions.
#pragma once

#include "cpu/tiles/vector.h"

namespace {

template <class T>
FC_INLINE Vec<T> load_some(const T* p, int count) {
    return count == Vec<T>::kLanes ? Vec<T>::load(p) : Vec<T>::load(p, count);
}

template <class T>
FC_INLINE void store_some(Vec<T> x, T* p, int count) {
    if (count == Vec<T>::kLanes) return x.store(p);
    x.store(p, count);
}

/// body(i, count) for each vector of a line: its first element and how many lanes exist. `count` is
/// a constant in the loop, so that load_some and store_some cost nothing there.
template <class T, class Body>
FC_INLINE void for_vectors(std::int64_t n, Body&& body) {
    std::int64_t i = 0;
    for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) body(i, Vec<T>::kLanes);
    if (const int left = lanes_left<T>(n, i)) body(i, left);
}

}  // namespace
