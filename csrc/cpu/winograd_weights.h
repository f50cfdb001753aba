// Winograd's transformed weights U: their layout, and the transform (cpu/conv2d_winograd.cpp).
#pragma once

#include "core/plan.h"
#include "cpu/correlation.h"
#include "cpu/kernels_winograd.h"
#include "cpu/panels.h"
#include "cpu/winograd_choice.h"

namespace fastconv::cpu {

/// Channels whose products one accumulator sums before the sum is added to those before. Of 512 in one the
/// relative error is 1.7e-6, of 128 0.9e-6, of 64 0.7e-6, but the products take 1.04 times as long.
constexpr std::int64_t kWinogradBlock = 128;

/// Channels for which a task makes U at a time: 36 x 64 x 64 floats are 590 KB and stay in L2. The sums of
/// a block go on from one to the next, so the bits are the same whichever way U comes.
constexpr std::int64_t kWinogradChunk = 64;

/// How U of all weights lies: (group, subkernel, panel, point, c, k in panel), the order in which a task reads it.
class TransformedWeights {
public:
    explicit TransformedWeights(const ConvPlan& plan);
    std::int64_t elems() const { return groups_ * subkernels_ * subkernel_elems_; }
    std::int64_t first(std::int64_t group, std::int64_t subkernel, std::int64_t panel) const;  // element

private:
    std::int64_t groups_, subkernels_, panel_elems_, subkernel_elems_;
};

/// The weights' transform: points[point][c][k] of some channels and columns, whose taps go through
/// `scratch`, a few channels at a time.
class WinogradWeights {
public:
    WinogradWeights(const ConvPlan& plan, const WeightView<float>& weight);
    std::int64_t scratch_elems() const;
    /// Whether full panels of whole subkernels are not packed: columns follow each other, as in grad_input of
    /// channels-last weights, and one stride leads from each tap to the next.
    bool in_place() const;
    /// Of `piece` all but `to` and the taps count.
    void transform(PanelPiece<float> piece, std::int64_t subkernel, float* points, std::int64_t point_elems,
                   float* scratch) const;

private:
    void transform_lines(const PanelPiece<float>& piece, WinogradWeight<float>& line, const float* taps,
                         std::int64_t channel_elems, float* points) const;

    bool several() const { return plan_.winograd.subkernels() > 1; }
    void fold_taps(const Subkernel& taps, const PanelPiece<float>& piece) const;
    void complete_taps(const Subkernel& taps, const PanelPiece<float>& piece) const;

    const ConvPlan& plan_;
    const Correlation& phase_;
    const Kernels<float>& kernels_;
    const WinogradVariant<float>& variant_;
    WeightView<float> weight_;
};

/// U of all weights, laid out as TransformedWeights has it.
void transform_weights(const ConvPlan& plan, const void* weight, float* transformed);
std::int64_t transform_tasks(const ConvPlan& plan);  // that it hands out

}  // namespace fastconv::cpu
