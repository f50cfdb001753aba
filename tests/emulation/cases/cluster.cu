// Blocks of clusters (csrc/cuda/ptx_tma.cuh): which they are; their partial sums, added in the
// order of their ranks; the same with one bug each of the kinds that the emulation must catch. Also
// compiles with nvcc (sm_90a).
#include <cuda_runtime.h>

#include "cuda/ptx_tma.cuh"
#include "host_side.h"

namespace {

namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kNoBarrierBefore,  // reads other blocks' sums that may not be there
    kNoBarrierAfter,   // ends while others may read its sums
};

constexpr int kSums = 256;

/// in: (clusters, ranks, kSums); out: (clusters, kSums).
template <Bug kBug>
__global__ void sum_cluster(const float* in, float* out, int ranks) {
    auto* const own = reinterpret_cast<float*>(ptx::shared_memory());
    const int thread = static_cast<int>(threadIdx.x), rank = ptx::cluster_rank();
    const int cluster = static_cast<int>(blockIdx.x) / ranks;
    for (int i = thread; i < kSums; i += static_cast<int>(blockDim.x))
        own[i] = in[(cluster * ranks + rank) * kSums + i];
    if (kBug != Bug::kNoBarrierBefore) ptx::cluster_barrier();
    if (thread % ranks == rank) {
        float sum[4] = {};
        for (int other = 0; other < ranks; ++other) {
            float part[4];
            ptx::load_cluster_16(part, own + thread * 4, other);
            for (int i = 0; i < 4; ++i) sum[i] += part[i];
        }
        for (int i = 0; i < 4; ++i) out[cluster * kSums + thread * 4 + i] = sum[i];
    }
    if (kBug != Bug::kNoBarrierAfter) ptx::cluster_barrier();
}

/// out: (grid z, y, x): what each block says of itself.
__global__ void ranks_of_blocks(int* out) {
    auto* const own = reinterpret_cast<int*>(ptx::shared_memory());
    const dim3 grid = gridDim;
    const unsigned block = (blockIdx.z * grid.y + blockIdx.y) * grid.x + blockIdx.x;
    for (int i = 0; i < 4; ++i) own[i] = static_cast<int>(block);
    ptx::cluster_barrier();
    float of_first[4];  // bits
    ptx::load_cluster_16(of_first, own, 0);
    out[2 * block] = ptx::cluster_rank();
    out[2 * block + 1] = __float_as_int(of_first[3]);
    ptx::cluster_barrier();
}

using Kernel = void (*)(const float*, float*, int);
constexpr Kernel kKernels[] = {sum_cluster<Bug::kNone>, sum_cluster<Bug::kNoBarrierBefore>,
                               sum_cluster<Bug::kNoBarrierAfter>};

}  // namespace

/// grid, cluster: x, y, z. out (grid z, y, x, 2): a block's rank, and the number of its cluster's
/// first block.
FASTCONV_VISIBLE const char* tma_ranks(const int* grid, const int* cluster, int* out) {
    return said([&] {
        const auto shape = [](const int* of) {
            return dim3(static_cast<unsigned>(of[0]), static_cast<unsigned>(of[1]),
                        static_cast<unsigned>(of[2]));
        };
        const OnDevice result(out, sizeof(int) * 2 * grid[0] * grid[1] * grid[2]);
        launch(ranks_of_blocks, shape(grid), 1, shape(cluster), 16, result.as<int>());
        result.read(out);
    });
}

/// in (clusters, ranks, 256), out (clusters, 256).
FASTCONV_VISIBLE const char* tma_sum(int bug, int clusters, int ranks, const float* in,
                                     float* out) {
    return said([&] {
        const OnDevice parts(in, std::size_t{4} * clusters * ranks * kSums);
        const OnDevice result(out, std::size_t{4} * clusters * kSums);
        launch(kKernels[bug], dim3(static_cast<unsigned>(clusters * ranks)), kSums / 4,
               dim3(static_cast<unsigned>(ranks)), kSums * 4,
               static_cast<const float*>(parts.as<float>()), result.as<float>(), ranks);
        result.read(out);
    });
}
