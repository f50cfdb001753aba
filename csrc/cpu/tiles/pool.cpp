// Windows reduced lane by lane: maximum, maximum with index, average; the maximum's gradient is in
// pool_gradient.h (contract and picture: cpu/kernels_pool.h).
//
// Four vectors of lanes a pass (for averages of large windows eight, or all lanes: average_wide and
// average_lines below): enough independent chains to hide the latency of max and add (4 cycles), and
// each tap's address is computed once for all of them. A pass loads every tap once from L1; memory sets
// the pace (an input byte and an output byte are fetched and written once).
//
// NaN: max(x, best) keeps `best` where either is NaN, so a NaN already taken stays, and a mask
// beside it notes those that were not.
#include "cpu/kernels_pool.h"
#include "cpu/tiles/interleave.h"
#include "cpu/tiles/pool_gradient.h"
#include "cpu/tiles/pool_pass.h"
#include "cpu/tiles/pool_vector.h"

namespace {

using fastconv::cpu::PoolIndexTile;
using fastconv::cpu::PoolKernels;
using fastconv::cpu::PoolNarrowTile;
using fastconv::cpu::PoolTile;

template <class T>
constexpr T infinity() {
    return static_cast<T>(__builtin_inff());
}

template <class T, int Vectors, bool Partial>
FC_INLINE void max_pass(const PoolTile<T>& tile, std::int64_t i, std::int64_t lane, int count) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> best[Vectors];
    typename Lane<T>::Mask nan[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
        best[v] = Vec<T>::broadcast(-infinity<T>());
        nan[v] = Lane<T>::none();
    }
    const T* row = tile.source + i * tile.step_elems + lane;
    for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems) {
        for (std::int64_t s = 0; s < tile.col_count; ++s) {
            const T* tap = row + tile.cols[s];
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
                const Vec<T> x = load_lanes<Partial>(tap + v * kLanes, count);
                best[v] = max(x, best[v]);
                nan[v] = Lane<T>::either(nan[v], Lane<T>::is_nan(x));
            }
        }
    }
    T* out = tile.out + i * tile.out_step_elems + lane;
    const Vec<T> not_a_number = Vec<T>::broadcast(static_cast<T>(__builtin_nanf("")));
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
        store_lanes<Partial>(Lane<T>::select(nan[v], not_a_number, best[v]), out + v * kLanes,
                             count);
}

template <class T, int Vectors, bool Partial>
FC_INLINE void max_index_pass(const PoolTile<T>& tile, const PoolIndexTile& index, std::int64_t i,
                              std::int64_t lane, int count) {
    constexpr int kLanes = Vec<T>::kLanes;
    const T* row = tile.source + i * tile.step_elems + lane;
    const bool any = tile.rows > 0 && tile.col_count > 0;
    Vec<T> best[Vectors];
    typename Lane<T>::Index winner[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {  // the first tap wins over nothing, even where it is -inf
        best[v] = any ? load_lanes<Partial>(row + tile.cols[0] + v * kLanes, count)
                      : Vec<T>::broadcast(-infinity<T>());
        winner[v] = Lane<T>::index(any ? index.col_adds[0] : -1);
    }
    for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems) {
        for (std::int64_t s = r == 0; s < tile.col_count; ++s) {
            const T* tap = row + tile.cols[s];
            const auto here = Lane<T>::index(r * index.row_add + index.col_adds[s]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
                const Vec<T> x = load_lanes<Partial>(tap + v * kLanes, count);
                const auto wins = Lane<T>::beats(x, best[v]);
                best[v] = Lane<T>::select(wins, x, best[v]);
                winner[v] = Lane<T>::select_index(wins, here, winner[v]);
            }
        }
    }
    T* out = tile.out + i * tile.out_step_elems + lane;
    std::int64_t* out_index = index.data + i * index.step_elems + lane;
    const std::int64_t lane_add = any ? index.lane_add : 0;
    const std::int64_t first = any ? index.first + i * index.step_add : 0;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
        store_lanes<Partial>(best[v], out + v * kLanes, count);
        Lane<T>::template store_index<Partial>(winner[v], first + (lane + v * kLanes) * lane_add,
                                               lane_add, out_index + v * kLanes, count);
    }
}

constexpr std::int64_t kSumBlock = 256;  // terms in one accumulator before it is added to the total

