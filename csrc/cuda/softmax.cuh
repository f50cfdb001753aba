// Softmax and log-softmax along any axis of arrays of any strides, forward and backward.
//
//     softmax      y = exp(x - m) / s      s = sum of exp(x - m)     dx = y * (dy - sum(dy * y))
//     log_softmax  y = (x - m) - log s                               dx = dy - exp(y) * sum(dy)
//
// m is the row's maximum. Rows along the axis go to a team of threads each (softmax_rows.cuh). Where the
// axis is not the innermost and there are rows enough (spatial softmax in C order), a thread takes a
// row, neighbours on neighbouring rows, and its later passes find the rows in L2.
// Bytes moved per byte of the array: forward 2, backward 3.
#pragma once

#include "cuda/softmax_rows.cuh"

namespace fastconv::cuda {
namespace {

struct SoftmaxArguments {
    Rows rows;             // of y, a, b
    Operand y, a, b;       // backward: y is grad_input, a grad_output, b the output
    bool log;
};

template <class T>
__device__ inline bool is_coarse(const SoftmaxArguments& arguments) {
    if constexpr (std::is_same_v<T, AnyType>) return arguments.y.dtype != DType::kFloat32;
    else return sizeof(T) == 2;
}

// A row in registers: one exponential an element.
template <class T>
__device__ inline void softmax_of_short_row(const SoftmaxArguments& arguments, const Team& team,
                                            const std::int64_t (&at)[2]) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const bool coarse = is_coarse<T>(arguments);
    const RowItems<T> x(team, arguments.a, at[1], rows.elems[1], rows.length);
    float top = -INFINITY;
#pragma unroll
    for (int u = 0; u < kRowLoads; ++u)
#pragma unroll
        for (int j = 0; j < kElems; ++j) top = fmaxf(top, x.item[u].at(j));
    top = team.max(top);
    float value[kRowLoads][kElems], sum = 0;
#pragma unroll
    for (int u = 0; u < kRowLoads; ++u)
#pragma unroll
        for (int j = 0; j < kElems; ++j) {
            const float below = x.item[u].at(j) - top, e = exponential(below, coarse);
            value[u][j] = arguments.log ? below : e;
            sum += x.exists(u) ? e : 0.0f;
        }
    sum = team.sum(sum);
    const float logarithm = arguments.log ? logf(sum) : 0.0f;
    const float by = arguments.log ? 1.0f : 1.0f / sum;
    if (!team.exists) return;
#pragma unroll
    for (int u = 0; u < kRowLoads; ++u) {
        if (!x.exists(u)) continue;
#pragma unroll
        for (int j = 0; j < kElems; ++j) value[u][j] = value[u][j] * by - logarithm;
        Access<T>::store(arguments.y, at[0] + x.index(u) * rows.elems[0], value[u]);
    }
}

template <class T>
__device__ inline void softmax_rows_of(const SoftmaxArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const Team team(rows);
    std::int64_t at[2];
    locate(rows.walk, team.row, at);
    if (RowItems<T>::fit(rows)) return softmax_of_short_row<T>(arguments, team, at);
    const bool coarse = is_coarse<T>(arguments);
    const RowSums sums =
        row_sums<T>(team, arguments.a, at[1], rows.elems[1], rows.length, coarse);
    const float by = arguments.log ? logf(sums.exponentials) : 1.0f / sums.exponentials;
    if (!team.exists) return;
    team.for_items(rows.length, [&](std::uint32_t i) {
        const auto item = Access<T>::load(arguments.a, at[1] + i * rows.elems[1]);
        float value[kElems];
#pragma unroll
        for (int j = 0; j < kElems; ++j) {
            const float below = item.at(j) - sums.maximum;
            value[j] = arguments.log ? below - by : exponential(below, coarse) * by;
        }
        Access<T>::store(arguments.y, at[0] + i * rows.elems[0], value);
    });
}

__global__ void __launch_bounds__(kRowThreads, 4) softmax_rows(const SoftmaxArguments arguments) {
    with_items(arguments.y.dtype, arguments.rows.vector,
               [&](auto tag) { softmax_rows_of<typename decltype(tag)::type>(arguments); });
}

__device__ inline float gradient(bool log, bool coarse, float grad, float output, float sum) {
    return log ? grad - exponential(output, coarse) * sum : output * (grad - sum);
}

template <class T>
__device__ inline void softmax_backward_of_short_row(const SoftmaxArguments& arguments,
                                                     const Team& team,
                                                     const std::int64_t (&at)[3]) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const bool coarse = is_coarse<T>(arguments);
    const RowItems<T> grad(team, arguments.a, at[1], rows.elems[1], rows.length);
    const RowItems<T> output(team, arguments.b, at[2], rows.elems[2], rows.length);
    float sum = 0;
#pragma unroll
    for (int u = 0; u < kRowLoads; ++u)
#pragma unroll
        for (int j = 0; j < kElems; ++j) {
            const float term =
                grad.item[u].at(j) * (arguments.log ? 1.0f : output.item[u].at(j));
            sum += grad.exists(u) ? term : 0.0f;
        }
    sum = team.sum(sum);
    if (!team.exists) return;
#pragma unroll
    for (int u = 0; u < kRowLoads; ++u) {
        if (!grad.exists(u)) continue;
        float value[kElems];
#pragma unroll
        for (int j = 0; j < kElems; ++j)
            value[j] = gradient(arguments.log, coarse, grad.item[u].at(j), output.item[u].at(j),
                                sum);
        Access<T>::store(arguments.y, at[0] + grad.index(u) * rows.elems[0], value);
    }
}

