// The frame of pooling's tiles: a pass is one position and a few vectors of lanes.
#pragma once

#include "cpu/kernels_pool.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::PoolTile;

// A pass is a few vectors: called instead of inlined it would spend as long on its prologue.
#define FC_PASS __attribute__((always_inline))

/// How many vectors a pass takes, and whether the last (only) one is partial.
template <int Vectors, bool Partial>
struct Pass {
    static constexpr int kVectors = Vectors;
    static constexpr bool kPartial = Partial;
};

template <bool Partial, class T>
FC_INLINE Vec<T> load_lanes(const T* p, int count) {
    if constexpr (Partial) return Vec<T>::load(p, count);
    else return Vec<T>::load(p);
}

template <bool Partial, class T>
FC_INLINE void store_lanes(Vec<T> v, T* p, int count) {
    if constexpr (Partial) v.store(p, count);
    else v.store(p);
}

/// pass(Pass, position, first lane, lanes of a vector) over all positions and lanes.
template <class T, class Body>
FC_INLINE void for_passes(const PoolTile<T>& tile, Body pass) {
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t i = 0; i < tile.positions; ++i) {
        std::int64_t lane = 0;
        for (; lane + 4 * kLanes <= tile.lanes; lane += 4 * kLanes)
            pass(Pass<4, false>{}, i, lane, kLanes);
        if (lane + 2 * kLanes <= tile.lanes) {
            pass(Pass<2, false>{}, i, lane, kLanes);
            lane += 2 * kLanes;
        }
        for (; lane + kLanes <= tile.lanes; lane += kLanes) pass(Pass<1, false>{}, i, lane, kLanes);
        if (const int left = lanes_left<T>(tile.lanes, lane)) pass(Pass<1, true>{}, i, lane, left);
    }
}

}  // namespace
