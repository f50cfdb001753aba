// How a Winograd convolution, forward or grad_input, is cut into tasks, and what it costs.
#pragma once

#include "core/plan.h"
#include "cpu/kernels_winograd.h"

namespace fastconv::cpu {

/// Packing one tap of a weight, in units of one multiply-add of the register tile at full rate.
constexpr double kPackTapCost = 17;

/// Of one image on one thread, in the same units: what `auto` compares with other algorithms, and
/// Winograd's variants with each other.
double winograd_cost(const ConvPlan& plan, const WinogradVariant<float>& variant);

/// Takes the fastest cut for the plan's batch and threads: blocks of tiles, parts of the columns, and who
/// transforms weights that are not packed. All give the same bits. False where none fits into a thread's scratch.
bool cut_winograd(ConvPlan& plan);

}  // namespace fastconv::cpu
