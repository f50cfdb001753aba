// What a call asks for: plain structs that name every number of a problem, and nothing about how it
// is solved. Dispatch, explain, packing, benchmarks and kernels all read these.
//
// One alphabet (csrc/README.md): N C H W input, K filters, R S taps, P Q output.
// Matrix view: rows = N P Q, cols = K, depth = R S C.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

enum class DType : std::uint8_t { kFloat32, kFloat64, kFloat16, kBFloat16, kInt64 };

constexpr std::int64_t element_bytes_of(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return 4;
        case DType::kFloat16:
        case DType::kBFloat16: return 2;
        default: return 8;
    }
}

enum class Direction : std::uint8_t { kForward, kGradInput, kGradWeight };

/// One spatial axis: `in` elements, a kernel of `kernel` taps `dilation` apart, moved by `stride`
/// over the input with `pad_lo` zeros before and `pad_hi` after it, giving `out` positions.
struct Axis {
    std::int64_t in = 1;
    std::int64_t kernel = 1;
    std::int64_t stride = 1;
    std::int64_t dilation = 1;
    std::int64_t pad_lo = 0;
    std::int64_t pad_hi = 0;
    std::int64_t out = 1;

    /// How many input elements the kernel spans.
    std::int64_t extent() const { return (kernel - 1) * dilation + 1; }
};

/// Windows that start every `stride` elements, the last at most `room` after the first.
inline std::int64_t window_count(std::int64_t room, std::int64_t stride) {
    return room < 0 ? 0 : room / stride + 1;
}

/// The one output-size formula, (N - F) / S + 1 in its general form; `ceil_mode` is pooling's, which
/// drops a last window that would start beyond the input and the low padding. Zero or negative: no
/// window fits.
inline std::int64_t output_size(const Axis& axis, bool ceil_mode = false) {
    const std::int64_t over = ceil_mode ? axis.stride - 1 : 0;  // how far a window may hang over
    const std::int64_t room = axis.in + axis.pad_lo + axis.pad_hi - axis.extent() + over;
    std::int64_t out = window_count(room, axis.stride);
    if (ceil_mode && (out - 1) * axis.stride >= axis.in + axis.pad_lo) --out;
    return out;
}

/// Distances between neighbours along each dimension, in elements; any sign, any order.
struct Strides {
    std::int64_t batch_elems = 0;
    std::int64_t channel_elems = 0;
    std::int64_t height_elems = 0;
    std::int64_t width_elems = 0;
};

/// A convolution (cross-correlation) of `batch` images, whichever direction of it is computed.
struct Conv {
    std::int64_t batch = 0;
    std::int64_t in_channels = 0;   // C, all groups
    std::int64_t out_channels = 0;  // K, all groups
    std::int64_t groups = 1;
    Axis height;
    Axis width;
    DType dtype = DType::kFloat32;

    std::int64_t group_in() const { return in_channels / groups; }
    std::int64_t group_out() const { return out_channels / groups; }
    std::int64_t taps() const { return height.kernel * width.kernel; }
    std::int64_t element_bytes() const { return element_bytes_of(dtype); }

    /// Multiply-adds of any one direction, the padding's included: N P Q K R S C / groups.
    std::int64_t macs() const {
        return batch * height.out * width.out * out_channels * taps() * group_in();
    }
    /// Bytes of input, weight and output, each touched once.
    std::int64_t bytes() const {
        const std::int64_t input = batch * in_channels * height.in * width.in;
        const std::int64_t weight = out_channels * group_in() * taps();
        const std::int64_t output = batch * out_channels * height.out * width.out;
        return (input + weight + output) * element_bytes();
    }
};

/// A pooling window moved over each channel by itself.
struct Pool {
    std::int64_t batch = 0;
    std::int64_t channels = 0;
    Axis height;
    Axis width;
};

/// A fully connected layer, y = x W^T: x (batch, in), W (out, in), y (batch, out).
struct Linear {
    std::int64_t batch = 0;
    std::int64_t in = 0;
    std::int64_t out = 0;
    DType dtype = DType::kFloat32;

    std::int64_t element_bytes() const { return element_bytes_of(dtype); }
    std::int64_t macs() const { return batch * in * out; }
    std::int64_t bytes() const { return (batch * in + in * out + batch * out) * element_bytes(); }
};

/// Distances between neighbours of a matrix, in elements.
struct MatrixStrides {
    std::int64_t row_elems = 0;
    std::int64_t col_elems = 1;
};

}  // namespace fastconv
