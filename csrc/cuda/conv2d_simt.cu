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
// the weights stay there. And grad_weight, likewise (simt_kernels.cuh). Not handled: sums in
// anything but float32, more than 2^31 tiles.
#include <algorithm>
#include <iterator>

#include "cuda/launch.h"
#include "cuda/simt_kernels.cuh"

namespace fastconv::cuda {
namespace {

using namespace simt;

constexpr int kMostGroups = 65535;  // of a grid's y

DType stored(Arithmetic storage) {
    switch (storage) {
        case Arithmetic::kFloat16: return DType::kFloat16;
        case Arithmetic::kBFloat16: return DType::kBFloat16;
        default: return DType::kFloat32;
    }
}

/// Few tiles have 16-bit storage, to keep the code small.
template <class Tile, bool k16BitToo>
void run_phase(const CorrelationArguments& a, DType dtype, bool vector, Stream stream) {
    if (a.rows == 0 || a.cols == 0) return;
    CorrelationParams p;
    p.a = a;
    p.dtype = dtype;
    p.vector = vector;
    const Strides& strides = a.source_strides;
    p.next_tap_w = a.offset_step_w * strides.width_elems - a.channels * strides.channel_elems;
    p.next_tap_h = a.offset_step_h * strides.height_elems -
                   a.taps_w * (a.offset_step_w * strides.width_elems);
    p.tiles_n = (a.cols + Tile::kN - 1) / Tile::kN;
    p.store = store_order(a, element_bytes_of(dtype));
    p.along_depth = strides.channel_elems == 1 && a.channels >= Tile::kDepth;
    const std::int64_t tiles_m = (a.rows + Tile::kM - 1) / Tile::kM;
    for (; p.first_group < a.groups; p.first_group += kMostGroups) {
        const int groups = std::min(a.groups - p.first_group, kMostGroups);
        LaunchShape shape;
        shape.grid = dim3(static_cast<unsigned>(tiles_m * p.tiles_n),
                          static_cast<unsigned>(groups), static_cast<unsigned>(a.splits));
        shape.block = dim3(Tile::kThreads);
        shape.shared_bytes =
            correlate_bytes<Tile>(vector ? 0 : ScalarSource<float, Tile>::kTableBytes);
        launch<correlate<Tile, k16BitToo>>(shape, stream, p);
    }
}

/// A launch a phase: the registers that one launch of all needs would be spilled in the main loop.
template <class Tile, bool k16BitToo>
void run_correlation(const CorrelationLaunch& phases, Arithmetic storage, bool vector,
                     Stream stream) {
    for (int i = 0; i < phases.phases; ++i)
        run_phase<Tile, k16BitToo>(phases.phase(i), stored(storage), vector, stream);
}

template <class Tile, bool k16BitToo>
constexpr CorrelationKernel correlation_row(const char* name, float efficiency) {
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
            run_correlation<Tile, k16BitToo>,
            correlate_bytes<Tile>(ScalarSource<float, Tile>::kTableBytes),
            efficiency,
            true};
}

// Registers decide how many blocks fit: 168 or 128 a thread for 8 x 8 sums, 128 below. Efficiencies as
// measured on an H100 (VGG-16's conv4_2, batch 32, of 59 TFLOP/s at 1.755 GHz). Rejected: 256x128
// with 16 x 8 sums a thread, 8 or 16 depths a step: within 2 % of 128x128 there, behind it elsewhere.
// That of 32x128 is an estimate.
constexpr CorrelationKernel kCorrelations[] = {
    correlation_row<Tile<2, 4, 2, 2, 2>, true>("simt_128x128", 0.81f),
    correlation_row<Tile<2, 2, 2, 2, 3>, false>("simt_128x64", 0.77f),
    correlation_row<Tile<2, 2, 1, 2, 4>, true>("simt_64x64", 0.72f),
    correlation_row<Tile<4, 1, 2, 1, 4>, false>("simt_256x16", 0.48f),
    correlation_row<Tile<1, 4, 1, 2, 4>, false>("simt_32x128", 0.6f),  // linear layers, few images
};

// ---- grad_weight --------------------------------------------------------------------------------

Moves moves(const GradWeightArguments& a, const Strides& strides, int step_h, int step_w,
            int rows) {
    const std::int64_t pixel = step_w * strides.width_elems, line = step_h * strides.height_elems;
    return {rows * pixel, line - a.out_w * pixel, strides.batch_elems - a.out_h * line};
}

template <class Tile>
void run_grad_weight(const GradWeightArguments& a, Arithmetic storage, bool vector, Stream stream) {
    GradWeightParams p;
    p.a = a;
    p.dtype = stored(storage);
    p.vector = vector;
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
        shape.shared_bytes =
            grad_weight_bytes<Tile>(vector ? 0 : ScalarOperands<float, Tile>::kTableBytes);
        launch<grad_weight<Tile>>(shape, stream, p);
    }
}

template <class Tile>
constexpr GradWeightKernel grad_weight_row(const char* name, float efficiency) {
    return {name,
            75,
            bit(Arithmetic::kFloat32) | bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kM,
            Tile::kN,
            Tile::kDepth,
            Tile::kThreads,
            Tile::kBlocks,
            run_grad_weight<Tile>,
            grad_weight_bytes<Tile>(ScalarOperands<float, Tile>::kTableBytes),
            efficiency,
            true};
}

// Efficiencies are estimates.
constexpr GradWeightKernel kGradWeights[] = {
    grad_weight_row<Tile<2, 4, 2, 2, 2>>("simt_128x128", 0.75f),
    grad_weight_row<Tile<2, 2, 1, 2, 4>>("simt_64x64", 0.58f),
};

}  // namespace

Kernels correlation_kernels_simt() { return {std::begin(kCorrelations), std::end(kCorrelations)}; }

GradWeightKernels grad_weight_kernels_simt() {
    return {std::begin(kGradWeights), std::end(kGradWeights)};
}

}  // namespace fastconv::cuda
