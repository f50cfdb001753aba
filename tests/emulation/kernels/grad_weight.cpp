// Every kernel of grad_weight (csrc/cuda/conv2d_simt.cu, conv2d_grad_weight_*.cu) in the emulation
// against a plain loop, exactly (operands.h). Elements of the operands' buffers that nobody may read
// are NaN.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../cpp/check.h"
#include "cuda/conv2d_operands.h"
#include "cuda/scalar.cuh"
#include "operands.h"

namespace fastconv::cuda {
namespace {

using emulated::Buffer;
using emulated::small_integer;

enum class Order { kChannelsLast, kPlanes };

struct Problem {
    const char* name;
    int batch, channels, cols, groups;  // channels, cols: of one group
    int source_h, source_w;
    int taps_h, taps_w, step_h, step_w, dilation_h, dilation_w, pad_h, pad_w;
    int splits = 1;
    Order order = Order::kChannelsLast;
    int more = 0;  // channels of a pixel that are nobody's
    int cluster = 1;  // of kernels by TMA
};

// The larger tiles see most of them as tails.
const Problem kProblems[] = {
    {"one step", 1, 16, 24, 1, 9, 7, 3, 3, 1, 1, 1, 1, 1, 1},
    {"strides, dilation", 2, 8, 136, 1, 13, 11, 3, 2, 2, 3, 2, 1, 2, 1, 3},
    {"groups", 2, 16, 24, 2, 6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 2, Order::kChannelsLast, 8},
    {"groups, one split", 2, 16, 24, 3, 6, 5, 3, 3, 1, 1, 1, 1, 1, 1},
    {"pointwise", 3, 72, 200, 1, 7, 5, 1, 1, 1, 1, 1, 1, 0, 0, 4},
    {"two depth tiles", 1, 264, 16, 1, 5, 5, 1, 1, 1, 1, 1, 1, 0, 0},
    {"5x5", 1, 40, 8, 1, 12, 12, 5, 5, 1, 1, 1, 1, 2, 2, 5, Order::kChannelsLast, 16},
    {"panels of taps", 1, 128, 16, 1, 6, 7, 3, 3, 1, 1, 1, 1, 1, 1},
    {"panels of taps, groups", 1, 64, 72, 2, 7, 5, 2, 3, 1, 2, 1, 1, 1, 1, 2},
    {"one row", 1, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0},
    {"more splits than rows", 1, 8, 8, 1, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 6},
    {"many steps", 2, 40, 136, 1, 18, 17, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"many steps, one split", 1, 72, 72, 1, 23, 29, 1, 3, 1, 1, 1, 1, 0, 1},
    {"wide", 1, 8, 8, 1, 3, 400, 3, 3, 1, 1, 1, 1, 1, 1},
    {"tiny images", 40, 8, 8, 1, 1, 2, 1, 1, 1, 1, 1, 1, 0, 0},
    {"no rows of output", 1, 8, 8, 1, 2, 5, 3, 3, 1, 1, 1, 1, 0, 1, 2},
    {"no images", 0, 8, 8, 1, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"first layer", 2, 3, 16, 1, 15, 13, 7, 7, 2, 2, 1, 1, 3, 3, 3},
    {"first layer, planes", 2, 3, 16, 1, 15, 13, 7, 7, 2, 2, 1, 1, 3, 3, 3, Order::kPlanes},
    {"one channel", 2, 1, 5, 1, 11, 10, 5, 5, 1, 1, 1, 1, 0, 0, 2, Order::kPlanes},
    {"odd", 1, 10, 5, 2, 6, 7, 3, 3, 1, 1, 1, 1, 1, 1, 2, Order::kChannelsLast, 3},
    {"planes", 1, 70, 67, 1, 5, 6, 2, 3, 1, 1, 1, 2, 1, 2, 2, Order::kPlanes},
    {"several tiles a block", 1, 136, 264, 1, 7, 5, 3, 1, 1, 1, 1, 1, 1, 0},
    {"images that do not fill a step", 5, 16, 24, 1, 3, 5, 3, 3, 1, 1, 1, 1, 1, 1},
    {"whole tiles", 2, 72, 72, 1, 16, 8, 3, 3, 1, 1, 1, 1, 1, 1, 2},
    {"whole tiles, no padding", 1, 64, 136, 1, 10, 18, 3, 3, 1, 1, 1, 1, 0, 0},
    {"whole tiles, groups", 3, 64, 64, 2, 8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, Order::kChannelsLast, 8},
    {"whole tiles, cluster of 4", 3, 136, 24, 1, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1,
     Order::kChannelsLast, 0, 4},
    {"cluster of 2", 3, 24, 72, 1, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, Order::kChannelsLast, 0, 2},
    {"cluster of 4, splits", 2, 72, 24, 1, 17, 13, 3, 3, 2, 1, 1, 1, 1, 1, 2, Order::kChannelsLast, 0,
     4},
    {"cluster of 8", 2, 40, 136, 1, 18, 17, 3, 2, 1, 1, 1, 1, 1, 1, 1, Order::kChannelsLast, 0, 8},
    {"cluster of 8, one step", 1, 8, 8, 1, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, Order::kChannelsLast, 0,
     8},
};

/// A (batch, channels, height, width) operand of small integers, NaN between its channels.
template <class T>
struct Operand {
    Strides strides;
    Buffer<T> buffer;

