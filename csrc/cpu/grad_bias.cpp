// grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q]; also of a matrix (N, K), P = Q = 1.
//
// Reads grad_output once: the floor is its bytes over the memory's bandwidth. The sum is cut into
// chunks by shape; each chunk's sums lie in the workspace, (chunk, K), and are added in order. Lines
// with channels side by side are summed as vectors of channels, lines with columns side by side as
// vectors of columns, others one element at a time.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/kernels_outer.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kChunkElems = 1 << 16;  // about 10 us of reading
constexpr std::int64_t kMostChunks = 64;
constexpr std::int64_t kMostTerms = 512;  // of one accumulator

/// The positions as lines of equal length; a chunk is a range of lines.
struct Lines {
    std::int64_t count, length, per_image, chunks;

    explicit Lines(const Conv& conv) {
        // A line is a row of positions, whatever the strides, so that they do not change the chunks.
        per_image = conv.height.out;
        count = conv.batch * per_image;
        length = conv.width.out;
        const std::int64_t elems = count * length * conv.out_channels;
        chunks = std::clamp<std::int64_t>(elems / kChunkElems, 1, kMostChunks);
        chunks = std::max<std::int64_t>(1, std::min(chunks, count));
    }
};

template <class T>
void sum_chunk(const Conv& conv, const Strides& strides, const OuterKernels<T>& kernels,
               const T* grad, const Lines& lines, std::int64_t chunk, T* sums, T* some) {
    const std::int64_t channels = conv.out_channels;
    std::fill_n(sums, channels, T(0));
    const std::int64_t end = lines.count * (chunk + 1) / lines.chunks;
    for (std::int64_t line = lines.count * chunk / lines.chunks; line < end;) {
        // Rows of an image that follow each other evenly are summed at once.
        const std::int64_t row = line % lines.per_image;
        std::int64_t rows = 1;
        if (lines.length == 1 || strides.height_elems == lines.length * strides.width_elems)
            rows = std::min({lines.per_image - row, end - line,
                             std::max<std::int64_t>(1, kMostTerms / std::max<std::int64_t>(1, lines.length))});
        const std::int64_t step = lines.length == 1 ? strides.height_elems : strides.width_elems;
        const T* first = grad + line / lines.per_image * strides.batch_elems + row * strides.height_elems;
        for (std::int64_t p = 0; p < rows * lines.length; p += kMostTerms) {
            const std::int64_t terms = std::min(kMostTerms, rows * lines.length - p);
            kernels.sum_rows(terms, channels, {first + p * step, step, strides.channel_elems}, some);
            kernels.add(channels, some, sums);
        }
        line += rows;
    }
}

template <class T>
void run(const Conv& conv, const Strides& strides, const Kernels<T>& kernels, int threads,
         const T* grad, T* out, std::int64_t out_elems, bool accumulate, T* workspace) {
    const Lines lines(conv);
    const std::int64_t channels = conv.out_channels;
    parallel_for(lines.chunks, threads, FloatMode::kIeee, [&](std::int64_t chunk, int) {
        T* sums = workspace + 2 * chunk * channels;
        sum_chunk(conv, strides, *kernels.outer, grad, lines, chunk, sums, sums + channels);
    });
    for (std::int64_t chunk = 1; chunk < lines.chunks; ++chunk)
        kernels.outer->add(channels, workspace + 2 * chunk * channels, workspace);
    for (std::int64_t k = 0; k < channels; ++k) {
        T& result = out[k * out_elems];
        result = accumulate ? result + workspace[k] : workspace[k];
    }
}

}  // namespace

std::size_t grad_bias_workspace_bytes(const Conv& conv) {
    return static_cast<std::size_t>(2 * Lines(conv).chunks * conv.out_channels *
                                    conv.element_bytes());
}

void run_grad_bias(const Conv& conv, const Strides& grad_output, const Isa& isa, int threads,
                   const void* grad, void* out, std::int64_t out_elems, bool accumulate,
                   void* workspace) {
    if (conv.out_channels == 0) return;
    if (conv.dtype == DType::kFloat32)
        run(conv, grad_output, isa.f32, threads, static_cast<const float*>(grad),
            static_cast<float*>(out), out_elems, accumulate, static_cast<float*>(workspace));
    else
        run(conv, grad_output, isa.f64, threads, static_cast<const double*>(grad),
            static_cast<double*>(out), out_elems, accumulate, static_cast<double*>(workspace));
}

}  // namespace fastconv::cpu
