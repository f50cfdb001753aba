// Local response normalization of any size and strides: a block stages some positions by a run of
// channels with its halo in shared memory, its lanes along whichever is contiguous.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/response_norm.cuh"

namespace fastconv::cuda {

constexpr int kTilePositions = 32;
constexpr int kTileChannels = 64;  // with the halo, where that leaves a run of at least kLeastRun
constexpr int kLeastRun = 32;
constexpr int kTileLoads = 4;

/// A tile is `positions` positions by `run` channels; buffers hold a halo of channels besides.
struct Tiling {
    std::int32_t positions = 0, run = 0;
    std::int32_t halo = 0;      // of x, on both sides
    std::uint32_t chunks = 0;   // of channels
    std::int32_t lanes = 0;     // along channels, or 0: along positions
    std::int32_t wide() const { return run + 2 * halo; }
    __device__ std::int32_t slot(std::int32_t c, std::int32_t p) const {
        return lanes ? p * (run + 2 * halo) + c : c * positions + p;
    }
};

/// body(channel from `low`, position) for channels low .. high - 1 of a tile, spread over the threads.
template <class Body>
__device__ inline void for_tile(const Tiling& tiling, std::int32_t low, std::int32_t high,
                                const Body& body) {
    const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
    const auto warp = static_cast<std::int32_t>(threadIdx.x / 32);
    if (tiling.lanes) {
        for (std::int32_t p = warp; p < tiling.positions; p += kResponseThreads / 32)
#pragma unroll kTileLoads
            for (std::int32_t c = low + lane; c < high; c += 32) body(c, p);
    } else if (lane < tiling.positions) {
#pragma unroll kTileLoads
        for (std::int32_t c = low + warp; c < high; c += kResponseThreads / 32) body(c, lane);
    }
}

/// Where the tile's positions are in each operand, and its first channel.
struct TilePlace {
    std::int64_t* at;  // shared (kTilePositions, 3)
    std::int32_t first_channel;
    std::int32_t positions;  // that exist
};

__device__ inline TilePlace begin_tile(const ResponseArguments& arguments, const Tiling& tiling,
                                       std::int64_t* at) {
    TilePlace place;
    place.at = at;
    const std::uint32_t block = blockIdx.x / tiling.chunks;
    const std::uint32_t chunk = blockIdx.x - block * tiling.chunks;
    place.first_channel = static_cast<std::int32_t>(chunk) * tiling.run;
    const std::uint32_t first = block * static_cast<std::uint32_t>(tiling.positions);
    const std::uint32_t left = arguments.positions.count - first;
    place.positions = left < static_cast<std::uint32_t>(tiling.positions)
                          ? static_cast<std::int32_t>(left)
                          : tiling.positions;
    if (static_cast<std::int32_t>(threadIdx.x) < place.positions) {
        std::int64_t offsets[3];
        locate(arguments.positions, first + threadIdx.x, offsets);
        for (int k = 0; k < 3; ++k) at[threadIdx.x * 3 + k] = offsets[k];
    }
    __syncthreads();
    return place;
}

/// Element (channel first_channel + c, position p) of an operand; 0 where there is none.
__device__ inline float load_at(const ResponseArguments& arguments, const Operand& from, int k,
                                const TilePlace& place, std::int32_t c, std::int32_t p) {
    const std::int32_t channel = place.first_channel + c;
    if (channel < 0 || channel >= static_cast<std::int32_t>(arguments.channels) ||
        p >= place.positions)
        return 0.0f;
    return load_element(from, place.at[p * 3 + k] + channel * arguments.channel_elems[k]);
}

__device__ inline void store_at(const ResponseArguments& arguments, const TilePlace& place,
                                std::int32_t c, std::int32_t p, float value) {
    const std::int32_t channel = place.first_channel + c;
    if (channel >= static_cast<std::int32_t>(arguments.channels) || p >= place.positions) return;
    store_element(arguments.out, place.at[p * 3] + channel * arguments.channel_elems[0], value);
}

// Shared: the positions' offsets, then x with its halo.
__global__ void __launch_bounds__(kResponseThreads) window_forward(ResponseArguments arguments,
                                                           Tiling tiling) {
    auto* const at = reinterpret_cast<std::int64_t*>(ptx::shared_memory());
    auto* const x = reinterpret_cast<float*>(at + 3 * kTilePositions);
    const TilePlace place = begin_tile(arguments, tiling, at);
    for_tile(tiling, -tiling.halo, tiling.run + tiling.halo,
             [&](std::int32_t c, std::int32_t p) {
        x[tiling.slot(c + tiling.halo, p)] = load_at(arguments, arguments.x, 1, place, c, p);
    });
    __syncthreads();
    for_tile(tiling, 0, tiling.run, [&](std::int32_t c, std::int32_t p) {
        float squares = 0;
        for (std::int32_t j = c - arguments.before; j <= c + arguments.after; ++j) {
            const float near = x[tiling.slot(j + tiling.halo, p)];
            squares = fmaf(near, near, squares);
        }
        store_at(arguments, place, c, p,
                 x[tiling.slot(c + tiling.halo, p)] * inverse_powers(arguments, squares).power);
    });
}

// Shared: offsets, x, the ratios g x d^(-beta - 1), and g d^-beta, all with x's halo.
__global__ void __launch_bounds__(kResponseThreads) window_backward(ResponseArguments arguments,
                                                            Tiling tiling) {
    auto* const at = reinterpret_cast<std::int64_t*>(ptx::shared_memory());
    auto* const x = reinterpret_cast<float*>(at + 3 * kTilePositions);
    float* const ratio = x + tiling.positions * (tiling.run + 2 * tiling.halo);
    float* const scaled = ratio + tiling.positions * (tiling.run + 2 * tiling.halo);
    const TilePlace place = begin_tile(arguments, tiling, at);
    for_tile(tiling, -tiling.halo, tiling.run + tiling.halo,
             [&](std::int32_t c, std::int32_t p) {
        x[tiling.slot(c + tiling.halo, p)] = load_at(arguments, arguments.x, 1, place, c, p);
    });
    __syncthreads();
    // c is near j from c - after to c + before.
    for_tile(tiling, -arguments.after, tiling.run + arguments.before,
             [&](std::int32_t c, std::int32_t p) {
        float squares = 0;
        for (std::int32_t j = c - arguments.before; j <= c + arguments.after; ++j) {
            const float near = x[tiling.slot(j + tiling.halo, p)];
            squares = fmaf(near, near, squares);
        }
        const InversePowers by = inverse_powers(arguments, squares);
        const float grad = load_at(arguments, arguments.grad, 2, place, c, p);
        const std::int32_t channel = place.first_channel + c;
        const bool exists =
            channel >= 0 && channel < static_cast<std::int32_t>(arguments.channels);
        const std::int32_t slot = tiling.slot(c + tiling.halo, p);
        ratio[slot] = exists ? grad * x[slot] * by.next : 0.0f;
        scaled[slot] = grad * by.power;
    });
    __syncthreads();
    for_tile(tiling, 0, tiling.run, [&](std::int32_t c, std::int32_t p) {
        float sum = 0;
        for (std::int32_t j = c - arguments.after; j <= c + arguments.before; ++j)
            sum += ratio[tiling.slot(j + tiling.halo, p)];
        const std::int32_t slot = tiling.slot(c + tiling.halo, p);
        store_at(arguments, place, c, p, scaled[slot] - arguments.factor * x[slot] * sum);
    });
}

}  // namespace fastconv::cuda
