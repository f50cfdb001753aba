// Affinities narrowed for the moment of waking; see placement.h. Which CPU the kernel takes is in
// its kernel/sched/fair.c: wake_affine, select_idle_sibling, and select_fallback_rq in core.c.
#include "core/placement.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastconv {
namespace {

// Set by the first worker that was pulled from a CPU of its own to the caller's. Kernels that leave
// sleepers where they are never pay for those that do not: 63 masks would delay the last of 63.
std::atomic<bool> kernel_pulls{false};

// A sandbox (seccomp) that forbids to set affinities forbids it at every wake-up.
std::atomic<bool> refused{false};

bool asked_for() {
    const char* text = std::getenv("FASTCONV_PLACE_WORKERS");
    if (!text || !*text || std::strcmp(text, "1") == 0) return true;
    if (std::strcmp(text, "0") == 0) return false;
    throw std::invalid_argument("environment variable FASTCONV_PLACE_WORKERS: '" +
                                std::string(text) + "' is neither 0 nor 1");
}

}  // namespace

bool places_workers() {
    static const bool asked = asked_for();
    return asked && !refused.load(std::memory_order_relaxed);
}

// A cpuset that changes is intersected with the mask that was set, since Linux 6.2: what is left of
// `during` is ours too. Of a mask that is all outside the cpuset the kernel makes the whole cpuset.
CpuMask restored_mask(const CpuMask& before, const CpuMask& during, const CpuMask& now,
                      const CpuMask& cpuset) {
    CpuMask ours = during;
    ours.keep(cpuset);
    if (ours.empty()) ours = cpuset;
    return now == during || now == ours ? before : now;
}

WakeUp::WakeUp(int caller_cpu) : caller_cpu_(caller_cpu) { start_on(caller_cpu); }

void WakeUp::start_on(int cpu) {
    started_.add(cpu);
    reserved_.add(cpu);
}

CpuMask WakeUp::choose(int cpu, const CpuMask& allowed) {
    const bool moves = clashes(cpu) || !allowed.has(cpu);
    CpuMask mask = allowed;
    if (moves) mask.remove(reserved_);
    mask.remove(caller_cpu_);
    if (mask.empty()) {
        mask = allowed;
        mask.remove(caller_cpu_);
    }
    if (mask.empty()) mask = allowed;
    // A kernel that finds no idle CPU takes the first allowed; one that does find avoids it itself.
    start_on(moves ? mask.first() : cpu);
    return mask;
}

void Placement::before_sleep() {
    if (!thread_) thread_ = static_cast<pid_t>(syscall(SYS_gettid));
    cpu_ = sched_getcpu();
    caller_cpu_ = -1;
}

void Placement::narrow(WakeUp& wake) {
    caller_cpu_ = wake.caller_cpu();
    if (!wake.clashes(cpu_) && !kernel_pulls.load(std::memory_order_relaxed)) {
        wake.start_on(cpu_);
        return;
    }
    if (!before_.read_affinity(thread_)) return;
    during_ = wake.choose(cpu_, before_);
    if (during_ == before_) return;
    narrowed_ = during_.set_affinity(thread_);
    if (!narrowed_) refused.store(true, std::memory_order_relaxed);
}

void Placement::after_sleep() {
    if (!narrowed_) {
        if (cpu_ != caller_cpu_ && sched_getcpu() == caller_cpu_) kernel_pulls.store(true);
        return;
    }
    narrowed_ = false;
    CpuMask now;
    if (!now.read_affinity(0)) now = during_;
    // Since Linux 6.2 a mask that was set stays a limit when the cpuset grows. A thread that had
    // all of its cpuset must go on following that: "all" says so, and shows what the cpuset is.
    CpuMask::all().set_affinity(0);
    CpuMask cpuset;
    if (!cpuset.read_affinity(0)) cpuset = CpuMask::all();
    const CpuMask mask = restored_mask(before_, during_, now, cpuset);
    if (mask != cpuset) mask.set_affinity(0);
}

}  // namespace fastconv
