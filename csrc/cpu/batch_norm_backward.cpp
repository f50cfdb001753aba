// Batch normalization backward, over arrays of any strides. With g = dL/dy, through the ReLU if there is
// one (which is the residual's gradient, if there is one), and M positions:
//
//     dbias = sum(g)        dweight = rstd * sum(g * (x - mean))
//     dx = weight * rstd * (g - sum(g) / M - (x - mean) * rstd^2 * sum(g * (x - mean)) / M)
//     dx = weight * rstd * g                                                       in evaluation
//
// A tile's sums are made in T and added up in float64, in an order that follows from shape and
// strides alone. Passes over memory: 5 (g, x, g, x, dx) with channels last; in C order 3, where a
// channel is written while it is still in cache. With a residual the first pass reads y and writes g, its
// gradient, which the second reads: 2 more.
#include "core/float_mode.h"
#include "cpu/batch_norm_parts.h"
#include "cpu/kernels_elementwise.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

ChannelWalk first_pass(const BatchNormBackward& call) {
    return walk_channels({&call.grad_output, &call.x, call.output, call.grad_residual}, call.axis);
}

template <class T>
struct Backward {
    const BatchNormBackward& call;
    std::int64_t channels;
    double positions;
    double* sums;  // sum(g) and sum(g * (x - mean)), (2, C)
    T *mean, *scale, *offset, *slope, *bias;

    Masked<T> mask(std::int64_t c) const { return {mean + c, scale + c, bias + c}; }

    /// What the mask of a ReLU needs before the sums are there.
    void prepare() const {
        const ChannelValues<T> rstds(&call.rstd, 0), weight(call.weight, 1), shift(call.bias, 0);
        for (std::int64_t c = 0; c < channels; ++c) {
            mean[c] = element<T>(call.mean, c);
            scale[c] = static_cast<T>(rstds.at(c) * weight.at(c));
            bias[c] = static_cast<T>(shift.at(c));
        }
    }

    /// Sums to gradients and parameters, for channels [first, first + count).
    void finish(std::int64_t first, std::int64_t count) const {
        const ChannelValues<T> rstds(&call.rstd, 0);
        for (std::int64_t c = first; c < first + count; ++c) {
            const double sum = sums[c], product = sums[channels + c], rstd = rstds.at(c);
            element<T>(call.grad_bias, c) = static_cast<T>(sum);
            element<T>(call.grad_weight, c) = static_cast<T>(product * rstd);
            offset[c] = static_cast<T>(sum / positions);
            slope[c] = static_cast<T>(product * rstd * rstd / positions);
        }
    }
};

// Operands of the first pass; in C order, where one pass does it all, grad_input follows.
constexpr int kGrad = 0, kX = 1, kOutput = 2, kGradResidual = 3;

/// masked = grad, or 0 where output <= 0.
template <class T>
void write_masked(const MatrixView<T>& grad, const MatrixView<T>& output,
                  const MatrixView<T>& masked, std::int64_t rows, std::int64_t cols,
                  const Kernels<T>& kernels) {
    const auto line = kernels.elementwise->run[static_cast<int>(ElementwiseOp::kReluBackward)];
    if (grad.row_elems == cols && output.row_elems == cols && masked.row_elems == cols) {
        cols *= rows;  // few channels: rows too short for a call each
        rows = 1;
    }
    for (std::int64_t r = 0; r < rows; ++r)
        line(cols, grad.data + r * grad.row_elems, output.data + r * output.row_elems,
             masked.data + r * masked.row_elems, T(0));
}

template <class T>
void products_of_task(const ChannelTask<T>& task, const Kernels<T>& kernels, const Backward<T>& by) {
    double* const sums = by.sums;
    const std::int64_t channels = task.walk.channels;
    const auto& form = form_of<T>(kernels, task.walk);
    const bool adds = by.call.output;
    const auto run = form.products[by.call.relu && !adds ? kRelu : kNothing];
    double* const sum = sums + 2 * task.group * channels + task.first_channel;
    std::fill_n(sum, task.channels, 0.0);
    std::fill_n(sum + channels, task.channels, 0.0);
    T* const partial = task.partial;
    task.for_tiles([&](std::int64_t c, std::int64_t count, double, double,
                       const MatrixView<T>* view, std::int64_t rows, std::int64_t cols) {
        PositionTile<T> tile;
        tile.rows = rows;
        tile.cols = cols;
        tile.grad = view[kGrad].data;
        tile.grad_pitch = view[kGrad].row_elems;
        tile.x = view[kX].data;
        tile.x_pitch = view[kX].row_elems;
        if (adds) {
            // A loop of its own, the sums read what it left in cache: with stores between the sums'
            // loads a ResNet-50's batch norms took 137 ms backward, so 123 to 128 (batch 8, Xeon).
            write_masked(view[kGrad], view[kOutput], view[kGradResidual], rows, cols, kernels);
            tile.grad = view[kGradResidual].data;
            tile.grad_pitch = view[kGradResidual].row_elems;
        }
        run(tile, by.mask(task.first_channel + c), partial, partial + count);
        for (std::int64_t i = 0; i < count; ++i) {
            sum[c + i] += static_cast<double>(partial[i]);
            sum[channels + c + i] += static_cast<double>(partial[count + i]);
        }
    });
}

