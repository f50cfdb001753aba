// The plan of a pooling problem: windows as runs, what the lanes are, what is staged, the tasks.
//
// Floor: input and output move once between memory and core. Tensors that are channels last, or C
// order without a stride, are read in place; with a stride along W each line is split into its
// phases in scratch (L1) first; other orders, and C order with images narrower than four vectors,
// are transposed strip by strip to scratch. Staged strips count against L2, not against memory.
#include <stdexcept>

#include "cpu/kernels_pool.h"
#include "cpu/pool2d.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

// Elements of source or target a task: 128 KB of float, a few tens of microseconds.
constexpr std::int64_t kTaskElems = 32768;
constexpr std::int64_t kMinLanes = 64;  // channels a task keeps together: four AVX-512 vectors
constexpr std::int64_t kNarrowLanes = 256;  // channels a task has at most with narrow indices
// Nanoseconds below which the second thread does not pay for its hand-over and for data in the other
// core's L2: 256x13x13 3x3/2 forward took 11.3 us with two and 6.8 with one, 832x7x7 3x3/1 (estimated
// at 16 us) 15 and 14.
constexpr double kWorthThreads = 15e3;
constexpr std::size_t kScratchLimit = std::size_t{3} << 20;  // of the 4 MB a thread may have

std::vector<PoolOperand*> operands(PoolPlan& plan) {
    std::vector<PoolOperand*> list = {&plan.source, &plan.target};
    if (plan.problem.with_indices) list.push_back(&plan.indices);
    return list;
}

bool indices_are_target(const PoolPlan& plan) {
    return !plan.problem.backward();
}

/// Images whose channels follow each other evenly in every operand are one image of N C channels.
void merge_images(PoolPlan& plan) {
    if (plan.batch <= 1) return;
    for (const PoolOperand* operand : operands(plan)) {
        const Strides& strides = operand->strides;
        if (plan.channels > 1 && strides.batch_elems != plan.channels * strides.channel_elems)
            return;
    }
    for (PoolOperand* operand : operands(plan))
        if (plan.channels == 1) operand->strides.channel_elems = operand->strides.batch_elems;
    plan.channels *= plan.batch;
    plan.batch = 1;
}

bool channels_last(PoolPlan& plan) {
    if (plan.problem.pool.channels == 1) return false;
    for (const PoolOperand* operand : operands(plan))
        if (operand->strides.channel_elems != 1) return false;
    return true;
}

/// The longest run of columns that vectors could run along; 0 where runs step unlike each other.
std::int64_t longest_run(const PoolPlan& plan) {
    std::int64_t longest = 0;
    for (const PoolRun& run : plan.cols) {
        if (run.count > 1 && run.source_step != 1 && run.target_step != 1) return 0;
        if (run.count > 1 && run.source_step == 0) return 0;
        longest = std::max(longest, run.count);
    }
    return longest;
}

PoolLanes choose_lanes(PoolPlan& plan, int lanes) {
    if (channels_last(plan)) return PoolLanes::kChannels;
    const Strides& source = plan.source.strides;
    const bool near = std::abs(source.channel_elems) < std::abs(source.width_elems);
    if (near && plan.channels >= lanes) return PoolLanes::kChannels;
    // A tile a row and channel costs some 30 ns whatever it does: with 16 lanes and 64 channels,
    // strips transposed to scratch took 0.9 of its time at 56 columns and 1.3 at 112 (stride 2),
    // 0.5 at 14 and 1.2 at 112 (stride 1).
    const std::int64_t enough = plan.channels < lanes ? lanes / 2 : 4 * lanes;
    return longest_run(plan) >= enough ? PoolLanes::kWidth : PoolLanes::kChannels;
}

/// Whether the gradient of max makes narrow copies of its indices: lanes are channels side by side
/// and as wide, and each index is compared often enough. On one core (AVX-512), 480x14x14 3x3/1:
/// 0.6 of the time; 3x3/2, where an index is read 2.25 times for an element written: 1.0.
bool narrows(const PoolPlan& plan, int lanes) {
    const Axis &height = plan.problem.pool.height, &width = plan.problem.pool.width;
    return plan.problem.operation == PoolOperation::kMaxBackward && !plan.problem.adaptive &&
           plan.problem.dtype == DType::kFloat32 && plan.lanes == PoolLanes::kChannels &&
           plan.channels > 1 && plan.indices.strides.channel_elems == 1 &&
           (lanes < 16 ||  // AVX2's masks are vectors: two more shuffles a compare of int64
            height.kernel * width.kernel / 4 >= height.stride * width.stride);
}

/// The stride along W that a source (or target) line is split by.
std::int64_t line_split(const PoolPlan& plan, bool target) {
    for (const PoolRun& run : plan.cols)
        if (run.count > 1) return target ? run.target_step : run.source_step;
    return 1;
}

