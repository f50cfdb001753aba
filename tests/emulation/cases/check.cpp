// What csrc/cuda/tensor_map.cpp needs of csrc/cuda/runtime.cpp, for cases that nvcc compiles by
// themselves. The emulation's maps do without.
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace fastconv::cuda {

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace fastconv::cuda
