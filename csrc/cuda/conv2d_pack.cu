// What surrounds the implicit-GEMM kernels: weights into the layout they read, and partial sums
// joined in order into the result.
//
//   pack      (group, col, a, b, c) of any strides -> kColDepth (col, (a, b, c)) or kDepthCol
//   join      out[row, col] = relu(sum over s of partial[s, row, col] + bias[col] + residual[row, col])
//   store     weight[col, d] (+)= sum over s of partial[s, col, d]
//
// Floors: pack reads and writes each weight once; join reads 4 bytes an element and split.
#include "cuda/conv2d_pack.h"

#include <type_traits>

#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda {
namespace {

// ---- pack ------------------------------------------------------------------------------------------

constexpr int kTile = 32;
constexpr int kTileRows = 8;  // rows of a tile that a block's threads move at once

struct PackArguments {
    const void* from;
    void* to;
    int cols, channels, taps_w;
    std::int64_t group_elems, col_elems, channel_elems, tap_h_elems, tap_w_elems;
    std::int64_t to_group_elems, to_col_elems, to_depth_elems;
    int col_tiles;
    bool read_along_cols, write_along_cols;
};

/// One tile of (cols, channels) of one tap and group: read along the source's short stride, turned in
/// shared memory, written along the destination's.
template <class Bits>
__global__ void pack_weight(PackArguments p) {
    auto* tile = reinterpret_cast<Bits*>(ptx::shared_memory());  // (kTile cols, kTile + 1 channels)
    const int tap = blockIdx.y, tap_h = tap / p.taps_w, tap_w = tap % p.taps_w;
    const int col0 = static_cast<int>(blockIdx.x) % p.col_tiles * kTile;
    const int channel0 = static_cast<int>(blockIdx.x) / p.col_tiles * kTile;
    const auto* from = static_cast<const Bits*>(p.from) + blockIdx.z * p.group_elems +
                       tap_h * p.tap_h_elems + tap_w * p.tap_w_elems;
    auto* to = static_cast<Bits*>(p.to) + blockIdx.z * p.to_group_elems;
    const int fast = threadIdx.x;
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.read_along_cols ? fast : slow, channel = p.read_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels)
            tile[col * (kTile + 1) + channel] =
                from[(col0 + col) * p.col_elems + (channel0 + channel) * p.channel_elems];
    }
    __syncthreads();
    for (int slow = threadIdx.y; slow < kTile; slow += kTileRows) {
        const int col = p.write_along_cols ? fast : slow;
        const int channel = p.write_along_cols ? slow : fast;
        if (col0 + col < p.cols && channel0 + channel < p.channels) {
            const std::int64_t depth = static_cast<std::int64_t>(tap) * p.channels + channel0 + channel;
            to[(col0 + col) * p.to_col_elems + depth * p.to_depth_elems] =
                tile[col * (kTile + 1) + channel];
        }
    }
}

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }

// ---- join and store --------------------------------------------------------------------------------

constexpr int kJoinLanes = 32;  // neighbouring results
constexpr int kJoinWarps = 8;   // shares of the splits, added in order

/// The sum of `count` neighbours of all splits, valid in threads of threadIdx.y == 0.
template <int kCount>
__device__ void sum_of_splits(const float* partial, std::int64_t split_elems, int splits, bool valid,
                              float (&sum)[kCount]) {
    auto* shares = reinterpret_cast<float*>(ptx::shared_memory());  // (warps, kCount, lanes)
    for (int v = 0; v < kCount; ++v) sum[v] = 0;
    if (valid)
        for (int s = threadIdx.y; s < splits; s += kJoinWarps) {
            const auto part = *reinterpret_cast<const Pack<float, kCount>*>(partial + s * split_elems);
            for (int v = 0; v < kCount; ++v) sum[v] += part.value[v];
        }
    for (int v = 0; v < kCount; ++v)
        shares[(threadIdx.y * kCount + v) * kJoinLanes + threadIdx.x] = sum[v];
    __syncthreads();
    if (threadIdx.y == 0)
        for (int v = 0; v < kCount; ++v)
            for (int w = 1; w < kJoinWarps && w < splits; ++w)
                sum[v] += shares[(w * kCount + v) * kJoinLanes + threadIdx.x];
    __syncthreads();  // before the next round writes shares again
}

