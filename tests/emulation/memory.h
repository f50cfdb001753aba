// Device and pinned memory. Every device allocation has pages of its own: its end, rounded up to 16
// bytes, is the start of a page that nothing may touch; so is the page before its first. What lies
// between that page and its start is filled with a pattern that is checked after every launch.
// Memory begins as 0xff, a NaN in every floating type; freed memory is unmapped and its addresses
// never used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>

namespace emulation {

/// Graph: of a captured allocation. It is no memory of the pool's, and may be touched only between
/// the graph's allocation of it and its release.
enum class MemoryKind : std::uint8_t { kDevice, kGraph, kPinned };

struct Allocation {
    bool is_device() const { return kind != MemoryKind::kPinned; }

    char* data = nullptr;
    std::size_t bytes = 0;
    char* map = nullptr;  // with its guard pages
    std::size_t map_bytes = 0;
    int device = 0;
    MemoryKind kind = MemoryKind::kDevice;
    bool accessible = true;
};

class Memory {
public:
    static constexpr std::size_t kPage = 4096;
    /// What the emulated device claims to have.
    static constexpr std::size_t kDeviceBytes = std::size_t{8} << 30;

    static Memory& get();

    void* allocate(std::size_t bytes, int device, MemoryKind kind);  // null: no more
    bool release(void* data);
    /// What a captured graph's nodes do with its memory. Accessible again, it is NaN again.
    void set_accessible(void* data, bool accessible);
    /// The graph is gone: releases its memory, or leaves what is still in use to whoever uses it.
    void end_graph(void* data);
    /// The allocation that `bytes` from `address` on lie in; false if none.
    bool find(const void* address, std::size_t bytes, Allocation& found);
    /// What is at an address that faulted, in words.
    std::string describe(const void* address) const;
    /// What was written beside an allocation, in words; empty if nothing was.
    std::string damage() const;
    std::size_t used_bytes(int device) const;

private:
    struct Freed {
        std::uintptr_t begin, end;
        std::size_t bytes;
    };

    Allocation* at(const void* address);

    mutable std::mutex mutex_;
    std::map<std::uintptr_t, Allocation> live_;  // by the start of the mapping
    std::deque<Freed> freed_;
    std::map<int, std::size_t> used_;
    std::uintptr_t next_ = std::uintptr_t{1} << 44;
};

}  // namespace emulation
