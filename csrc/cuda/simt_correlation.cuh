// How the simt correlation fetches its operands: global memory to registers, a step's
// multiplications later from there to shared memory as float32.
//
//   source (rows, depth) -> (kDepth, kM)   transposed; by 16 bytes along channels, or any strides
//   weight (depth, cols) -> (kDepth, kN)   by 16 bytes along cols
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/scalar.cuh"
#include "cuda/simt_tile.cuh"

namespace fastconv::cuda::simt {

/// What neighbouring lanes store: 4 cols each, a col each or a row each.
enum class Store : int { kPacks, kAlongCols, kAlongRows };

struct CorrelationParams {
    CorrelationArguments a;
    std::int64_t next_tap_w = 0;  // elements from a tap's end to the next, and what is added to it
    std::int64_t next_tap_h = 0;  // where that is in the next row of taps
    int tiles_n = 1;
    int first_group = 0;
    DType dtype = DType::kFloat32;  // of the operands
    bool vector = false;            // source is read by 16 bytes
    Store store = Store::kAlongCols;
    bool along_depth = false;  // lanes of the scalar path: which neighbours they load
};

/// Where row `row` of the output is in an operand with its pixels.
__device__ inline std::int64_t row_elems(const CorrelationArguments& a, const Strides& strides,
                                         int row) {
    const int image = row / (a.out_h * a.out_w), pixel = row % (a.out_h * a.out_w);
    return image * strides.batch_elems + pixel / a.out_w * strides.height_elems +
           pixel % a.out_w * strides.width_elems;
}

/// Where the source of row `row` begins: its first tap and channel, perhaps outside the image.
__device__ inline Place source_place(const CorrelationArguments& a, int row) {
    if (row >= a.rows) return {0, kOutside, kOutside};
    const int image = row / (a.out_h * a.out_w), pixel = row % (a.out_h * a.out_w);
    const int y = pixel / a.out_w * a.step_h + a.offset_h;
    const int x = pixel % a.out_w * a.step_w + a.offset_w;
    const Strides& strides = a.source_strides;
    return {image * strides.batch_elems + y * strides.height_elems + x * strides.width_elems, y, x};
}

/// Depth `d` as tap and channel, and its distance from depth 0 of the same row.
struct Tap {
    int a, b, channel;

    __device__ Tap(const CorrelationArguments& arguments, int d) {
        const int tap = d / arguments.channels;
        channel = d % arguments.channels;
        a = tap / arguments.taps_w;
        b = tap % arguments.taps_w;
    }
    __device__ Place place(const CorrelationArguments& arguments) const {
        const Strides& strides = arguments.source_strides;
        const int y = a * arguments.offset_step_h, x = b * arguments.offset_step_w;
        return {y * strides.height_elems + x * strides.width_elems +
                    channel * strides.channel_elems, y, x};
    }
};

__device__ inline bool inside(const CorrelationArguments& a, int y, int x) {
    return static_cast<unsigned>(y) < static_cast<unsigned>(a.source_h) &&
           static_cast<unsigned>(x) < static_cast<unsigned>(a.source_w);
}

// The operands' common form: fetch() loads the next step, whose first depth is `left` before the
// end; store() puts it into the stage where the last one is not, `flip` floats from there.

/// 16 bytes along channels: a chunk of some rows, the same chunk of every step. Neighbouring lanes
/// have a row's chunks, so that 32-byte sectors are read whole. No chunk spans two taps.
template <class T, class Tile>
class VectorSource {
    static constexpr int kChunk = kPackElems<T>, kChunks = Tile::kDepth / kChunk;
    static constexpr int kRowsApart = Tile::kThreads / kChunks;
    static constexpr int kSlots = (Tile::kM + kRowsApart - 1) / kRowsApart;
    static_assert(kChunks >= 1 && Tile::kThreads % kChunks == 0);

public:
    static constexpr int kTableBytes = 0;