/// kCount neighbouring cols a thread; with kCount 4 they lie side by side in out and residual.
template <class T, int kCount>
__global__ void join_correlation(CorrelationArguments p) {
    const int chunks = (p.cols + kCount - 1) / kCount;
    const std::int64_t items = static_cast<std::int64_t>(p.groups) * p.rows * chunks;
    const std::int64_t split_elems = static_cast<std::int64_t>(p.groups) * p.rows * p.cols;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kJoinLanes;
    for (std::int64_t first = blockIdx.x * std::int64_t{kJoinLanes}; first < items; first += step) {
        const std::int64_t item = first + threadIdx.x;
        const std::int64_t line = item / chunks;  // (group, row)
        const int col = static_cast<int>(item - line * chunks) * kCount;
        float sum[kCount];
        sum_of_splits<kCount>(p.partial + line * p.cols + col, split_elems, p.splits, item < items,
                              sum);
        if (item >= items || threadIdx.y != 0) continue;
        const int group = static_cast<int>(line / p.rows), row = static_cast<int>(line % p.rows);
        const int n = row / (p.out_h * p.out_w), ij = row % (p.out_h * p.out_w);
        const int i = ij / p.out_w, j = ij % p.out_w;
        const auto offset_in = [&](const Strides& s, std::int64_t group_elems) {
            return group * group_elems + n * s.batch_elems + i * s.height_elems +
                   j * s.width_elems + col * s.channel_elems;
        };
        if (p.bias)
            for (int v = 0; v < kCount; ++v)
                sum[v] += to_float(static_cast<const T*>(p.bias)[group * p.cols + col + v]);
        if (p.residual) {
            const T* residual = static_cast<const T*>(p.residual) +
                                offset_in(p.residual_strides, p.residual_group_elems);
            for (int v = 0; v < kCount; ++v)
                sum[v] += to_float(residual[v * p.residual_strides.channel_elems]);
        }
        T* out = static_cast<T*>(p.out) + offset_in(p.out_strides, p.out_group_elems);
        Pack<T, kCount> pack;
        for (int v = 0; v < kCount; ++v)
            pack.value[v] = from_float<T>(p.relu && sum[v] <= 0 ? 0.0f : sum[v]);
        *reinterpret_cast<Pack<T, kCount>*>(out) = pack;
    }
}

struct StoreArguments {
    const float* partial;
    void* weight;
    int splits, groups, cols, channels, taps_w, depth;
    std::int64_t group_elems;
    Strides strides;
    bool accumulate;
};

/// kCount 4: the weight lies as the partial sums do.
template <class T, int kCount>
__global__ void store_grad_weight(StoreArguments p) {
    const std::int64_t elements = static_cast<std::int64_t>(p.groups) * p.cols * p.depth;
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kJoinLanes * kCount;
    for (std::int64_t first = blockIdx.x * std::int64_t{kJoinLanes * kCount}; first < elements;
         first += step) {
        const std::int64_t e = first + threadIdx.x * kCount;
        float sum[kCount];
        sum_of_splits<kCount>(p.partial + e, elements, p.splits, e < elements, sum);
        if (e >= elements || threadIdx.y != 0) continue;
        std::int64_t offset = e;
        if (kCount == 1) {
            const std::int64_t line = e / p.depth;  // (group, col)
            const int d = static_cast<int>(e - line * p.depth), tap = d / p.channels;
            offset = line / p.cols * p.group_elems + line % p.cols * p.strides.batch_elems +
                     tap / p.taps_w * p.strides.height_elems +
                     tap % p.taps_w * p.strides.width_elems +
                     d % p.channels * p.strides.channel_elems;
        }
        auto* to = reinterpret_cast<Pack<T, kCount>*>(static_cast<T*>(p.weight) + offset);
        if (p.accumulate) {
            const Pack<T, kCount> before = *to;
            for (int v = 0; v < kCount; ++v) sum[v] += to_float(before.value[v]);
        }
        Pack<T, kCount> pack;
        for (int v = 0; v < kCount; ++v) pack.value[v] = from_float<T>(sum[v]);
        *to = pack;
    }
}

template <int kCount>
LaunchShape join_shape(std::int64_t items) {
    return {dim3(blocks_for(items, kJoinLanes, 16)), dim3(kJoinLanes, kJoinWarps),
            sizeof(float) * kJoinWarps * kCount * kJoinLanes};
}

bool multiple_of_4(const Strides& s) {
    return s.channel_elems == 1 && s.batch_elems % 4 == 0 && s.height_elems % 4 == 0 &&
           s.width_elems % 4 == 0;
}