template <class T, int Vectors, bool Partial>
FC_INLINE void average_pass(const PoolTile<T>& tile, std::int64_t i, std::int64_t lane, int count) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> total[Vectors], sum[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) total[v] = sum[v] = Vec<T>::zero();
    const T* row = tile.source + i * tile.step_elems + lane;
    std::int64_t terms = 0;
    for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems) {
        for (std::int64_t begin = 0; begin < tile.col_count; begin += kSumBlock) {
            const std::int64_t left = tile.col_count - begin;
            const std::int64_t end = begin + (left < kSumBlock ? left : kSumBlock);
            if (terms + end - begin > kSumBlock) {
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) {
                    total[v] = total[v] + sum[v];
                    sum[v] = Vec<T>::zero();
                }
                terms = 0;
            }
            terms += end - begin;
            for (std::int64_t s = begin; s < end; ++s) {
                const T* tap = row + tile.cols[s];
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v)
                    sum[v] = sum[v] + load_lanes<Partial>(tap + v * kLanes, count);
            }
        }
    }
    T* out = tile.out + i * tile.out_step_elems + lane;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
        Vec<T> mean = total[v] + sum[v];
        if (tile.reciprocal != 0) mean = mean * Vec<T>::broadcast(tile.reciprocal);
        else mean = mean / Vec<T>::broadcast(tile.divisor);
        if (tile.accumulate) mean = load_lanes<Partial>(out + v * kLanes, count) + mean;
        store_lanes<Partial>(mean, out + v * kLanes, count);
    }
}

template <class T>
void max_tile(const PoolTile<T>& tile) {
    for_passes(tile, [&](auto pass, std::int64_t i, std::int64_t lane, int count) FC_PASS {
        max_pass<T, decltype(pass)::kVectors, decltype(pass)::kPartial>(tile, i, lane, count);
    });
}

template <class T>
void max_index_tile(const PoolTile<T>& tile, const PoolIndexTile& index) {
    for_passes(tile, [&](auto pass, std::int64_t i, std::int64_t lane, int count) FC_PASS {
        max_index_pass<T, decltype(pass)::kVectors, decltype(pass)::kPartial>(tile, index, i, lane,
                                                                              count);
    });
}

/// One tap a position: a gradient of windows that do not overlap. Positions that share their tap
/// (step_elems = 0) are copies of the first, whose lanes stay in L1.
template <class T>
void share_tile(const PoolTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    const bool exact = tile.reciprocal != 0;
    const Vec<T> factor = Vec<T>::broadcast(exact ? tile.reciprocal : tile.divisor);
    const auto scaled = [&](Vec<T> x) FC_PASS {
        const Vec<T> sum = Vec<T>::zero() + x;  // 0 for -0, as average_pass has it
        return exact ? sum * factor : sum / factor;
    };
    const auto each_vector = [&](const T* from, T* to, auto change) FC_PASS {
        std::int64_t lane = 0;
        for (; lane + kLanes <= tile.lanes; lane += kLanes)
            change(Vec<T>::load(from + lane)).store(to + lane);
        if (const int left = lanes_left<T>(tile.lanes, lane))
            change(Vec<T>::load(from + lane, left)).store(to + lane, left);
    };
    const T* source = tile.source + tile.cols[0];
    T* out = tile.out;
    const std::int64_t taps = tile.step_elems == 0 ? 1 : tile.positions;
    for (std::int64_t i = 0; i < taps; ++i)
        each_vector(source + i * tile.step_elems, out + i * tile.out_step_elems, scaled);
    for (std::int64_t i = taps; i < tile.positions; ++i)
        each_vector(out, out + i * tile.out_step_elems, [](Vec<T> x) FC_PASS { return x; });
}

/// Lanes before the first that lies on a vector's boundary, where a large window's taps agree on it:
/// from 16 bytes beside a cache line, 1024 channels 7x7 came at 58 GB/s from L2, on it at 101.
template <class T>
std::int64_t lanes_before_boundary(const PoolTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    if (tile.col_count < 2) return 0;
    if (tile.row_elems % kLanes != 0 || tile.step_elems % kLanes != 0 ||
        (tile.cols[1] - tile.cols[0]) % kLanes != 0)
        return 0;
    const auto address = reinterpret_cast<std::uintptr_t>(tile.source + tile.cols[0]);
    return static_cast<std::int64_t>((kLanes - address / sizeof(T) % kLanes) % kLanes);
}

/// each(Pass, lane, count): `before` lanes, whole vectors, the rest.
template <class T, class Each>
FC_INLINE void for_vectors(std::int64_t before, std::int64_t lanes, Each each) {
    constexpr int kLanes = Vec<T>::kLanes;
    if (before > 0) each(Pass<1, true>{}, std::int64_t{0}, static_cast<int>(before));
    std::int64_t lane = before;
    for (; lane + kLanes <= lanes; lane += kLanes) each(Pass<1, false>{}, lane, kLanes);
    if (const int left = lanes_left<T>(lanes, lane)) each(Pass<1, true>{}, lane, left);
}

constexpr int kWideVectors = 8;

/// Large windows over many lanes, eight vectors a pass. Taps that lie 4 KB apart or a multiple of it meet in
/// one set of L1, whose lines come one after the other: a Zen 4 took 44 cycles a tap for one vector, 3.5 a
/// line for eight. So there are no narrow passes: the first and the last overlap their neighbours.
template <class T>
void average_wide(const PoolTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes, kPass = kWideVectors * kLanes;
    // One pass more, which pays among several.
    const std::int64_t before = tile.lanes >= 4 * kPass ? lanes_before_boundary(tile) : 0;
    const std::int64_t last = tile.lanes - kPass;
    for (std::int64_t i = 0; i < tile.positions; ++i)
        for (std::int64_t lane = 0, next = before; lane <= last; lane = next) {
            average_pass<T, kWideVectors, false>(tile, i, lane, kLanes);
            if (lane > 0 || next == 0) next = lane + kPass;
            if (lane < last && next > last) next = last;
        }
}

