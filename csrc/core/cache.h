// Sizes of the caches that plans lay blocks out for. They decide how long a call takes, never a bit of it.
#pragma once

#include <cstdint>

namespace fastconv {

/// Of one core's L2; 1 MB where the system does not say.
std::int64_t l2_bytes();

}  // namespace fastconv
