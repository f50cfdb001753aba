// Plans of calls that come again. A plan follows from numbers alone, and making one takes 0.3 to 4 us, as long as
// many a small layer's kernel; to find it among those made before takes 0.1 us.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/plan.h"

namespace fastconv {

/// All that a plan follows from: numbers, as one list, and a name.
class PlanKey {
public:
    template <class... Numbers>
    PlanKey& add(Numbers... numbers) {
        ((numbers_[count_++] = static_cast<std::int64_t>(numbers)), ...);
        return *this;
    }
    PlanKey& add(const Axis& axis) {
        return add(axis.in, axis.kernel, axis.stride, axis.dilation, axis.pad_lo, axis.pad_hi, axis.out);
    }
    PlanKey& add(const Strides& strides) {
        return add(strides.batch_elems, strides.channel_elems, strides.height_elems, strides.width_elems);
    }
    PlanKey& add(const Conv& conv) {
        add(conv.batch, conv.in_channels, conv.out_channels, conv.groups, conv.dtype);
        return add(conv.height).add(conv.width);
    }
    PlanKey& add(const ConvStrides& strides) {
        add(strides.input).add(strides.weight).add(strides.output).add(strides.residual);
        return add(strides.has_residual, strides.pooled);
    }
    PlanKey& add_object(const void* object) { return add(reinterpret_cast<std::intptr_t>(object)); }
    PlanKey& set_name(const std::string& name) {
        name_ = name;
        return *this;
    }

    bool operator==(const PlanKey& other) const {
        return std::equal(begin(), end(), other.begin(), other.end()) && name_ == other.name_;
    }
    std::size_t hash() const {
        std::uint64_t sum = std::hash<std::string>()(name_);
        for (const std::int64_t number : *this)
            sum = (sum ^ static_cast<std::uint64_t>(number)) * 0x9E3779B97F4A7C15u, sum ^= sum >> 32;
        return sum;
    }

private:
    const std::int64_t* begin() const { return numbers_.data(); }
    const std::int64_t* end() const { return numbers_.data() + count_; }

    std::array<std::int64_t, 48> numbers_;  // a convolution has 44
    std::size_t count_ = 0;
    std::string name_;
};

/// For one thread: callers have one each, without a lock.
template <class Plan>
class PlanMemo {
public:
    /// The plan of `key`: make() at first, which may throw.
    template <class Make>
    std::shared_ptr<const Plan> find(const PlanKey& key, Make&& make) {
        const auto found = plans_.find(key);
        if (found != plans_.end()) return found->second;
        auto plan = std::make_shared<const Plan>(make());
        if (plans_.size() >= kMost) plans_.clear();
        plans_.emplace(key, plan);
        return plan;
    }

private:
    // The layers of several networks in three directions: some 2 KB each.
    static constexpr std::size_t kMost = 1024;
    struct Hash {
        std::size_t operator()(const PlanKey& key) const { return key.hash(); }
    };
    std::unordered_map<PlanKey, std::shared_ptr<const Plan>, Hash> plans_;
};

}  // namespace fastconv
