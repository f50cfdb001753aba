// wgmma of one warp: rows 16 w .. 16 w + 15 of its warpgroup's product, w = warp % 4. Layouts are
// in csrc/cuda/ptx_sm90.cuh.
//
// A product is computed when it is issued, but its registers are NaN until the wait, and then the
// operands must still be what they were: hardware may read them at any time between. What cp.async
// wrote must have been followed by its thread's proxy fence.
#include <cstring>

#include "engine.h"
#include "include/emulation/device.h"

namespace emulation {
namespace {

constexpr int kDepth = 16;

std::string place(const char* file, int line) {
    return std::string(" at ") + file + ":" + std::to_string(line);
}

[[noreturn]] void refuse(const WarpgroupProduct& product, const std::string& why) {
    Engine::running()->fail(cudaErrorLaunchFailure,
                            "wgmma: " + why + place(product.file, product.line));
}

bool same(const WarpgroupProduct& a, const WarpgroupProduct& b) {
    return a.a == b.a && a.b == b.b && a.cols == b.cols && a.bfloat16 == b.bfloat16 &&
           a.transpose_a == b.transpose_a && a.transpose_b == b.transpose_b &&
           a.accumulate == b.accumulate && a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

struct Descriptor {
    std::uint32_t start, leading, stride;
    Descriptor(std::uint64_t bits, const WarpgroupProduct& product)
        : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4),
          stride((bits >> 32 & 0x3fff) << 4) {
        if (bits >> 62 != 1) refuse(product, "only the 128-byte swizzle is emulated");
        if ((bits >> 49 & 7) != 0) refuse(product, "only a base offset of 0 is emulated");
    }
    /// Of the element (row, depth), from the start of shared memory. The swizzle is one of
    /// addresses, so that an operand may start at any line.
    std::uint32_t address(bool mn_major, std::uint32_t row, std::uint32_t depth) const {
        const std::uint32_t at =
            mn_major ? start + row / 64 * leading + row % 64 * 2 + depth / 8 * stride +
                           depth % 8 * 128
                     : start + row / 8 * stride + row % 8 * 128 + depth * 2;
        return at ^ (at >> 7 & 7) << 4;
    }
};

/// The 8 elements of an operand from `at` on.
void read_chunk(const WarpgroupProduct& product, bool of_a, std::uint32_t at, bool fenced_only,
                std::uint16_t (&elements)[8]) {
    Engine& engine = *Engine::running();
    if (at + 16 > engine.shared_bytes())
        refuse(product, std::string("operand ") + (of_a ? "a" : "b") + " at offset " +
                            std::to_string(at) + " of " + std::to_string(engine.shared_bytes()) +
                            " bytes of shared memory");
    if (fenced_only && engine.block().unfenced[at / 16] != 0)
        refuse(product, "no fence.proxy.async after the copy to offset " + std::to_string(at) +
                            " of shared memory");
    std::memcpy(elements, engine.shared_memory() + at, 16);
}

/// Rows [first, first + count) of an operand, multiples of 8, to `out` (count, 16 depths).
void read(const WarpgroupProduct& product, bool of_a, std::uint32_t first, std::uint32_t count,
          bool fenced_only, std::uint16_t* out) {
    const Descriptor descriptor(of_a ? product.a : product.b, product);
    const bool mn_major = of_a ? product.transpose_a : product.transpose_b;
    std::uint16_t elements[8];
    if (!mn_major) {
        for (std::uint32_t row = 0; row < count; ++row)
            for (std::uint32_t depth = 0; depth < std::uint32_t{kDepth}; depth += 8) {
                read_chunk(product, of_a, descriptor.address(false, first + row, depth),
                           fenced_only, elements);
                std::memcpy(out + row * kDepth + depth, elements, 16);
            }
        return;
    }
    for (std::uint32_t row = 0; row < count; row += 8)
        for (std::uint32_t depth = 0; depth < std::uint32_t{kDepth}; ++depth) {
            read_chunk(product, of_a, descriptor.address(true, first + row, depth), fenced_only,
                       elements);
            for (std::uint32_t i = 0; i < 8; ++i) out[(row + i) * kDepth + depth] = elements[i];
        }
}

std::vector<std::uint16_t> read_operands(const Warp& warp, const WarpgroupProduct& product,
                                         bool fenced_only) {
    std::vector<std::uint16_t> elements((16 + static_cast<std::size_t>(product.cols)) * kDepth);
    const auto quarter = static_cast<std::uint32_t>(warp.number % 4);
    read(product, true, quarter * 16, 16, fenced_only, elements.data());
    read(product, false, 0, static_cast<std::uint32_t>(product.cols), fenced_only,
         elements.data() + std::ptrdiff_t{16} * kDepth);
    return elements;
}

/// Copies a lane's registers into the warp's (16, columns) sums or back.
template <class Visit>
void for_each_register(Accumulators& own, const Visit& visit) {
    const int cols = own.per_lane * 2;
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < own.per_lane; ++i) {
            const int row = lane / 4 + i / 2 % 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
            visit(own.registers[lane][i], own.sums[static_cast<std::size_t>(row * cols + col)]);
        }
}

void add_product(const WarpgroupProduct& product, const std::vector<std::uint16_t>& elements,
                 std::vector<float>& sums) {
    using Columns = float __attribute__((vector_size(32)));
    const int cols = product.cols;
    const auto value = [&](int row, int depth) {
        const std::uint16_t bits = elements[static_cast<std::size_t>(row * kDepth + depth)];
        return product.bfloat16 ? bfloat16_to_float(bits) : half_to_float(bits);
    };
    float a[16][kDepth];
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < kDepth; ++k) a[row][k] = value(row, k);
    for (int first = 0; first < cols; first += 8) {
        alignas(32) float transposed[kDepth][8];
        for (int col = 0; col < 8; ++col)
            for (int k = 0; k < kDepth; ++k) transposed[k][col] = value(16 + first + col, k);
        for (int row = 0; row < 16; ++row) {
            float* at = &sums[static_cast<std::size_t>(row * cols + first)];
            Columns sum = {};
            if (product.accumulate) std::memcpy(&sum, at, sizeof sum);
            for (int k = 0; k < kDepth; ++k) {
                Columns b;
                std::memcpy(&b, transposed[k], sizeof b);
                sum += a[row][k] * b;
            }
            std::memcpy(at, &sum, sizeof sum);
        }
    }
}

