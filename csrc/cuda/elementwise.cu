// Element-wise operations, dropout and SGD over arrays of any strides, each in one pass
// (elementwise_kernels.cuh).
//
//     dropout  y[i] = x[i] * scale where word i mod 4 of Philox4x32-10(counter i / 4, key seed) is at
//              least threshold, else 0; i in C order of the shape. A counter serves four elements in C
//              order and channels last, there four pixels of a channel, else each element its own
//     sgd      g += decay p;  v = momentum v + g;  p -= rate (nesterov ? g + momentum v : v)
//              in PyTorch's order, rounded where the CPU rounds
// Bytes moved, per byte of the array: relu and its like 2, with two operands 3; dropout 2.
#include "cuda/elementwise_kernels.cuh"

namespace fastconv::cuda {
namespace {

/// Items of every operand one after the other, from the walk's first on.
void run_dense(const ElementwiseArguments& by, Stream stream) {
    const auto from = [&](const Operand& operand, int k) {
        auto* const data = static_cast<unsigned char*>(operand.data);
        return Operand{data ? data + by.walk.first[k] * 16 : nullptr, operand.dtype};
    };
    const DenseArguments arguments{by.op, by.parameter, from(by.y, 0), from(by.a, 1),
                                   from(by.b, 2), by.walk.count};
    if (by.b.data) return launch<elementwise_dense<2>>(shape_for(by.walk), stream, arguments);
    launch<elementwise_dense<1>>(shape_for(by.walk), stream, arguments);
}

/// Makes four items with neighbouring positions, the third operand's, one of the walk, where they come in
/// whole fours: the dimension of those positions, or -1.
int in_fours(Layout& layout, std::int64_t position_step) {
    int along = -1;
    if (position_step % 4 != 0 || layout.first[2] % 4 != 0) return -1;
    for (int d = 0; d < layout.rank; ++d) {
        if (layout.elems[2][d] == 1) along = d;
        else if (layout.elems[2][d] % 4 != 0) return -1;
    }
    if (along < 0 || layout.size[along] % 4 != 0) return -1;
    layout.size[along] /= 4;
    for (int k = 0; k < layout.operands; ++k) layout.elems[k][along] *= 4;
    return along;
}

}  // namespace

void run_elementwise(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y,
                     double parameter, Stream stream) {
    ElementwiseArguments arguments{};
    arguments.op = op;
    arguments.parameter = static_cast<float>(parameter);
    Layout layout = b ? layout_of({&y, &a, b}) : layout_of({&y, &a});
    arguments.y = anchored(y, layout, 0);
    arguments.a = anchored(a, layout, 1);
    if (b) arguments.b = anchored(*b, layout, 2);
    const int pack = item_elems_of(y.dtype, true);
    arguments.vector = layout.comes_in_packs(pack, layout.operands) &&
                       is_aligned(arguments.y, pack) && is_aligned(arguments.a, pack) &&
                       is_aligned(arguments.b, pack);
    if (arguments.vector) layout.in_packs(pack, layout.operands);
    bool dense = arguments.vector && layout.rank == 1;
    for (int k = 0; k < layout.operands; ++k) dense = dense && layout.elems[k][0] == 1;
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        if (dense) return run_dense(arguments, stream);
        launch<elementwise>(shape_for(arguments.walk), stream, arguments);
    });
}

void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, Stream stream) {
    DropoutArguments arguments{};
    arguments.seed = seed;
    const bool drops_all = threshold > 0xFFFFFFFFu;
    arguments.threshold = static_cast<std::uint32_t>(threshold);
    arguments.scale = drops_all ? 0.0f : static_cast<float>(scale);
    Tensor position = y;  // its strides are those of C order; it has no data
    position.data = nullptr;
    std::int64_t step = 1;
    for (int d = y.rank - 1; d >= 0; --d) {
        position.elems[d] = step;
        step *= y.size[d];
    }
    Layout layout = layout_of({&y, &x, &position});
    arguments.y = anchored(y, layout, 0);
    arguments.x = anchored(x, layout, 1);
    arguments.position_step = layout.inner_elems(2);
    const int pack = item_elems_of(y.dtype, true);
    arguments.vector = layout.comes_in_packs(pack, 2) && is_aligned(arguments.y, pack) &&
                       is_aligned(arguments.x, pack);
    if (arguments.vector) layout.in_packs(pack, 2);
    const int along = arguments.vector ? in_fours(layout, arguments.position_step) : -1;
    for (int k = 0; k < 2 && along >= 0; ++k) arguments.four_items[k] = layout.elems[k][along] / 4;
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        launch<dropout>(shape_for(arguments.walk), stream, arguments);
    });
}

void run_sgd(const Tensor& parameter, const Tensor& grad, const Tensor* velocity,
             const Tensor* copy, const SgdStep& step, Stream stream) {
    SgdArguments arguments{};
    arguments.minus_rate = -static_cast<float>(step.rate);
    arguments.momentum = static_cast<float>(step.momentum);
    arguments.weight_decay = static_cast<float>(step.weight_decay);
    arguments.nesterov = step.nesterov;
    // What is absent walks like the parameter.
    Layout layout = layout_of({&parameter, &grad, velocity ? velocity : &parameter,
                               copy ? copy : &parameter});
    arguments.parameter = anchored(parameter, layout, 0);
    arguments.grad = anchored(grad, layout, 1);
    if (velocity) arguments.velocity = anchored(*velocity, layout, 2);
    if (copy) arguments.copy = anchored(*copy, layout, 3);
    require_kernels(grad.dtype);
    arguments.vector = layout.comes_in_packs(kSgdPack, layout.operands) &&
                       is_aligned(arguments.parameter, kSgdPack) &&
                       is_aligned(arguments.grad, kSgdPack) &&
                       is_aligned(arguments.velocity, kSgdPack) &&
                       is_aligned(arguments.copy, kSgdPack);
    if (arguments.vector) layout.in_packs(kSgdPack, layout.operands);
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        launch<sgd>(shape_for(arguments.walk), stream, arguments);
    });
}

}  // namespace fastconv::cuda
