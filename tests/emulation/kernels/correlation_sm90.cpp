// Every correlation by TMA (csrc/cuda/conv2d_sm90.cu) in the emulation, against a plain loop and
// exactly (operands.h): weights with channels or with columns contiguous, several phases of a strided
// grad_input in one launch, clusters, blocks that take several tiles. Elements of the output's buffer
// that are not the output's must keep what was there; those of the source's are NaN.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../cpp/check.h"
#include "cuda/conv2d_operands.h"
#include "cuda/scalar.cuh"
#include "operands.h"

namespace fastconv::cuda {
namespace {

using emulated::Buffer;
using emulated::small_integer;

/// How taps follow from the result's positions.
enum class Taps {
    kForward,   // position i reads i * step - pad + a * dilation by tap a
    kBackward,  // the same by tap taps - 1 - a: grad_input of a unit stride
    kHalves,    // grad_input of stride 2: two phases an axis, every other tap each, backwards
};

struct Problem {
    const char* name;
    int batch, channels, cols, groups;  // channels, cols: of one group
    int source_h, source_w;
    int taps_h, taps_w, step, dilation, pad;
    int cluster = 1;
    Taps taps = Taps::kForward;
    bool bias = false, residual = false, relu = false;
    int slice = 0;  // channels before and behind the operands' in wider buffers
    bool odd_bias = false;  // at an odd address of 16-bit elements
};

const Problem kProblems[] = {
    {"tails", 2, 24, 40, 1, 9, 11, 3, 3, 1, 1, 1},
    {"one pixel", 1, 8, 8, 1, 1, 1, 1, 1, 1, 1, 0},
    {"two channel blocks", 1, 72, 72, 1, 7, 10, 3, 3, 1, 1, 1},
    {"several tiles a block", 3, 8, 136, 1, 17, 15, 3, 3, 1, 1, 1},
    {"several tiles a block, pointwise", 3, 72, 264, 1, 16, 15, 1, 1, 1, 1, 0},
    {"many steps", 1, 200, 64, 1, 9, 8, 3, 2, 1, 1, 1},
    {"stride", 2, 16, 48, 1, 13, 12, 3, 3, 2, 1, 1},
    {"pointwise, stride", 2, 24, 16, 1, 9, 9, 1, 1, 2, 1, 0},
    {"dilation, groups", 1, 64, 24, 2, 9, 9, 3, 2, 1, 2, 2},
    {"whole groups, fused", 1, 64, 64, 3, 9, 8, 3, 3, 1, 1, 1, 1, Taps::kForward, true, true, true},
    {"padding beyond the image", 2, 16, 8, 1, 2, 3, 5, 5, 1, 1, 4},
    {"5x5", 1, 40, 24, 1, 12, 10, 5, 5, 1, 1, 2},
    {"backward", 2, 32, 40, 1, 6, 9, 3, 2, 1, 1, 1, 1, Taps::kBackward},
    {"backward, dilation", 1, 32, 24, 1, 9, 9, 3, 3, 1, 2, 2, 1, Taps::kBackward},
    {"halves", 2, 32, 72, 1, 9, 12, 3, 3, 1, 1, 1, 1, Taps::kHalves},
    {"halves, odd, groups", 1, 64, 8, 2, 10, 7, 4, 5, 1, 1, 2, 1, Taps::kHalves, true},
    {"fused", 1, 24, 72, 1, 8, 9, 3, 3, 1, 1, 1, 1, Taps::kForward, true, true, true},
    {"fused, slice", 2, 16, 24, 1, 9, 6, 3, 3, 1, 1, 1, 1, Taps::kForward, true, true, true, 8},
    {"fused, groups", 1, 64, 24, 2, 6, 6, 3, 3, 1, 1, 1, 1, Taps::kForward, true, true, true, 16},
    {"odd bias", 1, 16, 24, 1, 9, 6, 3, 3, 1, 1, 1, 1, Taps::kForward, true, false, false, 0, true},
    {"cluster of 2", 1, 72, 136, 1, 9, 8, 3, 3, 1, 1, 1, 2},
    {"cluster of 4, fused", 1, 136, 40, 1, 9, 8, 3, 3, 1, 1, 1, 4, Taps::kForward, true, true, true},
    {"cluster of 8", 2, 200, 24, 1, 9, 9, 3, 3, 1, 1, 1, 8},
    {"cluster of 8, few steps", 1, 8, 72, 1, 9, 8, 1, 3, 1, 1, 1, 8},
    {"cluster of 4, halves", 1, 72, 24, 1, 8, 9, 3, 3, 1, 1, 1, 4, Taps::kHalves},
};

/// One axis of a phase: where its result's positions, its taps in the source and in the weight are.
struct PhaseAxis {
    int out, first_out, out_step;
    int count, offset, offset_step, first_tap, tap_step;
};

std::vector<PhaseAxis> axes_of(const Problem& q, int source, int taps) {
    if (q.taps != Taps::kHalves) {
        const int out = (source + 2 * q.pad - (taps - 1) * q.dilation - 1) / q.step + 1;
        const bool forward = q.taps == Taps::kForward;
        return {{out, 0, 1, taps, -q.pad, q.dilation, forward ? 0 : taps - 1, forward ? 1 : -1}};
    }
    // Tap r of result h reads (h + pad - r) / 2.
    std::vector<PhaseAxis> axes;
    const int whole = 2 * (source - 1) + taps - 2 * q.pad;
    for (int a = 0; a < 2; ++a) {
        const int last = taps - 1 - (taps - 1 + a + q.pad) % 2;  // of its taps
        axes.push_back({(whole - a + 1) / 2, a, 2, last / 2 + 1, (a + q.pad - last) / 2, 1, last, -2});
    }
    return axes;
}

/// A (batch, height, width, channels) buffer and the channels of it that are the operand's.
template <class T>
struct Image {
    Strides strides;
    int slice;
    Buffer<T> buffer;

