// grad_weight by TMA and wgmma (tma_tile.cuh), in float16 or bfloat16 with sums in float32:
//
//   weight[col, d] = sum over rows of out[row, col] * source[row, d]
//
// `out` is grad_output; a tile's rows are the weight's columns (filters), its columns the depth. A step
// is a box of at most 64 of the result's pixels, of both operands, which come channels first in memory:
// MN-major, in panels of 64 channels. A panel of the depth is 64 channels of one tap; taps are the inner
// ones, for their pixels are mostly the same.
//
// Boxes divide the image, so that only whole images are ever missing from one, and what zeros meet in
// the other operand are zeros too. Lines that a box does not fill are zeros from the beginning.
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/divider.h"
#include "cuda/tma_operands.h"
#include "cuda/tma_store.cuh"

namespace fastconv::cuda::tma {

struct WeightLaunch {
    TensorMap out, source, weight_map;
    void* weight;    // or null: `partial` is written
    float* partial;  // (splits, groups, cols, depth)
    int cols, depth, groups;
    int channels, taps, panels;
    Divider by_taps, by_taps_w;
    PixelBox box;
    Divider by_boxes_w, by_boxes_h;  // of an image
    int steps;                       // boxes of all images
    int first_h, first_w, tap_h, tap_w, step_h, step_w;
    Divider by_col_tiles, by_depth_tiles;
    int tiles;
    int ranks, splits;
    bool accumulate;
    bool weight_mapped;  // the weight is copied out by TMA
};

struct WeightWork {
    int group, col, panel, begin, steps;  // boxes from `begin` on
    template <class Tile>
    __device__ static WeightWork of(const WeightLaunch& p, int tile, int rank) {
        WeightWork work{};
        auto depth = static_cast<std::uint32_t>(tile);
        std::uint32_t col = p.by_depth_tiles.split(depth);
        work.group = static_cast<int>(p.by_col_tiles.split(col));
        work.col = static_cast<int>(col) * Tile::kBlockRows;
        work.panel = static_cast<int>(depth) * (Tile::kBlockCols / 64);
        const Share split(p.steps, static_cast<int>(blockIdx.y), p.splits);
        const Share share(split.end - split.begin, rank, p.ranks);
        work.begin = split.begin + share.begin;
        work.steps = share.end - share.begin;
        return work;
    }
};

/// A panel's 64 channels: which, and of which tap; beyond the last panel there is no tap.
struct Panel {
    int tap, channel;
    __device__ Panel(const WeightLaunch& p, int panel) {
        auto rest = static_cast<std::uint32_t>(panel);
        channel = static_cast<int>(p.by_taps.split(rest)) * 64;
        tap = panel < p.panels ? static_cast<int>(rest) : -1;
    }
};

/// The first pixel of a box.
struct BoxPlace {
    int n, i, j;
    __device__ BoxPlace(const WeightLaunch& p, int box) {
        auto box_j = static_cast<std::uint32_t>(box);
        std::uint32_t box_i = p.by_boxes_w.split(box_j);
        n = static_cast<int>(p.by_boxes_h.split(box_i)) * p.box.images;
        i = static_cast<int>(box_i) * p.box.height;
        j = static_cast<int>(box_j) * p.box.width;
    }
};

/// One thread of each of the producer's warps: starts the copies of its steps of a tile.
template <class Tile>
__device__ void copy_weight_steps(const WeightLaunch& p, const WeightWork& work,
                                  const Ring<Tile>& ring, RingPlace& place, Turn& turn) {
    constexpr int kRowPanels = Tile::kBlockRows / 64, kColPanels = Tile::kBlockCols / 64;
    // In few registers: the taps' pixels, height above width, 8 bits each.
    int tap_pixels[kColPanels], channel[kColPanels];
#pragma unroll
    for (int i = 0; i < kColPanels; ++i) {
        const Panel panel(p, work.panel + i);
        auto b = static_cast<std::uint32_t>(panel.tap < 0 ? 0 : panel.tap);
        const auto a = static_cast<int>(p.by_taps_w.split(b));
        tap_pixels[i] = a * p.tap_h << 8 | static_cast<int>(b) * p.tap_w;
        // Channels that are not there arrive as zeros. No copy is left out instead: ptxas 13.0 made the
        // copies' conditions predicates, and read one of them before it was set (seen on an H100).
        channel[i] = panel.tap < 0 ? p.groups * p.channels : work.group * p.channels + panel.channel;
    }
    const int bytes = (kRowPanels + kColPanels) * p.box.pixels() * kLineBytes;
    for (int step = 0; step < work.steps; ++step, place.advance(Tile::kStages)) {
        if (!turn.take()) continue;
        const BoxPlace at(p, work.begin + step);
        const int h = p.first_h + at.i * p.step_h, w = p.first_w + at.j * p.step_w;
        ptx::barrier_wait(ring.empty + place.stage, place.parity ^ 1);
        unsigned char* stage = ring.stages + place.stage * Tile::kStageBytes;
        ptx::Barrier* full = ring.full + place.stage;
        ptx::barrier_arrive_expect(full, bytes);
#pragma unroll
        for (int panel = 0; panel < kRowPanels; ++panel)
            ptx::copy_tile(stage + panel * kPanelBytes, p.out,
                           work.group * p.cols + work.col + panel * 64, at.j, at.i, at.n, full);
#pragma unroll
        for (int panel = 0; panel < kColPanels; ++panel)
            ptx::copy_tile(stage + Tile::kRowBytes + panel * kPanelBytes, p.source, channel[panel],
                           w + (tap_pixels[panel] & 255), h + (tap_pixels[panel] >> 8), at.n, full);
    }
}

/// By all threads, before the ring starts: the lines that no box fills.
template <class Tile>
__device__ void clear_unfilled_lines(const WeightLaunch& p) {
    const int unfilled = kStepTerms - p.box.pixels();
    if (unfilled == 0) return;
    constexpr int kPanels = Tile::kStages * Tile::kStageBytes / kPanelBytes, kChunks = kLineBytes / 16;
    for (int at = static_cast<int>(threadIdx.x); at < kPanels * unfilled * kChunks;
         at += Tile::kThreads) {
        const int panel = at / (unfilled * kChunks), in_panel = at - panel * (unfilled * kChunks);
        unsigned char* line = ptx::shared_memory() + panel * kPanelBytes + p.box.pixels() * kLineBytes;
        *reinterpret_cast<Pack<float, 4>*>(line + in_panel * 16) = {};
    }
    ptx::fence_proxy_async();
}

/// To the weight, rounded once and added to what it holds where asked, or to float32 partial sums.
template <class T>
class WeightStore {
public:
    struct Row {
        std::int64_t first;  // element of depth 0; -1 beyond the last row
    };
    using Fetched = Pack<T, 8>;

