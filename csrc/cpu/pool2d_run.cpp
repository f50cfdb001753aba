// The loop nest of pooling: forward and gradient, all operations, all memory orders.
//
//   for each task (images, channels, rows, columns of the target)
//     for each strip of lanes (all the task's channels, or one channel at a time)
//       stage what is not read in place
//       for each row of the target, for each run of columns that see their taps alike: one tile
//       write back what is not written in place
//
// Every target element is computed by one task from its taps in row-major order, so neither
// threads, nor the batch, nor the memory order change a bit of it.
#include "core/parallel.h"
#include "cpu/pool2d.h"
#include "cpu/pool2d_strip.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

struct Block {  // of the target, of one task
    Extent images, channels, h, w;
};

Extent block_extent(std::int64_t index, std::int64_t block, std::int64_t size) {
    return {index * block, std::min(size, (index + 1) * block)};
}

Block block_of(const PoolPlan& plan, std::int64_t task) {
    Block block;
    block.w = block_extent(task % plan.blocks_w(), plan.block_w, plan.target_w);
    task /= plan.blocks_w();
    block.h = block_extent(task % plan.blocks_h(), plan.block_h, plan.target_h);
    task /= plan.blocks_h();
    block.channels = block_extent(task % plan.blocks_c(), plan.block_c, plan.channels);
    block.images = block_extent(task / plan.blocks_c(), plan.block_n, plan.batch);
    return block;
}

template <class T>
struct Task {
    const PoolPlan& plan;
    const PoolKernels<T>& kernels;
    StripKernels<T> strips;
    StripKernels<double> index_strips;  // int64 is moved as 8 bytes, whatever they mean
    const PoolPointers& pointers;
    Block block;
    Extent source_h = {}, source_w = {};  // what the block needs of the source

    // For the strip under way: element (row 0, column 0) of every operand.
    T* source = nullptr;
    T* target = nullptr;
    std::int64_t* indices = nullptr;
    const std::int32_t* narrow = nullptr;

    T* source_data() const {
        return static_cast<T*>(plan.problem.backward() ? pointers.output : pointers.input);
    }
    T* target_data() const {
        return static_cast<T*>(plan.problem.backward() ? pointers.input : pointers.output);
    }
};

template <class E>
E* first_element(E* data, const PoolOperand& operand, std::int64_t image, std::int64_t channel) {
    return data + image * operand.strides.batch_elems + channel * operand.strides.channel_elems;
}

/// `rows` of the target that follow each other at once: more than 1 where all their positions have
/// the same taps.
template <class T>
void run_tile(const Task<T>& task, const PoolRun& row, std::int64_t i, std::int64_t rows,
              const PoolRun& col, const RunPart& part, std::int64_t channels) {
    const PoolPlan& plan = task.plan;
    const bool along_width = plan.lanes == PoolLanes::kWidth;
    const std::int64_t h = row.source + i * row.source_step;
    const std::int64_t w = col.source + part.first * col.source_step;
    const std::int64_t target_h = row.target + i * row.target_step;
    const std::int64_t target_w = col.target + part.first * col.target_step;
    const std::int64_t count = rows * (part.last - part.first);
    const auto place = [&](const PoolOperand& x) {  // of tap (0, 0), less the column's own offset
        return h * x.row_elems + x.column(w) - x.column(col.source);
    };
    const auto step = [](const PoolOperand& x, std::int64_t columns) {
        return columns * x.col_elems;
    };

    PoolTile<T> tile;
    tile.source = task.source + place(plan.source);
    tile.rows = col.taps > 0 ? row.taps : 0;
    tile.row_elems = row.tap_step * plan.source.row_elems;
    tile.cols = plan.source_offsets.data() + col.offsets;
    tile.col_count = col.taps;
    tile.positions = along_width ? 1 : count;
    tile.step_elems = step(plan.source, col.source_step);
    tile.lanes = along_width ? count : channels;
    tile.out = task.target + target_h * plan.target.row_elems + plan.target.column(target_w);
    tile.out_step_elems = step(plan.target, col.target_step);

    PoolIndexTile index;
    const std::int64_t line = plan.problem.pool.width.in;
    switch (plan.problem.operation) {
        case PoolOperation::kMax:
            if (!plan.problem.with_indices) return task.kernels.max(tile);
            index.data =
                task.indices + target_h * plan.indices.row_elems + plan.indices.column(target_w);
            index.step_elems = step(plan.indices, col.target_step);
            index.first = h * line + w;
            index.row_add = row.tap_step * line;
            index.col_adds = plan.index_adds.data() + col.offsets;
            index.step_add = col.source_step;
            index.lane_add = along_width ? col.source_step : 0;
            return task.kernels.max_index(tile, index);
        case PoolOperation::kMaxBackward:
            if (plan.narrow)
                return task.kernels.max_backward_narrow(
                    tile, {task.narrow + place(plan.indices), step(plan.indices, col.source_step),
                           row.tap_step * plan.indices.row_elems,
                           plan.index_offsets.data() + col.offsets, target_h * line + target_w,
                           col.target_step});
            index.data = task.indices + place(plan.indices);
            index.step_elems = step(plan.indices, col.source_step);
            index.row_elems = row.tap_step * plan.indices.row_elems;
            index.cols = plan.index_offsets.data() + col.offsets;
            index.first = target_h * line + target_w;
            index.step_add = col.target_step;
            index.lane_add = along_width ? col.target_step : 0;
            return task.kernels.max_backward(tile, index);
        case PoolOperation::kAverage:
        case PoolOperation::kAverageBackward:
            tile.divisor =
                static_cast<T>(plan.problem.divisor_override != 0 ? plan.problem.divisor_override
                                                                  : row.divisor * col.divisor);
            tile.reciprocal = exact_reciprocal(tile.divisor);
            tile.accumulate = row.again || col.again;
            return task.kernels.average(tile);
    }
}

