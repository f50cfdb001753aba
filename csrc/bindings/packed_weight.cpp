#include "bindings/packed_weight.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/array.h"
#include "core/workspace.h"
#include "cpu/kernels_winograd.h"
#include "ops.h"

namespace fastconv {

PackedConvWeight::PackedConvWeight(py::array weight, std::int64_t groups)
    : weight_(std::move(weight)), groups_(groups), isa_(cpu::current_isa()) {
    require_rank(weight_, 4);
}

PackedConvWeight::~PackedConvWeight() {
    for (const Buffer* buffer = first_.load(); buffer;) {
        const std::unique_ptr<const Buffer> last(buffer);
        buffer = buffer->next;
    }
}

PackedConvWeight::Layout::Layout(const ConvPlan& plan) : format(plan.packed_format), stride_h(1), stride_w(1) {
    if (format < 2) return;
    stride_h = plan.problem.height.stride;
    stride_w = plan.problem.width.stride;
}

PackedConvWeight::Buffer::Buffer(const Layout& of, std::size_t size)
    : layout(of), data(allocate_aligned(size)), bytes(size) {}

PackedConvWeight::Buffer::~Buffer() { std::free(data); }

bool PackedConvWeight::fits(const py::array& weight, std::int64_t groups,
                            const cpu::Isa& isa) const {
    return weight.ptr() == weight_.ptr() && groups == groups_ && &isa == &isa_;
}

const void* PackedConvWeight::find(const ConvPlan& plan) {
    if (plan.packed_elems == 0) return nullptr;
    const Layout layout(plan);
    const Buffer* first = first_.load(std::memory_order_acquire);
    if (const Buffer* found = find(first, layout)) return found->data;
    const std::size_t bytes =
        static_cast<std::size_t>(plan.packed_elems * plan.problem.element_bytes());
    const void* weight = weight_.data();
    const py::gil_scoped_release release;
    auto mine = std::make_unique<Buffer>(layout, bytes);
    cpu::pack_conv2d(plan, weight, mine->data);
    do {
        if (const Buffer* found = find(first, layout)) return found->data;
        mine->next = first;
    } while (!first_.compare_exchange_weak(first, mine.get(), std::memory_order_acq_rel));
    return mine.release()->data;
}

const PackedConvWeight::Buffer* PackedConvWeight::find(const Buffer* first, const Layout& layout) {
    while (first && !(first->layout == layout)) first = first->next;
    return first;
}

py::tuple PackedConvWeight::formats() const {
    std::vector<Layout> layouts;
    for (const Buffer* buffer = first_.load(); buffer; buffer = buffer->next) layouts.push_back(buffer->layout);
    std::sort(layouts.begin(), layouts.end());
    py::list names;
    for (const Layout& layout : layouts) {
        if (layout.format < 2) {
            names.append(layout.format == 0 ? "panels" : "split");
            continue;
        }
        const auto& variant = isa_.kernels<float>().winograd->variants[layout.format - 2];
        std::string name = "F(" + std::to_string(variant.m) + "," + std::to_string(variant.r) + ")";
        if (layout.stride_h * layout.stride_w > 1)
            name += " of stride " + std::to_string(layout.stride_h) + "x" + std::to_string(layout.stride_w);
        names.append(name);
    }
    return py::tuple(names);
}

std::size_t PackedConvWeight::bytes() const {
    std::size_t sum = 0;
    for (const Buffer* buffer = first_.load(); buffer; buffer = buffer->next) sum += buffer->bytes;
    return sum;
}

}  // namespace fastconv
