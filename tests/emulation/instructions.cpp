// What warps and threads do in one instruction, as PTX specifies it: shuffles and votes, cp.async,
// ldmatrix and stmatrix, mma.sync. Fragment layouts are in csrc/cuda/ptx.cuh.
#include <cmath>
#include <cstring>

#include "engine.h"
#include "include/cuda/ptx.cuh"
#include "include/cuda/ptx_tma.cuh"
#include "include/emulation/device.h"

namespace emulation {

// ---- shuffles and votes -------------------------------------------------------------------------

namespace {

void complete_shuffle(void* const* operands, unsigned lanes) {
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        auto& own = *static_cast<Shuffle*>(operands[__builtin_ctz(rest)]);
        // What a lane that takes no part would give is undefined: a NaN.
        own.result = lanes >> own.source & 1u
                         ? static_cast<const Shuffle*>(operands[own.source])->value
                         : ~std::uint64_t{0};
    }
}

void complete_vote(void* const* operands, unsigned lanes) {
    unsigned ballot = 0;
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        if (static_cast<const Vote*>(operands[lane])->predicate) ballot |= 1u << lane;
    }
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        static_cast<Vote*>(operands[__builtin_ctz(rest)])->ballot = ballot;
    }
}

}  // namespace

const Collective kSyncWarp{"__syncwarp", false, nullptr};
const Collective kShuffle{"__shfl_sync", false, complete_shuffle};
const Collective kShuffleXor{"__shfl_xor_sync", false, complete_shuffle};
const Collective kShuffleUp{"__shfl_up_sync", false, complete_shuffle};
const Collective kShuffleDown{"__shfl_down_sync", false, complete_shuffle};
const Collective kVote{"a vote (__ballot_sync, __any_sync, __all_sync)", false, complete_vote};

// ---- cp.async -----------------------------------------------------------------------------------
// Delayed (the default): a copy happens only in the thread's wait for its group, and until then its
// destination is NaN, whatever was there. FASTCONV_EMULATION_CP_ASYNC=immediate: at once. Hardware
// may do either, or anything between.

namespace {

void require_aligned(Engine& engine, const void* address, std::size_t bytes, const char* what,
                     const char* file, int line) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes == 0) return;
    engine.fail(cudaErrorMisalignedAddress,
                std::string("cp.async: ") + what + " address is no multiple of " +
                    std::to_string(bytes) + " at " + file + ":" + std::to_string(line));
}

bool in_shared_memory(Engine& engine, const void* address, std::size_t bytes) {
    const auto offset = reinterpret_cast<std::uintptr_t>(address) -
                        reinterpret_cast<std::uintptr_t>(engine.shared_memory());
    return offset <= engine.shared_bytes() && bytes <= engine.shared_bytes() - offset;
}

std::string shared_place(Engine& engine, const void* address) {
    const auto* shared = reinterpret_cast<const char*>(engine.shared_memory());
    return "offset " + std::to_string(static_cast<const char*>(address) - shared) + " of " +
           std::to_string(engine.shared_bytes()) + " bytes of shared memory";
}

/// wgmma and TMA do not see what `thread` writes there before its fence_proxy_async.
void note_unfenced(Engine& engine, Thread& thread, const void* shared) {
    const auto chunk = static_cast<std::uint32_t>(
        (static_cast<const unsigned char*>(shared) - engine.shared_memory()) / 16);
    engine.block().unfenced[chunk] = 1;
    thread.unfenced.push_back(chunk);
}

void perform(Engine& engine, const AsyncCopy& copy) {
    note_unfenced(engine, engine.thread(), copy.shared);
    if (copy.valid) {
        std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.bytes));
    } else {
        std::memset(copy.shared, 0, static_cast<std::size_t>(copy.bytes));
    }
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, bool valid, const char* file,
                int line) {
    Engine& engine = *Engine::running();
    const auto size = static_cast<std::size_t>(bytes);
    require_aligned(engine, shared, size, "shared", file, line);
    if (!in_shared_memory(engine, shared, size)) {
        engine.fail(cudaErrorIllegalAddress, "cp.async: " + std::to_string(bytes) + " bytes at " +
                                                 shared_place(engine, shared) + " at " + file +
                                                 ":" + std::to_string(line));
    }
    if (valid) {
        require_aligned(engine, global, size, "global", file, line);
        // Faults here, in the thread and the line that are to blame.
        const volatile auto* source = static_cast<const char*>(global);
        (void)source[0];
        (void)source[bytes - 1];
    }
    Thread& thread = engine.thread();
    const AsyncCopy copy{shared, global, bytes, valid, thread.group};
    if (!engine.delays_copies()) return perform(engine, copy);
    std::memset(shared, 0xff, size);
    thread.copies.push_back(copy);
}

void commit_copies() { ++Engine::running()->thread().group; }

void wait_for_copies(int pending) {
    Engine& engine = *Engine::running();
    Thread& thread = engine.thread();
    std::size_t finished = 0;  // copies are in the order of their groups
    while (finished < thread.copies.size() &&
           thread.copies[finished].group < thread.group - pending) {
        perform(engine, thread.copies[finished++]);
    }
    thread.copies.erase(thread.copies.begin(),
                        thread.copies.begin() + static_cast<std::ptrdiff_t>(finished));
}

// ---- ldmatrix, stmatrix -------------------------------------------------------------------------

