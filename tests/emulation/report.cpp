// What a failed launch says: the kernel, the block, the threads, and what they did.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "engine.h"
#include "memory.h"

namespace emulation {
namespace {

std::string text(uint3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) +
           ")";
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string demangled(const char* name) {
    int status = 0;
    char* words = abi::__cxa_demangle(name, nullptr, nullptr, &status);
    std::string result = status == 0 ? words : name;
    std::free(words);
    return result;
}

/// The function that holds `offset`, from the symbol table of the ELF file at `path`: the dynamic
/// symbols, which dladdr() knows, have no kernels in a module that hides its symbols.
std::string symbol_at(const char* path, std::uintptr_t offset) {
    std::string result;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return result;
    struct stat status{};
    fstat(file, &status);
    const auto bytes = static_cast<std::size_t>(status.st_size);
    void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (map == MAP_FAILED) return result;
    const auto* base = static_cast<const char*>(map);
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(base + header->e_shoff);
    for (int s = 0; s < header->e_shnum; ++s) {
        if (sections[s].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = reinterpret_cast<const Elf64_Sym*>(base + sections[s].sh_offset);
        const char* names = base + sections[sections[s].sh_link].sh_offset;
        for (std::size_t i = 0; i < sections[s].sh_size / sizeof(Elf64_Sym); ++i) {
            if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC && offset >= symbols[i].st_value &&
                offset < symbols[i].st_value + symbols[i].st_size) {
                result = demangled(names + symbols[i].st_name);
            }
        }
    }
    munmap(map, bytes);
    return result;
}

struct Place {
    std::string function;
    std::string module;  // with the offset, as addr2line wants it
};

Place place_of(const void* code) {
    Place place;
    Dl_info info{};
    if (!dladdr(code, &info) || !info.dli_fname) return place;
    const auto base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
    // A position-dependent program is loaded where its symbols say.
    const auto* header = static_cast<const Elf64_Ehdr*>(info.dli_fbase);
    const auto address = reinterpret_cast<std::uintptr_t>(code);
    const std::uintptr_t offset = header->e_type == ET_EXEC ? address : address - base;
    place.function = symbol_at(info.dli_fname, offset);
    char words[32];
    std::snprintf(words, sizeof words, " 0x%zx", static_cast<std::size_t>(offset));
    place.module = info.dli_fname + std::string(words);
    return place;
}

}  // namespace

std::string Engine::where(const Thread* thread) const {
    const std::string name = place_of(launch_->kernel).function;
    std::string result = "kernel " + (name.empty() ? std::string("(name unknown)") : name);
    result += ", grid " + text(launch_->grid) + ", blocks of " + text(launch_->block);
    result += ", block " + text(blockIdx);
    if (thread) result += ", thread " + text(thread->index);
    return result;
}

void Engine::note_failure(cudaError_t error, const std::string& what) {
    error_ = error;
    report_ = where(current_) + ": " + what;
}

void Engine::fail(cudaError_t error, const std::string& what) {
    note_failure(error, what);
    leave();
}

void Engine::fail_stuck(const std::string& why, const Warp* warp) {
    error_ = cudaErrorLaunchFailure;
    report_ = where(nullptr) + ": " + why + describe_threads(warp);
    leave();
}

void Engine::fault(int signal, int code, const void* address, const void* instruction) {
    fault_ = {signal, code, address, instruction};
    fault_thread_ = delivered_ ? delivered_->issuer : current_;
    leave();
}

std::string Engine::describe_fault() const {
    const Place place = place_of(fault_.instruction);
    const auto* at = static_cast<const unsigned char*>(fault_.address);
    const unsigned char* shared_end = block_->shared + launch_->shared_bytes;
    char address[32];
    std::snprintf(address, sizeof address, "%p", fault_.address);
    std::string what;
    if (fault_.signal == SIGFPE) {
        what = "an integer division by zero";
    } else if (fault_.signal == SIGILL) {
        what = "a misaligned access (alignment is checked by the compiler), or a trap";
    } else if (fault_.signal == SIGSEGV && fault_.code == SI_KERNEL) {
        what = "a misaligned access, or an address that no memory can have";
    } else if (stacks_.hold(at)) {
        what = "more than " + std::to_string(Stacks::kBytes) + " bytes of local variables";
    } else if (at >= shared_end && at < shared_end + 2 * Memory::kPage) {
        what = "an access " + std::to_string(at - shared_end) +
               " bytes past the end of the block's " + std::to_string(launch_->shared_bytes) +
               " bytes of shared memory";
    } else if (at < block_->shared &&
               at >= reinterpret_cast<unsigned char*>(
                         shared_maps_[static_cast<std::size_t>(block_->rank)])) {
        what = "an access before the start of shared memory";
    } else {
        what = std::string("an access to ") + address + ", " + Memory::get().describe(at);
    }
    std::string result = where(fault_thread_) + ": " + what;
    if (delivered_)
        return result + ", by a copy by TMA issued at " + delivered_->file + ":" +
               std::to_string(delivered_->line);
    if (!place.function.empty()) result += ", in " + place.function;
    if (!place.module.empty()) result += " (addr2line -ife " + place.module + ")";
    return result;
}

/// Where a thread that has neither ended nor runs waits.
std::string Engine::describe_wait(const Thread& thread, const Block& block) const {
    const bool phase = thread.state == Thread::State::kAtPhase;
    std::string what = phase ? "barrier_wait" : thread.barrier;
    if (thread.state == Thread::State::kAtWarp) what = thread.collective->name;
    if (thread.state == Thread::State::kAtCluster) what = "cluster_barrier";
    what = "at " + what + ", " + base_name(thread.file) + ":" + std::to_string(thread.line);
    if (!phase) return what;
    const PhaseBarrier& barrier = block.phase_barriers[thread.awaited];
    std::size_t in_flight = 0;
    for (const BulkCopy& copy : block.copies) in_flight += copy.barrier == thread.awaited;
    return what + ", for phase " + std::to_string(thread.awaited_phase) +
           " of the barrier at offset " + std::to_string(barrier.offset) +
           " of shared memory, which misses " + std::to_string(barrier.missing) + " of " +
           std::to_string(barrier.arrivals) + " arrivals and " + std::to_string(barrier.bytes) +
           " bytes (copies in flight to it: " + std::to_string(in_flight) + ")";
}

std::string Engine::describe_threads(const Warp* warp) const {
    // One line for each place, with how many threads are there and the first of them.
    struct Group {
        std::string what;
        const Block* block;
        const Thread* first;
        int count;
    };
    std::vector<Group> groups;
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        const Thread& thread = threads_[i];
        const Block& block = blocks_[i / block_threads_];
        if (warp && (&threads_[static_cast<std::size_t>(warp->first)] > &thread ||
                     &threads_[static_cast<std::size_t>(warp->first)] + 32 <= &thread ||
                     warp->block != block.rank))
            continue;
        std::string what;
        switch (thread.state) {
            case Thread::State::kDone: what = "ended"; break;
            case Thread::State::kFresh: what = "not started"; break;
            case Thread::State::kRunning: what = "running"; break;
            default: what = describe_wait(thread, block);
        }
        bool known = false;
        for (Group& group : groups) {
            if (group.what != what || group.block != &block) continue;
            ++group.count;
            known = true;
            break;
        }
        if (!known) groups.push_back({what, &block, &thread, 1});
    }
    std::string result;
    for (const Group& group : groups) {
        result += "\n  " + std::to_string(group.count) + " threads " + group.what +
                  ", the first of them " + text(group.first->index);
        if (blocks_.size() > 1) result += " of block " + text(group.block->index);
    }
    return result;
}

}  // namespace emulation
