// How the simt correlation stores its sums: out = relu?(sum + bias + residual), one rounding, or
// the bare sums of a split in float32. By 16 bytes (8 of 16-bit elements) along cols or along rows
// where the host found that neighbours lie so (store_order), else one by one.
#pragma once

#include <cstdint>

#include "cuda/simt_correlation.cuh"

namespace fastconv::cuda::simt {

/// Elements to add or to write: (row, col) is at elems[row - first row of the tile] + col *
/// col_elems.
template <class T>
struct Target {
    T* data = nullptr;
    const std::int64_t* elems = nullptr;  // in shared memory
    std::int64_t col_elems = 1;

    __device__ T* at(int m, int col) const { return data + elems[m] + col * col_elems; }
};

/// Adds to the sums of 4 x 4 neighbours, of which `rows` x `cols` are part of the matrix.
template <class T>
__device__ inline void read_quad(float (&v)[4][4], const Target<const T>& from, Store store, int m,
                                 int col, int rows, int cols) {
    using Four = Pack<T, 4>;
    if (store == Store::kAlongCols && cols >= 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i >= rows) break;
            const Four four = *reinterpret_cast<const Four*>(from.at(m + i, col));
#pragma unroll
            for (int j = 0; j < 4; ++j) v[i][j] += to_float(four.value[j]);
        }
    } else if (store == Store::kAlongRows && rows >= 4) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (j >= cols) break;
            const Four four = *reinterpret_cast<const Four*>(from.at(m, col + j));
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i][j] += to_float(four.value[i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (i < rows && j < cols) v[i][j] += to_float(*from.at(m + i, col + j));
    }
}

template <class T>
__device__ inline void write_quad(const float (&v)[4][4], const Target<T>& to, Store store, int m,
                                  int col, int rows, int cols) {
    using Four = Pack<T, 4>;
    if (store == Store::kAlongCols && cols >= 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i >= rows) break;
            Four four;
#pragma unroll
            for (int j = 0; j < 4; ++j) four.value[j] = from_float<T>(v[i][j]);
            *reinterpret_cast<Four*>(to.at(m + i, col)) = four;
        }
    } else if (store == Store::kAlongRows && rows >= 4) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (j >= cols) break;
            Four four;
#pragma unroll
            for (int i = 0; i < 4; ++i) four.value[i] = from_float<T>(v[i][j]);
            *reinterpret_cast<Four*>(to.at(m, col + j)) = four;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (i < rows && j < cols) *to.at(m + i, col + j) = from_float<T>(v[i][j]);
    }
}

/// Ends with the block's tile; `tables` are of 2 * kM numbers in shared memory that nobody reads
/// any more.
template <class T, class Tile>
__device__ inline void store_tile(const CorrelationParams& p, const Sums<Tile>& sums, int first_row,
                                  int first_col, int group, int split, std::int64_t* tables) {
    const CorrelationArguments& a = p.a;
    for (int m = threadIdx.x; m < Tile::kM && first_row + m < a.rows; m += Tile::kThreads) {
        const std::int64_t row = first_row + m;
        tables[m] = a.partial ? row * a.cols : row_elems(a, a.out_strides, first_row + m);
        if (a.residual) tables[Tile::kM + m] = row_elems(a, a.residual_strides, first_row + m);
    }
    __syncthreads();
    const Target<float> partial{
        a.partial + (static_cast<std::int64_t>(split) * a.groups + group) * a.rows * a.cols,
        tables, 1};
    const Target<T> out{static_cast<T*>(a.out) + group * a.out_group_elems, tables,
                        a.out_strides.channel_elems};
    const Target<const T> residual{
        static_cast<const T*>(a.residual) + group * a.residual_group_elems, tables + Tile::kM,
        a.residual_strides.channel_elems};
    const T* bias = static_cast<const T*>(a.bias) + static_cast<std::int64_t>(group) * a.cols;
#pragma unroll
    for (int quad_m = 0; quad_m < Tile::kQuadsM; ++quad_m) {
#pragma unroll
        for (int quad_n = 0; quad_n < Tile::kQuadsN; ++quad_n) {
            const int m = sums.m() + 32 * quad_m, col = first_col + sums.n() + 16 * quad_n;
            const int rows = a.rows - first_row - m, cols = a.cols - col;
            if (rows <= 0 || cols <= 0) continue;
            float v[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) v[i][j] = sums.sum[4 * quad_m + i][4 * quad_n + j];
            if (a.partial) {
                write_quad(v, partial, p.store, m, col, rows, cols);
                continue;
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float add = a.bias && j < cols ? to_float(bias[col + j]) : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; ++i) v[i][j] += add;
            }
            if (a.residual) read_quad(v, residual, p.store, m, col, rows, cols);
            if (a.relu) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        v[i][j] = v[i][j] < 0 ? 0.0f : v[i][j];  // NaN stays NaN
            }
            write_quad(v, out, p.store, m, col, rows, cols);
        }
    }
}

// ---- host ---------------------------------------------------------------------------------------

/// The order that both operands of the epilogue allow.
template <class T>
Store store_order(const CorrelationArguments& a) {
    if (a.partial) return a.cols % 4 == 0 ? Store::kAlongCols : Store::kSingly;
    const auto aligned = [](const void* data, std::int64_t group, const Strides& s) {
        return reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(T)) == 0 && group % 4 == 0 &&
               s.batch_elems % 4 == 0;
    };
    const auto along_cols = [&](const void* data, std::int64_t group, const Strides& s) {
        return aligned(data, group, s) && s.channel_elems == 1 && s.height_elems % 4 == 0 &&
               s.width_elems % 4 == 0;
    };
    const auto along_rows = [&](const void* data, std::int64_t group, const Strides& s) {
        const bool lines = a.out_w % 4 == 0 && s.height_elems % 4 == 0;
        const bool images = a.out_w * a.out_h % 4 == 0 && s.height_elems == a.out_w;
        return aligned(data, group, s) && s.width_elems == 1 && s.channel_elems % 4 == 0 &&
               (lines || images);
    };
    const auto both = [&](auto&& test) {
        return test(a.out, a.out_group_elems, a.out_strides) &&
               (!a.residual || test(a.residual, a.residual_group_elems, a.residual_strides));
    };
    if (both(along_cols)) return Store::kAlongCols;
    return both(along_rows) ? Store::kAlongRows : Store::kSingly;
}

}  // namespace fastconv::cuda::simt
