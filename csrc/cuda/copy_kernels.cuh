// The kernels of copy.cu, which says when each is taken.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kCopyThreads = 256;
/// Pairs of elements or words in the order of `to`: the last dimension varies fastest.
struct Walk {
    char* to;
    const char* from;
    int rank;
    unsigned count;
    unsigned size[kMaxRank];
    std::int64_t to_elems[kMaxRank], from_elems[kMaxRank];
};

struct Offsets {
    std::int64_t to, from;
};

__device__ inline Offsets offsets_of(const Walk& walk, unsigned index) {
    Offsets at{0, 0};
    for (int d = walk.rank - 1; d > 0; --d) {
        const unsigned rest = index / walk.size[d];
        const unsigned i = index - rest * walk.size[d];
        at.to += i * walk.to_elems[d];
        at.from += i * walk.from_elems[d];
        index = rest;
    }
    at.to += index * walk.to_elems[0];
    at.from += index * walk.from_elems[0];
    return at;
}

/// Calls body(TypeTag<Word>{}) with a word of 2, 4, 8 or 16 bytes.
template <class Body>
__device__ inline void with_word(int bytes, const Body& body) {
    switch (bytes) {
        case 2: return body(TypeTag<std::uint16_t>{});
        case 4: return body(TypeTag<std::uint32_t>{});
        case 8: return body(TypeTag<uint2>{});
        default: return body(TypeTag<uint4>{});
    }
}

template <class Word>
__device__ inline void copy_strided_of(const Walk& walk) {
    const unsigned step = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < walk.count; i += step) {
        const Offsets at = offsets_of(walk, i);
        reinterpret_cast<Word*>(walk.to)[at.to] =
            reinterpret_cast<const Word*>(walk.from)[at.from];
    }
}

__global__ void __launch_bounds__(kCopyThreads) copy_strided(const Walk walk, int word_bytes) {
    with_word(word_bytes,
              [&](auto tag) { copy_strided_of<typename decltype(tag)::type>(walk); });
}

/// The first bytes of `pattern`, which repeats itself, to every word.
__global__ void __launch_bounds__(kCopyThreads)
    fill_strided(const Walk walk, int word_bytes, const uint4 pattern) {
    with_word(word_bytes, [&](auto tag) {
        using Word = typename decltype(tag)::type;
        Word value;
        memcpy(&value, &pattern, sizeof value);
        const unsigned step = gridDim.x * blockDim.x;
        for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < walk.count; i += step)
            reinterpret_cast<Word*>(walk.to)[offsets_of(walk, i).to] = value;
    });
}

// ---- conversions ---------------------------------------------------------------------------------

/// `x` as a float from which a narrower type is rounded once: to odd, where it is not exact.
__host__ __device__ inline float odd_float(double x) {
    float nearest = static_cast<float>(x);
    const double back = nearest;
    if (back != x && x == x) {
        std::uint32_t bits;
        memcpy(&bits, &nearest, 4);
        if (back < 0 ? back < x : back > x) --bits;  // towards zero
        bits |= 1;
        memcpy(&nearest, &bits, 4);
    }
    return nearest;
}

__device__ inline double load_double(const char* data, DType dtype, std::int64_t index) {
    switch (dtype) {
        case DType::kFloat32: return reinterpret_cast<const float*>(data)[index];
        case DType::kFloat16: return to_float(reinterpret_cast<const Half*>(data)[index]);
        case DType::kBFloat16: return to_float(reinterpret_cast<const BFloat16*>(data)[index]);
        default:
            return static_cast<double>(reinterpret_cast<const std::int64_t*>(data)[index]);
    }
}

__device__ inline void store_double(char* data, DType dtype, std::int64_t index, double x) {
    switch (dtype) {
        case DType::kFloat32: reinterpret_cast<float*>(data)[index] = static_cast<float>(x); break;
        case DType::kFloat16:
            reinterpret_cast<Half*>(data)[index] = from_float<Half>(odd_float(x));
            break;
        case DType::kBFloat16:
            reinterpret_cast<BFloat16*>(data)[index] = from_float<BFloat16>(odd_float(x));
            break;
        default: reinterpret_cast<std::int64_t*>(data)[index] = static_cast<std::int64_t>(x);
    }
}

__global__ void __launch_bounds__(kCopyThreads) convert_strided(Walk walk, DType from, DType to) {
    const unsigned step = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < walk.count; i += step) {
        const Offsets at = offsets_of(walk, i);
        store_double(walk.to, to, at.to, load_double(walk.from, from, at.from));
    }
}

template <class To, class From>
__device__ inline To convert(From x) {
    return from_float<To>(to_float(x));
}

/// Calls body(TypeTag<From>{}, TypeTag<To>{}) for float32 to or from a 16-bit type.
template <class Body>
__device__ inline void with_pair(DType from, DType to, const Body& body) {
    if (from == DType::kFloat32 && to == DType::kFloat16)
        body(TypeTag<float>{}, TypeTag<Half>{});
    else if (from == DType::kFloat32)
        body(TypeTag<float>{}, TypeTag<BFloat16>{});
    else if (from == DType::kFloat16)
        body(TypeTag<Half>{}, TypeTag<float>{});
    else
        body(TypeTag<BFloat16>{}, TypeTag<float>{});
}

