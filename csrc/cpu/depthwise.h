// What the directions of depthwise convolution share (cpu/conv2d_depthwise.cpp).
#pragma once

#include <algorithm>

#include "core/plan.h"
#include "cpu/conv2d.h"
#include "cpu/kernels.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_depthwise.h"

namespace fastconv::cpu {

/// Filters a channel.
inline std::int64_t multiplier(const Conv& conv) { return conv.out_channels / conv.in_channels; }

/// Columns [begin, end) of an output row whose taps all lie inside the source.
struct ColumnRange {
    std::int64_t begin = 0, end = 0;
};
ColumnRange inner_columns(const Correlation& phase);

/// Source lines (or columns) that `outputs` outputs in a row see.
inline std::int64_t sources(std::int64_t outputs, const AxisTaps& taps) {
    if (taps.count == 0) return 0;
    return (outputs - 1) * taps.step + 1 + (taps.count - 1) * taps.offset_step;
}

/// What vectors run over: the outputs' channels, forward K and backward C; for the weight, K.
inline std::int64_t vector_channels(const ConvPlan& plan) {
    return plan.direction == Direction::kGradInput ? plan.problem.in_channels
                                                   : plan.problem.out_channels;
}

/// A rectangle of an image copied channels last, zeros outside of the image:
///   to[line][column][v] = image(y + line, x + column, source channel of v)
/// Vector channel v (v_begin <= v < v_begin + channels) reads source channel v / repeat, for filters
/// that share a channel, or v * every + term, for the terms of a sum over filters.
template <class T>
struct StripCopy {
    const T* image = nullptr;  // of the first source channel
    const Strides* strides = nullptr;
    std::int64_t height = 0, width = 0;  // of the image
    std::int64_t y = 0, x = 0, lines = 0, columns = 0;
    std::int64_t v_begin = 0, channels = 0;
    std::int64_t repeat = 1, every = 1, term = 0;
};
template <class T>
void copy_strip(const CopyKernels<T>& kernels, const StripCopy<T>& strip, T* to);

/// Packed weights of one phase: (vector of channels, tap, lane), taps in the phase's order and, for
/// grad_input, the filters of a channel before them.
std::int64_t depthwise_packed_elems(const ConvPlan& plan, const Correlation& phase, int lanes);

/// Says in `phase` how the plan cuts it, for those who read plans; the loop nests read the plan.
void describe_depthwise(const ConvPlan& plan, Correlation& phase);

/// forward and grad_input; `packed` holds the phases' weights.
template <class T>
void run_depthwise(const ConvPlan& plan, const ConvPointers& pointers, const T* packed);

/// Scratch of one task, in bytes; the blocking is the plan's.
template <class T>
std::size_t depthwise_scratch_bytes(const ConvPlan& plan);

const char* plan_depthwise_grad_weight(ConvPlan& plan);
template <class T>
void run_depthwise_grad_weight(const ConvPlan& plan, const ConvPointers& pointers, T* workspace);

}  // namespace fastconv::cpu
