// How the operands of correlation_sm80.cuh come into shared memory. Both tiles are rows of 128
// bytes along depth, in 8 chunks of 16 bytes (8 elements of 16 bits or 4 floats), and chunk q of
// row r stands at place q ^ (r & 7), so that the 8 rows of one ldmatrix matrix lie in 8 different
// groups of banks:
//
//                 place 0   1   2   3   4   5   6   7
//     row 0:            0   1   2   3   4   5   6   7     chunk of depth
//     row 1:            1   0   3   2   5   4   7   6
//     row 2:            2   3   0   1   6   7   4   5     ...
//
// Depth d = (a, b, c), c fastest, is walked by adding with carry: no division in the main loop.
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"

namespace fastconv::cuda::sm80 {

constexpr int kRowBytes = 128;
constexpr int kChunkBytes = 16;
constexpr int kChunks = kRowBytes / kChunkBytes;

/// A sum's terms of one block: `steps` steps of depth from element `begin`.
template <class T>
struct DepthRange {
    static constexpr int kStep = kRowBytes / static_cast<int>(sizeof(T));
    int begin = 0, steps = 0;

    __device__ DepthRange(const CorrelationArguments& p, int split) {
        begin = p.splits > 1 ? split * p.depth_per_split : 0;
        const int left = p.depth > begin ? p.depth - begin : 0;
        const int terms = p.splits > 1 && p.depth_per_split < left ? p.depth_per_split : left;
        steps = (terms + kStep - 1) / kStep;
    }
};

/// Where output row `row` is; rows beyond the last are the last.
struct Position {
    int n, i, j;
    __device__ Position(const CorrelationArguments& p, int row) {
        const int clamped = row < p.rows ? row : p.rows - 1;
        const int line = clamped / p.out_w;
        j = clamped - line * p.out_w;
        n = line / p.out_h;
        i = line - n * p.out_h;
    }
};

/// Depth as (a, b, c), c in units of `unit` channels, which moves by a fixed number of units.
struct DepthWalk {
    int a, b, c;

    __device__ DepthWalk(const CorrelationArguments& p, int at, int unit, int step)
        : channels_(p.channels / unit) {
        const int tap = at / channels_;
        c = at - tap * channels_;
        a = tap / p.taps_w;
        b = tap - a * p.taps_w;
        const int taps = step / channels_;
        add_c_ = step - taps * channels_;
        add_a_ = taps / p.taps_w;
        add_b_ = taps - add_a_ * p.taps_w;
    }
    __device__ void advance(const CorrelationArguments& p) {
        c += add_c_;
        b += add_b_;
        a += add_a_;
        if (c >= channels_) {
            c -= channels_;
            ++b;
        }
        if (b >= p.taps_w) {
            b -= p.taps_w;
            ++a;
        }
    }

private:
    int channels_, add_a_, add_b_, add_c_;
};

/// Where one thread's chunks of a tile go: rows `row`, row + kRowStep, ..., always the same chunk.
template <int kThreads>
struct ChunkLane {
    static constexpr int kRowStep = kThreads / kChunks;
    static_assert(kRowStep % 8 == 0, "the swizzle is the same for every row of a thread");
    int row, chunk, place;
    __device__ explicit ChunkLane(int thread)
        : row(thread / kChunks),
          chunk(thread % kChunks),
          place(row * kRowBytes + ((chunk ^ (row & 7)) * kChunkBytes)) {}
};

/// The weight tile (kRows of cols, depth), dense: by cp.async, zeros beyond cols and depth.
template <class T, int kRows, int kThreads>
class WeightTile {
public:
    static constexpr int kCopies = kRows * kChunks / kThreads;

