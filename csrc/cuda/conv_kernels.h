// What a convolution kernel gets and what it says of itself: the contract between conv2d_plan.cpp
// (which kernel), conv2d.cpp (packing, launches) and the kernels, one file a target:
// conv2d_<target>.cu and conv2d_grad_weight_<target>.cu. Host-only: no CUDA header is included.
//
// Matrix view, for each group by itself:
//
//   correlation      out[row, col]   = sum over d of source[row, d] * weight[col, d]
//   grad_weight      weight[col, d]  = sum over rows of out[row, col] * source[row, d]
//
//   row = (n, i, j), j fastest, of batch x out_h x out_w
//   d   = (a, b, c), c fastest, of taps_h x taps_w x channels
//   source[row, d] = source(n, i * step_h + offset_h + a * offset_step_h,
//                              j * step_w + offset_w + b * offset_step_w, c), 0 outside the image
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "ops.h"

namespace fastconv::cuda {

/// What the phases of grad_input differ in.
struct CorrelationPhase {
    const void* weight = nullptr;  // packed as the kernel's WeightLayout says
    void* out = nullptr;           // null where `partial` is written
    float* partial = nullptr;  // (splits, groups, rows, cols): sums of depth_per_split terms each
    std::int64_t weight_pitch = 0;        // elements from one row of the packed weight to the next
    std::int64_t weight_group_elems = 0;  // from one group's packed weight to the next's
    // Of kMapped: from one column, channel, tap to the next; taps may run backwards.
    std::int64_t weight_col_elems = 0, weight_channel_elems = 0;
    std::int64_t weight_tap_h_elems = 0, weight_tap_w_elems = 0;

    int rows = 0, depth = 0;  // depth: of one group
    int out_h = 0, out_w = 0;
    int taps_h = 1, taps_w = 1, offset_h = 0, offset_w = 0;
    int splits = 1;  // blocks that share an output tile, each with a part of the depth
};

/// Operands and sizes of one dense correlation. Every count fits 32 bits, and so does rows * 2;
/// offsets within an operand may need 64.
struct CorrelationArguments : CorrelationPhase {
    const void* source = nullptr;
    const void* bias = nullptr;
    const void* residual = nullptr;

    int cols = 0, groups = 1;  // cols: of one group
    int source_h = 0, source_w = 0;
    int channels = 0;
    int step_h = 1, step_w = 1, offset_step_h = 1, offset_step_w = 1;

    Strides source_strides, out_strides, residual_strides;
    std::int64_t source_group_elems = 0, out_group_elems = 0, residual_group_elems = 0;

    int depth_per_split = 0;  // a multiple of the kernel's block_depth
    int cluster = 1;          // blocks that share a tile's sum and add it up themselves
    bool relu = false;
};

/// What a kernel is launched with: one correlation, or the phases of one grad_input, which alone
/// would each leave most of a device idle: the one with most taps, whose blocks are the longest,
/// first.
struct CorrelationLaunch {
    static constexpr int kMostPhases = 4;  // those of stride 2
    CorrelationArguments first;
    CorrelationPhase further[kMostPhases - 1];
    int phases = 1;

    CorrelationLaunch(const CorrelationArguments& only) : first(only) {}
    void add(const CorrelationPhase& phase) { further[phases++ - 1] = phase; }