    __device__ WeightStore(const WeightLaunch& p, const WeightWork& work) : p_(p), work_(work) {}

    __device__ bool mapped() const { return p_.weight_mapped; }
    __device__ bool plain() const { return !p_.accumulate; }
    __device__ bool partial() const { return p_.weight == nullptr; }
    template <int kSums>
    __device__ void put_pairs(int row, int col, const float (&block)[kSums], int at) const {
        const Panel panel(p_, work_.panel + col / 64);
        const Row handle = this->row(row);
        if (handle.first < 0 || panel.tap < 0) return;
        const int lane_col = static_cast<int>(threadIdx.x) % 4 * 2;
        float* to = p_.partial + handle.first + panel.tap * p_.channels + panel.channel + lane_col;
        const int left = p_.channels - panel.channel - lane_col;
#pragma unroll
        for (int n = 0; n < 8; ++n)
            if (n * 8 < left)
                *reinterpret_cast<Pack<float, 2>*>(to + n * 8) = {
                    {block[at + n * 4], block[at + n * 4 + 1]}};
    }
    __device__ Row added(int row) const { return p_.accumulate ? this->row(row) : Row{-1}; }
    __device__ void finish(const Row& added, int col, float (&pair)[2]) const {
        const int depth = depth_at(added, col);
        if (depth < 0) return;
        const auto before = *reinterpret_cast<const Pack<T, 2>*>(static_cast<const T*>(p_.weight) +
                                                                 added.first + depth);
        pair[0] += to_float(before.value[0]);
        pair[1] += to_float(before.value[1]);
    }
    __device__ void copy_out(int row, int col, const unsigned char* from) const {
        const Panel panel(p_, work_.panel + col / 64);
        if (work_.col + row < p_.cols && panel.tap >= 0)
            ptx::copy_tile_out(p_.weight_map, panel.channel, panel.tap,
                               work_.group * p_.cols + work_.col + row, 0, from);
    }

