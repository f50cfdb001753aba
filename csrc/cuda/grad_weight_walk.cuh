// Where the operands of grad_weight's tensor-core kernels stand as rows (n, i, j) go by, without a
// division but for a thread's first row; and what the host derives from a problem for that.
#pragma once

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "cuda/conv_kernels.h"
#include "cuda/scalar.cuh"

namespace fastconv::cuda::grad_weight {

/// One operand's offset as the rows (n, i, j) go by, in units of the loader: chunks or elements.
template <class Offset>
struct OperandWalk {
    Offset batch, height, width;  // from n, i, j to the next
    Offset ahead;                 // Walk::rows rows ahead, before j or i are beyond their ends
    Offset wrap_w, wrap_h;        // what j -= out_w, i += 1 and i -= out_h, n += 1 add to it
};

/// `rows` rows ahead is i rows and j columns (and some images) ahead.
template <class Offset>
struct Walk {
    int rows, i, j;
    OperandWalk<Offset> out, source;
};

/// What the kernel gets: the problem, and what the host derives from it.
struct KernelArguments {
    GradWeightArguments problem;
    int depth_tiles, col_tiles;
    Walk<int> chunks;                            // of a thread of VectorLoader
    Walk<std::int64_t> out_elems, source_elems;  // of threads of the ElementLoaders
    bool out_channels_fast, source_channels_fast;  // neighbouring threads: chunks, else rows
    bool whole_runs;  // the result's rows and its address are multiples of 4 elements
};

/// Where a thread stands. Without divisions, but for the first place.
template <class Offset>
struct Place {
    int row, i, j;
    Offset out, source;

    __device__ void start(const GradWeightArguments& a, const Walk<Offset>& walk, int first) {
        row = first;
        const int line = first / a.out_w;
        j = first - line * a.out_w;
        const int n = line / a.out_h;
        i = line - n * a.out_h;
        out = n * walk.out.batch + i * walk.out.height + j * walk.out.width;
        source = n * walk.source.batch + i * walk.source.height + j * walk.source.width;
    }

    __device__ void advance(const GradWeightArguments& a, const Walk<Offset>& walk) {
        row += walk.rows;
        i += walk.i;
        j += walk.j;
        out += walk.out.ahead;
        source += walk.source.ahead;
        if (j >= a.out_w) {
            j -= a.out_w;
            i += 1;
            out += walk.out.wrap_w;
            source += walk.source.wrap_w;
        }
        if (i >= a.out_h) {
            i -= a.out_h;
            out += walk.out.wrap_h;
            source += walk.source.wrap_h;
        }
    }
};

/// A column of the depth: its tap's place relative to (i * step_h, j * step_w), and its channel.
struct Tap {
    int y, x;             // y is INT_MIN beyond the depth: outside of every image
    std::int64_t offset;  // elements
};

__device__ inline Tap tap_of(const GradWeightArguments& a, int d) {
    if (d >= a.depth) return {INT_MIN, 0, 0};
    const int tap = d / a.channels;
    const int c = d - tap * a.channels;
    const int tap_y = tap / a.taps_w;
    const int tap_x = tap - tap_y * a.taps_w;
    const int y = a.offset_h + tap_y * a.offset_step_h;
    const int x = a.offset_w + tap_x * a.offset_step_w;
    return {y, x,
            y * a.source_strides.height_elems + x * a.source_strides.width_elems +
                c * a.source_strides.channel_elems};
}

__device__ inline bool inside(const GradWeightArguments& a, int y, int x) {
    return (static_cast<unsigned>(y) < static_cast<unsigned>(a.source_h)) &
           (static_cast<unsigned>(x) < static_cast<unsigned>(a.source_w));
}

/// A block's part of the result and of the rows. Blocks: x is depth tiles, fastest, col tiles and
/// groups, so that what runs at a time reads the same rows; z is splits.
struct Block {
    int col, depth, group, split;
    int row_begin, row_end, steps;
};

template <class Shape>
__device__ Block block_of(const KernelArguments& k) {
    const GradWeightArguments& a = k.problem;
    const int tile = static_cast<int>(blockIdx.x) / k.depth_tiles;
    Block block;
    block.depth = (static_cast<int>(blockIdx.x) - tile * k.depth_tiles) * Shape::kDepth;
    block.group = tile / k.col_tiles;
    block.col = (tile - block.group * k.col_tiles) * Shape::kCols;
    block.split = static_cast<int>(blockIdx.z);
    const std::int64_t begin = std::int64_t{block.split} * a.rows_per_split;
    block.row_begin = begin < a.rows ? static_cast<int>(begin) : a.rows;
    const int rows = a.rows - block.row_begin;
    block.row_end = rows < a.rows_per_split ? a.rows : block.row_begin + a.rows_per_split;
    block.steps = (block.row_end - block.row_begin + Shape::kRows - 1) / Shape::kRows;
    return block;
}

/// Where a block's sums go: its split of `partial`, or the weight.
template <class T>
struct ResultStore {
    const KernelArguments& k;
    const Block& block;
    std::int64_t first;  // of the block's first column

    __device__ ResultStore(const KernelArguments& arguments, const Block& tile)
        : k(arguments), block(tile) {
        const GradWeightArguments& a = k.problem;
        const int split = a.weight != nullptr ? 0 : block.split;
        first = ((std::int64_t{split} * a.groups + block.group) * a.cols + block.col) * a.depth;
    }