void choose_staging(PoolPlan& plan) {
    for (PoolOperand* operand : operands(plan)) {
        const bool target =
            operand == &plan.target || (operand == &plan.indices && indices_are_target(plan));
        const Strides& strides = operand->strides;
        operand->split = plan.lanes == PoolLanes::kWidth ? line_split(plan, target) : 1;
        operand->staged =
            (plan.lanes == PoolLanes::kChannels && strides.channel_elems != 1 &&
             plan.channels > 1) ||
            (plan.lanes == PoolLanes::kWidth && (operand->split > 1 || strides.width_elems != 1));
        operand->row_elems = strides.height_elems;
        operand->col_elems = strides.width_elems;
    }
    if (plan.narrow) plan.indices.staged = true;
}

/// `size` in blocks of at most about `most`, whole multiples of `unit` and even.
std::int64_t even_blocks(std::int64_t size, std::int64_t most, std::int64_t unit) {
    const std::int64_t units = (size + unit - 1) / unit;
    const std::int64_t blocks = (size + most - 1) / most;
    return std::min(size, (units + blocks - 1) / blocks * unit);
}

/// Narrow indices: a task is tall, since its first and last rows are narrowed again by its
/// neighbours. 256 channels are runs of 1 and 2 KB; with 64, whose windows would stay in L1, memory
/// delivered half as much (192x56x56). There are not three tasks for two threads.
void choose_narrow_blocks(PoolPlan& plan) {
    plan.block_w = plan.target_w;
    plan.block_c = even_blocks(plan.channels, kNarrowLanes, kMinLanes / 2);
    const std::int64_t line = plan.target_w * plan.block_c;
    plan.block_h = even_blocks(plan.target_h, std::max<std::int64_t>(1, 2 * kTaskElems / line), 1);
    const std::int64_t tasks = plan.blocks_c() * plan.blocks_h();
    if (tasks > 1 && tasks % 2 == 1) plan.block_h = (plan.block_h + 1) / 2;
    if (tasks == 1)
        plan.block_n = std::clamp<std::int64_t>(kTaskElems / (line * plan.target_h), 1, plan.batch);
}

/// Cuts the target into tasks, by shapes alone.
void choose_blocks(PoolPlan& plan) {
    plan.block_n = 1;
    if (plan.narrow) return choose_narrow_blocks(plan);
    const Axis& height = plan.problem.pool.height;
    const Axis& width = plan.problem.pool.width;
    // Elements of one channel that one row of the target reads or writes.
    const std::int64_t rows =
        plan.problem.backward() ? 1 : std::max<std::int64_t>(1, height.in / height.out);
    const std::int64_t line = std::max<std::int64_t>(1, rows * std::max(width.in, width.out));
    if (plan.lanes == PoolLanes::kChannels) {
        plan.block_c = plan.channels;
        const bool strips = plan.source.staged || plan.target.staged;
        // Large windows over some of the channels are pieces of memory, with half of its bandwidth
        // (average_lines in tiles/pool.cpp): only where threads would have nothing to do.
        const bool images_are_enough = plan.threads == 1 || plan.batch >= 4 * plan.threads;
        if (strips || (line * plan.channels > kTaskElems && !images_are_enough))
            plan.block_c = std::min(plan.channels,
                                    std::max(kMinLanes, kTaskElems / line / kMinLanes * kMinLanes));
        if (strips) plan.block_c = std::min(plan.block_c, kMinLanes);
        plan.block_h =
            std::clamp<std::int64_t>(kTaskElems / (line * plan.block_c), 1, plan.target_h);
    } else {
        plan.block_h = std::clamp<std::int64_t>(kTaskElems / line, 1, plan.target_h);
        const std::int64_t plane = line * plan.target_h;
        plan.block_c = std::clamp<std::int64_t>(kTaskElems / plane, 1, plan.channels);
    }
    plan.block_w = plan.target_w;
    const std::int64_t lanes = plan.lanes == PoolLanes::kChannels ? plan.block_c : 1;
    if (line * lanes > 4 * kTaskElems)
        plan.block_w =
            std::clamp<std::int64_t>(plan.target_w * kTaskElems / (line * lanes),
                                     std::min<std::int64_t>(64, plan.target_w), plan.target_w);
    if (plan.blocks_c() * plan.blocks_h() * plan.blocks_w() == 1)
        plan.block_n = std::clamp<std::int64_t>(kTaskElems / (line * plan.target_h * plan.channels),
                                                1, plan.batch);
}

std::int64_t longest_extent(const std::vector<PoolRun>& runs, std::int64_t size, std::int64_t block,
                            bool target) {
    std::int64_t longest = 0;
    for (std::int64_t begin = 0; begin < size; begin += block) {
        const std::int64_t end = std::min(size, begin + block);
        longest = std::max(longest, target ? end - begin : source_extent(runs, begin, end).size());
    }
    return longest;
}

