// Jobs, workers, spinning and sleeping; see thread_pool.h.
#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <system_error>
#include <thread>

#include "core/cpu_budget.h"

namespace fastconv {
namespace {

using Clock = std::chrono::steady_clock;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

// Spins until `done()` or until `limit` has passed; returns done(). After a while it leaves the CPU to whoever
// else wants it, each time for a look: two programs on the same two CPUs took 1.04 to 1.12 times as long without.
template <class Done>
bool spin(std::chrono::microseconds limit, Done done) {
    constexpr std::chrono::microseconds kAlone{50};
    const auto begin = Clock::now();
    for (auto now = begin; now < begin + limit; now = Clock::now()) {
        if (now > begin + kAlone) std::this_thread::yield();
        for (int i = 0; i < 16; ++i) {  // a pause is 20 to 140 cycles, a look at the clock 50
            if (done()) return true;
            pause();
        }
    }
    return done();
}

// Never destroyed: workers may be in it when the process ends.
std::atomic<ThreadPool*> pool{nullptr};

// The child's only thread is the one that forked. The parent's pool is left as it is (its mutex may
// have been locked by a thread that is gone), and the next need makes a new one.
void forget_pool_after_fork() { pool.store(nullptr); }

}  // namespace

thread_local bool InsideParallel::now_ = false;

Job::Job(TaskFunction function, void* body, std::int64_t tasks, FloatMode mode, int threads)
    : function(function), body(body), tasks(tasks), mode(mode), threads(threads),
      shares(static_cast<int>(
          std::min({std::int64_t{threads}, std::int64_t{kMostShares}, std::max<std::int64_t>(1, tasks)}))) {
    for (int s = 0; s < shares; ++s) {
        share[s].next.store(tasks * s / shares, std::memory_order_relaxed);
        share[s].end = tasks * (s + 1) / shares;
    }
}

bool Job::has_tasks() const {
    return std::any_of(share, share + shares, [](const Share& one) { return one.has_tasks(); });
}

void Job::drop_tasks() {
    for (int s = 0; s < shares; ++s) share[s].next.store(share[s].end, std::memory_order_relaxed);
}

void Job::work(int worker) noexcept {
    InsideParallel inside;
    FloatModeScope scope(mode);
    try {
        for (int s = 0; s < shares; ++s) {
            Share& from = share[(worker + s) % shares];
            for (;;) {
                const std::int64_t task = from.next.fetch_add(1, std::memory_order_relaxed);
                if (task >= from.end) break;
                function(body, task, worker);
            }
        }
    } catch (...) {
        drop_tasks();
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
    }
}

void Sleeper::sleep() {
    while (sem_wait(&awake) != 0) {
    }  // EINTR: a debugger, a process stopped and continued
    placement.after_sleep();
}

ThreadPool& ThreadPool::instance() {
    ThreadPool* current = pool.load(std::memory_order_acquire);
    if (current) return *current;
    static const int registered = pthread_atfork(nullptr, nullptr, &forget_pool_after_fork);
    (void)registered;
    ThreadPool* fresh = new ThreadPool;
    if (pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;  // another thread was faster; this one has no workers yet
    return *current;
}

void ThreadPool::run(Job& job) {
    post(job);
    job.work(0);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
    }
    wait_until_left(job);
    if (job.error) std::rethrow_exception(job.error);
}

void ThreadPool::post(Job& job) {
    int wanted = static_cast<int>(std::min<std::int64_t>(job.threads, job.tasks)) - 1;
    const bool may_place = places_workers();  // throws: before the job is known to anybody
    Sleeper* sleepers = nullptr;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        start_workers(wanted);
        jobs_.push_back(&job);
        spinners_ = job.threads <= cpus_.load(std::memory_order_relaxed) ? wanted : 0;
        posts_.fetch_add(1, std::memory_order_release);
        // Those who spin look at jobs_ once more before they sleep.
        sleepers = take_sleepers(wanted - spinning_);
    }
    // Threads without a CPU for each gain nothing from being placed.
    const bool place = may_place && job.threads <= cpus_.load(std::memory_order_relaxed);
    if (sleepers) wake(sleepers, place);
}

Sleeper* ThreadPool::take_sleepers(int most) {
    Sleeper* taken = nullptr;
    for (; most > 0 && sleepers_; --most) {
        Sleeper* one = sleepers_;
        sleepers_ = one->next;
        one->next = taken;
        taken = one;
    }
    return taken;
}

void ThreadPool::wake(Sleeper* sleepers, bool place) {
    WakeUp wake_up(sched_getcpu());
    for (const Sleeper* one = sleepers; one; one = one->next) wake_up.expect(one->placement.cpu());
    while (sleepers) {
        Sleeper* const one = sleepers;
        sleepers = one->next;  // once awake it may sleep again, in another list
        if (place) one->placement.narrow(wake_up);
        one->wake();
    }
}

void ThreadPool::start_workers(int wanted) {
    if (workers_ >= wanted) return;
    // Signals go to the program's own threads: a new thread inherits the mask of its creator.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (; workers_ < wanted; ++workers_) std::thread([this] { worker_loop(); }).detach();
    } catch (const std::system_error&) {
        // No more threads to be had here: the ones there are do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    cpus_.store(available_cpus(), std::memory_order_relaxed);
}

// After the job left jobs_, nobody can join it; wait for those who are still on their last task.
void ThreadPool::wait_until_left(const Job& job) {
    const auto left = [&] { return job.active.load() == 0; };
    if (left()) return;
    if (job.threads <= cpus_.load(std::memory_order_relaxed) && spin(kCallerSpin, left)) return;
    // A leaving worker decrements active, then reads waiting_callers_; this increments
    // waiting_callers_, then reads active. In the one order of all these, one of the two sees the
    // other, so no wake-up is lost.
    waiting_callers_.fetch_add(1);
    std::unique_lock<std::mutex> lock(mutex_);
    job_left_.wait(lock, left);
    waiting_callers_.fetch_sub(1);
}

Job* ThreadPool::open_job() {
    Job* best = nullptr;
    for (Job* job : jobs_) {
        if (job->joined >= job->threads || !job->has_tasks()) continue;
        if (!best || job->joined < best->joined) best = job;
    }
    return best;
}

void ThreadPool::worker_loop() {
    Sleeper self;
    std::unique_lock<std::mutex> lock(mutex_);
    bool may_spin = false;
    for (;;) {
        if (Job* job = open_job()) {
            const int worker = job->joined++;
            may_spin = job->threads <= cpus_.load(std::memory_order_relaxed);
            job->active.fetch_add(1);
            lock.unlock();
            job->work(worker);
            job->active.fetch_sub(1);  // the last touch: the job may be gone after this
            const bool awaited = waiting_callers_.load() > 0;
            lock.lock();
            if (awaited) job_left_.notify_all();
            continue;
        }
        if (may_spin) {
            const std::uint64_t seen = posts_.load(std::memory_order_relaxed);
            ++spinning_;
            lock.unlock();
            const bool posted =
                spin(kWorkerSpin, [&] { return posts_.load(std::memory_order_acquire) != seen; });
            lock.lock();
            --spinning_;
            may_spin = posted && spinning_ < spinners_;
            continue;
        }
        self.placement.before_sleep();
        self.next = sleepers_;
        sleepers_ = &self;
        lock.unlock();
        self.sleep();
        lock.lock();
        may_spin = spinning_ < spinners_;  // a loop may be done before a sleeper is awake
    }
}

}  // namespace fastconv
