// Cross-entropy of logits (N, C) against class numbers, any strides.
//
//     L = -(1 - e) log p_t - e / C * sum over c of log p_c        p = softmax(x), e = label smoothing
//     dL/dx_c = (p_c - q_c) * scale        q_c = (1 - e) [c = t] + e / C
//
// log p_c = (x_c - m) - log(sum of exp(x - m)), m the row's maximum. A row's loss and gradient are NaN
// where its target is no class. The total is summed by one block in a fixed order, in float64.
// Bytes moved per byte of the logits: forward 1, backward 2.
#pragma once

#include "cuda/softmax_rows.cuh"

namespace fastconv::cuda {
namespace {

struct CrossEntropyArguments {
    Rows rows;  // of the logits and, backward, grad
    Operand logits, grad;
    const std::int64_t* target;
    std::int64_t target_elems, classes;
    float smoothing;
    float* losses;        // forward, (N)
    const float* scales;  // backward, (N), may be null
    float scale;
};

template <class T>
__device__ inline void losses_of(const CrossEntropyArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const Team team(rows);
    std::int64_t at[1];
    locate(rows.walk, team.row, at);
    const RowSums sums =
        row_sums<T>(team, arguments.logits, at[0], rows.elems[0], rows.length, false);
    const std::int64_t target = arguments.target[team.row * arguments.target_elems];
    const bool valid = target >= 0 && target < arguments.classes;
    float differences = 0, wanted = 0;  // sum of x - m; the target's, in one thread
    if (arguments.smoothing > 0)
        team.for_items(rows.length, [&](std::uint32_t i) {
            const auto item = Access<T>::load(arguments.logits, at[0] + i * rows.elems[0]);
#pragma unroll
            for (int j = 0; j < kElems; ++j)
                differences += item.at(j) - sums.maximum;
        });
    differences = team.sum(differences);
    if (team.rank != 0 || !team.exists) return;
    if (valid) {
        const auto item = Access<T>::load(arguments.logits,
                                          at[0] + target / kElems * rows.elems[0]);
#pragma unroll
        for (int j = 0; j < kElems; ++j)
            if (j == target % kElems) wanted = item.at(j);
    }
    const auto classes = static_cast<float>(arguments.classes);
    const float log_sum = logf(sums.exponentials), smoothing = arguments.smoothing;
    float loss = 0;  // a class of weight 0 costs nothing, even where its probability is 0
    if (smoothing < 1) loss -= (1 - smoothing) * (wanted - sums.maximum - log_sum);
    if (smoothing > 0) loss -= smoothing * (differences / classes - log_sum);
    arguments.losses[team.row] = valid ? loss : NAN;
}

__global__ void __launch_bounds__(kRowThreads)
    losses_of_rows(const CrossEntropyArguments arguments) {
    with_items(arguments.logits.dtype, arguments.rows.vector,
               [&](auto tag) { losses_of<typename decltype(tag)::type>(arguments); });
}

template <class T>
__device__ inline void gradients_of(const CrossEntropyArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const Team team(rows);
    const float everywhere = arguments.smoothing / static_cast<float>(arguments.classes);
    const float at_target = 1 - arguments.smoothing + everywhere;
    std::int64_t at[2];
    locate(rows.walk, team.row, at);
    const RowSums sums =
        row_sums<T>(team, arguments.logits, at[0], rows.elems[0], rows.length, false);
    const std::int64_t target = arguments.target[team.row * arguments.target_elems];
    const bool valid = target >= 0 && target < arguments.classes;
    float scale = arguments.scale;
    if (arguments.scales) scale *= arguments.scales[team.row];
    if (!valid) scale = NAN;
    const float inverse = 1.0f / sums.exponentials;
    if (!team.exists) return;
    team.for_items(rows.length, [&](std::uint32_t i) {
        const auto item = Access<T>::load(arguments.logits, at[0] + i * rows.elems[0]);
        float value[kElems];
#pragma unroll
        for (int j = 0; j < kElems; ++j) {
            const float p = expf(item.at(j) - sums.maximum) * inverse;
            const bool hit = std::int64_t{i} * kElems + j == target;
            value[j] = (p - (hit ? at_target : everywhere)) * scale;
        }
        Access<T>::store(arguments.grad, at[1] + i * rows.elems[1], value);
    });
}

__global__ void __launch_bounds__(kRowThreads)
    gradients_of_rows(const CrossEntropyArguments arguments) {
    with_items(arguments.logits.dtype, arguments.rows.vector,
               [&](auto tag) { gradients_of<typename decltype(tag)::type>(arguments); });
}

constexpr int kTotalThreads = 1024;

__global__ void __launch_bounds__(kTotalThreads) total_of_losses(const float* losses,
                                                                 std::int64_t count, float scale,
                                                                 float* total) {
    double sum[1] = {0};
#pragma unroll 4
    for (std::int64_t i = threadIdx.x; i < count; i += kTotalThreads)
        sum[0] += static_cast<double>(losses[i]);
    block_sums<kTotalThreads>(sum);
    if (threadIdx.x == 0) *total = static_cast<float>(sum[0] * static_cast<double>(scale));
}

}  // namespace
}  // namespace fastconv::cuda
