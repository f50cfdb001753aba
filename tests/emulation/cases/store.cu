// Tiles that leave a block by stmatrix and TMA (csrc/cuda/ptx_tma.cuh), in two small programs
// that also compile with nvcc (sm_90a), the second with one bug each of the kinds that the
// emulation must catch:
//
//   scatter_matrices   one store_matrices: what it leaves in shared memory
//   store_tiles        tiles of 64 channels by store_matrices to shared memory, from there by TMA
//                      to a tensor; two buffers, so that a tile is written while one is read
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx_sm90.cuh"
#include "cuda/ptx_tma.cuh"
#include "host_side.h"

namespace {

namespace cuda = fastconv::cuda;
namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kNoFence,          // TMA may not see what was stored
    kOneLaneFences,    // of each warp
    kNoBarrierBefore,  // other warps may not have stored yet
    kNoWait,           // a buffer is written while it is read
    kShallowWait,      // likewise: one group too many may be pending
    kNoBarrierAfter,   // the others do not know of the wait
    kNoCommit,
    kNoLastWait,       // the block's shared memory is given away while it is read
    kReadsBack,        // bulk_wait is not for the tensor to be written
};

constexpr int kThreads = 128;

/// words: (32 lanes, 4); places: where each lane's row goes, in units of 16 bytes; out: 64 units.
__global__ void scatter_matrices(const std::uint32_t* words, const int* places,
                                 std::uint32_t* out) {
    auto* const shared = reinterpret_cast<std::uint32_t*>(ptx::shared_memory());
    const int lane = static_cast<int>(threadIdx.x);
    for (int i = lane; i < 64 * 4; i += 32) shared[i] = 0;
    __syncwarp();
    std::uint32_t word[4];
    for (int i = 0; i < 4; ++i) word[i] = words[lane * 4 + i];
    ptx::store_matrices(shared + places[lane] * 4, word);
    __syncwarp();
    for (int i = lane; i < 64 * 4; i += 32) out[i] = shared[i];
}

struct Places {
    int at[4], step[4];  // of the first tile, and from one to the next
};

/// in: 8 lines of a tile from `first` on, (8, 64).
__device__ void store_lines(unsigned char* tile, const std::uint16_t* in, int first) {
    const int lane = static_cast<int>(threadIdx.x) % 32, line = first + lane % 8;
    for (int half = 0; half < 2; ++half) {
        std::uint32_t word[4];
        for (int i = 0; i < 4; ++i) {
            const std::uint16_t* pair = in + lane / 4 * 64 + half * 32 + i * 8 + lane % 4 * 2;
            word[i] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
        }
        const int chunk = half * 4 + lane / 8;
        ptx::store_matrices(tile + line * 128 + (chunk ^ (line & 7)) * 16, word);
    }
}

/// in: (tiles, lines, 64), lines of a tile a multiple of 8, of which the map's box has the first.
/// data: the tensor, of which element `written` is a tile's.
template <Bug kBug>
__global__ void __launch_bounds__(kThreads)
    store_tiles(const __grid_constant__ cuda::TensorMap map, Places places, const std::uint16_t* in,
                int lines, int tiles, std::uint16_t* data, std::int64_t written) {
    const bool copies = threadIdx.x == 0;
    for (int tile = 0; tile < tiles; ++tile) {
        unsigned char* const buffer = ptx::shared_memory() + tile % 2 * lines * 128;
        const std::uint16_t* const from = in + std::int64_t{tile} * lines * 64;
        for (int first = static_cast<int>(threadIdx.x) / 32 * 8; first < lines;
             first += kThreads / 32 * 8)
            store_lines(buffer, from + first * 64, first);
        const bool fences = kBug != Bug::kOneLaneFences || threadIdx.x % 32 == 0;
        if (kBug != Bug::kNoFence && fences) ptx::fence_proxy_async();
        if (kBug != Bug::kNoBarrierBefore) __syncthreads();
        if (copies) {
            int at[4];
            for (int d = 0; d < 4; ++d) at[d] = places.at[d] + tile * places.step[d];
            ptx::copy_tile_out(map, at[0], at[1], at[2], at[3], buffer);
            if (kBug != Bug::kNoCommit) ptx::bulk_commit();
            if (kBug != Bug::kNoWait) ptx::bulk_wait<kBug == Bug::kShallowWait ? 2 : 1>();
        }
        if (kBug != Bug::kNoBarrierAfter) __syncthreads();
    }
    if (copies && kBug != Bug::kNoLastWait) ptx::bulk_wait<0>();
    if (copies && kBug == Bug::kReadsBack) data[0] = data[written];
}

using StoreTiles = void (*)(cuda::TensorMap, Places, const std::uint16_t*, int, int, std::uint16_t*,
                            std::int64_t);
constexpr StoreTiles kStoreTiles[] = {
    store_tiles<Bug::kNone>,           store_tiles<Bug::kNoFence>,
    store_tiles<Bug::kOneLaneFences>,  store_tiles<Bug::kNoBarrierBefore>,
    store_tiles<Bug::kNoWait>,         store_tiles<Bug::kShallowWait>,
    store_tiles<Bug::kNoBarrierAfter>, store_tiles<Bug::kNoCommit>,
    store_tiles<Bug::kNoLastWait>,     store_tiles<Bug::kReadsBack>};

}  // namespace

FASTCONV_VISIBLE const char* tma_scatter(const std::uint32_t* words, const int* places,
                                         std::uint32_t* out) {
    return said([&] {
        const OnDevice given(words, 32 * 16), where(places, 32 * 4), result(out, 64 * 16);
        launch(scatter_matrices, 1, 32, 1, 64 * 16,
               static_cast<const std::uint32_t*>(given.as<std::uint32_t>()),
               static_cast<const int*>(where.as<int>()), result.as<std::uint32_t>());
        result.read(out);
    });
}

/// data: (batch, height, width, channels) of host memory, `spare` elements more between pixels,
/// which the tiles are written into. shape: channels, width, height, batch. places: at[4], step[4].
/// in: (tiles, lines of a box rounded up to 8, 64).
FASTCONV_VISIBLE const char* tma_store(int bug, std::uint16_t* data, const int* shape, int spare,
                                       const int* box, const int* places, const std::uint16_t* in,
                                       int tiles) {
    return said([&] {
        cuda::MappedTensor tensor;
        tensor.bfloat16 = true;
        std::int64_t elems = shape[0] + spare;
        for (int d = 0; d < 4; ++d) {
            tensor.size[d] = shape[d];
            if (d < 3) tensor.elems[d] = elems;
            if (d < 3) elems *= shape[d + 1];
        }
        const OnDevice memory(data, static_cast<std::size_t>(elems) * 2);
        tensor.data = memory.as<void>();
        Places at{};
        for (int d = 0; d < 4; ++d) {
            at.at[d] = places[d];
            at.step[d] = places[4 + d];
        }
        const std::int64_t written = at.at[0] + at.at[1] * tensor.elems[0] +
                                     at.at[2] * tensor.elems[1] + at.at[3] * tensor.elems[2];
        const int lines = (box[1] * box[2] * box[3] + 7) / 8 * 8;
        const OnDevice given(in, std::size_t{128} * lines * tiles);
        launch(kStoreTiles[bug], 1, kThreads, 1, 2 * lines * 128,
               cuda::tiled_map(tensor, {box[0], box[1], box[2], box[3]}), at,
               static_cast<const std::uint16_t*>(given.as<std::uint16_t>()), lines, tiles,
               memory.as<std::uint16_t>(), written);
        memory.read(data);
    });
}
