// Intrinsics of device code. Barriers and warp intrinsics take the place they are called from as
// default arguments: it goes into reports, and two places are two barriers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/collective.h"

#define FASTCONV_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- barriers -----------------------------------------------------------------------------------

inline void __syncthreads(FASTCONV_SITE) {
    emulation::meet_block("__syncthreads", false, file, line);
}
inline int __syncthreads_count(int predicate, FASTCONV_SITE) {
    return emulation::meet_block("__syncthreads_count", predicate != 0, file, line);
}
inline int __syncthreads_or(int predicate, FASTCONV_SITE) {
    return emulation::meet_block("__syncthreads_or", predicate != 0, file, line) != 0;
}
inline int __syncthreads_and(int predicate, FASTCONV_SITE) {
    return emulation::meet_block("__syncthreads_and", predicate == 0, file, line) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap(FASTCONV_SITE) { emulation::fail_thread("__trap()", file, line); }

// ---- warps --------------------------------------------------------------------------------------

namespace emulation {

struct Shuffle {
    std::uint64_t value, result;
    unsigned source;
};
extern const Collective kSyncWarp, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kVote;
struct Vote {
    bool predicate;
    unsigned ballot;
};

template <class T>
T shuffle(const Collective& collective, unsigned mask, T value, unsigned source, const char* file,
          int line) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    Shuffle operands{0, 0, source};
    std::memcpy(&operands.value, &value, sizeof(T));
    meet(collective, &operands, mask, file, line);
    std::memcpy(&value, &operands.result, sizeof(T));
    return value;
}

inline unsigned vote(unsigned mask, int predicate, const char* file, int line) {
    Vote operands{predicate != 0, 0};
    meet(kVote, &operands, mask, file, line);
    return operands.ballot;
}

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, FASTCONV_SITE) {
    emulation::meet(emulation::kSyncWarp, nullptr, mask, file, line);
}
inline unsigned __activemask() { return 0xffffffffu; }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FASTCONV_SITE) {
    const unsigned first = emulation::lane() & ~(width - 1u);
    return emulation::shuffle(emulation::kShuffle, mask, value, first + (source & (width - 1u)),
                              file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, FASTCONV_SITE) {
    const unsigned own = emulation::lane(), source = own ^ static_cast<unsigned>(bits);
    const unsigned end = (own & ~(width - 1u)) + width;
    return emulation::shuffle(emulation::kShuffleXor, mask, value, source < end ? source : own,
                              file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FASTCONV_SITE) {
    const unsigned own = emulation::lane(), first = own & ~(width - 1u);
    return emulation::shuffle(emulation::kShuffleUp, mask, value,
                              own >= first + delta ? own - delta : own, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FASTCONV_SITE) {
    const unsigned own = emulation::lane(), end = (own & ~(width - 1u)) + width;
    return emulation::shuffle(emulation::kShuffleDown, mask, value,
                              own + delta < end ? own + delta : own, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, FASTCONV_SITE) {
    return emulation::vote(mask, predicate, file, line);
}
inline int __any_sync(unsigned mask, int predicate, FASTCONV_SITE) {
    return emulation::vote(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, FASTCONV_SITE) {
    return emulation::vote(mask, !predicate, file, line) == 0;
}

// ---- memory -------------------------------------------------------------------------------------

#define FASTCONV_LOAD(name) \
    template <class T> \
    inline T name(const T* from) { \
        return *from; \
    }
#define FASTCONV_STORE(name) \
    template <class T> \
    inline void name(T* to, std::common_type_t<T> value) { \
        *to = value; \
    }
FASTCONV_LOAD(__ldg)
FASTCONV_LOAD(__ldcs)
FASTCONV_LOAD(__ldcg)
FASTCONV_LOAD(__ldca)
FASTCONV_LOAD(__ldlu)
FASTCONV_LOAD(__ldcv)
FASTCONV_STORE(__stcs)
FASTCONV_STORE(__stcg)
FASTCONV_STORE(__stwb)
FASTCONV_STORE(__stwt)
#undef FASTCONV_LOAD
#undef FASTCONV_STORE

// Integers only: fastconv adds no floats atomically. Atomic, as other launches may run at once.
template <class T, class U>
inline T atomicAdd(T* at, U value) {
    static_assert(std::is_integral_v<T>);
    return __atomic_fetch_add(at, static_cast<T>(value), __ATOMIC_SEQ_CST);
}
template <class T, class U>
inline T atomicSub(T* at, U value) {
    static_assert(std::is_integral_v<T>);
    return __atomic_fetch_sub(at, static_cast<T>(value), __ATOMIC_SEQ_CST);
}
template <class T, class U>
inline T atomicOr(T* at, U value) {
    return __atomic_fetch_or(at, static_cast<T>(value), __ATOMIC_SEQ_CST);
}
template <class T, class U>
inline T atomicAnd(T* at, U value) {
    return __atomic_fetch_and(at, static_cast<T>(value), __ATOMIC_SEQ_CST);
}
template <class T, class U>
inline T atomicExch(T* at, U value) {
    return __atomic_exchange_n(at, static_cast<T>(value), __ATOMIC_SEQ_CST);
}
template <class T, class U, class V>
inline T atomicCAS(T* at, U compare, V value) {
    T expected = static_cast<T>(compare);
    __atomic_compare_exchange_n(at, &expected, static_cast<T>(value), false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    return expected;
}
template <class T, class U>
inline T atomicMin(T* at, U value) {
    T before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (static_cast<T>(value) < before &&
           !__atomic_compare_exchange_n(at, &before, static_cast<T>(value), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
    return before;
}
template <class T, class U>
inline T atomicMax(T* at, U value) {
    T before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (static_cast<T>(value) > before &&
           !__atomic_compare_exchange_n(at, &before, static_cast<T>(value), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
    return before;
}
/// Up to `limit`, then from 0 again.
inline unsigned atomicInc(unsigned* at, unsigned limit) {
    unsigned before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(at, &before, before >= limit ? 0 : before + 1, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return before;
}

// ---- bits ---------------------------------------------------------------------------------------

namespace emulation {
template <class To, class From>
To as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
}  // namespace emulation

inline unsigned __float_as_uint(float x) { return emulation::as<unsigned>(x); }
inline int __float_as_int(float x) { return emulation::as<int>(x); }
inline float __uint_as_float(unsigned x) { return emulation::as<float>(x); }
inline float __int_as_float(int x) { return emulation::as<float>(x); }
inline long long __double_as_longlong(double x) { return emulation::as<long long>(x); }
inline double __longlong_as_double(long long x) { return emulation::as<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
    return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(std::int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned select = selector >> 4 * i;
        unsigned byte = static_cast<unsigned>(bytes >> 8 * (select & 7u)) & 255u;
        if (select & 8u) byte = byte & 128u ? 255u : 0u;
        result |= byte << 8 * i;
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t{hi} << 32 | lo) << (shift & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t{hi} << 32 | lo) >> (shift & 31u));
}

#undef FASTCONV_SITE
#include "emulation/math.h"
