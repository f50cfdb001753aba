// How a convolution will be computed on a CUDA device, and what of the device the choice depends on.
// Host-only: plans are made and tested without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/plan.h"
#include "core/problem.h"

namespace fastconv::cuda {

struct DeviceInfo {
    int index = 0;
    std::string name;
    int capability = 0;  // 75, 80, 90, ...
    int multiprocessors = 0;
    std::size_t shared_bytes = 0;  // a block may ask for
    std::size_t l2_bytes = 0;
    std::size_t memory_bytes = 0;
};

struct MemoryStats {
    std::size_t used = 0, used_peak = 0;          // in live allocations
    std::size_t reserved = 0, reserved_peak = 0;  // taken from the system
};

/// fc.set_float32_precision: what float32 operands may be multiplied as.
enum class Precision : std::uint8_t { kHighest, kHigh, kTf32 };

struct CudaConvPlan {
    Conv problem;
    Direction direction = Direction::kForward;
    ConvStrides strides;
    Precision precision = Precision::kHighest;
    Algorithm algorithm = Algorithm::kDirect;
    std::string kernel;  // a name of conv_kernels(direction): target and tile, e.g. sm80_128x128
    bool vector = false;  // operands are read 16 bytes at a time
    std::int64_t tiles = 0;   // blocks of one launch, splits not counted
    int splits = 1;  // of the sum's depth; partial sums are added in order
    std::vector<Correlation> phases;  // forward: one; grad_input: one a phase; grad_weight: one
    std::size_t packed_bytes = 0;     // the weights as the kernel reads them; 0: read in place
    std::size_t workspace_bytes = 0;  // packed weights and partial sums
    std::vector<std::pair<std::string, std::string>> rejected;  // algorithm or kernel, and why not
};

}  // namespace fastconv::cuda