/// The registers' entry; made from what they hold, and they become NaN.
Accumulators& accumulators_of(Warp& warp, void* const* operands, const WarpgroupProduct& product) {
    for (Accumulators& known : warp.accumulators)
        if (known.registers[0] == product.d) {
            for_each_register(known, [&](float& held, float&) {
                if (bits_of(held) != 0xffffffffu)
                    refuse(product, "registers changed while products into them were in flight");
            });
            return known;
        }
    if (!warp.fenced) refuse(product, "no wgmma.fence since its registers were last used");
    Accumulators made;
    made.per_lane = product.cols / 2;
    made.sums.resize(16 * static_cast<std::size_t>(product.cols));
    for (int lane = 0; lane < 32; ++lane)
        made.registers[lane] = static_cast<const WarpgroupProduct*>(operands[lane])->d;
    for_each_register(made, [](float& held, float& sum) {
        sum = held;
        held = float_of(0xffffffffu);
    });
    warp.accumulators.push_back(std::move(made));
    return warp.accumulators.back();
}

void complete_product(void* const* operands, unsigned) {
    Engine& engine = *Engine::running();
    Warp& warp = engine.warp();
    const auto& product = *static_cast<const WarpgroupProduct*>(operands[0]);
    for (int lane = 1; lane < 32; ++lane)
        if (!same(product, *static_cast<const WarpgroupProduct*>(operands[lane])))
            refuse(product, "lanes of a warp have different operands");
    if (engine.block_threads() % 128 != 0) refuse(product, "not every warpgroup has 4 warps");
    std::vector<WarpgroupProduct>& issued = engine.warpgroup(warp).products;
    if (warp.products_issued == issued.size()) issued.push_back(product);
    if (!same(product, issued[warp.products_issued++]))
        refuse(product, "warps of a warpgroup have different operands");

    Accumulators& sums = accumulators_of(warp, operands, product);
    std::vector<std::uint16_t> elements = read_operands(warp, product, true);
    add_product(product, elements, sums.sums);
    ++sums.pending;
    warp.products.push_back({product, warp.product_group, std::move(elements)});
}

void complete_fence(void* const*, unsigned) { Engine::running()->warp().fenced = true; }

void complete_commit(void* const*, unsigned) { ++Engine::running()->warp().product_group; }

void complete_wait(void* const* operands, unsigned) {
    Warp& warp = Engine::running()->warp();
    const int pending = *static_cast<const int*>(operands[0]);
    std::size_t finished = 0;
    for (; finished < warp.products.size(); ++finished) {
        const PendingProduct& done = warp.products[finished];
        if (done.group >= warp.product_group - pending) break;
        if (read_operands(warp, done.what, false) != done.operands)
            refuse(done.what, "operands in shared memory changed between its issue and its wait");
        for (std::size_t i = 0; i < warp.accumulators.size(); ++i) {
            Accumulators& sums = warp.accumulators[i];
            if (sums.registers[0] != done.what.d) continue;
            if (--sums.pending == 0) {
                for_each_register(sums, [](float& held, float& sum) { held = sum; });
                warp.accumulators.erase(warp.accumulators.begin() +
                                        static_cast<std::ptrdiff_t>(i));
                warp.fenced = false;
            }
            break;
        }
    }
    warp.products.erase(warp.products.begin(),
                        warp.products.begin() + static_cast<std::ptrdiff_t>(finished));
}

}  // namespace

const Collective kWgmma{"wgmma", true, complete_product};
const Collective kWgmmaFence{"wgmma.fence", true, complete_fence};
const Collective kWgmmaCommit{"wgmma.commit_group", true, complete_commit};
const Collective kWgmmaWait{"wgmma.wait_group", true, complete_wait};

void fence_copies() {
    Engine& engine = *Engine::running();
    for (const std::uint32_t chunk : engine.thread().unfenced) engine.block().unfenced[chunk] = 0;
    engine.thread().unfenced.clear();
}

}  // namespace emulation
