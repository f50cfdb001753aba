// Forward convolution of few channels to few filters, over planes (cpu/planes.h):
//
//   out[k][p, q] = sum over c, r, s of plane[c][p * stride + r * dilation][q + s * dilation] * w[k, c, r, s]
//
// A task copies some rows of an image into zero-padded planes, a channel each, computes rows of K planes
// in scratch, two vectors of positions at a time, and copies them to the output's memory order.
// LeNet's first layer on one AVX-512 core: 12 multiply-adds a tap and 32 positions for 32 with channels
// as lanes, no pointers to positions, no masked stores.
#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/planes.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kPositions = 1024;   // a task: 6 planes of 4 KB
constexpr std::int64_t kMostChannels = 4;
constexpr std::int64_t kMostDepth = 256;    // terms of a sum; also of grad_weight's scratch
constexpr std::int64_t kMostSums = 32;      // of grad_weight: tasks, by shape alone

template <class T>
class ForwardTask {
public:
    ForwardTask(const ConvPlan& plan, const ConvPointers& pointers, const PlanesLayout<T>& layout)
        : plan_(plan), conv_(plan.problem), pointers_(pointers),
          kernels_(plan.isa->kernels<T>()), layout_(layout),
          scratch_(static_cast<char*>(thread_scratch(layout.bytes))) {}

    void run(const PlanesBlock& block) const {
        fill_planes(plan_, layout_, *kernels_.copy, block, static_cast<const T*>(pointers_.input),
                    at(layout_.x));
        take_weights(block.group);
        multiply(block);
        write(block);
    }

private:
    T* at(std::size_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }

    void take_weights(std::int64_t group) const {
        const Strides& from = plan_.strides.weight;
        const std::int64_t filters = conv_.group_out();
        const T* weight = static_cast<const T*>(pointers_.weight) + group * filters * from.batch_elems;
        T* to = at(layout_.sums);
        for (std::int64_t c = 0; c < conv_.group_in(); ++c)
            for (std::int64_t r = 0; r < conv_.height.kernel; ++r)
                for (std::int64_t s = 0; s < conv_.width.kernel; ++s)
                    for (std::int64_t k = 0; k < filters; ++k)
                        *to++ = weight[k * from.batch_elems + c * from.channel_elems +
                                       r * from.height_elems + s * from.width_elems];
    }

    void multiply(const PlanesBlock& block) const {
        const std::int64_t filters = conv_.group_out();
        const T* const bias = static_cast<const T*>(pointers_.bias);
        PlanesForward<T> tile;
        tile.plane_elems = layout_.plane;
        tile.row_elems = conv_.height.dilation * layout_.pitch;
        tile.tap_elems = conv_.width.dilation;
        tile.channels = conv_.group_in();
        tile.taps_h = conv_.height.kernel;
        tile.taps_w = conv_.width.kernel;
        tile.weights = at(layout_.sums);
        tile.bias = bias ? bias + block.group * filters : nullptr;
        tile.relu = pointers_.relu;
        tile.out_plane_elems = layout_.out_plane;
        const std::int64_t step = PlanesKernels<T>::kVectors * kernels_.planes->lanes;
        // In order: what a tile stores beyond the end of its row is the next row's, and comes later.
        for (std::int64_t p = 0; p < block.rows; ++p)
            for (std::int64_t q = 0; q < conv_.width.out; q += step) {
                tile.x = at(layout_.x) + p * conv_.height.stride * layout_.pitch + q;
                tile.out = at(layout_.out) + p * conv_.width.out + q;
                kernels_.planes->forward[filters](tile);
            }
    }

    void write(const PlanesBlock& block) const {
        const MatrixView<T> to = rows_of_output(plan_, block, static_cast<T*>(pointers_.output));
        const T* const from = at(layout_.out);
        for_output_rows(plan_, block, [&](std::int64_t count, std::int64_t offset, std::int64_t elem) {
            if (to.row_elems == 1)
                kernels_.copy->copy(conv_.group_out(), count, {from + offset, layout_.out_plane, 1},
                                    {to.data + elem, to.col_elems, 1});
            else
                kernels_.copy->copy(count, conv_.group_out(), {from + offset, 1, layout_.out_plane},
                                    {to.data + elem, to.row_elems, to.col_elems});
        });
    }

    const ConvPlan& plan_;
    const Conv& conv_;
    const ConvPointers& pointers_;
    const Kernels<T>& kernels_;
    const PlanesLayout<T>& layout_;
    char* scratch_;
};

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers) {
    const PlanesLayout<T> layout(plan, *plan.isa->kernels<T>().planes);
    const std::int64_t blocks = plan.problem.batch * plan.planes.blocks;
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(plan.tasks, plan.threads, mode, [&](std::int64_t task, int) {
        ForwardTask<T>(plan, pointers, layout).run(PlanesBlock(plan, task % blocks, task / blocks));
    });
}

template <class T>
bool fits(ConvPlan& plan) {
    using Tiles = PlanesKernels<T>;
    const Conv& conv = plan.problem;
    const PlanesKernels<T>& kernels = *plan.isa->kernels<T>().planes;
    const std::int64_t filters = conv.group_out(), width = conv.width.out;
    if (filters < Tiles::kFewestFilters || filters > Tiles::kMostFilters) return false;
    // Multiply-adds a tap and row, in vectors: a quarter must be saved of one a position.
    const std::int64_t step = Tiles::kVectors * kernels.lanes;
    if (4 * filters * Tiles::kVectors * ceil_div(width, step) > 3 * width) return false;
    plan.planes.rows = std::clamp<std::int64_t>(kPositions / width, 1, conv.height.out);
    plan.planes.blocks = ceil_div(conv.height.out, plan.planes.rows);
    plan.planes.rows = ceil_div(conv.height.out, plan.planes.blocks);
    plan.planes.scratch_bytes = PlanesLayout<T>(plan, kernels).bytes;
    return plan.planes.scratch_bytes <= kMaxThreadScratch;
}

}  // namespace

bool plan_planes(ConvPlan& plan) {
    const Conv& conv = plan.problem;
    if (plan.direction == Direction::kGradInput || plan.strides.has_residual ||
        conv.width.stride != 1 || conv.height.pad_lo < 0 || conv.width.pad_lo < 0 ||
        conv.group_in() < 1 || conv.group_in() > kMostChannels ||
        conv.taps() * conv.group_in() > kMostDepth || conv.batch * conv.height.out * conv.width.out < 1)
        return false;
    const bool single = conv.dtype == DType::kFloat32;
    if (!(single ? fits<float>(plan) : fits<double>(plan))) {
        plan.planes = {};
        return false;
    }
    const std::int64_t blocks = conv.batch * plan.planes.blocks;
    if (plan.direction == Direction::kForward) {
        plan.tasks = conv.groups * blocks;
        return true;
    }
    plan.planes.sums = std::min(kMostSums, blocks);
    plan.tasks = conv.groups * plan.planes.sums;
    plan.workspace_bytes = static_cast<std::size_t>(plan.tasks * conv.group_out() * conv.group_in() *
                                                    conv.taps() * conv.element_bytes());
    return true;
}

void run_planes(const ConvPlan& plan, const ConvPointers& pointers) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers);
    else run<double>(plan, pointers);
}

}  // namespace fastconv::cpu