    __device__ WeightTile(const CorrelationArguments& p, int group, int col0, int begin)
        : lane_(threadIdx.x) {
        constexpr int kElems = kPackElems<T>;
        chunks_left_ = (p.depth + kElems - 1) / kElems - begin / kElems - lane_.chunk;
        row_step_ = p.weight_pitch * ChunkLane<kThreads>::kRowStep * sizeof(T);
        from_ = reinterpret_cast<const unsigned char*>(
            static_cast<const T*>(p.weight) + group * p.weight_group_elems +
            (col0 + lane_.row) * p.weight_pitch + begin + lane_.chunk * kElems);
        rows_left_ = p.cols - col0 - lane_.row;
    }
    /// Copies kFirst .. kEnd - 1 of this thread's kCopies for the current step.
    template <int kFirst, int kEnd>
    __device__ void copy(unsigned char* tile) const {
        const int rows_left = chunks_left_ > 0 ? rows_left_ : 0;
#pragma unroll
        for (int copy = kFirst; copy < kEnd; ++copy) {
            const int row = copy * ChunkLane<kThreads>::kRowStep;
            ptx::cp_async_16(tile + lane_.place + row * kRowBytes, from_ + copy * row_step_,
                             row < rows_left);
        }
    }
    __device__ void advance() {
        from_ += kRowBytes;
        chunks_left_ -= kChunks;
    }

private:
    ChunkLane<kThreads> lane_;
    const unsigned char* from_;
    std::int64_t row_step_;  // bytes
    int rows_left_, chunks_left_;
};

/// The source tile (kRows, depth) where channels come in whole chunks of 16 bytes: by cp.async,
/// zeros outside the image. Distances are counted in chunks from the image of the block's first
/// row, in 32 bits: images of one tile may lie 32 GB apart.
template <class T, int kRows, int kThreads>
class VectorSource {
public:
    static constexpr int kCopies = kRows * kChunks / kThreads;
    static constexpr int kTableBytes = 0;

    __device__ VectorSource(const CorrelationArguments& p, int group, int row0, int begin,
                            unsigned char* /*table*/)
        : lane_(threadIdx.x),
          depth_(p, begin / kPackElems<T> + lane_.chunk, kPackElems<T>, kChunks) {
        constexpr int kElems = kPackElems<T>;
        const int step_h = static_cast<int>(p.source_strides.height_elems / kElems);
        const int step_w = static_cast<int>(p.source_strides.width_elems / kElems);
        const Position first(p, row0);
        base_ = static_cast<const unsigned char*>(p.source) +
                (group * p.source_group_elems + first.n * p.source_strides.batch_elems) *
                    static_cast<std::int64_t>(sizeof(T));
#pragma unroll
        for (int copy = 0; copy < kCopies; ++copy) {
            const Position at(p, row0 + lane_.row + copy * ChunkLane<kThreads>::kRowStep);
            h_[copy] = at.i * p.step_h + p.offset_h;
            w_[copy] = at.j * p.step_w + p.offset_w;
            offset_[copy] = static_cast<int>((at.n - first.n) *
                                             (p.source_strides.batch_elems / kElems)) +
                            h_[copy] * step_h + w_[copy] * step_w;
        }
    }
    template <int kFirst, int kEnd>
    __device__ void copy(const CorrelationArguments& p, unsigned char* tile) const {
        constexpr int kElems = kPackElems<T>;
        // Again in every call, which costs less than keeping them in registers.
        const int tap_h = depth_.a * p.offset_step_h, tap_w = depth_.b * p.offset_step_w;
        const int tap_offset = tap_h * static_cast<int>(p.source_strides.height_elems / kElems) +
                               tap_w * static_cast<int>(p.source_strides.width_elems / kElems) +
                               depth_.c;
        const unsigned limit_h = depth_.a < p.taps_h ? p.source_h : 0;  // none beyond the end
#pragma unroll
        for (int copy = kFirst; copy < kEnd; ++copy) {
            const bool inside =
                static_cast<unsigned>(h_[copy] + tap_h) < limit_h &&
                static_cast<unsigned>(w_[copy] + tap_w) < static_cast<unsigned>(p.source_w);
            const std::int64_t chunk = offset_[copy] + tap_offset;
            ptx::cp_async_16(
                tile + lane_.place + copy * ChunkLane<kThreads>::kRowStep * kRowBytes,
                base_ + chunk * kChunkBytes, inside);
        }
    }
    __device__ void advance(const CorrelationArguments& p) { depth_.advance(p); }

private:
    ChunkLane<kThreads> lane_;
    DepthWalk depth_;  // in chunks
    const unsigned char* base_;
    int h_[kCopies], w_[kCopies], offset_[kCopies];  // of each row, before the tap's is added
};

/// One element of depth as every row sees it.
struct alignas(16) DepthEntry {
    std::int64_t offset;  // bytes from where the row's window starts
    int h, w;             // the tap's distance from there
};

/// The source tile of any strides and channels, gathered element by element into registers (fetch)
/// and from there into shared memory (place), so that the loads run while the step before is
/// multiplied. What an element of depth means is in a table, made one step ahead by a thread an
/// element, read by all. Lanes are neighbouring rows: C-order images are read coalesced, and
/// channels-last ones hit the same lines for each of a pixel's few channels. For a ring of two
/// stages.
template <class T, int kRows, int kThreads>
class ScalarSource {
    static constexpr int kStep = DepthRange<T>::kStep;
    static constexpr int kElems = kPackElems<T>;
    static constexpr int kPerThread = kRows * kStep / kThreads;
    static constexpr int kHalf = kPerThread / 2;
    static_assert(kThreads >= kStep && kHalf % kElems == 0 && kRows % 32 == 0);

public:
    static constexpr int kTableBytes = 2 * kStep * static_cast<int>(sizeof(DepthEntry));

