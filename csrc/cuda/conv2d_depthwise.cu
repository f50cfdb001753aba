// Convolution without a matrix product: depthwise, whose channels are groups of their own, and
// naive, for whatever no other kernel accepts. Which kernel, cut how; the kernels are in
// depthwise_forward.cuh, depthwise_grad_weight.cuh and conv2d_naive.cuh.
#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "core/ceil_div.h"
#include "cuda/conv2d_naive.cuh"
#include "cuda/depthwise_forward.cuh"
#include "cuda/depthwise_grad_weight.cuh"
#include "cuda/launch.h"

namespace fastconv::cuda {
namespace {

constexpr std::int64_t kMostTaps = 1000;  // in shared memory, M of them a channel in grad_input
constexpr std::size_t kSharedBytes = 48 * 1024;
constexpr std::int64_t kManyThreads = 1 << 20;  // of one output (or a few) each

DepthwiseAxis cut(const Axis& axis, bool gather) {
    DepthwiseAxis to;
    to.source = static_cast<int>(gather ? axis.out : axis.in);
    to.out = static_cast<int>(gather ? axis.in : axis.out);
    to.kernel = static_cast<int>(axis.kernel);
    to.stride = static_cast<int>(axis.stride);
    to.dilation = static_cast<int>(axis.dilation);
    to.pad = static_cast<int>(axis.pad_lo);
    const std::int64_t common = std::gcd(axis.stride, axis.dilation);
    to.period = static_cast<int>(axis.stride / common);
    to.back_step = static_cast<int>(axis.dilation / common);
    return to;
}

/// The most lanes, up to 32, that leave at most an eighth of them idle.
int choose_lanes(std::int64_t channels) {
    for (int lanes = 32; lanes > 4; lanes /= 2)
        if (ceil_div(channels, lanes) * lanes * 8 <= channels * 9) return lanes;
    return 4;
}

bool square(const Conv& conv, std::int64_t taps) {
    return conv.height.kernel == taps && conv.width.kernel == taps && conv.height.dilation == 1 &&
           conv.width.dilation == 1;
}

std::int64_t positions(const Conv& conv, Direction direction) {
    return direction == Direction::kGradInput ? conv.batch * conv.height.in * conv.width.in
                                              : conv.batch * conv.height.out * conv.width.out;
}

/// Slices of the positions whose sums are kept apart: enough blocks for the device, 8192 positions
/// at most (1024 a thread), 64 at least.
std::int64_t slices_of(const Conv& conv, const DeviceInfo& device) {
    const std::int64_t all = positions(conv, Direction::kGradWeight);
    const std::int64_t chunks =
        ceil_div(conv.out_channels * conv.element_bytes(), 32 * 16) *
        (square(conv, 3) ? 1 : square(conv, 5) ? 5 : conv.taps());
    const std::int64_t wanted =
        std::max(ceil_div(2 * std::max(1, device.multiprocessors), chunks), ceil_div(all, 8192));
    return std::max<std::int64_t>(1, std::min(wanted, ceil_div(all, 64)));
}

class DepthwiseRun {
public:
    DepthwiseRun(const CudaConvPlan& plan, const ConvPointers& pointers, void* workspace)
        : plan_(plan), conv_(plan.problem), pointers_(pointers) {
        const bool gather = plan.direction == Direction::kGradInput;
        const std::int64_t multiplier = conv_.out_channels / conv_.in_channels;
        flipped_ = gather && multiplier == 1 && conv_.height.stride == 1 && conv_.width.stride == 1;
        arguments_.height = cut(conv_.height, gather);
        arguments_.width = cut(conv_.width, gather);
        arguments_.source = gather ? pointers.output : pointers.input;
        arguments_.out = gather ? pointers.input : pointers.output;
        arguments_.source_strides = gather ? plan.strides.output : plan.strides.input;
        arguments_.out_strides = gather ? plan.strides.input : plan.strides.output;
        arguments_.weight = pointers.weight;
        arguments_.weight_strides = plan.strides.weight;
        arguments_.bias = pointers.bias;
        arguments_.residual = pointers.residual;
        arguments_.residual_strides = plan.strides.residual;
        arguments_.relu = pointers.relu;
        arguments_.multiplier = static_cast<int>(multiplier);
        arguments_.gather = gather;
        arguments_.partial = static_cast<float*>(workspace);
        channels_ = gather ? conv_.in_channels : conv_.out_channels;
        arguments_.dtype = conv_.dtype;
        arguments_.packs = multiplier == 1 && aligned();
        count_ = arguments_.packs ? static_cast<int>(16 / conv_.element_bytes()) : 1;
    }

