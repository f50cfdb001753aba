// grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q]; also of a matrix (N, K), P = Q = 1.
//
// Reads grad_output once: the floor is its bytes over the memory's bandwidth. Two kernels, which
// give each chunk's sums, (chunks, K) in float32, and one that adds the chunks in order:
//   sum_positions  channels are nearer to each other than columns: a thread has a pack of channels
//                  and walks positions; 16 bytes an access where channels are unit stride, aligned
//   sum_lines      columns are nearer (C order): 8 to 32 threads have a channel and walk its lines,
//                  or its whole images where those are dense; 16 bytes an access between a line's
//                  first and last aligned addresses, where columns are unit stride
// Chunks follow from shape and strides alone, so the bits do not depend on the device.
#pragma once

#include <cstdint>

#include "cuda/items.cuh"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kBiasThreads = 256;
constexpr std::int64_t kPieceElems = 8192;  // of a line that is taken at once

struct Positions {
    Strides strides;
    std::int64_t channels, count, chunk;  // positions in all, and in a chunk
    int out_h, out_w;
    int lanes;    // packs of a block: threads that lie side by side on one position
    bool vector;  // whole packs are one access
};

/// partial[chunk, k] = the sum of a chunk of positions. Blocks: x chunks, y blocks of packs.
template <class T>
__device__ inline void sum_positions_of(const Positions& p, const T* grad, float* partial) {
    constexpr int kElems = kPackElems<T>;
    const int lane = static_cast<int>(threadIdx.x) % p.lanes;
    const int step = kBiasThreads / p.lanes;  // positions that a block reads at a time
    const int first = static_cast<int>(threadIdx.x) / p.lanes;
    const std::int64_t channel =
        (std::int64_t{blockIdx.y} * p.lanes + lane) * kElems;
    const std::int64_t left = p.channels - channel;
    const int elems = left < kElems ? static_cast<int>(left > 0 ? left : 0) : kElems;
    const bool whole = p.vector && elems == kElems;

    const std::int64_t begin = blockIdx.x * p.chunk;
    const int end = static_cast<int>(p.count - begin < p.chunk ? p.count - begin : p.chunk);
    const std::int64_t line = (begin + first) / p.out_w;
    int j = static_cast<int>(begin + first - line * p.out_w);
    std::int64_t n = line / p.out_h;
    int i = static_cast<int>(line - n * p.out_h);
    const int step_j = step % p.out_w, step_i = step / p.out_w % p.out_h,
              step_n = step / p.out_w / p.out_h;

    float sums[kElems] = {};
    const T* from = grad + channel * p.strides.channel_elems;
    if (elems > 0 && first < step)
#pragma unroll 4
        for (int at = first; at < end; at += step) {
            const T* x = from + n * p.strides.batch_elems + i * p.strides.height_elems +
                         j * p.strides.width_elems;
            if (whole) {
                const auto pack = *reinterpret_cast<const Pack<T, kElems>*>(x);
#pragma unroll
                for (int e = 0; e < kElems; ++e) sums[e] += to_float(pack.value[e]);
            } else {
#pragma unroll
                for (int e = 0; e < kElems; ++e)
                    if (e < elems) sums[e] += to_float(x[e * p.strides.channel_elems]);
            }
            j += step_j;
            i += step_i;
            n += step_n;
            if (j >= p.out_w) {
                j -= p.out_w;
                ++i;
            }
            if (i >= p.out_h) {
                i -= p.out_h;
                ++n;
            }
        }

    // (positions, channels) of the block's sums
    float* shared = reinterpret_cast<float*>(ptx::shared_memory());
    const int width = p.lanes * kElems;
    if (first < step)
        for (int e = 0; e < kElems; ++e) shared[first * width + lane * kElems + e] = sums[e];
    __syncthreads();
    const std::int64_t block_channel = std::int64_t{blockIdx.y} * width;
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kBiasThreads) {
        float sum = 0;
        for (int r = 0; r < step; ++r) sum += shared[r * width + c];
        if (block_channel + c < p.channels)
            partial[blockIdx.x * p.channels + block_channel + c] = sum;
    }
}

__global__ void __launch_bounds__(kBiasThreads) sum_positions(const Positions p, const Operand grad,
                                                              float* partial) {
    with_stored_type(grad.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        sum_positions_of(p, static_cast<const T*>(grad.data), partial);
    });
}

