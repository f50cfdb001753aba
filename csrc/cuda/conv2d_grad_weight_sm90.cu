// grad_weight on Hopper's tensor cores, for each group by itself (conv_kernels.h):
//
//   weight[col, d] = sum over rows of out[row, col] * source[row, d]   cols = K, d = (tap, c)
//
// float16 and bfloat16 by wgmma, sums in float32. `out` is grad_output. As
// conv2d_grad_weight_sm80.cu, whose gather by cp.async it shares, but that the product itself reads
// both operands from shared memory (grad_weight_warpgroup.cuh).
//
// A multiprocessor does 2048 multiply-adds a cycle by wgmma, 1280 by mma.sync. What else 16 rows of
// a tile take, in cycles, beside those of their products: shared memory, 128 bytes a cycle, read by
// wgmma (64 columns of out and the tile's depth each) and written by the copies; L2, of which a
// multiprocessor gets about 44 bytes a cycle when all are busy.
//
//             products   shared memory   L2   with a third of the source
//   128x256        256             256  279  155
//   128x192        192             208  232  140
//   128x128        128             160  186  124
//   64x192          96             128  186   93
//
// L2 is the tightest, so copies of the source go through L1: of the three taps of a filter's row two
// mostly find there what the first one brought (WarpgroupShape::depth_at).
//
// Needs sm_90a, which no later architecture runs, 16-bit elements, and channels in chunks of 16
// bytes. Offsets are in chunks in 32 bits; beyond 32 GiB the element-wise kernels of sm_80 run.
#include <cstdint>
#include <iterator>
#include <stdexcept>

#include "cuda/conv_kernels.h"
#include "cuda/grad_weight_load.cuh"
#include "cuda/grad_weight_warpgroup.cuh"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace grad_weight {

template <class Tile, class T>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    grad_weight_sm90(const KernelArguments k) {
    using S = WarpgroupShape<Tile, T>;
    const GradWeightArguments& a = k.problem;
    const Block block = block_of<S>(k);
    const T* out = static_cast<const T*>(a.out) + block.group * a.out_group_elems;
    const T* source = static_cast<const T*>(a.source) + block.group * a.source_group_elems;

    VectorLoader<S, true> loader(k, out, source, block.col, block.depth, block.row_begin,
                                 block.row_end);
    Warpgroup<S> warpgroup;
    sum_warpgroups<S>(warpgroup, loader, ptx::shared_memory(), block.steps);

    const ResultStore<T> store(k, block);
    warpgroup.each(k, block.depth, store);
}

// ---- host ------------------------------------------------------------------------------------

template <class Tile, class T>
void start_warpgroups(const GradWeightArguments& a, bool vector, Stream stream) {
    using S = WarpgroupShape<Tile, T>;
    if (a.groups == 0 || a.cols == 0 || a.depth == 0) return;
    const Chunks chunks = chunks_of<T>(a, vector);
    if (!chunks.out || !chunks.source)
        return grad_weight_kernels_sm80().begin()->run(
            a, std::is_same_v<T, Half> ? Arithmetic::kFloat16 : Arithmetic::kBFloat16, false,
            stream);
    KernelArguments k = kernel_arguments<S, T>(a);
    k.panel_taps = a.channels % 64 == 0 ? a.taps_h * a.taps_w : 0;
    if (a.rows > 0) k.chunks = walk_of<int>(a, VectorLoader<S, true>::kPassRows, kPackElems<T>);
    LaunchShape shape;
    shape.grid = grid_of(k);
    shape.block = dim3(S::kThreads);
    shape.shared_bytes = S::kSharedBytes;
    launch<grad_weight_sm90<Tile, T>>(shape, stream, k);
}

template <class Tile>
void run_warpgroups(const GradWeightArguments& a, Arithmetic arithmetic, bool vector,
                    Stream stream) {
    switch (arithmetic) {
        case Arithmetic::kFloat16: return start_warpgroups<Tile, Half>(a, vector, stream);
        case Arithmetic::kBFloat16: return start_warpgroups<Tile, BFloat16>(a, vector, stream);
        default: throw std::logic_error("grad_weight_sm90: float16 or bfloat16 expected");
    }
}

template <class Tile>
constexpr GradWeightKernel row_of(const char* name, float efficiency) {
    return {name,
            90,
            bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kCols,
            Tile::kDepth,
            Tile::kRows,
            Tile::kThreads,
            Tile::kBlocks,
            run_warpgroups<Tile>,
            Tile::kSharedBytes,
            efficiency,
            false,
            true,
            90};
}

// Efficiencies are of the rate of mma.sync, 0.625 of wgmma's. The source is copied through L1, where
// taps share it: measured on an H100 (18 layers, batch 32, bfloat16) 64x192 takes 0.86 of the time that
// it takes without L1 on VGG-16's conv1_2, and the others do not care.
constexpr GradWeightKernel kWarpgroupKernels[] = {
    //                block  warpgroups rows stages blocks
    row_of<WarpgroupTile<128, 256, 2, 64, 4, 1>>("sm90_128x256", 1.25f),  // 192 KiB
    row_of<WarpgroupTile<128, 192, 2, 64, 4, 1>>("sm90_128x192", 1.29f),  // 160 KiB
    row_of<WarpgroupTile<128, 128, 2, 64, 3, 2>>("sm90_128x128", 1.10f),  // 96 KiB
    row_of<WarpgroupTile<64, 192, 1, 32, 4, 3>>("sm90_64x192", 0.95f),    // 64 KiB
};

}  // namespace grad_weight

GradWeightKernels grad_weight_kernels_sm90() {
    return {std::begin(grad_weight::kWarpgroupKernels), std::end(grad_weight::kWarpgroupKernels)};
}

}  // namespace fastconv::cuda
