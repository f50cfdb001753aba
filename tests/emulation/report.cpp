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

void Engine::fail(cudaError_t error, const std::string& what) {
    error_ = error;
    report_ = where(current_) + ": " + what;
    leave();
}

void Engine::fail_stuck(const std::string& why, const Warp* warp) {
    error_ = cudaErrorLaunchFailure;
    report_ = where(nullptr) + ": " + why + describe_threads(warp);
    leave();
}

void Engine::fault(int signal, int code, const void* address, const void* instruction) {
    fault_ = {signal, code, address, instruction};
    fault_thread_ = current_;
    leave();
}

std::string Engine::describe_fault() const {
    const Place place = place_of(fault_.instruction);
    const auto* at = static_cast<const unsigned char*>(fault_.address);
    const unsigned char* shared_end = shared_ + launch_->shared_bytes;
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
    } else if (at < shared_ && at >= reinterpret_cast<unsigned char*>(shared_map_)) {
        what = "an access before the start of shared memory";
    } else {
        what = std::string("an access to ") + address + ", " + Memory::get().describe(at);
    }
    std::string result = where(fault_thread_) + ": " + what;
    if (!place.function.empty()) result += ", in " + place.function;
    if (!place.module.empty()) result += " (addr2line -ife " + place.module + ")";
    return result;
}

std::string Engine::describe_threads(const Warp* warp) const {
    // One line for each place, with how many threads are there and the first of them.
    struct Group {
        std::string what;
        const Thread* first;
        int count;
    };
    std::vector<Group> groups;
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (warp && &warps_[i / 32] != warp) continue;
        const Thread& thread = threads_[i];
        std::string what;
        switch (thread.state) {
            case Thread::State::kDone: what = "ended"; break;
            case Thread::State::kFresh: what = "not started"; break;
            case Thread::State::kRunning: what = "running"; break;
            case Thread::State::kAtWarp:
            case Thread::State::kAtBlock:
                what = std::string("at ") +
                       (thread.state == Thread::State::kAtWarp ? thread.collective->name
                                                               : thread.barrier) +
                       ", " + base_name(thread.file) + ":" + std::to_string(thread.line);
        }
        bool known = false;
        for (Group& group : groups) {
            if (group.what != what) continue;
            ++group.count;
            known = true;
            break;
        }
        if (!known) groups.push_back({what, &thread, 1});
    }
    std::string result;
    for (const Group& group : groups) {
        result += "\n  " + std::to_string(group.count) + " threads " + group.what +
                  ", the first of them " + text(group.first->index);
    }
    return result;
}

}  // namespace emulation
