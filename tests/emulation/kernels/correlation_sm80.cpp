// Every correlation by mma.sync (csrc/cuda/conv2d_sm80.cu) in the emulation, against a plain loop and
// exactly (operands.h). Elements of the output's buffer that are not the output's must keep what was
// there.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../cpp/check.h"
#include "cuda/conv_kernels.h"
#include "cuda/scalar.cuh"
#include "operands.h"

namespace fastconv::cuda {
namespace {

using emulated::small_integer;

enum class Order { kChannelsLast, kPlanes };

struct Problem {
    const char* name;
    int batch, channels, cols, groups;  // channels, cols: of one group
    int source_h, source_w;
    int taps_h, taps_w, step, dilation, pad;
    Order order = Order::kChannelsLast;
    int splits = 1;
    bool bias = false, residual = false, relu = false;
    int slice = 0;      // out is so many channels further in a wider buffer
    int out_step = 1;   // out's positions are so far apart: a phase of a strided grad_input
    bool reversed = false;  // the source's height runs backwards
};

// Sizes are those of two or three tiles; the 128 and 256 wide ones see them as tails.
const Problem kProblems[] = {
    {"tails", 1, 24, 20, 1, 9, 11, 3, 3, 1, 1, 1},
    {"deep", 1, 72, 72, 1, 7, 10, 3, 3, 1, 1, 1},
    {"one chunk, stride 2", 2, 8, 136, 1, 11, 13, 3, 3, 2, 1, 1},
    {"dilation, groups", 1, 40, 24, 2, 9, 9, 3, 2, 1, 2, 2},
    {"padding beyond the image", 2, 16, 8, 1, 2, 3, 5, 5, 1, 1, 4},
    {"pointwise, two row tiles", 3, 64, 264, 1, 10, 10, 1, 1, 1, 1, 0},
    {"splits", 1, 56, 40, 2, 6, 6, 3, 3, 1, 1, 1, Order::kChannelsLast, 3},
    {"splits, odd columns", 1, 56, 39, 1, 6, 6, 3, 3, 1, 1, 1, Order::kChannelsLast, 2},
    {"fused", 1, 24, 72, 1, 8, 9, 3, 3, 1, 1, 1, Order::kChannelsLast, 1, true, true, true},
    {"fused, channel slice", 2, 16, 20, 1, 6, 6, 3, 3, 1, 1, 1, Order::kChannelsLast, 1, true, true,
     true, 3},
    {"aligned slice of groups", 2, 16, 16, 2, 6, 6, 3, 3, 1, 1, 1, Order::kChannelsLast, 1, true,
     true, true, 8},
    {"aligned slice, columns' tail", 1, 16, 18, 1, 6, 6, 3, 3, 1, 1, 1, Order::kChannelsLast, 1,
     true, true, true, 8},
    {"pointwise, stride 2", 1, 24, 16, 1, 9, 9, 1, 1, 2, 1, 0},
    {"a phase's positions", 1, 32, 24, 1, 6, 7, 2, 2, 1, 1, 1, Order::kChannelsLast, 1, false,
     false, false, 0, 2},
    {"reversed", 1, 32, 24, 1, 6, 7, 3, 3, 1, 1, 1, Order::kChannelsLast, 1, false, false, false, 0,
     1, true},
    {"no taps", 1, 16, 24, 1, 4, 4, 0, 0, 1, 1, 0, Order::kChannelsLast, 1, true},
    {"first layer", 1, 3, 20, 1, 17, 18, 7, 7, 2, 1, 3},
    {"first layer, planes", 2, 3, 20, 1, 11, 12, 5, 5, 1, 1, 2, Order::kPlanes, 1, true, true,
     true},
    {"unaligned, two row tiles", 1, 16, 70, 1, 11, 13, 1, 1, 1, 1, 0, Order::kChannelsLast, 1,
     true, true, true, 5},
    {"one channel", 2, 1, 8, 1, 9, 9, 5, 5, 1, 1, 2, Order::kPlanes},
    {"planes, deep, groups", 1, 50, 10, 2, 8, 9, 3, 3, 1, 2, 2, Order::kPlanes},
    {"planes, splits", 1, 50, 10, 1, 8, 9, 3, 3, 1, 1, 1, Order::kPlanes, 4},
};

/// A device buffer and where a (batch, channels, height, width) view lies in it.
template <class T>
struct View {
    T* buffer = nullptr;
    std::int64_t elems = 0, first = 0;
    Strides strides;

