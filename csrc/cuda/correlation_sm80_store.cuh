// What happens to the sums of correlation_sm80.cuh: out = relu(sum + bias + residual), rounded
// once, or the bare float32 sums where the depth is split.
//
// The tile of sums goes through shared memory in float32, (rows, cols) with a pitch of cols + 8:
// the fragments' 8-byte writes (4 rows x 4 pairs a half-warp) meet every bank once, and what leaves
// is whole 16-byte packs, neighbouring lanes along whichever of channels or positions is
// contiguous.
#pragma once

#include <cstdint>

#include "cuda/correlation_sm80_gather.cuh"

namespace fastconv::cuda::sm80 {

/// How `out` is written.
enum class Store : int {
    kPartial,    // float32 sums
    kPartial4,   // the same, 16 bytes at a time
    kVector,     // 16 bytes along channels; residual is read likewise
    kChannels,   // element by element, channels are contiguous
    kPositions,  // element by element, any strides
};

/// Whether an operand of elements of `bytes` can be accessed 16 bytes at a time along channels.
inline bool aligned(const void* data, const Strides& strides, int groups, std::int64_t group_elems,
                    std::int64_t bytes) {
    const auto whole = [&](std::int64_t elems) { return elems * bytes % 16 == 0; };
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && strides.channel_elems == 1 &&
           whole(strides.batch_elems) && whole(strides.height_elems) &&
           whole(strides.width_elems) && (groups == 1 || whole(group_elems));
}

/// How the launch of these arguments stores.
inline Store store_of(const CorrelationArguments& p, std::int64_t bytes) {
    if (p.partial != nullptr)
        return p.cols % 4 == 0 && reinterpret_cast<std::uintptr_t>(p.partial) % 16 == 0
                   ? Store::kPartial4 : Store::kPartial;
    const bool residual_too =
        p.residual == nullptr ||
        aligned(p.residual, p.residual_strides, p.groups, p.residual_group_elems, bytes);
    if (residual_too && aligned(p.out, p.out_strides, p.groups, p.out_group_elems, bytes))
        return Store::kVector;
    return p.out_strides.channel_elems == 1 ? Store::kChannels : Store::kPositions;
}

/// The block's shared memory when the main loop is over.
template <int kRows, int kCols>
struct SumTile {
    static constexpr int kPitch = kCols + 8;
    float sum[kRows * kPitch];
    std::int64_t out[kRows], residual[kRows];  // offsets of each row's first column
    float bias[kCols];
};

template <class T, int kRows, int kCols, int kThreads>
class TileStore {
    using Sums = SumTile<kRows, kCols>;

public:
    __device__ TileStore(const CorrelationArguments& p, Sums& sums, int group, int split, int row0,
                         int col0)
        : p_(p), sums_(sums), group_(group), split_(split), row0_(row0), col0_(col0) {}

    /// Before the barrier that completes the sums: where rows start, and the bias.
    __device__ void prepare() {
        for (int row = threadIdx.x; row < kRows; row += kThreads) {
            const Position at(p_, row0_ + row);
            sums_.out[row] = offset(at, p_.out_strides, p_.out_group_elems);
            sums_.residual[row] = offset(at, p_.residual_strides, p_.residual_group_elems);
        }
        const T* bias = static_cast<const T*>(p_.bias);
        for (int col = threadIdx.x; col < kCols; col += kThreads)
            sums_.bias[col] = bias != nullptr && col0_ + col < p_.cols
                                  ? to_float(bias[group_ * p_.cols + col0_ + col])
                                  : 0.0f;
    }
    /// After it.
    __device__ void run(Store store) {
        switch (store) {
            case Store::kPartial: return partial<1>();
            case Store::kPartial4: return partial<4>();
            case Store::kVector: return vectors();
            case Store::kChannels: return channels();
            case Store::kPositions: return positions();
        }
    }

private:
    __device__ std::int64_t offset(const Position& at, const Strides& strides,
                                   std::int64_t group_elems) const {
        return at.n * strides.batch_elems + at.i * strides.height_elems +
               at.j * strides.width_elems + group_ * group_elems +
               col0_ * strides.channel_elems;
    }
    __device__ bool stored(int row, int col) const {
        return row0_ + row < p_.rows && col0_ + col < p_.cols;
    }
    __device__ float finished(float sum) const {
        return p_.relu && sum < 0.0f ? 0.0f : sum;  // NaN stays
    }
    /// Elements (row + e * kRowStep, col + e * kColStep). As in vectors(), residuals are read
    /// before the first store: the compiler cannot move them, for out may be the residual itself.
    template <int kCount, int kRowStep, int kColStep>
    __device__ void elements(int row, int col) const {
        const T* residual = static_cast<const T*>(p_.residual);
        float value[kCount];
        if constexpr (kColStep == 1) {
            read(value, row, col);
        } else {
#pragma unroll
            for (int e = 0; e < kCount; ++e)
                value[e] = sums_.sum[(row + e * kRowStep) * Sums::kPitch + col + e * kColStep];
        }
#pragma unroll
        for (int e = 0; e < kCount; ++e) value[e] += sums_.bias[col + e * kColStep];
        if (residual != nullptr) {
#pragma unroll
            for (int e = 0; e < kCount; ++e)
                if (stored(row + e * kRowStep, col + e * kColStep))
                    value[e] += to_float(
                        residual[sums_.residual[row + e * kRowStep] +
                                 (col + e * kColStep) * p_.residual_strides.channel_elems]);
        }
        T* out = static_cast<T*>(p_.out);
#pragma unroll
        for (int e = 0; e < kCount; ++e)
            if (stored(row + e * kRowStep, col + e * kColStep))
                out[sums_.out[row + e * kRowStep] +
                    (col + e * kColStep) * p_.out_strides.channel_elems] =
                    from_float<T>(finished(value[e]));
    }
    /// Neighbouring columns' sums by 16-byte reads. Lanes that read 8 columns each are 32 bytes
    /// apart: every other four of them begin with the second half, so that 8 lanes meet every bank
    /// once.
    template <int kCount>
    __device__ void read(float (&value)[kCount], int row, int col) const {
        static_assert(kCount == 4 || kCount == 8);
        constexpr int kHalves = kCount / 4;
        const float* sum = &sums_.sum[row * Sums::kPitch + col];
        const int swap = kHalves == 2 ? static_cast<int>(threadIdx.x) / 4 % 2 : 0;
        Pack<float, 4> half[kHalves];
#pragma unroll
        for (int h = 0; h < kHalves; ++h)
            half[h] = *reinterpret_cast<const Pack<float, 4>*>(sum + (h ^ swap) * 4);
#pragma unroll
        for (int e = 0; e < kCount; ++e)
            value[e] = swap ? half[kHalves - 1 - e / 4].value[e % 4] : half[e / 4].value[e % 4];
    }

