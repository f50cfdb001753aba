// How a convolution's operands lie for an implicit-GEMM kernel: whether channels can be read 16 bytes
// at a time, and whether a weight can be read where it is. Host-only.
#pragma once

#include <vector>

#include "cuda/conv_kernels.h"

namespace fastconv::cuda {

/// Whether an operand's channels are unit stride and everything else of it, strides, group offsets and
/// the number of channels, is a multiple of `vec` elements.
bool source_reads_vectors(const Correlation& phase, std::int64_t vec);
bool out_reads_vectors(const Correlation& phase, std::int64_t vec);

/// Why a kernel that reads through tensor maps (CorrelationKernel::mapped) cannot compute the phase
/// whose source reads vectors, or null.
const char* why_not_mapped(const Correlation& phase, std::int64_t vec, bool grad_weight);

/// The lines of 128 bytes of a patch that the phases' taps need for a tile of 8x8 pixels
/// (correlation_patch.cuh).
struct PatchLines {
    std::int64_t width = 0, height = 0;
    std::int64_t bytes() const { return (width * height * 128 + 1023) / 1024 * 1024; }
};
PatchLines patch_lines(const std::vector<Correlation>& phases);

/// Shared memory for two steps' patches, and for the weights of so many taps at least.
constexpr std::int64_t kPatchRingBytes = 190 * 1024, kLeastWeightStages = 4;

/// Why a kernel whose blocks have that many patches and columns cannot compute the phases, or null.
const char* why_not_patched(const std::vector<Correlation>& phases, std::int64_t patches,
                            std::int64_t cols);

/// The same of grad_weight (grad_weight_patch.cuh).
const char* why_not_weight_patched(const Correlation& view);

/// The phase's view of the plan's weight: in place where the memory already has the layout and is
/// aligned, else as it will be packed.
CudaWeight weight_for(const CudaConvPlan& plan, const Correlation& phase, WeightLayout layout,
                      std::int64_t vec);

}  // namespace fastconv::cuda