    static std::int64_t elems_of(int batch, int channels, int h, int w, const Problem& q) {
        return std::int64_t{batch} * (channels + q.more) * h * w;
    }
    Operand(int batch, int channels, int h, int w, const Problem& q, unsigned& state)
        : buffer(elems_of(batch, channels, h, w, q)) {
        const std::int64_t wide = channels + q.more;
        if (q.order == Order::kChannelsLast) strides = {wide * h * w, 1, wide * w, wide};
        else strides = {wide * h * w, std::int64_t{h} * w, w, 1};
        for (int n = 0; n < batch; ++n)
            for (int c = 0; c < channels; ++c)
                for (int i = 0; i < h; ++i)
                    for (int j = 0; j < w; ++j)
                        at(n, c, i, j) = from_float<T>(static_cast<float>(small_integer(state)));
    }
    T& at(int n, int c, int i, int j) const {
        return buffer.data[n * strides.batch_elems + c * strides.channel_elems +
                           i * strides.height_elems + j * strides.width_elems];
    }
};

/// weight[col, d] of one group, d = (tap, channel).
template <class T>
float expected(const Problem& q, const Operand<T>& out, const Operand<T>& source, int group,
               int col, int d, int out_h, int out_w) {
    const int c = d % q.channels, tap = d / q.channels;
    const int down = tap / q.taps_w * q.dilation_h - q.pad_h;
    const int right = tap % q.taps_w * q.dilation_w - q.pad_w;
    float sum = 0.0f;
    for (int n = 0; n < q.batch; ++n)
        for (int i = 0; i < out_h; ++i)
            for (int j = 0; j < out_w; ++j) {
                const int h = i * q.step_h + down, w = j * q.step_w + right;
                if (h < 0 || h >= q.source_h || w < 0 || w >= q.source_w) continue;
                sum += to_float(out.at(n, group * q.cols + col, i, j)) *
                       to_float(source.at(n, group * q.channels + c, h, w));
            }
    return sum;
}

enum class Result { kPartial, kWeight, kAdded };

template <class T>
void test(const GradWeightKernel& kernel, Arithmetic arithmetic, bool vector, const Problem& q,
          Result result) {
    const auto out_size = [](int size, int taps, int step, int dilation, int pad) {
        return (size + 2 * pad - (taps - 1) * dilation - 1) / step + 1;
    };
    unsigned state = 7;
    GradWeightArguments p;
    p.out_h = out_size(q.source_h, q.taps_h, q.step_h, q.dilation_h, q.pad_h);
    p.out_w = out_size(q.source_w, q.taps_w, q.step_w, q.dilation_w, q.pad_w);
    const Operand<T> source(q.batch, q.channels * q.groups, q.source_h, q.source_w, q, state);
    const Operand<T> out(q.batch, q.cols * q.groups, p.out_h, p.out_w, q, state);
    p.out = out.buffer.data;
    p.source = source.buffer.data;
    p.rows = q.batch * p.out_h * p.out_w;
    p.cols = q.cols;
    p.channels = q.channels;
    p.depth = q.taps_h * q.taps_w * q.channels;
    p.groups = q.groups;
    p.source_h = q.source_h;
    p.source_w = q.source_w;
    p.taps_h = q.taps_h;
    p.taps_w = q.taps_w;
    p.step_h = q.step_h;
    p.step_w = q.step_w;
    p.offset_h = -q.pad_h;
    p.offset_w = -q.pad_w;
    p.offset_step_h = q.dilation_h;
    p.offset_step_w = q.dilation_w;
    p.source_strides = source.strides;
    p.out_strides = out.strides;
    p.source_group_elems = q.channels * source.strides.channel_elems;
    p.out_group_elems = q.cols * out.strides.channel_elems;
    p.splits = q.splits;
    const int steps = (p.rows + kernel.block_rows - 1) / kernel.block_rows;
    p.rows_per_split = (steps + q.splits - 1) / q.splits * kernel.block_rows;
    if (steps == 0) p.rows_per_split = kernel.block_rows;
    const std::int64_t elements = std::int64_t{q.groups} * q.cols * p.depth;
    const Buffer<float> partial(q.splits * elements);
    const bool added = result == Result::kAdded;
    const int ahead = !added ? 0 : kernel.mapped ? 8 : 1;  // unaligned, where the kernel may be
    const Buffer<T> weight(elements + ahead);
    if (result == Result::kPartial) p.partial = partial.data;
    else p.weight = weight.data + ahead;
    p.cluster = q.cluster;
    p.accumulate = added;
    const auto before = [](std::int64_t e) { return static_cast<float>(e % 13); };
    for (std::int64_t e = 0; added && e < elements; ++e)
        weight.data[e + ahead] = from_float<T>(before(e));

    kernel.run(p, arithmetic, vector, 0);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

    long wrong = 0;
    for (std::int64_t e = 0; e < elements; ++e) {
        const int line = static_cast<int>(e / p.depth), d = static_cast<int>(e % p.depth);
        const float sum =
            expected(q, out, source, line / q.cols, line % q.cols, d, p.out_h, p.out_w);
        if (result == Result::kPartial) {
            float got = 0.0f;
            for (int split = 0; split < q.splits; ++split)
                got += partial.data[split * elements + e];
            wrong += !(got == sum);
        } else {
            const float rounded = to_float(from_float<T>(sum + (added ? before(e) : 0.0f)));
            wrong += !(to_float(weight.data[e + ahead]) == rounded);
        }
    }
    if (wrong != 0)
        std::printf("%s, %s, arithmetic %d, %s, result %d: %ld wrong\n", kernel.name, q.name,
                    static_cast<int>(arithmetic), vector ? "vector" : "scalar",
                    static_cast<int>(result), wrong);
    CHECK(wrong == 0);
}

template <class T>
void test_results(const GradWeightKernel& kernel, Arithmetic arithmetic, bool vector,
                  const Problem& q) {
    if ((kernel.arithmetics & bit(arithmetic)) == 0) return;
    test<T>(kernel, arithmetic, vector, q, Result::kPartial);
    if (!kernel.stores || q.splits > 1) return;
    test<T>(kernel, arithmetic, vector, q, Result::kWeight);
    test<T>(kernel, arithmetic, vector, q, Result::kAdded);
}

bool takes(const Problem& q, bool vector, int elems) {
    return !vector || (q.order == Order::kChannelsLast && q.channels % elems == 0 &&
                       q.cols % elems == 0 && q.more % elems == 0);
}

/// What kernels by TMA ask for beyond operands that come 16 bytes at a time.
bool takes(const GradWeightKernel& kernel, const Problem& q) {
    if (!kernel.mapped) return q.cluster == 1;
    Correlation view;
    view.out_h = q.source_h + 2 * q.pad_h - (q.taps_h - 1) * q.dilation_h;
    view.out_w = q.source_w + 2 * q.pad_w - (q.taps_w - 1) * q.dilation_w;
    if (q.batch == 0 || view.out_h <= 0 || view.out_w <= 0) return false;
    view.taps_h = {q.taps_h, q.step_h, 0, q.dilation_h};
    view.taps_w = {q.taps_w, q.step_w, 0, q.dilation_w};
    return kernel.patches == 0 || why_not_weight_patched(view) == nullptr;
}

void test_kernels(const GradWeightKernels& kernels, const char* part) {
    for (const GradWeightKernel& kernel : kernels) {
        if (part != nullptr && std::strstr(kernel.name, part) == nullptr) continue;
        for (const Problem& problem : kProblems) {
            if (!takes(kernel, problem)) continue;
            for (const bool vector : {true, false}) {
                if (!vector && !kernel.scalar) continue;
                if (takes(problem, vector, 8)) {
                    test_results<Half>(kernel, Arithmetic::kFloat16, vector, problem);
                    test_results<BFloat16>(kernel, Arithmetic::kBFloat16, vector, problem);
                }
                if (takes(problem, vector, 4)) {
                    test_results<float>(kernel, Arithmetic::kTf32, vector, problem);
                    test_results<float>(kernel, Arithmetic::k3xTf32, vector, problem);
                    test_results<float>(kernel, Arithmetic::kFloat32, vector, problem);
                }
            }
        }
    }
}

}  // namespace
}  // namespace fastconv::cuda

/// An argument restricts the kernels to those whose names contain it.
int main(int argc, char** argv) {
    using namespace fastconv::cuda;
    const char* part = argc > 1 ? argv[1] : nullptr;
    for (const char* order : {"ascending", "descending", "random:1"}) {
        setenv("FASTCONV_EMULATION_ORDER", order, 1);
        test_kernels(grad_weight_kernels_simt(), part);
        test_kernels(grad_weight_kernels_sm80(), part);
        test_kernels(grad_weight_kernels_sm90(), part);
    }
    return report();
}