namespace {

void check_matrix_row(const char* name, int lane, const void* row) {
    Engine& engine = *Engine::running();
    const bool aligned = reinterpret_cast<std::uintptr_t>(row) % 16 == 0;
    if (aligned && in_shared_memory(engine, row, 16)) return;
    engine.fail(aligned ? cudaErrorIllegalAddress : cudaErrorMisalignedAddress,
                std::string(name) + ": the row address of lane " + std::to_string(lane) + " is " +
                    shared_place(engine, row) + ", and must be a multiple of 16 inside it");
}

template <bool kTransposed>
void complete_load(void* const* operands, unsigned) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        std::uint16_t elements[8][8];
        for (int row = 0; row < 8; ++row) {
            const auto* from = static_cast<const LoadMatrix*>(operands[matrix * 8 + row])->row;
            check_matrix_row("ldmatrix", matrix * 8 + row, from);
            std::memcpy(elements[row], from, 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = lane % 4 * 2;
            const std::uint32_t lo = kTransposed ? elements[j][i] : elements[i][j];
            const std::uint32_t hi = kTransposed ? elements[j + 1][i] : elements[i][j + 1];
            static_cast<const LoadMatrix*>(operands[lane])->result[matrix] = lo | hi << 16;
        }
    }
}

void complete_store(void* const* operands, unsigned) {
    Engine& engine = *Engine::running();
    const auto of = [&](int lane) { return static_cast<const StoreMatrices*>(operands[lane]); };
    for (int lane = 0; lane < 32; ++lane) {
        const int matrix = lane / 8, row = lane % 8;
        void* to = of(lane)->row;
        check_matrix_row("stmatrix", lane, to);
        std::uint32_t words[4];
        for (int i = 0; i < 4; ++i) words[i] = of(row * 4 + i)->word[matrix];
        std::memcpy(to, words, 16);
        note_unfenced(engine, engine.thread_of_lane(lane), to);
    }
}

}  // namespace

const Collective kStoreMatrices{"stmatrix", true, complete_store};
const Collective kLoadMatrix{"ldmatrix", true, complete_load<false>};
const Collective kLoadMatrixTransposed{"ldmatrix.trans", true, complete_load<true>};

// ---- mma.sync -----------------------------------------------------------------------------------
// Products of 11-bit significands are exact in float32; sums are rounded after each product, in the
// order of the depth. Hardware adds in another order and with other roundings. Of these tf32 has the
// one that 3xTF32 must live with: it sums the whole depth and then rounds towards zero.

namespace {

struct BFloat16Element {
    using Sum = float;
    static constexpr int kPerRegister = 2;
    static float read(std::uint32_t bits, int half) {
        return float_of(half == 0 ? bits << 16 : bits & 0xffff0000u);
    }
};
struct HalfElement {
    using Sum = float;
    static constexpr int kPerRegister = 2;
    static float read(std::uint32_t bits, int half) {
        return half_to_float(static_cast<std::uint16_t>(bits >> 16 * half));
    }
};
struct Tf32Element {
    using Sum = double;
    static constexpr int kPerRegister = 1;
    static float read(std::uint32_t bits, int) { return float_of(bits & ~0x1fffu); }
};

float rounded(float sum) { return sum; }
float rounded(double sum) {  // towards zero; beyond float32's range to infinity
    const auto nearest = static_cast<float>(sum);
    const bool away = std::fabs(double{nearest}) > std::fabs(sum) && !std::isinf(nearest);
    return away ? float_of(bits_of(nearest) - 1) : nearest;
}

template <class Element>
void complete_multiply(void* const* operands, unsigned) {
    using Sum = typename Element::Sum;
    typedef Sum Row __attribute__((vector_size(8 * sizeof(Sum))));  // 8 columns
    constexpr int kPer = Element::kPerRegister, kDepth = 8 * kPer, kRows = 4;
    float a[16][kDepth];
    alignas(sizeof(Row)) Sum b[kDepth][8];
    alignas(sizeof(Row)) Sum d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = *static_cast<const MultiplyMatrix*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < kPer; ++i) {
            for (int part = 0; part < 4; ++part) {
                a[g + part % 2 * 8][part / 2 * 4 * kPer + t * kPer + i] =
                    Element::read(own.a[part], i);
            }
            for (int part = 0; part < 2; ++part) {
                b[part * 4 * kPer + t * kPer + i][g] = Element::read(own.b[part], i);
            }
        }
        for (int e = 0; e < 4; ++e) d[g + e / 2 * 8][2 * t + e % 2] = own.d[e];
    }
    // Some rows at once: each is a chain of additions.
    for (int first = 0; first < 16; first += kRows) {
        Row sum[kRows];
        std::memcpy(sum, d[first], sizeof sum);
        for (int k = 0; k < kDepth; ++k) {
            Row other;
            std::memcpy(&other, b[k], sizeof other);
            for (int row = 0; row < kRows; ++row) sum[row] += Sum{a[first + row][k]} * other;
        }
        std::memcpy(d[first], sum, sizeof sum);
    }
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = *static_cast<const MultiplyMatrix*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int e = 0; e < 4; ++e) own.d[e] = rounded(d[g + e / 2 * 8][2 * t + e % 2]);
    }
}

}  // namespace

const Collective kMultiplyBFloat16{"mma.m16n8k16.bf16", true, complete_multiply<BFloat16Element>};
const Collective kMultiplyHalf{"mma.m16n8k16.f16", true, complete_multiply<HalfElement>};
const Collective kMultiplyTf32{"mma.m16n8k8.tf32", true, complete_multiply<Tf32Element>};

}  // namespace emulation
