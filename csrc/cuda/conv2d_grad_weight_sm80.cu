// grad_weight on tensor cores, for each group by itself (conv_kernels.h):
//
//   weight[col, d] = sum over rows of out[row, col] * source[row, d]   cols = K, d = (tap, c)
//
// float16, bfloat16 and TF32 by mma.sync, sums in float32. `out` is grad_output. A block has a tile
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
#include <cstdlib>
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

/// Blocks: x is depth tiles, fastest, col tiles and groups, so that what runs at a time reads the
/// same rows; z is splits.
template <class Tile, class T, bool kOutVector, bool kSourceVector>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    grad_weight_sm80(const KernelArguments k) {
    using S = Shape<Tile, T>;
    const GradWeightArguments& a = k.problem;
    const int tile = static_cast<int>(blockIdx.x) / k.depth_tiles;
    const int depth = (static_cast<int>(blockIdx.x) - tile * k.depth_tiles) * S::kDepth;
    const int group = tile / k.col_tiles;
    const int col = (tile - group * k.col_tiles) * S::kCols;
    const int split = static_cast<int>(blockIdx.z);

    const std::int64_t begin = std::int64_t{split} * a.rows_per_split;
    const int row_begin = begin < a.rows ? static_cast<int>(begin) : a.rows;
    const int row_end = a.rows - row_begin < a.rows_per_split ? a.rows
                                                              : row_begin + a.rows_per_split;
    const int steps = (row_end - row_begin + S::kRows - 1) / S::kRows;
    const T* out = static_cast<const T*>(a.out) + group * a.out_group_elems;
    const T* source = static_cast<const T*>(a.source) + group * a.source_group_elems;
    unsigned char* shared = ptx::shared_memory();

    Warp<S> warp;
    if constexpr (kSourceVector) {
        VectorLoader<S, true> loader(k, out, source, col, depth, row_begin, row_end);
        sum_vector<S>(warp, loader, shared, steps);
    } else {
        Tap* taps = reinterpret_cast<Tap*>(shared + 2 * S::kStageBytes);
        ElementLoader<S, S::kDepth, true> source_loader(k, source, taps, depth, row_begin, row_end);
        if constexpr (kOutVector) {
            VectorLoader<S, false> out_loader(k, out, source, col, depth, row_begin, row_end);
            sum_elements<S>(warp, out_loader, source_loader, shared, steps);
        } else {
            ElementLoader<S, S::kCols, false> out_loader(k, out, nullptr, col, row_begin, row_end);
            sum_elements<S>(warp, out_loader, source_loader, shared, steps);
        }
    }
    const std::int64_t groups = a.groups;
    warp.store(a.partial + (split * groups + group) * a.cols * a.depth, col, depth, a.cols,
               a.depth);
}

// ---- host ------------------------------------------------------------------------------------

template <class Offset>
OperandWalk<Offset> operand_walk(std::int64_t batch, std::int64_t height, std::int64_t width,
                                 const GradWeightArguments& a, std::int64_t rows,
                                 std::int64_t unit) {
    const std::int64_t n = rows / a.out_w / a.out_h, i = rows / a.out_w % a.out_h,
                       j = rows % a.out_w;
    const auto offset = [unit](std::int64_t elems) { return static_cast<Offset>(elems / unit); };
    return {offset(batch),
            offset(height),
            offset(width),
            offset(n * batch + i * height + j * width),
            offset(height - a.out_w * width),
            offset(batch - a.out_h * height)};
}

template <class Offset>
Walk<Offset> walk_of(const GradWeightArguments& a, std::int64_t rows, std::int64_t unit) {
    const Strides &o = a.out_strides, &s = a.source_strides;
    return {static_cast<int>(rows),
            static_cast<int>(rows / a.out_w % a.out_h),
            static_cast<int>(rows % a.out_w),
            operand_walk<Offset>(o.batch_elems, o.height_elems, o.width_elems, a, rows, unit),
            operand_walk<Offset>(s.batch_elems, a.step_h * s.height_elems, a.step_w * s.width_elems,
                                 a, rows, unit)};
}

/// Can `unit` elements of `x` be read at once along channels, and places of it be told by 32 bits?
/// height, width: how far offsets reach, beyond the image too.
bool in_chunks(const void* data, const Strides& x, std::int64_t group_elems, int groups,
               int channels, std::int64_t batch, std::int64_t height, std::int64_t width,
               std::int64_t unit) {
    const auto whole = [unit](std::int64_t extent, std::int64_t elems) {
        return extent <= 1 || elems % unit == 0;
    };
    const std::int64_t reach = batch * std::llabs(x.batch_elems) +
                               height * std::llabs(x.height_elems) +
                               width * std::llabs(x.width_elems) + channels;
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && x.channel_elems == 1 &&
           channels % unit == 0 && whole(batch, x.batch_elems) && whole(height, x.height_elems) &&
           whole(width, x.width_elems) && whole(groups, group_elems) && reach / unit < INT_MAX;
}

