// The numbers of a convolution as Python passes them, checked, as a problem; for every device.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <stdexcept>

#include "core/plan.h"
#include "core/problem.h"

namespace fastconv {

namespace py = pybind11;

/// stride, dilation: (height, width); padding: (top, bottom, left, right).
struct Geometry {
    std::int64_t stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h,
        dilation_w, groups;
};

inline Geometry geometry_of(const py::tuple& numbers) {
    if (numbers.size() != 9) throw std::invalid_argument("_core: nine numbers of geometry expected");
    std::int64_t n[9];
    for (std::size_t i = 0; i < 9; ++i) n[i] = numbers[i].cast<std::int64_t>();
    return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]};
}

/// `pooled`: the output is the maxima of 2x2 positions.
template <class Size>
Conv problem_of(const Size* input, const Size* weight, const Size* output, const Geometry& g,
                DType dtype, bool pooled = false) {
    Conv conv;
    conv.batch = input[0];
    conv.in_channels = input[1];
    conv.out_channels = weight[0];
    conv.groups = g.groups;
    conv.height = {input[2], weight[2], g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom, 0};
    conv.width = {input[3], weight[3], g.stride_w, g.dilation_w, g.pad_left, g.pad_right, 0};
    conv.height.out = output_size(conv.height);
    conv.width.out = output_size(conv.width);
    conv.dtype = dtype;
    const std::int64_t step = pooled ? 2 : 1;
    const bool fits = output[0] == input[0] && output[1] == weight[0] && g.groups > 0 &&
                      input[1] == weight[1] * g.groups && weight[0] % g.groups == 0 &&
                      output[2] == conv.height.out / step && output[3] == conv.width.out / step;
    if (!fits) throw std::invalid_argument("_core: shapes do not belong together");
    return conv;
}

/// -1: auto.
inline std::optional<Algorithm> algorithm_of(int index) {
    if (index < 0) return std::nullopt;
    if (index >= kAlgorithms) throw std::invalid_argument("_core: unknown algorithm");
    return static_cast<Algorithm>(index);
}

inline Direction direction_of(int index) { return static_cast<Direction>(index); }

}  // namespace fastconv
