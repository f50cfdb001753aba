#include "memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#if !defined(MAP_FIXED_NOREPLACE)
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace emulation {
namespace {

constexpr std::size_t kRemembered = 4096;  // freed allocations that reports know by size
constexpr std::size_t kChecked = 64;       // bytes before an allocation that damage() looks at

std::string bytes_text(std::size_t bytes) { return std::to_string(bytes) + " bytes"; }

std::size_t round_up(std::size_t bytes, std::size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

}  // namespace

Memory& Memory::get() {
    static auto* memory = new Memory;  // outlives every static object that frees something
    return *memory;
}

void* Memory::allocate(std::size_t bytes, int device, MemoryKind kind) {
    const std::lock_guard lock(mutex_);
    if (kind != MemoryKind::kPinned &&
        (bytes > kDeviceBytes || used_[device] + bytes > kDeviceBytes))
        return nullptr;
    const std::size_t usable = round_up(bytes, kPage);
    const std::size_t map_bytes = usable + 2 * kPage;
    void* map = MAP_FAILED;
    while (map == MAP_FAILED) {
        map = mmap(reinterpret_cast<void*>(next_), map_bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (map == MAP_FAILED && errno != EEXIST) return nullptr;
        next_ += map == MAP_FAILED ? std::uintptr_t{1} << 32 : map_bytes;
        if (next_ >= std::uintptr_t{1} << 46) next_ = std::uintptr_t{1} << 44;
    }
    Allocation made;
    made.map = static_cast<char*>(map);
    made.map_bytes = map_bytes;
    made.data = made.map + kPage + usable - round_up(bytes, 16);
    made.bytes = bytes;
    made.device = device;
    made.kind = kind;
    if (mprotect(made.map + kPage, usable, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, map_bytes);
        return nullptr;
    }
    std::memset(made.map + kPage, 0xff, usable);
    live_[reinterpret_cast<std::uintptr_t>(map)] = made;
    if (kind == MemoryKind::kDevice) used_[device] += bytes;
    return made.data;
}

bool Memory::release(void* data) {
    const std::lock_guard lock(mutex_);
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    auto found = live_.upper_bound(address);
    if (found == live_.begin()) return false;
    --found;
    const Allocation& freed = found->second;
    if (freed.data != data) return false;
    if (freed.kind == MemoryKind::kDevice) used_[freed.device] -= freed.bytes;
    freed_.push_back({found->first, found->first + freed.map_bytes, freed.bytes});
    if (freed_.size() > kRemembered) freed_.pop_front();
    munmap(freed.map, freed.map_bytes);
    live_.erase(found);
    return true;
}

void Memory::set_accessible(void* data, bool accessible) {
    const std::lock_guard lock(mutex_);
    Allocation* changed = at(data);
    if (!changed) return;
    char* begin = changed->map + kPage;
    const std::size_t usable = changed->map_bytes - 2 * kPage;
    changed->accessible = accessible;
    mprotect(begin, usable, accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
    if (accessible) std::memset(begin, 0xff, usable);
}

void Memory::end_graph(void* data) {
    {
        const std::lock_guard lock(mutex_);
        Allocation* left = at(data);
        if (left && left->accessible) {
            left->kind = MemoryKind::kDevice;
            used_[left->device] += left->bytes;
            return;
        }
    }
    release(data);
}

Allocation* Memory::at(const void* address) {
    auto after = live_.upper_bound(reinterpret_cast<std::uintptr_t>(address));
    if (after == live_.begin()) return nullptr;
    Allocation& candidate = std::prev(after)->second;
    const auto* data = static_cast<const char*>(address);
    return data >= candidate.data && data <= candidate.data + candidate.bytes ? &candidate
                                                                              : nullptr;
}

bool Memory::find(const void* address, std::size_t bytes, Allocation& found) {
    const std::lock_guard lock(mutex_);
    const Allocation* candidate = at(address);
    if (!candidate) return false;
    const auto offset =
        static_cast<std::size_t>(static_cast<const char*>(address) - candidate->data);
    if (bytes > candidate->bytes - offset) return false;
    found = *candidate;
    return true;
}

std::string Memory::describe(const void* address) const {
    const std::lock_guard lock(mutex_);
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    auto after = live_.upper_bound(at);
    if (after != live_.begin()) {
        const Allocation& near = std::prev(after)->second;
        if (at < std::prev(after)->first + near.map_bytes) {
            const char* kind = near.is_device() ? " of device memory" : " of pinned memory";
            const auto data = reinterpret_cast<std::uintptr_t>(near.data);
            if (at < data)
                return bytes_text(data - at) + " before the start of " + bytes_text(near.bytes) +
                       kind;
            if (at >= data + near.bytes)
                return bytes_text(at - data - near.bytes) + " past the end of " +
                       bytes_text(near.bytes) + kind;
            return "inside " + bytes_text(near.bytes) + kind + " that its graph has freed";
        }
    }
    for (auto freed = freed_.rbegin(); freed != freed_.rend(); ++freed) {
        if (at >= freed->begin && at < freed->end)
            return "in memory that was freed (" + bytes_text(freed->bytes) + ")";
    }
    return at < kPage ? "a null pointer" : "not an address of device memory";
}

std::string Memory::damage() const {
    const std::lock_guard lock(mutex_);
    for (const auto& entry : live_) {
        const Allocation& allocation = entry.second;
        if (!allocation.is_device() || !allocation.accessible) continue;
        const char* first = allocation.map + kPage;
        const char* end = allocation.map + allocation.map_bytes - kPage;
        const char* from = allocation.data - first > static_cast<std::ptrdiff_t>(kChecked)
                               ? allocation.data - kChecked
                               : first;
        for (const char* at = from; at < allocation.data; ++at) {
            if (*at != '\xff')
                return "written " + bytes_text(static_cast<std::size_t>(allocation.data - at)) +
                       " before the start of " + bytes_text(allocation.bytes) + " of device memory";
        }
        for (const char* at = allocation.data + allocation.bytes; at < end; ++at) {
            if (*at != '\xff')
                return "written " +
                       bytes_text(static_cast<std::size_t>(at - allocation.data) -
                                  allocation.bytes) +
                       " past the end of " + bytes_text(allocation.bytes) + " of device memory";
        }
    }
    return {};
}

std::size_t Memory::used_bytes(int device) const {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(device);
    return found == used_.end() ? 0 : found->second;
}

}  // namespace emulation
