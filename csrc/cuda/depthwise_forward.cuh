// Depthwise convolution forward and its grad_input (cuda/conv2d_depthwise.cu).
//
//   row_kernel      square windows of 3 or 5 taps: 4 or 2 outputs of a row a thread share its loads
//   general_kernel  any window, correlating or gathering; one output a thread
//
// Outside of the image x is a zero that takes part in the product (0 * inf is NaN); grad_input has
// the products that exist, no others.
#pragma once

#include "cuda/depthwise.cuh"

namespace fastconv::cuda {

/// Registers: sums of 4 outputs x 8 channels, 3 x 8 weights of a row, 6 packs of 4: 80 of 128; 5 taps
/// or 9 columns beside them would spill.
constexpr int row_outputs(int kernel, int stride, int count) {
    return count == 8 && (kernel == 5 || stride == 2) ? 2 : 4;
}

/// Shared memory: (filter of a channel, tap, channel), and a last row with the bias; elements from one
/// row to the next. Four more than the channels spread taps, written side by side, over the banks.
__host__ __device__ inline int weight_pitch(int lanes, int count) { return lanes * count + 4; }

/// kKernel: of square windows and one filter a channel, whose numbers of taps no thread then divides
/// by; 0 for all others.
template <class T, int kCount, int kKernel = 0>
__device__ void stage_weights(const DepthwiseArguments& a, const DepthwiseThread& thread,
                              float* weights) {
    const int width = kKernel ? kKernel : a.width.kernel;
    const int taps = kKernel ? kKernel * kKernel : a.height.kernel * width;
    const int filters = kKernel || !a.gather ? 1 : a.multiplier;  // of a channel
    const int each = taps * filters, pitch = weight_pitch(a.lanes, kCount);
    const Strides& strides = a.weight_strides;
    const int first = thread.chunk * a.lanes * kCount;
    for (int i = threadIdx.x; i < a.lanes * kCount; i += kDepthwiseThreads) {
        const bool biased = a.bias && first + i < a.channels * kCount;
        weights[each * pitch + i] =
            biased ? to_float(static_cast<const T*>(a.bias)[first + i]) : 0.0f;
    }
    for (int i = threadIdx.x; i < a.lanes * kCount * each; i += kDepthwiseThreads) {
        const int channel = i / each, filter = i % each / taps, tap = i % taps;
        if (first + channel >= a.channels * kCount) break;
        const std::int64_t k = std::int64_t{first + channel} * filters + filter;
        const int from = a.flipped ? taps - 1 - tap : tap;
        weights[(filter * taps + tap) * pitch + channel] = to_float(
            static_cast<const T*>(a.weight)[k * strides.batch_elems +
                                            from / width * strides.height_elems +
                                            from % width * strides.width_elems]);
    }
}

/// Stores the sums of one position, with what comes after them; `bias` of this thread's channels.
template <class T, int kCount>
__device__ void finish(const DepthwiseArguments& a, int channel, const Place& at,
                       const float (&sum)[kCount], const float* bias) {
    const auto offset = [&](const Strides& strides) {
        return at.n * strides.batch_elems + std::int64_t{channel} * kCount * strides.channel_elems +
               at.h * strides.height_elems + at.w * strides.width_elems;
    };
    float y[kCount];
    load_floats(y, bias);
#pragma unroll
    for (int i = 0; i < kCount; ++i) y[i] += sum[i];
    if (a.residual) {
        const auto more = load_item<kCount>(
            static_cast<const T*>(a.residual) + offset(a.residual_strides), true);
#pragma unroll
        for (int i = 0; i < kCount; ++i) y[i] += more.at(i);
    }
    Pack<T, kCount> result;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
        result.value[i] = from_float<T>(a.relu && y[i] < 0 ? 0.0f : y[i]);
    store_pack(static_cast<T*>(a.out) + offset(a.out_strides), result);
}

template <class T, int kCount, int kKernel, int kStride>
__device__ inline void row_of(const DepthwiseArguments& a) {
    constexpr int kRowOutputs = row_outputs(kKernel, kStride, kCount);
    constexpr int kColumns = (kRowOutputs - 1) * kStride + kKernel;
    float* const weights = reinterpret_cast<float*>(ptx::shared_memory());
    const DepthwiseThread thread(a);
    stage_weights<T, kCount, kKernel>(a, thread, weights);
    __syncthreads();
    if (!thread.valid) return;
    const Strides& strides = a.source_strides;
    const int pitch = weight_pitch(a.lanes, kCount);
    const float* const bias = weights + kKernel * kKernel * pitch + thread.lane * kCount;
    const T* const source = static_cast<const T*>(a.source) +
                            std::int64_t{thread.channel} * kCount * strides.channel_elems;
    const std::uint32_t first = thread.block * a.positions_each;
    const std::uint32_t end = std::min(a.positions, first + a.positions_each);
    for (std::uint32_t position = first + thread.group; position < end; position += thread.groups) {
        Place at = position_of(a, position);
        at.w *= kRowOutputs;
        const int w = at.w * kStride - a.width.pad;
        float sum[kRowOutputs][kCount] = {};
#pragma unroll
        for (int r = 0; r < kKernel; ++r) {
            const int h = at.h * kStride - a.height.pad + r;
            const bool line = within(h, a.height.source);
            if (!line && a.flipped) continue;  // grad_input has no products with padding
            const T* const row = source + at.n * strides.batch_elems + h * strides.height_elems +
                                 w * strides.width_elems;
            Item<T, kCount> x[kColumns];
#pragma unroll
            for (int j = 0; j < kColumns; ++j)
                x[j] = load_item<kCount>(row + j * strides.width_elems,
                                         line && within(w + j, a.width.source));
            float weight[kKernel][kCount];
#pragma unroll
            for (int s = 0; s < kKernel; ++s)
                load_floats(weight[s],
                            weights + (r * kKernel + s) * pitch + thread.lane * kCount);
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                if (a.flipped && !within(w + j, a.width.source)) continue;
#pragma unroll
                for (int o = 0; o < kRowOutputs; ++o) {
                    const int s = j - o * kStride;
                    if (s < 0 || s >= kKernel) continue;
#pragma unroll
                    for (int i = 0; i < kCount; ++i)
                        sum[o][i] = fmaf(x[j].at(i), weight[s][i], sum[o][i]);
                }
            }
        }
#pragma unroll
        for (int o = 0; o < kRowOutputs; ++o)
            if (at.w + o < a.width.out)
                finish<T, kCount>(a, thread.channel, {at.n, 0, at.h, at.w + o}, sum[o],
                                  bias);
    }
}

