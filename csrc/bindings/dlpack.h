// The structs of DLPack 1.0 (github.com/dmlc/dlpack, include/dlpack/dlpack.h): how array libraries
// hand tensors to each other. Layout and values are the protocol's, names are ours.
#pragma once

#include <cstdint>

namespace fastconv::dlpack {

constexpr std::int32_t kCuda = 2, kCudaManaged = 13;                // device types
constexpr std::uint8_t kInt = 0, kFloat = 2, kBFloat = 4;           // dtype codes
constexpr std::uint64_t kReadOnly = 1, kCopied = 2;                 // flags

struct Device {
    std::int32_t type;
    std::int32_t id;
};

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t rank;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* elems;  // strides, in elements; null: C order
    std::uint64_t byte_offset;
};

/// Capsule "dltensor".
struct Managed {
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};

/// Capsule "dltensor_versioned".
struct ManagedVersioned {
    std::uint32_t major, minor;
    void* context;
    void (*deleter)(ManagedVersioned*);
    std::uint64_t flags;
    Tensor tensor;
};

}  // namespace fastconv::dlpack
