// What the emulation keeps in a TensorMap's 128 bytes, made by tensor_map.cpp.
#pragma once

#include <cstdint>

#include "cuda/tensor_map.h"

namespace emulation {

struct MapDescription {
    static constexpr std::uint64_t kMagic = 0x70616d20726f736eu;
    enum class Kind : std::uint64_t { kTiled, kImage };

    std::uint64_t magic;
    unsigned char* data;
    std::uint64_t bytes[3];     // from one to the next of dimensions 1, 2, 3
    std::uint32_t last[4];      // sizes - 1, the fastest first
    std::int32_t first_pixel[2], last_pixel[2];  // of the walk: width, height
    std::uint16_t lines[3];     // of a box: dimensions 1, 2, 3; of the walk: its pixels, 1, 1
    std::uint8_t step[2];
    Kind kind;
    std::uint64_t check;        // the sum of all before, which leaves no gaps

    std::uint64_t sum() const;
    std::int64_t size(int dimension) const { return std::int64_t{last[dimension]} + 1; }
    int line_count() const { return int{lines[0]} * lines[1] * lines[2]; }
};
static_assert(sizeof(MapDescription) == 96 &&
              sizeof(MapDescription) <= sizeof(fastconv::cuda::TensorMap));

/// False if `map` is none of tensor_map.cpp's.
bool read_map(const fastconv::cuda::TensorMap& map, MapDescription& description);

}  // namespace emulation
