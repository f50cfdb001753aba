// Where pooling's windows stand, computed by each thread; the formulas are those of
// cpu/pool2d_windows.cpp.
//
//   regular    window p begins at p * stride - pad_lo, its taps `dilation` apart, clipped to the input
//   adaptive   window p is [floor(p in / out), ceil((p + 1) in / out))
//   holders    of element h: the windows that span it; for dilated ones some that only seem to hold it
//
// Limits: an axis with its padding has fewer than 2^31 elements.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "core/pool_plan.h"
#include "cuda/walk.cuh"

namespace fastconv::cuda {

/// Taps of a window that lie in the input, or windows that hold an element: first, count, and the
/// window's part of the average's divisor.
struct Span {
    int first, count, divisor;
};

struct PoolAxis {
    int in = 1, out = 1;
    int kernel = 1, stride = 1, dilation = 1, pad_lo = 0;
    int extent = 1;      // from a window's first tap to its last, which it includes
    int counted = 1;     // where counted padding ends
    bool adaptive = false;
    bool wide = false;   // in * out does not fit 31 bits
    bool count_padding = true;
    Divider by_stride, by_dilation, by_in, by_out;

    PoolAxis() = default;
    PoolAxis(const Axis& axis, bool adaptive_, bool count_padding_)
        : in(static_cast<int>(axis.in)), out(static_cast<int>(axis.out)), adaptive(adaptive_),
          wide(axis.in * axis.out >= kLimit), count_padding(count_padding_) {
        if (axis.in >= kLimit || axis.out >= kLimit ||
            (!adaptive && axis.in + axis.pad_lo + axis.pad_hi >= kLimit))
            throw std::invalid_argument(
                "cuda: pooling needs fewer than 2**31 elements along an axis with its padding");
        by_in = Divider(std::max<std::int64_t>(1, axis.in));
        by_out = Divider(std::max<std::int64_t>(1, axis.out));
        if (adaptive) return;
        // No tap or window beyond the padded input is ever looked at: sizes are cut to it.
        const std::int64_t padded = axis.in + axis.pad_lo + axis.pad_hi;
        pad_lo = static_cast<int>(axis.pad_lo);
        counted = static_cast<int>(axis.in + axis.pad_hi);
        extent = static_cast<int>(axis.kernel > padded ? padded : std::min(padded, axis.extent()));
        stride = static_cast<int>(std::min(axis.stride, padded));
        dilation = static_cast<int>(std::min(axis.dilation, padded));
        kernel = static_cast<int>(std::min(axis.kernel, padded / dilation + 1));
        by_stride = Divider(stride);
        by_dilation = Divider(dilation);
    }

    __device__ int start(int p) const { return p * stride - pad_lo; }

    __device__ Span window(int p) const {
        if (adaptive) {
            const int begin = scaled_down(p, in, by_out, out);
            const int end = scaled_up(p + 1, in, by_out, out);
            return {begin, end - begin, end - begin};
        }
        const int begin = start(p);
        const int before = begin < 0 ? over(-begin, by_dilation) : 0;
        const int within = begin < in ? over(in - begin, by_dilation) : 0;
        Span span;
        span.first = begin + before * dilation;
        span.count = std::max(0, std::min(kernel, within) - before);
        // Without dilation kernel is the extent, perhaps cut to the padded input.
        span.divisor = std::max(1, count_padding ? std::min(kernel, counted - begin) : span.count);
        return span;
    }

    /// Windows that hold one of the elements first .. last (without divisor).
    __device__ Span holders(int first, int last) const {
        int lo, hi;
        last = std::min(last, in - 1);
        if (adaptive) {
            lo = scaled_down(first, out, by_in, in);
            hi = scaled_up(last + 1, out, by_in, in) - 1;
        } else {
            const int reach = first + pad_lo - extent + 1;
            lo = reach > 0 ? over(reach, by_stride) : 0;
            hi = std::min(out - 1, static_cast<int>(by_stride.quotient(last + pad_lo)));
        }
        return {lo, hi - lo + 1, 1};
    }

private:
    static constexpr std::int64_t kLimit = std::int64_t{1} << 31;

    /// ceil(a / b), a >= 0
    __device__ static int over(int a, const Divider& by) {
        std::uint32_t rest = static_cast<std::uint32_t>(a);
        const std::uint32_t whole = by.split(rest);
        return static_cast<int>(whole + (rest != 0));
    }
    /// floor(i * times / by) and ceil
    __device__ int scaled_down(int i, int times, const Divider& by, int divisor) const {
        if (wide) return static_cast<int>(std::int64_t{i} * times / divisor);
        return static_cast<int>(by.quotient(static_cast<std::uint32_t>(i * times)));
    }
    __device__ int scaled_up(int i, int times, const Divider& by, int divisor) const {
        if (wide) return static_cast<int>((std::int64_t{i} * times + divisor - 1) / divisor);
        return over(i * times, by);
    }
};

}  // namespace fastconv::cuda
