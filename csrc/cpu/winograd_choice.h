// Which of Winograd's variants a problem may have, and which of them `auto` takes.
#pragma once

#include "core/plan.h"
#include "cpu/kernels_winograd.h"

namespace fastconv::cpu {

const WinogradVariant<float>& winograd_variant(const ConvPlan& plan);

/// A part of a kernel that a variant's r x r taps do not hold: its first tap, and its taps, fewer at the end, the
/// stride apart. The kernel is the sum of such convolutions, each of the source moved by the first tap; with a
/// stride each is of every stride-th of the source's pixels, where its taps are neighbours. Folded, a subkernel has
/// the taps of all phases, as many as phase 0 has.
struct Subkernel {
    std::int64_t row, col, height, width;
};
Subkernel subkernel(const ConvPlan& plan, std::int64_t index);

/// The checks that every direction shares; then sets variant, m, subkernels, channels, tiles and last of plan.winograd,
/// over the taps and the output of plan.phases[0].
const char* choose_winograd(ConvPlan& plan, int m);

/// Along an axis, the points of a tile with so many outputs when the subkernel has so many taps. With fewer than r the
/// weight's point infinity, its last tap, is 0, and that product left out.
int points_of(const WinogradVariant<float>& variant, std::int64_t taps, int outputs);

/// Whether a whole tile multiplies at `point` for a subkernel.
bool has_point(const WinogradVariant<float>& variant, const Subkernel& taps, std::int64_t point);

/// Of an image's tiles, the last ones trimmed (forward, grad_input) or not (grad_weight): the points that are
/// multiplied, a product each for every channel and column, summed over the subkernels; and the points of one.
struct WinogradWork {
    std::int64_t products = 0, points = 0;
};
WinogradWork work_of_image(const ConvPlan& plan, const WinogradVariant<float>& variant, bool trimmed);

/// What the variant costs for one image on one thread, in multiply-adds of the register tile.
using WinogradCost = double (*)(const ConvPlan& plan, const WinogradVariant<float>& variant);

/// Whether the float32 precision of the plan allows its variant.
bool winograd_allowed(const ConvPlan& plan);

/// Why `auto` passes the plan by: `direct`, the cost of the direct algorithm, is not well above this
/// one's, or another variant costs less. The shape of one image decides, never the batch or the
/// threads, so that neither changes bits.
const char* decline_winograd(const ConvPlan& plan, double direct, WinogradCost cost);

}  // namespace fastconv::cpu
