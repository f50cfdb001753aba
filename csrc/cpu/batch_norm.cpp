// Batch normalization forward, over arrays of any strides.
//
//     mean = sum(x) / M, var = sum((x - mean)^2) / M, rstd = 1 / sqrt(var + eps)
//     y = (x - mean) * rstd * weight + bias, or its ReLU, or max(that + residual, 0)
//
// Statistics take one pass over memory: a tile of positions is summed twice while it is in cache,
// first for its mean, then for the deviations from it, and tiles are joined in float64. Tiles and
// their order follow from shape and strides alone; the sums of the groups are joined in their order.
// Passes over memory: 3 (x, x, y) with channels last; in C order 2, where a channel is written while
// it is still in cache; one more over a residual.
// Source: S. Ioffe, C. Szegedy, "Batch Normalization" (2015), algorithm 1; T. Chan, G. Golub,
// R. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
#include <cmath>

#include "core/float_mode.h"
#include "cpu/batch_norm_parts.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

// A constant channel's sum of squares may come out below zero by rounding; NaN stays.
double not_negative(double x) { return x < 0 ? 0 : x; }

/// Arrays (C) that the affine pass reads, and where they come from.
template <class T>
struct Forward {
    const BatchNorm& call;
    std::int64_t channels;
    double positions;
    bool measures;  // the statistics of x; else the running ones, or those of nothing
    double* sums;   // mean and sum of squared deviations, (2, C)
    T *mean, *rstd, *scale, *offset;

    /// Sums to parameters and running statistics, for channels [first, first + count).
    void finish(std::int64_t first, std::int64_t count) const {
        const ChannelValues<T> weight(call.weight, 1), bias(call.bias, 0);
        const ChannelValues<T> old_mean(call.training ? nullptr : call.running_mean, 0);
        const ChannelValues<T> old_var(call.training ? nullptr : call.running_var, 0);
        for (std::int64_t c = first; c < first + count; ++c) {
            const double var =
                measures ? not_negative(sums[channels + c]) / positions : old_var.at(c);
            mean[c] = static_cast<T>(measures ? sums[c] : old_mean.at(c));
            rstd[c] = static_cast<T>(1 / std::sqrt(var + call.eps));
            // From the rounded rstd, which is all that backward has: it must find y again.
            scale[c] = static_cast<T>(static_cast<double>(rstd[c]) * weight.at(c));
            offset[c] = static_cast<T>(bias.at(c));
            if (measures) update_running(c);
        }
    }

    void update_running(std::int64_t c) const {
        const double keep = 1 - call.momentum;
        if (call.running_mean) {
            T& running = element<T>(*call.running_mean, c);
            running = static_cast<T>(keep * static_cast<double>(running) + call.momentum * sums[c]);
        }
        if (call.running_var) {
            T& running = element<T>(*call.running_var, c);
            const double unbiased = not_negative(sums[channels + c]) / (positions - 1);
            running = static_cast<T>(keep * static_cast<double>(running) + call.momentum * unbiased);
        }
    }
};

// Mean and squared deviations of the task's positions, operand 0 being x.
template <class T>
void moments_of_task(const ChannelTask<T>& task, const Kernels<T>& kernels, double* sums) {
    const std::int64_t channels = task.walk.channels;
    const auto& form = form_of<T>(kernels, task.walk);
    double* const mean = sums + 2 * task.group * channels + task.first_channel;
    double* const deviations = mean + channels;
    std::fill_n(mean, task.channels, 0.0);
    std::fill_n(deviations, task.channels, 0.0);
    T* const partial = task.partial;  // (3, channels at once)
    task.for_tiles([&](std::int64_t c, std::int64_t count, double before, double positions,
                       const MatrixView<T>* view, std::int64_t rows, std::int64_t cols) {
        PositionTile<T> tile;
        tile.rows = rows;
        tile.cols = cols;
        tile.x = view[0].data;
        tile.x_pitch = view[0].row_elems;
        form.moments(tile, partial, partial + count, partial + 2 * count);
        kernels.batch_norm->join(count, before, positions, partial, partial + count,
                                 partial + 2 * count, mean + c, deviations + c);
    });
}

void join_groups(const ChannelWalk& walk, double* sums) {
    const std::int64_t channels = walk.channels;
    double before = walk.positions_of_group(0);
    for (std::int64_t group = 1; group < walk.groups(); ++group) {
        const double* mean = sums + 2 * group * channels;
        const double count = walk.positions_of_group(group), share = count / (before + count);
        for (std::int64_t c = 0; c < channels; ++c) {
            const double delta = mean[c] - sums[c];
            sums[c] += delta * share;
            sums[channels + c] += mean[channels + c] + delta * delta * before * share;
        }
        before += count;
    }
}

// Each task measures its channels and writes them at once.
template <class T>
void measure_and_write(const Forward<T>& forward, const ChannelWalk& walk,
                       const Kernels<T>& kernels, int threads) {
    T* const data[] = {static_cast<T*>(forward.call.x.data), static_cast<T*>(forward.call.y.data),
                       data_of<T>(forward.call.residual)};
    const Access access[] = {kRead, kWrite, kRead};  // all in place: nothing is gathered
    threads = threads_for(2 * kBatchNormCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        moments_of_task<T>(task, kernels, forward.sums);
        forward.finish(task.first_channel, task.channels);
        normalize_task<T>(task, kernels, 1, 0, forward.call.relu, forward.mean, forward.scale,
                          forward.offset);
    });
}

template <class T>
void run(const BatchNorm& call, double* workspace, const Isa& isa, int threads) {
    const Kernels<T>& kernels = isa.kernels<T>();
    const ChannelWalk walk = walk_channels({&call.x}, call.axis);
    const std::int64_t channels = walk.channels;
    T* const scale = reinterpret_cast<T*>(workspace + batch_norm_sums(walk));
    const Forward<T> forward{call,
                             channels,
                             static_cast<double>(walk.positions),
                             call.training && walk.positions > 0,
                             workspace,
                             static_cast<T*>(call.mean.data),
                             static_cast<T*>(call.rstd.data),
                             scale,
                             scale + channels};
    if (forward.measures) {
        const ChannelWalk all = walk_channels({&call.x, &call.y, call.residual}, call.axis);
        if (sums_then_writes(all) && all.cuts_as(walk))
            return measure_and_write(forward, all, kernels, threads);
        T* const data[] = {static_cast<T*>(call.x.data)};
        const Access access[] = {kRead};
        for_channel_tasks<T>(
            walk, data, access, kernels, threads_for(kBatchNormCost * walk.elements, threads),
            [&](ChannelTask<T>& task) { moments_of_task<T>(task, kernels, workspace); });
        join_groups(walk, workspace);
    }
    forward.finish(0, channels);
    normalize<T>(call.y, call.x, call.residual, call.axis, call.relu, forward.mean, forward.scale,
                 forward.offset, kernels, threads);
}

}  // namespace

std::size_t batch_norm_workspace_bytes(const BatchNorm& call) {
    return batch_norm_workspace(walk_channels({&call.x}, call.axis));
}

void run_batch_norm(const BatchNorm& call, void* workspace, const Isa& isa, int threads) {
    const FloatModeScope scope(FloatMode::kIeee);  // the coefficients are made on this thread
    auto* const doubles = static_cast<double*>(workspace);
    if (call.x.dtype == DType::kFloat32) return run<float>(call, doubles, isa, threads);
    run<double>(call, doubles, isa, threads);
}

}  // namespace fastconv::cpu
