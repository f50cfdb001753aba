// Where sleeping workers wake: the choice of CPUs, one thread's way through it, the pool's workers.
// Load on the machine cannot fail these: they look at masks, and at CPUs that a mask forbids.
#include <dirent.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <thread>
#include <vector>

#include "check.h"
#include "core/cpu_mask.h"
#include "core/parallel.h"
#include "core/placement.h"

using namespace fastconv;

namespace {

CpuMask cpus(std::initializer_list<int> numbers) {
    CpuMask mask;
    for (const int cpu : numbers) mask.add(cpu);
    return mask;
}

std::vector<int> allowed_cpus() {
    CpuMask mask;
    CHECK(mask.read_affinity(0));
    std::vector<int> numbers;
    for (int cpu = 0; cpu < CpuMask::kMaxCpus; ++cpu) {
        if (mask.has(cpu)) numbers.push_back(cpu);
    }
    return numbers;
}

void masks_are_sets() {
    CpuMask mask = cpus({3, 64, 9000});
    CHECK(mask.count() == 3 && mask.first() == 3 && mask.has(64) && mask.has(9000) && !mask.has(4));
    mask.add(-1);
    mask.add(CpuMask::kMaxCpus);
    CHECK(mask == cpus({3, 64, 9000}) && !mask.has(-1) && !mask.has(CpuMask::kMaxCpus));
    mask.remove(cpus({3, 5}));
    mask.remove(9000);
    CHECK(mask == cpus({64}) && mask.first() == 64);
    CpuMask both = cpus({1, 64, 65});
    both.keep(cpus({0, 64, 65, 9000}));
    CHECK(both == cpus({64, 65}));
    mask.remove(64);
    CHECK(mask.empty() && mask.first() == -1);
    CHECK(CpuMask::all().count() == CpuMask::kMaxCpus);
}

void sleepers_leave_the_callers_cpu() {
    WakeUp two(1);
    two.expect(1);
    CHECK(two.clashes(1) && !two.clashes(0));
    CHECK(two.choose(1, cpus({0, 1})) == cpus({0}));

    WakeUp pulled(1);  // its own CPU is free: only the caller's is forbidden
    pulled.expect(3);
    CHECK(pulled.choose(3, cpus({0, 1, 2, 3})) == cpus({0, 2, 3}));
}

void sleepers_leave_each_others_cpus() {
    WakeUp wake(0);
    for (const int cpu : {2, 2, 0, 5}) wake.expect(cpu);
    const CpuMask allowed = cpus({0, 1, 2, 3, 4, 5, 6});
    CHECK(wake.choose(2, allowed) == cpus({1, 2, 3, 4, 5, 6}));
    CHECK(wake.choose(2, allowed) == cpus({1, 3, 4, 6}));  // 2 is taken, 5 is another's
    CHECK(wake.choose(0, allowed) == cpus({3, 4, 6}));     // 1 may be the last one's
    CHECK(wake.choose(5, allowed) == cpus({1, 2, 3, 4, 5, 6}));
}

void there_may_be_no_choice() {
    WakeUp one(4);
    one.expect(4);
    CHECK(one.choose(4, cpus({4})) == cpus({4}));
    WakeUp crowd(0);  // more sleepers than CPUs
    for (int i = 0; i < 3; ++i) crowd.expect(1);
    for (int i = 0; i < 3; ++i) CHECK(crowd.choose(1, cpus({0, 1})) == cpus({1}));
    WakeUp moved(0);  // slept on a CPU that it may not use any more
    moved.expect(1);
    moved.expect(2);
    CHECK(moved.choose(1, cpus({0, 2, 3})) == cpus({3}));
}

// Narrowed from {0, 1, 2, 3} to {2, 3} in a cpuset of {0, ..., 5}, unless said otherwise.
void what_is_left_of_a_narrowed_mask_is_ours() {
    const CpuMask before = cpus({0, 1, 2, 3});
    const CpuMask during = cpus({2, 3});
    const CpuMask cpuset = cpus({0, 1, 2, 3, 4, 5});
    const auto restored = [&](const CpuMask& now, const CpuMask& allowed) {
        return restored_mask(before, during, now, allowed);
    };
    CHECK(restored(during, cpuset) == before);
    CHECK(restored(during, CpuMask::all()) == before);  // the cpuset could not be read
    CHECK(restored(during, cpus({0, 1})) == before);  // it changed between two looks
    CHECK(restored(cpus({2}), cpus({0, 1, 2})) == before);  // the cpuset lost CPU 3,
    CHECK(restored(cpus({0, 1}), cpus({0, 1})) == before);  // and 2 too
    CHECK(restored(cpus({2}), cpuset) == cpus({2}));  // somebody else's: no cpuset made these
    CHECK(restored(cpus({1, 2}), cpus({0, 1, 2})) == cpus({1, 2}));
    CHECK(restored(cpus({1}), cpus({0, 1})) == cpus({1}));
}

// Sleeps as a worker does; says where it woke and which mask it has then.
struct Thread {
    Placement placement;
    sem_t ready, wake, awake;
    pid_t id = 0;
    int woke_on = -1;
    CpuMask mask;
    std::thread thread;

