// Max unpooling and its gradient, by index.
//
//   forward    y[n, c, index[n, c, p, q]] = x[n, c, p, q], 0 elsewhere; of equal indices the last
//   backward   dx[n, c, p, q] = dy[n, c, index[n, c, p, q]]
//
// One scalar loop for any strides: the indices decide where memory is touched, so there is nothing
// to vectorise, and the windows that made them are not known. A task is one plane, or for channels
// last a block of 16 channels (one cache line of float), so that no two tasks write the same line
// often.
#include <algorithm>
#include <atomic>

#include "core/parallel.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

template <class T>
struct Planes {
    T* input;
    T* output;
    const std::int64_t* indices;
};

template <class T>
void clear(const UnpoolProblem& u, T* output, std::int64_t channels) {
    for (std::int64_t h = 0; h < u.out_h; ++h)
        for (std::int64_t w = 0; w < u.out_w; ++w)
            for (std::int64_t c = 0; c < channels; ++c)
                output[h * u.output.height_elems + w * u.output.width_elems +
                       c * u.output.channel_elems] = 0;
}

/// Returns the first index that lies outside, or -1.
template <class T>
std::int64_t move(const UnpoolProblem& u, const Planes<T>& planes, std::int64_t channels) {
    for (std::int64_t p = 0; p < u.in_h; ++p) {
        for (std::int64_t q = 0; q < u.in_w; ++q) {
            for (std::int64_t c = 0; c < channels; ++c) {
                const std::int64_t index =
                    planes.indices[p * u.indices.height_elems + q * u.indices.width_elems +
                                   c * u.indices.channel_elems];
                if (index < -1 || index >= u.out_h * u.out_w) return index;
                T& x = planes.input[p * u.input.height_elems + q * u.input.width_elems +
                                    c * u.input.channel_elems];
                if (index < 0) {
                    if (u.backward) x = 0;
                    continue;
                }
                T& y = planes.output[index / u.out_w * u.output.height_elems +
                                     index % u.out_w * u.output.width_elems +
                                     c * u.output.channel_elems];
                if (u.backward) x = y;
                else y = x;
            }
        }
    }
    return -1;
}

template <class T>
std::int64_t run(const UnpoolProblem& u, const PoolPointers& pointers, int threads) {
    const Strides& written = u.backward ? u.input : u.output;
    const std::int64_t block =
        std::abs(written.channel_elems) < std::abs(written.width_elems) ? 16 : 1;
    const std::int64_t blocks = (u.channels + block - 1) / block;
    std::atomic<std::int64_t> outside{-1};
    parallel_for(u.batch * blocks, threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        const std::int64_t n = task / blocks, c = task % blocks * block;
        const std::int64_t channels = std::min(block, u.channels - c);
        const auto first = [&](auto* data, const Strides& strides) {
            return data + n * strides.batch_elems + c * strides.channel_elems;
        };
        const Planes<T> planes{first(static_cast<T*>(pointers.input), u.input),
                               first(static_cast<T*>(pointers.output), u.output),
                               first(pointers.indices, u.indices)};
        if (!u.backward) clear(u, planes.output, channels);
        const std::int64_t found = move(u, planes, channels);
        if (found != -1) outside.store(found, std::memory_order_relaxed);
    });
    return outside.load();
}

}  // namespace

std::int64_t run_unpool2d(const UnpoolProblem& problem, const PoolPointers& pointers, int threads) {
    return problem.dtype == DType::kFloat32 ? run<float>(problem, pointers, threads)
                                            : run<double>(problem, pointers, threads);
}

}  // namespace fastconv::cpu
