// Strides of operands to TMA's (cuda/tma_operands.h).
#include "cuda/tma_operands.h"

#include <algorithm>

namespace fastconv::cuda::tma {
namespace {

/// The strides of dimensions of one element, which nothing uses, become some that can be encoded.
void settle_strides(MappedTensor& tensor) {
    std::int64_t extent = tensor.size[0];
    for (int d = 0; d < 3; ++d) {
        if (tensor.size[d + 1] == 1) tensor.elems[d] = (extent + 7) / 8 * 8;
        extent = tensor.elems[d] * tensor.size[d + 1];
    }
}

/// Taps that run backwards in memory are counted from their last.
void forward_in_memory(std::int64_t& first_elems, std::int64_t& elems, int taps, int& first,
                       int& step) {
    if (elems >= 0) return;
    first_elems += elems * (taps - 1);
    elems = -elems;
    first = taps - 1;
    step = -1;
}

}  // namespace

MappedTensor image_tensor(const void* data, bool bfloat16, std::int64_t channels,
                          std::int64_t width, std::int64_t height, std::int64_t batch,
                          const Strides& strides) {
    MappedTensor tensor{data,
                        bfloat16,
                        {channels, width, height, batch},
                        {strides.width_elems, strides.height_elems, strides.batch_elems}};
    settle_strides(tensor);
    return tensor;
}

std::int64_t line_pitch(std::int64_t width, std::int64_t height, std::int64_t batch,
                        const Strides& strides) {
    const std::int64_t pitch = width > 1    ? strides.width_elems
                               : height > 1 ? strides.height_elems
                                            : strides.batch_elems;
    const bool even = (height == 1 || strides.height_elems == width * pitch) &&
                      (batch == 1 || strides.batch_elems == height * width * pitch);
    return even ? pitch : 0;
}

PixelBox best_box(int width, int height, int batch, int step_w, int step_h) {
    constexpr int kMostPixels = 64, kMostSpan = 256;
    PixelBox best;
    std::int64_t fewest = -1;
    for (int w = std::min(width, kMostPixels); w >= 1; --w) {
        if (width % w != 0 || w * step_w > kMostSpan) continue;
        for (int h = std::min(height, kMostPixels / w); h >= 1; --h) {
            if (height % h != 0 || h * step_h > kMostSpan) continue;
            const int images = std::min(batch, kMostPixels / (w * h));
            const std::int64_t boxes = std::int64_t{width / w} * (height / h) *
                                       ((batch + images - 1) / images);
            if (fewest >= 0 && boxes >= fewest) continue;
            fewest = boxes;
            best = {w, h, images};
        }
    }
    return best;
}

MappedTensor line_tensor(const void* data, bool bfloat16, std::int64_t channels, std::int64_t rows,
                         std::int64_t pitch) {
    MappedTensor tensor{data, bfloat16, {channels, rows, 1, 1}, {pitch, 0, 0}};
    settle_strides(tensor);
    return tensor;
}

MappedWeight mapped_weight(const CorrelationArguments& p, bool bfloat16) {
    MappedWeight weight;
    weight.cols_contiguous = p.weight_channel_elems != 1;
    std::int64_t first_elems = 0, tap_w = p.weight_tap_w_elems, tap_h = p.weight_tap_h_elems;
    forward_in_memory(first_elems, tap_w, p.taps_w, weight.first_w, weight.step_w);
    forward_in_memory(first_elems, tap_h, p.taps_h, weight.first_h, weight.step_h);
    constexpr std::int64_t kElementBytes = 2;
    const std::int64_t neighbours = weight.cols_contiguous ? p.cols : p.channels;
    const std::int64_t others = weight.cols_contiguous ? p.channels : p.cols;
    weight.tensor = {static_cast<const char*>(p.weight) + first_elems * kElementBytes,
                     bfloat16,
                     {neighbours, p.taps_w, p.taps_h, others * p.groups},
                     {tap_w, tap_h,
                      weight.cols_contiguous ? p.weight_channel_elems : p.weight_col_elems}};
    settle_strides(weight.tensor);
    return weight;
}

}  // namespace fastconv::cuda::tma
