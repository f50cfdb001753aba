// Fibers: the stacks that a block's threads run on, switched without the kernel's help. On x86-64 a
// switch saves the six registers that the ABI says a function keeps; elsewhere it is swapcontext(),
// whose two system calls make it some 50 times slower.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

#if defined(__x86_64__)

struct Fiber {
    void* stack_pointer = nullptr;
};

extern "C" void fastconv_emulation_switch(void** save, void* load);

inline void switch_fiber(Fiber& from, Fiber& to) {
    fastconv_emulation_switch(&from.stack_pointer, to.stack_pointer);
}

/// `fiber` will start in entry(), which never returns, on the stack that ends at `end`.
inline void prepare_fiber(Fiber& fiber, char* /*begin*/, char* end, void (*entry)()) {
    // What the switch pops: r15 r14 r13 r12 rbx rbp and where to go. entry() then finds its stack
    // as after a call: 16-byte aligned but for the return address.
    auto* top =
        reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(end) & ~std::uintptr_t{15});
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
}

#else

struct Fiber {
    ucontext_t context;
};

inline void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

inline void prepare_fiber(Fiber& fiber, char* begin, char* end, void (*entry)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = begin;
    fiber.context.uc_stack.ss_size = static_cast<std::size_t>(end - begin);
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}

#endif

/// Stacks of one operating system thread, each between two guard pages, made when first needed.
class Stacks {
public:
    static constexpr std::size_t kBytes = 64 * 1024;
    static constexpr std::size_t kGuardBytes = 4 * 1024;
    static constexpr int kCount = 8 * 1024;  // threads of the largest cluster

    Stacks();
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    void clear() { used_ = 0, free_count_ = 0; }
    int take() { return free_count_ > 0 ? free_[--free_count_] : open(used_++); }
    void give_back(int stack) { free_[free_count_++] = stack; }
    char* begin(int stack) const { return base_ + stack * (kBytes + kGuardBytes) + kGuardBytes; }
    /// Stacks end at different places within a page, or their hot ends would all compete for the
    /// same few sets of the first-level cache.
    char* end(int stack) const { return begin(stack) + kBytes - stack % 32 * 128; }
    bool hold(const void* address) const;

private:
    int open(int stack);

    char* base_;
    int used_ = 0, opened_ = 0, free_count_ = 0;
    int free_[kCount];
};

}  // namespace emulation