/// Whether the rows of a run and their columns are one line of positions that share their taps, as
/// in the gradient of global average pooling.
bool rows_follow(const PoolPlan& plan, const PoolRun& row) {
    if (plan.problem.max() || plan.lanes != PoolLanes::kChannels || plan.cols.size() != 1)
        return false;
    const PoolRun& col = plan.cols[0];
    return row.source_step == 0 && row.target_step == 1 && col.source_step == 0 &&
           col.target_step == 1 && plan.block_w == plan.target_w &&
           plan.target.row_elems == plan.target_w * plan.target.col_elems;
}

template <class T>
void run_strip(const Task<T>& task, std::int64_t channels) {
    const PoolPlan& plan = task.plan;
    for (const PoolRun& row : plan.rows) {
        const RunPart rows = clip_run(row, task.block.h.lo, task.block.h.hi);
        const std::int64_t step = rows_follow(plan, row) ? rows.last - rows.first : 1;
        for (std::int64_t i = rows.first; i < rows.last; i += step) {
            for (const PoolRun& col : plan.cols) {
                const RunPart part = clip_run(col, task.block.w.lo, task.block.w.hi);
                if (part.first < part.last) run_tile(task, row, i, step, col, part, channels);
            }
        }
    }
}

/// An operand of the strip under way: in place, or with a strip of it in scratch.
template <class E>
struct Placed {
    E* element = nullptr;  // row 0, column 0, as the tiles see it
    E* scratch = nullptr;  // null: in place
    Strip<E> strip;
};

template <class E>
Placed<E> place(E* data, const PoolOperand& operand, std::int64_t image, std::int64_t channel,
                std::int64_t channels, const Extent& h, const Extent& w, char*& scratch) {
    Placed<E> placed;
    placed.strip = {first_element(data, operand, image, channel), h, w, channels};
    placed.element = placed.strip.data;
    if (!operand.staged) return placed;
    placed.scratch = reinterpret_cast<E*>(scratch);
    placed.element = placed.scratch - strip_origin(operand, h, w);
    scratch += operand.scratch_bytes;
    return placed;
}

/// Strips of elements E, moved as M of the same size.
template <class M, class E>
void load(const StripKernels<M>& kernels, PoolLanes lanes, const PoolOperand& operand,
          const Placed<E>& placed) {
    const Strip<E>& strip = placed.strip;
    if (placed.scratch)
        load_strip<M>(kernels, lanes, operand,
                      {reinterpret_cast<M*>(strip.data), strip.h, strip.w, strip.channels},
                      reinterpret_cast<M*>(placed.scratch));
}

