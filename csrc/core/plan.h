// How a problem will be computed: made once by a pure function, read by everything that needs to
// know (run, explain, weight packing, benchmark rows). Nothing re-derives what stands here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/problem.h"

namespace fastconv {

namespace cpu {
struct Isa;
}

/// The public names of algorithms, in the order in which fc.algorithms lists them.
enum class Algorithm : std::uint8_t {
    kNaive, kIm2col, kDirect, kPointwise, kDepthwise, kWinograd2, kWinograd4, kWinograd6,
    kWinograd  // a choice among the three before, never a plan's own
};
constexpr int kAlgorithms = 9;
constexpr const char* kAlgorithmNames[kAlgorithms] = {
    "naive",     "im2col",    "direct",    "pointwise", "depthwise",
    "winograd2", "winograd4", "winograd6", "winograd"};

/// Strides of a convolution's operands; `output` is grad_output in the backward directions.
struct ConvStrides {
    Strides input;
    Strides weight;  // batch = filter k, channel = c within the group, height = r, width = s
    Strides output;
    Strides residual;
    bool has_residual = false;
    bool pooled = false;  // forward, Winograd: output is the maxima of 2x2 positions, 2 apart
};

/// The taps of one axis that one dense problem uses: output i and tap m meet at source element
/// i * step + offset + m * offset_step, weighted by kernel index kernel + m * kernel_step.
struct AxisTaps {
    std::int64_t count = 0;
    std::int64_t step = 1;
    std::int64_t offset = 0;
    std::int64_t offset_step = 1;
    std::int64_t kernel = 0;
    std::int64_t kernel_step = 1;

    std::int64_t last_offset() const { return offset + (count - 1) * offset_step; }
};

/// In which order register tiles take output positions (cpu/position_order.h).
enum class PositionOrder : std::uint8_t { kRows, kLines, kSpiral };

/// One dense correlation, the unit that the implicit GEMM computes:
///   out[n, i, j, k] = sum over taps (a, b) and channels c of
///                     source[n, y(i, a), x(j, b), c] * weight[a, b, c, k]
/// A forward convolution is one; grad_input of stride s is s * s of them, one a phase of the output.
struct Correlation {
    std::int64_t batch = 0;
    std::int64_t groups = 1;
    std::int64_t channels = 0;  // of the source, a group
    std::int64_t cols = 0;      // of the output, a group
    std::int64_t source_h = 0, source_w = 0;
    std::int64_t out_h = 0, out_w = 0;
    AxisTaps taps_h, taps_w;
    Strides source, out, residual;
    std::int64_t source_group_elems = 0;  // from one group's channels to the next's
    std::int64_t out_group_elems = 0;
    std::int64_t residual_group_elems = 0;
    std::int64_t residual_first_elems = 0;
    std::int64_t out_first_elems = 0;  // where the phase begins in the output
    std::int64_t packed_first_elems = 0;  // where its packed weights begin

    // Blocking. A segment is what one row pointer covers: a tap, or with `merge` a kernel row.
    bool gather = false;  // source strips are copied to scratch: zero-padded, channels last
    bool merge = false;   // the strip's neighbouring taps are contiguous and form one segment
    std::int64_t segments = 0;
    std::int64_t depth = 0;  // elements a segment
    std::int64_t segments_per_block = 0;
    std::int64_t depth_per_block = 0;
    bool split = false;  // float32 as three bfloat16 on matrix tiles (cpu/correlation_split.h)
    std::int64_t split_steps_per_block = 0;
    bool split_rows_first = false;  // all panels by 32 rows before the next 32; else all rows by a panel
    std::int64_t block_n = 1;                 // images a task, whole ones where there are several
    std::int64_t block_h = 1, block_w = 1;    // output positions a task, of each image
    std::int64_t blocks_h = 0, blocks_w = 0;
    std::int64_t parts = 1;  // tasks that share a block, each with some of the column panels
    PositionOrder order = PositionOrder::kRows;
    std::int64_t rings = 0;  // of a spiral
    bool pack_by_task = false;  // weights not packed ahead: each task packs its panels for itself
    std::int64_t staging_elems = 0;  // that this needs beside the panel
    std::size_t scratch_bytes = 0;

