// cuda/tensor_map.h for the emulation: every constraint of cuTensorMapEncodeTiled and
// cuTensorMapEncodeIm2col (CUDA driver API, "Tensor Map Object Management") on what that header
// lets one say, and a description of our own. What is wrong is an std::invalid_argument.
#include "tensor_map.h"

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

namespace emulation {
namespace {

using fastconv::cuda::ImageWalk;
using fastconv::cuda::MappedTensor;
using fastconv::cuda::TensorMap;

/// Names the function, the argument and its value.
class Check {
public:
    explicit Check(const char* function) : function_(function) {}
    void within(const std::string& what, std::int64_t value, std::int64_t least,
                std::int64_t most) const {
        if (value >= least && value <= most) return;
        refuse(what + " is " + std::to_string(value) + ", not " + std::to_string(least) + " .. " +
               std::to_string(most));
    }
    [[noreturn]] void refuse(const std::string& why) const {
        throw std::invalid_argument(std::string(function_) + ": " + why);
    }

private:
    const char* function_;
};

std::string indexed(const char* name, int i) {
    return std::string(name) + "[" + std::to_string(i) + "]";
}

MapDescription describe(const Check& check, const MappedTensor& tensor) {
    MapDescription made{};
    made.magic = MapDescription::kMagic;
    made.data = static_cast<unsigned char*>(const_cast<void*>(tensor.data));
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
    for (int d = 0; d < 4; ++d) {
        check.within(indexed("tensor.size", d), tensor.size[d], 1, std::int64_t{1} << 32);
        made.last[d] = static_cast<std::uint32_t>(tensor.size[d] - 1);
    }
    for (int d = 0; d < 3; ++d) {
        const std::string name = indexed("tensor.elems", d);
        check.within(name, tensor.elems[d], 8, (std::int64_t{1} << 39) - 1);
        if (tensor.elems[d] % 8 != 0)
            check.refuse(name + " is " + std::to_string(tensor.elems[d]) +
                         ", no multiple of 8 elements (16 bytes)");
        made.bytes[d] = static_cast<std::uint64_t>(tensor.elems[d]) * 2;
    }
    if (address == 0) check.refuse("tensor.data is null");
    if (address % 16 != 0) check.refuse("tensor.data is no multiple of 16 bytes");
    return made;
}

TensorMap as_map(MapDescription& description) {
    description.check = description.sum();
    TensorMap map{};
    std::memcpy(&map, &description, sizeof description);
    return map;
}

}  // namespace

std::uint64_t MapDescription::sum() const {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    const auto* bytes = reinterpret_cast<const unsigned char*>(this);
    for (std::size_t i = 0; i < offsetof(MapDescription, check); ++i)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

bool read_map(const TensorMap& map, MapDescription& description) {
    std::memcpy(&description, &map, sizeof description);
    return description.magic == MapDescription::kMagic && description.check == description.sum();
}

}  // namespace emulation

namespace fastconv::cuda {

using emulation::Check;
using emulation::MapDescription;

TensorMap tiled_map(const MappedTensor& tensor, const int (&box)[4], int step_1, int step_2) {
    const Check check("tiled_map");
    MapDescription made = emulation::describe(check, tensor);
    made.kind = MapDescription::Kind::kTiled;
    check.within("box[0]", box[0], 64, 64);
    for (int d = 1; d < 4; ++d) {
        check.within(emulation::indexed("box", d), box[d], 1, 256);
        made.lines[d - 1] = static_cast<std::uint16_t>(box[d]);
    }
    const int step[2] = {step_1, step_2};
    for (int d = 0; d < 2; ++d) {
        const std::string name = emulation::indexed("step", d + 1);
        check.within(name, step[d], 1, 8);
        check.within("box * " + name, std::int64_t{box[d + 1]} * step[d], 1, 256);
        made.step[d] = static_cast<std::uint8_t>(step[d]);
    }
    return emulation::as_map(made);
}

TensorMap im2col_map(const MappedTensor& tensor, const ImageWalk& walk) {
    const Check check("im2col_map");
    MapDescription made = emulation::describe(check, tensor);
    made.kind = MapDescription::Kind::kImage;
    const int first[2] = {walk.first_w, walk.first_h}, last[2] = {walk.last_w, walk.last_h};
    const int step[2] = {walk.step_w, walk.step_h};
    const char* const names[3][2] = {{"walk.first_w", "walk.first_h"},
                                     {"walk.last_w", "walk.last_h"},
                                     {"walk.step_w", "walk.step_h"}};
    for (int d = 0; d < 2; ++d) {
        const std::int64_t end = tensor.size[d + 1] - 1;
        // A kernel's coordinates are ints.
        check.within(emulation::indexed("tensor.size", d + 1), tensor.size[d + 1], 1, 0x7fffff00);
        check.within(names[0][d], first[d], -128, 127);
        check.within(names[1][d], last[d], end - 128, end + 127);
        check.within(names[1][d], last[d], first[d], end + 127);  // no empty walk
        check.within(names[2][d], step[d], 1, 8);
        made.first_pixel[d] = first[d];
        made.last_pixel[d] = last[d];
        made.step[d] = static_cast<std::uint8_t>(step[d]);
    }
    check.within("walk.pixels", walk.pixels, 1, 1024);
    made.lines[0] = static_cast<std::uint16_t>(walk.pixels);
    made.lines[1] = made.lines[2] = 1;
    return emulation::as_map(made);
}

}  // namespace fastconv::cuda