    __device__ Row row(int row) const {
        row += work_.col;
        if (row >= p_.cols) return {-1};
        const int plane = (p_.weight == nullptr ? static_cast<int>(blockIdx.y) * p_.groups : 0) +
                          work_.group;
        return {(std::int64_t{plane} * p_.cols + row) * p_.depth};
    }
    __device__ Fetched fetch(const Row& row, int col) const {
        Fetched before{};
        const int depth = depth_at(row, col);
        if (p_.accumulate && depth >= 0)
            before = *reinterpret_cast<const Fetched*>(static_cast<const T*>(p_.weight) +
                                                       row.first + depth);
        return before;
    }
    __device__ void put(const Row& row, int col, const float (&sums)[8],
                        const Fetched& before) const {
        const int depth = depth_at(row, col);
        if (depth < 0) return;
        if (p_.weight == nullptr) {
            float* to = p_.partial + row.first + depth;
            store_pack(to, Pack<float, 4>{{sums[0], sums[1], sums[2], sums[3]}});
            store_pack(to + 4, Pack<float, 4>{{sums[4], sums[5], sums[6], sums[7]}});
            return;
        }
        Pack<T, 8> result;
#pragma unroll
        for (int e = 0; e < 8; ++e)
            result.value[e] =
                from_float<T>(p_.accumulate ? sums[e] + to_float(before.value[e]) : sums[e]);
        store_pack(static_cast<T*>(p_.weight) + row.first + depth, result);
    }

private:
    /// -1 where there is none.
    __device__ int depth_at(const Row& row, int col) const {
        if (row.first < 0) return -1;
        const Panel panel(p_, work_.panel + col / 64);
        const int channel = panel.channel + col % 64;
        return panel.tap < 0 || channel >= p_.channels
                   ? -1
                   : panel.tap * p_.channels + channel;
    }

    const WeightLaunch& p_;
    WeightWork work_;
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) grad_weight(const __grid_constant__ WeightLaunch p) {
    Ring<Tile> ring;
    clear_unfilled_lines<Tile>(p);
    ring.start();
    const int ranks = p.ranks, rank = ranks > 1 ? ptx::cluster_rank() : 0;
    const int first = static_cast<int>(blockIdx.x) / ranks;
    const int stride = static_cast<int>(gridDim.x) / ranks;
    RingPlace place;
    if (threadIdx.x >= Tile::kWarps * 32) {
        ptx::give_registers<kProducerRegisters>();
        Turn turn(static_cast<int>(threadIdx.x) / 32 - Tile::kWarps);
        if (threadIdx.x == Tile::kWarps * 32) {
            ptx::prefetch_map(p.out);
            ptx::prefetch_map(p.source);
        }
        for (int tile = first; tile < p.tiles; tile += stride) {
            if (threadIdx.x % 32 == 0)
                copy_weight_steps<Tile>(p, WeightWork::of<Tile>(p, tile, rank), ring, place, turn);
            __syncwarp();
            attend_tile(ranks);
        }
    } else {
        ptx::take_registers<kRegisters>();
        WarpgroupSums<T, Tile, true, true> sums;
        int staged = 0;
        for (int tile = first; tile < p.tiles; tile += stride) {
            const WeightWork work = WeightWork::of<Tile>(p, tile, rank);
            sums.add_steps(ring, place, work.steps);
            finish_tile<T, Tile>(ring, sums, WeightStore<T>(p, work), rank, ranks, staged);
        }
        finish_block();
    }
}

}  // namespace fastconv::cuda::tma