    constexpr CorrelationArguments phase(int index) const {
        CorrelationArguments arguments = first;
        if (index > 0) static_cast<CorrelationPhase&>(arguments) = further[index - 1];
        return arguments;
    }
    int most_rows() const {
        int rows = first.rows;
        for (int i = 1; i < phases; ++i) rows = further[i - 1].rows > rows ? further[i - 1].rows : rows;
        return rows;
    }
    int most_splits() const { return first.splits; }  // it has most taps
    /// The last in their enumeration of the ways in which phases could be stored.
    template <class StoreOf>
    auto store(const StoreOf& store_of) const {
        auto store = store_of(first);
        for (int i = 1; i < phases; ++i) {
            const auto other = store_of(phase(i));
            if (store < other) store = other;
        }
        return store;
    }
};

/// How a correlation kernel wants its weights. Beyond the operand's end up to the pitch stand zeros.
enum class WeightLayout : std::uint8_t {
    kColDepth,  // (cols, depth), depth fastest, pitch a multiple of 16 bytes
    kDepthCol,  // (depth, cols), cols fastest, pitch a multiple of 16 bytes
    kMapped,    // in place where channels or columns are neighbours and other strides multiples of
                // 16 bytes; else as kColDepth
};

constexpr unsigned bit(Arithmetic a) { return 1u << static_cast<unsigned>(a); }

struct CorrelationKernel {
    const char* name;  // <target>_<block_rows>x<block_cols>, e.g. sm80_128x128; _3xtf32 its own
    int capability;    // the least a device needs
    unsigned arithmetics;  // bit() of each it has
    int block_rows, block_cols, block_depth;
    int threads;
    int blocks_per_multiprocessor;  // that fit, by registers and shared memory
    WeightLayout layout;
    /// `vector`: source and weight are read 16 bytes at a time. Then channels are unit stride and,
    /// like every stride and group offset of the source, a multiple of 16 bytes, and 16-byte aligned.
    /// Otherwise source may have any strides. The weight always is as `layout` says.
    void (*run)(const CorrelationLaunch& phases, Arithmetic arithmetic, bool vector, Stream stream);
    std::int64_t shared_bytes;
    float efficiency;  // share of the cost model's rate that a full device reaches (selection.cpp)
    bool scalar;       // also does without `vector`
    int last_capability = 1000;  // the newest devices that have its instructions
    bool mapped = false;         // by TMA (why_not_mapped): phases at once, only clusters share a
                                 // sum; others launch phases in turn
    int patches = 0;             // of a block: the source once for all taps (why_not_patched)
};

/// A target's rows, for range-for.
template <class Kernel>
struct KernelTable {
    const Kernel* begin_;
    const Kernel* end_;
    const Kernel* begin() const { return begin_; }
    const Kernel* end() const { return end_; }
};
using Kernels = KernelTable<CorrelationKernel>;
Kernels correlation_kernels_simt();  // float32, and 16-bit storage with float32 arithmetic
Kernels correlation_kernels_sm80();  // mma.sync: tf32, 3xTF32, float16, bfloat16
Kernels correlation_kernels_sm90();  // wgmma and TMA, of 9.0 alone: float16, bfloat16

/// grad_weight of one correlation; `out` is grad_output. To partial sums, which conv2d.cpp has
/// added in order and stored into the weight, or to the weight itself.
struct GradWeightArguments {
    const void* out = nullptr;
    const void* source = nullptr;
    float* partial = nullptr;  // (splits, groups, cols, depth), every element written
    void* weight = nullptr;    // instead, of one split: (groups, cols, depth) of the operands' type
    bool accumulate = false;   // onto what `weight` holds

    int rows = 0, cols = 0, depth = 0, groups = 1;
    int out_h = 0, out_w = 0;
    int source_h = 0, source_w = 0;
    int taps_h = 1, taps_w = 1, channels = 0;
    int step_h = 1, step_w = 1, offset_h = 0, offset_w = 0, offset_step_h = 1, offset_step_w = 1;

    Strides source_strides, out_strides;
    std::int64_t source_group_elems = 0, out_group_elems = 0;

    int splits = 1;
    int rows_per_split = 0;  // a multiple of the kernel's block_rows
    int cluster = 1;         // blocks that share a split's sum and add it up themselves
};

struct GradWeightKernel {
    const char* name;
    int capability;
    unsigned arithmetics;
    int block_cols, block_depth;  // of a tile of the result
    int block_rows;               // of one step of the sum
    int threads;
    int blocks_per_multiprocessor;
    /// `vector`: both operands are read 16 bytes at a time along channels, as in CorrelationKernel.
    void (*run)(const GradWeightArguments& arguments, Arithmetic arithmetic, bool vector,
                Stream stream);
    std::int64_t shared_bytes;
    float efficiency;
    bool scalar;
    bool stores = false;  // can take `weight` instead of `partial`
    int last_capability = 1000;
    bool mapped = false;
    int patches = 0;
};

using GradWeightKernels = KernelTable<GradWeightKernel>;
GradWeightKernels grad_weight_kernels_simt();
GradWeightKernels grad_weight_kernels_sm80();
GradWeightKernels grad_weight_kernels_sm90();  // wgmma and TMA, of 9.0 alone: float16, bfloat16

/// Depthwise: one channel a group, with one filter or several, in all directions. Accepts or not;
/// where it does, run_depthwise wants a workspace of that many bytes.
bool depthwise_accepts(const Conv& problem, Direction direction, const ConvStrides& strides);
std::int64_t depthwise_workspace_bytes(const Conv& problem, Direction direction,
                                       const DeviceInfo& device);
void run_depthwise(const CudaConvPlan& plan, const ConvPointers& pointers, void* workspace,
                   Stream stream);
/// Every direction by its definition: any strides, one thread a result, float32 sums.
void run_naive(const CudaConvPlan& plan, const ConvPointers& pointers, Stream stream);

}  // namespace fastconv::cuda
