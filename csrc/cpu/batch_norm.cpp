// Batch normalization over arrays of any strides, forward and backward.
//
//     mean = sum(x) / M, var = sum((x - mean)^2) / M, rstd = 1 / sqrt(var + eps)
//     y = (x - mean) * rstd * weight + bias
//     dx = weight * rstd * (g - sum(g) / M - (x - mean) * rstd^2 * sum(g * (x - mean)) / M)
//
// Statistics take one pass over memory: a tile of positions is summed twice while it is in cache,
// first for its mean, then for the deviations from it, and tiles are joined in float64. Tiles and
// their order follow from shape and strides alone; the sums of the tasks are joined in their order.
// Training forward reads x twice and writes y: 3 passes; backward reads twice g and x: 5 passes.
// Source: S. Ioffe, C. Szegedy, "Batch Normalization" (2015), algorithm 1; T. Chan, G. Golub,
// R. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
#include <cmath>

#include "cpu/channel_walk.h"
#include "cpu/kernels_batch_norm.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kSumCost = 0.3;  // nanoseconds an element, roughly
constexpr double kApplyCost = 0.3;

// Doubles of the tasks' sums: two for each channel and group of tiles.
std::size_t sums_elems(const ChannelWalk& walk) {
    return static_cast<std::size_t>(2 * std::max<std::int64_t>(walk.groups(), 1) * walk.channels);
}

// Parameters of the affine pass: up to four arrays (C) of T, in the space of as many doubles.
std::size_t workspace_elems(const ChannelWalk& sums) {
    return sums_elems(sums) + 4 * static_cast<std::size_t>(sums.channels);
}

// A constant channel's sum of squares may come out as a negative zero's worth of rounding; NaN stays.
double not_negative(double x) { return x < 0 ? 0 : x; }

template <class T>
struct Parameter {  // (C), any stride; null: a constant
    const T* data = nullptr;
    std::int64_t step = 0;
    double otherwise = 0;
    Parameter(const Tensor* tensor, double value) : otherwise(value) {
        if (!tensor) return;
        data = static_cast<const T*>(tensor->data);
        step = tensor->elems[0];
    }
    double at(std::int64_t c) const {
        return data ? static_cast<double>(data[c * step]) : otherwise;
    }
};

template <class T>
T& element(const Tensor& tensor, std::int64_t c) {
    return static_cast<T*>(tensor.data)[c * tensor.elems[0]];
}

template <class T>
const typename BatchNormKernels<T>::Form& form_of(const Kernels<T>& kernels,
                                                  const ChannelWalk& walk) {
    return walk.per_column ? kernels.batch_norm->per_column : kernels.batch_norm->per_tile;
}

