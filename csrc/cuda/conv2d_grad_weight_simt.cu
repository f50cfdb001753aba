// The weight's gradient on ordinary float32 multiply-adds, for any shape and strides, on any device
// from sm_75 up (conv_kernels.h):
//
//   partial[split, col, d] = sum over the split's rows of out[row, col] * source[row, d]
//
// Both operands are read in place, by 16 bytes along channels or with any strides; they are
// float32, float16 or bfloat16, products and sums float32, in the order of the rows.
//
// A block has a tile of (cols, depth) and goes through its rows in steps of 8 (simt_tile.cuh).
// Blocks that follow each other share cols: all tiles of the depth but the first read `out` from
// L2. Not handled: sums in anything but float32, more than 2^31 tiles.
#include <algorithm>
#include <iterator>
#include <type_traits>

#include "cuda/conv_kernels.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/simt_grad_weight.cuh"
#include "cuda/simt_tile.cuh"

namespace fastconv::cuda {
namespace {

using namespace simt;

template <class T, class Tile, bool kVector>
using Operands = std::conditional_t<kVector, VectorOperands<T, Tile>, ScalarOperands<T, Tile>>;

template <class Tile>
constexpr std::size_t shared_bytes(std::size_t table_bytes) {
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

template <class T, class Tile, bool kVector>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
grad_weight(const GradWeightParams p) {
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

Moves moves(const GradWeightArguments& a, const Strides& strides, int step_h, int step_w,
            int rows) {
    const std::int64_t pixel = step_w * strides.width_elems, line = step_h * strides.height_elems;
    return {rows * pixel, line - a.out_w * pixel, strides.batch_elems - a.out_h * line};
}

constexpr int kMostGroups = 65535;  // of a grid's y

template <class T, class Tile, bool kVector>
void launch_tiles(const GradWeightArguments& a, Stream stream) {
    GradWeightParams p;
    p.a = a;
    p.out = moves(a, a.out_strides, 1, 1, Tile::kDepth);
    p.source = moves(a, a.source_strides, a.step_h, a.step_w, Tile::kDepth);
    p.tiles_n = (a.depth + Tile::kN - 1) / Tile::kN;
    p.along_rows = a.out_strides.channel_elems != 1 && a.source_strides.channel_elems != 1;
    const std::int64_t tiles_m = (a.cols + Tile::kM - 1) / Tile::kM;
    for (; p.first_group < a.groups; p.first_group += kMostGroups) {
        const int groups = std::min(a.groups - p.first_group, kMostGroups);
        LaunchShape shape;
        shape.grid = dim3(static_cast<unsigned>(tiles_m * p.tiles_n),
                          static_cast<unsigned>(groups), static_cast<unsigned>(a.splits));
        shape.block = dim3(Tile::kThreads);
        shape.shared_bytes = shared_bytes<Tile>(Operands<T, Tile, kVector>::kTableBytes);
        launch<grad_weight<T, Tile, kVector>>(shape, stream, p);
    }
}

template <class T, class Tile>
void run_storage(const GradWeightArguments& a, bool vector, Stream stream) {
    vector ? launch_tiles<T, Tile, true>(a, stream) : launch_tiles<T, Tile, false>(a, stream);
}

template <class Tile>
void run(const GradWeightArguments& a, Arithmetic storage, bool vector, Stream stream) {
    switch (storage) {
        case Arithmetic::kFloat16: return run_storage<Half, Tile>(a, vector, stream);
        case Arithmetic::kBFloat16: return run_storage<BFloat16, Tile>(a, vector, stream);
        default: return run_storage<float, Tile>(a, vector, stream);
    }
}

template <class Tile>
constexpr GradWeightKernel row(const char* name, float efficiency) {
    return {name,
            75,
            bit(Arithmetic::kFloat32) | bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kM,
            Tile::kN,
            Tile::kDepth,
            Tile::kThreads,
            Tile::kBlocks,
            run<Tile>,
            shared_bytes<Tile>(ScalarOperands<float, Tile>::kTableBytes),
            efficiency,
            true};
}

// Efficiencies are estimates, as in conv2d_simt.cu.
constexpr GradWeightKernel kKernels[] = {
    row<Tile<2, 4, 2, 2, 2>>("simt_128x128", 0.75f),
    row<Tile<2, 2, 1, 2, 4>>("simt_64x64", 0.58f),
};

}  // namespace

GradWeightKernels grad_weight_kernels_simt() { return {std::begin(kKernels), std::end(kKernels)}; }

}  // namespace fastconv::cuda
