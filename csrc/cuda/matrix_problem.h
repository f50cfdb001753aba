// A plan's phases as what the cost model judges kernels by (cuda/selection.h). Host-only.
#pragma once

#include "cuda/selection.h"

namespace fastconv::cuda {

/// Of forward or grad_input: all phases that have taps, the one with most first.
MatrixProblem correlations_problem(const CudaConvPlan& plan);
MatrixProblem grad_weight_problem(const CudaConvPlan& plan);

}  // namespace fastconv::cuda