template <int kKernel, int kStride>
__global__ void __launch_bounds__(kDepthwiseThreads, 2) row_kernel(const DepthwiseArguments a) {
    with_stored_type(a.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        row_of<T, kPackElems<T>, kKernel, kStride>(a);
    });
}

template <class T, int kCount>
__device__ inline void general_of(const DepthwiseArguments& a) {
    float* const weights = reinterpret_cast<float*>(ptx::shared_memory());
    const DepthwiseThread thread(a);
    stage_weights<T, kCount>(a, thread, weights);
    __syncthreads();
    if (!thread.valid) return;
    const Strides& strides = a.source_strides;
    const int pitch = weight_pitch(a.lanes, kCount);
    const int taps = a.height.kernel * a.width.kernel;
    const int filters = a.gather ? a.multiplier : 1;
    const float* const bias = weights + filters * taps * pitch + thread.lane * kCount;
    // Forward a channel has several filters, gathering a filter several sources.
    const int channel = a.gather ? thread.channel * a.multiplier : thread.channel / a.multiplier;
    const T* const source = static_cast<const T*>(a.source) +
                            std::int64_t{channel} * kCount * strides.channel_elems;
    const std::uint32_t first = thread.block * a.positions_each;
    const std::uint32_t end = std::min(a.positions, first + a.positions_each);
    for (std::uint32_t position = first + thread.group; position < end; position += thread.groups) {
        const Place at = position_of(a, position);
        const DepthwiseTaps rows(a.height, at.h, a.gather), cols(a.width, at.w, a.gather);
        float sum[kCount] = {};
        for (int m = 0; m < filters; ++m) {
            const T* const image =
                source + at.n * strides.batch_elems + m * strides.channel_elems;
            for (int r = rows.first, h = rows.at; r < a.height.kernel;
                 r += rows.step, h += rows.at_step) {
                const bool line = within(h, a.height.source);
                if (!line && a.gather) continue;
                const float* const weight =
                    weights + (m * taps + r * a.width.kernel) * pitch + thread.lane * kCount;
                for (int s = cols.first, w = cols.at; s < a.width.kernel;
                     s += cols.step, w += cols.at_step) {
                    const bool inside = line && within(w, a.width.source);
                    if (!inside && a.gather) continue;
                    const auto x = load_item<kCount>(
                        image + h * strides.height_elems + w * strides.width_elems, inside);
                    float factor[kCount];
                    load_floats(factor, weight + s * pitch);
#pragma unroll
                    for (int i = 0; i < kCount; ++i) sum[i] = fmaf(x.at(i), factor[i], sum[i]);
                }
            }
        }
        finish<T, kCount>(a, thread.channel, at, sum, bias);
    }
}

__global__ void __launch_bounds__(kDepthwiseThreads) general_kernel(const DepthwiseArguments a) {
    with_packs(a.dtype, a.packs, [&](auto tag, auto count) {
        general_of<typename decltype(tag)::type, decltype(count)::value>(a);
    });
}

}  // namespace fastconv::cuda
