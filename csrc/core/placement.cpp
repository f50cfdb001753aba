// Affinities narrowed for the moment of waking; see placement.h. Which CPU the kernel takes is in
// its kernel/sched/fair.c: wake_affine, select_idle_sibling, and select_fallback_rq in core.c.
#include "core/placement.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace fastconv {
namespace {

// Set by the first worker that was pulled from a CPU of its own to the caller's. Kernels that leave
// sleepers where they are never pay for those that do not: 63 masks would delay the last of 63.
std::atomic<bool> kernel_pulls{false};

}  // namespace

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
    narrowed_ = during_ != before_ && during_.set_affinity(thread_);
}

void Placement::after_sleep() {
    if (!narrowed_) {
        if (cpu_ != caller_cpu_ && sched_getcpu() == caller_cpu_) kernel_pulls.store(true);
        return;
    }
    narrowed_ = false;
    CpuMask now;
    if (!now.read_affinity(0) || now != during_) return;  // somebody else's mask
    // Since Linux 6.2 a mask that was set stays a limit when the cpuset grows. A thread that had
    // all of its cpuset must go on following that: "all" says so.
    CpuMask::all().set_affinity(0);
    if (!now.read_affinity(0) || now != before_) before_.set_affinity(0);
}

}  // namespace fastconv
