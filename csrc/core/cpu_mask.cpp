// Sets of CPUs over the kernel's own layout of a mask: CPU c is bit c % 64 of word c / 64.
#include "core/cpu_mask.h"

#include <sched.h>

namespace fastconv {

CpuMask CpuMask::all() {
    CpuMask mask;
    mask.words_.fill(~std::uint64_t{0});
    return mask;
}

void CpuMask::remove(const CpuMask& other) {
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= ~other.words_[i];
}

void CpuMask::keep(const CpuMask& other) {
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
}

int CpuMask::first() const {
    for (std::size_t i = 0; i < words_.size(); ++i) {
        if (words_[i]) return static_cast<int>(64 * i) + __builtin_ctzll(words_[i]);
    }
    return -1;
}

int CpuMask::count() const {
    int cpus = 0;
    for (const std::uint64_t word : words_) cpus += __builtin_popcountll(word);
    return cpus;
}

bool CpuMask::read_affinity(pid_t thread) {
    return sched_getaffinity(thread, sizeof words_,
                             reinterpret_cast<cpu_set_t*>(words_.data())) == 0;
}

bool CpuMask::set_affinity(pid_t thread) const {
    return sched_setaffinity(thread, sizeof words_,
                             reinterpret_cast<const cpu_set_t*>(words_.data())) == 0;
}

}  // namespace fastconv
