// How sums leave a block of tma_tile.cuh, to a Store that knows where they go. Three ways:
//
// By TMA, where the result is of 16 bits and its rows lie evenly: a warp's 16 rows of 64 columns at a
// time, rounded, by stmatrix into one of two places of 2 KB, from where the copy takes them while the
// warp goes on, into the next tile too.
//
//   store.mapped()                    whether; store.plain(): nothing is added
//   store.added(row)                  a handle of what is added to a row
//   store.finish(handle, col, sums)   adds it to a pair of columns
//   store.copy_out(row, col, from)
//
// As float32 partial sums, straight from the registers: four lanes' pairs are a whole sector.
//
//   store.partial()                   whether
//   store.put_pairs(row, col, block)  all of a thread's pairs of 64 columns in that row
//
// Otherwise eight neighbouring columns at a time in float32:
//
//   store.row(row)                    a handle of a row of the tile
//   store.fetch(handle, col)          what is added to eight of its columns, on its way
//   store.put(handle, col, sums, fetched)
//
// passed through 2 KB a warp, 16 rows of 32 columns: 16-byte chunk q of row r stands at q ^ 2 (r % 4),
// so that a half-warp's pairs of four rows meet every bank once, and readers of two chunks begin with
// the second on odd rows.
//
// The blocks of a cluster that share the sum leave all of theirs where the ring was; then each adds up
// some of the rows, always in the order of the blocks.
#pragma once

#include "cuda/tma_tile.cuh"

namespace fastconv::cuda::tma {

/// Eight floats in two halves, 16 bytes each.
__device__ inline void read_eight(float (&value)[8], const float* first, const float* second) {
    const auto lo = *reinterpret_cast<const Pack<float, 4>*>(first);
    const auto hi = *reinterpret_cast<const Pack<float, 4>*>(second);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        value[e] = lo.value[e];
        value[4 + e] = hi.value[e];
    }
}

template <class T>
__device__ inline std::uint32_t rounded(const float (&pair)[2]) {
    const Pack<T, 2> both{{from_float<T>(pair[0]), from_float<T>(pair[1])}};
    std::uint32_t word;
    memcpy(&word, &both, sizeof word);
    return word;
}

/// A warp's 16 rows of 64 columns, from its sums' `at` on, rounded, to its lanes' `line`s, swizzled
/// as TMA wants them.
template <class T, bool kPlain, int kSums, class Store>
__device__ inline void stage_columns(const float (&block)[kSums], int at, const Store& store,
                                     const typename Store::Row (&added)[2], int col,
                                     unsigned char* line) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int quad = 0; quad < 4; ++quad) {
        std::uint32_t word[4];  // two times eight columns of two times eight rows
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int eight = 2 * quad + i / 2, first = at + eight * 4 + i % 2 * 2;
            float pair[2] = {block[first], block[first + 1]};
            if constexpr (!kPlain) store.finish(added[i % 2], col + eight * 8 + lane % 4 * 2, pair);
            word[i] = rounded<T>(pair);
        }
        ptx::store_matrices(line + ((2 * quad + lane / 16) ^ (lane % 8)) * 16, word);
    }
}

/// By TMA. `place`: the next of the two, 0 or 1: a warp's copies take turns, and who writes one waits
/// until the last from there, two before, has read it.
template <class T, class Sums, class Store>
__device__ inline void store_mapped(const Sums& sums, const Store& store, unsigned char* staging,
                                    int& place) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const bool plain = store.plain();
#pragma unroll
    for (int m = 0; m < Sums::kMBlocks; ++m) {
        const int row = sums.row() + m * 64 + warp * 16;
        typename Store::Row added[2] = {};
        if (!plain) {
            added[0] = store.added(row + lane / 4);
            added[1] = store.added(row + 8 + lane / 4);
        }
#pragma unroll
        for (int first = 0; first < Sums::kN; first += 64) {
            const int col = sums.col() + first;
            unsigned char* const from = staging + place * 2048;
            unsigned char* const line = from + lane % 16 * kLineBytes;  // of stmatrix
            place ^= 1;
            if (lane == 0) ptx::bulk_wait<1>();
            __syncwarp();
            if (plain)
                stage_columns<T, true>(sums.block(m), first / 2, store, added, col, line);
            else stage_columns<T, false>(sums.block(m), first / 2, store, added, col, line);
            ptx::fence_proxy_async();
            __syncwarp();
            if (lane == 0) {
                store.copy_out(row, col, from);
                ptx::bulk_commit();
            }
        }
    }
}

/// As float32 partial sums.
template <class Sums, class Store>
__device__ inline void store_partial(const Sums& sums, const Store& store) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
    for (int m = 0; m < Sums::kMBlocks; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = sums.row() + m * 64 + warp * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int first = 0; first < Sums::kN; first += 64)
                store.put_pairs(row, sums.col() + first, sums.block(m), first / 2 + half * 2);
        }
}