    Image(int batch, int channels, int h, int w, int slice_)
        : slice(slice_), buffer(std::int64_t{batch} * (channels + 2 * slice) * h * w) {
        const std::int64_t wide = channels + 2 * slice;
        strides = {wide * h * w, 1, wide * w, wide};
    }
    T* data() const { return buffer.data + slice; }
    T& at(int n, int c, int i, int j) const {
        return data()[n * strides.batch_elems + c + i * strides.height_elems +
                      j * strides.width_elems];
    }
    void fill(int batch, int channels, int h, int w, unsigned& state) const {
        for (int n = 0; n < batch; ++n)
            for (int i = 0; i < h; ++i)
                for (int j = 0; j < w; ++j)
                    for (int c = 0; c < channels; ++c)
                        at(n, c, i, j) = from_float<T>(static_cast<float>(small_integer(state)));
    }
};

/// A problem's operands, its phases, and what they are launched with.
template <class T>
class Case {
public:
    Case(const Problem& problem, bool cols_contiguous)
        : q(problem), h_axes(axes_of(q, q.source_h, q.taps_h)),
          w_axes(axes_of(q, q.source_w, q.taps_w)), out_h(whole(h_axes)), out_w(whole(w_axes)),
          by_cols(cols_contiguous),
          source(q.batch, q.channels * q.groups, q.source_h, q.source_w, q.slice),
          weight(std::int64_t{q.groups} * q.cols * q.taps_h * q.taps_w * q.channels),
          bias(q.cols * q.groups + 1),
          residual(q.batch, q.cols * q.groups, out_h, out_w, q.slice),
          out(q.batch, q.cols * q.groups, out_h, out_w, q.slice) {
        unsigned state = 7;
        source.fill(q.batch, q.channels * q.groups, q.source_h, q.source_w, state);
        residual.fill(q.batch, q.cols * q.groups, out_h, out_w, state);
        for (const Buffer<T>* buffer : {&weight, &bias})
            for (std::int64_t i = 0; i < buffer->elems; ++i)
                buffer->data[i] = from_float<T>(static_cast<float>(small_integer(state)));
        for (const PhaseAxis& h : h_axes)
            for (const PhaseAxis& w : w_axes)
                if (h.count > 0 && w.count > 0 && h.out > 0 && w.out > 0) phases.push_back({h, w});
        std::stable_sort(phases.begin(), phases.end(), [](const Phase& a, const Phase& b) {
            return a.h.count * a.w.count > b.h.count * b.w.count;
        });
    }

    /// Wrong and wrongly written elements.
    long run(const CorrelationKernel& kernel, Arithmetic arithmetic) const {
        CorrelationLaunch launch(arguments(phases.front()));
        for (std::size_t i = 1; i < phases.size(); ++i) launch.add(arguments(phases[i]));
        kernel.run(launch, arithmetic, true, 0);
        check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        long wrong = 0;
        for (const Phase& phase : phases) wrong += wrong_of(phase);
        return wrong + out.buffer.written();
    }
    /// Why the kernel cannot, or null.
    const char* why_not(const CorrelationKernel& kernel) const {
        if (kernel.patches == 0) return nullptr;
        std::vector<Correlation> views;
        for (const Phase& phase : phases) {
            Correlation view;
            view.taps_h = {phase.h.count, q.step, phase.h.offset, phase.h.offset_step};
            view.taps_w = {phase.w.count, q.step, phase.w.offset, phase.w.offset_step};
            views.push_back(view);
        }
        return why_not_patched(views, kernel.patches, kernel.block_cols);
    }

private:
    struct Phase {
        PhaseAxis h, w;
    };
    static int whole(const std::vector<PhaseAxis>& axes) {
        int positions = 0;
        for (const PhaseAxis& axis : axes) positions += axis.out;
        return positions;
    }
    std::int64_t tap_elems() const { return by_cols ? q.cols : q.channels; }
    const T& weight_at(int group, int col, int r, int s, int c) const {
        const int outer = by_cols ? group * q.channels + c : group * q.cols + col;
        return weight.data[((std::int64_t{outer} * q.taps_h + r) * q.taps_w + s) * tap_elems() +
                           (by_cols ? col : c)];
    }
    CorrelationArguments arguments(const Phase& phase) const;
    long wrong_of(const Phase& phase) const;

