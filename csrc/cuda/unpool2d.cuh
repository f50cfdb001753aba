// Max unpooling and its gradient, by index.
//
//   forward    y[n, c, index[n, c, p, q]] = x[n, c, p, q], 0 elsewhere; of equal indices the last
//   backward   dx[n, c, p, q] = dy[n, c, index[n, c, p, q]]
//
// Forward in three passes, the same bits every time: owners of all places of y are cleared, each
// index enters its own position p * Q + q by the maximum of integers, each place takes its owner's x.
// In parts whose owners stay in the L2 cache from pass to pass, one after another in one scratch.
#pragma once

#include "cuda/pool2d_forward.cuh"

namespace fastconv::cuda {

struct UnpoolArguments {
    const void* from = nullptr;
    void* to = nullptr;
    const std::int64_t* indices = nullptr;
    int element_bytes = 4;  // values are moved, whatever they mean
    int* owners = nullptr;  // (N, y's places, C), or (N, C, y's places) where channels are outside
    Strides from_strides, to_strides, index_strides;
    Walk inputs, outputs;  // over the positions of x and of y
    int channels = 0;
    int input_width = 0, places = 0;
    Divider by_input_width, by_output_width;
};

__device__ inline int* owner_of(const UnpoolArguments& a, const Place& at, int place) {
    const std::int64_t index =
        a.inputs.channels_inside
            ? (std::int64_t{at.n} * a.places + place) * a.channels + at.c
            : (std::int64_t{at.n} * a.channels + at.c) * a.places + place;
    return a.owners + index;
}

/// The place an input position goes to, or -1.
__device__ inline int place_at(const UnpoolArguments& a, const Place& at) {
    const std::int64_t index = a.indices[offset_of(a.index_strides, at, 1)];
    return index >= 0 && index < a.places ? static_cast<int>(index) : -1;
}

__global__ void __launch_bounds__(kPoolThreads) claim_places_kernel(const UnpoolArguments a) {
    Place at;
    if (!a.inputs.find(global_item(), at)) return;
    const int place = place_at(a, at);
    if (place >= 0) atomicMax(owner_of(a, at, place), at.h * a.input_width + at.w);
}

template <class T>
__device__ inline void unpool_of(const UnpoolArguments& a) {
    Place at;
    if (!a.outputs.find(global_item(), at)) return;
    const int owner =
        *owner_of(a, at, at.h * static_cast<int>(a.by_output_width.divisor) + at.w);
    T value{};
    if (owner >= 0) {
        std::uint32_t column = static_cast<std::uint32_t>(owner);
        const int row = static_cast<int>(a.by_input_width.split(column));
        value = static_cast<const T*>(a.from)[offset_of(
            a.from_strides, {at.n, at.c, row, static_cast<int>(column)}, 1)];
    }
    static_cast<T*>(a.to)[offset_of(a.to_strides, at, 1)] = value;
}

__global__ void __launch_bounds__(kPoolThreads) unpool_kernel(const UnpoolArguments a) {
    if (a.element_bytes == 4) return unpool_of<std::uint32_t>(a);
    unpool_of<std::uint16_t>(a);
}

template <class T>
__device__ inline void unpool_backward_of(const UnpoolArguments& a) {
    Place at;
    if (!a.inputs.find(global_item(), at)) return;
    const int place = place_at(a, at);
    T value{};
    if (place >= 0) {
        std::uint32_t column = static_cast<std::uint32_t>(place);
        const int row = static_cast<int>(a.by_output_width.split(column));
        value = static_cast<const T*>(a.from)[offset_of(
            a.from_strides, {at.n, at.c, row, static_cast<int>(column)}, 1)];
    }
    static_cast<T*>(a.to)[offset_of(a.to_strides, at, 1)] = value;
}

__global__ void __launch_bounds__(kPoolThreads) unpool_backward_kernel(const UnpoolArguments a) {
    if (a.element_bytes == 4) return unpool_backward_of<std::uint32_t>(a);
    unpool_backward_of<std::uint16_t>(a);
}

}  // namespace fastconv::cuda
