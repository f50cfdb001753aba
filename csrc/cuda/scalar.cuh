// Elements of device code: storage types to float and back, and packs of them that are moved by one
// access of up to 16 bytes. All arithmetic is in float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/ptx.cuh"

namespace fastconv::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Half x) { return __half2float(x); }
__device__ inline float to_float(BFloat16 x) { return __bfloat162float(x); }

/// The nearest T, ties to even; too large becomes infinity, NaN stays NaN.
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline Half from_float<Half>(float x) { return __float2half_rn(x); }
template <>
__device__ inline BFloat16 from_float<BFloat16>(float x) { return __float2bfloat16_rn(x); }

/// Calls body(TypeTag<T>{}) with the type of `dtype`, one of the three that have kernels: a kernel's
/// one branch to its body, which all threads take alike.
template <class Body>
__device__ inline void with_stored_type(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::kFloat16: return body(TypeTag<Half>{});
        case DType::kBFloat16: return body(TypeTag<BFloat16>{});
        default: return body(TypeTag<float>{});
    }
}

/// kCount neighbours, aligned to their size: *reinterpret_cast<Pack<T, 8>*>(p) is one access.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
    T value[kCount];
};

/// One access for certain (ptx::store_16).
template <class T, int kCount>
__device__ inline void store_pack(T* to, const Pack<T, kCount>& pack) {
    if constexpr (sizeof pack == 16) {
        std::uint32_t words[4];
        memcpy(words, &pack, sizeof words);
        ptx::store_16(to, words);
    } else {
        *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
    }
}

/// Elements of one 16-byte access.
template <class T>
constexpr int kPackElems = 16 / static_cast<int>(sizeof(T));

/// with_stored_type for kernels whose threads have 16 bytes of channels each (`packs`), or one element:
/// body(TypeTag<T>{}, integral_constant<int, elements>{}).
template <class Body>
__device__ inline void with_packs(DType dtype, bool packs, const Body& body) {
    with_stored_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (packs) return body(tag, std::integral_constant<int, kPackElems<T>>{});
        body(tag, std::integral_constant<int, 1>{});
    });
}

}  // namespace fastconv::cuda
