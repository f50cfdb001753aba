// How the tensor-core kernels of grad_weight bring (rows, channels) tiles of both operands to
// shared memory: 16 bytes at a time by cp.async, or element by element through registers where
// channels are no runs of 16 bytes (C = 1 or 3, C order, any strides).
//
// A tile lies as (rows, channels), channels fastest, in chunks of 16 bytes. Chunk c of row r stands
// at place c ^ swizzle(r), so that eight neighbouring rows of one chunk, and eight chunks of one
// row, are in different banks.
#pragma once

#include <cstdint>

#include "cuda/grad_weight_walk.cuh"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda::grad_weight {

/// Of four-byte elements, four rows by eight words are read at once (tile's TF32 fragments).
template <class T>
__device__ constexpr int swizzle(int row) {
    return sizeof(T) == 2 ? row & 7 : (row & 3) * 2;
}

/// Where chunk `chunk` of row `row` of a (rows, kWidth) tile stands, in bytes.
template <class T, int kWidth>
__device__ constexpr int tile_bytes(int row, int chunk) {
    return row * kWidth * static_cast<int>(sizeof(T)) + (chunk ^ swizzle<T>(row)) * 16;
}

/// kLanes neighbouring threads copy a row's channels, each one to four chunks of either operand
/// that stay the same at every step; the place of a row is shared between the operands. Without
/// kSource the source is somebody else's.
template <class Shape, bool kSource>
struct VectorLoader {
    using T = typename Shape::Element;
    static constexpr int kElems = kPackElems<T>;
    static constexpr int kLanes = Shape::kLanes;
    static constexpr int kPassRows = Shape::kThreads / kLanes;
    static constexpr int kPasses = Shape::kRows / kPassRows;
    static constexpr int kOutChunks = Shape::kCols / kElems / kLanes;
    static constexpr int kSourceChunks = kSource ? Shape::kDepth / kElems / kLanes : 0;
    static_assert(Shape::kRows % kPassRows == 0 && kPassRows % (16 / sizeof(T)) == 0,
                  "whole passes, and one swizzle for all of them");
    static_assert(kOutChunks > 0 && kLanes % 8 == 0, "whole chunks, one swizzle for all of them");

    const KernelArguments& k;
    const unsigned char *out, *source;
    int row_end;
    bool col_valid[kOutChunks];
    int tap_y[kSourceChunks + 1], tap_x[kSourceChunks + 1], tap_offset[kSourceChunks + 1];
    int out_bytes, source_bytes;  // of this thread's first chunk in a stage's tiles
    Place<int> place;

    __device__ VectorLoader(const KernelArguments& arguments, const T* out_first,
                            const T* source_first, int col, int depth, int row_begin, int end)
        : k(arguments), row_end(end) {
        const int lane = static_cast<int>(threadIdx.x) % kLanes;
        const int row = static_cast<int>(threadIdx.x) / kLanes;
        out = reinterpret_cast<const unsigned char*>(out_first + col + lane * kElems);
        source = reinterpret_cast<const unsigned char*>(source_first);
        for (int c = 0; c < kOutChunks; ++c)
            col_valid[c] = col + (lane + c * kLanes) * kElems < k.problem.cols;
        for (int c = 0; c < kSourceChunks; ++c) {
            const Tap tap =
                tap_of(k.problem, depth + (lane + c * kLanes) * kElems);
            tap_y[c] = tap.y;
            tap_x[c] = tap.x;
            tap_offset[c] = static_cast<int>(tap.offset / kElems);
        }
        out_bytes = tile_bytes<T, Shape::kCols>(row, lane);
        source_bytes = tile_bytes<T, Shape::kDepth>(row, lane);
        place.start(k.problem, k.chunks, row_begin + row);
    }

