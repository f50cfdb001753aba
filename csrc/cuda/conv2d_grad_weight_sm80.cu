// grad_weight on tensor cores, for each group by itself (conv_kernels.h):
//
//   weight[col, d] = sum over rows of out[row, col] * source[row, d]   cols = K, d = (tap, c)
//
// float16, bfloat16, TF32 and 3xTF32 (tf32.cuh) by mma.sync, sums in float32. `out` is grad_output. A block has a tile
// of (cols, depth) and a part of the rows; its sums go to partial (splits, groups, cols, depth).
// Tiles of both operands come by a ring of cp.async stages, zeros where a tap is outside the image;
// without runs of 16 bytes along channels, element by element through registers
// (grad_weight_load.cuh).
//
// Shared memory bounds it: a warp of 64 x 64 reads (64 + 64) * 16 * 2 bytes for 32 mma.m16n8k16,
// that is one cycle of the 128 bytes a multiprocessor reads for each, where Hopper's mma.sync takes
// 1.6 (0.63 of its peak); one of 64 x 32 would read 1.5 cycles. Hence few, large warps.
//
// Needs sm_80. Offsets of the vector kernels are in chunks of 16 bytes in 32 bits, up to 32 GiB;
// beyond, and for whatever `vector` does not say, the element-wise kernels run.
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <type_traits>

#include "cuda/conv_kernels.h"
#include "cuda/grad_weight_load.cuh"
#include "cuda/grad_weight_sum.cuh"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace grad_weight {

template <class Tile, class T, bool kOutVector, bool kSourceVector>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    grad_weight_sm80(const KernelArguments k) {
    using S = Shape<Tile, T>;
    const GradWeightArguments& a = k.problem;
    const Block block = block_of<S>(k);
    const T* out = static_cast<const T*>(a.out) + block.group * a.out_group_elems;
    const T* source = static_cast<const T*>(a.source) + block.group * a.source_group_elems;
    unsigned char* shared = ptx::shared_memory();

    Warp<S> warp;
    if constexpr (kSourceVector) {
        VectorLoader<S, true> loader(k, out, source, block.col, block.depth, block.row_begin,
                                     block.row_end);
        sum_vector<S>(warp, loader, shared, block.steps);
    } else {
        Tap* taps = reinterpret_cast<Tap*>(shared + 2 * S::kStageBytes);
        ElementLoader<S, S::kDepth, true> source_loader(k, source, taps, block.depth,
                                                        block.row_begin, block.row_end);
        if constexpr (kOutVector) {
            VectorLoader<S, false> out_loader(k, out, source, block.col, block.depth,
                                              block.row_begin, block.row_end);
            sum_elements<S>(warp, out_loader, source_loader, shared, block.steps);
        } else {
            ElementLoader<S, S::kCols, false> out_loader(k, out, nullptr, block.col,
                                                          block.row_begin, block.row_end);
            sum_elements<S>(warp, out_loader, source_loader, shared, block.steps);
        }
    }
    const ResultStore<T> store(k, block);
    warp.each([&](int c, int d, const auto& run) { store(c, block.depth + d, run); });
}

// ---- host ------------------------------------------------------------------------------------

template <class Tile, class T, bool kOutVector, bool kSourceVector>
void start(const GradWeightArguments& a, Stream stream) {
    using S = Shape<Tile, T>;
    KernelArguments k = kernel_arguments<S, T>(a);
    if (a.rows > 0) {
        const auto pass_rows = [](bool channels_fast, int width) {
            return channels_fast ? S::kThreads * kPackElems<T> / width : S::kRows;
        };
        k.out_channels_fast = a.out_strides.channel_elems == 1;
        k.source_channels_fast = a.source_strides.channel_elems == 1 && a.channels > 1;
        k.chunks = walk_of<int>(a, VectorLoader<S, true>::kPassRows, kPackElems<T>);
        k.out_elems = walk_of<std::int64_t>(a, pass_rows(k.out_channels_fast, S::kCols), 1);
        k.source_elems = walk_of<std::int64_t>(a, pass_rows(k.source_channels_fast, S::kDepth), 1);
    }
    LaunchShape shape;
    shape.grid = grid_of(k);
    shape.block = dim3(S::kThreads);
    shape.shared_bytes = kSourceVector ? S::kStages * S::kStageBytes
                                       : 2 * S::kStageBytes + S::kTableBytes;
    launch<grad_weight_sm80<Tile, T, kOutVector, kSourceVector>>(shape, stream, k);
}