    std::int64_t rows() const { return block_n * block_h * block_w; }
    // Along an axis with one tap a strip holds only the source lines that are used.
    std::int64_t strip_step_h() const { return taps_h.count == 1 ? 1 : taps_h.step; }
    std::int64_t strip_step_w() const { return taps_w.count == 1 ? 1 : taps_w.step; }
    std::int64_t blocks_n() const { return (batch + block_n - 1) / block_n; }
    std::int64_t blocks() const { return blocks_n() * blocks_h * blocks_w; }
    std::int64_t tasks() const { return groups * blocks() * parts; }
};

/// How a sum of outer products is cut: weight[k, c, a, b] += out[n, i, j, k] * source[n, y, x, c], the
/// view's weight gradient (cpu/outer.h). Chunks and sums follow from shape and ISA alone: they fix
/// the bits. Parts only decide who computes what.
struct OuterBlocking {
    std::int64_t weight_group_elems = 0, weight_row_elems = 0, weight_tap_elems = 0;
    std::int64_t weight_channel_elems = 0, weight_col_elems = 0;

    // A chunk is what one accumulator sums from zero: positions of a few images, rows and columns.
    std::int64_t chunk_n = 1, chunk_h = 1, chunk_w = 1;
    std::int64_t chunks_n = 0, chunks_h = 0, chunks_w = 0;
    std::int64_t sums = 1;  // runs of chunks, each with a total of its own, added in order

    std::int64_t channel_unit = 1;   // channels are cut at multiples of it
    std::int64_t channel_parts = 1;  // a task has all taps of a part of the channels
    std::int64_t panel_parts = 1;    // and of a part of the column panels
    bool swapped = false;  // source is grad_output, out the input: without taps they are alike
    bool taps_inside = false;  // totals lie as (channel, tap), as in a weight in C order
    bool split = false;     // on matrix tiles (cpu/outer_split.h)
    bool in_place = false;  // totals are the weight itself, but for a last panel that is not full
    std::int64_t group_panels = 1;  // panels whose lines are copied at once
    std::int64_t total_elems = 0;  // of one task's totals
    std::size_t scratch_bytes = 0;

    std::int64_t channel_units(std::int64_t channels) const {
        return (channels + channel_unit - 1) / channel_unit;
    }
    /// The most channels a part has.
    std::int64_t part_channels(std::int64_t channels) const {
        const std::int64_t units = channel_units(channels);
        const std::int64_t most = (units + channel_parts - 1) / channel_parts * channel_unit;
        return most < channels ? most : channels;
    }
    std::int64_t chunks() const { return chunks_n * chunks_h * chunks_w; }
    std::int64_t positions() const { return chunk_n * chunk_h * chunk_w; }
    std::int64_t parts(std::int64_t groups) const { return groups * channel_parts * panel_parts; }
};

/// How a Winograd convolution cuts its output into tiles of m x m (cpu/conv2d_winograd.cpp).
struct WinogradPlan {
    int variant = 0;  // of the kernel table
    int m = 0;
    std::int64_t subkernels_h = 1, subkernels_w = 1;  // of r x r taps, that the kernel is cut into
    bool folded = false;  // a stride's phases are channels, not subkernels of their own
    std::int64_t channels = 0;  // of V and U, a group: the source's, or with their phases
    std::int64_t tiles_h = 0, tiles_w = 0;  // of an image
    int last_h = 0, last_w = 0;  // outputs of the last row's and column's tiles, where those are cheaper, else m
    std::int64_t block_tiles = 0;           // at most, a task
    std::int64_t blocks = 0;
    std::int64_t parts = 1;  // tasks that share a block, each with some of the column panels
    std::int64_t pitch = 0;  // elements from one transformed tile's channels to the next's
    bool weights_by_task = false;  // transformed by each task for itself, not once a call
    std::int64_t transformed_elems = 0;
    double cost = 0;  // of one image on one thread, in multiply-adds: what `winograd` compares

