// The wgmma correlations of conv_kernels.h by their tiles: which there are, how they are launched.
// Kernels: correlation_sm90.cuh.
//
//   tile      warpgroups of         stages  shared  blocks  for
//   128x256   2 of 64x256           4       192 KB  1       many filters
//   256x128   2 of (filters) 64x256 4       192 KB  1       many positions, 128 filters
//   128x128   2 of 64x128           3        96 KB  2       most layers
//   256x64    2 of (filters) 64x128 2        80 KB  2       64 filters
//   128x64    1 of (filters) 64x128 3        72 KB  3       64 filters, few positions
//   64x128    1 of 64x128           3        72 KB  3       few positions, many filters
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "cuda/correlation_sm90.cuh"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace fastconv::cuda {
namespace {

template <class T, class Tile>
void start(const CorrelationLaunch& phases, Stream stream) {
    const int rows = phases.most_rows(), cols = phases.first.cols;
    if (rows == 0 || cols == 0) return;
    LaunchShape shape;
    const int row_tiles = (rows - 1) / Tile::kBlockRows + 1;
    const int col_tiles = (cols - 1) / Tile::kBlockCols + 1;
    shape.grid = dim3(static_cast<unsigned>(row_tiles) * static_cast<unsigned>(col_tiles),
                      static_cast<unsigned>(phases.phases * phases.first.groups),
                      static_cast<unsigned>(phases.most_splits()));
    shape.block = dim3(Tile::kThreads);
    shape.shared_bytes = Tile::kSharedBytes;
    const sm80::Store store = phases.store(
        [](const CorrelationArguments& p) { return sm80::store_of(p, sizeof(T)); });
    launch<sm90::correlation<T, Tile>>(shape, stream, phases, store);
}

template <class Tile>
void run(const CorrelationLaunch& phases, Arithmetic arithmetic, bool vector, Stream stream) {
    if (!vector) throw std::invalid_argument("sm90 correlation: reads 16 bytes at a time");
    switch (arithmetic) {
        case Arithmetic::kFloat16: return start<Half, Tile>(phases, stream);
        case Arithmetic::kBFloat16: return start<BFloat16, Tile>(phases, stream);
        default: throw std::invalid_argument("sm90 correlation: multiplies 16-bit elements");
    }
}

template <class Tile>
constexpr CorrelationKernel row(const char* name, float efficiency) {
    return {name,
            90,
            bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kBlockRows,
            Tile::kBlockCols,
            sm90::kRowBytes / 2,
            Tile::kThreads,
            Tile::kBlocks,
            WeightLayout::kColDepth,
            run<Tile>,
            Tile::kSharedBytes,
            efficiency,
            false,
            true,
            90};
}

//                              block    filters first, N, threads, stages, in flight, blocks
using Tile128x256 = sm90::Tile<128, 256, false, 256, 256, 4, 1, 1>;
using Tile256x128 = sm90::Tile<256, 128, true, 256, 256, 4, 1, 1>;
using Tile128x128 = sm90::Tile<128, 128, false, 128, 256, 3, 0, 2>;
using Tile256x64 = sm90::Tile<256, 64, true, 128, 256, 2, 0, 2>;
using Tile128x64 = sm90::Tile<128, 64, true, 128, 128, 3, 0, 3>;
using Tile64x128 = sm90::Tile<64, 128, false, 128, 128, 3, 1, 3>;

// Efficiency: of the rate that mma.sync has in the cost model (selection.cpp), fitted with it.
constexpr CorrelationKernel kKernels[] = {
    row<Tile128x256>("sm90_128x256", 1.3f),
    row<Tile256x128>("sm90_256x128", 1.17f),
    row<Tile128x128>("sm90_128x128", 1.06f),
    row<Tile256x64>("sm90_256x64", 0.7f),
    row<Tile128x64>("sm90_128x64", 0.97f),
    row<Tile64x128>("sm90_64x128", 0.9f),
};

}  // namespace

Kernels correlation_kernels_sm90() { return {std::begin(kKernels), std::end(kKernels)}; }

}  // namespace fastconv::cuda
