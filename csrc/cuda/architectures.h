// Which GPUs the code of a build runs on. Host-only, pure: tested without a GPU.
#pragma once

#include <string>

namespace fastconv::cuda {

/// `built` as cuda::architectures() has it, e.g. "75 80 90a 90-virtual". Machine code runs on its own
/// major version from its minor version up (with a letter: on exactly that capability), PTX on
/// everything from its version up.
bool fits(int capability, const std::string& built);

/// "GPU 0 (name) has compute capability 6.1, but this build has machine code for 7.5, 8.0 and 9.0a and
/// PTX for 9.0"
std::string unfit_sentence(int index, const std::string& name, int capability,
                           const std::string& built);

}  // namespace fastconv::cuda