bool aligned_for_4(const void* pointer, std::int64_t element_bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % (4 * element_bytes) == 0;
}

}  // namespace

void pack_correlation_weight(const Correlation& phase, const CudaWeight& view, WeightLayout layout,
                             DType dtype, const void* weight, void* packed, Stream stream) {
    const std::int64_t bytes = element_bytes_of(dtype);
    const bool by_depth = layout == WeightLayout::kDepthCol;
    const std::int64_t taps = phase.taps_h.count * phase.taps_w.count;
    const std::int64_t length = by_depth ? phase.cols : taps * phase.channels;
    if (view.pitch != length)
        check(cudaMemsetAsync(packed, 0,
                              static_cast<std::size_t>(phase.groups * view.packed_group_elems * bytes),
                              stream_of(stream)),
              "cudaMemsetAsync");
    PackArguments p{};
    p.from = static_cast<const char*>(weight) + view.first_elems * bytes;
    p.to = packed;
    p.cols = static_cast<int>(phase.cols);
    p.channels = static_cast<int>(phase.channels);
    p.taps_w = static_cast<int>(phase.taps_w.count);
    p.group_elems = view.group_elems;
    p.col_elems = view.col_elems;
    p.channel_elems = view.channel_elems;
    p.tap_h_elems = view.tap_h_elems;
    p.tap_w_elems = view.tap_w_elems;
    p.to_group_elems = view.packed_group_elems;
    p.to_col_elems = by_depth ? 1 : view.pitch;
    p.to_depth_elems = by_depth ? view.pitch : 1;
    p.read_along_cols = magnitude(view.col_elems) < magnitude(view.channel_elems);
    p.write_along_cols = by_depth;
    p.col_tiles = (p.cols + kTile - 1) / kTile;
    const int channel_tiles = (p.channels + kTile - 1) / kTile;
    const LaunchShape shape{
        dim3(static_cast<unsigned>(p.col_tiles * channel_tiles), static_cast<unsigned>(taps),
             static_cast<unsigned>(phase.groups)),
        dim3(kTile, kTileRows), static_cast<std::size_t>(kTile * (kTile + 1) * bytes)};
    if (bytes == 4) launch<pack_weight<std::uint32_t>>(shape, stream, p);
    else launch<pack_weight<std::uint16_t>>(shape, stream, p);
}

void join_correlation_splits(const CorrelationArguments& p, DType dtype, Stream stream) {
    const bool vector = p.cols % 4 == 0 && multiple_of_4(p.out_strides) &&
                        p.out_group_elems % 4 == 0 &&
                        aligned_for_4(p.out, element_bytes_of(dtype)) &&
                        aligned_for_4(p.partial, 4);
    const std::int64_t items = static_cast<std::int64_t>(p.groups) * p.rows * p.cols;
    with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (vector) launch<join_correlation<T, 4>>(join_shape<4>(items / 4), stream, p);
        else launch<join_correlation<T, 1>>(join_shape<1>(items), stream, p);
    });
}

void store_grad_weight_splits(const Correlation& view, const Strides& weight, int splits,
                              const float* partial, DType dtype, bool accumulate, void* out,
                              Stream stream) {
    StoreArguments p{};
    p.partial = partial;
    p.weight = out;
    p.splits = splits;
    p.groups = static_cast<int>(view.groups);
    p.cols = static_cast<int>(view.cols);
    p.channels = static_cast<int>(view.channels);
    p.taps_w = static_cast<int>(view.taps_w.count);
    p.depth = static_cast<int>(view.taps_h.count * view.taps_w.count * view.channels);
    p.group_elems = view.cols * weight.batch_elems;
    p.strides = weight;
    p.accumulate = accumulate;
    const bool same = weight.channel_elems == 1 && weight.batch_elems == p.depth &&
                      (p.taps_w == 1 || weight.width_elems == p.channels) &&
                      (view.taps_h.count == 1 ||
                       weight.height_elems == static_cast<std::int64_t>(p.taps_w) * p.channels) &&
                      p.depth % 4 == 0 && aligned_for_4(out, element_bytes_of(dtype));
    const std::int64_t elements = static_cast<std::int64_t>(p.groups) * p.cols * p.depth;
    with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (same) launch<store_grad_weight<T, 4>>(join_shape<4>(elements / 4), stream, p);
        else launch<store_grad_weight<T, 1>>(join_shape<1>(elements), stream, p);
    });
}

}  // namespace fastconv::cuda
