// Copies, conversions and fills of arrays of any rank and strides:  to[i] = nearest(from[i]).
//
// The dimensions are sorted by to's strides and merged where both sides allow it (walk_of). Then, the
// first that fits:
//   one contiguous block, one dtype      the driver's copy
//   one contiguous block, two dtypes     convert_block: 16-byte accesses
//   to and from each have a unit stride, along different dimensions (NCHW <-> NHWC, a matrix's
//   transpose)                           transpose_tiles: 64 x 64 through shared memory, 16-byte
//                                        accesses on each side that allows them
//   anything else                        copy_strided in words of up to 16 bytes, convert_strided
// Indices have 32 bits: what has more elements is cut along its first dimension.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostItems = std::int64_t{1} << 30;

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

template <class Word>
__global__ void __launch_bounds__(kThreads) copy_strided(Walk walk) {
    const unsigned step = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < walk.count; i += step) {
        const Offsets at = offsets_of(walk, i);
        reinterpret_cast<Word*>(walk.to)[at.to] =
            reinterpret_cast<const Word*>(walk.from)[at.from];
    }
}

template <class Word>
__global__ void __launch_bounds__(kThreads) fill_strided(Walk walk, Word value) {
    const unsigned step = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < walk.count; i += step)
        reinterpret_cast<Word*>(walk.to)[offsets_of(walk, i).to] = value;
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