    /// A run of neighbours along depth: column c of the tile, depth d of the result.
    template <int kCount>
    __device__ void operator()(int c, int d, const Pack<float, kCount>& run) const {
        const GradWeightArguments& a = k.problem;
        if (block.col + c >= a.cols) return;
        const std::int64_t at = first + std::int64_t{c} * a.depth + d;
        const int count = a.depth - d;  // may be less than kCount, or none
        if (a.weight == nullptr) {
            store(a.partial + at, count, run);
            return;
        }
        T* to = static_cast<T*>(a.weight) + at;
        Pack<T, kCount> sums;
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
            const float before = a.accumulate && e < count ? to_float(to[e]) : 0.0f;
            sums.value[e] = from_float<T>(run.value[e] + before);
        }
        store(to, count, sums);
    }

private:
    template <class Stored, int kCount>
    __device__ void store(Stored* to, int count, const Pack<Stored, kCount>& run) const {
        if (k.whole_runs) {
            if (count > 0) *reinterpret_cast<Pack<Stored, kCount>*>(to) = run;
        } else {
            for (int e = 0; e < kCount; ++e)
                if (e < count) to[e] = run.value[e];
        }
    }
};

// ---- host ------------------------------------------------------------------------------------

template <class Offset>
OperandWalk<Offset> operand_walk(std::int64_t batch, std::int64_t height, std::int64_t width,
                                 const GradWeightArguments& a, std::int64_t rows,
                                 std::int64_t unit) {
    const std::int64_t n = rows / a.out_w / a.out_h, i = rows / a.out_w % a.out_h,
                       j = rows % a.out_w;
    const auto offset = [unit](std::int64_t elems) { return static_cast<Offset>(elems / unit); };
    return {offset(batch),
            offset(height),
            offset(width),
            offset(n * batch + i * height + j * width),
            offset(height - a.out_w * width),
            offset(batch - a.out_h * height)};
}

template <class Offset>
Walk<Offset> walk_of(const GradWeightArguments& a, std::int64_t rows, std::int64_t unit) {
    const Strides &o = a.out_strides, &s = a.source_strides;
    return {static_cast<int>(rows),
            static_cast<int>(rows / a.out_w % a.out_h),
            static_cast<int>(rows % a.out_w),
            operand_walk<Offset>(o.batch_elems, o.height_elems, o.width_elems, a, rows, unit),
            operand_walk<Offset>(s.batch_elems, a.step_h * s.height_elems, a.step_w * s.width_elems,
                                 a, rows, unit)};
}

/// Can `unit` elements of `x` be read at once along channels, and places of it be told by 32 bits?
/// height, width: how far offsets reach, beyond the image too.
inline bool in_chunks(const void* data, const Strides& x, std::int64_t group_elems, int groups,
               int channels, std::int64_t batch, std::int64_t height, std::int64_t width,
               std::int64_t unit) {
    const auto whole = [unit](std::int64_t extent, std::int64_t elems) {
        return extent <= 1 || elems % unit == 0;
    };
    const std::int64_t reach = batch * std::llabs(x.batch_elems) +
                               height * std::llabs(x.height_elems) +
                               width * std::llabs(x.width_elems) + channels;
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && x.channel_elems == 1 &&
           channels % unit == 0 && whole(batch, x.batch_elems) && whole(height, x.height_elems) &&
           whole(width, x.width_elems) && whole(groups, group_elems) && reach / unit < INT_MAX;
}

struct Chunks {
    bool out, source;
};

/// Which operands can be read by chunks; `vector` is GradWeightKernel::run's.
template <class T>
Chunks chunks_of(const GradWeightArguments& a, bool vector) {
    const std::int64_t batch = a.rows == 0 ? 0 : a.rows / (std::int64_t{a.out_h} * a.out_w);
    return {in_chunks(a.out, a.out_strides, a.out_group_elems, a.groups, a.cols, batch, a.out_h,
                      a.out_w, kPackElems<T>),
            vector && in_chunks(a.source, a.source_strides, a.source_group_elems, a.groups,
                                a.channels, batch,
                                std::int64_t{a.out_h} * a.step_h + std::abs(a.offset_h) +
                                    std::int64_t{a.taps_h} * std::abs(a.offset_step_h),
                                std::int64_t{a.out_w} * a.step_w + std::abs(a.offset_w) +
                                    std::int64_t{a.taps_w} * std::abs(a.offset_step_w),
                                kPackElems<T>)};
}

template <class Shape, class T>
KernelArguments kernel_arguments(const GradWeightArguments& a) {
    if (a.rows_per_split % Shape::kRows != 0 && a.splits > 1)
        throw std::logic_error("grad_weight: rows_per_split is no multiple of block_rows");
    KernelArguments k{};
    k.problem = a;
    k.depth_tiles = (a.depth + Shape::kDepth - 1) / Shape::kDepth;
    k.col_tiles = (a.cols + Shape::kCols - 1) / Shape::kCols;
    k.whole_runs = a.depth % 4 == 0 &&
                   reinterpret_cast<std::uintptr_t>(a.weight) % (4 * sizeof(T)) == 0;
    if (a.rows == 0) k.problem.out_h = k.problem.out_w = 1;  // divisors, which may be 0
    return k;
}

inline dim3 grid_of(const KernelArguments& k) {
    return dim3(static_cast<unsigned>(k.depth_tiles * k.col_tiles * k.problem.groups), 1,
                static_cast<unsigned>(k.problem.splits));
}

}  // namespace fastconv::cuda::grad_weight
