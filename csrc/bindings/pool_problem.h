// Pooling's numbers as Python hands them over, checked and made a problem: the same on every device.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "ops.h"

namespace fastconv {

/// An operand of pooling: what is asked of its array on any device.
struct PoolArray {
    std::array<std::int64_t, 4> shape;  // (N, C, H, W)
    DType dtype;
};

inline void require_same_planes(const PoolArray& a, const PoolArray& b) {
    if (a.shape[0] != b.shape[0] || a.shape[1] != b.shape[1] || a.dtype != b.dtype)
        throw std::invalid_argument("_core: arrays do not belong together");
}

inline void require_indices(const PoolArray& indices, const PoolArray& like) {
    if (indices.dtype != DType::kInt64)
        throw std::invalid_argument("_core: indices must be int64");
    if (indices.shape != like.shape)
        throw std::invalid_argument("_core: indices of another shape");
}

inline bool windows_fit(const Axis& axis, bool adaptive) {
    if (adaptive) return axis.in >= 1 && axis.out >= 1;
    return axis.kernel >= 1 && axis.stride >= 1 && axis.dilation >= 1 && axis.pad_lo >= 0 &&
           axis.pad_hi >= 0 && axis.pad_lo < axis.extent() && axis.pad_hi < axis.extent() &&
           (axis.out == output_size(axis) || axis.out == output_size(axis, true));
}

/// windows: (kernel, stride, dilation, pad_lo, pad_hi) of the height, then of the width; none for
/// adaptive windows. `input` and `output` are x and y, or grad_input and grad_output.
inline PoolProblem pool_problem(int operation, const PoolArray& input, const PoolArray& output,
                                const std::optional<PoolArray>& indices,
                                const std::vector<std::int64_t>& windows, bool count_include_pad,
                                std::int64_t divisor_override) {
    PoolProblem problem;
    problem.operation = static_cast<PoolOperation>(operation);
    problem.dtype = input.dtype;
    problem.adaptive = windows.empty();
    problem.count_include_pad = count_include_pad;
    problem.divisor_override = divisor_override;
    problem.with_indices = indices.has_value();
    require_same_planes(input, output);
    Pool& pool = problem.pool;
    pool.batch = input.shape[0];
    pool.channels = input.shape[1];
    if (!problem.adaptive) {
        if (windows.size() != 10) throw std::invalid_argument("_core: ten numbers expected");
        const std::int64_t* n = windows.data();
        pool.height = {0, n[0], n[1], n[2], n[3], n[4], 0};
        pool.width = {0, n[5], n[6], n[7], n[8], n[9], 0};
    }
    pool.height.in = input.shape[2];
    pool.width.in = input.shape[3];
    pool.height.out = output.shape[2];
    pool.width.out = output.shape[3];
    const bool dilated = pool.height.dilation != 1 || pool.width.dilation != 1;
    if (!windows_fit(pool.height, problem.adaptive) || !windows_fit(pool.width, problem.adaptive) ||
        (dilated && !problem.max()) || operation < 0 || operation > 3 ||
        (problem.operation == PoolOperation::kMaxBackward) > problem.with_indices)
        throw std::invalid_argument("_core: shapes do not belong together");
    if (indices) require_indices(*indices, output);
    return problem;
}

/// `input` is x or its gradient, `output` y or grad_output; strides are the caller's.
inline UnpoolProblem unpool_problem(bool backward, const PoolArray& input, const PoolArray& output,
                                    const PoolArray& indices) {
    require_same_planes(input, output);
    require_indices(indices, input);
    UnpoolProblem problem;
    problem.dtype = input.dtype;
    problem.batch = input.shape[0];
    problem.channels = input.shape[1];
    problem.in_h = input.shape[2];
    problem.in_w = input.shape[3];
    problem.out_h = output.shape[2];
    problem.out_w = output.shape[3];
    problem.backward = backward;
    return problem;
}

}  // namespace fastconv