    void run(Stream stream) {
        choose_block();
        if (plan_.direction == Direction::kGradWeight) return run_weight(stream);
        DepthwiseArguments& a = arguments_;
        const std::int64_t taps = conv_.taps() * (a.gather ? a.multiplier : 1);
        const auto shared = [&] {
            return static_cast<std::size_t>(taps + 1) * weight_pitch(a.lanes, count_) *
                   sizeof(float);
        };
        while (shared() > kSharedBytes && a.lanes > 1) a.lanes /= 2;
        const int stride = flipped_ ? 1 : static_cast<int>(conv_.height.stride);
        const bool even = conv_.height.stride == conv_.width.stride && (!a.gather || flipped_);
        const bool rows = count_ > 1 && even &&
                          ((square(conv_, 3) && stride <= 2) || (square(conv_, 5) && stride == 1));
        const int outputs =
            rows ? row_outputs(static_cast<int>(conv_.width.kernel), stride, count_) : 1;
        const std::int64_t cols = ceil_div(a.width.out, outputs);
        // Four positions a thread share the weights' way to shared memory, where the grid is large.
        const std::int64_t groups = kDepthwiseThreads / a.lanes;
        const std::int64_t threads = conv_.batch * a.height.out * cols * (channels_ / count_);
        const std::int64_t each = threads >= kManyThreads ? 4 * groups : groups;
        const LaunchShape shape{lay_out(cols, each), kDepthwiseThreads, shared()};
        if (!rows) return launch<general_kernel>(shape, stream, a);
        turn_round();
        if (square(conv_, 5)) return launch<row_kernel<5, 1>>(shape, stream, a);
        if (stride == 2) return launch<row_kernel<3, 2>>(shape, stream, a);
        launch<row_kernel<3, 1>>(shape, stream, a);
    }

private:
    bool aligned() const {
        const std::int64_t count = 16 / conv_.element_bytes();
        const Axis &h = conv_.height, &w = conv_.width;
        return conv_.in_channels % count == 0 &&
               packs_channels(pointers_.input, plan_.strides.input, conv_.batch, h.in, w.in, count) &&
               packs_channels(pointers_.output, plan_.strides.output, conv_.batch, h.out, w.out, count) &&
               (!pointers_.residual || packs_channels(pointers_.residual, plan_.strides.residual,
                                             conv_.batch, h.out, w.out, count));
    }

    /// Blocks of the grid over `cols` positions (or groups of them) a row.
    unsigned lay_out(std::int64_t cols, std::int64_t each) {
        DepthwiseArguments& a = arguments_;
        a.channels = static_cast<int>(channels_ / count_);
        const std::int64_t chunks = ceil_div(a.channels, a.lanes);
        a.by_chunks = Divider(chunks);
        a.by_cols = Divider(std::max<std::int64_t>(1, cols));
        a.by_rows = Divider(std::max(1, a.height.out));
        const std::int64_t all = conv_.batch * a.height.out * cols;
        a.positions = static_cast<std::uint32_t>(all);
        a.positions_each = static_cast<std::uint32_t>(each);
        return static_cast<unsigned>(chunks * ceil_div(all, std::max<std::int64_t>(1, each)));
    }

    void choose_block() {
        const Strides& written = arguments_.out_strides;
        arguments_.lanes_inside =
            count_ > 1 || std::abs(written.channel_elems) < std::abs(written.width_elems);
        arguments_.lanes = arguments_.lanes_inside ? choose_lanes(channels_ / count_) : 1;
    }

    /// grad_input of stride 1 as a correlation of grad_output.
    void turn_round() {
        if (!flipped_) return;
        arguments_.flipped = true;
        arguments_.gather = false;
        arguments_.height.pad = static_cast<int>(conv_.height.kernel - 1 - conv_.height.pad_lo);
        arguments_.width.pad = static_cast<int>(conv_.width.kernel - 1 - conv_.width.pad_lo);
    }

    void run_weight(Stream stream) {
        DepthwiseArguments& a = arguments_;
        const std::int64_t all = positions(conv_, Direction::kGradWeight);
        const std::int64_t wanted = slices_of(conv_, device(current_device()));
        const std::int64_t each = std::max<std::int64_t>(1, ceil_div(all, wanted));
        const std::int64_t slices = std::max<std::int64_t>(1, ceil_div(all, each));
        lay_out(a.width.out, each);
        const bool three = count_ > 1 && square(conv_, 3), five = count_ > 1 && square(conv_, 5);
        const LaunchShape shape{
            dim3(static_cast<unsigned>(ceil_div(a.channels, a.lanes) * slices),
                 three ? 1 : five ? 5 : static_cast<unsigned>(conv_.taps())),
            kDepthwiseThreads,
            static_cast<std::size_t>(kDepthwiseThreads * count_) * sizeof(float)};
        if (three) launch<weight_kernel<3, 3>>(shape, stream, a);
        else if (five) launch<weight_kernel<1, 5>>(shape, stream, a);
        else launch<weight_kernel<1, 1>>(shape, stream, a);
        SlicesArguments sums;
        sums.partial = a.partial;
        sums.weight = {pointers_.weight, conv_.dtype};
        sums.strides = plan_.strides.weight;
        sums.slices = static_cast<int>(slices);
        sums.filters = static_cast<int>(conv_.out_channels);
        sums.taps = static_cast<int>(conv_.taps());
        sums.width = static_cast<int>(conv_.width.kernel);
        sums.accumulate = pointers_.accumulate;
        const std::int64_t results = conv_.taps() * conv_.out_channels;
        launch<add_slices_kernel>({static_cast<unsigned>(ceil_div(results, 32)),
                                      32 * kSubSlices, 32 * kSubSlices * sizeof(float)},
                                     stream, sums);
    }

