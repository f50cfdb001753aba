// Memory for one call: transformed weights, partial sums; and memory of results. Buffers go back to a
// bounded list instead of to the system, because fresh pages cost 0.1 to 0.25 us each (a fault per
// 4 KB), more than many a kernel that uses them. Workspaces and results have a list each, which keeps
// at most workspace_limit() or result_limit() bytes.
#pragma once

#include <cstddef>

namespace fastconv {

// The most that `auto` may plan for one call, and the most that idle buffers keep:
// FASTCONV_WORKSPACE_MB, default 128; std::invalid_argument if that says something else than a number.
std::size_t workspace_limit();
// The most that idle buffers of results keep: a step of training lets go of about this much at once.
std::size_t result_limit();

enum class Use : unsigned char { kCall, kResult };
std::size_t idle_workspace_bytes(Use use = Use::kCall);  // what the list keeps now
void release_idle_workspaces();                          // both lists

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// 64-byte aligned, from 4 MB (as NumPy) or `huge_from` bytes on, on huge pages where the system has
// some: fewer misses of the TLB while transformed weights stream by (3 to 9 % of a Winograd convolution
// of 512 channels). std::free gives it back; std::bad_alloc.
void* allocate_aligned(std::size_t bytes, std::size_t huge_from = 2 * kHugePage);

class Workspace {
public:
    Workspace() = default;
    // 64-byte aligned, contents undefined
    static Workspace acquire(std::size_t bytes, Use use = Use::kCall);
    Workspace(Workspace&& other) noexcept;
    Workspace& operator=(Workspace&& other) noexcept;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace();

    void* data() const { return data_; }            // nullptr if bytes was 0
    std::size_t capacity() const { return capacity_; }  // at least the bytes asked for

private:
    void* data_ = nullptr;
    std::size_t capacity_ = 0;
    Use use_ = Use::kCall;
};

}  // namespace fastconv