    std::int64_t tiles() const { return tiles_h * tiles_w; }
    std::int64_t subkernels() const { return subkernels_h * subkernels_w; }
};

/// How a depthwise convolution is cut (cpu/conv2d_depthwise.cpp, cpu/depthwise_grad_weight.cpp).
struct DepthwiseBlocking {
    bool gather = false;  // the whole source goes through strips, not its edges alone
    std::int64_t chunk = 0, chunks = 0;  // channels a task
    std::int64_t block_h = 0, blocks_h = 0, block_w = 0, blocks_w = 0;  // output positions a task
    std::int64_t units = 0, slices = 0;  // grad_weight: blocks of all images, partial sums of them
    std::size_t scratch_bytes = 0;
};

/// How grad_input by a product and col2im is cut (cpu/col2im.h). Chunks and blocks of grad_output's
/// positions fix the bits; bands of dx's rows only decide who computes what.
struct Col2imBlocking {
    std::int64_t bands = 0;  // 0: it is not taken
    std::int64_t chunks_w = 1, chunk_h = 1;  // a chunk: rows of positions, or a piece of one
    std::int64_t block_h = 1;                // rows that all panels of the weight pass by
    std::int64_t depth_block = 1;
    std::int64_t strip_w = 0;  // columns of dx with those that the padding would add
    std::size_t scratch_bytes = 0;
};

/// How few channels and filters are cut (cpu/planes.h); rows 0: the phases, or `outer`, compute them.
struct PlanesBlocking {
    std::int64_t rows = 0, blocks = 0;  // output rows a block, blocks an image
    std::int64_t sums = 0;              // grad_weight: runs of blocks, each with totals of its own
    std::size_t scratch_bytes = 0;
};

struct ConvPlan {
    Conv problem;
    Direction direction = Direction::kForward;
    Algorithm algorithm = Algorithm::kDirect;
    const cpu::Isa* isa = nullptr;
    int threads = 1;
    bool wide_tiles = false;  // float32 precision "high": `auto` may take F(6,3) and F(4,5)
    std::int64_t tasks = 0;  // pieces of work for threads; 0: those of the phases
    std::vector<Correlation> phases;      // of direct, pointwise and im2col
    OuterBlocking outer;                  // of grad_weight, beside its one phase
    Col2imBlocking col2im;                // of im2col's grad_input
    WinogradPlan winograd;
    DepthwiseBlocking depthwise;
    PlanesBlocking planes;                // of direct, where it takes them
    std::int64_t packed_elems = 0;        // of the packed weights
    int packed_format = 0;  // with weights packed ahead: 0 panels, 1 split, 2 + v transformed by Winograd's v
    std::size_t workspace_bytes = 0;      // what run() needs beside per-thread scratch
    ConvStrides strides;
    const char* rejected[kAlgorithms] = {};  // why not; nullptr: could do it
};

struct LinearStrides {
    MatrixStrides x, weight, y;  // y is grad_output in the backward directions
};

struct LinearPlan {
    Linear problem;
    Direction direction = Direction::kForward;
    const cpu::Isa* isa = nullptr;
    int threads = 1;
    LinearStrides strides;
    // Forward and grad_input: a task has block_rows rows of x (or y) and block_cols columns.
    std::int64_t block_rows = 1, block_cols = 1;
    std::int64_t group_cols = 1;    // forward: columns whose sums are kept between depth blocks
    std::int64_t group_panels = 1;  // grad_input: column panels of W copied at once
    bool few_rows = false;          // grad_input: W is read in place
    Correlation view;             // grad_weight: rows of the batch as positions
    OuterBlocking outer;
    std::size_t workspace_bytes = 0;
};

}  // namespace fastconv
