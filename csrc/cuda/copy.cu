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

#include "cuda/copy_kernels.cuh"
#include "cuda/launch.h"

namespace fastconv::cuda {
namespace {

constexpr std::int64_t kMostItems = std::int64_t{1} << 30;

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
    return {dim3(blocks_for(items, kCopyThreads)), dim3(kCopyThreads)};
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

void run_transpose(Transpose& job, DType from, DType to, Stream stream) {
    job.from_dtype = from;
    job.to_dtype = to;
    const std::size_t shared =
        element_bytes_of(to) == 4 ? tile_bytes<std::uint32_t>() : tile_bytes<std::uint16_t>();
    launch<transpose_tiles>({dim3(job.row_tiles * job.col_tiles * job.batch.count),
                             dim3(kCopyThreads), shared}, stream, job);
}

void copy_same(Walk& walk, DType dtype, Stream stream) {
    const auto bytes = static_cast<int>(element_bytes_of(dtype));
    if (is_block(walk))
        return copy_bytes(walk.to, walk.from,
                          std::size_t{walk.count} * static_cast<unsigned>(bytes),
                          CopyKind::kDeviceToDevice, stream);
    Transpose job{};
    if (bytes <= 4 && transpose_of(walk, bytes, bytes, job))
        return run_transpose(job, dtype, dtype, stream);
    const int word = widen(walk, bytes);
    launch<copy_strided>(shape_for(walk.count), stream, walk, word);
}

/// Float32 to or from a 16-bit type, which have kernels of their own.
bool is_pair(DType from, DType to) {
    const auto narrow = [](DType dtype) {
        return dtype == DType::kFloat16 || dtype == DType::kBFloat16;
    };
    return (from == DType::kFloat32 && narrow(to)) || (to == DType::kFloat32 && narrow(from));
}

void copy_converted(const Walk& walk, DType from, DType to, Stream stream) {
    Transpose job{};
    const bool pair = is_pair(from, to);
    if (pair && is_block(walk) && aligned_to(walk.to, 16) && aligned_to(walk.from, 16))
        return launch<convert_block>(shape_for(walk.count / 8 + 1), stream, walk.from, from,
                                     walk.to, to, walk.count);
    if (pair && transpose_of(walk, element_bytes_of(from), element_bytes_of(to), job))
        return run_transpose(job, from, to, stream);
    launch<convert_strided>(shape_for(walk.count), stream, walk, from, to);
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
        to_part.data =
            static_cast<char*>(to.data) + begin * to.elems[axis] * element_bytes_of(to.dtype);
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
    unsigned char pattern[16];
    pattern_of(value, to.dtype, pattern);
    const bool zero = std::all_of(pattern, pattern + 16, [](unsigned char b) { return b == 0; });
    in_parts(to, to, [&](const Tensor& part, const Tensor&) {
        Walk walk = walk_of(part, part);
        const auto element = static_cast<int>(element_bytes_of(part.dtype));
        if (zero && is_block(walk)) {
            const std::size_t bytes = std::size_t{walk.count} * static_cast<unsigned>(element);
            check(cudaMemsetAsync(walk.to, 0, bytes, stream_of(stream)),
                  "cudaMemsetAsync");
            return;
        }
        uint4 words;
        std::memcpy(&words, pattern, sizeof words);
        const int word = widen(walk, element);
        launch<fill_strided>(shape_for(walk.count), stream, walk, word, words);
    });
}

}  // namespace fastconv::cuda
