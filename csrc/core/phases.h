// A convolution's directions as dense correlations: what the implicit GEMM and Winograd compute.
#pragma once

#include <vector>

#include "core/plan.h"

namespace fastconv {

/// Forward: one correlation over the input.
Correlation forward_phase(const Conv& conv, const ConvStrides& strides);

/// grad_input's positions h = a + stride * i, w = b + stride * j: a unit-stride correlation over
/// grad_output. A phase that no tap reaches has no taps: its gradient is zero.
Correlation grad_input_phase(const Conv& conv, const ConvStrides& strides, std::int64_t a,
                             std::int64_t b);

/// All of a direction's correlations: forward's one, or grad_input's stride_h * stride_w.
std::vector<Correlation> dense_phases(const Conv& conv, Direction direction,
                                      const ConvStrides& strides);

/// Whether the output is one position, all of whose taps lie inside the input: a fully connected layer
/// written as a convolution, which the batch makes a matrix product.
bool is_one_window(const Conv& conv);

/// dense_phases of such a problem. Forward, images become positions of one row where their strides
/// allow it; grad_input is as if the stride were the input's size, one tap a phase.
std::vector<Correlation> one_window_phases(const Conv& conv, Direction direction,
                                           const ConvStrides& strides);

/// The images of a view with one position each, all taps inside, become positions of one row.
void line_up_images(Correlation& view);

/// Groups follow each other by the operands' own strides; then, a dimension of 1 has no stride: it
/// gets the one that lets it be read in place.
void settle(Correlation& phase);

/// A 1x1 view without padding: strides go into the views, and images, rows and columns that lie
/// evenly spaced become one long row of positions.
void flatten_pointwise(Correlation& view);

}  // namespace fastconv
