// Which tile a block of the correlations by TMA (correlation_tma.cuh, correlation_patch.cuh) computes,
// and where its results go.
#pragma once

#include <cstdint>

#include "cuda/tma_launch.h"
#include "cuda/tma_store.cuh"

namespace fastconv::cuda::tma {

/// By one thread, before the first copies.
__device__ inline void prefetch_maps(const Launch& p) {
    for (int i = 0; i < p.phases; ++i) {
        ptx::prefetch_map(p.phase[i].source);
        ptx::prefetch_map(p.phase[i].weight);
        if (p.out_mapped) ptx::prefetch_map(p.phase[i].out_map);
    }
}

/// A tile: of which phase and group, its first row and column there.
struct Work {
    int phase, group, row, col;
    template <class Tile>
    __device__ static Work of(const Launch& p, int tile) {
        Work work{};
        while (work.phase + 1 < p.phases && tile >= p.phase[work.phase + 1].first_tile)
            ++work.phase;
        const Phase& phase = p.phase[work.phase];
        auto col = static_cast<std::uint32_t>(tile - phase.first_tile);
        std::uint32_t row = p.by_col_tiles.split(col);
        work.group = static_cast<int>(phase.by_row_tiles.split(row));
        work.row = static_cast<int>(row) * Tile::kBlockRows;
        work.col = static_cast<int>(col) * Tile::kBlockCols;
        return work;
    }
};

/// The tap (a, b) and the first channel of a sum's steps, channels outermost.
struct TapWalk {
    int a, b, channel;
    __device__ TapWalk(const Phase& phase, int step) {
        auto tap = static_cast<std::uint32_t>(step);
        channel = static_cast<int>(phase.by_taps.split(tap)) * 64;
        a = static_cast<int>(phase.by_taps_w.split(tap));
        b = static_cast<int>(tap);
    }
    __device__ void advance(const Phase& phase) {
        if (++b < phase.taps_w) return;
        b = 0;
        if (++a * phase.taps_w < phase.taps) return;
        a = 0;
        channel += 64;
    }
    __device__ bool is_first() const { return a == 0 && b == 0; }
};

/// A tap's weights of 64 channels for the block's columns, into consecutive lines; of columns that are
/// neighbours, those panels that there are: what else is multiplied is not stored.
template <class Tile, bool kColsContiguous>
__device__ inline int weight_bytes(const Launch& p, const Work& work) {
    constexpr int kPanels = Tile::kBlockCols / 64;
    return (kColsContiguous ? min(kPanels, (p.cols - work.col + 63) / 64) : kPanels) * kPanelBytes;
}
template <class Tile, bool kColsContiguous>
__device__ inline void copy_weights(unsigned char* lines, int bytes, const Phase& phase,
                                    const TapWalk& at, int col_in_group, int col, int channel,
                                    ptx::Barrier* full) {
    const int tap_h = phase.weight_h + at.a * phase.weight_step_h;
    const int tap_w = phase.weight_w + at.b * phase.weight_step_w;
    if constexpr (kColsContiguous) {
#pragma unroll
        for (int i = 0; i < Tile::kBlockCols / 64; ++i) {
            if (i * kPanelBytes >= bytes) break;
            ptx::copy_tile(lines + i * kPanelBytes, phase.weight, col_in_group + i * 64, tap_w,
                           tap_h, channel, full);
        }
    } else {
        ptx::copy_tile(lines, phase.weight, at.channel, tap_w, tap_h, col, full);
    }
}

/// Of the result.
struct Pixel {
    int n, i, j;
    bool valid;
};

/// Rows are pixels as they follow each other.
struct LineRows {
    __device__ static Pixel pixel(const Phase& phase, int row) {
        auto j = static_cast<std::uint32_t>(row);
        const std::uint32_t n = phase.by_image.split(j), i = phase.by_width.split(j);
        return {static_cast<int>(n), static_cast<int>(i), static_cast<int>(j), row < phase.rows};
    }
    /// 16 of them.
    __device__ static void copy_out(const Phase& phase, int col, int row, const void* from) {
        if (row < phase.rows) ptx::copy_tile_out(phase.out_map, col, row, 0, 0, from);
    }
};

/// 64 rows are a tile of 8x8 pixels, tiles follow each other along width, height, batch.
struct PatchRows {
    __device__ static Pixel pixel(const Phase& phase, int row) {
        auto tile_j = static_cast<std::uint32_t>(row) / 64;
        std::uint32_t tile_i = phase.by_tiles_w.split(tile_j);
        const int n = static_cast<int>(phase.by_tiles_h.split(tile_i));
        const int i = static_cast<int>(tile_i) * 8 + row % 64 / 8;
        const int j = static_cast<int>(tile_j) * 8 + row % 8;
        return {n, i, j, i < phase.out_h && j < phase.out_w && n < phase.batch};
    }
    /// 16 of them: two lines of 8.
    __device__ static void copy_out(const Phase& phase, int col, int row, const void* from) {
        const Pixel at = pixel(phase, row);
        if (at.n < phase.batch)
            ptx::copy_tile_out(phase.out_map, col, at.j, at.i, at.n, from);
    }
};

/// out = relu(sums + bias + residual), rounded once, 16 bytes at a time.
template <class T, class Rows>
class CorrelationStore {
public:
    struct Row {
        std::int64_t out, residual;  // elements; out is -1 beyond the last row
    };
    using Fetched = Pack<T, 8>;

