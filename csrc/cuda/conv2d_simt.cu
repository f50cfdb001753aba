// Implicit GEMM on ordinary float32 multiply-adds, for any shape, strides and device from sm_75 up:
//
//   out[row, col] = relu?(sum over d of source[row, d] * weight[d, col]
//                         + bias[col] + residual[row, col])
//
// source: the image in place, by 16 bytes along channels or with any strides; weight: packed as
// (depth, cols); see conv_kernels.h. Operands are float32, float16 or bfloat16; products and sums
// are float32, each output's in the order of the depth, so bits depend on the splits alone.
//
// A block has a tile of the output and goes through the depth in steps of 8 (simt_tile.cuh). Tiles
// of one row of tiles run at the same time: they share their part of the source in L2, while all of
// the weights stay there. Not handled: sums in anything but float32, more than 2^31 tiles.
#include <algorithm>
#include <iterator>
#include <type_traits>

#include "cuda/conv_kernels.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/simt_store.cuh"
#include "cuda/simt_tile.cuh"

namespace fastconv::cuda {
namespace {

using namespace simt;

template <class T, class Tile, bool kVector>
using Source = std::conditional_t<kVector, VectorSource<T, Tile>, ScalarSource<T, Tile>>;

template <class Tile>
constexpr std::size_t shared_bytes(std::size_t table_bytes) {
    const std::size_t loop = 2 * Tile::kStage * sizeof(float) + table_bytes;
    return std::max(loop, store_bytes<Tile>());
}

template <class T, class Tile, bool kVector>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
correlate(const CorrelationParams p) {
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

constexpr int kMostGroups = 65535;  // of a grid's y

template <class T, class Tile, bool kVector>
void launch_tiles(const CorrelationArguments& a, Stream stream) {
    if (a.rows == 0 || a.cols == 0) return;
    CorrelationParams p;
    p.a = a;
    const Strides& strides = a.source_strides;
    p.next_tap_w = a.offset_step_w * strides.width_elems - a.channels * strides.channel_elems;
    p.next_tap_h = a.offset_step_h * strides.height_elems -
                   a.taps_w * (a.offset_step_w * strides.width_elems);
    p.tiles_n = (a.cols + Tile::kN - 1) / Tile::kN;
    p.store = store_order<T>(a);
    p.along_depth = strides.channel_elems == 1 && a.channels >= Tile::kDepth;
    const std::int64_t tiles_m = (a.rows + Tile::kM - 1) / Tile::kM;
    for (; p.first_group < a.groups; p.first_group += kMostGroups) {
        const int groups = std::min(a.groups - p.first_group, kMostGroups);
        LaunchShape shape;
        shape.grid = dim3(static_cast<unsigned>(tiles_m * p.tiles_n),
                          static_cast<unsigned>(groups), static_cast<unsigned>(a.splits));
        shape.block = dim3(Tile::kThreads);
        shape.shared_bytes = shared_bytes<Tile>(Source<T, Tile, kVector>::kTableBytes);
        launch<correlate<T, Tile, kVector>>(shape, stream, p);
    }
}

template <class T, class Tile>
void run_storage(const CorrelationArguments& a, bool vector, Stream stream) {
    if (vector) launch_tiles<T, Tile, true>(a, stream);
    else launch_tiles<T, Tile, false>(a, stream);
}

/// Few tiles have 16-bit storage, to keep the instances few.
template <class Tile, bool k16BitToo>
void run_phase(const CorrelationArguments& a, Arithmetic storage, bool vector, Stream stream) {
    if constexpr (k16BitToo) {
        if (storage == Arithmetic::kFloat16) return run_storage<Half, Tile>(a, vector, stream);
        if (storage == Arithmetic::kBFloat16) return run_storage<BFloat16, Tile>(a, vector, stream);
    }
    run_storage<float, Tile>(a, vector, stream);
}

/// A launch a phase: the registers that one launch of all needs would be spilled in the main loop.
template <class Tile, bool k16BitToo>
void run(const CorrelationLaunch& phases, Arithmetic storage, bool vector, Stream stream) {
    for (int i = 0; i < phases.phases; ++i)
        run_phase<Tile, k16BitToo>(phases.phase(i), storage, vector, stream);
}

template <class Tile, bool k16BitToo>
constexpr CorrelationKernel row(const char* name, float efficiency) {
    constexpr unsigned kFloat32 = bit(Arithmetic::kFloat32);
    constexpr unsigned k16Bit = bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16);
    return {name,
            75,
            k16BitToo ? kFloat32 | k16Bit : kFloat32,
            Tile::kM,
            Tile::kN,
            Tile::kDepth,
            Tile::kThreads,
            Tile::kBlocks,
            WeightLayout::kDepthCol,
            run<Tile, k16BitToo>,
            shared_bytes<Tile>(Source<float, Tile, false>::kTableBytes),
            efficiency,
            true,
            false};
}

// Registers decide how many blocks fit: 168 or 128 a thread for 8 x 8 sums, 128 below. Efficiencies as
// measured on an H100 (VGG-16's conv4_2, batch 32, of 59 TFLOP/s at 1.755 GHz). Rejected: 256x128
// with 16 x 8 sums a thread, 8 or 16 depths a step: within 2 % of 128x128 there, behind it elsewhere.
constexpr CorrelationKernel kKernels[] = {
    row<Tile<2, 4, 2, 2, 2>, true>("simt_128x128", 0.81f),
    row<Tile<2, 2, 2, 2, 3>, false>("simt_128x64", 0.77f),
    row<Tile<2, 2, 1, 2, 4>, true>("simt_64x64", 0.72f),
    row<Tile<4, 1, 2, 1, 4>, false>("simt_256x16", 0.48f),
};

}  // namespace

Kernels correlation_kernels_simt() { return {std::begin(kKernels), std::end(kKernels)}; }

}  // namespace fastconv::cuda