    /// Ends with a barrier.
    __device__ ScalarSource(const CorrelationArguments& p, int group, int row0, int begin,
                            unsigned char* table)
        : table_(reinterpret_cast<DepthEntry*>(table)),
          row_(threadIdx.x % kRows),
          first_(threadIdx.x / kRows * kPerThread),
          depth_(p, begin + static_cast<int>(threadIdx.x), 1, kStep) {
        const Position at(p, row0 + row_);
        h_ = at.i * p.step_h + p.offset_h;
        w_ = at.j * p.step_w + p.offset_w;
        from_ = reinterpret_cast<const unsigned char*>(
            static_cast<const T*>(p.source) + group * p.source_group_elems +
            at.n * p.source_strides.batch_elems + h_ * p.source_strides.height_elems +
            w_ * p.source_strides.width_elems);
        tabulate(p);
        __syncthreads();
    }
    template <int kWhich>
    __device__ void fetch(const CorrelationArguments& p) {
        const DepthEntry* entry = table_ + parity_ * kStep + first_ + kWhich * kHalf;
#pragma unroll
        for (int e = 0; e < kHalf; ++e) {
            const DepthEntry at = entry[e];
            const bool inside =
                static_cast<unsigned>(h_ + at.h) < static_cast<unsigned>(p.source_h) &&
                static_cast<unsigned>(w_ + at.w) < static_cast<unsigned>(p.source_w);
            value_[e] = inside ? *reinterpret_cast<const T*>(from_ + at.offset)
                               : from_float<T>(0.0f);
        }
    }
    template <int kWhich>
    __device__ void place(unsigned char* tile) const {
#pragma unroll
        for (int e = 0; e < kHalf; e += kElems) {
            const int chunk = (first_ + kWhich * kHalf + e) / kElems;
            Pack<T, kElems> pack;
#pragma unroll
            for (int i = 0; i < kElems; ++i) pack.value[i] = value_[e + i];
            *reinterpret_cast<Pack<T, kElems>*>(tile + row_ * kRowBytes +
                                                (chunk ^ (row_ & 7)) * kChunkBytes) = pack;
        }
    }
    /// The next step's table, which the next barrier makes known.
    __device__ void advance(const CorrelationArguments& p) {
        depth_.advance(p);
        parity_ ^= 1;
        tabulate(p);
    }

private:
    __device__ void tabulate(const CorrelationArguments& p) {
        if (threadIdx.x >= kStep) return;
        constexpr int kOutside = 1 << 30;  // beyond the depth's end
        const int h = depth_.a * p.offset_step_h, w = depth_.b * p.offset_step_w;
        const std::int64_t elems = h * p.source_strides.height_elems +
                                   w * p.source_strides.width_elems +
                                   depth_.c * p.source_strides.channel_elems;
        table_[parity_ * kStep + threadIdx.x] = {elems * static_cast<std::int64_t>(sizeof(T)),
                                                 depth_.a < p.taps_h ? h : kOutside, w};
    }

    DepthEntry* table_;
    int row_, first_, parity_ = 0;
    DepthWalk depth_;  // of this thread's entry
    const unsigned char* from_;
    int h_, w_;
    T value_[kHalf];
};

}  // namespace fastconv::cuda::sm80
