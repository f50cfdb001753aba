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

/// What elements are multiplied as, always with float32 sums.
enum class Arithmetic : std::uint8_t { kFloat32, kTf32, kFloat16, kBFloat16, k3xTf32 };
constexpr const char* kArithmeticNames[] = {"float32", "tf32", "float16", "bfloat16", "3xtf32"};

/// Where the weights of one correlation lie in the convolution's weight, and where it reads them:
/// element (group, col, a, b, c) is first + group * group + col * col + a * tap_h + b * tap_w + c *
/// channel, each in elements.
struct CudaWeight {
    std::int64_t first_elems = 0, group_elems = 0, col_elems = 0, channel_elems = 0;
    std::int64_t tap_h_elems = 0, tap_w_elems = 0;
    bool in_place = false;           // lies as the kernel wants it; else it is packed
    std::int64_t packed_offset = 0;  // bytes into the workspace
    std::int64_t pitch = 0, packed_group_elems = 0;  // as the kernel reads it
};

/// Which addresses are multiples of 16 bytes.
struct Aligned {
    bool read = true;     // those of the two operands that a direction reads
    bool written = true;  // the result's, and a residual's, which lies as it does
};

struct CudaConvPlan {
    Conv problem;
    Direction direction = Direction::kForward;
    ConvStrides strides;
    Precision precision = Precision::kHighest;
    Aligned aligned;
    Algorithm algorithm = Algorithm::kDirect;
    std::string kernel;   // of conv_kernels(direction): target and tile, e.g. sm80_128x128
    const void* row = nullptr;  // of the kernel table, for run
    Arithmetic arithmetic = Arithmetic::kFloat32;
    bool vector = false;  // operands are read 16 bytes at a time
    std::int64_t tiles = 0;  // of all phases' results
    int splits = 1;          // of the sum: partial sums are added in order
    int per_split = 0;       // terms of each but the last
    int cluster = 1;         // blocks that share a tile's sum and add it up among themselves
    bool stores = false;     // grad_weight: the kernel stores the weight itself
    double cycles = 0;       // what the cost model expects
    std::vector<Correlation> phases;  // forward, grad_weight: one; grad_input: one a phase
    std::vector<CudaWeight> weights;  // of each phase; none for grad_weight
    std::int64_t packed_bytes = 0;     // of the workspace: packed weights, then partial sums
    std::int64_t workspace_bytes = 0;
    std::vector<std::pair<std::string, std::string>> rejected;  // algorithm or kernel, and why not
};

}  // namespace fastconv::cuda
