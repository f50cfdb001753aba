// The taps and views of a convolution's dense correlations (core/phases.h).
//
//   forward     source h = p * stride + r * dilation - pad
//   grad_input  position h = a + stride * i meets the taps r with (h + pad - r * dilation) % stride == 0
//               at source p = (h + pad - r * dilation) / stride = i + (a + pad - r * dilation) / stride
#include "core/phases.h"

#include <algorithm>
#include <numeric>

namespace fastconv {
namespace {

AxisTaps forward_taps(const Axis& axis) {
    return {axis.kernel, axis.stride, -axis.pad_lo, axis.dilation, 0, 1};
}

// Taps of phase a, by rising source position, that is by falling kernel index.
AxisTaps phase_taps(const Axis& axis, std::int64_t a) {
    AxisTaps taps;
    const std::int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
    const std::int64_t candidates = std::min(period, axis.kernel);
    std::int64_t first = 0;
    while (first < candidates && (a + axis.pad_lo - first * axis.dilation) % axis.stride != 0) ++first;
    if (first == candidates) return taps;
    taps.count = (axis.kernel - 1 - first) / period + 1;
    taps.kernel = first + (taps.count - 1) * period;
    taps.kernel_step = -period;
    taps.offset = (a + axis.pad_lo - taps.kernel * axis.dilation) / axis.stride;
    taps.offset_step = period * axis.dilation / axis.stride;
    return taps;
}

}  // namespace

Correlation forward_phase(const Conv& conv, const ConvStrides& strides) {
    Correlation phase;
    phase.batch = conv.batch;
    phase.groups = conv.groups;
    phase.channels = conv.group_in();
    phase.cols = conv.group_out();
    phase.source_h = conv.height.in;
    phase.source_w = conv.width.in;
    phase.out_h = conv.height.out;
    phase.out_w = conv.width.out;
    phase.taps_h = forward_taps(conv.height);
    phase.taps_w = forward_taps(conv.width);
    phase.source = strides.input;
    phase.out = strides.output;
    phase.residual = strides.has_residual ? strides.residual : phase.out;
    return phase;
}

Correlation grad_input_phase(const Conv& conv, const ConvStrides& strides, std::int64_t a,
                             std::int64_t b) {
    Correlation phase;
    phase.batch = conv.batch;
    phase.groups = conv.groups;
    phase.channels = conv.group_out();
    phase.cols = conv.group_in();
    phase.source_h = conv.height.out;
    phase.source_w = conv.width.out;
    phase.out_h = (conv.height.in - a + conv.height.stride - 1) / conv.height.stride;
    phase.out_w = (conv.width.in - b + conv.width.stride - 1) / conv.width.stride;
    phase.taps_h = phase_taps(conv.height, a);
    phase.taps_w = phase_taps(conv.width, b);
    if (phase.taps_h.count == 0 || phase.taps_w.count == 0) phase.taps_h = phase.taps_w = {};
    phase.source = strides.output;
    phase.out = strides.input;
    phase.out_first_elems = a * phase.out.height_elems + b * phase.out.width_elems;
    phase.out.height_elems *= conv.height.stride;
    phase.out.width_elems *= conv.width.stride;
    phase.residual = phase.out;  // what is added to a gradient lies as the gradient does
    phase.residual_first_elems = phase.out_first_elems;
    return phase;
}

std::vector<Correlation> dense_phases(const Conv& conv, Direction direction,
                                      const ConvStrides& strides) {
    if (direction == Direction::kForward) return {forward_phase(conv, strides)};
    const Axis &height = conv.height, &width = conv.width;
    std::vector<Correlation> phases;
    for (std::int64_t a = 0; a < std::min(height.stride, height.in); ++a)
        for (std::int64_t b = 0; b < std::min(width.stride, width.in); ++b)
            phases.push_back(grad_input_phase(conv, strides, a, b));
    return phases;
}

bool is_one_window(const Conv& conv) {
    for (const Axis* axis : {&conv.height, &conv.width})
        if (axis->out != 1 || axis->pad_lo != 0 || (axis->kernel - 1) * axis->dilation >= axis->in)
            return false;
    // A phase a pixel: planning many would take longer than it saves.
    constexpr std::int64_t kMostPixels = 256;
    return conv.height.in * conv.width.in <= kMostPixels;
}

std::vector<Correlation> one_window_phases(const Conv& conv, Direction direction,
                                           const ConvStrides& strides) {
    Conv apart = conv;
    apart.height.stride = conv.height.in;
    apart.width.stride = conv.width.in;
    std::vector<Correlation> phases = dense_phases(apart, direction, strides);
    for (Correlation& phase : phases) {
        if (direction == Direction::kForward) line_up_images(phase);
        else if (phase.taps_h.count * phase.taps_w.count == 1) flatten_pointwise(phase);
    }
    return phases;
}

void line_up_images(Correlation& view) {
    // Strips of images would hold all that lies between the taps.
    constexpr std::int64_t kGatherBelowChannels = 16;
    if (view.channels < kGatherBelowChannels || view.source.channel_elems != 1) return;
    if (view.source_w == 1) view.source.width_elems = view.source.batch_elems;
    const std::int64_t pixel = view.source.width_elems, image = view.source.batch_elems;
    if (view.batch <= 1 || pixel <= 0 || image <= 0 || image % pixel != 0) return;
    view.taps_w.step = image / pixel;
    view.source_w += (view.batch - 1) * view.taps_w.step;
    view.out_w = view.batch;
    view.out.width_elems = view.out.batch_elems;
    view.residual.width_elems = view.residual.batch_elems;
    view.batch = 1;
}

void settle(Correlation& phase) {
    phase.source_group_elems = phase.channels * phase.source.channel_elems;
    phase.out_group_elems = phase.cols * phase.out.channel_elems;
    phase.residual_group_elems = phase.cols * phase.residual.channel_elems;
    if (phase.channels == 1) phase.source.channel_elems = 1;
    if (phase.cols == 1) phase.out.channel_elems = phase.residual.channel_elems = 1;
}

namespace {

// Rows of `outer` lines become one line where every operand's lines follow each other evenly.
bool merge_lines(std::int64_t outer, std::int64_t inner, std::initializer_list<std::int64_t*> outer_elems,
                 std::initializer_list<std::int64_t*> inner_elems) {
    if (outer == 1) return true;
    if (inner == 1) {
        auto to = inner_elems.begin();
        for (std::int64_t* from : outer_elems) **to++ = *from;
        return true;
    }
    auto step = inner_elems.begin();
    for (std::int64_t* elems : outer_elems)
        if (*elems != inner * **step++) return false;
    return true;
}

}  // namespace

void flatten_pointwise(Correlation& phase) {
    phase.source.height_elems *= phase.taps_h.step;
    phase.source.width_elems *= phase.taps_w.step;
    phase.taps_h.step = phase.taps_w.step = 1;
    phase.source_h = phase.out_h;
    phase.source_w = phase.out_w;
    Strides &x = phase.source, &y = phase.out, &z = phase.residual;
    if (!merge_lines(phase.out_h, phase.out_w, {&x.height_elems, &y.height_elems, &z.height_elems},
                     {&x.width_elems, &y.width_elems, &z.width_elems}))
        return;
    phase.source_w = phase.out_w *= phase.out_h;
    phase.source_h = phase.out_h = 1;
    if (!merge_lines(phase.batch, phase.out_w, {&x.batch_elems, &y.batch_elems, &z.batch_elems},
                     {&x.width_elems, &y.width_elems, &z.width_elems}))
        return;
    phase.source_w = phase.out_w *= phase.batch;
    phase.batch = 1;
}

}  // namespace fastconv
