// The worker threads behind parallel_for.
//
//     caller A --post--> [ job A | job B ] <--post-- caller B
//                            ^       ^
//            idle workers join the open job with the fewest threads on it
//
// A caller posts its job, works on it itself and leaves when its tasks are done: it never runs or
// awaits another caller's job. Workers start when they are first needed and stay. A worker without
// work spins for at most kWorkerSpin and only if its last loop had a CPU for each thread; then it sleeps. Who
// came too late for a loop spins as well, up to as many as it wanted: small loops would else be over each time
// before a sleeper is awake. A caller whose part is done spins for at most kCallerSpin until the others are.
// Of more sleepers than needed those who slept last are woken, each on a CPU of its own: see
// placement.h.
//
// After fork the child has none of these threads: it starts a pool of its own at the first need.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "core/parallel.h"
#include "core/placement.h"

namespace fastconv {

// A thread inside a parallel loop runs any further loop it meets there alone.
class InsideParallel {
public:
    InsideParallel() : before_(now_) { now_ = true; }
    ~InsideParallel() { now_ = before_; }
    InsideParallel(const InsideParallel&) = delete;
    InsideParallel& operator=(const InsideParallel&) = delete;
    static bool now() { return now_; }

private:
    static thread_local bool now_;
    bool before_;
};

// Neighbouring tasks, handed out in order.
struct alignas(64) Share {
    std::atomic<std::int64_t> next;
    std::int64_t end;
    bool has_tasks() const { return next.load(std::memory_order_relaxed) < end; }
};

// One parallel loop; lives on its caller's stack. Each worker begins with a share of its own and then
// helps with the others': a loop over the same data, and the next layer's, finds in its core's L2 what
// it read or wrote last time.
struct Job {
    static constexpr int kMostShares = 32;

    TaskFunction function;
    void* body;
    std::int64_t tasks;
    FloatMode mode;
    int threads;                 // at most, the caller included
    int joined = 1;              // who took part so far: the caller is worker 0
    int shares;
    Share share[kMostShares];
    std::atomic<int> active{0};  // workers on it now, the caller not included
    std::mutex error_mutex;
    std::exception_ptr error;  // the first one thrown

    Job(TaskFunction function, void* body, std::int64_t tasks, FloatMode mode, int threads);
    bool has_tasks() const;
    void work(int worker) noexcept;  // takes tasks until there are none
    void drop_tasks();
};

// A worker while it sleeps; lives on its stack.
struct Sleeper {
    sem_t awake;
    Sleeper* next = nullptr;
    Placement placement;

    Sleeper() { sem_init(&awake, 0, 0); }
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;
    void sleep();
    void wake() { sem_post(&awake); }
};

class ThreadPool {
public:
    static ThreadPool& instance();
    void run(Job& job);  // returns when all of the job's tasks are done; rethrows their exception

private:
    // To wake a sleeper takes 5 to 50 us, a caller in a virtual machine up to 100. Layers called from Python
    // follow each other within 200 us: 1.03x to 1.08x of 50 us on training steps of small networks, two threads.
    static constexpr std::chrono::microseconds kWorkerSpin{200};
    // The end is near: no thread has more to do than one task. 3x3 160 -> 320 on 7x7, five panels for two
    // threads, 290 -> 227 us against 50 us.
    static constexpr std::chrono::microseconds kCallerSpin{1000};

    void post(Job& job);
    void start_workers(int wanted);  // with mutex_ held
    Sleeper* take_sleepers(int most);  // with mutex_ held
    static void wake(Sleeper* sleepers, bool place);
    void wait_until_left(const Job& job);
    void worker_loop();
    Job* open_job();  // with mutex_ held: the one to join, nullptr if none

    std::mutex mutex_;                     // guards what has no other comment
    std::condition_variable job_left_;     // callers whose last workers take long
    Sleeper* sleepers_ = nullptr;          // the one who slept last first
    std::vector<Job*> jobs_;
    int workers_ = 0;
    int spinning_ = 0;
    int spinners_ = 0;                     // that the last loop wanted; 0 without a CPU for each
    std::atomic<int> cpus_{1};             // no spinning for loops of more threads than these
    std::atomic<std::uint64_t> posts_{0};       // atomic: spinning workers watch it
    std::atomic<int> waiting_callers_{0};       // atomic: read by workers that leave a job
};

}  // namespace fastconv