    __device__ CorrelationStore(const Launch& p, const Work& work)
        : p_(p), phase_(p.phase[work.phase]), work_(work) {}

    __device__ bool mapped() const { return p_.out_mapped; }
    __device__ bool plain() const {
        return p_.bias == nullptr && p_.residual == nullptr && !p_.relu;
    }
    __device__ static constexpr bool partial() { return false; }
    template <int kSums>
    __device__ static void put_pairs(int, int, const float (&)[kSums], int) {}
    __device__ Row added(int row) const {
        return p_.residual != nullptr ? this->row(row) : Row{-1, -1};
    }
    __device__ void finish(const Row& added, int col, float (&pair)[2]) const {
        const bool there = work_.col + col < p_.cols;
        if (p_.bias != nullptr && there)
            add(pair, static_cast<const T*>(p_.bias) + work_.group * p_.cols + work_.col + col);
        if (added.out >= 0 && there)
            add(pair, static_cast<const T*>(p_.residual) + added.residual + col);
        if (p_.relu) {
#pragma unroll
            for (int e = 0; e < 2; ++e) pair[e] = pair[e] < 0.0f ? 0.0f : pair[e];  // NaN stays
        }
    }
    __device__ void copy_out(int row, int col, const unsigned char* from) const {
        if (work_.col + col < p_.cols)
            Rows::copy_out(phase_, work_.group * p_.cols + work_.col + col, work_.row + row, from);
    }

    __device__ Row row(int row) const {
        const Pixel at = Rows::pixel(phase_, work_.row + row);
        if (!at.valid) return {-1, -1};
        return {offset(at, p_.out_strides, p_.out_group_elems),
                offset(at, p_.residual_strides, p_.residual_group_elems)};
    }
    __device__ Fetched fetch(const Row& row, int col) const {
        Fetched added{};
        if (p_.residual != nullptr && stored(row, col))
            added = *reinterpret_cast<const Fetched*>(static_cast<const T*>(p_.residual) +
                                                      row.residual + col);
        return added;
    }
    __device__ void put(const Row& row, int col, const float (&sums)[8],
                        const Fetched& added) const {
        if (!stored(row, col)) return;
        const T* bias = static_cast<const T*>(p_.bias) + work_.group * p_.cols + work_.col + col;
        Pack<T, 8> result;
        if (plain()) {
#pragma unroll
            for (int e = 0; e < 8; ++e) result.value[e] = from_float<T>(sums[e]);
        } else {
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                float value = sums[e];
                if (p_.bias != nullptr) value += to_float(bias[e]);
                if (p_.residual != nullptr) value += to_float(added.value[e]);
                if (p_.relu && value < 0.0f) value = 0.0f;  // NaN stays
                result.value[e] = from_float<T>(value);
            }
        }
        store_pack(static_cast<T*>(phase_.out) + row.out + col, result);
    }

private:
    __device__ static void add(float (&pair)[2], const T* from) {
        const auto two = *reinterpret_cast<const Pack<T, 2>*>(from);
        pair[0] += to_float(two.value[0]);
        pair[1] += to_float(two.value[1]);
    }
    __device__ std::int64_t offset(const Pixel& at, const Strides& strides,
                                   std::int64_t group_elems) const {
        return at.n * strides.batch_elems + at.i * strides.height_elems +
               at.j * strides.width_elems +
               work_.group * group_elems + work_.col;
    }
    __device__ bool stored(const Row& row, int col) const {
        return row.out >= 0 && work_.col + col < p_.cols;
    }

    const Launch& p_;
    const Phase& phase_;
    Work work_;
};

}  // namespace fastconv::cuda::tma
