// CHECK(condition): counts and prints what failed; the program's exit status says whether any did.
#pragma once

#include <atomic>
#include <cstdio>

inline std::atomic<int> failures{0};
inline std::atomic<long> checks{0};

#define CHECK(condition)                                                          \
    do {                                                                          \
        checks.fetch_add(1, std::memory_order_relaxed);                           \
        if (!(condition)) {                                                       \
            failures.fetch_add(1);                                                \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);   \
        }                                                                         \
    } while (false)

inline int report() {
    std::printf("%ld checks, %d failures\n", checks.load(), failures.load());
    return failures.load() == 0 ? 0 : 1;
}
