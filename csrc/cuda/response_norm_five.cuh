// Local response normalization over 5 channels with channels last, in 16-byte items: a thread has an
// item and loads its two neighbours too, which are in L1; windows are sums of registers.
#pragma once

#include "cuda/response_norm.cuh"

namespace fastconv::cuda {

constexpr int kFiveReach = 2;

/// value[kElems + i] is channel i of the item; kFiveReach more on both sides are valid, 0 outside.
template <class T>
__device__ inline void load_around(const Operand& from, std::int64_t row, std::uint32_t item,
                                   std::uint32_t items, float (&value)[3 * kItemElems<T>]) {
    constexpr int kElems = kItemElems<T>;
    typename Access<T>::Item loaded[3];
    bool exists[3];
#pragma unroll
    for (int side = 0; side < 3; ++side) {  // no load waits for a condition
        const std::int64_t at = std::int64_t{item} + side - 1;
        exists[side] = at >= 0 && at < std::int64_t{items};
        loaded[side] = Access<T>::load(from, row + (exists[side] ? at : std::int64_t{item}));
    }
#pragma unroll
    for (int side = 0; side < 3; ++side)
#pragma unroll
        for (int i = 0; i < kElems; ++i)
            value[side * kElems + i] = exists[side] ? loaded[side].at(i) : 0.0f;
}

template <int kCount>
__device__ inline float squares_near(const float (&x)[kCount], int i) {
    float sum = 0;
#pragma unroll
    for (int j = -kFiveReach; j <= kFiveReach; ++j) sum = fmaf(x[i + j], x[i + j], sum);
    return sum;
}

template <class T, bool kBackward>
__device__ inline void window_of_five_of(const ResponseArguments& arguments,
                                         const Divider& items) {
    constexpr int kElems = kItemElems<T>;
    const std::uint32_t count = arguments.positions.count * items.divisor;
    const std::uint32_t i = blockIdx.x * kResponseThreads + threadIdx.x;
    if (i >= count) return;
    const std::uint32_t position = items.quotient(i);
    const std::uint32_t item = i - position * items.divisor;
    std::int64_t at[3];
    locate(arguments.positions, position, at);
    float x[3 * kElems], value[kElems];
    load_around<T>(arguments.x, at[1], item, items.divisor, x);
    if constexpr (kBackward) {
        float grad[3 * kElems];
        load_around<T>(arguments.grad, at[2], item, items.divisor, grad);
        float scaled[kElems], ratio[kElems + 2 * kFiveReach];
#pragma unroll
        for (int j = 0; j < kElems + 2 * kFiveReach; ++j) {
            const int c = kElems - kFiveReach + j;
            const InversePowers by = inverse_powers(arguments, squares_near(x, c));
            // A channel that does not exist gives 0, not 0 * inf where d is 0.
            const std::int64_t channel = std::int64_t{item} * kElems + j - kFiveReach;
            const bool exists =
                channel >= 0 && channel < std::int64_t{items.divisor} * kElems;
            ratio[j] = exists ? grad[c] * x[c] * by.next : 0.0f;
            if (j >= kFiveReach && j < kFiveReach + kElems)
                scaled[j - kFiveReach] = grad[c] * by.power;
        }
#pragma unroll
        for (int j = 0; j < kElems; ++j) {
            float sum = 0;
#pragma unroll
            for (int near = 0; near <= 2 * kFiveReach; ++near) sum += ratio[j + near];
            value[j] = scaled[j] - arguments.factor * x[kElems + j] * sum;
        }
    } else {
#pragma unroll
        for (int j = 0; j < kElems; ++j)
            value[j] = x[kElems + j] *
                       inverse_powers(arguments, squares_near(x, kElems + j)).power;
    }
    Access<T>::store(arguments.out, at[0] + item, value);
}

template <bool kBackward>
__global__ void __launch_bounds__(kResponseThreads)
    window_of_five(const ResponseArguments arguments, const Divider items) {
    with_stored_type(arguments.out.dtype, [&](auto tag) {
        window_of_five_of<typename decltype(tag)::type, kBackward>(arguments, items);
    });
}

}  // namespace fastconv::cuda