    View(int batch, int channels, int h, int w, Order order, int slice = 0, int step = 1,
         bool reversed = false) {
        const int whole = slice > 0 && slice % 8 == 0 ? 8 : 1;  // or else positions are not aligned
        const int wide = (channels + 2 * slice + whole - 1) / whole * whole;
        elems = std::int64_t{batch} * wide * h * step * w * step;
        if (order == Order::kChannelsLast)
            strides = {std::int64_t{wide} * h * step * w * step, 1,
                       std::int64_t{wide} * w * step * step, std::int64_t{wide} * step};
        else
            strides = {std::int64_t{wide} * h * step * w * step, std::int64_t{h} * step * w * step,
                       std::int64_t{w} * step * step, step};
        first = slice * strides.channel_elems;
        if (reversed) {
            first += (h - 1) * strides.height_elems;
            strides.height_elems = -strides.height_elems;
        }
        check(cudaMalloc(reinterpret_cast<void**>(&buffer), elems * sizeof(T)), "cudaMalloc");
        std::memset(buffer, 0xff, elems * sizeof(T));
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() { cudaFree(buffer); }
    T* data() const { return buffer + first; }
    T& at(int n, int c, int i, int j) const {
        return data()[n * strides.batch_elems + c * strides.channel_elems +
                      i * strides.height_elems + j * strides.width_elems];
    }
};

template <class T>
void test(const CorrelationKernel& kernel, Arithmetic arithmetic, bool vector, const Problem& q) {
    const int extent_h = (q.taps_h - 1) * q.dilation + 1;
    const int extent_w = (q.taps_w - 1) * q.dilation + 1;
    const int out_h = q.taps_h == 0 ? q.source_h : (q.source_h + 2 * q.pad - extent_h) / q.step + 1;
    const int out_w = q.taps_w == 0 ? q.source_w : (q.source_w + 2 * q.pad - extent_w) / q.step + 1;
    const int depth = q.taps_h * q.taps_w * q.channels;
    const int all_cols = q.cols * q.groups;
    unsigned state = 7;

    View<T> source(q.batch, q.channels * q.groups, q.source_h, q.source_w, q.order, 0, 1,
                   q.reversed);
    for (std::int64_t i = 0; i < source.elems; ++i)
        source.buffer[i] = from_float<T>(static_cast<float>(small_integer(state)));
    // What no window touches is NaN.
    std::vector<bool> touched(static_cast<std::size_t>(q.source_h * q.source_w));
    for (int i = 0; i < out_h * q.taps_h; ++i)
        for (int j = 0; j < out_w * q.taps_w; ++j) {
            const int h = i / q.taps_h * q.step - q.pad + i % q.taps_h * q.dilation;
            const int w = j / q.taps_w * q.step - q.pad + j % q.taps_w * q.dilation;
            if (h >= 0 && h < q.source_h && w >= 0 && w < q.source_w)
                touched[static_cast<std::size_t>(h * q.source_w + w)] = true;
        }
    for (int h = 0; h < q.source_h; ++h)
        for (int w = 0; w < q.source_w; ++w)
            for (int n = 0; n < q.batch; ++n)
                for (int c = 0; c < q.channels * q.groups; ++c)
                    if (!touched[static_cast<std::size_t>(h * q.source_w + w)])
                        std::memset(&source.at(n, c, h, w), 0xff, sizeof(T));
    constexpr int kElems = kPackElems<T>;
    const int pitch = (depth + kElems - 1) / kElems * kElems;
    View<T> weight(1, 1, all_cols, pitch > 0 ? pitch : 1, Order::kChannelsLast);
    for (int col = 0; col < all_cols; ++col)
        for (int d = 0; d < pitch; ++d)
            weight.buffer[std::int64_t{col} * pitch + d] =
                from_float<T>(d < depth ? static_cast<float>(small_integer(state)) : 0.0f);
    View<T> bias(1, all_cols, 1, 1, Order::kChannelsLast);
    for (int col = 0; col < all_cols; ++col)
        bias.buffer[col] = from_float<T>(static_cast<float>(small_integer(state)));
    View<T> residual(q.batch, all_cols, out_h, out_w, q.order, q.slice, q.out_step);
    for (std::int64_t i = 0; i < residual.elems; ++i)
        residual.buffer[i] = from_float<T>(static_cast<float>(small_integer(state)));
    View<T> out(q.batch, all_cols, out_h, out_w, q.order, q.slice, q.out_step);

    CorrelationArguments p;
    p.rows = q.batch * out_h * out_w;
    p.cols = q.cols;
    p.depth = depth;
    p.groups = q.groups;
    p.out_h = out_h;
    p.out_w = out_w;
    p.source_h = q.source_h;
    p.source_w = q.source_w;
    p.taps_h = q.taps_h;
    p.taps_w = q.taps_w;
    p.channels = q.channels;
    p.step_h = p.step_w = q.step;
    p.offset_h = p.offset_w = -q.pad;
    p.offset_step_h = p.offset_step_w = q.dilation;
    p.source = source.data();
    p.source_strides = source.strides;
    p.source_group_elems = q.channels * source.strides.channel_elems;
    p.weight = weight.buffer;
    p.weight_pitch = pitch;
    p.weight_group_elems = std::int64_t{q.cols} * pitch;
    p.out_strides = out.strides;
    p.out_group_elems = q.cols * out.strides.channel_elems;
    p.residual_strides = residual.strides;
    p.residual_group_elems = q.cols * residual.strides.channel_elems;
    if (q.bias) p.bias = bias.buffer;
    if (q.residual) p.residual = residual.data();
    p.relu = q.relu;
    p.splits = q.splits;
    const int steps = (depth + kernel.block_depth - 1) / kernel.block_depth;
    p.depth_per_split = (steps + q.splits - 1) / q.splits * kernel.block_depth;
    const std::int64_t plane = std::int64_t{p.rows} * q.cols;
    View<float> partial(1, 1, q.splits * q.groups, static_cast<int>(plane), Order::kChannelsLast);
    if (q.splits > 1)
        p.partial = partial.buffer;
    else
        p.out = out.data();

    kernel.run(p, arithmetic, vector, 0);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

    long wrong = 0;
    for (int row = 0; row < p.rows; ++row)
        for (int col = 0; col < all_cols; ++col) {
            const int n = row / (out_h * out_w), i = row / out_w % out_h, j = row % out_w;
            const int group = col / q.cols;
            float sum = 0.0f;
            int d = 0;
            for (int a = 0; a < q.taps_h; ++a)
                for (int b = 0; b < q.taps_w; ++b)
                    for (int c = 0; c < q.channels; ++c, ++d) {
                        const int h = i * q.step - q.pad + a * q.dilation;
                        const int w = j * q.step - q.pad + b * q.dilation;
                        if (h < 0 || h >= q.source_h || w < 0 || w >= q.source_w) continue;
                        sum += to_float(source.at(n, group * q.channels + c, h, w)) *
                               to_float(weight.buffer[std::int64_t{col} * pitch + d]);
                    }
            if (q.splits > 1) {
                float got = 0.0f;
                for (int split = 0; split < q.splits; ++split)
                    got += partial.buffer[(split * q.groups + group) * plane +
                                          std::int64_t{row} * q.cols + col % q.cols];
                wrong += !(got == sum);
                continue;
            }
            if (q.bias) sum += to_float(bias.buffer[col]);
            if (q.residual) sum += to_float(residual.at(n, col, i, j));
            if (q.relu && sum < 0.0f) sum = 0.0f;
            T& got = out.at(n, col, i, j);
            wrong += !(to_float(got) == to_float(from_float<T>(sum)));
            std::memset(&got, 0xff, sizeof got);
        }
    // What is left is what nobody may write.
    const auto* bytes = reinterpret_cast<const unsigned char*>(out.buffer);
    for (std::int64_t i = 0; i < out.elems * static_cast<std::int64_t>(sizeof(T)); ++i)
        wrong += bytes[i] != 0xff;
    if (wrong != 0)
        std::printf("%s, %s, arithmetic %d, %s: %ld wrong\n", kernel.name, q.name,
                    static_cast<int>(arithmetic), vector ? "vector" : "scalar", wrong);
    CHECK(wrong == 0);
}

bool takes(const Problem& q, bool vector, std::int64_t element_bytes) {
    return !vector ||
           (q.order == Order::kChannelsLast && q.channels * element_bytes % 16 == 0);
}

template <class T>
void test_if(const CorrelationKernel& kernel, Arithmetic arithmetic, bool vector,
             const Problem& problem) {
    if ((kernel.arithmetics & bit(arithmetic)) != 0 && takes(problem, vector, sizeof(T)))
        test<T>(kernel, arithmetic, vector, problem);
}

void test(const CorrelationKernel& kernel) {
    for (const Problem& problem : kProblems)
        for (const bool vector : {true, false}) {
            if (!vector && !kernel.scalar) continue;
            test_if<Half>(kernel, Arithmetic::kFloat16, vector, problem);
            test_if<BFloat16>(kernel, Arithmetic::kBFloat16, vector, problem);
            test_if<float>(kernel, Arithmetic::kTf32, vector, problem);
            test_if<float>(kernel, Arithmetic::k3xTf32, vector, problem);
        }
}

}  // namespace
}  // namespace fastconv::cuda

/// An argument restricts the kernels to those whose names contain it.
int main(int argc, char** argv) {
    using namespace fastconv;
    using namespace fastconv::cuda;
    for (const char* order : {"ascending", "descending", "random:1"}) {
        setenv("FASTCONV_EMULATION_ORDER", order, 1);
        for (const CorrelationKernel& kernel : correlation_kernels_sm80())
            if (argc < 2 || std::strstr(kernel.name, argv[1]) != nullptr) test(kernel);
    }
    return report();
}