    const Problem& q;
    std::vector<PhaseAxis> h_axes, w_axes;
    int out_h, out_w;
    bool by_cols;
    Image<T> source;
    Buffer<T> weight, bias;
    Image<T> residual, out;
    std::vector<Phase> phases;
};

template <class T>
CorrelationArguments Case<T>::arguments(const Phase& phase) const {
    const PhaseAxis &h = phase.h, &w = phase.w;
    CorrelationArguments p;
    p.source = source.data();
    p.source_strides = source.strides;
    p.source_group_elems = q.channels;
    p.source_h = q.source_h;
    p.source_w = q.source_w;
    p.channels = q.channels;
    p.weight = &weight_at(0, 0, h.first_tap, w.first_tap, 0);
    const std::int64_t outer = tap_elems() * q.taps_h * q.taps_w;
    p.weight_col_elems = by_cols ? 1 : outer;
    p.weight_channel_elems = by_cols ? outer : 1;
    p.weight_tap_w_elems = w.tap_step * tap_elems();
    p.weight_tap_h_elems = h.tap_step * q.taps_w * tap_elems();
    p.taps_h = h.count;
    p.taps_w = w.count;
    p.offset_h = h.offset;
    p.offset_w = w.offset;
    p.offset_step_h = h.offset_step;
    p.offset_step_w = w.offset_step;
    p.step_h = p.step_w = q.step;
    p.rows = q.batch * h.out * w.out;
    p.cols = q.cols;
    p.groups = q.groups;
    p.depth = h.count * w.count * q.channels;
    p.out_h = h.out;
    p.out_w = w.out;
    p.out = &out.at(0, 0, h.first_out, w.first_out);
    p.out_strides = out.strides;
    p.out_strides.height_elems *= h.out_step;
    p.out_strides.width_elems *= w.out_step;
    p.out_group_elems = q.cols;
    if (q.bias) p.bias = bias.data + q.odd_bias;
    if (q.residual) p.residual = residual.data();
    p.residual_strides = residual.strides;
    p.residual_group_elems = q.cols;
    p.relu = q.relu;
    p.depth_per_split = p.depth;
    p.cluster = q.cluster;
    return p;
}

template <class T>
long Case<T>::wrong_of(const Phase& phase) const {
    const PhaseAxis &h = phase.h, &w = phase.w;
    long wrong = 0;
    for (int row = 0; row < q.batch * h.out * w.out; ++row)
        for (int all = 0; all < q.groups * q.cols; ++all) {
            const int n = row / (h.out * w.out), i = row / w.out % h.out, j = row % w.out;
            const int group = all / q.cols, col = all % q.cols;
            float sum = 0.0f;
            for (int a = 0; a < h.count; ++a)
                for (int b = 0; b < w.count; ++b) {
                    const int y = i * q.step + h.offset + a * h.offset_step;
                    const int x = j * q.step + w.offset + b * w.offset_step;
                    if (y < 0 || y >= q.source_h || x < 0 || x >= q.source_w) continue;
                    for (int c = 0; c < q.channels; ++c)
                        sum += to_float(source.at(n, group * q.channels + c, y, x)) *
                               to_float(weight_at(group, col, h.first_tap + a * h.tap_step,
                                                  w.first_tap + b * w.tap_step, c));
                }
            const int to_i = h.first_out + i * h.out_step, to_j = w.first_out + j * w.out_step;
            if (q.bias) sum += to_float(bias.data[all + q.odd_bias]);
            if (q.residual) sum += to_float(residual.at(n, all, to_i, to_j));
            if (q.relu && sum < 0.0f) sum = 0.0f;
            T& got = out.at(n, all, to_i, to_j);
            wrong += !(to_float(got) == to_float(from_float<T>(sum)));
            std::memset(&got, 0xff, sizeof got);
        }
    return wrong;
}

template <class T>
void test(const CorrelationKernel& kernel, Arithmetic arithmetic) {
    int taken = 0;
    for (const Problem& problem : kProblems)
        for (const bool by_cols : {false, true}) {
            const Case<T> run(problem, by_cols);
            if (run.why_not(kernel) != nullptr) continue;
            const long wrong = run.run(kernel, arithmetic);
            ++taken;
            if (wrong != 0)
                std::printf("%s, %s, weights by %s: %ld wrong\n", kernel.name, problem.name,
                            by_cols ? "columns" : "channels", wrong);
            CHECK(wrong == 0);
        }
    CHECK(taken > static_cast<int>(std::size(kProblems)));  // half of them: no kernel is left out
}

}  // namespace
}  // namespace fastconv::cuda

/// An argument restricts the kernels to those whose names contain it.
int main(int argc, char** argv) {
    using namespace fastconv::cuda;
    for (const char* order : {"ascending", "descending", "random:1"}) {
        setenv("FASTCONV_EMULATION_ORDER", order, 1);
        for (const CorrelationKernel& kernel : correlation_kernels_sm90()) {
            if (argc > 1 && std::strstr(kernel.name, argv[1]) == nullptr) continue;
            test<BFloat16>(kernel, Arithmetic::kBFloat16);
            test<Half>(kernel, Arithmetic::kFloat16);
        }
    }
    return report();
}
