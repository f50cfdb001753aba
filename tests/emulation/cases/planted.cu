// A small pipelined matrix product that is right, and the same with one bug each of the kinds that
// the emulation must catch: c[row, col] = sum over k of a[row, k] * b[col, k], bfloat16, float32
// sums.
//
// One warp for 16 rows and 8 columns of c, four warps a block for 64 rows; steps of 16 along the
// depth through two stages of shared memory, rows padded to 24 elements (48 bytes) against bank
// conflicts. rows may be any number, cols a multiple of 8, depth a multiple of 16.
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "cuda/ptx.cuh"

namespace {

namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kMissingBarrier,  // between the wait for a stage and its use by other threads
    kMissingReuse,    // no barrier between the use of a stage and the next copies into it
    kMissingWait,     // leaves the stage it is about to use in flight
    kTileEdge,        // takes one row too many for valid
    kPadding,         // reads a row's padding
    kWrongFragment,   // the second and third register of a swapped
};

constexpr int kThreads = 128, kBlockRows = 64, kCols = 8, kStep = 16, kPitch = 24;
constexpr int kStageElems = (kBlockRows + kCols) * kPitch;
constexpr std::size_t kSharedBytes = 2 * kStageElems * sizeof(std::uint16_t);

template <Bug kBug>
__global__ void __launch_bounds__(kThreads) multiply(const std::uint16_t* a, const std::uint16_t* b,
                                                     float* c, int rows, int cols, int depth) {
    auto* shared = reinterpret_cast<std::uint16_t*>(ptx::shared_memory());
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int first_row = static_cast<int>(blockIdx.x) * kBlockRows;
    const int first_col = static_cast<int>(blockIdx.y) * kCols;

    // (72, 16) elements a stage: 144 pieces of 16 bytes
    const auto load = [&](int step) {
        std::uint16_t* stage = shared + step % 2 * kStageElems;
        for (int piece = thread; piece < (kBlockRows + kCols) * 2; piece += kThreads) {
            const int row = piece / 2, k = step * kStep + piece % 2 * 8;
            const int a_row = first_row + row;
            const bool valid = row >= kBlockRows || a_row < rows + (kBug == Bug::kTileEdge);
            const std::uint16_t* from =
                row < kBlockRows
                    ? a + static_cast<std::int64_t>(a_row) * depth + k
                    : b + static_cast<std::int64_t>(first_col + row - kBlockRows) * depth + k;
            ptx::cp_async_16(stage + row * kPitch + piece % 2 * 8, from, valid);
        }
        ptx::cp_async_commit();
    };

    float d[4] = {};
    const int steps = depth / kStep;
    load(0);
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load(step + 1);
        if (step + 1 < steps || kBug == Bug::kMissingWait) {
            ptx::cp_async_wait<kBug == Bug::kMissingWait ? 2 : 1>();
        } else {
            ptx::cp_async_wait<0>();
        }
        if (kBug != Bug::kMissingBarrier) __syncthreads();
        const std::uint16_t* stage = shared + step % 2 * kStageElems;
        std::uint32_t fragment[4], unused[4];
        // Matrices: rows 0..7 and 8..15 of elements 0..7, then of 8..15.
        const int a_col = lane / 16 * 8 + (kBug == Bug::kPadding ? 8 : 0);
        ptx::ldmatrix_x4(fragment, stage + (warp * 16 + lane % 16) * kPitch + a_col);
        ptx::ldmatrix_x4(unused, stage + (kBlockRows + lane % 8) * kPitch + lane / 8 % 2 * 8);
        if (kBug == Bug::kWrongFragment) {
            const std::uint32_t second = fragment[1];
            fragment[1] = fragment[2];
            fragment[2] = second;
        }
        ptx::mma_16x8x16_bf16(d, fragment, unused[0], unused[1]);
        if (kBug != Bug::kMissingReuse) __syncthreads();
    }

    const int row = first_row + warp * 16 + lane / 4, col = first_col + lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
        if (row + i / 2 * 8 >= rows) continue;
        c[static_cast<std::int64_t>(row + i / 2 * 8) * cols + col + i % 2] = d[i];
    }
}

using Kernel = void (*)(const std::uint16_t*, const std::uint16_t*, float*, int, int, int);
constexpr Kernel kKernels[] = {multiply<Bug::kNone>,         multiply<Bug::kMissingBarrier>,
                               multiply<Bug::kMissingReuse>, multiply<Bug::kMissingWait>,
                               multiply<Bug::kTileEdge>,     multiply<Bug::kPadding>,
                               multiply<Bug::kWrongFragment>};

}  // namespace

/// Host arrays. Returns the error's text, empty if there was none.
extern "C" __attribute__((visibility("default"))) const char* multiply_with_bug(
    int bug, const std::uint16_t* a, const std::uint16_t* b, float* c, int rows, int cols,
    int depth) {
    static thread_local std::string text;
    const std::size_t a_bytes = std::size_t{2} * rows * depth,
                      b_bytes = std::size_t{2} * cols * depth;
    const std::size_t c_bytes = std::size_t{4} * rows * cols;
    void *device_a = nullptr, *device_b = nullptr, *device_c = nullptr;
    cudaMalloc(&device_b, b_bytes);
    cudaMalloc(&device_c, c_bytes);
    cudaMalloc(&device_a, a_bytes);
    cudaMemcpy(device_a, a, a_bytes, cudaMemcpyHostToDevice);
    cudaMemcpy(device_b, b, b_bytes, cudaMemcpyHostToDevice);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3((rows + kBlockRows - 1) / kBlockRows, cols / kCols);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kSharedBytes;
    const cudaError_t error =
        cudaLaunchKernelEx(&config, kKernels[bug], static_cast<const std::uint16_t*>(device_a),
                           static_cast<const std::uint16_t*>(device_b),
                           static_cast<float*>(device_c), rows, cols, depth);
    text = error == cudaSuccess ? "" : cudaGetErrorString(error);
    cudaMemcpy(c, device_c, c_bytes, cudaMemcpyDeviceToHost);
    cudaFree(device_a);
    cudaFree(device_b);
    cudaFree(device_c);
    return text.c_str();
}
