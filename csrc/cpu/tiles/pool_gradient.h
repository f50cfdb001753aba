// The gradient of max pooling by gathering: the sum of the taps that took an element, whose indices
// come as they are (int64) or narrowed to the width of a float.
//
// A tap of 16 floats costs two compares and their masks' union where indices are int64, all three on
// one port of Intel's cores; narrowed, one compare.
#pragma once

#include "cpu/kernels_pool.h"
#include "cpu/tiles/pool_narrow.h"
#include "cpu/tiles/pool_pass.h"
#include "cpu/tiles/pool_vector.h"

namespace {

using fastconv::cpu::PoolIndexTile;
using fastconv::cpu::PoolNarrowTile;

template <class T, int Vectors, bool Partial>
FC_INLINE void max_backward_pass(const PoolTile<T>& tile, const PoolIndexTile& index,
                                 std::int64_t i, std::int64_t lane, int count) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> sum[Vectors];
    typename Lane<T>::Target target[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
        sum[v] = Vec<T>::zero();
        target[v] =
            Lane<T>::target(index.first + i * index.step_add + (lane + v * kLanes) * index.lane_add,
                            index.lane_add);
    }
    const T* row = tile.source + i * tile.step_elems + lane;
    const std::int64_t* taken = index.data + i * index.step_elems + lane;
    for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems, taken += index.row_elems) {
        for (std::int64_t s = 0; s < tile.col_count; ++s) {
            const T* tap = row + tile.cols[s];
            const std::int64_t* tap_index = taken + index.cols[s];
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                sum[v] = Lane<T>::template add_where<Partial>(
                    sum[v], load_lanes<Partial>(tap + v * kLanes, count), tap_index + v * kLanes,
                    target[v], count);
        }
    }
    T* out = tile.out + i * tile.out_step_elems + lane;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store_lanes<Partial>(sum[v], out + v * kLanes, count);
}

template <class T>
void max_backward_tile(const PoolTile<T>& tile, const PoolIndexTile& index) {
    for_passes(tile, [&](auto pass, std::int64_t i, std::int64_t lane, int count) FC_PASS {
        max_backward_pass<T, decltype(pass)::kVectors, decltype(pass)::kPartial>(tile, index, i,
                                                                                 lane, count);
    });
}

template <int Vectors, bool Partial>
FC_INLINE void max_backward_narrow_pass(const PoolTile<float>& tile, const PoolNarrowTile& index,
                                        std::int64_t i, std::int64_t lane, int count) {
    constexpr int kLanes = Vec<float>::kLanes;
    Vec<float> sum[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[v] = Vec<float>::zero();
    const auto target = Lane<float>::index(index.first + i * index.step_add);
    const float* row = tile.source + i * tile.step_elems + lane;
    const std::int32_t* taken = index.data + i * index.step_elems + lane;
    for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems, taken += index.row_elems) {
        for (std::int64_t s = 0; s < tile.col_count; ++s) {
            const float* tap = row + tile.cols[s];
            const std::int32_t* tap_index = taken + index.cols[s];
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                sum[v] = add_where_narrow<Partial>(sum[v],
                                                   load_lanes<Partial>(tap + v * kLanes, count),
                                                   tap_index + v * kLanes, target, count);
        }
    }
    float* out = tile.out + i * tile.out_step_elems + lane;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store_lanes<Partial>(sum[v], out + v * kLanes, count);
}

void max_backward_narrow_tile(const PoolTile<float>& tile, const PoolNarrowTile& index) {
    for_passes(tile, [&](auto pass, std::int64_t i, std::int64_t lane, int count) FC_PASS {
        max_backward_narrow_pass<decltype(pass)::kVectors, decltype(pass)::kPartial>(
            tile, index, i, lane, count);
    });
}

void narrow(std::int64_t positions, std::int64_t lanes, const std::int64_t* from,
            std::int64_t from_step, std::int32_t* to, std::int64_t to_step) {
    constexpr int kLanes = Vec<float>::kLanes;
    for (std::int64_t i = 0; i < positions; ++i, from += from_step, to += to_step) {
        std::int64_t lane = 0;
        for (; lane + kLanes <= lanes; lane += kLanes)
            narrow_lanes<false>(from + lane, to + lane, kLanes);
        if (const int left = lanes_left<float>(lanes, lane))
            narrow_lanes<true>(from + lane, to + lane, left);
    }
}

}  // namespace