__global__ void __launch_bounds__(kThreads) convert_strided(Walk walk, DType from, DType to) {
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

/// Eight elements a step: 16 bytes at a time on both sides.
template <class From, class To>
__global__ void __launch_bounds__(kThreads) convert_block(const From* from, To* to,
                                                          unsigned count) {
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

// ---- transposes ----------------------------------------------------------------------------------

constexpr int kTile = 64;

/// (batch..., rows, cols): `to` has unit stride along cols, `from` along rows.
struct Transpose {
    const void* from;
    void* to;
    unsigned rows, cols, row_tiles, col_tiles;
    std::int64_t from_col_elems, to_row_elems;
    Walk batch;                       // its pointers are not used
    bool vector_from, vector_to;      // 16 bytes at a time
};

// An odd pitch of 4-byte words keeps both sides' accesses to the tile apart: 8 lanes share a line of
// 128 bytes, and the 4 lines of a warp lie one bank apart.
template <class T>
constexpr int kTilePitch = kTile + 4 / static_cast<int>(sizeof(T));

template <class From, class To, bool kConvert>
__global__ void __launch_bounds__(kThreads) transpose_tiles(Transpose job) {
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
        for (unsigned col = thread / 8; col < kTile && col < cols; col += kThreads / 8)
            for (unsigned row = thread % 8 * kElems; row < kTile && row < rows; row += 8 * kElems) {
                const auto pack = *reinterpret_cast<const Pack<From, kElems>*>(
                    from + col * job.from_col_elems + row);
                for (int v = 0; v < kElems; ++v) place(col, row + v, pack.value[v]);
            }
    } else {
        const unsigned row = thread % kTile;
        if (row < rows)
            for (unsigned col = thread / kTile; col < kTile && col < cols; col += kThreads / kTile)
                place(col, row, from[col * job.from_col_elems + row]);
    }
    __syncthreads();
    if (job.vector_to) {
        constexpr int kElems = kPackElems<To>;
        for (unsigned row = thread / 8; row < kTile && row < rows; row += kThreads / 8)
            for (unsigned col = thread % 8 * kElems; col < kTile && col < cols; col += 8 * kElems) {
                Pack<To, kElems> pack;
                for (int v = 0; v < kElems; ++v) pack.value[v] = tile[(col + v) * kPitch + row];
                *reinterpret_cast<Pack<To, kElems>*>(to + row * job.to_row_elems + col) = pack;
            }
    } else {
        const unsigned col = thread % kTile;
        if (col < cols)
            for (unsigned row = thread / kTile; row < kTile && row < rows; row += kThreads / kTile)
                to[row * job.to_row_elems + col] = tile[col * kPitch + row];
    }
}

// ---- host: sort, merge, choose -------------------------------------------------------------------

/// to's dimensions with the largest stride first, without sizes of 1, merged; strides of `to` are
/// positive. Counts and sizes fit 32 bits (run_copy sees to it).
Walk walk_of(const Tensor& to, const Tensor& from) {
    Walk walk{};
    walk.to = static_cast<char*>(to.data);
    walk.from = static_cast<const char*>(from.data);
    int order[kMaxRank];
    int dims = 0;
    std::int64_t to_elems[kMaxRank], from_elems[kMaxRank];
    for (int d = 0; d < to.rank; ++d) {
        if (to.size[d] == 1) continue;
        to_elems[d] = to.elems[d];
        from_elems[d] = from.elems[d];
        if (to_elems[d] < 0) {  // walked from the other end
            walk.to += (to.size[d] - 1) * to_elems[d] * element_bytes_of(to.dtype);
            walk.from += (to.size[d] - 1) * from_elems[d] * element_bytes_of(from.dtype);
            to_elems[d] = -to_elems[d];
            from_elems[d] = -from_elems[d];
        }
        order[dims++] = d;
    }
    std::stable_sort(order, order + dims, [&](int a, int b) { return to_elems[a] > to_elems[b]; });
    walk.count = 1;
    for (int i = 0; i < dims; ++i) {
        const int d = order[i];
        const auto size = static_cast<unsigned>(to.size[d]);
        walk.count *= size;
        const int last = walk.rank - 1;
        if (walk.rank > 0 && walk.to_elems[last] == to_elems[d] * to.size[d] &&
            walk.from_elems[last] == from_elems[d] * to.size[d]) {
            walk.size[last] *= size;
            walk.to_elems[last] = to_elems[d];
            walk.from_elems[last] = from_elems[d];
        } else {
            walk.size[walk.rank] = size;
            walk.to_elems[walk.rank] = to_elems[d];
            walk.from_elems[walk.rank] = from_elems[d];
            ++walk.rank;
        }
    }
    if (walk.rank == 0) {
        walk.rank = 1;
        walk.size[0] = 1;
        walk.to_elems[0] = walk.from_elems[0] = 1;
    }
    return walk;
}

bool is_block(const Walk& walk) {
    return walk.rank == 1 && walk.to_elems[0] == 1 && walk.from_elems[0] == 1;
}

bool aligned_to(const void* pointer, std::int64_t bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

/// Rewrites the walk in words of the most bytes (up to 16) that both sides allow; returns how many.
int widen(Walk& walk, int element_bytes) {
    const int last = walk.rank - 1;
    if (walk.to_elems[last] != 1 || walk.from_elems[last] != 1) return element_bytes;
    for (int bytes = 16; bytes > element_bytes; bytes /= 2) {
        const int elems = bytes / element_bytes;
        bool fits = aligned_to(walk.to, bytes) && aligned_to(walk.from, bytes) &&
                    walk.size[last] % static_cast<unsigned>(elems) == 0;
        for (int d = 0; d < last; ++d)
            fits = fits && walk.to_elems[d] % elems == 0 && walk.from_elems[d] % elems == 0;
        if (!fits) continue;
        for (int d = 0; d < last; ++d) {
            walk.to_elems[d] /= elems;
            walk.from_elems[d] /= elems;
        }
        walk.size[last] /= static_cast<unsigned>(elems);
        walk.count /= static_cast<unsigned>(elems);
        return bytes;
    }
    return element_bytes;
}

LaunchShape shape_for(std::int64_t items) {
    return {dim3(blocks_for(items, kThreads)), dim3(kThreads)};
}

/// What transpose_tiles can do of the walk: false, or the job but for its dtypes.
bool transpose_of(const Walk& walk, std::int64_t from_bytes, std::int64_t to_bytes,
                  Transpose& job) {
    const int last = walk.rank - 1;
    int unit = -1;
    for (int d = 0; d < last; ++d)
        if (walk.from_elems[d] == 1) unit = d;
    // A tile of few rows or columns would leave most of its threads idle.
    if (unit < 0 || walk.to_elems[last] != 1 || walk.size[unit] < 8 || walk.size[last] < 8)
        return false;
    job.from = walk.from;
    job.to = walk.to;
    job.rows = walk.size[unit];
    job.cols = walk.size[last];
    job.row_tiles = (job.rows + kTile - 1) / kTile;
    job.col_tiles = (job.cols + kTile - 1) / kTile;
    job.from_col_elems = walk.from_elems[last];
    job.to_row_elems = walk.to_elems[unit];
    const auto from_pack = 16 / from_bytes, to_pack = 16 / to_bytes;
    job.vector_from = aligned_to(walk.from, 16) && job.rows % from_pack == 0 &&
                      job.from_col_elems % from_pack == 0;
    job.vector_to =
        aligned_to(walk.to, 16) && job.cols % to_pack == 0 && job.to_row_elems % to_pack == 0;
    Walk& batch = job.batch;
    batch.count = 1;
    for (int d = 0; d < last; ++d) {
        if (d == unit) continue;
        job.vector_from = job.vector_from && walk.from_elems[d] % from_pack == 0;
        job.vector_to = job.vector_to && walk.to_elems[d] % to_pack == 0;
        batch.size[batch.rank] = walk.size[d];
        batch.to_elems[batch.rank] = walk.to_elems[d];
        batch.from_elems[batch.rank] = walk.from_elems[d];
        batch.count *= walk.size[d];
        ++batch.rank;
    }
    return true;
}

template <class From, class To, bool kConvert>
void run_transpose(const Transpose& job, Stream stream) {
    const LaunchShape shape{dim3(job.row_tiles * job.col_tiles * job.batch.count), dim3(kThreads),
                            sizeof(To) * kTile * kTilePitch<To>};
    launch<transpose_tiles<From, To, kConvert>>(shape, stream, job);
}

/// Calls f(TypeTag<From>, TypeTag<To>) for float32 to or from a 16-bit type; false for other pairs.
template <class F>
bool with_pair(DType from, DType to, F&& f) {
    if (from == DType::kFloat32 && to == DType::kFloat16) f(TypeTag<float>{}, TypeTag<Half>{});
    else if (from == DType::kFloat32 && to == DType::kBFloat16) f(TypeTag<float>{}, TypeTag<BFloat16>{});
    else if (from == DType::kFloat16 && to == DType::kFloat32) f(TypeTag<Half>{}, TypeTag<float>{});
    else if (from == DType::kBFloat16 && to == DType::kFloat32) f(TypeTag<BFloat16>{}, TypeTag<float>{});
    else return false;
    return true;
}

void copy_same(Walk& walk, DType dtype, Stream stream) {
    const auto bytes = static_cast<int>(element_bytes_of(dtype));
    if (is_block(walk))
        return copy_bytes(walk.to, walk.from, std::size_t{walk.count} * static_cast<unsigned>(bytes),
                          CopyKind::kDeviceToDevice, stream);
    Transpose job{};
    if (bytes <= 4 && transpose_of(walk, bytes, bytes, job))
        return bytes == 4 ? run_transpose<std::uint32_t, std::uint32_t, false>(job, stream)
                          : run_transpose<std::uint16_t, std::uint16_t, false>(job, stream);
    const int word = widen(walk, bytes);
    const LaunchShape shape = shape_for(walk.count);
    switch (word) {
        case 2: return launch<copy_strided<std::uint16_t>>(shape, stream, walk);
        case 4: return launch<copy_strided<std::uint32_t>>(shape, stream, walk);
        case 8: return launch<copy_strided<uint2>>(shape, stream, walk);
        default: return launch<copy_strided<uint4>>(shape, stream, walk);
    }
}

void copy_converted(const Walk& walk, DType from, DType to, Stream stream) {
    bool done = false;
    Transpose job{};
    if (is_block(walk) && aligned_to(walk.to, 16) && aligned_to(walk.from, 16)) {
        done = with_pair(from, to, [&](auto from_tag, auto to_tag) {
            using From = typename decltype(from_tag)::type;
            using To = typename decltype(to_tag)::type;
            launch<convert_block<From, To>>(shape_for(walk.count / 8 + 1), stream,
                                            reinterpret_cast<const From*>(walk.from),
                                            reinterpret_cast<To*>(walk.to), walk.count);
        });
    } else if (transpose_of(walk, element_bytes_of(from), element_bytes_of(to), job)) {
        done = with_pair(from, to, [&](auto from_tag, auto to_tag) {
            run_transpose<typename decltype(from_tag)::type, typename decltype(to_tag)::type, true>(
                job, stream);
        });
    }
    if (!done) launch<convert_strided>(shape_for(walk.count), stream, walk, from, to);
}

/// Calls f on parts of `to` (and `from`, where given) of at most kMostItems elements.
template <class F>
void in_parts(Tensor to, Tensor from, F&& f) {
    const std::int64_t count = to.count();
    if (count == 0) return;
    if (count <= kMostItems) return f(to, from);
    int axis = 0;
    while (to.size[axis] == 1) ++axis;
    const std::int64_t size = to.size[axis];
    const std::int64_t part = std::max<std::int64_t>(1, kMostItems / (count / size));
    for (std::int64_t begin = 0; begin < size; begin += part) {
        Tensor to_part = to, from_part = from;
        to_part.size[axis] = from_part.size[axis] = std::min(part, size - begin);
        to_part.data = static_cast<char*>(to.data) + begin * to.elems[axis] * element_bytes_of(to.dtype);
        from_part.data =
            static_cast<char*>(from.data) + begin * from.elems[axis] * element_bytes_of(from.dtype);
        in_parts(to_part, from_part, f);
    }
}

template <class T>
void put(unsigned char* bytes, T value) {
    std::memcpy(bytes, &value, sizeof(T));
}

/// Sixteen bytes of `value` in `dtype`, repeated.
void pattern_of(double value, DType dtype, unsigned char (&bytes)[16]) {
    switch (dtype) {
        case DType::kFloat32: put(bytes, static_cast<float>(value)); break;
        case DType::kFloat16: put(bytes, __float2half_rn(odd_float(value))); break;
        case DType::kBFloat16: put(bytes, __float2bfloat16_rn(odd_float(value))); break;
        default: put(bytes, static_cast<std::int64_t>(value));
    }
    const auto size = static_cast<std::size_t>(element_bytes_of(dtype));
    for (std::size_t i = size; i < 16; ++i) bytes[i] = bytes[i - size];
}

template <class Word>
void run_fill_words(const Walk& walk, const unsigned char (&bytes)[16], Stream stream) {
    Word value;
    std::memcpy(&value, bytes, sizeof(Word));
    launch<fill_strided<Word>>(shape_for(walk.count), stream, walk, value);
}

}  // namespace

void run_copy(const Tensor& from, const Tensor& to, Stream stream) {
    in_parts(to, from, [stream](const Tensor& to_part, const Tensor& from_part) {
        Walk walk = walk_of(to_part, from_part);
        if (from_part.dtype == to_part.dtype)
            copy_same(walk, to_part.dtype, stream);
        else
            copy_converted(walk, from_part.dtype, to_part.dtype, stream);
    });
}

void run_fill(const Tensor& to, double value, Stream stream) {
    unsigned char bytes[16];
    pattern_of(value, to.dtype, bytes);
    const bool zero = std::all_of(bytes, bytes + 16, [](unsigned char b) { return b == 0; });
    in_parts(to, to, [&](const Tensor& part, const Tensor&) {
        Walk walk = walk_of(part, part);
        const auto element = static_cast<int>(element_bytes_of(part.dtype));
        if (zero && is_block(walk)) {
            check(cudaMemsetAsync(walk.to, 0, std::size_t{walk.count} * static_cast<unsigned>(element),
                                  stream_of(stream)),
                  "cudaMemsetAsync");
            return;
        }
        switch (widen(walk, element)) {
            case 2: return run_fill_words<std::uint16_t>(walk, bytes, stream);
            case 4: return run_fill_words<std::uint32_t>(walk, bytes, stream);
            case 8: return run_fill_words<uint2>(walk, bytes, stream);
            default: return run_fill_words<uint4>(walk, bytes, stream);
        }
    });
}

}  // namespace fastconv::cuda
