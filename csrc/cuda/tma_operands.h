// Convolution operands as the tensors that TMA copies from (tensor_map.h). Host-only.
#pragma once

#include "cuda/conv_kernels.h"
#include "cuda/tensor_map.h"

namespace fastconv::cuda::tma {

/// Images of channels-last pixels, as copy_im2col wants them: channels, width, height, batch.
MappedTensor image_tensor(const void* data, bool bfloat16, std::int64_t channels,
                          std::int64_t width, std::int64_t height, std::int64_t batch,
                          const Strides& strides);

/// Elements from one pixel of (batch, height, width) to the next, if they are the same everywhere;
/// else 0. Then the image is (channels, rows) too.
std::int64_t line_pitch(std::int64_t width, std::int64_t height, std::int64_t batch,
                        const Strides& strides);
MappedTensor line_tensor(const void* data, bool bfloat16, std::int64_t channels, std::int64_t rows,
                         std::int64_t pitch);

/// A box of at most 64 pixels of (batch, height, width), whose width and height divide the image's.
struct PixelBox {
    int width = 1, height = 1, images = 1;
    constexpr int pixels() const { return width * height * images; }
};
/// The one that takes the fewest boxes, of those the widest; width * step_w and height * step_h are at
/// most 256.
PixelBox best_box(int width, int height, int batch, int step_w, int step_h);

/// The weight of a phase: 64 channels or columns, whichever are neighbours; taps along width and
/// height from their first place in memory; then the other of the two, group after group.
struct MappedWeight {
    MappedTensor tensor;
    bool cols_contiguous = false;
    int first_w = 0, step_w = 1, first_h = 0, step_h = 1;  // where the taps are in it
};
MappedWeight mapped_weight(const CorrelationArguments& p, bool bfloat16);

/// Last of `count` pixels that a walk visits from `first` on.
constexpr int last_pixel(int first, int count, int step) { return first + (count - 1) * step; }

}  // namespace fastconv::cuda::tma
