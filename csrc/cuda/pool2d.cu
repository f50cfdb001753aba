// Pooling, its gradients and unpooling: which kernel, cut how (contracts: core/pool_plan.h, ops.h).
//
// Floor: what is read and what is written, once each (indices are 8 bytes). Channels last, and
// aligned, every access is 16 bytes; any other tensor goes element by element along whichever of
// channels and width lie closer.
#include <algorithm>
#include <cstdlib>
#include <optional>

#include "cuda/launch.h"
#include "cuda/pool2d_backward.cuh"
#include "cuda/pool2d_forward.cuh"
#include "cuda/unpool2d.cuh"
#include "ops.h"

namespace fastconv::cuda {
namespace {

// Windows of at least so many taps are shared by threads: fewer are loaded by one in a few steps.
constexpr std::int64_t kSharedTaps = 32;

unsigned blocks_of(std::int64_t items, int a_block) {
    return static_cast<unsigned>((items + a_block - 1) / a_block);
}

bool channels_inside(const Strides& strides, std::int64_t channels) {
    return channels > 1 && std::abs(strides.channel_elems) < std::abs(strides.width_elems);
}

class PoolRun {
public:
    PoolRun(const PoolProblem& problem, const PoolStrides& strides, const PoolPointers& pointers)
        : problem_(problem), pool_(problem.pool) {
        const bool backward = problem.backward();
        const Axis &height = pool_.height, &width = pool_.width;
        with_indices_ = problem.max() && (problem.with_indices || backward);
        if (with_indices_ && height.in * width.in >= std::int64_t{1} << 31)
            throw std::invalid_argument("indices of images on CUDA need H * W < 2**31");
        arguments_.source = backward ? pointers.output : pointers.input;
        arguments_.target = backward ? pointers.input : pointers.output;
        arguments_.indices = with_indices_ ? pointers.indices : nullptr;
        arguments_.source_strides = backward ? strides.output : strides.input;
        arguments_.target_strides = backward ? strides.input : strides.output;
        arguments_.index_strides = strides.indices;
        arguments_.height = PoolAxis(height, problem.adaptive, problem.count_include_pad);
        arguments_.width = PoolAxis(width, problem.adaptive, problem.count_include_pad);
        arguments_.divisor = divisor_of_all();
        if (!backward && taps() >= std::int64_t{1} << 31)
            throw std::invalid_argument("cuda: a pooling window has 2**31 elements");
        target_h_ = backward ? height.in : height.out;
        target_w_ = backward ? width.in : width.out;
        const std::int64_t count = 16 / element_bytes_of(problem.dtype), batch = pool_.batch;
        arguments_.dtype = problem.dtype;
        arguments_.packs =
            pool_.channels % count == 0 &&
            packs_channels(pointers.input, strides.input, batch, height.in, width.in, count) &&
            packs_channels(pointers.output, strides.output, batch, height.out, width.out, count) &&
            (!with_indices_ || packs_channels(pointers.indices, strides.indices, batch, height.out,
                                              width.out, 2));
        count_ = arguments_.packs ? static_cast<int>(count) : 1;
    }

    void run(Stream stream) const {
        const bool inside =
            arguments_.packs || channels_inside(arguments_.target_strides, pool_.channels);
        const bool backward = problem_.backward();
        const std::int64_t tile_h = backward ? kPoolRows : 1;
        const std::int64_t tile_w = backward ? pool_cols(count_) : 1;
        const std::int64_t rows = (target_h_ + tile_h - 1) / tile_h;
        const std::int64_t cols = (target_w_ + tile_w - 1) / tile_w;
        const bool shared =
            problem_.operation == PoolOperation::kAverage && taps() >= kSharedTaps;
        const int together = overlapping() && !shared ? 2 : 0;
        for_parts(pool_.batch, pool_.channels / count_, (rows + 3) * cols,
                  [&](std::int64_t n, std::int64_t images, std::int64_t c, std::int64_t some) {
                      PoolArguments part = arguments_;
                      part.walk = Walk(images, some, rows, cols, inside, together);
                      move_to(part, n, c * count_);
                      if (shared) run_reduce(part, some, stream);
                      else run_part(part, stream);
                  });
    }

private:
    /// The divisor that all windows share, or 0.
    float divisor_of_all() const {
        if (problem_.max()) return 0;
        if (problem_.divisor_override != 0) return static_cast<float>(problem_.divisor_override);
        std::int64_t divisor = 1;
        for (const Axis* axis : {&pool_.height, &pool_.width}) {
            if (problem_.adaptive) {
                if (axis->in % axis->out != 0) return 0;
                divisor *= axis->in / axis->out;
                continue;
            }
            const bool count = problem_.count_include_pad;
            const std::int64_t end = (axis->out - 1) * axis->stride - axis->pad_lo + axis->kernel;
            if (end > axis->in + (count ? axis->pad_hi : 0) || (!count && axis->pad_lo > 0))
                return 0;
            divisor *= axis->kernel;
        }
        return static_cast<float>(divisor);
    }