/// Eight elements a step: 16 bytes at a time on both sides.
template <class From, class To>
__device__ inline void convert_block_of(const From* from, To* to, unsigned count) {
    constexpr int kFrom = kPackElems<From>, kTo = kPackElems<To>;
    const unsigned step = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned eight = first; eight < count / 8; eight += step) {
        From in[8];
        for (int p = 0; p < 8 / kFrom; ++p) {
            const auto pack =
                reinterpret_cast<const Pack<From, kFrom>*>(from)[eight * (8 / kFrom) + p];
            for (int v = 0; v < kFrom; ++v) in[p * kFrom + v] = pack.value[v];
        }
        for (int p = 0; p < 8 / kTo; ++p) {
            Pack<To, kTo> pack;
            for (int v = 0; v < kTo; ++v) pack.value[v] = convert<To>(in[p * kTo + v]);
            reinterpret_cast<Pack<To, kTo>*>(to)[eight * (8 / kTo) + p] = pack;
        }
    }
    for (unsigned i = count / 8 * 8 + first; i < count; i += step) to[i] = convert<To>(from[i]);
}

__global__ void __launch_bounds__(kCopyThreads)
    convert_block(const void* from, DType from_dtype, void* to, DType to_dtype, unsigned count) {
    with_pair(from_dtype, to_dtype, [&](auto from_tag, auto to_tag) {
        convert_block_of(static_cast<const typename decltype(from_tag)::type*>(from),
                         static_cast<typename decltype(to_tag)::type*>(to), count);
    });
}

// ---- transposes ----------------------------------------------------------------------------------

constexpr int kTile = 64;

/// (batch..., rows, cols): `to` has unit stride along cols, `from` along rows.
struct Transpose {
    const void* from;
    void* to;
    DType from_dtype, to_dtype;
    unsigned rows, cols, row_tiles, col_tiles;
    std::int64_t from_col_elems, to_row_elems;
    Walk batch;                       // its pointers are not used
    bool vector_from, vector_to;      // 16 bytes at a time
};

// An odd pitch of 4-byte words keeps both sides' accesses to the tile apart: 8 lanes share a line of
// 128 bytes, and the 4 lines of a warp lie one bank apart.
template <class T>
constexpr int kTilePitch = kTile + 4 / static_cast<int>(sizeof(T));
template <class T>
constexpr std::size_t tile_bytes() {
    return sizeof(T) * kTile * kTilePitch<T>;
}

/// From and To are words where they are the same.
template <class From, class To>
__device__ inline void transpose_tiles_of(const Transpose& job) {
    constexpr bool kConvert = !std::is_same_v<From, To>;
    To* tile = reinterpret_cast<To*>(ptx::shared_memory());  // (cols, rows)
    constexpr int kPitch = kTilePitch<To>;
    const unsigned row_tile = blockIdx.x % job.row_tiles;
    const unsigned rest = blockIdx.x / job.row_tiles;
    const unsigned row0 = row_tile * kTile, col0 = rest % job.col_tiles * kTile;
    const Offsets base = offsets_of(job.batch, rest / job.col_tiles);
    const From* from =
        static_cast<const From*>(job.from) + base.from + col0 * job.from_col_elems + row0;
    To* to = static_cast<To*>(job.to) + base.to + row0 * job.to_row_elems + col0;
    const unsigned rows = job.rows - row0, cols = job.cols - col0;  // that are left
    const unsigned thread = threadIdx.x;

    auto place = [&](unsigned col, unsigned row, From x) {
        if constexpr (kConvert)
            tile[col * kPitch + row] = convert<To>(x);
        else
            tile[col * kPitch + row] = x;
    };
    if (job.vector_from) {
        constexpr int kElems = kPackElems<From>;
        for (unsigned col = thread / 8; col < kTile && col < cols; col += kCopyThreads / 8)
            for (unsigned row = thread % 8 * kElems; row < kTile && row < rows; row += 8 * kElems) {
                const auto pack = *reinterpret_cast<const Pack<From, kElems>*>(
                    from + col * job.from_col_elems + row);
                for (int v = 0; v < kElems; ++v) place(col, row + v, pack.value[v]);
            }
    } else {
        const unsigned row = thread % kTile;
        if (row < rows)
            for (unsigned col = thread / kTile; col < kTile && col < cols; col += kCopyThreads / kTile)
                place(col, row, from[col * job.from_col_elems + row]);
    }
    __syncthreads();
    if (job.vector_to) {
        constexpr int kElems = kPackElems<To>;
        for (unsigned row = thread / 8; row < kTile && row < rows; row += kCopyThreads / 8)
            for (unsigned col = thread % 8 * kElems; col < kTile && col < cols; col += 8 * kElems) {
                Pack<To, kElems> pack;
                for (int v = 0; v < kElems; ++v) pack.value[v] = tile[(col + v) * kPitch + row];
                store_pack(to + row * job.to_row_elems + col, pack);
            }
    } else {
        const unsigned col = thread % kTile;
        if (col < cols)
            for (unsigned row = thread / kTile; row < kTile && row < rows; row += kCopyThreads / kTile)
                to[row * job.to_row_elems + col] = tile[col * kPitch + row];
    }
}

__global__ void __launch_bounds__(kCopyThreads) transpose_tiles(const Transpose job) {
    if (job.from_dtype != job.to_dtype)
        return with_pair(job.from_dtype, job.to_dtype, [&](auto from, auto to) {
            transpose_tiles_of<typename decltype(from)::type, typename decltype(to)::type>(job);
        });
    if (job.to_dtype == DType::kFloat32)
        return transpose_tiles_of<std::uint32_t, std::uint32_t>(job);
    transpose_tiles_of<std::uint16_t, std::uint16_t>(job);
}

}  // namespace
}  // namespace fastconv::cuda
