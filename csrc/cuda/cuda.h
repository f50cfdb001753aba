// What the rest of fastconv may ask of its CUDA half. no_cuda.cpp answers in a build without it.
#pragma once

namespace fastconv::cuda {

bool built();                 // are CUDA kernels part of this build?
const char* why_not_built();  // one sentence for error messages; empty if they are

}  // namespace fastconv::cuda