    __device__ VectorSource(const CorrelationParams& p, const T* source, float* stage,
                            int first_row, int first_depth, int left, Place*) {
        const int row = threadIdx.x / kChunks, depth = threadIdx.x % kChunks * kChunk;
        const Tap tap(p.a, first_depth + depth);
        const Place from = tap.place(p.a);
        b_ = tap.b;
        channel_ = tap.channel;
        to_ = stage + depth * Tile::kPitchM + row;
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            const int own = row + s * kRowsApart;
            const Place place = source_place(p.a, own < Tile::kM ? first_row + own : p.a.rows);
            from_[s] = source + (place.elems + from.elems);
            y_[s] = place.y + from.y;
            x_[s] = place.x + from.x;
            inside_[s] = depth < left && inside(p.a, y_[s], x_[s]);
        }
    }

    __device__ void fetch(const CorrelationParams& p, int left) {
        std::int64_t move = Tile::kDepth;
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            staged_[s].clear();
            if (inside_[s]) staged_[s].load(from_[s]);
        }
        channel_ += Tile::kDepth;
        if (channel_ >= p.a.channels) move += change_tap(p, left - Tile::kDepth);
#pragma unroll
        for (int s = 0; s < kSlots; ++s) from_[s] += move;
    }

    __device__ void store(const CorrelationParams&, int flip) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            if (kSlots * kRowsApart > Tile::kM && threadIdx.x / kChunks >= Tile::kM) continue;
            const auto chunk = staged_[s].elements();
#pragma unroll
            for (int e = 0; e < kChunk; ++e)
                to_[e * Tile::kPitchM + s * kRowsApart] = to_float(chunk.value[e]);
        }
        to_ += flip;
    }

private:
    __device__ std::int64_t change_tap(const CorrelationParams& p, int left) {
        std::int64_t move = 0;
        int down = 0, right = 0;
        do {
            channel_ -= p.a.channels;
            move += p.next_tap_w;
            right += p.a.offset_step_w;
            if (++b_ == p.a.taps_w) {
                b_ = 0;
                move += p.next_tap_h;
                right -= p.a.taps_w * p.a.offset_step_w;
                down += p.a.offset_step_h;
            }
        } while (channel_ >= p.a.channels);
        const bool more = static_cast<int>(threadIdx.x) % kChunks * kChunk < left;
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            y_[s] += down;
            x_[s] += right;
            inside_[s] = more && inside(p.a, y_[s], x_[s]);
        }
        return move;
    }

    const T* from_[kSlots];
    Chunk<T> staged_[kSlots];
    int y_[kSlots], x_[kSlots];
    bool inside_[kSlots];
    int b_, channel_;
    float* to_;
};

/// Element by element, places of rows and of this step's and the next step's depths from tables in
/// shared memory. Neighbouring lanes load neighbouring depths or rows, whichever are closer.
template <class T, class Tile>
class ScalarSource {
    static constexpr int kElems = Tile::kM * Tile::kDepth / Tile::kThreads;

public:
    static constexpr int kTableBytes = (Tile::kM + 2 * Tile::kDepth) * sizeof(Place);

    __device__ ScalarSource(const CorrelationParams& p, const T* source, float* stage,
                            int first_row, int first_depth, int left, Place* tables)
        : source_(source), depth_(first_depth), rows_(tables),
          to_(stage + depth_of(p, 0) * Tile::kPitchM + row_of(p, 0)) {
        for (int row = threadIdx.x; row < Tile::kM; row += Tile::kThreads)
            rows_[row] = source_place(p.a, first_row + row);
        note(p, left);
        __syncthreads();
    }

    /// Reads one table of depths and writes the other: one barrier has to be between two calls.
    __device__ void fetch(const CorrelationParams& p, int left) {
        const Place* depths = table(depth_);
#pragma unroll
        for (int e = 0; e < kElems; ++e) {
            const Place row = rows_[row_of(p, e)], depth = depths[depth_of(p, e)];
            staged_[e] = 0;
            if (inside(p.a, row.y + depth.y, row.x + depth.x))
                staged_[e] = to_float(source_[row.elems + depth.elems]);
        }
        depth_ += Tile::kDepth;
        note(p, left - Tile::kDepth);
    }

