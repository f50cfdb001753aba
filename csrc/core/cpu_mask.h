// A set of CPUs, and the affinity of a thread as one: sched_getaffinity(2), sched_setaffinity(2).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>

namespace fastconv {

class CpuMask {
public:
    // Some kernels have more CPUs than a cpu_set_t's 1024: sched_getaffinity fails there (EINVAL).
    static constexpr int kMaxCpus = 1 << 14;
    using Words = std::array<std::uint64_t, kMaxCpus / 64>;

    static CpuMask all();
    bool has(int cpu) const { return in_range(cpu) && (words_[cpu / 64] & bit(cpu)); }
    void add(int cpu) {
        if (in_range(cpu)) words_[cpu / 64] |= bit(cpu);
    }
    void remove(int cpu) {
        if (in_range(cpu)) words_[cpu / 64] &= ~bit(cpu);
    }
    void remove(const CpuMask& other);
    void keep(const CpuMask& other);  // what both have
    bool empty() const { return first() < 0; }
    int first() const;  // the lowest CPU, -1 if there is none
    int count() const;
    bool operator==(const CpuMask& other) const { return words_ == other.words_; }
    bool operator!=(const CpuMask& other) const { return words_ != other.words_; }

    // Of a thread of this process, 0 the calling one; false where the system refuses.
    bool read_affinity(pid_t thread);
    bool set_affinity(pid_t thread) const;

private:
    static bool in_range(int cpu) { return cpu >= 0 && cpu < kMaxCpus; }
    static std::uint64_t bit(int cpu) { return std::uint64_t{1} << (cpu % 64); }
    Words words_{};
};

}  // namespace fastconv