template <class T>
__device__ inline void softmax_backward_rows_of(const SoftmaxArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const Rows& rows = arguments.rows;
    const Team team(rows);
    std::int64_t at[3];
    locate(rows.walk, team.row, at);
    if (RowItems<T>::fit(rows)) return softmax_backward_of_short_row<T>(arguments, team, at);
    const bool coarse = is_coarse<T>(arguments);
    float sum = 0;
    team.for_items(rows.length, [&](std::uint32_t i) {
        const auto grad = Access<T>::load(arguments.a, at[1] + i * rows.elems[1]);
        const auto output = Access<T>::load(arguments.b, at[2] + i * rows.elems[2]);
#pragma unroll
        for (int j = 0; j < kElems; ++j)
            sum += grad.at(j) * (arguments.log ? 1.0f : output.at(j));
    });
    sum = team.sum(sum);
    if (!team.exists) return;
    team.for_items(rows.length, [&](std::uint32_t i) {
        const auto grad = Access<T>::load(arguments.a, at[1] + i * rows.elems[1]);
        const auto output = Access<T>::load(arguments.b, at[2] + i * rows.elems[2]);
        float value[kElems];
#pragma unroll
        for (int j = 0; j < kElems; ++j)
            value[j] = gradient(arguments.log, coarse, grad.at(j), output.at(j), sum);
        Access<T>::store(arguments.y, at[0] + i * rows.elems[0], value);
    });
}

__global__ void __launch_bounds__(kRowThreads, 3)
    softmax_backward_rows(const SoftmaxArguments arguments) {
    with_items(arguments.y.dtype, arguments.rows.vector, [&](auto tag) {
        softmax_backward_rows_of<typename decltype(tag)::type>(arguments);
    });
}

// ---- a thread a row -----------------------------------------------------------------------------

/// The sum of term(i), i below length: blocks of 256 terms, joined in float64.
template <class Term>
__device__ inline double sum_terms(std::uint32_t length, const Term& term) {
    constexpr std::uint32_t kBlock = 256;
    double total = 0;
    for (std::uint32_t begin = 0; begin < length; begin += kBlock) {
        const std::uint32_t end = begin + kBlock < length ? begin + kBlock : length;
        float sum = 0;
        for (std::uint32_t i = begin; i < end; ++i) sum += term(i);
        total += static_cast<double>(sum);
    }
    return total;
}

__global__ void __launch_bounds__(kRowThreads) softmax_threads(SoftmaxArguments arguments) {
    const Rows& rows = arguments.rows;
    const std::uint32_t row = blockIdx.x * kRowThreads + threadIdx.x;
    if (row >= rows.walk.count) return;
    std::int64_t at[2];
    locate(rows.walk, row, at);
    const auto load = [&](std::uint32_t i) {
        return load_element(arguments.a, at[1] + i * rows.elems[1]);
    };
    float top = -INFINITY;
#pragma unroll 4
    for (std::uint32_t i = 0; i < rows.length; ++i) top = fmaxf(top, load(i));
    const auto total = static_cast<float>(
        sum_terms(rows.length, [&](std::uint32_t i) { return expf(load(i) - top); }));
    const float by = arguments.log ? logf(total) : 1.0f / total;
#pragma unroll 4
    for (std::uint32_t i = 0; i < rows.length; ++i) {
        const float below = load(i) - top;
        store_element(arguments.y, at[0] + i * rows.elems[0],
                      arguments.log ? below - by : expf(below) * by);
    }
}

__global__ void __launch_bounds__(kRowThreads) softmax_backward_threads(
    SoftmaxArguments arguments) {
    const Rows& rows = arguments.rows;
    const std::uint32_t row = blockIdx.x * kRowThreads + threadIdx.x;
    if (row >= rows.walk.count) return;
    std::int64_t at[3];
    locate(rows.walk, row, at);
    const auto grad = [&](std::uint32_t i) {
        return load_element(arguments.a, at[1] + i * rows.elems[1]);
    };
    const auto output = [&](std::uint32_t i) {
        return load_element(arguments.b, at[2] + i * rows.elems[2]);
    };
    const auto sum = static_cast<float>(sum_terms(rows.length, [&](std::uint32_t i) {
        return arguments.log ? grad(i) : grad(i) * output(i);
    }));
#pragma unroll 4
    for (std::uint32_t i = 0; i < rows.length; ++i)
        store_element(arguments.y, at[0] + i * rows.elems[0],
                      gradient(arguments.log, false, grad(i), output(i), sum));
}

}  // namespace
}  // namespace fastconv::cuda
