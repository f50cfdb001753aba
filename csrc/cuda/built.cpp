// What a build with CUDA kernels says of itself.
#include "ops.h"

namespace fastconv::cuda {

bool built() { return true; }
const char* why_not_built() { return ""; }
const char* architectures() { return FASTCONV_CUDA_ARCHITECTURES; }

}  // namespace fastconv::cuda
