// Tiles that leave a block by stmatrix and TMA (csrc/cuda/ptx_tma.cuh), and the same with one bug
// each of the kinds that the emulation must catch. Also compiles with nvcc (sm_90a).
//
// One warp, 16 lines of 64 elements at a time, through two places of 2 KB of shared memory.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "cuda/ptx_sm90.cuh"
#include "cuda/ptx_tma.cuh"
#include "host_side.h"

namespace {

namespace cuda = fastconv::cuda;
namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kNoFence,     // copies may not see what was written
    kNoWait,      // writes where a copy still reads
    kNoCommit,    // the waits do not count the copies
    kNoLastWait,  // ends while copies still read
};

constexpr int kLines = 16, kPlaceBytes = kLines * 128;

/// in: (tiles, 16, 64); at: (tiles, 4) coordinates.
template <Bug kBug>
__global__ void store_tiles(const __grid_constant__ cuda::TensorMap map, const std::uint32_t* in,
                            const int* at, int tiles) {
    const int lane = static_cast<int>(threadIdx.x);
    for (int tile = 0; tile < tiles; ++tile) {
        unsigned char* const place = ptx::shared_memory() + tile % 2 * kPlaceBytes;
        if (lane == 0 && kBug != Bug::kNoWait) ptx::bulk_wait<1>();
        __syncwarp();
        for (int quad = 0; quad < 4; ++quad) {
            std::uint32_t word[4];  // of two times eight columns of two times eight rows
            for (int i = 0; i < 4; ++i) {
                const int row = i % 2 * 8 + lane / 4, col = (2 * quad + i / 2) * 8 + lane % 4 * 2;
                word[i] = in[(tile * kLines + row) * 32 + col / 2];
            }
            const int chunk = (2 * quad + lane / 16) ^ (lane % 8);
            ptx::store_matrices(place + lane % 16 * 128 + chunk * 16, word);
        }
        if (kBug != Bug::kNoFence) ptx::fence_proxy_async();
        __syncwarp();
        if (lane == 0) {
            const int* x = at + tile * 4;
            ptx::copy_tile_out(map, x[0], x[1], x[2], x[3], place);
            if (kBug != Bug::kNoCommit) ptx::bulk_commit();
        }
    }
    if (lane == 0 && kBug != Bug::kNoLastWait) ptx::bulk_wait<0>();
}

using Kernel = void (*)(cuda::TensorMap, const std::uint32_t*, const int*, int);
constexpr Kernel kKernels[] = {store_tiles<Bug::kNone>, store_tiles<Bug::kNoFence>,
                               store_tiles<Bug::kNoWait>, store_tiles<Bug::kNoCommit>,
                               store_tiles<Bug::kNoLastWait>};

}  // namespace

/// data: (batch, height, width, channels) of host memory, of which tiles are overwritten. shape:
/// channels, width, height, batch. box: of 16 lines. tiles: (tiles, 16, 64), at: (tiles, 4).
FASTCONV_VISIBLE const char* tma_store(int bug, std::uint16_t* data, const int* shape,
                                       const int* box, const std::uint16_t* tiles, const int* at,
                                       int count) {
    return said([&] {
        cuda::MappedTensor tensor;
        tensor.bfloat16 = true;
        std::int64_t elems = 1;
        for (int d = 0; d < 4; ++d) {
            tensor.size[d] = shape[d];
            elems *= shape[d];
            if (d < 3) tensor.elems[d] = elems;
        }
        const OnDevice memory(data, static_cast<std::size_t>(elems) * 2);
        const OnDevice from(tiles, static_cast<std::size_t>(count) * kPlaceBytes);
        const OnDevice places(at, static_cast<std::size_t>(count) * 4 * sizeof(int));
        tensor.data = memory.as<void>();
        const int extents[4] = {box[0], box[1], box[2], box[3]};
        launch(kKernels[bug], 1, 32, 1, 2 * kPlaceBytes, cuda::tiled_map(tensor, extents),
               static_cast<const std::uint32_t*>(from.as<std::uint32_t>()),
               static_cast<const int*>(places.as<int>()), count);
        memory.read(data);
    });
}