//                      block      warp    rows stages blocks
using Tile128x256 = Tile<128, 256, 64, 64, 32, 4, 1>;  // 96 KiB
using Tile128x128 = Tile<128, 128, 64, 64, 32, 4, 2>;  // 64 KiB
using Tile128x64 = Tile<128, 64, 64, 64, 32, 4, 4>;    // 48 KiB
using Tile64x128 = Tile<64, 128, 64, 64, 32, 4, 4>;    // 48 KiB
using Tile64x64 = Tile<64, 64, 64, 32, 64, 3, 4>;      // 48 KiB
// Of the element-wise kernels. Their loads take most of the time; more rows would take registers.
using Elements128x128 = Tile<128, 128, 64, 32, 32, 2, 1>;
using Elements64x64 = Tile<64, 64, 32, 32, 32, 2, 3>;
// 3xTF32: warps of 64 x 32 and 32 x 32 have registers for chains of sums beside the sums, and
// multiply so long that shared memory does not limit them.
using Split128x64 = Tile<128, 64, 64, 32, 64, 3, 2, true>;  // 72 KiB
using Split64x64 = Tile<64, 64, 64, 32, 64, 3, 4, true>;    // 48 KiB
using ElementsSplit64x64 = Tile<64, 64, 32, 32, 32, 2, 3, true>;

/// `Whole` runs where both operands come in chunks. Elements of 64x64 have also a kernel for the
/// first layers of a channels-last network, where only `out` does.
template <class Whole, class Elements, class T>
void run_as(const GradWeightArguments& a, bool vector, Stream stream) {
    if (a.groups == 0 || a.cols == 0 || a.depth == 0) return;
    const Chunks chunks = chunks_of<T>(a, vector);
    if (chunks.out && chunks.source) return start<Whole, T, true, true>(a, stream);
    if constexpr (Elements::kDepth == 64)
        if (chunks.out) return start<Elements, T, true, false>(a, stream);
    start<Elements, T, false, false>(a, stream);
}

template <class Whole, class Elements>
void run(const GradWeightArguments& a, Arithmetic arithmetic, bool vector, Stream stream) {
    switch (arithmetic) {
        case Arithmetic::kFloat16: return run_as<Whole, Elements, Half>(a, vector, stream);
        case Arithmetic::kBFloat16: return run_as<Whole, Elements, BFloat16>(a, vector, stream);
        case Arithmetic::kTf32: return run_as<Whole, Elements, float>(a, vector, stream);
        default: throw std::logic_error("grad_weight_sm80: float16, bfloat16 or tf32 expected");
    }
}

template <class Whole, class Elements>
void run_3xtf32(const GradWeightArguments& a, Arithmetic arithmetic, bool vector, Stream stream) {
    if (arithmetic != Arithmetic::k3xTf32)
        throw std::logic_error("grad_weight_sm80: this tile is for 3xTF32");
    run_as<Whole, Elements, float>(a, vector, stream);
}

template <class Whole, class Elements>
constexpr GradWeightKernel row(const char* name, float efficiency,
                               decltype(GradWeightKernel::run) run) {
    return {name,
            80,
            Whole::k3xTf32
                ? bit(Arithmetic::k3xTf32)
                : bit(Arithmetic::kTf32) | bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Whole::kCols,
            Whole::kDepth,
            Whole::kRows,
            Whole::kThreads,
            Whole::kBlocks,
            run,
            Whole::kSharedBytes,
            efficiency,
            Whole::kCols == Elements::kCols && Whole::kDepth == Elements::kDepth,
            true};
}

// Efficiencies are of the rate of mma.sync, estimated, not measured. For 32 rows, the warps' reads
// and the copies take shared memory, of 128 bytes a cycle, so many cycles, and mma.sync on Hopper,
// 1280 multiply-adds a cycle, so many:   128x256  704, 819   128x128  384, 410
//                                   64x128   224, 205   64x64    160, 102
constexpr GradWeightKernel kKernels[] = {
    row<Tile128x256, Elements128x128>("sm80_128x256", 0.82f, run<Tile128x256, Elements128x128>),
    row<Tile128x128, Elements128x128>("sm80_128x128", 0.78f, run<Tile128x128, Elements128x128>),
    row<Tile128x64, Elements64x64>("sm80_128x64", 0.68f, run<Tile128x64, Elements64x64>),
    row<Tile64x128, Elements64x64>("sm80_64x128", 0.68f, run<Tile64x128, Elements64x64>),
    row<Tile64x64, Elements64x64>("sm80_64x64", 0.50f, run<Tile64x64, Elements64x64>),
    row<Split128x64, ElementsSplit64x64>("sm80_128x64_3xtf32", 0.75f,
                                         run_3xtf32<Split128x64, ElementsSplit64x64>),
    row<Split64x64, ElementsSplit64x64>("sm80_64x64_3xtf32", 0.7f,
                                        run_3xtf32<Split64x64, ElementsSplit64x64>),
};

}  // namespace grad_weight

GradWeightKernels grad_weight_kernels_sm80() {
    return {std::begin(grad_weight::kKernels), std::end(grad_weight::kKernels)};
}

}  // namespace fastconv::cuda
