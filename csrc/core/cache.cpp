#include "core/cache.h"

#include <algorithm>

#if defined(__unix__)
#include <unistd.h>
#endif

namespace fastconv {

std::int64_t l2_bytes() {
    static const std::int64_t bytes = [] {
        std::int64_t told = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
        told = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        constexpr std::int64_t kLeast = 1 << 20, kMost = 2 << 20;
        return std::clamp(told, kLeast, kMost);
    }();
    return bytes;
}

}  // namespace fastconv
