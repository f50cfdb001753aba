// Thread pool, scratch and workspace memory, CPU budget, dispatch and tasks of sums, without Python: for
// ThreadSanitizer, which cannot run inside an interpreter that was built without it.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/cpu_budget.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "cpu/isa.h"
#include "cpu/kernels_probe.h"
#include "cpu/sum_tasks.h"

using namespace fastconv;

namespace {

void every_task_once() {
    for (const int threads : {1, 2, 3, 8}) {
        for (const std::int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
            std::vector<int> done(static_cast<std::size_t>(tasks));  // plain: one writer each
            std::atomic<bool> workers_in_range{true};
            parallel_for(tasks, threads, FloatMode::kIeee, [&](std::int64_t task, int worker) {
                ++done[static_cast<std::size_t>(task)];
                if (worker < 0 || worker >= threads) workers_in_range = false;
            });
            for (const int times : done) CHECK(times == 1);
            CHECK(workers_in_range);
        }
    }
}

// A worker's number is its own as long as the loop runs: unguarded slots per worker must add up.
void worker_numbers_are_unique() {
    constexpr int kThreads = 4;
    for (int round = 0; round < 200; ++round) {
        std::vector<std::int64_t> sums(kThreads);
        parallel_for(100, kThreads, FloatMode::kIeee,
                     [&](std::int64_t task, int worker) { sums[worker] += task; });
        CHECK(sums[0] + sums[1] + sums[2] + sums[3] == 4950);
    }
}

// Tasks lie in one stretch a thread: a worker goes through each in ascending order.
void order_is_ascending_in_each_stretch() {
    constexpr std::int64_t kTasks = 5000;
    constexpr int kThreads = 4;
    const auto stretch = [](std::int64_t task) { return task * kThreads / kTasks; };
    std::vector<std::int64_t> last(kThreads, -1);
    std::atomic<bool> ascending{true};
    parallel_for(kTasks, kThreads, FloatMode::kIeee, [&](std::int64_t task, int worker) {
        const std::int64_t before = last[worker];
        if (before >= 0 && stretch(task) == stretch(before) && task <= before) ascending = false;
        last[worker] = task;
    });
    CHECK(ascending);
}

void nested_loops_run_on_the_same_thread() {
    std::atomic<int> inner_tasks{0};
    std::atomic<bool> same{true};
    parallel_for(16, 4, FloatMode::kIeee, [&](std::int64_t, int) {
        const auto outer = std::this_thread::get_id();
        parallel_for(8, 4, FloatMode::kIeee, [&](std::int64_t, int worker) {
            ++inner_tasks;
            if (worker != 0 || std::this_thread::get_id() != outer) same = false;
        });
    });
    CHECK(inner_tasks == 16 * 8);
    CHECK(same);
}

void exceptions_reach_the_caller() {
    for (const int threads : {1, 2, 4}) {
        for (int round = 0; round < 50; ++round) {
            bool caught = false;
            try {
                parallel_for(100, threads, FloatMode::kIeee, [&](std::int64_t task, int) {
                    if (task == 37) throw std::runtime_error("task 37");
                });
            } catch (const std::runtime_error& error) {
                caught = std::string(error.what()) == "task 37";
            }
            CHECK(caught);
        }
    }
    std::atomic<int> after{0};  // and the pool still works
    parallel_for(10, 4, FloatMode::kIeee, [&](std::int64_t, int) { ++after; });
    CHECK(after == 10);
}

void concurrent_callers_get_their_own_results() {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 6; ++caller) {
        callers.emplace_back([caller] {
            for (int round = 0; round < 100; ++round) {
                std::vector<std::int64_t> squares(50 + caller);
                parallel_for(50 + caller, 3, FloatMode::kFlushDenormals,
                             [&](std::int64_t task, int) { squares[task] = task * task + caller; });
                bool right = true;
                for (std::int64_t i = 0; i < 50 + caller; ++i) right &= squares[i] == i * i + caller;
                CHECK(right);
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
}

// The slow caller's loop occupies every worker until the quick caller is through: a quick caller
// that waited for it would hang.
void a_caller_never_waits_for_another() {
    std::atomic<bool> quick_done{false};
    std::atomic<int> slow_started{0};
    std::thread slow([&] {
        parallel_for(4, 4, FloatMode::kIeee, [&](std::int64_t, int) {
            ++slow_started;
            while (!quick_done) std::this_thread::yield();
        });
    });
    while (slow_started == 0) std::this_thread::yield();
    std::atomic<int> tasks{0};
    parallel_for(100, 4, FloatMode::kIeee, [&](std::int64_t, int) { ++tasks; });
    CHECK(tasks == 100);
    quick_done = true;
    slow.join();
}

void sleeping_workers_wake() {
    for (int round = 0; round < 20; ++round) {
        usleep(2000);  // far beyond the time that workers spin
        std::atomic<int> tasks{0};
        parallel_for(8, 4, FloatMode::kIeee, [&](std::int64_t, int) {
            ++tasks;
            usleep(100);
        });
        CHECK(tasks == 8);
    }
}

void a_caller_sleeps_until_a_long_task_is_done() {
    for (int round = 0; round < 5; ++round) {
        std::atomic<int> tasks{0};
        parallel_for(2, 2, FloatMode::kIeee, [&](std::int64_t, int worker) {
            usleep(worker == 0 ? 100 : 3000);  // beyond the time that callers spin
            ++tasks;
        });
        CHECK(tasks == 2);
    }
}

void every_part_has_every_run_of_chunks_once() {
    using cpu::SumTasks;
    for (const SumTasks& tasks : {SumTasks{3, 2, 5}, SumTasks{4, 2, 5}, SumTasks{4, 2, 6},
                                  SumTasks{1, 8, 3}, SumTasks{5, 1, 0}}) {
        std::vector<int> done(static_cast<std::size_t>(tasks.parts * tasks.chunks));
        for (std::int64_t task = 0; task < tasks.count(); ++task)
            for (std::int64_t c = tasks.begin(tasks.sum(task)); c < tasks.begin(tasks.sum(task) + 1); ++c)
                ++done[static_cast<std::size_t>(tasks.part(task) * tasks.chunks + c)];
        for (const int times : done) CHECK(times == 1);
    }
    // Three chunks in two runs, one and two.
    CHECK((SumTasks{1, 2, 3}.longest_stretch(2) == 2));
    CHECK((SumTasks{2, 2, 3}.longest_stretch(2) == 3));
    CHECK((SumTasks{3, 2, 3}.longest_stretch(2) == 5));  // 1 2 1 | 2 1 2
    CHECK((SumTasks{3, 2, 4}.longest_stretch(2) == 6));
    CHECK((SumTasks{1, 2, 3}.longest_stretch(64) == 2));
    CHECK((SumTasks{1, 2, 3}.longest_stretch(1) == 3));
}

void float_mode_is_set_everywhere_and_restored() {
#if defined(__x86_64__)
    constexpr unsigned kMode = 0xffc0, kStrange = 0x3f80;  // round down; without the sticky flags
    const unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(kStrange);
    for (const int threads : {1, 4}) {
        std::atomic<bool> right{true};
        parallel_for(64, threads, FloatMode::kFlushDenormals, [&](std::int64_t, int) {
            if ((__builtin_ia32_stmxcsr() & kMode) != 0x9fc0) right = false;
        });
        parallel_for(64, threads, FloatMode::kIeee, [&](std::int64_t, int) {
            if ((__builtin_ia32_stmxcsr() & kMode) != 0x1f80) right = false;
        });
        CHECK(right);
    }
    CHECK((__builtin_ia32_stmxcsr() & kMode) == kStrange);
    __builtin_ia32_ldmxcsr(before);
#endif
}

void scratch_belongs_to_a_thread() {
    parallel_for(64, 4, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::size_t bytes = static_cast<std::size_t>(1 + task * 4000);
        auto* memory = static_cast<unsigned char*>(thread_scratch(bytes));
        CHECK(reinterpret_cast<std::uintptr_t>(memory) % 64 == 0);
        std::memset(memory, static_cast<int>(task), bytes);
        CHECK(memory[0] == static_cast<unsigned char>(task) && memory[bytes - 1] == memory[0]);
    });
    CHECK(thread_scratch(1000) == thread_scratch(500));  // kept, not freed
    CHECK(thread_scratch(kMaxBlockScratch) != nullptr);
    bool refused = false;
    try {
        thread_scratch(kMaxBlockScratch + 1);
    } catch (const std::length_error&) {
        refused = true;
    }
    CHECK(refused);
}

void workspaces_come_back() {
    release_idle_workspaces();
    const void* first = nullptr;
    {
        const Workspace workspace = Workspace::acquire(1 << 20);
        first = workspace.data();
        CHECK(workspace.capacity() >= 1 << 20);
        CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
        CHECK(Workspace::acquire(1 << 20).data() != first);
    }
    CHECK(idle_workspace_bytes() == 2 << 20);
    CHECK(Workspace::acquire(1 << 20).data() == first);
    CHECK(Workspace::acquire(0).data() == nullptr);
    { const Workspace large = Workspace::acquire(workspace_limit() + 1); }
    CHECK(idle_workspace_bytes() <= workspace_limit());
    release_idle_workspaces();
    CHECK(idle_workspace_bytes() == 0);

    std::vector<std::thread> users;
    for (int user = 0; user < 4; ++user) {
        users.emplace_back([user] {
            for (int round = 0; round < 200; ++round) {
                const std::size_t bytes = 1000 + 70000 * static_cast<std::size_t>(round % 5);
                const Workspace mine = Workspace::acquire(bytes);
                auto* memory = static_cast<unsigned char*>(mine.data());
                memory[0] = memory[bytes - 1] = static_cast<unsigned char>(user);
                CHECK(memory[0] == user && memory[bytes - 1] == user);
            }
        });
    }
    for (std::thread& user : users) user.join();
    CHECK(idle_workspace_bytes() <= workspace_limit());
}

void dispatch_from_many_threads() {
    const auto& list = cpu::isas();
    CHECK(std::string(list.back().name) == "scalar");
    std::vector<std::thread> users;
    for (int user = 0; user < 4; ++user) {
        users.emplace_back([&list] {
            for (int round = 0; round < 100; ++round) {
                for (const cpu::Isa& isa : list) {
                    if (!isa.supported()) continue;
                    cpu::set_process_isa(&isa);
                    cpu::set_thread_isa(&isa);
                    CHECK(&cpu::current_isa() == &isa);
                    cpu::set_thread_isa(nullptr);
                    CHECK(cpu::current_isa().kernels<float>().probe->lanes >= 4);
                }
            }
        });
    }
    for (std::thread& user : users) user.join();
    for (const char* wrong : {"avx9", "", "AVX2"}) {
        bool refused = false;
        try {
            cpu::find_isa(wrong);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

void cgroup_quotas_are_read() {
    char name[] = "/tmp/fastconv-cgroup-XXXXXX";
    const std::string root = mkdtemp(name);
    for (const char* directory : {"/a", "/a/b", "/cpu", "/cpu/c", "/none"}) {
        mkdir((root + directory).c_str(), 0700);
    }
    write_file(root + "/a/cpu.max", "150000 100000\n");
    write_file(root + "/a/b/cpu.max", "max 100000\n");
    write_file(root + "/cpu/cpu.cfs_quota_us", "-1\n");
    write_file(root + "/cpu/cpu.cfs_period_us", "100000\n");
    write_file(root + "/cpu/c/cpu.cfs_quota_us", "300000\n");
    write_file(root + "/cpu/c/cpu.cfs_period_us", "100000\n");
    CHECK(cgroup_cpus("0::/a\n", root) == 2);    // 1.5 rounded up
    CHECK(cgroup_cpus("0::/a/b\n", root) == 2);  // the parent's limit holds
    CHECK(cgroup_cpus("0::/none\n", root) == 0);
    CHECK(cgroup_cpus("0::/\n", root) == 0);
    CHECK(cgroup_cpus("3:cpuset:/\n1:cpu:/c\n", root) == 3);
    CHECK(cgroup_cpus("1:cpu:/outside/the/container\n", root) == 0);
    CHECK(cgroup_cpus("nonsense\n", root) == 0);
    CHECK(available_cpus() >= 1 && available_cpus() <= affinity_cpus());
    std::system(("rm -r '" + root + "'").c_str());
}

void thread_numbers_are_checked() {
    for (const int wrong : {0, -1, kMaxThreads + 1}) {
        bool refused = false;
        try {
            set_num_threads(wrong);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
    set_num_threads(3);
    CHECK(num_threads() == 3);
}

}  // namespace

int main() {
    cgroup_quotas_are_read();
    thread_numbers_are_checked();
    every_task_once();
    worker_numbers_are_unique();
    order_is_ascending_in_each_stretch();
    nested_loops_run_on_the_same_thread();
    exceptions_reach_the_caller();
    concurrent_callers_get_their_own_results();
    a_caller_never_waits_for_another();
    sleeping_workers_wake();
    a_caller_sleeps_until_a_long_task_is_done();
    every_part_has_every_run_of_chunks_once();
    float_mode_is_set_everywhere_and_restored();
    scratch_belongs_to_a_thread();
    workspaces_come_back();
    dispatch_from_many_threads();
    return report();
}