template <class M, class E>
void store(const StripKernels<M>& kernels, PoolLanes lanes, const PoolOperand& operand,
           const Placed<E>& placed) {
    const Strip<E>& strip = placed.strip;
    if (placed.scratch)
        store_strip<M>(kernels, lanes, operand,
                       {reinterpret_cast<M*>(strip.data), strip.h, strip.w, strip.channels},
                       reinterpret_cast<M*>(placed.scratch));
}

/// The strip's indices as 32 bits in scratch; element (row 0, column 0) of that.
template <class T>
const std::int32_t* narrow_strip(const Task<T>& task, std::int64_t image, std::int64_t channel,
                                 std::int64_t channels, char*& scratch) {
    const PoolOperand& operand = task.plan.indices;
    const Extent &h = task.source_h, &w = task.source_w;
    auto* strip = reinterpret_cast<std::int32_t*>(scratch);
    scratch += operand.scratch_bytes;
    const std::int64_t* from = first_element(task.pointers.indices, operand, image, channel) +
                               h.lo * operand.strides.height_elems +
                               w.lo * operand.strides.width_elems;
    for (std::int64_t i = 0; i < h.size(); ++i)
        task.kernels.narrow(w.size(), channels, from + i * operand.strides.height_elems,
                            operand.strides.width_elems, strip + i * operand.row_elems,
                            operand.col_elems);
    return strip - strip_origin(operand, h, w);
}

template <class T>
void run_image(Task<T>& task, std::int64_t image) {
    const PoolPlan& plan = task.plan;
    const Block& block = task.block;
    const bool backward = plan.problem.backward();
    const std::int64_t channels = plan.lanes == PoolLanes::kChannels ? block.channels.size() : 1;
    const Extent& index_h = backward ? task.source_h : block.h;
    const Extent& index_w = backward ? task.source_w : block.w;
    char* const base =
        plan.scratch_bytes ? static_cast<char*>(thread_scratch(plan.scratch_bytes)) : nullptr;
    for (std::int64_t c = block.channels.lo; c < block.channels.hi; c += channels) {
        char* scratch = base;
        const auto source = place(task.source_data(), plan.source, image, c, channels,
                                  task.source_h, task.source_w, scratch);
        const auto target =
            place(task.target_data(), plan.target, image, c, channels, block.h, block.w, scratch);
        Placed<std::int64_t> indices;
        if (plan.narrow) task.narrow = narrow_strip(task, image, c, channels, scratch);
        else if (plan.problem.with_indices)
            indices = place(task.pointers.indices, plan.indices, image, c, channels, index_h,
                            index_w, scratch);
        task.source = source.element;
        task.target = target.element;
        task.indices = indices.element;
        load(task.strips, plan.lanes, plan.source, source);
        if (backward) load(task.index_strips, plan.lanes, plan.indices, indices);
        run_strip(task, channels);
        store(task.strips, plan.lanes, plan.target, target);
        if (!backward) store(task.index_strips, plan.lanes, plan.indices, indices);
    }
}

template <class T>
void run(const PoolPlan& plan, const PoolPointers& pointers) {
    if (plan.scatter)
        return run_scatter(plan, static_cast<const T*>(pointers.output), pointers.indices,
                           static_cast<T*>(pointers.input));
    if (plan.fill)
        return run_fill(plan, static_cast<const T*>(pointers.output),
                        static_cast<T*>(pointers.input));
    const Kernels<T>& kernels = plan.isa->kernels<T>();
    const Kernels<double>& words = plan.isa->f64;
    parallel_for(plan.tasks(), plan.threads, FloatMode::kIeee, [&](std::int64_t t, int) {
        Task<T> task{plan,
                     *kernels.pool,
                     {kernels.copy->copy, kernels.pool->split, kernels.pool->merge},
                     {words.copy->copy, words.pool->split, words.pool->merge},
                     pointers,
                     block_of(plan, t)};
        task.source_h = source_extent(plan.rows, task.block.h.lo, task.block.h.hi);
        task.source_w = source_extent(plan.cols, task.block.w.lo, task.block.w.hi);
        for (std::int64_t n = task.block.images.lo; n < task.block.images.hi; ++n)
            run_image(task, n);
    });
}

}  // namespace

void run_pool2d(const PoolPlan& plan, const PoolPointers& pointers) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers);
    else run<double>(plan, pointers);
}

}  // namespace fastconv::cpu
