// The tensor-core correlations of conv_kernels.h by their tiles: which there are, how they are
// launched. Kernels: correlation_sm80.cuh.
//
//   tile      warps of    stages  shared  blocks  for
//   128x256   8 of 64x64  3       144 KB  1       many filters
//   128x128   4 of 64x64  3        96 KB  2       most layers
//   128x64    4 of 64x32  3        72 KB  3       64 filters
//   64x128    4 of 32x64  3        72 KB  3       few positions, many filters
//   64x64     4 of 32x32  3        48 KB  4       small problems
//
// Rejected: 256x128 and 256x64, without which the layers of VGG-16, ResNet-50, GoogLeNet, AlexNet and
// AlphaGo take 0.1 % longer by the cost model, 4 % at most.
//
// Operands that are not read 16 bytes at a time go to 128x64 and 64x64 in two stages. 3xTF32 has two
// tiles of its own, of 2 and 3 blocks: warps of 64x32 and 32x32 have registers for chains of sums
// beside the sums, and multiply so long that neither L2 nor shared memory limits them.
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "cuda/correlation_sm80.cuh"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace fastconv::cuda {
namespace {

template <class T, class Tile, bool kVector>
void start(const CorrelationArguments& p, Stream stream) {
    if (p.rows == 0 || p.cols == 0) return;
    LaunchShape shape;
    const int row_tiles = (p.rows - 1) / Tile::kBlockRows + 1;
    const int col_tiles = (p.cols - 1) / Tile::kBlockCols + 1;
    shape.grid = dim3(static_cast<unsigned>(row_tiles) * static_cast<unsigned>(col_tiles),
                      static_cast<unsigned>(p.groups), static_cast<unsigned>(p.splits));
    shape.block = dim3(Tile::kThreads);
    constexpr int kRingAndTable =
        Tile::kRingBytes + sm80::Loader<T, Tile, kVector>::Source::kTableBytes;
    shape.shared_bytes = std::max(kRingAndTable, Tile::kSumBytes);
    launch<sm80::correlation<T, Tile, kVector>>(shape, stream, p, sm80::store_of(p, sizeof(T)));
}

template <class Tile, bool kVector>
void start_phase(const CorrelationArguments& p, Arithmetic arithmetic, Stream stream) {
    switch (arithmetic) {
        case Arithmetic::kFloat16: return start<Half, Tile, kVector>(p, stream);
        case Arithmetic::kBFloat16: return start<BFloat16, Tile, kVector>(p, stream);
        case Arithmetic::kTf32: return start<float, Tile, kVector>(p, stream);
        default: throw std::invalid_argument("sm80 correlation: arithmetic without tensor cores");
    }
}

/// A launch a phase: the registers that one launch of all needs would be spilled in some tiles'
/// main loops.
template <class Tile, bool kVector>
void start(const CorrelationLaunch& phases, Arithmetic arithmetic, Stream stream) {
    for (int i = 0; i < phases.phases; ++i)
        start_phase<Tile, kVector>(phases.phase(i), arithmetic, stream);
}

/// A tile and, where there is one, the tile that does without 16-byte reads.
template <class Tile>
void run(const CorrelationLaunch& phases, Arithmetic arithmetic, bool vector, Stream stream) {
    if (!vector)
        throw std::invalid_argument("sm80 correlation: this tile reads 16 bytes at a time");
    start<Tile, true>(phases, arithmetic, stream);
}
template <class Tile, class ScalarTile>
void run(const CorrelationLaunch& phases, Arithmetic arithmetic, bool vector, Stream stream) {
    if (vector) return start<Tile, true>(phases, arithmetic, stream);
    start<ScalarTile, false>(phases, arithmetic, stream);
}

/// 3xTF32, of float32 alone.
template <class Tile, class ScalarTile>
void run_3xtf32(const CorrelationLaunch& phases, Arithmetic arithmetic, bool vector,
                Stream stream) {
    if (arithmetic != Arithmetic::k3xTf32)
        throw std::invalid_argument("sm80 correlation: this tile is for 3xTF32");
    for (int i = 0; i < phases.phases; ++i)
        if (vector) start<float, Tile, true>(phases.phase(i), stream);
        else start<float, ScalarTile, false>(phases.phase(i), stream);
}

template <class Tile>
constexpr CorrelationKernel row(const char* name, float efficiency,
                                decltype(CorrelationKernel::run) run, bool scalar) {
    return {name,
            80,
            Tile::k3xTf32
                ? bit(Arithmetic::k3xTf32)
                : bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16) | bit(Arithmetic::kTf32),
            Tile::kBlockRows,
            Tile::kBlockCols,
            64,  // elements of 128 bytes in 16 bits; tf32 takes two steps
            Tile::kThreads,
            Tile::kBlocks,
            WeightLayout::kColDepth,
            run,
            Tile::kSharedBytes,
            efficiency,
            scalar};
}

//                             block     warp    stages, blocks a multiprocessor
using Tile128x256 = sm80::Tile<128, 256, 64, 64, 3, 1>;
using Tile128x128 = sm80::Tile<128, 128, 64, 64, 3, 2>;
using Tile128x64 = sm80::Tile<128, 64, 64, 32, 3, 3>;
using Tile64x128 = sm80::Tile<64, 128, 32, 64, 3, 3>;
using Tile64x64 = sm80::Tile<64, 64, 32, 32, 3, 4>;
using Scalar128x64 = sm80::Tile<128, 64, 64, 32, 2, 2>;
using Scalar64x64 = sm80::Tile<64, 64, 32, 32, 2, 4>;
using Split128x64 = sm80::Tile<128, 64, 64, 32, 3, 2, true>;
using Split64x64 = sm80::Tile<64, 64, 32, 32, 3, 3, true>;
using ScalarSplit64x64 = sm80::Tile<64, 64, 32, 32, 2, 3, true>;

// Efficiency: of the rate that mma.sync has in the cost model (selection.cpp), fitted with it.
constexpr CorrelationKernel kKernels[] = {
    row<Tile128x256>("sm80_128x256", 0.82f, run<Tile128x256>, false),
    row<Tile128x128>("sm80_128x128", 0.71f, run<Tile128x128>, false),
    row<Tile128x64>("sm80_128x64", 0.57f, run<Tile128x64, Scalar128x64>, true),
    row<Tile64x128>("sm80_64x128", 0.79f, run<Tile64x128>, false),
    row<Tile64x64>("sm80_64x64", 0.56f, run<Tile64x64, Scalar64x64>, true),
    // Estimated, not measured: a step of 32 floats takes a processor of Hopper's four, for each of
    // its warps, so many cycles of mma.sync, instructions, and cycles of the integer units, which
    // split:   128x64  1229, 960, 720   64x64  614, 620, 490
    row<Split128x64>("sm80_128x64_3xtf32", 0.75f, run_3xtf32<Split128x64, ScalarSplit64x64>, false),
    row<Split64x64>("sm80_64x64_3xtf32", 0.65f, run_3xtf32<Split64x64, ScalarSplit64x64>, true),
};

}  // namespace

Kernels correlation_kernels_sm80() { return {std::begin(kKernels), std::end(kKernels)}; }

}  // namespace fastconv::cuda