/// Sizes of the staged strips; lines of a power of two would share cache sets, so they get 16 more.
void size_strips(PoolPlan& plan) {
    plan.scratch_bytes = 0;
    for (PoolOperand* operand : operands(plan)) {
        if (!operand->staged) continue;
        const bool index = operand == &plan.indices;
        const bool target = operand == &plan.target || (index && indices_are_target(plan));
        operand->strip_rows = longest_extent(plan.rows, plan.target_h, plan.block_h, target);
        const std::int64_t cols = longest_extent(plan.cols, plan.target_w, plan.block_w, target);
        if (plan.lanes == PoolLanes::kChannels) {
            operand->col_elems = (plan.block_c + 15) / 16 * 16;
            operand->row_elems = cols * operand->col_elems;
        } else {
            operand->phase_elems = (cols / operand->split + 2 + 15) / 16 * 16 + 16;
            operand->col_elems = 1;
            operand->row_elems = operand->split * operand->phase_elems;
        }
        const bool words = plan.problem.dtype == DType::kFloat64 || (index && !plan.narrow);
        const std::size_t size = words ? 8 : 4;
        operand->scratch_bytes =
            (static_cast<std::size_t>(operand->strip_rows * operand->row_elems) * size + 127) / 64 *
            64;
        plan.scratch_bytes += operand->scratch_bytes;
    }
}

/// Blocks small enough that the strips fit into scratch; false: not even the smallest do.
bool fit_strips(PoolPlan& plan) {
    choose_staging(plan);
    choose_blocks(plan);
    for (;;) {
        size_strips(plan);
        if (plan.scratch_bytes <= kScratchLimit) return true;
        const bool wide = plan.lanes == PoolLanes::kChannels && plan.block_c > 16;
        if (plan.block_h > 1) plan.block_h = (plan.block_h + 1) / 2;
        else if (plan.block_w > 16) plan.block_w = (plan.block_w + 1) / 2;
        else if (wide) plan.block_c = (plan.block_c + 1) / 2;
        else return false;
    }
}

void list_offsets(PoolPlan& plan) {
    for (PoolRun& run : plan.cols) {
        run.offsets = static_cast<std::int64_t>(plan.source_offsets.size());
        for (std::int64_t t = 0; t < run.taps; ++t) {
            const std::int64_t w = run.source + t * run.tap_step;
            plan.source_offsets.push_back(plan.source.column(w));
            if (plan.problem.backward()) plan.index_offsets.push_back(plan.indices.column(w));
            else plan.index_adds.push_back(t * run.tap_step);
        }
    }
}

/// Nanoseconds of one core, roughly: a vector of results costs what its windows cost, and bytes come
/// from L2.
double work(const PoolProblem& problem, int lanes) {
    const Pool& pool = problem.pool;
    const Axis &height = pool.height, &width = pool.width;
    const auto area = [](double h, double w) { return h * w; };
    const double outputs = area(height.out, width.out), inputs = area(height.in, width.in);
    const double taps =
        problem.adaptive ? inputs / std::max(1.0, outputs) : area(height.kernel, width.kernel);
    const double tap = problem.with_indices ? 0.75 : 0.3;
    const auto vectors = static_cast<double>((pool.channels + lanes - 1) / lanes);
    const double element = problem.dtype == DType::kFloat32 ? 4 : 8;
    const double bytes = static_cast<double>(pool.channels) *
                         (element * (inputs + outputs) + (problem.with_indices ? 8 * outputs : 0));
    return static_cast<double>(pool.batch) *
           (vectors * outputs * (3 + tap * taps) + 0.005 * bytes);
}

}  // namespace

PoolPlan plan_pool2d(const PoolProblem& problem, const PoolStrides& strides, const Isa& isa,
                     int threads) {
    PoolPlan plan;
    plan.problem = problem;
    plan.isa = &isa;
    plan.threads = threads;
    const bool backward = problem.backward();
    if (problem.operation == PoolOperation::kMaxBackward) plan.problem.with_indices = true;
    plan.batch = problem.pool.batch;
    plan.channels = problem.pool.channels;
    plan.source.strides = backward ? strides.output : strides.input;
    plan.target.strides = backward ? strides.input : strides.output;
    plan.indices.strides = strides.indices;
    const Axis &height = problem.pool.height, &width = problem.pool.width;
    plan.target_h = backward ? height.in : height.out;
    plan.target_w = backward ? width.in : width.out;
    if (plan.batch * plan.channels * plan.target_h * plan.target_w == 0) {
        plan.batch = 0;
        return plan;
    }
    if (plan.problem.with_indices && problem.dtype == DType::kFloat32 &&
        height.in * width.in >= (std::int64_t{1} << 31))
        throw std::invalid_argument("indices of float32 images need H * W < 2**31");
    const int lanes = problem.dtype == DType::kFloat32 ? isa.f32.pool->lanes : isa.f64.pool->lanes;
    if (work(plan.problem, lanes) < kWorthThreads) plan.threads = 1;
    plan.scatter = scatters(plan, lanes);
    if (plan.scatter) return plan;
    plan.rows = pool_runs(problem, height);
    plan.cols = pool_runs(problem, width);
    plan.fill = fills(plan);
    if (plan.fill) return plan;
    if (!channels_last(plan)) merge_images(plan);
    plan.lanes = choose_lanes(plan, lanes);
    plan.narrow = narrows(plan, lanes);
    while (!fit_strips(plan)) {  // without narrow copies next, then without any
        if (!plan.narrow) plan.lanes = PoolLanes::kNone;
        plan.narrow = false;
    }
    list_offsets(plan);
    return plan;
}

}  // namespace fastconv::cpu
