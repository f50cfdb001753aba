// Descriptions of tensors in global memory for the tensor memory accelerator (TMA, compute capability
// 9.0): made on the host, passed to kernels by value as __grid_constant__ parameters, used by the
// copies of ptx_tma.cuh. Tensors are (outermost, ..., channels) of 16-bit elements with channels
// contiguous; copies land in lines of 128 bytes, swizzled by 128 bytes, 64 channels each.
//
// The emulation (tests/emulation) makes its own of the same arguments (tensor_map.cpp there).
#pragma once

#include <cstdint>

namespace fastconv::cuda {

/// A CUtensorMap.
struct alignas(64) TensorMap {
    std::uint64_t words[16];
};

/// A tensor of four dimensions, the fastest first: sizes, and elements from one to the next of all but
/// the first, whose elements are neighbours. Addresses and strides are multiples of 16 bytes.
struct MappedTensor {
    const void* data = nullptr;
    bool bfloat16 = false;  // else float16
    std::int64_t size[4]{};
    std::int64_t elems[3]{};

    /// From the first element to the end of the last, in whatever order the dimensions lie.
    constexpr std::int64_t span_bytes() const {
        std::int64_t span = size[0];
        for (int d = 0; d < 3; ++d) span += (size[d + 1] - 1) * elems[d];
        return span * 2;
    }
};

/// Copies of box[0] x ... x box[3] elements; box[0] is 64, the others at most 256. With steps, 1 .. 8,
/// the box's elements of dimensions 1 and 2 are so far apart; then box * step is at most 256.
TensorMap tiled_map(const MappedTensor& tensor, const int (&box)[4], int step_1 = 1,
                    int step_2 = 1);

/// How copy_im2col walks an image (channels, width, height, batch): the pixels from `first` to `last`
/// along width and height, `step` apart, before the tap is added: those are -128 .. 127 and
/// size - 1 - 128 .. size - 1 + 127, taps 0 .. 255, steps 1 .. 8.
struct ImageWalk {
    int first_w = 0, last_w = 0, first_h = 0, last_h = 0;
    int step_w = 1, step_h = 1;
    int pixels = 0;  // of one copy, at most 1024; 64 channels each
};
TensorMap im2col_map(const MappedTensor& tensor, const ImageWalk& walk);

}  // namespace fastconv::cuda
