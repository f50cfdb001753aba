// The CUDA half of a build without CUDA kernels: the same symbols, each saying so.
#include "ops.h"

namespace fastconv::cuda {

bool built() { return false; }

const char* why_not_built() {
    return "fastconv was built without CUDA kernels (this version has none yet)";
}

}  // namespace fastconv::cuda
