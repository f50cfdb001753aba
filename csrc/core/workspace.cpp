// Bounded, thread-safe lists of idle buffers; see workspace.h.
#include "core/workspace.h"

#include <pthread.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fastconv {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kGranule = std::size_t{64} << 10;  // sizes in steps, so that buffers fit again

struct Buffer {
    void* data;
    std::size_t capacity;
};

struct IdleList {
    std::mutex mutex;
    std::vector<Buffer> buffers;
    std::size_t bytes = 0;
};

IdleList& idle_list(Use use);

// A fork while another thread holds a mutex would leave it locked in the child for ever.
void lock_before_fork() {
    idle_list(Use::kCall).mutex.lock();
    idle_list(Use::kResult).mutex.lock();
}
void unlock_after_fork() {
    idle_list(Use::kResult).mutex.unlock();
    idle_list(Use::kCall).mutex.unlock();
}

// Never destroyed: a thread may give a buffer back while the process ends.
IdleList& idle_list(Use use) {
    static IdleList* const lists = [] {
        pthread_atfork(&lock_before_fork, &unlock_after_fork, &unlock_after_fork);
        return new IdleList[2];
    }();
    return lists[static_cast<int>(use)];
}

std::size_t limit_of(Use use) { return use == Use::kCall ? workspace_limit() : result_limit(); }

// The smallest idle buffer that holds `bytes` and wastes no more than that, among equals the one
// used last; {nullptr, 0} if none.
Buffer take_idle(std::size_t bytes, Use use) {
    IdleList& list = idle_list(use);
    std::lock_guard<std::mutex> lock(list.mutex);
    auto best = list.buffers.end();
    for (auto it = list.buffers.begin(); it != list.buffers.end(); ++it) {
        if (it->capacity < bytes || it->capacity > 2 * bytes) continue;
        if (best == list.buffers.end() || it->capacity <= best->capacity) best = it;
    }
    if (best == list.buffers.end()) return {nullptr, 0};
    const Buffer found = *best;
    list.buffers.erase(best);
    list.bytes -= found.capacity;
    return found;
}

// The oldest idle buffers make room for one just used, whose pages are warm.
void give_back(Buffer buffer, Use use) noexcept {
    IdleList& list = idle_list(use);
    std::lock_guard<std::mutex> lock(list.mutex);
    try {
        list.buffers.reserve(list.buffers.size() + 1);
    } catch (...) {
        std::free(buffer.data);
        return;
    }
    list.buffers.push_back(buffer);
    list.bytes += buffer.capacity;
    while (list.bytes > limit_of(use)) {
        list.bytes -= list.buffers.front().capacity;
        std::free(list.buffers.front().data);
        list.buffers.erase(list.buffers.begin());
    }
}

}  // namespace

void* allocate_aligned(std::size_t bytes, std::size_t huge_from) {
    void* data = nullptr;
    if (posix_memalign(&data, bytes < huge_from ? kAlignment : kHugePage, bytes) != 0)
        throw std::bad_alloc();
#ifdef __linux__
    if (bytes >= huge_from) madvise(data, bytes, MADV_HUGEPAGE);  // a wish: no matter if refused
#endif
    return data;
}

std::size_t workspace_limit() {
    static const std::size_t limit = [] {
        const char* text = std::getenv("FASTCONV_WORKSPACE_MB");
        if (!text || !*text) return std::size_t{128} << 20;
        char* end = nullptr;
        const long long value = std::strtoll(text, &end, 10);
        if (end == text || *end != '\0' || value < 0 || value > 1 << 20) {
            throw std::invalid_argument("environment variable FASTCONV_WORKSPACE_MB: '" +
                                        std::string(text) + "' is not a number of megabytes");
        }
        return static_cast<std::size_t>(value) << 20;
    }();
    return limit;
}

std::size_t result_limit() {
    constexpr std::size_t kResultsPerWorkspace = 4;
    return kResultsPerWorkspace * workspace_limit();
}

std::size_t idle_workspace_bytes(Use use) {
    IdleList& list = idle_list(use);
    std::lock_guard<std::mutex> lock(list.mutex);
    return list.bytes;
}

void release_idle_workspaces() {
    for (Use use : {Use::kCall, Use::kResult}) {
        IdleList& list = idle_list(use);
        std::lock_guard<std::mutex> lock(list.mutex);
        for (const Buffer& buffer : list.buffers) std::free(buffer.data);
        list.buffers.clear();
        list.bytes = 0;
    }
}

Workspace Workspace::acquire(std::size_t bytes, Use use) {
    workspace_limit();  // throws here if the variable is wrong, so never when a buffer comes back
    Workspace result;
    if (bytes == 0) return result;
    const std::size_t rounded = (bytes + kGranule - 1) / kGranule * kGranule;
    Buffer buffer = take_idle(rounded, use);
    if (!buffer.data) buffer = {allocate_aligned(rounded), rounded};
    result.data_ = buffer.data;
    result.capacity_ = buffer.capacity;
    result.use_ = use;
    return result;
}

Workspace::Workspace(Workspace&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)),
      use_(other.use_) {}

Workspace& Workspace::operator=(Workspace&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(use_, other.use_);
    return *this;
}

Workspace::~Workspace() {
    if (data_) give_back({data_, capacity_}, use_);
}

}  // namespace fastconv