    Thread() {
        for (sem_t* one : {&ready, &wake, &awake}) sem_init(one, 0, 0);
        thread = std::thread([this] {
            id = static_cast<pid_t>(syscall(SYS_gettid));
            placement.before_sleep();
            sem_post(&ready);
            sem_wait(&wake);
            woke_on = sched_getcpu();
            placement.after_sleep();
            CHECK(mask.read_affinity(0));
            sem_post(&awake);
        });
        sem_wait(&ready);
    }
    void finish() {
        sem_post(&wake);
        sem_wait(&awake);
        thread.join();
    }
};

void a_thread_wakes_elsewhere_with_its_own_mask(const CpuMask& before) {
    const bool choice = before.count() > 1;
    CpuMask own;
    CHECK(own.read_affinity(0) && before.set_affinity(0));  // what a new thread inherits
    for (int round = 0; round < 50; ++round) {
        Thread sleeper;
        const int cpu = sleeper.placement.cpu();
        WakeUp wake(cpu);  // the caller is where the sleeper slept
        wake.expect(cpu);
        sleeper.placement.narrow(wake);
        CpuMask narrowed;
        CHECK(narrowed.read_affinity(sleeper.id));
        CHECK(choice ? narrowed != before && !narrowed.has(cpu) : narrowed == before);
        sleeper.finish();
        CHECK(choice ? sleeper.woke_on != cpu : sleeper.woke_on == cpu);
        CHECK(sleeper.mask == before);
    }
    CHECK(own.set_affinity(0));
}

// Of all CPUs, as most threads; of two, as somebody chose; of one, where there is no choice.
void threads_wake_elsewhere_with_their_own_masks() {
    const std::vector<int> numbers = allowed_cpus();
    CpuMask own;
    CHECK(own.read_affinity(0));
    a_thread_wakes_elsewhere_with_its_own_mask(own);
    a_thread_wakes_elsewhere_with_its_own_mask(cpus({numbers.front(), numbers.back()}));
    a_thread_wakes_elsewhere_with_its_own_mask(cpus({numbers.back()}));
}

void masks_of_others_are_kept() {
    const std::vector<int> numbers = allowed_cpus();
    for (const int pinned : numbers) {  // before the wake-up: nothing to choose
        Thread sleeper;
        CHECK(cpus({pinned}).set_affinity(sleeper.id));
        WakeUp wake(pinned);
        wake.expect(sleeper.placement.cpu());
        sleeper.placement.narrow(wake);
        sleeper.finish();
        CHECK(sleeper.mask == cpus({pinned}));
    }
    if (numbers.size() < 2) return;
    for (const int pinned : numbers) {  // between the choice and the wake-up
        Thread sleeper;
        WakeUp wake(sleeper.placement.cpu());
        sleeper.placement.narrow(wake);
        CpuMask narrowed;
        CHECK(narrowed.read_affinity(sleeper.id));
        const CpuMask other = cpus({pinned});
        CHECK(other.set_affinity(sleeper.id));
        sleeper.finish();
        // Setting what it has anyway looks like nothing done.
        if (other != narrowed) CHECK(sleeper.mask == other);
    }
}

std::map<pid_t, CpuMask> masks_of_all_threads() {
    std::map<pid_t, CpuMask> masks;
    DIR* tasks = opendir("/proc/self/task");
    while (const dirent* entry = readdir(tasks)) {
        const pid_t id = static_cast<pid_t>(std::atoi(entry->d_name));
        if (id > 0) CHECK(masks[id].read_affinity(id));
    }
    closedir(tasks);
    return masks;
}

// The caller goes each time to where a worker slept and waits there for one: where does it begin?
void workers_wake_beside_the_caller() {
    const std::vector<int> numbers = allowed_cpus();
    CpuMask own;
    CHECK(own.read_affinity(0));
    if (numbers.size() < 2) return;
    // Workers inherit the mask of who starts them: let that be the whole one.
    parallel_for(2, 2, FloatMode::kIeee, [](std::int64_t, int) {});
    int joined = 0;
    int on_the_callers = 0;
    int caller_cpu = numbers.front();
    for (int round = 0; round < 60; ++round) {
        CHECK(cpus({caller_cpu}).set_affinity(0));
        usleep(500);  // far beyond the time that workers spin
        std::atomic<int> worker_cpu{-1};
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
        parallel_for(2, 2, FloatMode::kIeee, [&](std::int64_t, int worker) {
            if (worker > 0 && worker_cpu < 0) worker_cpu = sched_getcpu();
            while (worker_cpu < 0 && std::chrono::steady_clock::now() < end) {
            }
        });
        joined += worker_cpu >= 0;
        on_the_callers += worker_cpu == caller_cpu;
        if (worker_cpu >= 0) caller_cpu = worker_cpu;
    }
    CHECK(own.set_affinity(0));
    // Not never: its mask is its own again, and the kernel may move it under load.
    CHECK(2 * on_the_callers <= joined);
}

void workers_keep_their_masks() {
    const std::vector<int> numbers = allowed_cpus();
    CpuMask own;
    CHECK(own.read_affinity(0));
    const int threads = std::min<int>(4, static_cast<int>(numbers.size()));
    if (threads < 2) return;
    std::atomic<int> done{0};
    const auto loop = [&] {
        parallel_for(threads, threads, FloatMode::kIeee, [&](std::int64_t, int) { ++done; });
    };
    loop();
    auto before = masks_of_all_threads();
    for (auto& [id, mask] : before) mask = own;
    const int rounds = 100;
    const auto walk = [&] {  // so that the caller meets each worker's CPU
        for (int round = 0; round < rounds; ++round) {
            CHECK(cpus({numbers[round % numbers.size()]}).set_affinity(0));
            usleep(500);
            loop();
        }
        CHECK(own.set_affinity(0));
        // A worker that came too late for a loop may not have run since it was woken.
        for (int tries = 0; tries < 1000 && masks_of_all_threads() != before; ++tries) {
            usleep(10000);
        }
        CHECK(masks_of_all_threads() == before);
    };
    walk();
    for (auto& [id, mask] : before) {  // somebody else's mask for one of them
        if (id == getpid()) continue;
        mask = cpus({numbers.back()});
        CHECK(mask.set_affinity(id));
        break;
    }
    walk();
    CHECK(done == threads * (2 * rounds + 1));
}

}  // namespace

int main() {
    masks_are_sets();
    sleepers_leave_the_callers_cpu();
    sleepers_leave_each_others_cpus();
    there_may_be_no_choice();
    what_is_left_of_a_narrowed_mask_is_ours();
    threads_wake_elsewhere_with_their_own_masks();
    masks_of_others_are_kept();
    workers_wake_beside_the_caller();
    workers_keep_their_masks();
    return report();
}