    /// Starts the copies of the next Shape::kRows rows.
    __device__ void copy(unsigned char* out_tile, unsigned char* source_tile) {
        const GradWeightArguments& a = k.problem;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const bool row_valid = place.row < row_end;
#pragma unroll
            for (int c = 0; c < kOutChunks; ++c)
                ptx::cp_async_16(
                    out_tile + out_bytes + pass * kPassRows * Shape::kOutPitch + c * kLanes * 16,
                    out + std::int64_t{place.out} * 16 + c * kLanes * 16,
                    row_valid & col_valid[c]);
#pragma unroll
            for (int c = 0; c < kSourceChunks; ++c) {
                const bool valid = row_valid & inside(a, place.i * a.step_h + tap_y[c],
                                                      place.j * a.step_w + tap_x[c]);
                unsigned char* to = source_tile + source_bytes +
                                    pass * kPassRows * Shape::kSourcePitch + c * kLanes * 16;
                const unsigned char* from =
                    source + std::int64_t{place.source + tap_offset[c]} * 16;
                ptx::cp_async_16(to, from, valid);
            }
            place.advance(a, k.chunks);
        }
    }
};

/// One operand, element by element: a thread gathers whole chunks into registers by load() and, an
/// iteration of the main loop later, puts them into the tile by store(). Neighbouring threads take
/// neighbouring rows, so that images in C order are read in runs along their width, or neighbouring
/// chunks where channels are unit stride.
template <class Shape, int kWidth, bool kSource>
struct ElementLoader {
    using T = typename Shape::Element;
    static constexpr int kElems = kPackElems<T>;
    static constexpr int kChunks = kWidth / kElems;
    static constexpr int kPasses = kChunks * Shape::kRows / Shape::kThreads;
    static_assert(kChunks * Shape::kRows % Shape::kThreads == 0 && kPasses > 0, "whole passes");
    static_assert(Shape::kThreads % Shape::kRows == 0 && Shape::kThreads % kChunks == 0, "");

    const KernelArguments& k;
    const Walk<std::int64_t>& walk;
    const T* data;
    const Tap* taps;  // (kWidth + kChunks): one unused after each chunk, against bank conflicts
    int row_end, first;  // first: column or depth of the tile's first element
    bool channels_fast;
    int row, chunk;
    Place<std::int64_t> place;
    Pack<T, kElems> staged[kPasses];

    __device__ ElementLoader(const KernelArguments& arguments, const T* operand, Tap* table,
                             int tile_first, int row_begin, int end)
        : k(arguments), walk(kSource ? arguments.source_elems : arguments.out_elems),
          data(operand), taps(table), row_end(end), first(tile_first),
          channels_fast(kSource ? arguments.source_channels_fast
                                : arguments.out_channels_fast) {
        const int thread = static_cast<int>(threadIdx.x);
        row = channels_fast ? thread / kChunks : thread % Shape::kRows;
        chunk = channels_fast ? thread % kChunks : thread / Shape::kRows;
        place.start(k.problem, walk, row_begin + row);
        if constexpr (kSource)
            for (int d = thread; d < kWidth; d += Shape::kThreads)
                table[d + d / kElems] = tap_of(k.problem, first + d);
    }

    /// A barrier must stand between the constructor and the first load.
    __device__ void load() {
        const GradWeightArguments& a = k.problem;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int c = chunk_of(pass);
            const bool row_valid = place.row < row_end;
#pragma unroll
            for (int e = 0; e < kElems; ++e) {
                const T* from = data;
                bool valid = row_valid;
                if constexpr (kSource) {
                    const Tap tap = taps[c * (kElems + 1) + e];
                    valid = valid && inside(a, place.i * a.step_h + tap.y,
                                            place.j * a.step_w + tap.x);
                    from += place.source + tap.offset;
                } else {
                    const int col = first + c * kElems + e;
                    valid = valid && col < a.cols;
                    from += place.out + col * a.out_strides.channel_elems;
                }
                staged[pass].value[e] = valid ? *from : from_float<T>(0.0f);
            }
            if (channels_fast || pass + 1 == kPasses) place.advance(a, walk);
        }
    }

    __device__ void store(unsigned char* tile) const {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int r = channels_fast ? row + pass * (Shape::kRows / kPasses) : row;
            *reinterpret_cast<Pack<T, kElems>*>(tile + tile_bytes<T, kWidth>(r, chunk_of(pass))) =
                staged[pass];
        }
    }

private:
    __device__ int chunk_of(int pass) const {
        return channels_fast ? chunk : chunk + pass * (Shape::kThreads / Shape::kRows);
    }
};

}  // namespace fastconv::cuda::grad_weight