    bool overlapping() const {
        return problem_.adaptive ? false
                                 : pool_.height.extent() > pool_.height.stride && target_h_ >= 4;
    }

    /// The most taps a window has in the image.
    std::int64_t taps() const {
        const auto most = [this](const Axis& axis, const PoolAxis& cut) -> std::int64_t {
            const std::int64_t taps =
                problem_.adaptive ? (axis.in + axis.out - 1) / axis.out + 1 : cut.kernel;
            return std::min(taps, axis.in);
        };
        return most(pool_.height, arguments_.height) * most(pool_.width, arguments_.width);
    }

    /// A square window of kWindow taps, none of them apart.
    bool square(int taps) const {
        const Axis &h = pool_.height, &w = pool_.width;
        return !problem_.adaptive && h.kernel == taps && w.kernel == taps && h.dilation == 1 &&
               w.dilation == 1;
    }

    void move_to(PoolArguments& part, std::int64_t n, std::int64_t c) const {
        const std::int64_t bytes = element_bytes_of(problem_.dtype);
        part.source = static_cast<const char*>(part.source) +
                      offset_of(part.source_strides, n, c) * bytes;
        part.target =
            static_cast<char*>(part.target) + offset_of(part.target_strides, n, c) * bytes;
        if (part.indices) part.indices += offset_of(part.index_strides, n, c);
    }

    void run_part(const PoolArguments& part, Stream stream) const {
        const LaunchShape shape{blocks_of(part.walk.items, kPoolThreads), kPoolThreads};
        switch (problem_.operation) {
            case PoolOperation::kMax:
                if (with_indices_)
                    return square(3) && part.packs
                               ? launch<max_kernel<3, true>>(shape, stream, part)
                               : launch<max_kernel<0, true>>(shape, stream, part);
                return square(3) ? launch<max_kernel<3, false>>(shape, stream, part)
                                 : launch<max_kernel<0, false>>(shape, stream, part);
            case PoolOperation::kAverage: return launch<average_kernel>(shape, stream, part);
            case PoolOperation::kMaxBackward:
                return launch<max_backward_kernel>(shape, stream, part);
            case PoolOperation::kAverageBackward:
                return launch<average_backward_kernel>(shape, stream, part);
        }
    }

    void run_reduce(PoolArguments& part, std::int64_t channels, Stream stream) const {
        part.slices_inside = !part.walk.channels_inside;
        part.lanes = part.slices_inside ? 8 : 32;
        while (part.lanes > 8 && part.lanes > channels) part.lanes /= 2;
        const LaunchShape shape{blocks_of(part.walk.items, part.lanes), kPoolThreads,
                                static_cast<std::size_t>(kPoolThreads * count_) * sizeof(float)};
        launch<reduce_kernel>(shape, stream, part);
    }