    __device__ void store(const CorrelationParams& p, int flip) {
#pragma unroll
        for (int e = 0; e < kElems; ++e)
            to_[(depth_of(p, e) - depth_of(p, 0)) * Tile::kPitchM + row_of(p, e) - row_of(p, 0)] =
                staged_[e];
        to_ += flip;
    }

private:
    // Element e of a thread: one row at all its depths (two rows, if a tile has more than threads),
    // or one depth in many rows.
    static constexpr int kOwnRows = Tile::kM > Tile::kThreads ? Tile::kM / Tile::kThreads : 1;
    static constexpr int kDepthsApart = Tile::kM > Tile::kThreads ? 1 : Tile::kThreads / Tile::kM;

    __device__ static int row_of(const CorrelationParams& p, int e) {
        const int thread = threadIdx.x;
        return (p.along_depth ? thread / Tile::kDepth : thread % Tile::kM) +
               (p.along_depth ? e * (Tile::kThreads / Tile::kDepth)
                              : e % kOwnRows * Tile::kThreads);
    }
    __device__ static int depth_of(const CorrelationParams& p, int e) {
        const int thread = threadIdx.x;
        return (p.along_depth ? thread % Tile::kDepth : thread / Tile::kM) +
               (p.along_depth ? 0 : e / kOwnRows * kDepthsApart);
    }

    /// The table of the depths from depth_ on. By division, not from step to step: 8 threads do it,
    /// and all would keep registers for it.
    __device__ void note(const CorrelationParams& p, int left) const {
        if (threadIdx.x >= Tile::kDepth) return;
        const int k = threadIdx.x;
        table(depth_)[k] =
            k < left ? Tap(p.a, depth_ + k).place(p.a) : Place{0, kOutside, kOutside};
    }
    __device__ Place* table(int depth) const {
        return rows_ + Tile::kM + depth / Tile::kDepth % 2 * Tile::kDepth;
    }

    const T* source_;
    int depth_;    // the first of the table that the next fetch() reads
    Place* rows_;  // (kM), then depths (2, kDepth)
    float* to_;
    float staged_[kElems];
};

/// 16 bytes along cols. Columns up to the pitch may be read, depths beyond the end may not.
template <class T, class Tile>
class Weight {
    static constexpr int kChunk = kPackElems<T>, kChunks = Tile::kN / kChunk;
    static constexpr int kAll = Tile::kDepth * kChunks;
    static constexpr int kSlots = (kAll + Tile::kThreads - 1) / Tile::kThreads;
    static constexpr int kDepthsApart = Tile::kThreads / kChunks;
    static_assert(Tile::kThreads % kChunks == 0);

public:
    __device__ Weight(const CorrelationParams& p, const T* weight, float* stage, int first_col,
                      int first_depth, int left) {
        const int depth = threadIdx.x / kChunks, col = threadIdx.x % kChunks * kChunk;
        from_ = weight + (first_depth + depth) * p.a.weight_pitch + (first_col + col);
        left_ = first_col + col < p.a.cols && depth < Tile::kDepth ? left - depth : 0;
        to_ = stage + Tile::kStageM + depth * Tile::kPitchN + col;
    }

    __device__ void fetch(const CorrelationParams& p) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            staged_[s].clear();
            if (left_ > s * kDepthsApart)
                staged_[s].load(from_ + s * kDepthsApart * p.a.weight_pitch);
        }
        from_ += Tile::kDepth * p.a.weight_pitch;
        left_ -= Tile::kDepth;
    }

    __device__ void store(int flip) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
            if (kAll < Tile::kThreads && threadIdx.x >= kAll) continue;
            staged_[s].store(to_ + s * kDepthsApart * Tile::kPitchN);
        }
        to_ += flip;
    }

private:
    const T* from_;
    Chunk<T> staged_[kSlots];
    int left_;  // depths from the first slot's to the end; 0 from the start: no column
    float* to_;
};

}  // namespace fastconv::cuda::simt
