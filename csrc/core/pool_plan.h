// How a pooling problem will be computed; made once by plan_pool2d, read by run_pool2d.
//
// Forward and gradient are one thing: every position of the target combines taps of the source. In
// the forward direction the target is the output and the taps of a position are its window's input
// elements; in a gradient the target is grad_input and the taps are the output positions whose
// windows hold the element. So a gradient gathers: no atomics, no zeroing, a fixed order. The
// maximum's may scatter by index instead, a plane a task and in the same order, where vectors would
// be short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/problem.h"

namespace fastconv {

namespace cpu {
struct Isa;
}

enum class PoolOperation : std::uint8_t { kMax, kAverage, kMaxBackward, kAverageBackward };

struct PoolProblem {
    PoolOperation operation = PoolOperation::kMax;
    DType dtype = DType::kFloat32;
    Pool pool;  // axes from the input to the pooled output
    bool adaptive = false;  // windows follow from the sizes alone: kernel, stride, padding unread
    bool count_include_pad = true;
    std::int64_t divisor_override = 0;  // 0: none
    bool with_indices = false;          // max, forward: write them too

    bool backward() const {
        return operation == PoolOperation::kMaxBackward ||
               operation == PoolOperation::kAverageBackward;
    }
    bool max() const {
        return operation == PoolOperation::kMax || operation == PoolOperation::kMaxBackward;
    }
};

struct PoolStrides {
    Strides input;   // x or grad_input
    Strides output;  // y or grad_output
    Strides indices;
};

/// Positions of the target along one axis whose taps lie alike. Position i of the run is
/// target + i * target_step; its tap t is source element source + i * source_step + t * tap_step.
struct PoolRun {
    std::int64_t target = 0;
    std::int64_t target_step = 1;
    std::int64_t count = 1;
    std::int64_t source = 0;
    std::int64_t source_step = 0;
    std::int64_t tap_step = 1;
    std::int64_t taps = 0;
    std::int64_t divisor = 1;  // this axis' part of what the average is divided by
    bool again = false;        // an earlier run began this position: add to it
    std::int64_t offsets = 0;  // where the offsets of its taps begin in PoolPlan's lists
};

/// What the lanes of a vector run along.
enum class PoolLanes : std::uint8_t {
    kChannels,  // unit stride along channels, of the tensor or of a strip transposed to scratch
    kWidth,     // along the target's width; a stride is undone by splitting lines into its phases
    kNone       // one element at a time with any strides, where a strip would not fit into scratch
};

/// One operand as the tiles see it: in place, or a strip of it copied to scratch.
struct PoolOperand {
    Strides strides;
    bool staged = false;
    std::int64_t row_elems = 0;
    std::int64_t col_elems = 1;
    std::int64_t split = 1;        // lines are stored as this many phases,
    std::int64_t phase_elems = 0;  // so far apart
    std::int64_t strip_rows = 0;   // staged: the most that a task needs
    std::size_t scratch_bytes = 0;

    std::int64_t column(std::int64_t w) const {
        return split == 1 ? w * col_elems : (w % split) * phase_elems + w / split;
    }
};

struct PoolPlan {
    PoolProblem problem;
    const cpu::Isa* isa = nullptr;
    int threads = 1;
    PoolLanes lanes = PoolLanes::kChannels;
    bool scatter = false;    // gradient of max: by index instead, nothing below is used
    bool fill = false;       // gradient of the average: one share a plane, no lanes, no staging
    bool narrow = false;     // gradient of max: the indices' strips are of 32 bits
    std::int64_t batch = 0;  // with the images' channels side by side where they lie evenly
    std::int64_t channels = 0;
    std::vector<PoolRun> rows, cols;
    std::int64_t target_h = 0, target_w = 0;
    PoolOperand source, target, indices;
    std::vector<std::int64_t> source_offsets;  // of the taps of each run of cols
    std::vector<std::int64_t> index_offsets;   // gradient of max
    std::vector<std::int64_t> index_adds;      // max with indices
    std::int64_t block_n = 1;  // images a task, more than 1 where they are small and whole
    std::int64_t block_c = 1, block_h = 1, block_w = 1;  // of the target, a task
    std::size_t scratch_bytes = 0;

    std::int64_t blocks_n() const { return (batch + block_n - 1) / block_n; }
    std::int64_t blocks_c() const { return (channels + block_c - 1) / block_c; }
    std::int64_t blocks_h() const { return (target_h + block_h - 1) / block_h; }
    std::int64_t blocks_w() const { return (target_w + block_w - 1) / block_w; }
    std::int64_t tasks() const { return blocks_n() * blocks_c() * blocks_h() * blocks_w(); }
};

}  // namespace fastconv