// Leaves mean and sum of squared deviations of channel c in sums[c] and sums[C + c].
template <class T>
void moments(const ChannelWalk& walk, const Tensor& x, double* sums, const Kernels<T>& kernels,
             int threads) {
    const std::int64_t channels = walk.channels;
    T* const data[] = {static_cast<T*>(x.data)};
    const Access access[] = {kRead};
    const auto& form = form_of<T>(kernels, walk);
    for_channel_tasks<T>(walk, data, access, kernels, threads_for(kSumCost * walk.elements, threads),
                         [&](ChannelTask<T>& task) {
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
    });
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

// Leaves sum(g) and sum(g * (x - mean)) of channel c in sums[c] and sums[C + c].
template <class T>
void products(const ChannelWalk& walk, const Tensor& grad, const Tensor& x, const T* mean,
              double* sums, const Kernels<T>& kernels, int threads) {
    const std::int64_t channels = walk.channels;
    T* const data[] = {static_cast<T*>(grad.data), static_cast<T*>(x.data)};
    const Access access[] = {kRead, kRead};
    const auto& form = form_of<T>(kernels, walk);
    for_channel_tasks<T>(walk, data, access, kernels, threads_for(kSumCost * walk.elements, threads),
                         [&](ChannelTask<T>& task) {
        double* const sum = sums + 2 * task.group * channels + task.first_channel;
        std::fill_n(sum, task.channels, 0.0);
        std::fill_n(sum + channels, task.channels, 0.0);
        T* const partial = task.partial;
        task.for_tiles([&](std::int64_t c, std::int64_t count, double, double,
                           const MatrixView<T>* view, std::int64_t rows, std::int64_t cols) {
            PositionTile<T> tile;
            tile.rows = rows;
            tile.cols = cols;
            tile.grad = view[0].data;
            tile.grad_pitch = view[0].row_elems;
            tile.x = view[1].data;
            tile.x_pitch = view[1].row_elems;
            form.products(tile, mean + task.first_channel + c, partial, partial + count);
            for (std::int64_t i = 0; i < count; ++i) {
                sum[c + i] += static_cast<double>(partial[i]);
                sum[channels + c + i] += static_cast<double>(partial[count + i]);
            }
        });
    });
    for (std::int64_t group = 1; group < walk.groups(); ++group)
        for (std::int64_t i = 0; i < 2 * channels; ++i) sums[i] += sums[2 * group * channels + i];
}

// out = (x - mean) * scale + offset, channel by channel.
template <class T>
void normalize(const Tensor& out, const Tensor& x, int axis, const T* mean, const T* scale,
               const T* offset, const Kernels<T>& kernels, int threads) {
    const ChannelWalk walk = walk_channels({&out, &x}, axis);
    T* const data[] = {static_cast<T*>(out.data), static_cast<T*>(x.data)};
    const Access access[] = {kWrite, kRead};
    const auto& form = form_of<T>(kernels, walk);
    threads = threads_for(kApplyCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        task.for_tiles([&](std::int64_t c, std::int64_t, double, double, const MatrixView<T>* view,
                           std::int64_t rows, std::int64_t cols) {
            PositionTile<T> tile;
            tile.rows = rows;
            tile.cols = cols;
            tile.out = view[0].data;
            tile.out_pitch = view[0].row_elems;
            tile.x = view[1].data;
            tile.x_pitch = view[1].row_elems;
            c += task.first_channel;
            form.normalize(tile, mean + c, scale + c, offset + c);
        });
    });
}

template <class T>
void grad_input(const BatchNormBackward& call, const T* mean, const T* scale, const T* offset,
                const T* slope, const Kernels<T>& kernels, int threads) {
    const ChannelWalk walk =
        walk_channels({&call.grad_input, &call.grad_output, &call.x}, call.axis);
    T* const data[] = {static_cast<T*>(call.grad_input.data),
                       static_cast<T*>(call.grad_output.data), static_cast<T*>(call.x.data)};
    const Access access[] = {kWrite, kRead, kRead};
    const auto& form = form_of<T>(kernels, walk);
    threads = threads_for(kApplyCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        task.for_tiles([&](std::int64_t c, std::int64_t, double, double, const MatrixView<T>* view,
                           std::int64_t rows, std::int64_t cols) {
            const PositionTile<T> tile{rows, cols, view[2].data, view[2].row_elems, view[1].data,
                                       view[1].row_elems, view[0].data, view[0].row_elems};
            c += task.first_channel;
            form.grad_input(tile, mean + c, scale + c, offset + c, slope + c);
        });
    });
}

template <class T>
void update_running(const BatchNorm& call, const double* sums, double positions) {
    const std::int64_t channels = call.x.size[call.axis];
    const double keep = 1 - call.momentum;
    for (std::int64_t c = 0; c < channels; ++c) {
        if (call.running_mean) {
            T& mean = element<T>(*call.running_mean, c);
            mean = static_cast<T>(keep * static_cast<double>(mean) + call.momentum * sums[c]);
        }
        if (call.running_var) {
            T& var = element<T>(*call.running_var, c);
            const double unbiased = not_negative(sums[channels + c]) / (positions - 1);
            var = static_cast<T>(keep * static_cast<double>(var) + call.momentum * unbiased);
        }
    }
}

