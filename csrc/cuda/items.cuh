// What memory-bound kernels move: items of kPack neighbours as one access, computed in float32.
//
// A kernel's body is written once over `T`. Where every operand allows 16-byte accesses T is float,
// Half or BFloat16 and an item is 16 bytes; else T is AnyType, an item is one element, and its dtype is
// a branch that all threads take alike, at the speed of scalar accesses. The kernel is one instance
// that takes the branch to its T (with_items): what types share, such as places, is compiled once.
#pragma once

#include <type_traits>

#include "cuda/scalar.cuh"

namespace fastconv::cuda {

/// An array as a kernel sees it; null data: not there.
struct Operand {
    void* data = nullptr;
    DType dtype = DType::kFloat32;
};

inline Operand operand_of(const Tensor& tensor) { return {tensor.data, tensor.dtype}; }
inline Operand operand_of(const Tensor* tensor) { return tensor ? operand_of(*tensor) : Operand{}; }

struct AnyType {};

/// Elements of an item of T.
template <class T>
constexpr int kItemElems = kPackElems<T>;
template <>
inline constexpr int kItemElems<AnyType> = 1;

/// kElems neighbours as they came from memory. They stay words until they are used: elements of 16 bits
/// taken apart where a load under a condition ends would wait for it before the next one starts.
template <class T, int kElems>
struct alignas(sizeof(T) * kElems) Item {
    static constexpr int kBytes = static_cast<int>(sizeof(T)) * kElems;
    using Word = std::conditional_t<kBytes == 2, std::uint16_t, std::uint32_t>;
    static constexpr int kWords = kBytes / static_cast<int>(sizeof(Word));
    Word word[kWords];

    __device__ float at(int i) const {
        if constexpr (sizeof(T) == 4) {
            return __uint_as_float(word[i]);
        } else if constexpr (std::is_same_v<T, BFloat16>) {
            const std::uint32_t two = word[i / 2];
            return __uint_as_float(i % 2 ? two & 0xFFFF0000u : two << 16);
        } else {
            const std::uint32_t two = word[i / 2];
            return to_float(__ushort_as_half(static_cast<unsigned short>(i % 2 ? two >> 16 : two)));
        }
    }
};

/// Items of kElems elements at offsets counted in items.
template <class T, int kElems = kItemElems<T>>
struct Access {
    using Item = cuda::Item<T, kElems>;
    __device__ static Item load(const Operand& from, std::int64_t at) {
        return static_cast<const Item*>(from.data)[at];
    }
    /// Of what is not read again soon.
    __device__ static Item load_once(const Operand& from, std::int64_t at) {
        Item item;
        if constexpr (sizeof item == 16)
            ptx::load_16_once(item.word, static_cast<const Item*>(from.data) + at);
        else
            item = load(from, at);
        return item;
    }
    __device__ static void store(const Operand& to, std::int64_t at, const float (&value)[kElems]) {
        Pack<T, kElems> pack;
#pragma unroll
        for (int i = 0; i < kElems; ++i) pack.value[i] = from_float<T>(value[i]);
        store_pack(static_cast<T*>(to.data) + at * kElems, pack);
    }
};

template <>
struct Access<AnyType, 1> {
    struct Item {
        float value;
        __device__ float at(int) const { return value; }
    };
    __device__ static Item load(const Operand& from, std::int64_t at) {
        switch (from.dtype) {
            case DType::kFloat16: return {to_float(static_cast<const Half*>(from.data)[at])};
            case DType::kBFloat16: return {to_float(static_cast<const BFloat16*>(from.data)[at])};
            default: return {static_cast<const float*>(from.data)[at]};
        }
    }
    __device__ static Item load_once(const Operand& from, std::int64_t at) {
        return load(from, at);
    }
    __device__ static void store(const Operand& to, std::int64_t at, const float (&value)[1]) {
        switch (to.dtype) {
            case DType::kFloat16:
                static_cast<Half*>(to.data)[at] = from_float<Half>(value[0]);
                break;
            case DType::kBFloat16:
                static_cast<BFloat16*>(to.data)[at] = from_float<BFloat16>(value[0]);
                break;
            default: static_cast<float*>(to.data)[at] = value[0];
        }
    }
};

__device__ inline float load_element(const Operand& from, std::int64_t at) {
    return Access<AnyType>::load(from, at).value;
}
__device__ inline void store_element(const Operand& to, std::int64_t at, float value) {
    const float one[1] = {value};
    Access<AnyType>::store(to, at, one);
}

/// kCount neighbours from element `at` on, aligned to their size, by one access.
template <int kCount>
__device__ inline void store_neighbours(const Operand& to, std::int64_t at,
                                        const float (&value)[kCount]) {
    with_stored_type(to.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const Operand first{static_cast<T*>(to.data) + at, to.dtype};
        Access<T, kCount>::store(first, 0, value);
    });
}

/// Calls body(TypeTag<T>{}) with the type of the items: that of `dtype` where `vector`, else AnyType.
/// In a kernel it stands around everything: all threads take the same branch once, and one instance
/// has the loops of every type.
template <class Body>
__device__ inline void with_items(DType dtype, bool vector, const Body& body) {
    if (!vector) return body(TypeTag<AnyType>{});
    with_stored_type(dtype, body);
}

/// Elements of a 16-byte access.
inline int pack_elems_of(DType dtype) { return static_cast<int>(16 / element_bytes_of(dtype)); }

/// Elements of an item. Throws where there are no kernels for `dtype`.
inline int item_elems_of(DType dtype, bool vector) {
    require_kernels(dtype);
    return vector ? pack_elems_of(dtype) : 1;
}

}  // namespace fastconv::cuda
