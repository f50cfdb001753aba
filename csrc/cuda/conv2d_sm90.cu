// The correlations by TMA and wgmma of conv_kernels.h by their tiles. Kernels: correlation_tma.cuh.
//
//   tile           a warpgroup's products   stages   for
//   tma_128x256    1 x 64x256               4        many filters
//   tma_128x192    1 x 64x192               4        192 filters, 320, 384
//   tma_128x128    1 x 64x128               6        fewer positions
//   tma_256x64     2 x 64x64                4        64 filters
//   tma_64x128     1 x 64x64                8        few positions
//   patch_256x128  2 x 64x128               to 8     3x3 and 5x5 taps on large images, 128 filters
//   patch_256x64   2 x 64x64                to 8     the same, 64 filters
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "cuda/conv2d_operands.h"
#include "cuda/correlation_patch.cuh"
#include "cuda/correlation_tma.cuh"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace fastconv::cuda {
namespace tma {
namespace {

/// A block a multiprocessor, which takes tiles in turn; or a cluster a tile.
template <class Tile>
LaunchShape shape_of(const Launch& p) {
    LaunchShape shape;
    const int blocks = p.ranks > 1 ? p.tiles
                                   : std::min(p.tiles, device(current_device()).multiprocessors);
    shape.grid = dim3(static_cast<unsigned>(blocks) * static_cast<unsigned>(p.ranks));
    shape.block = dim3(Tile::kThreads);
    shape.cluster = dim3(static_cast<unsigned>(p.ranks));
    shape.shared_bytes = Tile::kSharedBytes;
    return shape;
}

template <class T, class Tile>
void start(const CorrelationLaunch& phases, Stream stream) {
    if (phases.most_rows() == 0 || phases.first.cols == 0) return;
    constexpr bool kBFloat16 = std::is_same_v<T, BFloat16>;
    if constexpr (Tile::kPatches > 0) {
        static_assert(Tile::kRingBytes >= kPatchRingBytes && kProducers <= kLeastWeightStages,
                      "what why_not_patched counts on");
        PatchLaunch p = patch_launch(phases, kBFloat16, Tile::kBlockRows, Tile::kBlockCols);
        p.shape.weight_stages = Tile::weight_stages(p.shape.bytes);
        const LaunchShape shape = shape_of<Tile>(p.launch);
        if (p.launch.cols_contiguous) launch<correlation_patch<T, Tile, true>>(shape, stream, p);
        else launch<correlation_patch<T, Tile, false>>(shape, stream, p);
    } else {
        const Launch p = line_launch(phases, kBFloat16, Tile::kBlockRows, Tile::kBlockCols);
        const LaunchShape shape = shape_of<Tile>(p);
        if (p.cols_contiguous) launch<correlation<T, Tile, true>>(shape, stream, p);
        else launch<correlation<T, Tile, false>>(shape, stream, p);
    }
}

template <class Tile>
void run(const CorrelationLaunch& phases, Arithmetic arithmetic, bool, Stream stream) {
    switch (arithmetic) {
        case Arithmetic::kFloat16: return start<Half, Tile>(phases, stream);
        case Arithmetic::kBFloat16: return start<BFloat16, Tile>(phases, stream);
        default: throw std::invalid_argument("tma correlation: multiplies 16-bit elements");
    }
}

template <class Tile>
constexpr CorrelationKernel row(const char* name, float efficiency) {
    return {name,
            90,
            bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kBlockRows,
            Tile::kBlockCols,
            kStepTerms,
            Tile::kThreads,
            1,
            WeightLayout::kMapped,
            run<Tile>,
            Tile::kSharedBytes,
            efficiency,
            false,
            90,
            true,
            Tile::kPatches};
}

// Efficiencies: selection.cpp's fit; that of 128x192 is taken to be its neighbours'.
constexpr CorrelationKernel kKernels[] = {
    row<Tile<1, 256, false, 4>>("tma_128x256", 0.91f),
    row<Tile<1, 192, false, 4>>("tma_128x192", 0.9f),
    row<Tile<1, 128, false, 6>>("tma_128x128", 0.89f),
    row<Tile<2, 64, false, 4>>("tma_256x64", 0.67f),
    row<Tile<1, 64, true, 8>>("tma_64x128", 0.85f),
    row<PatchTile<2, 128>>("patch_256x128", 0.93f),
    row<PatchTile<2, 64>>("patch_256x64", 0.80f),
};

}  // namespace
}  // namespace tma

Kernels correlation_kernels_sm90() { return {std::begin(tma::kKernels), std::end(tma::kKernels)}; }

}  // namespace fastconv::cuda
