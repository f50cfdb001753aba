// A convolution's weight packed ahead: per format a buffer that the first call which wants it fills.
#pragma once

#include <pybind11/numpy.h>

#include <atomic>
#include <cstdint>

#include "core/plan.h"
#include "cpu/isa.h"
#include "cpu/kernels_winograd.h"

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
    static constexpr int kFormats = 2 + cpu::WinogradKernels<float>::kVariants;
    struct Buffer {
        explicit Buffer(std::size_t size);
        Buffer(const Buffer&) = delete;
        Buffer& operator=(const Buffer&) = delete;
        ~Buffer();
        void* data;
        std::size_t bytes;
    };

    py::array weight_;
    std::int64_t groups_;
    const cpu::Isa& isa_;
    std::atomic<Buffer*> buffers_[kFormats] = {};
};

}  // namespace fastconv
