// How the simt correlation stores its sums: out = relu?(sum + bias + residual), rounded once, or
// the bare sums of a split in float32.
//
// 32 rows of the tile at a time go through shared memory, where they lie as (rows, cols), and then
// to where they belong in the order that suits the operands: 4 neighbours along cols by one access
// (16 bytes, or 8 of 16-bit elements), or one element a lane along cols, or along rows (C order).
#pragma once

#include <cstdint>

#include "cuda/simt_correlation.cuh"

namespace fastconv::cuda::simt {

constexpr int kSlabRows = 32;

template <class Tile>
constexpr std::size_t store_bytes() {
    return kSlabRows * Tile::kPitchN * sizeof(float) + 2 * kSlabRows * sizeof(std::int64_t);
}

/// Sums of one row and kCount neighbouring cols with what is added to them, to where they belong.
/// `out_elems`, `residual_elems`: where the row is.
template <class T, int kCount>
__device__ inline void finish(const CorrelationParams& p, const float* sums, std::int64_t out_elems,
                              std::int64_t residual_elems, std::int64_t group, int col,
                              float* partial) {
    const CorrelationArguments& a = p.a;
    Pack<float, kCount> v = *reinterpret_cast<const Pack<float, kCount>*>(sums);
    if (partial) {
        *reinterpret_cast<Pack<float, kCount>*>(partial + out_elems + col) = v;
        return;
    }
    if (a.bias) {
        const T* bias = static_cast<const T*>(a.bias) + group * a.cols + col;
#pragma unroll
        for (int e = 0; e < kCount; ++e) v.value[e] += to_float(bias[e]);
    }
    if (a.residual) {
        const auto add = *reinterpret_cast<const Pack<T, kCount>*>(
            static_cast<const T*>(a.residual) + residual_elems + group * a.residual_group_elems +
            col * a.residual_strides.channel_elems);
#pragma unroll
        for (int e = 0; e < kCount; ++e) v.value[e] += to_float(add.value[e]);
    }
    Pack<T, kCount> result;
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
        const float y = a.relu && v.value[e] < 0 ? 0.0f : v.value[e];  // NaN stays NaN
        result.value[e] = from_float<T>(y);
    }
    *reinterpret_cast<Pack<T, kCount>*>(static_cast<T*>(a.out) + out_elems +
                                        group * a.out_group_elems +
                                        col * a.out_strides.channel_elems) = result;
}

/// Ends with the block's tile; nobody else uses `shared`, of store_bytes(), any more.
template <class T, class Tile>
__device__ inline void store_tile(const CorrelationParams& p, const Sums<Tile>& sums,
                                  int first_row, int first_col, int group, int split,
                                  float* shared) {
    constexpr int kPerRow = Tile::kN / 4;  // packs
    const CorrelationArguments& a = p.a;
    std::int64_t* out_elems = reinterpret_cast<std::int64_t*>(shared + kSlabRows * Tile::kPitchN);
    std::int64_t* residual_elems = out_elems + kSlabRows;
    float* partial = nullptr;
    if (a.partial)
        partial = a.partial +
                  (static_cast<std::int64_t>(split) * a.groups + group) * a.rows * a.cols;
    const int cols = min(a.cols - first_col, Tile::kN);

#pragma unroll 1
    for (int slab = 0; slab < Tile::kM / kSlabRows; ++slab) {
        const int row = first_row + slab * kSlabRows, rows = min(a.rows - row, kSlabRows);
        if (rows <= 0) break;
        __syncthreads();
        sums.store(shared, slab);
        if (static_cast<int>(threadIdx.x) < rows) {
            const int own = row + static_cast<int>(threadIdx.x);
            out_elems[threadIdx.x] = partial ? static_cast<std::int64_t>(own) * a.cols
                                             : row_elems(a, a.out_strides, own);
            if (a.residual) residual_elems[threadIdx.x] = row_elems(a, a.residual_strides, own);
        }
        __syncthreads();
        if (p.store == Store::kPacks) {
            for (int i = threadIdx.x; i < rows * kPerRow; i += Tile::kThreads) {
                const int m = i / kPerRow, n = i % kPerRow * 4;
                if (n < cols)
                    finish<T, 4>(p, shared + m * Tile::kPitchN + n, out_elems[m],
                                 residual_elems[m], group, first_col + n, partial);
            }
        } else {
            const bool along_rows = p.store == Store::kAlongRows;
            for (int i = threadIdx.x; i < kSlabRows * Tile::kN; i += Tile::kThreads) {
                const int m = along_rows ? i % kSlabRows : i / Tile::kN;
                const int n = along_rows ? i / kSlabRows : i % Tile::kN;
                if (m < rows && n < cols)
                    finish<T, 1>(p, shared + m * Tile::kPitchN + n, out_elems[m],
                                 residual_elems[m], group, first_col + n, partial);
            }
        }
    }
}

// ---- host ---------------------------------------------------------------------------------------

/// The order that suits the output, and that the residual allows.
inline Store store_order(const CorrelationArguments& a, std::int64_t element_bytes) {
    if (a.partial) return a.cols % 4 == 0 ? Store::kPacks : Store::kAlongCols;
    const auto packs = [&](const void* data, std::int64_t group, const Strides& strides) {
        const auto bytes = static_cast<std::uintptr_t>(4 * element_bytes);
        return reinterpret_cast<std::uintptr_t>(data) % bytes == 0 && a.cols % 4 == 0 &&
               group % 4 == 0 && strides.batch_elems % 4 == 0 && strides.height_elems % 4 == 0 &&
               strides.width_elems % 4 == 0 && strides.channel_elems == 1;
    };
    if (packs(a.out, a.out_group_elems, a.out_strides) &&
        (!a.residual || packs(a.residual, a.residual_group_elems, a.residual_strides)))
        return Store::kPacks;
    return a.out_strides.width_elems == 1 ? Store::kAlongRows : Store::kAlongCols;
}

}  // namespace fastconv::cuda::simt
