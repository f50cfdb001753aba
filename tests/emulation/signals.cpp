#include "signals.h"

#include <ucontext.h>

#include <cstdlib>
#include <memory>
#include <mutex>

#include "engine.h"

namespace emulation {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction before[65];

const void* instruction_of(void* context) {
#if defined(__x86_64__)
    return reinterpret_cast<const void*>(
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return reinterpret_cast<const void*>(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#else
    return (void)context, nullptr;
#endif
}

void handle(int signal, siginfo_t* info, void* context) {
    // Leaves the handler by a switch to the stack that called the kernel: SA_NODEFER keeps the
    // signal unblocked, and the kernel of the system knows by the stack pointer that the alternate
    // stack is free again.
    if (Engine* engine = Engine::running()) {
        engine->fault(signal, info->si_code, info->si_addr, instruction_of(context));
    }
    sigaction(signal, &before[signal], nullptr);  // faults again when this returns
}

struct AlternateStack {
    static constexpr std::size_t kBytes = 64 * 1024;
    AlternateStack() {
        stack_t current{};
        if (sigaltstack(nullptr, &current) == 0 && !(current.ss_flags & SS_DISABLE)) return;
        memory = std::make_unique<char[]>(kBytes);
        stack_t stack{};
        stack.ss_sp = memory.get();
        stack.ss_size = kBytes;
        sigaltstack(&stack, nullptr);
    }
    ~AlternateStack() {
        if (!memory) return;
        stack_t off{};
        off.ss_flags = SS_DISABLE;
        sigaltstack(&off, nullptr);
    }
    std::unique_ptr<char[]> memory;
};

}  // namespace

void install_signal_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (int signal : kSignals) {
            struct sigaction action{};
            action.sa_sigaction = handle;
            action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
            sigemptyset(&action.sa_mask);
            sigaction(signal, &action, &before[signal]);
        }
    });
    static thread_local AlternateStack stack;
    (void)stack;
}

}  // namespace emulation
