// A pipelined product of one warpgroup, d[row, col] = sum over k of a[row, k] * b[col, k], (64, cols)
// and float32 sums, in every form that csrc/cuda/ptx_sm90.cuh has, and one of them with one bug each
// of the kinds that the emulation must catch. Also compiles with nvcc (sm_90a).
//
// Steps of 64 depths through three stages: while step s is multiplied, s - 1 is finished, and the
// copies of s + 1 go where s - 2 was, which s's barrier says of all warps. Operands lie in memory as they do in shared memory: (rows,
// depth) where K-major, (depth, rows) where MN-major.
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/ptx_sm90.cuh"

namespace {

namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kMissingWait,         // uses the sums of products in flight
    kMissingCommit,       // the last step is in no group
    kMissingFence,        // no wgmma.fence
    kMissingProxyFence,   // copies that wgmma may not see
    kMissingBarrier,      // other threads' copies may not have arrived
    kWrongSwizzle,        // the chunk's place depends on two bits of the row
    kEarlyOverwrite,      // copies go to the stage that is being multiplied
    kTouchedRegisters,    // writes sums of products in flight
    kDifferentOperands,   // one warp has another descriptor
};

constexpr int kStep = 64, kStages = 3, kThreads = 128;

template <bool kBFloat16, bool kMnA, bool kMnB, int kCols>
__device__ void multiply(float (&d)[kCols / 2], std::uint64_t a, std::uint64_t b, bool add) {
    if constexpr (kCols == 64 && kBFloat16) ptx::wgmma_64x64x16_bf16<kMnA, kMnB>(d, a, b, add);
    if constexpr (kCols == 64 && !kBFloat16) ptx::wgmma_64x64x16_f16<kMnA, kMnB>(d, a, b, add);
    if constexpr (kCols == 128 && kBFloat16) ptx::wgmma_64x128x16_bf16<kMnA, kMnB>(d, a, b, add);
    if constexpr (kCols == 128 && !kBFloat16) ptx::wgmma_64x128x16_f16<kMnA, kMnB>(d, a, b, add);
    if constexpr (kCols == 256 && kBFloat16) ptx::wgmma_64x256x16_bf16<kMnA, kMnB>(d, a, b, add);
    if constexpr (kCols == 256 && !kBFloat16) ptx::wgmma_64x256x16_f16<kMnA, kMnB>(d, a, b, add);
}

/// An operand of kRows rows: its copies and its descriptors.
template <bool kMnMajor, int kRows, Bug kBug>
struct Operand {
    static constexpr int kBytes = kRows * kStep * 2;
    static __device__ void copy(unsigned char* tile, const std::uint16_t* from, int depth,
                                int step) {
        for (int at = threadIdx.x; at < kBytes / 16; at += kThreads) {
            const int chunk = at % 8, line = at / 8;  // lines of 128 bytes
            const int swizzled = chunk ^ (line & (kBug == Bug::kWrongSwizzle ? 3 : 7));
            const int row = kMnMajor ? line / kStep * 64 + chunk * 8 : line;
            const int k = step * kStep + (kMnMajor ? line % kStep : chunk * 8);
            const std::int64_t elem = kMnMajor ? std::int64_t{k} * kRows + row
                                               : std::int64_t{row} * depth + k;
            ptx::cp_async_16(tile + line * 128 + swizzled * 16, from + elem, true);
        }
    }
    static __device__ std::uint64_t descriptor(const unsigned char* tile, int part) {
        return kMnMajor ? ptx::matrix_descriptor(tile + part * 2048, kStep * 128, 1024)
                        : ptx::matrix_descriptor(tile + part * 32, 0, 1024);
    }
};

