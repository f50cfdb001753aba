#include "bindings/packed_weight.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "bindings/array.h"
#include "core/workspace.h"
#include "ops.h"

namespace fastconv {

PackedConvWeight::PackedConvWeight(py::array weight, std::int64_t groups)
    : weight_(std::move(weight)), groups_(groups), isa_(cpu::current_isa()) {
    require_rank(weight_, 4);
}

PackedConvWeight::~PackedConvWeight() {
    for (std::atomic<Buffer*>& slot : buffers_) delete slot.load();
}

PackedConvWeight::Buffer::Buffer(std::size_t size)
    : data(allocate_aligned(size)), bytes(size) {}

PackedConvWeight::Buffer::~Buffer() { std::free(data); }

bool PackedConvWeight::fits(const py::array& weight, std::int64_t groups,
                            const cpu::Isa& isa) const {
    return weight.ptr() == weight_.ptr() && groups == groups_ && &isa == &isa_;
}

const void* PackedConvWeight::find(const ConvPlan& plan) {
    if (plan.packed_elems == 0) return nullptr;
    std::atomic<Buffer*>& slot = buffers_[plan.packed_format];
    if (const Buffer* found = slot.load(std::memory_order_acquire)) return found->data;
    const std::size_t bytes =
        static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes());
    const void* weight = weight_.data();
    const py::gil_scoped_release release;
    auto mine = std::make_unique<Buffer>(bytes);
    cpu::pack_conv2d(plan, weight, mine->data);
    Buffer* kept = nullptr;
    if (slot.compare_exchange_strong(kept, mine.get(), std::memory_order_acq_rel))
        kept = mine.release();
    return kept->data;
}

py::tuple PackedConvWeight::formats() const {
    py::list names;
    for (int format = 0; format < kFormats; ++format) {
        if (!buffers_[format].load()) continue;
        if (format < 2) {
            names.append(format == 0 ? "panels" : "split");
            continue;
        }
        const auto& variant = isa_.kernels<float>().winograd->variants[format - 2];
        names.append("F(" + std::to_string(variant.m) + "," + std::to_string(variant.r) + ")");
    }
    return py::tuple(names);
}

std::size_t PackedConvWeight::bytes() const {
    std::size_t sum = 0;
    for (const std::atomic<Buffer*>& slot : buffers_)
        if (const Buffer* buffer = slot.load()) sum += buffer->bytes;
    return sum;
}

}  // namespace fastconv
