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
    kVector,     // 16 bytes along channels; residual is read likewise
    kChannels,   // element by element, channels are contiguous
    kPositions,  // element by element, any strides
};

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
            case Store::kPartial: return partial();
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
    __device__ void one(int row, int col, float sum) const {
        const T* residual = static_cast<const T*>(p_.residual);
        float value = sum + sums_.bias[col];
        if (residual != nullptr)
            value += to_float(
                residual[sums_.residual[row] + col * p_.residual_strides.channel_elems]);
        if (p_.relu && value < 0.0f) value = 0.0f;  // NaN stays
        static_cast<T*>(p_.out)[sums_.out[row] + col * p_.out_strides.channel_elems] =
            from_float<T>(value);
    }

    __device__ void partial() const {
        const std::int64_t plane = std::int64_t{split_} * p_.groups + group_;
        float* out = p_.partial + (plane * p_.rows + row0_) * p_.cols + col0_;
#pragma unroll 4
        for (int at = threadIdx.x; at < kRows * kCols; at += kThreads) {
            const int row = at / kCols, col = at % kCols;
            if (stored(row, col))
                out[std::int64_t{row} * p_.cols + col] = sums_.sum[row * Sums::kPitch + col];
        }
    }
    __device__ void channels() const {
        for (int at = threadIdx.x; at < kRows * kCols; at += kThreads) {
            const int row = at / kCols, col = at % kCols;
            if (stored(row, col)) one(row, col, sums_.sum[row * Sums::kPitch + col]);
        }
    }
    __device__ void positions() const {
        constexpr int kWide = 4;  // one 16-byte read of sums
        for (int at = threadIdx.x; at < kRows * kCols / kWide; at += kThreads) {
            const int row = at % kRows, col = at / kRows * kWide;
            const auto sums = *reinterpret_cast<const Pack<float, kWide>*>(
                &sums_.sum[row * Sums::kPitch + col]);
#pragma unroll
            for (int e = 0; e < kWide; ++e)
                if (stored(row, col + e)) one(row, col + e, sums.value[e]);
        }
    }
    __device__ void vectors() const {
        constexpr int kElems = kPackElems<T>, kPacks = kCols / kElems;
        const T* residual = static_cast<const T*>(p_.residual);
#pragma unroll 4
        for (int at = threadIdx.x; at < kRows * kPacks; at += kThreads) {
            const int row = at / kPacks, col = at % kPacks * kElems;
            if (!stored(row, col)) continue;
            if (col0_ + col + kElems > p_.cols) {  // the channels' tail
                for (int e = 0; stored(row, col + e); ++e)
                    one(row, col + e, sums_.sum[row * Sums::kPitch + col + e]);
                continue;
            }
            const float* sum = &sums_.sum[row * Sums::kPitch + col];
            float value[kElems];
#pragma unroll
            for (int e = 0; e < kElems; ++e) value[e] = sum[e] + sums_.bias[col + e];
            if (residual != nullptr) {
                const auto pack = *reinterpret_cast<const Pack<T, kElems>*>(
                    residual + sums_.residual[row] + col);
#pragma unroll
                for (int e = 0; e < kElems; ++e) value[e] += to_float(pack.value[e]);
            }
            Pack<T, kElems> pack;
#pragma unroll
            for (int e = 0; e < kElems; ++e)
                pack.value[e] = from_float<T>(p_.relu && value[e] < 0.0f ? 0.0f : value[e]);
            *reinterpret_cast<Pack<T, kElems>*>(static_cast<T*>(p_.out) + sums_.out[row] + col) =
                pack;
        }
    }

    const CorrelationArguments& p_;
    Sums& sums_;
    int group_, split_, row0_, col0_;
};

}  // namespace fastconv::cuda::sm80