    const CudaConvPlan& plan_;
    const Conv& conv_;
    const ConvPointers& pointers_;
    DepthwiseArguments arguments_;
    std::int64_t channels_ = 0;
    bool flipped_ = false;
    int count_ = 1;  // elements of channels that a thread has
};

/// The results' shape, as batch, channels, height, width, and whether channels lie closest.
struct Results {
    std::int64_t batch, channels, height, width;
    Strides strides;
};

Results results_of(const CudaConvPlan& plan) {
    const Conv& conv = plan.problem;
    switch (plan.direction) {
        case Direction::kForward:
            return {conv.batch, conv.out_channels, conv.height.out, conv.width.out,
                    plan.strides.output};
        case Direction::kGradInput:
            return {conv.batch, conv.in_channels, conv.height.in, conv.width.in,
                    plan.strides.input};
        default:
            return {conv.out_channels, conv.group_in(), conv.height.kernel, conv.width.kernel,
                    plan.strides.weight};
    }
}

}  // namespace

bool depthwise_accepts(const Conv& conv, Direction direction, const ConvStrides&) {
    constexpr std::int64_t kMost = (std::int64_t{1} << 31) - (1 << 20);
    if (conv.groups != conv.in_channels || conv.groups <= 1 || conv.out_channels == 0) return false;
    const std::int64_t multiplier = conv.out_channels / conv.in_channels;
    const std::int64_t filters = direction == Direction::kGradInput ? multiplier : 1;
    if (conv.taps() * filters > kMostTaps) return false;
    const auto fits = [](const Axis& axis) {
        return axis.in + axis.pad_lo + axis.pad_hi + axis.extent() < kMost && axis.stride < kMost &&
               axis.dilation < kMost && axis.out < kMost;
    };
    return fits(conv.height) && fits(conv.width) && conv.out_channels * conv.taps() < kMost &&
           std::max(positions(conv, Direction::kForward),
                    positions(conv, Direction::kGradInput)) < kMost;
}

std::int64_t depthwise_workspace_bytes(const Conv& conv, Direction direction,
                                       const DeviceInfo& device) {
    if (direction != Direction::kGradWeight) return 0;
    return slices_of(conv, device) * conv.taps() * conv.out_channels *
           static_cast<std::int64_t>(sizeof(float));
}

void run_depthwise(const CudaConvPlan& plan, const ConvPointers& pointers, void* workspace,
                   Stream stream) {
    require_kernels(plan.problem.dtype);
    DepthwiseRun(plan, pointers, workspace).run(stream);
}

void run_naive(const CudaConvPlan& plan, const ConvPointers& pointers, Stream stream) {
    const Results results = results_of(plan);
    const Strides& written = results.strides;
    const bool inside = std::abs(written.channel_elems) < std::abs(written.width_elems);
    NaiveArguments a;
    a.conv = plan.problem;
    a.direction = plan.direction;
    a.group_in = plan.problem.group_in();
    a.group_out = plan.problem.group_out();
    a.input = plan.strides.input;
    a.weight = plan.strides.weight;
    a.output = plan.strides.output;
    a.residual = plan.strides.residual;
    const auto operand = [&](const void* data) {
        return Operand{const_cast<void*>(data), plan.problem.dtype};
    };
    a.x = operand(pointers.input);
    a.w = operand(pointers.weight);
    a.y = operand(pointers.output);
    a.bias = operand(pointers.bias);
    a.residual_data = operand(pointers.residual);
    require_kernels(plan.problem.dtype);
    a.relu = pointers.relu;
    a.accumulate = pointers.accumulate;
    for_parts(results.batch, results.channels, results.height * results.width,
              [&](std::int64_t n, std::int64_t images, std::int64_t c, std::int64_t channels) {
                  a.first_n = n;
                  a.first_c = c;
                  a.walk = Walk(images, channels, results.height, results.width, inside, 0);
                  const LaunchShape shape{(a.walk.items + kNaiveThreads - 1) / kNaiveThreads,
                                          kNaiveThreads};
                  launch<naive>(shape, stream, a);
              });
}

}  // namespace fastconv::cuda