    template <int kWide>
    __device__ void partial() const {
        const std::int64_t plane = std::int64_t{split_} * p_.groups + group_;
        float* out = p_.partial + (plane * p_.rows + row0_) * p_.cols + col0_;
#pragma unroll 4
        for (int at = threadIdx.x; at < kRows * kCols / kWide; at += kThreads) {
            const int row = at / (kCols / kWide), col = at % (kCols / kWide) * kWide;
            if (stored(row, col))
                *reinterpret_cast<Pack<float, kWide>*>(out + std::int64_t{row} * p_.cols + col) =
                    *reinterpret_cast<const Pack<float, kWide>*>(
                        &sums_.sum[row * Sums::kPitch + col]);
        }
    }
    __device__ void channels() const {
        constexpr int kCount = 8, kRowStep = kThreads / kCols;
        static_assert(kThreads % kCols == 0 && kRows % (kCount * kRowStep) == 0);
        const int col = threadIdx.x % kCols;
        for (int row = threadIdx.x / kCols; row < kRows; row += kCount * kRowStep)
            elements<kCount, kRowStep, 0>(row, col);
    }
    __device__ void positions() const {
        constexpr int kCount = 8;
        for (int at = threadIdx.x; at < kRows * kCols / kCount; at += kThreads)
            elements<kCount, 0, 1>(at % kRows, at / kRows * kCount);
    }
    __device__ void vectors() const {
        constexpr int kElems = kPackElems<T>, kPacks = kCols / kElems;
        constexpr int kRowStep = kThreads / kPacks;
        constexpr int kCount = kRows / kRowStep < 8 ? kRows / kRowStep : 8;  // reads in flight
        static_assert(kThreads % kPacks == 0 && kRows % (kCount * kRowStep) == 0);
        using Elements = Pack<T, kElems>;
        const int col = threadIdx.x % kPacks * kElems;
        const int left = p_.cols - col0_ - col;
        if (left <= 0) return;
        float bias[kElems];
#pragma unroll
        for (int e = 0; e < kElems; ++e) bias[e] = sums_.bias[col + e];
        const T* residual = static_cast<const T*>(p_.residual);
        for (int first = threadIdx.x / kPacks; first < kRows; first += kCount * kRowStep) {
            if (left < kElems) {  // the channels' tail
                for (int i = 0; i < kCount; ++i) elements<kElems, 0, 1>(first + i * kRowStep, col);
                continue;
            }
            Elements added[kCount];
            if (residual != nullptr) {
#pragma unroll
                for (int i = 0; i < kCount; ++i) {
                    const int row = first + i * kRowStep;
                    if (row0_ + row < p_.rows)
                        added[i] = *reinterpret_cast<const Elements*>(
                            residual + sums_.residual[row] + col);
                }
            }
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const int row = first + i * kRowStep;
                if (row0_ + row >= p_.rows) continue;
                float value[kElems];
                read(value, row, col);
                Elements result;
#pragma unroll
                for (int e = 0; e < kElems; ++e) {
                    value[e] += bias[e];
                    if (residual != nullptr) value[e] += to_float(added[i].value[e]);
                    result.value[e] = from_float<T>(finished(value[e]));
                }
                *reinterpret_cast<Elements*>(static_cast<T*>(p_.out) + sums_.out[row] + col) =
                    result;
            }
        }
    }

    const CorrelationArguments& p_;
    Sums& sums_;
    int group_, split_, row0_, col0_;
};

}  // namespace fastconv::cuda::sm80