constexpr std::int64_t kSumLanes = 2048;

/// A large window by itself, such as a whole image: sums in L1, to which tap after tap is added as they lie in
/// memory, where passes that skip from tap to tap get half of its bandwidth (1024 channels 7x7 on a Zen 4: from
/// memory 0.6 of their time, from L3 0.85, from L2 0.9).
template <class T>
void average_lines(const PoolTile<T>& tile) {
    alignas(64) T buffer[kSumLanes + Vec<T>::kLanes];
    const std::int64_t before = lanes_before_boundary(tile);
    T* const sums = buffer + (Vec<T>::kLanes - before) % Vec<T>::kLanes;
    const bool exact = tile.reciprocal != 0;
    const Vec<T> factor = Vec<T>::broadcast(exact ? tile.reciprocal : tile.divisor);
    for (std::int64_t first = 0; first < tile.lanes; first += kSumLanes) {
        const std::int64_t lanes = tile.lanes - first < kSumLanes ? tile.lanes - first : kSumLanes;
        const auto for_vectors = [before, lanes](auto each) FC_PASS {
            std::int64_t lane = before < lanes ? before : lanes;
            if (lane > 0) each(Pass<1, true>{}, std::int64_t{0}, static_cast<int>(lane));
            for (; lane + Vec<T>::kLanes <= lanes; lane += Vec<T>::kLanes)
                each(Pass<1, false>{}, lane, Vec<T>::kLanes);
            if (const int left = lanes_left<T>(lanes, lane)) each(Pass<1, true>{}, lane, left);
        };
        const T* row = tile.source + first;
        for (std::int64_t r = 0; r < tile.rows; ++r, row += tile.row_elems)
            for (std::int64_t s = 0; s < tile.col_count; ++s) {
                const T* tap = row + tile.cols[s];
                const bool begins = r == 0 && s == 0;
                for_vectors([&](auto pass, std::int64_t lane, int count) FC_PASS {
                    constexpr bool kPartial = decltype(pass)::kPartial;
                    const Vec<T> sum = begins ? Vec<T>::zero() : load_lanes<kPartial>(sums + lane, count);
                    store_lanes<kPartial>(sum + load_lanes<kPartial>(tap + lane, count), sums + lane, count);
                });
            }
        for_vectors([&](auto pass, std::int64_t lane, int count) FC_PASS {
            constexpr bool kPartial = decltype(pass)::kPartial;
            const Vec<T> sum = load_lanes<kPartial>(sums + lane, count);
            store_lanes<kPartial>(exact ? sum * factor : sum / factor, tile.out + first + lane, count);
        });
    }
}

template <class T>
void average_tile(const PoolTile<T>& tile) {
    const std::int64_t terms = tile.rows * tile.col_count;
    if (terms == 1 && !tile.accumulate) return share_tile(tile);
    // Passes that overlap would accumulate twice.
    if (terms >= 16 && tile.lanes >= kWideVectors * Vec<T>::kLanes && !tile.accumulate)
        return tile.positions == 1 && terms <= kSumBlock ? average_lines(tile) : average_wide(tile);
    for_passes(tile, [&](auto pass, std::int64_t i, std::int64_t lane, int count) FC_PASS {
        average_pass<T, decltype(pass)::kVectors, decltype(pass)::kPartial>(tile, i, lane, count);
    });
}

template <class T>
void split(std::int64_t count, const T* line, T* even, T* odd) {
    constexpr int kLanes = Vec<T>::kLanes;
    std::int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes)
        split_pair(Vec<T>::load(line + i), Vec<T>::load(line + i + kLanes), even + i / 2,
                   odd + i / 2);
    for (; i < count; ++i) (i % 2 == 0 ? even : odd)[i / 2] = line[i];
}

template <class T>
void merge(std::int64_t count, const T* even, const T* odd, T* line) {
    constexpr int kLanes = Vec<T>::kLanes;
    std::int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes)
        merge_pair(Vec<T>::load(even + i / 2), Vec<T>::load(odd + i / 2), line + i);
    for (; i < count; ++i) line[i] = (i % 2 == 0 ? even : odd)[i / 2];
}

template <class T>
constexpr PoolKernels<T> table() {
    PoolKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
    kernels.max = max_tile<T>;
    kernels.max_index = max_index_tile<T>;
    kernels.average = average_tile<T>;
    kernels.max_backward = max_backward_tile<T>;
    if constexpr (sizeof(T) == 4) kernels.max_backward_narrow = max_backward_narrow_tile;
    kernels.narrow = narrow;
    kernels.split = split<T>;
    kernels.merge = merge<T>;
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const PoolKernels<float> pool_f32 = table<float>();
extern const PoolKernels<double> pool_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA
