// The gradient of max pooling by index: dx = 0, then dx[index[p, q]] += dy[p, q] in row-major
// order.
//
// Where an image's rows follow each other evenly and the vectors of the gathering loop would have
// to be transposed (C order) or be short (channels last with few channels). A plane belongs to one
// task and stays in its cache while it is cleared and added to; the additions of an element come in
// the same order as the gathering loop's, so both give the same bits. Of that loop's time on one
// core (AVX-512): C order 64x112x112 3x3/2 0.45, 480x14x14 3x3/1 0.5; 8 images of 6x28x28 channels
// last 0.5.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/kernels_pool.h"
#include "cpu/pool2d.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kTaskElems = 32768;
constexpr std::int64_t kFewPlanes = 16;

bool channels_inside(const Strides& strides) {
    return std::abs(strides.channel_elems) < std::abs(strides.width_elems);
}

/// One image's `channels` channels from its first element.
template <class T>
void scatter(const PoolPlan& plan, const T* grads, const std::int64_t* indices, T* out,
             std::int64_t channels) {
    const Axis &height = plan.problem.pool.height, &width = plan.problem.pool.width;
    const Strides &from = plan.source.strides, &at = plan.indices.strides,
                  &to = plan.target.strides;
    const std::int64_t size = height.in * width.in;
    const std::int64_t step = width.in > 1 ? to.width_elems : to.height_elems;
    if (step == channels && (channels == 1 || to.channel_elems == 1)) {
        std::fill_n(out, size * channels, T{0});
    } else {
        for (std::int64_t i = 0; i < size; ++i)
            for (std::int64_t c = 0; c < channels; ++c) out[i * step + c * to.channel_elems] = 0;
    }
    const auto add = [&](std::int64_t count, const T* grad, std::int64_t grad_step,
                         const std::int64_t* index, std::int64_t index_step, T* at_channel,
                         std::int64_t out_step) {
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t place = *index;
            if (static_cast<std::uint64_t>(place) < static_cast<std::uint64_t>(size))
                at_channel[place * step] += *grad;
            grad += grad_step;
            index += index_step;
            at_channel += out_step;
        }
    };
    for (std::int64_t p = 0; p < height.out; ++p) {
        const T* grad = grads + p * from.height_elems;
        const std::int64_t* index = indices + p * at.height_elems;
        if (channels == 1) {
            add(width.out, grad, from.width_elems, index, at.width_elems, out, 0);
            continue;
        }
        for (std::int64_t q = 0; q < width.out; ++q)
            add(channels, grad + q * from.width_elems, from.channel_elems,
                index + q * at.width_elems, at.channel_elems, out, to.channel_elems);
    }
}

}  // namespace

bool scatters(const PoolPlan& plan, int lanes) {
    if (plan.problem.operation != PoolOperation::kMaxBackward) return false;
    const Axis &height = plan.problem.pool.height, &width = plan.problem.pool.width;
    const Strides& to = plan.target.strides;
    const bool even =
        height.in == 1 || width.in == 1 || to.height_elems == width.in * to.width_elems;
    if (!even) return false;
    if (plan.channels > 1 && channels_inside(to)) return plan.channels < lanes;
    // A plane is not cut: a few large ones would leave threads idle.
    return plan.batch * plan.channels >= kFewPlanes || height.in * width.in <= kTaskElems;
}

template <class T>
void run_scatter(const PoolPlan& plan, const T* grads, const std::int64_t* indices, T* out) {
    const Axis &height = plan.problem.pool.height, &width = plan.problem.pool.width;
    const std::int64_t channels = channels_inside(plan.target.strides) ? plan.channels : 1;
    const std::int64_t units = plan.batch * plan.channels / channels;
    const std::int64_t elems = height.in * width.in * channels;
    const std::int64_t block = std::clamp<std::int64_t>(kTaskElems / elems, 1, units);
    const std::int64_t tasks = (units + block - 1) / block;
    parallel_for(tasks, plan.threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        for (std::int64_t u = task * block; u < std::min(units, (task + 1) * block); ++u) {
            const std::int64_t n = u * channels / plan.channels, c = u * channels % plan.channels;
            const auto first = [&](const Strides& strides) {
                return n * strides.batch_elems + c * strides.channel_elems;
            };
            scatter(plan, grads + first(plan.source.strides), indices + first(plan.indices.strides),
                    out + first(plan.target.strides), channels);
        }
    });
}

template void run_scatter(const PoolPlan&, const float*, const std::int64_t*, float*);
template void run_scatter(const PoolPlan&, const double*, const std::int64_t*, double*);

}  // namespace fastconv::cpu