    const PoolProblem& problem_;
    const Pool& pool_;
    PoolArguments arguments_;
    std::int64_t target_h_ = 0, target_w_ = 0;
    bool with_indices_ = false;
    int count_ = 1;  // elements of channels that a thread has
};

/// Of a part of max_unpool2d: owners that are cleared, claimed and read within a third of the L2 cache,
/// beside what streams through it. Channels that lie closest are cut into sectors of 32 bytes at least.
std::int64_t most_owners(std::int64_t places, bool channels_inside) {
    constexpr std::int64_t kLeast = 1 << 18, kLeastChannels = 16;
    const auto l2_bytes = static_cast<std::int64_t>(device(current_device()).l2_bytes);
    const std::int64_t least = channels_inside ? kLeastChannels * places : 0;
    return std::min(kMostItems, std::max({l2_bytes / 3 / std::int64_t{sizeof(int)}, kLeast, least}));
}

}  // namespace

void run_pool2d(const PoolProblem& problem, const PoolStrides& strides, const PoolPointers& pointers,
                Stream stream) {
    const Pool& pool = problem.pool;
    const std::int64_t plane = problem.backward() ? pool.height.in * pool.width.in
                                                  : pool.height.out * pool.width.out;
    if (pool.batch * pool.channels * plane == 0) return;
    require_kernels(problem.dtype);
    const PoolRun run(problem, strides, pointers);
    run.run(stream);
}

void run_unpool2d(const UnpoolProblem& problem, const PoolPointers& pointers, Stream stream) {
    const std::int64_t inputs = problem.in_h * problem.in_w;
    const std::int64_t outputs = problem.out_h * problem.out_w;
    const bool backward = problem.backward;
    const Strides& from = backward ? problem.output : problem.input;
    const Strides& to = backward ? problem.input : problem.output;
    const bool inside = channels_inside(to, problem.channels);
    require_kernels(problem.dtype);
    const std::int64_t bytes = element_bytes_of(problem.dtype);
    const std::int64_t most = backward ? kMostItems : most_owners(outputs, inside);
    std::optional<Scratch> scratch;  // of the first part, as large as any
    for_parts(problem.batch, problem.channels, std::max(inputs, outputs), most,
              [&](std::int64_t n, std::int64_t images, std::int64_t c, std::int64_t channels) {
        UnpoolArguments a;
        a.element_bytes = static_cast<int>(bytes);
        a.from = static_cast<const char*>(backward ? pointers.output : pointers.input) +
                 bytes * offset_of(from, n, c);
        a.to = static_cast<char*>(backward ? pointers.input : pointers.output) +
               bytes * offset_of(to, n, c);
        a.indices = pointers.indices + offset_of(problem.indices, n, c);
        a.from_strides = from;
        a.to_strides = to;
        a.index_strides = problem.indices;
        a.channels = static_cast<int>(channels);
        a.input_width = static_cast<int>(problem.in_w);
        a.places = static_cast<int>(outputs);
        if (problem.in_w > 0) a.by_input_width = Divider(problem.in_w);
        if (problem.out_w > 0) a.by_output_width = Divider(problem.out_w);
        if (inputs > 0)
            a.inputs = Walk(images, channels, problem.in_h, problem.in_w, inside, 0);
        a.inputs.channels_inside = inside;
        if (outputs > 0)
            a.outputs = Walk(images, channels, problem.out_h, problem.out_w, inside, 0);
        const LaunchShape over_inputs{blocks_of(a.inputs.items, kPoolThreads), kPoolThreads};
        const LaunchShape over_outputs{blocks_of(a.outputs.items, kPoolThreads), kPoolThreads};
        if (backward) return launch<unpool_backward_kernel>(over_inputs, stream, a);
        const std::int64_t owners = a.outputs.items;
        const std::size_t owner_bytes = static_cast<std::size_t>(owners) * sizeof(int);
        if (!scratch) scratch.emplace(owner_bytes, stream);
        a.owners = static_cast<int*>(scratch->data());
        constexpr int kNobody = 0xFF;  // in every byte: -1
        check(cudaMemsetAsync(a.owners, kNobody, owner_bytes, stream_of(stream)),
              "cudaMemsetAsync");
        if (outputs > 0) launch<claim_places_kernel>(over_inputs, stream, a);
        launch<unpool_kernel>(over_outputs, stream, a);
    });
}

}  // namespace fastconv::cuda
