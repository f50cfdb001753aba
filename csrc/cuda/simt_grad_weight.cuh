// How the simt grad_weight fetches its operands: global memory to registers, a step's
// multiplications later from there to shared memory as float32. Both lie along channels, so nothing
// is transposed:
//
//   out    (rows, cols)  -> (kDepth, kM)     by 16 bytes along channels, or any strides
//   source (rows, depth) -> (kDepth, kN)     the same; a depth is a tap and a channel
//
// The sum runs over rows: a step has kDepth of them.
#pragma once

#include <cstdint>

#include "cuda/conv_kernels.h"
#include "cuda/scalar.cuh"
#include "cuda/simt_tile.cuh"

namespace fastconv::cuda::simt {

/// Elements of an operand between rows: of one step, and what a new line and a new image add.
struct Moves {
    std::int64_t step = 0, line = 0, image = 0;
};

struct GradWeightParams {
    GradWeightArguments a;
    Moves out, source;
    int tiles_n = 1;
    int first_group = 0;
    DType dtype = DType::kFloat32;  // of the operands
    bool vector = false;            // they are read by 16 bytes
    bool along_rows = false;  // lanes of the scalar path: which neighbours they load
};

/// A row as image and pixel.
struct Row {
    int image, i, j;

    __device__ Row(const GradWeightArguments& a, int row)
        : image(row / (a.out_h * a.out_w)), i(row / a.out_w % a.out_h), j(row % a.out_w) {}

    /// In `out`.
    __device__ std::int64_t elems(const GradWeightArguments& a) const {
        return image * a.out_strides.batch_elems + i * a.out_strides.height_elems +
               j * a.out_strides.width_elems;
    }
    /// In `source`, of depth 0.
    __device__ Place place(const GradWeightArguments& a) const {
        const int y = i * a.step_h + a.offset_h, x = j * a.step_w + a.offset_w;
        return {image * a.source_strides.batch_elems + y * a.source_strides.height_elems +
                    x * a.source_strides.width_elems, y, x};
    }
};

/// Depth `d` of a row, from the row's depth 0.
__device__ inline Place depth_place(const GradWeightArguments& a, int d) {
    if (d >= a.depth) return {0, kOutside, kOutside};
    const int tap = d / a.channels, channel = d % a.channels;
    const int y = tap / a.taps_w * a.offset_step_h, x = tap % a.taps_w * a.offset_step_w;
    return {y * a.source_strides.height_elems + x * a.source_strides.width_elems +
                channel * a.source_strides.channel_elems, y, x};
}

__device__ inline bool inside(const GradWeightArguments& a, int y, int x) {
    return static_cast<unsigned>(y) < static_cast<unsigned>(a.source_h) &&
           static_cast<unsigned>(x) < static_cast<unsigned>(a.source_w);
}

// An operand's common form, as in simt_correlation.cuh: fetch() loads the next step, whose first
// row is `left` before the end; store() puts it into the stage where the last one is not.

/// 16 bytes along channels: a chunk of cols and a chunk of depths of a row, both the same in every
/// step. No chunk spans two taps or the end of the matrix.
template <class T, class Tile>
class VectorOperands {
    static constexpr int kChunk = kPackElems<T>;
    static constexpr int kChunks = Tile::kM / kChunk;
    static constexpr int kRowsApart = Tile::kThreads / kChunks;
    static constexpr int kSlots = (Tile::kDepth + kRowsApart - 1) / kRowsApart;
    static_assert(Tile::kM == Tile::kN && kSlots == 1);

public:
    static constexpr int kTableBytes = 0;

    __device__ VectorOperands(const GradWeightParams& p, const T* out, const T* source,
                              float* stage, int first_col, int first_depth, int first_row,
                              int left, Place*) {
        const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks * kChunk;
        const Row from(p.a, first_row + row);
        const Place place = from.place(p.a), depth = depth_place(p.a, first_depth + chunk);
        i_ = from.i;
        j_ = from.j;
        y_ = place.y + depth.y;
        x_ = place.x + depth.x;
        const int col = first_col + chunk < p.a.cols ? first_col + chunk : 0;  // is not stored
        out_ = out + (from.elems(p.a) + col);
        source_ = source + (place.elems + depth.elems);
        left_ = row < Tile::kDepth ? left - row : 0;
        to_ = stage + row * Tile::kPitchM + chunk;
    }

    __device__ void fetch(const GradWeightParams& p) {
        staged_out_.clear();
        staged_source_.clear();
        if (left_ > 0) {
            staged_out_.load(out_);
            if (inside(p.a, y_, x_)) staged_source_.load(source_);
        }
        left_ -= Tile::kDepth;
        out_ += p.out.step;
        source_ += p.source.step;
        x_ += Tile::kDepth * p.a.step_w;
        for (j_ += Tile::kDepth; j_ >= p.a.out_w; j_ -= p.a.out_w) next_line(p);
    }

