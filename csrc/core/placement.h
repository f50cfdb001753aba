// On which CPU a sleeping worker wakes.
//
//                       wanted               what the kernel may do for tens of milliseconds
//     CPU 0   caller ================        caller ====      ====      ====
//     CPU 1       worker ============        worker     ====      ====      ====  on CPU 0 too
//
// The kernel can queue a woken thread behind the one that wakes it while another CPU is idle, until
// its periodic load balancing moves one: where the sleeper's last CPU is the caller's now and the
// search for an idle one is cut short (SIS_UTIL), and by pulling the sleeper from its own CPU to
// the caller's. A KVM guest with Linux 6.18 did the one or the other at most wake-ups after a pause
// (a halted CPU may pass for one the host has taken away, which is not idle to the scheduler): the
// first 4 to 16 calls took 2.0 ms that take 1.0 ms with a CPU for each thread.
//
// So the caller narrows the affinity of such a sleeper before it wakes it, and the sleeper puts
// back what it was as the first thing it does: widening leaves a running thread where it is. It
// costs the caller two system calls a sleeper and the worker three, four where its mask was its
// own: 0.6 us each with warm caches, 4 us each after a pause, where waking on another CPU costs 12.
// Nobody stays narrowed; a thread whose cpuset changes in that moment may keep what it had before
// as its limit. A thread that may use one CPU only is left alone, and a mask that somebody else
// sets meanwhile is put back. FASTCONV_PLACE_WORKERS=0 turns all this off, and so does the first
// refusal of the system.
#pragma once

#include "core/cpu_mask.h"

namespace fastconv {

// Whether sleepers are placed. std::invalid_argument if FASTCONV_PLACE_WORKERS is neither 0 nor 1.
bool places_workers();

// What a thread's mask should be that was narrowed from `before` to `during`, now has `now`, and
// may have no more than `cpuset`. Pure.
CpuMask restored_mask(const CpuMask& before, const CpuMask& during, const CpuMask& now,
                      const CpuMask& cpuset);

// The sleepers that one post wakes, in order. Pure: no system call.
class WakeUp {
public:
    explicit WakeUp(int caller_cpu);
    int caller_cpu() const { return caller_cpu_; }
    void expect(int cpu) { reserved_.add(cpu); }  // where one slept: all, before the first wakes
    bool clashes(int cpu) const { return started_.has(cpu); }  // somebody of this loop is there
    void start_on(int cpu);
    // Of the `allowed` CPUs those where one that slept on `cpu` may wake: not the caller's and, if
    // it has to move, none that this loop's others use. All of them if nothing would be left.
    CpuMask choose(int cpu, const CpuMask& allowed);

private:
    int caller_cpu_;
    CpuMask started_;   // the caller's, and those of the sleepers woken so far
    CpuMask reserved_;  // those, and the others that sleepers are expected on
};

// One thread's memory of where it sleeps. It belongs to that thread, and from the moment that a
// waker has chosen it until the wake-up to the waker.
class Placement {
public:
    void before_sleep();        // by the sleeper
    void narrow(WakeUp& wake);  // by the waker
    void after_sleep();         // by the sleeper
    int cpu() const { return cpu_; }

private:
    pid_t thread_ = 0;
    int cpu_ = -1;
    int caller_cpu_ = -1;
    bool narrowed_ = false;
    CpuMask before_;  // these two only while narrowed_
    CpuMask during_;
};

}  // namespace fastconv
