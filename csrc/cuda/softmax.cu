// Softmax, log-softmax and cross-entropy: which threads have which rows, and the launches (kernels:
// softmax.cuh, cross_entropy.cuh).
#include "cuda/cross_entropy.cuh"
#include "cuda/softmax.cuh"

namespace fastconv::cuda {
namespace {

// Whether neighbouring rows are neighbours in memory and enough to fill the device with a thread each.
bool takes_threads(const Layout& layout, const Rows& rows) {
    const std::int64_t threads = std::int64_t{device(current_device()).multiprocessors} * 256;
    return rows.elems[0] != 1 && layout.inner_elems(0) == 1 &&
           (layout.count() >= threads || rows.length < kWarp);
}

// The operands as rows, numbered as the targets are.
void prepare(const CrossEntropy& problem, const Tensor* grad, CrossEntropyArguments& arguments) {
    Layout layout;
    Operand operands[3];
    const Tensor& logits = problem.logits;
    if (grad) cut_rows({&logits, grad}, 1, false, arguments.rows, layout, operands);
    else cut_rows({&logits}, 1, false, arguments.rows, layout, operands);
    if (layout.count() > kMaxItems) throw std::invalid_argument("cross_entropy: 2^31 rows or more");
    arguments.rows.walk = walk_of(layout);
    arguments.logits = operands[0];
    arguments.grad = operands[1];
    arguments.target = problem.target;
    arguments.target_elems = problem.target_elems;
    arguments.classes = logits.size[1];
    arguments.smoothing = static_cast<float>(problem.label_smoothing);
}

}  // namespace

void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 Stream stream) {
    if (result.count() == 0) return;
    SoftmaxArguments arguments{};
    Layout layout;
    Operand operands[3];
    Rows& rows = arguments.rows;
    if (b) cut_rows({&result, &a, b}, axis, true, rows, layout, operands);
    else cut_rows({&result, &a}, axis, true, rows, layout, operands);
    arguments.y = operands[0];
    arguments.a = operands[1];
    arguments.b = operands[2];
    arguments.log = kind == kLogSoftmax || kind == kLogSoftmaxBackward;
    const bool threads = takes_threads(layout, rows);
    for_pieces(layout, [&](const Layout& piece) {
        rows.walk = walk_of(piece);
        if (threads) {
            const LaunchShape shape{dim3((rows.walk.count + kRowThreads - 1) / kRowThreads),
                                    dim3(kRowThreads)};
            if (b) return launch<softmax_backward_threads>(shape, stream, arguments);
            return launch<softmax_threads>(shape, stream, arguments);
        }
        if (b) return launch<softmax_backward_rows>(rows.shape(), stream, arguments);
        launch<softmax_rows>(rows.shape(), stream, arguments);
    });
}

void run_cross_entropy(const CrossEntropy& problem, float* losses, float* total, float total_scale,
                       Stream stream) {
    if (!losses && !total) return;
    CrossEntropyArguments arguments{};
    prepare(problem, nullptr, arguments);
    const std::int64_t rows = problem.logits.size[0];
    const Scratch scratch(losses ? 0 : sizeof(float) * static_cast<std::size_t>(rows), stream);
    arguments.losses = losses ? losses : static_cast<float*>(scratch.data());
    launch<losses_of_rows>(arguments.rows.shape(), stream, arguments);
    if (!total) return;
    launch<total_of_losses>(
        {dim3(1), dim3(kTotalThreads), block_sums_bytes<kTotalThreads, 1>}, stream,
        static_cast<const float*>(arguments.losses), rows, total_scale, total);
}

void run_cross_entropy_backward(const CrossEntropy& problem, const Tensor& grad, double scale,
                                const float* scales, Stream stream) {
    if (grad.count() == 0) return;
    CrossEntropyArguments arguments{};
    prepare(problem, &grad, arguments);
    arguments.scale = static_cast<float>(scale);
    arguments.scales = scales;
    launch<gradients_of_rows>(arguments.rows.shape(), stream, arguments);
}

}  // namespace fastconv::cuda