/// Eight neighbouring columns at a time, through `staging`, 2 KB of the warp's own.
template <class Sums, class Store>
__device__ inline void store_sums(const Sums& sums, const Store& store, float* staging) {
    constexpr int kChunkCols = 32, kRowFloats = 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int pair_row = lane / 4, pair_chunk = lane % 4 / 2;
    float* pair = staging + pair_row * kRowFloats + lane % 2 * 2;
    const int swizzle = pair_row % 4 * 2;  // of row pair_row + 8 too
    const int col = lane % 4 * 8;
    const float* eight = staging + lane / 4 * kRowFloats;
    const int chunk = (lane % 4 * 2) ^ swizzle;  // and the one beside it
#pragma unroll
    for (int m = 0; m < Sums::kMBlocks; ++m) {
        const auto& block = sums.block(m);
        typename Store::Row rows[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            rows[i] = store.row(sums.row() + m * 64 + warp * 16 + i * 8 + lane / 4);
        typename Store::Fetched next[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) next[i] = store.fetch(rows[i], sums.col() + col);
#pragma unroll
        for (int first = 0; first < Sums::kN; first += kChunkCols) {
#pragma unroll
            for (int n = 0; n < kChunkCols / 8; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int at = (first / 8 + n) * 4 + half * 2;
                    *reinterpret_cast<Pack<float, 2>*>(
                        pair + half * 8 * kRowFloats + ((2 * n + pair_chunk) ^ swizzle) * 4) = {
                        {block[at], block[at + 1]}};
                }
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const typename Store::Fetched fetched = next[i];
                if (first + kChunkCols < Sums::kN)
                    next[i] = store.fetch(rows[i], sums.col() + first + kChunkCols + col);
                const float* row = eight + i * 8 * kRowFloats;
                const int odd = lane / 4 % 2;
                float halves[8], value[8];
                read_eight(halves, row + (chunk ^ odd) * 4, row + (chunk ^ 1 ^ odd) * 4);
#pragma unroll
                for (int e = 0; e < 8; ++e) value[e] = odd ? halves[e ^ 4] : halves[e];
                store.put(rows[i], sums.col() + first + col, value, fetched);
            }
            __syncwarp();
        }
    }
}

/// By all of the cluster's multiplying threads, between its barriers: this block's sums to `shared`.
template <class Tile, class Sums>
__device__ inline void leave_sums(const Sums& sums, float* shared) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
    for (int m = 0; m < Sums::kMBlocks; ++m) {
        const auto& block = sums.block(m);
        float* at = shared + (sums.row() + m * 64 + warp * 16 + lane / 4) * Tile::kSumPitch +
                    sums.col() + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < Sums::kN / 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<Pack<float, 2>*>(at + half * 8 * Tile::kSumPitch + n * 8) = {
                    {block[n * 4 + half * 2], block[n * 4 + half * 2 + 1]}};
    }
}

/// Then this block's share of the tile's rows: adds up what all blocks left, in their order.
template <class Tile, class Store>
__device__ inline void store_shared_sums(const Store& store, const float* shared, int rank,
                                         int ranks) {
    constexpr int kEights = Tile::kBlockCols / 8;
    const int rows = Tile::kBlockRows / ranks;  // 64 / 8 at least
    for (int at = static_cast<int>(threadIdx.x); at < rows * kEights; at += Tile::kWarps * 32) {
        const int row = rank * rows + at / kEights, col = at % kEights * 8;
        const typename Store::Row handle = store.row(row);
        const typename Store::Fetched fetched = store.fetch(handle, col);
        const float* from = shared + row * Tile::kSumPitch + col;
        float value[8] = {};
#pragma unroll 4
        for (int other = 0; other < ranks; ++other) {
            float lo[4], hi[4];
            ptx::load_cluster_16(lo, from, other);
            ptx::load_cluster_16(hi, from + 4, other);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                value[e] += lo[e];
                value[4 + e] += hi[e];
            }
        }
        store.put(handle, col, value, fetched);
    }
}

/// The multiplying threads' end of a tile.
template <class T, class Tile, class Ring, class Sums, class Store>
__device__ inline void finish_tile(const Ring& ring, const Sums& sums, const Store& store,
                                   int rank, int ranks, int& place) {
    if (ranks == 1) {
        const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
        if (store.mapped()) store_mapped<T>(sums, store, ring.staging(warp), place);
        else if (store.partial()) store_partial(sums, store);
        else store_sums(sums, store, reinterpret_cast<float*>(ring.staging(warp)));
        return;
    }
    auto* shared = reinterpret_cast<float*>(ring.stages);
    // The other warpgroups may still multiply what stands there. A cluster has but one tile.
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(ring.multiplied);
    ptx::barrier_wait(ring.multiplied, 0);
    leave_sums<Tile>(sums, shared);
    ptx::cluster_barrier();
    store_shared_sums<Tile>(store, shared, rank, ranks);
    ptx::cluster_barrier();  // others may still read this block's
}

/// The multiplying threads' end: nothing is read from shared memory any more.
__device__ inline void finish_block() {
    if (threadIdx.x % 32 == 0) ptx::bulk_wait<0>();
}

/// The producer warps' end of a tile: finish_tile's barriers, which are for all threads.
__device__ inline void attend_tile(int ranks) {
    if (ranks == 1) return;
    ptx::cluster_barrier();
    ptx::cluster_barrier();
}

}  // namespace fastconv::cuda::tma
