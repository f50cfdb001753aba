// Sizes of the caches that plans lay blocks out for. They decide how long a call takes, never a bit of it.
#pragma once

#include <cstdint>

namespace fastconv {

/// What a core has of L2, as the system says: 1 MB where it does not, and 1 to 2 MB in any case, which is what
/// plans were measured with (virtual machines tell of caches that are not there).
std::int64_t l2_bytes();

}  // namespace fastconv
