// How a convolution's operands lie for an implicit-GEMM kernel: whether channels can be read 16 bytes
// at a time, and whether a weight can be read where it is. Host-only.
#pragma once

#include "cuda/conv_kernels.h"

namespace fastconv::cuda {

/// Whether an operand's channels are unit stride and everything else of it, strides, group offsets and
/// the number of channels, is a multiple of `vec` elements.
bool source_reads_vectors(const Correlation& phase, std::int64_t vec);
bool out_reads_vectors(const Correlation& phase, std::int64_t vec);

/// The phase's view of the plan's weight: in place where the memory already has the layout and is
/// aligned, else as it will be packed.
CudaWeight weight_for(const CudaConvPlan& plan, const Correlation& phase, WeightLayout layout,
                      std::int64_t vec, bool aligned);

}  // namespace fastconv::cuda
