// Copies by TMA to shared memory (cp.async.bulk.tensor, PTX 9.7.9.27.5), tiled and im2col, 128-byte
// swizzle.
//
// Delayed (the default, FASTCONV_EMULATION_CP_ASYNC): the destination is NaN from the issue on, and
// a copy arrives only once nothing else can go on and a thread waits for its barrier; in a random
// order also at other times. Immediate: at the issue. Memory is read when it arrives.
#include <algorithm>
#include <cstring>

#include "engine.h"
#include "include/cuda/ptx_tma.cuh"
#include "memory.h"

namespace emulation {

void refuse_copy(const BarrierUse& use, cudaError_t error, const std::string& why) {
    Engine::running()->fail(error, std::string(use.name) + ": " + why + " at " + use.file + ":" +
                                       std::to_string(use.line));
}

namespace {

constexpr int kLineElems = 64;

void check_walk(const BulkCopy& copy, const BarrierUse& use) {
    for (int d = 0; d < 2; ++d) {
        const char* name = d == 0 ? "w" : "h";
        const int at = copy.at[d + 1];
        if (at < copy.map.first_pixel[d] || at > copy.map.last_pixel[d])
            refuse_copy(use, cudaErrorLaunchFailure,
                   std::string(name) + " is " + std::to_string(at) + ", and the map walks " +
                       std::to_string(copy.map.first_pixel[d]) + " .. " +
                       std::to_string(copy.map.last_pixel[d]));
        if (copy.tap[d] < 0 || copy.tap[d] > 255)
            refuse_copy(use, cudaErrorLaunchFailure,
                   std::string("tap_") + name + " is " + std::to_string(copy.tap[d]) +
                       ", not 0 .. 255");
    }
}

void perform(Block& block, const BulkCopy& copy) {
    BulkLines lines(copy);
    for (int line = 0; line < copy.map.line_count(); ++line, lines.next()) {
        std::uint16_t elements[kLineElems] = {};
        if (const unsigned char* from = lines.global())
            std::memcpy(elements + lines.begin(), from,
                        static_cast<std::size_t>(lines.end() - lines.begin()) * 2);
        for (int chunk = 0; chunk < 8; ++chunk)
            std::memcpy(copy.shared + swizzled_chunk(line, chunk), elements + chunk * 8, 16);
    }
    const auto chunk = static_cast<std::size_t>(copy.shared - block.shared) / 16;
    std::memset(&block.unfenced[chunk], 0, copy.byte_count() / 16);
}

}  // namespace

BulkLines::BulkLines(const BulkCopy& copy) : copy_(copy) {
    std::memcpy(at_, copy.at + 1, sizeof at_);
    const std::int64_t first = copy.at[0], left = copy.map.size(0) - first;
    begin_ = first < 0 ? static_cast<int>(std::min<std::int64_t>(-first, kLineElems)) : 0;
    end_ = static_cast<int>(std::clamp<std::int64_t>(left, 0, kLineElems));
}

unsigned char* BulkLines::global() const {
    if (begin_ >= end_) return nullptr;
    unsigned char* at = copy_.map.data + std::ptrdiff_t{2} * (std::ptrdiff_t{copy_.at[0]} + begin_);
    for (int d = 0; d < 3; ++d) {
        const std::int64_t i = std::int64_t{at_[d]} + (d < 2 ? copy_.tap[d] : 0);
        if (i < 0 || i >= copy_.map.size(d + 1)) return nullptr;
        at += static_cast<std::uint64_t>(i) * copy_.map.bytes[d];
    }
    return at;
}

void BulkLines::next() {
    const MapDescription& map = copy_.map;
    const bool image = map.kind == MapDescription::Kind::kImage;
    for (int d = 0; d < 2; ++d) {
        at_[d] += map.step[d];
        const int last = copy_.at[d + 1] + (map.lines[d] - 1) * map.step[d];
        if (at_[d] <= (image ? map.last_pixel[d] : last)) return;
        at_[d] = image ? map.first_pixel[d] : copy_.at[d + 1];
    }
    ++at_[2];
}

void Engine::deliver(Block& block, std::size_t index) {
    const BulkCopy copy = block.copies[index];
    block.copies.erase(block.copies.begin() + static_cast<std::ptrdiff_t>(index));
    // Whatever is found now is the issuer's.
    Thread* const running = current_;
    Block* const its_block = block_;
    current_ = copy.issuer;
    enter(block);
    delivered_ = copy;
    perform(block, copy);
    delivered_.reset();
    count_bytes(copy.barrier, static_cast<std::int64_t>(copy.byte_count()),
                {"a copy by TMA that has arrived", copy.file, copy.line, true});
    current_ = running;
    enter(*its_block);
}

BulkCopy make_copy(const CopyOperands& operands, bool out, const BarrierUse& use) {
    constexpr std::size_t kTileBytes = 1024;
    Engine& engine = *Engine::running();
    BulkCopy copy{};
    if (reinterpret_cast<std::uintptr_t>(operands.map) % 64 != 0)
        refuse_copy(use, cudaErrorMisalignedAddress, "the map's address is no multiple of 64");
    if (!read_map(*operands.map, copy.map))
        refuse_copy(use, cudaErrorLaunchFailure, "what should be a map is none");
    const bool image = copy.map.kind == MapDescription::Kind::kImage;
    if (image != operands.im2col)
        refuse_copy(use, cudaErrorLaunchFailure,
                    image ? "the map is one of im2col" : "the map is a tiled one");
    Allocation memory;
    if (!Memory::get().find(copy.map.data, 1, memory) || !memory.is_device())
        refuse_copy(use, cudaErrorIllegalAddress, "the tensor is at no address of device memory");
    std::memcpy(copy.at, operands.at, sizeof copy.at);
    std::memcpy(copy.tap, operands.tap, sizeof copy.tap);
    copy.shared = static_cast<unsigned char*>(operands.shared);
    copy.issuer = &engine.thread();
    copy.file = use.file;
    copy.line = use.line;
    const auto offset = reinterpret_cast<std::uintptr_t>(copy.shared) -
                        reinterpret_cast<std::uintptr_t>(engine.shared_memory());
    const std::size_t bytes = copy.byte_count();
    if (offset > engine.shared_bytes() || bytes > engine.shared_bytes() - offset)
        refuse_copy(use, cudaErrorIllegalAddress,
                    std::to_string(bytes) + " bytes " + (out ? "from" : "to") + " offset " +
                        std::to_string(static_cast<std::ptrdiff_t>(offset)) + " of " +
                        std::to_string(engine.shared_bytes()) + " bytes of shared memory");
    if (offset % kTileBytes != 0)
        refuse_copy(use, cudaErrorMisalignedAddress,
                    "offset " + std::to_string(offset) +
                        " of shared memory is no multiple of 1024");
    // Both end a context with "illegal instruction" on a GPU.
    if (copy.at[0] % 8 != 0)
        refuse_copy(use, cudaErrorIllegalInstruction,
                    "channels from " + std::to_string(copy.at[0]) +
                        " on: no multiple of 8, which are 16 bytes");
    if (out && *std::min_element(copy.at, copy.at + 4) < 0)
        refuse_copy(use, cudaErrorIllegalInstruction,
                    "begins at (" + std::to_string(copy.at[0]) + ", " +
                        std::to_string(copy.at[1]) + ", " + std::to_string(copy.at[2]) + ", " +
                        std::to_string(copy.at[3]) + "), before the tensor");
    if (image) check_walk(copy, use);
    return copy;
}

void copy_bulk(const CopyOperands& operands, const BarrierUse& use) {
    Engine& engine = *Engine::running();
    Block& block = engine.block();
    BulkCopy copy = make_copy(operands, false, use);
    copy.barrier = find_barrier(operands.barrier, use);
    copy.phase = block.phase_barriers[copy.barrier].phase;
    std::memset(copy.shared, 0xff, copy.byte_count());
    block.copies.push_back(copy);
    if (!engine.delays_copies()) engine.deliver(block, block.copies.size() - 1);
}

}  // namespace emulation