template <bool kBFloat16, bool kMnA, bool kMnB, int kCols, Bug kBug>
__global__ void __launch_bounds__(kThreads)
    product(const std::uint16_t* a, const std::uint16_t* b, float* c, int depth) {
    using A = Operand<kMnA, 64, kBug>;
    using B = Operand<kMnB, kCols, kBug>;
    constexpr int kStageBytes = A::kBytes + B::kBytes;
    unsigned char* const ring = ptx::shared_memory();
    const int steps = depth / kStep;
    const auto load = [&](int step) {
        const int into = kBug == Bug::kEarlyOverwrite && step > 1 ? step - 1 : step;
        unsigned char* stage = ring + into % kStages * kStageBytes;
        if (step < steps) {
            A::copy(stage, a, depth, step);
            B::copy(stage + A::kBytes, b, depth, step);
        }
        ptx::cp_async_commit();
    };

    float d[kCols / 2];
    load(0);
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait<0>();
        if (kBug != Bug::kMissingProxyFence) ptx::fence_proxy_async();
        if (kBug != Bug::kMissingBarrier) __syncthreads();
        const unsigned char* stage = ring + step % kStages * kStageBytes;
        if (kBug != Bug::kMissingFence) ptx::wgmma_fence();
        for (int part = 0; part < kStep / 16; ++part) {
            const int other = kBug == Bug::kDifferentOperands && threadIdx.x < 32 ? part ^ 1 : part;
            multiply<kBFloat16, kMnA, kMnB, kCols>(d, A::descriptor(stage, other),
                                                   B::descriptor(stage + A::kBytes, part),
                                                   step + part > 0);
        }
        if (kBug != Bug::kMissingCommit || step + 1 < steps) ptx::wgmma_commit();
        if (kBug == Bug::kTouchedRegisters) d[3] = 0.0f;
        load(step + 1);
        ptx::wgmma_wait<1>();
    }
    if (kBug != Bug::kMissingWait) ptx::wgmma_wait<0>();

    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (int i = 0; i < kCols / 2; ++i)
        c[(row + i / 2 % 2 * 8) * kCols + i / 4 * 8 + col + i % 2] = d[i];
}

using Kernel = void (*)(const std::uint16_t*, const std::uint16_t*, float*, int);

template <bool kBFloat16, int kCols>
Kernel kernel_of(bool mn_a, bool mn_b) {
    if (mn_a) {
        return mn_b ? product<kBFloat16, true, true, kCols, Bug::kNone>
                    : product<kBFloat16, true, false, kCols, Bug::kNone>;
    }
    return mn_b ? product<kBFloat16, false, true, kCols, Bug::kNone>
                : product<kBFloat16, false, false, kCols, Bug::kNone>;
}

template <Bug kBug>
constexpr Kernel kBuggy = product<true, false, false, 128, kBug>;
constexpr Kernel kBugs[] = {
    kBuggy<Bug::kNone>,           kBuggy<Bug::kMissingWait>,       kBuggy<Bug::kMissingCommit>,
    kBuggy<Bug::kMissingFence>,   kBuggy<Bug::kMissingProxyFence>, kBuggy<Bug::kMissingBarrier>,
    kBuggy<Bug::kWrongSwizzle>,   kBuggy<Bug::kEarlyOverwrite>,    kBuggy<Bug::kTouchedRegisters>,
    kBuggy<Bug::kDifferentOperands>};

}  // namespace

/// Host arrays: a (64, depth), b (cols, depth), or transposed where MN-major, 16-bit elements; c
/// (64, cols). Returns the error's text, empty if there was none. A bug that is not 0 wants bfloat16,
/// K-major operands and 128 columns.
extern "C" __attribute__((visibility("default"))) const char* warpgroup_multiply(
    int bug, bool bfloat16, bool mn_a, bool mn_b, const std::uint16_t* a, const std::uint16_t* b,
    float* c, int cols, int depth) {
    static thread_local std::string text;
    Kernel kernel = kBugs[bug];
    if (bug == 0) {
        if (cols == 64)
            kernel = bfloat16 ? kernel_of<true, 64>(mn_a, mn_b) : kernel_of<false, 64>(mn_a, mn_b);
        else if (cols == 128)
            kernel =
                bfloat16 ? kernel_of<true, 128>(mn_a, mn_b) : kernel_of<false, 128>(mn_a, mn_b);
        else
            kernel =
                bfloat16 ? kernel_of<true, 256>(mn_a, mn_b) : kernel_of<false, 256>(mn_a, mn_b);
    }
    const std::size_t a_bytes = std::size_t{2} * 64 * depth, b_bytes = std::size_t{2} * cols * depth;
    const std::size_t c_bytes = std::size_t{4} * 64 * cols;
    void *device_a = nullptr, *device_b = nullptr, *device_c = nullptr;
    cudaMalloc(&device_a, a_bytes);
    cudaMalloc(&device_b, b_bytes);
    cudaMalloc(&device_c, c_bytes);
    cudaMemcpy(device_a, a, a_bytes, cudaMemcpyHostToDevice);
    cudaMemcpy(device_b, b, b_bytes, cudaMemcpyHostToDevice);
    const int shared_bytes = kStages * (64 + cols) * kStep * 2;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    cudaLaunchKernelEx(&config, kernel, static_cast<const std::uint16_t*>(device_a),
                       static_cast<const std::uint16_t*>(device_b), static_cast<float*>(device_c),
                       depth);
    cudaMemcpy(c, device_c, c_bytes, cudaMemcpyDeviceToHost);
    const cudaError_t error = cudaGetLastError();
    text = error == cudaSuccess ? "" : cudaGetErrorString(error);
    cudaFree(device_a);
    cudaFree(device_b);
    cudaFree(device_c);
    return text.c_str();
}
