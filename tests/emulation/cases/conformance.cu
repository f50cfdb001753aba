// Instructions and intrinsics by themselves, for comparison with their definitions: what the
// emulation does must be what hardware does, so that this file also compiles with nvcc.
//
// conform(name, in, in_bytes, out, out_bytes) runs one kernel over host arrays; what they hold is
// said at each kernel. Returns an error text, empty if all went well.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "cuda/ptx.cuh"
#include "cuda/tf32.cuh"

namespace {

namespace ptx = fastconv::cuda::ptx;

__device__ unsigned thread_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Fragments are laid out here once more, in the words of PTX's manual (9.7.14.5.8, 9.7.14.5.7), an
// element i of operand a at a time.
// in: a (16, 16), b (16, 8) of 16-bit elements, c (16, 8) float; out: d (16, 8) float.
template <bool kBFloat16>
__global__ void multiply_16bit(const void* in, void* out) {
    const auto* a = static_cast<const std::uint16_t*>(in);
    const auto* b = a + 16 * 16;
    const auto* c = reinterpret_cast<const float*>(b + 16 * 8);
    auto* result = static_cast<float*>(out);
    const int group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
    std::uint32_t fragment_a[4] = {}, fragment_b[2] = {};
    float d[4];
    for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
        const int col = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
        fragment_a[i / 2] |= std::uint32_t{a[row * 16 + col]} << 16 * (i % 2);
    }
    for (int i = 0; i < 4; ++i) {
        const int row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
        fragment_b[i / 2] |= std::uint32_t{b[row * 8 + group]} << 16 * (i % 2);
        d[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    }
    if (kBFloat16) {
        ptx::mma_16x8x16_bf16(d, fragment_a, fragment_b[0], fragment_b[1]);
    } else {
        ptx::mma_16x8x16_f16(d, fragment_a, fragment_b[0], fragment_b[1]);
    }
    for (int i = 0; i < 4; ++i) {
        result[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
    }
}

// in: a (16, 8), b (8, 8), c (16, 8) float; out: d (16, 8) float. Low bits of a and b do not count.
__global__ void multiply_tf32(const void* in, void* out) {
    const auto* a = static_cast<const std::uint32_t*>(in);
    const auto* b = a + 16 * 8;
    const auto* c = reinterpret_cast<const float*>(b + 8 * 8);
    auto* result = static_cast<float*>(out);
    const int group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
    std::uint32_t fragment_a[4], fragment_b[2];
    float d[4];
    for (int i = 0; i < 4; ++i) {
        const int row = i == 0 || i == 2 ? group : group + 8;
        fragment_a[i] = a[row * 8 + in_group + (i < 2 ? 0 : 4)];
        d[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    }
    for (int i = 0; i < 2; ++i) fragment_b[i] = b[(in_group + 4 * i) * 8 + group];
    ptx::mma_16x8x8_tf32(d, fragment_a, fragment_b[0], fragment_b[1]);
    for (int i = 0; i < 4; ++i) {
        result[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
    }
}

// in: (4, 8, 8) of 16-bit elements; out: (32 lanes, 4) registers.
template <bool kTransposed>
__global__ void load_matrix(const void* in, void* out) {
    unsigned char* shared = ptx::shared_memory();
    ptx::cp_async_16(shared + threadIdx.x * 16, static_cast<const char*>(in) + threadIdx.x * 16,
                     true);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
    std::uint32_t r[4];
    if (kTransposed) {
        ptx::ldmatrix_x4_trans(r, shared + threadIdx.x * 16);
    } else {
        ptx::ldmatrix_x4(r, shared + threadIdx.x * 16);
    }
    for (int i = 0; i < 4; ++i) static_cast<std::uint32_t*>(out)[threadIdx.x * 4 + i] = r[i];
}

// in: (32) int32; out: (9, 32) int32, a row for each way.
__global__ void shuffle(const void* in, void* out) {
    constexpr unsigned kAll = 0xffffffffu;
    const int lane = static_cast<int>(threadIdx.x), value = static_cast<const int*>(in)[lane];
    auto* rows = static_cast<int*>(out);
    rows[0 * 32 + lane] = __shfl_sync(kAll, value, 5);
    rows[1 * 32 + lane] = __shfl_sync(kAll, value, lane * 7, 8);
    rows[2 * 32 + lane] = __shfl_xor_sync(kAll, value, 3);
    rows[3 * 32 + lane] = __shfl_xor_sync(kAll, value, 9, 8);
    rows[4 * 32 + lane] = __shfl_up_sync(kAll, value, 3);
    rows[5 * 32 + lane] = __shfl_up_sync(kAll, value, 3, 16);
    rows[6 * 32 + lane] = __shfl_down_sync(kAll, value, 5);
    rows[7 * 32 + lane] = __shfl_down_sync(kAll, value, 5, 16);
    rows[8 * 32 + lane] = static_cast<int>(__ballot_sync(kAll, value % 3 == 0));
}

// An element a thread: in and out of the types in the name.
__global__ void half_to_float(const void* in, void* out) {
    const unsigned i = thread_number();
    static_cast<float*>(out)[i] = __half2float(static_cast<const __half*>(in)[i]);
}
__global__ void float_to_half(const void* in, void* out) {
    const unsigned i = thread_number();
    static_cast<__half*>(out)[i] = __float2half_rn(static_cast<const float*>(in)[i]);
}
__global__ void bfloat16_to_float(const void* in, void* out) {
    const unsigned i = thread_number();
    static_cast<float*>(out)[i] = __bfloat162float(static_cast<const __nv_bfloat16*>(in)[i]);
}
__global__ void float_to_bfloat16(const void* in, void* out) {
    const unsigned i = thread_number();
    static_cast<__nv_bfloat16*>(out)[i] = __float2bfloat16_rn(static_cast<const float*>(in)[i]);
}
__global__ void float_to_tf32(const void* in, void* out) {
    const unsigned i = thread_number();
    static_cast<std::uint32_t*>(out)[i] =
        fastconv::cuda::round_tf32(static_cast<const float*>(in)[i]);
}
// in: pairs, out: their maximum.
__global__ void max_float(const void* in, void* out) {
    const unsigned i = thread_number();
    const auto* pair = static_cast<const float*>(in) + 2 * i;
    static_cast<float*>(out)[i] = ptx::max_nan(pair[0], pair[1]);
}
__global__ void max_half(const void* in, void* out) {
    const unsigned i = thread_number();
    const auto* pair = static_cast<const std::uint32_t*>(in) + 2 * i;
    static_cast<std::uint32_t*>(out)[i] = ptx::max_nan_f16x2(pair[0], pair[1]);
}
__global__ void max_bfloat16(const void* in, void* out) {
    const unsigned i = thread_number();
    const auto* pair = static_cast<const std::uint32_t*>(in) + 2 * i;
    static_cast<std::uint32_t*>(out)[i] = ptx::max_nan_bf16x2(pair[0], pair[1]);
}

struct Case {
    const char* name;
    void (*kernel)(const void*, void*);
    int out_bytes_per_thread;  // 0: one warp does it all
};
const Case kCases[] = {
    {"multiply_bfloat16", multiply_16bit<true>, 0},
    {"multiply_half", multiply_16bit<false>, 0},
    {"multiply_tf32", multiply_tf32, 0},
    {"load_matrix", load_matrix<false>, 0},
    {"load_matrix_transposed", load_matrix<true>, 0},
    {"shuffle", shuffle, 0},
    {"half_to_float", half_to_float, 4},
    {"float_to_half", float_to_half, 2},
    {"bfloat16_to_float", bfloat16_to_float, 4},
    {"float_to_bfloat16", float_to_bfloat16, 2},
    {"float_to_tf32", float_to_tf32, 4},
    {"max_float", max_float, 4},
    {"max_half", max_half, 4},
    {"max_bfloat16", max_bfloat16, 4},
};

cudaError_t run(const Case& which, const void* in, std::size_t in_bytes, void* out,
                std::size_t out_bytes) {
    void *device_in = nullptr, *device_out = nullptr;
    cudaError_t error = cudaMalloc(&device_in, in_bytes);
    if (error == cudaSuccess) error = cudaMalloc(&device_out, out_bytes);
    if (error == cudaSuccess) error = cudaMemcpy(device_in, in, in_bytes, cudaMemcpyHostToDevice);
    if (error == cudaSuccess) {
        cudaLaunchConfig_t config{};
        const std::size_t threads =
            which.out_bytes_per_thread == 0 ? 32 : out_bytes / which.out_bytes_per_thread;
        config.blockDim = dim3(32);
        config.gridDim = dim3(static_cast<unsigned>(threads / 32));
        config.dynamicSmemBytes = which.out_bytes_per_thread == 0 ? 512 : 0;
        error = cudaLaunchKernelEx(&config, which.kernel, static_cast<const void*>(device_in),
                                   device_out);
    }
    if (error == cudaSuccess)
        error = cudaMemcpy(out, device_out, out_bytes, cudaMemcpyDeviceToHost);
    cudaFree(device_in);
    cudaFree(device_out);
    return error;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* conform(
    const char* name, const void* in, std::size_t in_bytes, void* out, std::size_t out_bytes) {
    static thread_local std::string text;
    text = std::string("no case ") + name;
    for (const Case& which : kCases) {
        if (std::strcmp(which.name, name) != 0) continue;
        const cudaError_t error = run(which, in, in_bytes, out, out_bytes);
        text = error == cudaSuccess ? "" : cudaGetErrorString(error);
    }
    return text.c_str();
}
