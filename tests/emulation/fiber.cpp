#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__x86_64__)
// A jump to the saved address: a return would miss the processor's return stack every time.
asm(R"(
    .text
    .p2align 4
    .globl fastconv_emulation_switch
    .hidden fastconv_emulation_switch
    .type fastconv_emulation_switch, @function
fastconv_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size fastconv_emulation_switch, . - fastconv_emulation_switch
)");
#endif

namespace emulation {

Stacks::Stacks() {
    void* base = mmap(nullptr, kCount * (kBytes + kGuardBytes) + kGuardBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(base);
}

Stacks::~Stacks() { munmap(base_, kCount * (kBytes + kGuardBytes) + kGuardBytes); }

int Stacks::open(int stack) {
    if (stack >= opened_) {
        mprotect(begin(stack), kBytes, PROT_READ | PROT_WRITE);
        opened_ = stack + 1;
    }
    return stack;
}

bool Stacks::hold(const void* address) const {
    const auto* at = static_cast<const char*>(address);
    return at >= base_ && at < base_ + kCount * (kBytes + kGuardBytes) + kGuardBytes;
}

}  // namespace emulation
