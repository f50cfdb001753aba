// The two kernels on ordinary float32 multiply-adds (conv2d_simt.cu): a block's tile of a correlation,
// and of grad_weight. An instance a tile: operands' dtypes and 16-byte accesses are branches around the
// whole of it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/ptx.cuh"
#include "cuda/simt_grad_weight.cuh"
#include "cuda/simt_store.cuh"
#include "cuda/simt_tile.cuh"

namespace fastconv::cuda::simt {

template <class T, class Tile, bool kVector>
using Source = std::conditional_t<kVector, VectorSource<T, Tile>, ScalarSource<T, Tile>>;

template <class Tile>
constexpr std::size_t correlate_bytes(std::size_t table_bytes) {
    const std::size_t loop = 2 * Tile::kStage * sizeof(float) + table_bytes;
    return std::max(loop, store_bytes<Tile>());
}

template <class T, class Tile, bool kVector>
__device__ inline void correlate_of(const CorrelationParams& p) {
    const CorrelationArguments& a = p.a;
    const int first_row = static_cast<int>(blockIdx.x) / p.tiles_n * Tile::kM;
    const int first_col = static_cast<int>(blockIdx.x) % p.tiles_n * Tile::kN;
    const int group = p.first_group + static_cast<int>(blockIdx.y);
    const int begin = static_cast<int>(blockIdx.z) * a.depth_per_split;
    const int end = a.splits == 1 ? a.depth : min(a.depth, begin + a.depth_per_split);
    float* stages = reinterpret_cast<float*>(ptx::shared_memory());

    Sums<Tile> sums(stages);
    if (begin < end) {
        Source<T, Tile, kVector> source(
            p, static_cast<const T*>(a.source) + group * a.source_group_elems, stages, first_row,
            begin, end - begin, reinterpret_cast<Place*>(stages + 2 * Tile::kStage));
        Weight<T, Tile> weight(p, static_cast<const T*>(a.weight) + group * a.weight_group_elems,
                               stages, first_col, begin, end - begin);
        const auto fetch = [&](int left) {
            source.fetch(p, left);
            weight.fetch(p);
        };
        const auto store = [&](int flip) {
            source.store(p, flip);
            weight.store(flip);
        };
        fetch(end - begin);
        store(Tile::kStage);
        __syncthreads();
        sums.load();
        int flip = Tile::kStage;
        for (int left = end - begin - Tile::kDepth; left > -Tile::kDepth; left -= Tile::kDepth) {
            if (left > 0) fetch(left);
            sums.step(flip, [&] {
                if (left > 0) store(-flip);
                __syncthreads();
            });
            flip = -flip;
        }
    }
    store_tile<T>(p, sums, first_row, first_col, group, static_cast<int>(blockIdx.z),
                  stages);
}

/// Few tiles have 16-bit storage.
template <class Tile, bool k16BitToo>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
correlate(const CorrelationParams p) {
    const auto with = [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (p.vector) return correlate_of<T, Tile, true>(p);
        correlate_of<T, Tile, false>(p);
    };
    if constexpr (k16BitToo) with_stored_type(p.dtype, with);
    else with(TypeTag<float>{});
}

template <class T, class Tile, bool kVector>
using Operands = std::conditional_t<kVector, VectorOperands<T, Tile>, ScalarOperands<T, Tile>>;

template <class Tile>
constexpr std::size_t grad_weight_bytes(std::size_t table_bytes) {
    return 2 * Tile::kStage * sizeof(float) + table_bytes;
}

/// (cols, depth) of the split's sums, 16 bytes along the depth where rows of the result are
/// aligned.
template <class Tile>
__device__ inline void store_sums(const GradWeightParams& p, const Sums<Tile>& sums, float* partial,
                                  int first_col, int first_depth) {
    const bool aligned = p.a.depth % 4 == 0;
#pragma unroll
    for (int i = 0; i < Sums<Tile>::kRowsM; ++i) {
        const int col = first_col + sums.m() + i / 4 * 32 + i % 4;
        if (col >= p.a.cols) continue;
#pragma unroll
        for (int quad = 0; quad < Tile::kQuadsN; ++quad) {
            const int d = first_depth + sums.n() + 16 * quad;
            float* to = partial + static_cast<std::int64_t>(col) * p.a.depth + d;
            const float* sum = &sums.sum[i][4 * quad];
            if (aligned && d < p.a.depth) {
                *reinterpret_cast<float4*>(to) = make_float4(sum[0], sum[1], sum[2], sum[3]);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (d + j < p.a.depth) to[j] = sum[j];
            }
        }
    }
}

/// The weight's gradient:
///
///   partial[split, col, d] = sum over the split's rows of out[row, col] * source[row, d]
///
/// Both operands are read in place, by 16 bytes along channels or with any strides; products and sums
/// are float32, in the order of the rows. A block has a tile of (cols, depth) and goes through its
/// rows in steps of 8. Blocks that follow each other share cols: all tiles of the depth but the first
/// read `out` from L2.
template <class T, class Tile, bool kVector>
__device__ inline void grad_weight_of(const GradWeightParams& p) {
    const GradWeightArguments& a = p.a;
    const int first_col = static_cast<int>(blockIdx.x) / p.tiles_n * Tile::kM;
    const int first_depth = static_cast<int>(blockIdx.x) % p.tiles_n * Tile::kN;
    const int group = p.first_group + static_cast<int>(blockIdx.y);
    const int split = static_cast<int>(blockIdx.z);
    const int begin = a.splits == 1 ? 0 : split * a.rows_per_split;
    const int rows = a.splits == 1 ? a.rows : min(a.rows - begin, a.rows_per_split);
    float* stages = reinterpret_cast<float*>(ptx::shared_memory());

    Sums<Tile> sums(stages);
    if (rows > 0) {
        Operands<T, Tile, kVector> operands(
            p, static_cast<const T*>(a.out) + group * a.out_group_elems,
            static_cast<const T*>(a.source) + group * a.source_group_elems, stages, first_col,
            first_depth, begin, rows, reinterpret_cast<Place*>(stages + 2 * Tile::kStage));
        operands.fetch(p);
        operands.store(p, Tile::kStage);
        __syncthreads();
        sums.load();
        int flip = Tile::kStage;
        for (int left = rows - Tile::kDepth; left > -Tile::kDepth; left -= Tile::kDepth) {
            if (left > 0) operands.fetch(p);
            sums.step(flip, [&] {
                if (left > 0) operands.store(p, -flip);
                __syncthreads();
            });
            flip = -flip;
        }
    }
    const std::int64_t result = static_cast<std::int64_t>(split) * a.groups + group;
    store_sums(p, sums, a.partial + result * a.cols * a.depth, first_col, first_depth);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
grad_weight(const GradWeightParams p) {
    with_stored_type(p.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (p.vector) return grad_weight_of<T, Tile, true>(p);
        grad_weight_of<T, Tile, false>(p);
    });
}

}  // namespace fastconv::cuda::simt