template <class T>
void forward(const BatchNorm& call, double* workspace, const Isa& isa, int threads) {
    const Kernels<T>& kernels = isa.kernels<T>();
    const ChannelWalk walk = walk_channels({&call.x}, call.axis);
    const std::int64_t channels = walk.channels;
    const bool measures = call.training && walk.positions > 0;
    if (measures) moments<T>(walk, call.x, workspace, kernels, threads);
    T* const scale = reinterpret_cast<T*>(workspace + sums_elems(walk));
    T* const offset = scale + channels;
    T* const mean = static_cast<T*>(call.mean.data);
    T* const rstd = static_cast<T*>(call.rstd.data);
    const Parameter<T> weight(call.weight, 1), bias(call.bias, 0);
    const Parameter<T> old_mean(call.training ? nullptr : call.running_mean, 0);
    const Parameter<T> old_var(call.training ? nullptr : call.running_var, 0);
    const double positions = static_cast<double>(walk.positions);
    for (std::int64_t c = 0; c < channels; ++c) {
        const double var =
            measures ? not_negative(workspace[channels + c]) / positions : old_var.at(c);
        const double exact = 1 / std::sqrt(var + call.eps);
        mean[c] = static_cast<T>(measures ? workspace[c] : old_mean.at(c));
        rstd[c] = static_cast<T>(exact);
        scale[c] = static_cast<T>(exact * weight.at(c));
        offset[c] = static_cast<T>(bias.at(c));
    }
    if (measures) update_running<T>(call, workspace, positions);
    normalize<T>(call.y, call.x, call.axis, mean, scale, offset, kernels, threads);
}

template <class T>
void backward(const BatchNormBackward& call, double* workspace, const Isa& isa, int threads) {
    const Kernels<T>& kernels = isa.kernels<T>();
    const ChannelWalk walk = walk_channels({&call.grad_output, &call.x}, call.axis);
    const std::int64_t channels = walk.channels;
    T* const mean = reinterpret_cast<T*>(workspace + sums_elems(walk));
    T *const scale = mean + channels, *const offset = scale + channels,
      *const slope = offset + channels;
    const Parameter<T> means(&call.mean, 0), rstds(&call.rstd, 0), weight(call.weight, 1);
    for (std::int64_t c = 0; c < channels; ++c) mean[c] = static_cast<T>(means.at(c));
    if (walk.positions > 0)
        products<T>(walk, call.grad_output, call.x, mean, workspace, kernels, threads);
    else
        std::fill_n(workspace, 2 * channels, 0.0);
    const double positions = static_cast<double>(std::max<std::int64_t>(walk.positions, 1));
    for (std::int64_t c = 0; c < channels; ++c) {
        const double sum = workspace[c], product = workspace[channels + c], rstd = rstds.at(c);
        element<T>(call.grad_bias, c) = static_cast<T>(sum);
        element<T>(call.grad_weight, c) = static_cast<T>(product * rstd);
        scale[c] = static_cast<T>(rstd * weight.at(c));
        offset[c] = static_cast<T>(sum / positions);
        slope[c] = static_cast<T>(product * rstd * rstd / positions);
    }
    if (call.training)
        return grad_input<T>(call, mean, scale, offset, slope, kernels, threads);
    std::fill_n(mean, channels, T(0));  // g * scale = (g - 0) * scale + 0
    std::fill_n(offset, channels, T(0));
    normalize<T>(call.grad_input, call.grad_output, call.axis, mean, scale, offset, kernels,
                 threads);
}

}  // namespace

std::size_t batch_norm_workspace_bytes(const BatchNorm& call) {
    return sizeof(double) * workspace_elems(walk_channels({&call.x}, call.axis));
}
std::size_t batch_norm_workspace_bytes(const BatchNormBackward& call) {
    return sizeof(double) *
           workspace_elems(walk_channels({&call.grad_output, &call.x}, call.axis));
}

void run_batch_norm(const BatchNorm& call, void* workspace, const Isa& isa, int threads) {
    auto* const doubles = static_cast<double*>(workspace);
    if (call.x.dtype == DType::kFloat32) return forward<float>(call, doubles, isa, threads);
    forward<double>(call, doubles, isa, threads);
}

void run_batch_norm_backward(const BatchNormBackward& call, void* workspace, const Isa& isa,
                             int threads) {
    auto* const doubles = static_cast<double*>(workspace);
    if (call.x.dtype == DType::kFloat32) return backward<float>(call, doubles, isa, threads);
    backward<double>(call, doubles, isa, threads);
}

}  // namespace fastconv::cpu