// Operands are numbered: grad_input `out`; `grad`, which is g, or grad_output where the ReLU's part is
// to be done again; and x.
template <class T>
void write_task(const ChannelTask<T>& task, const Kernels<T>& kernels, const Backward<T>& by,
                int out, int grad, int x) {
    const auto& form = form_of<T>(kernels, task.walk);
    const auto run = form.grad_input[by.call.relu && !by.call.output ? kRelu : kNothing];
    task.for_tiles([&](std::int64_t c, std::int64_t, double, double, const MatrixView<T>* view,
                       std::int64_t rows, std::int64_t cols) {
        PositionTile<T> tile;
        tile.rows = rows;
        tile.cols = cols;
        tile.x = view[x].data;
        tile.x_pitch = view[x].row_elems;
        tile.grad = view[grad].data;
        tile.grad_pitch = view[grad].row_elems;
        tile.out = view[out].data;
        tile.out_pitch = view[out].row_elems;
        c += task.first_channel;
        run(tile, by.mask(c), by.offset + c, by.slope + c);
    });
}

// Each task sums its channels and writes them at once.
template <class T>
void sum_and_write(const Backward<T>& backward, const ChannelWalk& walk, const Kernels<T>& kernels,
                   int threads) {
    const BatchNormBackward& call = backward.call;
    T* const out = static_cast<T*>(call.grad_input.data);
    const int last = walk.grid.operands - 1;
    T* data[] = {static_cast<T*>(call.grad_output.data), static_cast<T*>(call.x.data),
                 data_of<T>(call.output), data_of<T>(call.grad_residual), nullptr};
    data[last] = out;
    const Access access[kMaxOperands] = {};  // all in place: nothing is gathered
    threads = threads_for(2 * kBatchNormCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        products_of_task<T>(task, kernels, backward);
        backward.finish(task.first_channel, task.channels);
        write_task<T>(task, kernels, backward, last, call.output ? kGradResidual : kGrad, kX);
    });
}

template <class T>
void sum_all(const Backward<T>& backward, const ChannelWalk& walk, const Kernels<T>& kernels,
             int threads) {
    const std::int64_t channels = walk.channels;
    double* const sums = backward.sums;
    if (walk.positions == 0) {
        std::fill_n(sums, 2 * channels, 0.0);
        return;
    }
    const BatchNormBackward& call = backward.call;
    T* const data[] = {static_cast<T*>(call.grad_output.data), static_cast<T*>(call.x.data),
                       data_of<T>(call.output), data_of<T>(call.grad_residual)};
    const Access access[] = {kRead, kRead, kRead, kWrite};
    threads = threads_for(kBatchNormCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        products_of_task<T>(task, kernels, backward);
    });
    for (std::int64_t group = 1; group < walk.groups(); ++group)
        for (std::int64_t i = 0; i < 2 * channels; ++i) sums[i] += sums[2 * group * channels + i];
}

template <class T>
void write_all(const Backward<T>& backward, const Kernels<T>& kernels, int threads) {
    const BatchNormBackward& call = backward.call;
    const Tensor& grad = call.grad_residual ? *call.grad_residual : call.grad_output;
    const ChannelWalk walk = walk_channels({&call.grad_input, &grad, &call.x}, call.axis);
    T* const data[] = {static_cast<T*>(call.grad_input.data), static_cast<T*>(grad.data),
                       static_cast<T*>(call.x.data)};
    const Access access[] = {kWrite, kRead, kRead};
    threads = threads_for(kBatchNormCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        write_task<T>(task, kernels, backward, 0, 1, 2);
    });
}

template <class T>
void run(const BatchNormBackward& call, double* workspace, const Isa& isa, int threads) {
    const Kernels<T>& kernels = isa.kernels<T>();
    const ChannelWalk walk = first_pass(call);
    const std::int64_t channels = walk.channels;
    T* const mean = reinterpret_cast<T*>(workspace + batch_norm_sums(walk));
    const double positions = static_cast<double>(std::max<std::int64_t>(walk.positions, 1));
    const Backward<T> backward{call,          channels,
                               positions,     workspace,
                               mean,          mean + channels,
                               mean + 2 * channels, mean + 3 * channels,
                               mean + 4 * channels};
    backward.prepare();
    if (call.training && walk.positions > 0) {
        const ChannelWalk all = walk_channels(
            {&call.grad_output, &call.x, call.output, call.grad_residual, &call.grad_input},
            call.axis);
        if (sums_then_writes(all) && all.cuts_as(walk))
            return sum_and_write(backward, all, kernels, threads);
    }
    sum_all(backward, walk, kernels, threads);
    backward.finish(0, channels);
    if (call.training) return write_all(backward, kernels, threads);
    std::fill_n(backward.mean, channels, T(0));  // g * scale = (g - 0) * scale + 0
    std::fill_n(backward.offset, channels, T(0));
    normalize<T>(call.grad_input, call.grad_output, nullptr, call.axis, false, backward.mean,
                 backward.scale, backward.offset, kernels, threads);
}

}  // namespace

std::size_t batch_norm_workspace_bytes(const BatchNormBackward& call) {
    return batch_norm_workspace(first_pass(call));
}

void run_batch_norm_backward(const BatchNormBackward& call, void* workspace, const Isa& isa,
                             int threads) {
    const FloatModeScope scope(FloatMode::kIeee);  // the coefficients are made on this thread
    auto* const doubles = static_cast<double*>(workspace);
    if (call.x.dtype == DType::kFloat32) return run<float>(call, doubles, isa, threads);
    run<double>(call, doubles, isa, threads);
}

}  // namespace fastconv::cpu
