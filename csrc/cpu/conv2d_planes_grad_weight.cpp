// grad_weight of few channels and filters, over planes (cpu/planes.h):
//
//   dw[k, c, r, s] = sum over n, p, q of dy[k][n, p, q] * plane[c][n, p * stride + r * dilation][q + s * dilation]
//
// A vector of positions at a time: 3 filters' dy times 5 taps' x, 15 sums in registers over a block's
// rows, added to a vector of totals each. A task owns a run of blocks of images, cut by shape alone, and
// adds up its totals' lanes once; the runs' totals are added in order.
#include "core/parallel.h"
#include "cpu/planes.h"

namespace fastconv::cpu {
namespace {

template <class T>
class SumTask {
public:
    SumTask(const ConvPlan& plan, const ConvPointers& pointers, const PlanesLayout<T>& layout)
        : plan_(plan), conv_(plan.problem), pointers_(pointers),
          kernels_(plan.isa->kernels<T>()), layout_(layout),
          scratch_(static_cast<char*>(thread_scratch(layout.bytes))) {}

    /// totals (k, c, r, s) = the sum over blocks [begin, end).
    void run(std::int64_t group, std::int64_t begin, std::int64_t end, T* totals) const {
        const std::int64_t lanes = kernels_.planes->lanes;
        std::fill_n(at(layout_.sums), layout_.weights * lanes, T(0));
        for (std::int64_t i = begin; i < end; ++i) {
            const PlanesBlock block(plan_, i, group);
            fill_planes(plan_, layout_, *kernels_.copy, block,
                        static_cast<const T*>(pointers_.input), at(layout_.x));
            take_grad(block);
            for (std::int64_t c = 0; c < conv_.group_in(); ++c)
                for (std::int64_t r = 0; r < conv_.height.kernel; ++r) add(block.rows, c, r);
        }
        const T* sums = at(layout_.sums);
        for (std::int64_t i = 0; i < layout_.weights; ++i) {
            T total = sums[i * lanes];
            for (std::int64_t lane = 1; lane < lanes; ++lane) total += sums[i * lanes + lane];
            totals[i] = total;
        }
    }

private:
    T* at(std::size_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }

    void take_grad(const PlanesBlock& block) const {
        const MatrixView<const T> from =
            rows_of_output(plan_, block, static_cast<const T*>(pointers_.output));
        T* const to = at(layout_.out);
        for_output_rows(plan_, block, [&](std::int64_t count, std::int64_t offset, std::int64_t elem) {
            if (from.row_elems == 1)
                kernels_.copy->copy(conv_.group_out(), count, {from.data + elem, from.col_elems, 1},
                                    {to + offset, layout_.out_plane, 1});
            else
                kernels_.copy->copy(count, conv_.group_out(),
                                    {from.data + elem, from.row_elems, from.col_elems},
                                    {to + offset, 1, layout_.out_plane});
        });
    }

    // A kernel row's taps of channel c.
    void add(std::int64_t rows, std::int64_t c, std::int64_t r) const {
        using Tiles = PlanesKernels<T>;
        const std::int64_t filters = conv_.group_out(), taps = conv_.width.kernel;
        const std::int64_t lanes = kernels_.planes->lanes;
        PlanesSums<T> tile;
        tile.x_row_elems = conv_.height.stride * layout_.pitch;
        tile.tap_elems = conv_.width.dilation;
        tile.grad_row_elems = tile.cols = conv_.width.out;
        tile.grad_plane_elems = layout_.out_plane;
        tile.rows = rows;
        tile.filter_elems = layout_.weights / filters * lanes;
        for (std::int64_t k = 0; k < filters; k += Tiles::kFilters)
            for (std::int64_t s = 0; s < taps; s += Tiles::kTaps) {
                tile.x = at(layout_.x) + c * layout_.plane +
                         r * conv_.height.dilation * layout_.pitch + s * conv_.width.dilation;
                tile.grad = at(layout_.out) + k * layout_.out_plane;
                tile.sums = at(layout_.sums) + k * tile.filter_elems +
                            ((c * conv_.height.kernel + r) * taps + s) * lanes;
                const std::int64_t some = std::min<std::int64_t>(Tiles::kFilters, filters - k);
                kernels_.planes->sums[some][std::min<std::int64_t>(Tiles::kTaps, taps - s)](tile);
            }
    }

    const ConvPlan& plan_;
    const Conv& conv_;
    const ConvPointers& pointers_;
    const Kernels<T>& kernels_;
    const PlanesLayout<T>& layout_;
    char* scratch_;
};

// Totals (sum, k, c, r, s) of a group, added in order, to the weight.
template <class T>
void write(const ConvPlan& plan, const PlanesLayout<T>& layout, const T* totals, bool accumulate,
           T* weight) {
    const Conv& conv = plan.problem;
    const Strides& to = plan.strides.weight;
    std::int64_t i = 0;
    for (std::int64_t k = 0; k < conv.group_out(); ++k)
        for (std::int64_t c = 0; c < conv.group_in(); ++c)
            for (std::int64_t r = 0; r < conv.height.kernel; ++r)
                for (std::int64_t s = 0; s < conv.width.kernel; ++s, ++i) {
                    T total = totals[i];
                    for (std::int64_t sum = 1; sum < plan.planes.sums; ++sum)
                        total += totals[sum * layout.weights + i];
                    T& at = weight[k * to.batch_elems + c * to.channel_elems + r * to.height_elems +
                                   s * to.width_elems];
                    at = accumulate ? at + total : total;
                }
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers, T* workspace) {
    const Conv& conv = plan.problem;
    const PlanesLayout<T> layout(plan, *plan.isa->kernels<T>().planes);
    const std::int64_t blocks = conv.batch * plan.planes.blocks, sums = plan.planes.sums;
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(plan.tasks, plan.threads, mode, [&](std::int64_t task, int) {
        const std::int64_t sum = task % sums;
        SumTask<T>(plan, pointers, layout)
            .run(task / sums, blocks * sum / sums, blocks * (sum + 1) / sums,
                 workspace + task * layout.weights);
    });
    for (std::int64_t group = 0; group < conv.groups; ++group)
        write<T>(plan, layout, workspace + group * sums * layout.weights, pointers.accumulate,
                 static_cast<T*>(pointers.weight) +
                     group * conv.group_out() * plan.strides.weight.batch_elems);
}

}  // namespace

void run_planes_grad_weight(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    if (plan.problem.dtype == DType::kFloat32) run(plan, pointers, static_cast<float*>(workspace));
    else run(plan, pointers, static_cast<double*>(workspace));
}

}  // namespace fastconv::cpu