template <class Tile, class T, bool kOutVector, bool kSourceVector>
void start(const GradWeightArguments& a, Stream stream) {
    using S = Shape<Tile, T>;
    if (a.rows_per_split % S::kRows != 0 && a.splits > 1)
        throw std::logic_error("grad_weight_sm80: rows_per_split is no multiple of block_rows");
    KernelArguments k{};
    k.problem = a;
    k.depth_tiles = (a.depth + S::kDepth - 1) / S::kDepth;
    k.col_tiles = (a.cols + S::kCols - 1) / S::kCols;
    if (a.rows > 0) {
        const auto pass_rows = [](bool channels_fast, int width) {
            return channels_fast ? S::kThreads * kPackElems<T> / width : S::kRows;
        };
        k.out_channels_fast = a.out_strides.channel_elems == 1;
        k.source_channels_fast = a.source_strides.channel_elems == 1 && a.channels > 1;
        k.chunks = walk_of<int>(a, VectorLoader<S, true>::kPassRows, kPackElems<T>);
        k.out_elems = walk_of<std::int64_t>(a, pass_rows(k.out_channels_fast, S::kCols), 1);
        k.source_elems = walk_of<std::int64_t>(a, pass_rows(k.source_channels_fast, S::kDepth), 1);
    } else {
        k.problem.out_h = k.problem.out_w = 1;  // divisors, which may be 0
    }
    LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(k.depth_tiles * k.col_tiles * a.groups), 1,
                      static_cast<unsigned>(a.splits));
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

/// `Whole` runs where both operands come in chunks. Elements64x64 has also a kernel for the first
/// layers of a channels-last network, where only `out` does.
template <class Whole, class Elements, class T>
void run_as(const GradWeightArguments& a, bool vector, Stream stream) {
    if (a.groups == 0 || a.cols == 0 || a.depth == 0) return;
    const std::int64_t batch = a.rows == 0 ? 0 : a.rows / (std::int64_t{a.out_h} * a.out_w);
    const bool out_chunks = in_chunks(a.out, a.out_strides, a.out_group_elems, a.groups, a.cols,
                                      batch, a.out_h, a.out_w, kPackElems<T>);
    const bool source_chunks =
        vector && in_chunks(a.source, a.source_strides, a.source_group_elems, a.groups, a.channels,
                            batch,
                            std::int64_t{a.out_h} * a.step_h + std::abs(a.offset_h) +
                                std::int64_t{a.taps_h} * std::abs(a.offset_step_h),
                            std::int64_t{a.out_w} * a.step_w + std::abs(a.offset_w) +
                                std::int64_t{a.taps_w} * std::abs(a.offset_step_w),
                            kPackElems<T>);
    if (out_chunks && source_chunks) return start<Whole, T, true, true>(a, stream);
    if constexpr (std::is_same_v<Elements, Elements64x64>)
        if (out_chunks) return start<Elements, T, true, false>(a, stream);
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
constexpr GradWeightKernel row(const char* name, float efficiency) {
    return {name,
            80,
            bit(Arithmetic::kTf32) | bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Whole::kCols,
            Whole::kDepth,
            Whole::kRows,
            Whole::kThreads,
            Whole::kBlocks,
            run<Whole, Elements>,
            Whole::kSharedBytes,
            efficiency,
            Whole::kCols == Elements::kCols && Whole::kDepth == Elements::kDepth};
}

// Efficiencies are of the rate of mma.sync, estimated, not measured. For 32 rows, the warps' reads
// and the copies take shared memory, of 128 bytes a cycle, so many cycles, and mma.sync on Hopper,
// 1280 multiply-adds a cycle, so many:   128x256  704, 819   128x128  384, 410
//                                   64x128   224, 205   64x64    160, 102
constexpr GradWeightKernel kKernels[] = {
    row<Tile128x256, Elements128x128>("sm80_128x256", 0.82f),
    row<Tile128x128, Elements128x128>("sm80_128x128", 0.78f),
    row<Tile128x64, Elements64x64>("sm80_128x64", 0.68f),
    row<Tile64x128, Elements64x64>("sm80_64x128", 0.68f),
    row<Tile64x64, Elements64x64>("sm80_64x64", 0.50f),
};

}  // namespace grad_weight

GradWeightKernels grad_weight_kernels_sm80() {
    return {std::begin(grad_weight::kKernels), std::end(grad_weight::kKernels)};
}

}  // namespace fastconv::cuda