struct Lines {
    Strides strides;
    std::int64_t channels;
    std::int64_t length;
    int lines;         // of an image
    int pieces;        // of a line, kPieceElems each
    int count, chunk;  // pieces in all, for each channel, and in a chunk
    int lanes;         // threads of a channel, a power of 2 up to 32
};

/// This lane's part of x[0 : length], with unit stride.
template <class T>
__device__ float sum_run(const T* x, int length, int lane, int lanes) {
    constexpr int kElems = kPackElems<T>;
    const int misaligned = static_cast<int>(reinterpret_cast<std::uintptr_t>(x) % 16 / sizeof(T));
    int head = misaligned == 0 ? 0 : kElems - misaligned;
    head = head < length ? head : length;
    const int packs = (length - head) / kElems;
    float sum = 0;
    if (lane < head) sum += to_float(x[lane]);  // fewer than a pack, and that is at most 8 lanes
    const Pack<T, kElems>* aligned = reinterpret_cast<const Pack<T, kElems>*>(x + head);
#pragma unroll 4
    for (int p = lane; p < packs; p += lanes) {
        const Pack<T, kElems> pack = aligned[p];
#pragma unroll
        for (int e = 0; e < kElems; ++e) sum += to_float(pack.value[e]);
    }
    const int tail = head + packs * kElems + lane;
    if (tail < length) sum += to_float(x[tail]);
    return sum;
}

/// partial[chunk, k] = the sum of a chunk of a channel's pieces. Blocks: x chunks, y blocks of
/// channels.
template <class T>
__device__ inline void sum_lines_of(const Lines& p, const T* grad, float* partial) {
    const int lane = static_cast<int>(threadIdx.x) % p.lanes;
    const std::int64_t channel = std::int64_t{blockIdx.y} * (kBiasThreads / p.lanes) +
                                 static_cast<int>(threadIdx.x) / p.lanes;
    const int begin = static_cast<int>(blockIdx.x) * p.chunk;
    const int end = p.count - begin < p.chunk ? p.count : begin + p.chunk;

    float sum = 0;
    if (channel < p.channels && begin < end) {
        const int line = begin / p.pieces;
        std::int64_t first = (begin - line * p.pieces) * kPieceElems;
        int n = line / p.lines, i = line - n * p.lines;
        const T* image = grad + channel * p.strides.channel_elems;
        for (int piece = begin; piece < end; ++piece) {
            const std::int64_t left = p.length - first;
            const int length = static_cast<int>(left < kPieceElems ? left : kPieceElems);
            const T* x = image + n * p.strides.batch_elems + i * p.strides.height_elems +
                         first * p.strides.width_elems;
            if (p.strides.width_elems == 1)
                sum += sum_run(x, length, lane, p.lanes);
            else
                for (int j = lane; j < length; j += p.lanes)
                    sum += to_float(x[j * p.strides.width_elems]);
            first += kPieceElems;
            if (first >= p.length) {
                first = 0;
                if (++i == p.lines) {
                    i = 0;
                    ++n;
                }
            }
        }
    }
    for (int other = p.lanes / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (lane == 0 && channel < p.channels) partial[blockIdx.x * p.channels + channel] = sum;
}

__global__ void __launch_bounds__(kBiasThreads) sum_lines(const Lines p, const Operand grad,
                                                          float* partial) {
    with_stored_type(grad.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        sum_lines_of(p, static_cast<const T*>(grad.data), partial);
    });
}

constexpr int kAddSlices = 16;  // of the chunks; a block has 32 channels

/// out[k] (+)= the sum over chunks of partial[chunk, k].
__global__ void __launch_bounds__(32 * kAddSlices)
    add_chunks(const float* partial, std::int64_t chunks, std::int64_t channels, const Operand out,
               std::int64_t out_elems, bool accumulate) {
    const int lane = static_cast<int>(threadIdx.x) % 32, slice = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t channel = std::int64_t{blockIdx.x} * 32 + lane;
    float sum = 0;
    if (channel < channels)
#pragma unroll 8
        for (std::int64_t chunk = slice; chunk < chunks; chunk += kAddSlices)
            sum += partial[chunk * channels + channel];
    float* shared = reinterpret_cast<float*>(ptx::shared_memory());  // (slices, 32)
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (slice != 0 || channel >= channels) return;
    for (int s = 1; s < kAddSlices; ++s) sum += shared[s * 32 + lane];
    const std::int64_t to = channel * out_elems;
    store_element(out, to, accumulate ? load_element(out, to) + sum : sum);
}

}  // namespace
}  // namespace fastconv::cuda
