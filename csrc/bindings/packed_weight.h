// A convolution's weight packed ahead: per layout a buffer that the first call which wants it fills.
#pragma once

#include <pybind11/numpy.h>

#include <atomic>
#include <cstdint>
#include <tuple>

#include "core/plan.h"
#include "cpu/isa.h"

namespace fastconv {

namespace py = pybind11;

class PackedConvWeight {
public:
    /// `weight` (K, C // groups, R, S) is kept, and must not change from now on. It is packed for the
    /// instruction set of now.
    PackedConvWeight(py::array weight, std::int64_t groups);
    PackedConvWeight(const PackedConvWeight&) = delete;
    PackedConvWeight& operator=(const PackedConvWeight&) = delete;
    ~PackedConvWeight();

    bool fits(const py::array& weight, std::int64_t groups, const cpu::Isa& isa) const;

    /// The weight in the format of a plan for packed weights; null where it reads none. Two threads may
    /// both pack at first: either result is right, and one is kept.
    const void* find(const ConvPlan& plan);

    py::tuple formats() const;  // names of those it holds
    std::size_t bytes() const;

private:
    /// What a buffer's layout depends on beside the weight: Winograd's on the stride, by which it cuts the kernel.
    struct Layout {
        int format;
        std::int64_t stride_h, stride_w;
        explicit Layout(const ConvPlan& plan);
        bool operator==(const Layout& other) const { return key() == other.key(); }
        bool operator<(const Layout& other) const { return key() < other.key(); }

    private:
        std::tuple<int, std::int64_t, std::int64_t> key() const { return {format, stride_h, stride_w}; }
    };

    struct Buffer {
        Buffer(const Layout& of, std::size_t size);
        Buffer(const Buffer&) = delete;
        Buffer& operator=(const Buffer&) = delete;
        ~Buffer();
        Layout layout;
        void* data;
        std::size_t bytes;
        const Buffer* next = nullptr;
    };

    static const Buffer* find(const Buffer* first, const Layout& layout);

    py::array weight_;
    std::int64_t groups_;
    const cpu::Isa& isa_;
    std::atomic<const Buffer*> first_{nullptr};  // of a list that only grows, at its front
};

}  // namespace fastconv