    __device__ void store(const GradWeightParams&, int flip) {
        if (Tile::kDepth * kChunks >= Tile::kThreads || threadIdx.x < Tile::kDepth * kChunks) {
            staged_out_.store(to_);
            staged_source_.store(to_ + Tile::kStageM);
        }
        to_ += flip;
    }

private:
    __device__ void next_line(const GradWeightParams& p) {
        out_ += p.out.line;
        source_ += p.source.line;
        x_ -= p.a.out_w * p.a.step_w;
        y_ += p.a.step_h;
        if (++i_ < p.a.out_h) return;
        i_ = 0;
        out_ += p.out.image;
        source_ += p.source.image;
        y_ -= p.a.out_h * p.a.step_h;
    }

    const T *out_, *source_;  // of this thread's row and chunk
    int i_, j_, y_, x_;       // its pixel of out, its pixel of source
    int left_;                // rows to the end; 0 from the start: nothing to load
    float* to_;
    Chunk<T> staged_out_, staged_source_;
};

/// Element by element, places of depths, and of this step's and the next step's rows from tables in
/// shared memory. Neighbouring lanes load neighbouring channels or rows, whichever are closer.
template <class T, class Tile>
class ScalarOperands {
    static constexpr int kElems = Tile::kM * Tile::kDepth / Tile::kThreads;
    static_assert(Tile::kM == Tile::kN && Tile::kThreads % Tile::kM == 0);

    struct RowEntry {
        Place source;
        std::int64_t out;
        std::int64_t unused;  // 16-byte alignment
    };

public:
    static constexpr int kTableBytes =
        Tile::kN * sizeof(Place) + 2 * Tile::kDepth * sizeof(RowEntry);

    __device__ ScalarOperands(const GradWeightParams& p, const T* out, const T* source,
                              float* stage, int first_col, int first_depth, int first_row,
                              int left, Place* tables)
        : out_(out + first_col * p.a.out_strides.channel_elems), source_(source), row_(first_row),
          left_(left), cols_(p.a.cols - first_col), depths_(tables),
          to_(stage + step_row(p, 0) * Tile::kPitchM + channel(p, 0)) {
        for (int d = threadIdx.x; d < Tile::kN; d += Tile::kThreads)
            depths_[d] = depth_place(p.a, first_depth + d);
        note(p);
        __syncthreads();
    }

    /// Reads one table of rows and writes the other: one barrier has to be between two calls.
    __device__ void fetch(const GradWeightParams& p) {
        const RowEntry* rows = table(row_);
#pragma unroll
        for (int e = 0; e < kElems; ++e) {
            const int k = step_row(p, e), c = channel(p, e);
            const RowEntry& row = rows[k];
            const Place depth = depths_[c];
            staged_out_[e] = staged_source_[e] = 0;
            if (k < left_ && c < cols_)
                staged_out_[e] = to_float(out_[row.out + c * p.a.out_strides.channel_elems]);
            if (inside(p.a, row.source.y + depth.y, row.source.x + depth.x))
                staged_source_[e] = to_float(source_[row.source.elems + depth.elems]);
        }
        row_ += Tile::kDepth;
        left_ -= Tile::kDepth;
        note(p);
    }

    __device__ void store(const GradWeightParams& p, int flip) {
#pragma unroll
        for (int e = 0; e < kElems; ++e) {
            float* to = to_ + (step_row(p, e) - step_row(p, 0)) * Tile::kPitchM + channel(p, e) -
                        channel(p, 0);
            to[0] = staged_out_[e];
            to[Tile::kStageM] = staged_source_[e];
        }
        to_ += flip;
    }

private:
    // Element e of a thread: one channel in many rows, or one row's channels.
    __device__ static int channel(const GradWeightParams& p, int e) {
        const int thread = threadIdx.x;
        return (p.along_rows ? thread / Tile::kDepth : thread % Tile::kM) +
               (p.along_rows ? e * (Tile::kThreads / Tile::kDepth) : 0);
    }
    __device__ static int step_row(const GradWeightParams& p, int e) {
        const int thread = threadIdx.x;
        return (p.along_rows ? thread % Tile::kDepth : thread / Tile::kM) +
               (p.along_rows ? 0 : e * (Tile::kThreads / Tile::kM));
    }

    /// The table of the rows from row_ on.
    __device__ void note(const GradWeightParams& p) const {
        if (threadIdx.x >= Tile::kDepth) return;
        const int k = threadIdx.x;
        RowEntry& entry = table(row_)[k];
        entry.source = {0, kOutside, kOutside};
        if (k >= left_) return;
        const Row row(p.a, row_ + k);
        entry.source = row.place(p.a);
        entry.out = row.elems(p.a);
    }
    __device__ RowEntry* table(int row) const {
        return reinterpret_cast<RowEntry*>(depths_ + Tile::kN) +
               row / Tile::kDepth % 2 * Tile::kDepth;
    }

    const T *out_, *source_;
    int row_, left_;  // the first row of the table that the next fetch() reads; rows to the end
    int cols_;        // from the tile's first to the end
    Place* depths_;   // (kN), then rows (2, kDepth)
    float* to_;
    float staged_out_[kElems], staged_source_[kElems];
};

}  // namespace fastconv::cuda::simt
