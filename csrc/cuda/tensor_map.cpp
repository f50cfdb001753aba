// TensorMap by the driver's encoder (cuda/tensor_map.h), which is asked for at run time: nothing is
// linked to libcuda.
#include "cuda/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace fastconv::cuda {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

template <class Function>
Function driver_function(const char* name) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION < 12050  // the other came with 12.5, and this one goes
    check(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found), name);
#else
    constexpr unsigned kIntroduced = 12000;  // CUDA 12.0
    check(cudaGetDriverEntryPointByVersion(name, &function, kIntroduced, cudaEnableDefault, &found),
          name);
#endif
    if (found != cudaDriverEntryPointSuccess || function == nullptr)
        throw std::runtime_error(std::string("the CUDA driver has no ") + name);
    return reinterpret_cast<Function>(function);
}

void must(CUresult status, const char* name) {
    if (status != CUDA_SUCCESS)
        throw std::runtime_error(std::string(name) + ": error " + std::to_string(status));
}

constexpr cuuint32_t kChannels = 64;  // a line of 128 bytes

/// MappedTensor as the encoders take it.
struct Encoded {
    CUtensorMapDataType type;
    void* data;
    cuuint64_t size[4], bytes[3];

    explicit Encoded(const MappedTensor& tensor)
        : type(tensor.bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT16),
          data(const_cast<void*>(tensor.data)) {
        for (int d = 0; d < 4; ++d) size[d] = static_cast<cuuint64_t>(tensor.size[d]);
        for (int d = 0; d < 3; ++d) bytes[d] = static_cast<cuuint64_t>(tensor.elems[d] * 2);
    }
};

int driver_version() {
    int version = 0;
    check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
    return version;
}

TensorMap as_map(const CUtensorMap& made, const MappedTensor& tensor) {
    TensorMap map;
    std::memcpy(&map, &made, sizeof map);
    // Drivers up to CUDA 13.1 set a bit in the maps of tensors below 128 KiB that must not be set:
    // CUTLASS (copy_traits_sm90_tma.hpp) clears it where the last element is nearer than that.
    static const bool driver_errs = driver_version() <= 13010;
    constexpr std::int64_t kSmall = 128 * 1024;
    if (driver_errs && tensor.span_bytes() < kSmall)
        map.words[1] &= ~(std::uint64_t{1} << 21);
    return map;
}

}  // namespace

TensorMap tiled_map(const MappedTensor& tensor, const int (&box)[4], int step_1, int step_2) {
    static const auto encode =
        driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
    const Encoded from(tensor);
    const cuuint32_t steps[4] = {1, static_cast<cuuint32_t>(step_1),
                                 static_cast<cuuint32_t>(step_2), 1};
    cuuint32_t boxes[4];  // what the steps span
    for (int d = 0; d < 4; ++d) boxes[d] = static_cast<cuuint32_t>(box[d]) * steps[d];
    CUtensorMap map;
    must(encode(&map, from.type, 4, from.data, from.size, from.bytes, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
         "cuTensorMapEncodeTiled");
    return as_map(map, tensor);
}

TensorMap im2col_map(const MappedTensor& tensor, const ImageWalk& walk) {
    static const auto encode =
        driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
    const Encoded from(tensor);
    // Corners of the box that the walk stays in, from the image's own: width, height.
    const int lower[2] = {walk.first_w, walk.first_h};
    const int upper[2] = {walk.last_w - static_cast<int>(tensor.size[1] - 1),
                          walk.last_h - static_cast<int>(tensor.size[2] - 1)};
    const cuuint32_t steps[4] = {1, static_cast<cuuint32_t>(walk.step_w),
                                 static_cast<cuuint32_t>(walk.step_h), 1};
    CUtensorMap map;
    must(encode(&map, from.type, 4, from.data, from.size, from.bytes, lower, upper, kChannels,
                static_cast<cuuint32_t>(walk.pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
         "cuTensorMapEncodeIm2col");
    return as_map(map, tensor);
}

}  // namespace fastconv::cuda
