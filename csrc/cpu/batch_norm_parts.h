// What batch normalization's forward and backward share: its arrays (C) and its affine pass.
//
// Workspace, in doubles: two sums for each group of tiles and channel, (groups, 2, C), the first group's
// taking in the others'; then up to five arrays (C) of T in the space of as many doubles.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cpu/channel_walk.h"
#include "cpu/isa.h"
#include "cpu/kernels_batch_norm.h"

namespace fastconv::cpu {

constexpr double kBatchNormCost = 0.3;  // nanoseconds an element and pass, roughly

inline std::size_t batch_norm_sums(const ChannelWalk& walk) {
    return static_cast<std::size_t>(2 * std::max<std::int64_t>(walk.groups(), 1) * walk.channels);
}
inline std::size_t batch_norm_workspace(const ChannelWalk& walk) {
    return sizeof(double) * (batch_norm_sums(walk) + 5 * static_cast<std::size_t>(walk.channels));
}

/// Whether a task may sum and then write its channels while they are in cache.
inline bool sums_then_writes(const ChannelWalk& walk) {
    bool in_place = !walk.per_column && walk.groups() == 1;
    for (int k = 0; k < walk.grid.operands; ++k) in_place = in_place && walk.grid.in_place[k];
    return in_place;
}

/// An array (C) of any stride; without one, the same value everywhere.
template <class T>
struct ChannelValues {
    const T* data = nullptr;
    std::int64_t step = 0;
    double otherwise = 0;

    ChannelValues(const Tensor* tensor, double value) : otherwise(value) {
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
T* data_of(const Tensor* tensor) {
    return tensor ? static_cast<T*>(tensor->data) : nullptr;
}

constexpr int kResidual = 2;  // its operand's number forward, where there is one

template <class T>
const typename BatchNormKernels<T>::Form& form_of(const Kernels<T>& kernels,
                                                  const ChannelWalk& walk) {
    return walk.per_column ? kernels.batch_norm->per_column : kernels.batch_norm->per_tile;
}

/// out = (x - mean) * scale + offset, or its ReLU, for one task; `out` and `x` are the operands'
/// numbers. A third operand is the residual.
template <class T>
void normalize_task(const ChannelTask<T>& task, const Kernels<T>& kernels, int out, int x,
                    bool relu, const T* mean, const T* scale, const T* offset) {
    const auto& form = form_of<T>(kernels, task.walk);
    const bool adds = task.walk.grid.operands > kResidual;
    const auto run = form.normalize[adds ? kAddRelu : relu ? kRelu : kNothing];
    task.for_tiles([&](std::int64_t c, std::int64_t, double, double, const MatrixView<T>* view,
                       std::int64_t rows, std::int64_t cols) {
        PositionTile<T> tile;
        tile.rows = rows;
        tile.cols = cols;
        tile.out = view[out].data;
        tile.out_pitch = view[out].row_elems;
        tile.x = view[x].data;
        tile.x_pitch = view[x].row_elems;
        if (adds) {
            tile.residual = view[kResidual].data;
            tile.residual_pitch = view[kResidual].row_elems;
        }
        c += task.first_channel;
        run(tile, mean + c, scale + c, offset + c);
    });
}

template <class T>
void normalize(const Tensor& out, const Tensor& x, const Tensor* residual, int axis, bool relu,
               const T* mean, const T* scale, const T* offset, const Kernels<T>& kernels,
               int threads) {
    const ChannelWalk walk = walk_channels({&out, &x, residual}, axis);
    T* const data[] = {static_cast<T*>(out.data), static_cast<T*>(x.data), data_of<T>(residual)};
    const Access access[] = {kWrite, kRead, kRead};
    threads = threads_for(kBatchNormCost * walk.elements, threads);
    for_channel_tasks<T>(walk, data, access, kernels, threads, [&](ChannelTask<T>& task) {
        normalize_task<T>(task, kernels, 0, 1, relu, mean, scale, offset);
    });
}

}  // namespace fastconv::cpu
