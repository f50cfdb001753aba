// Device memory of arrays, until it is the pool's again: after all streams that used it, and outside of
// captures that it does not belong to.
#include <algorithm>
#include <atomic>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "bindings/cuda_array.h"

namespace fastconv {
namespace {

/// Memory that nobody has any longer, until it is the pool's again.
struct Block {
    void* data;
    int device;
    cuda::Stream home;
    std::vector<cuda::Stream> others;  // that used it
};

/// Memory from before a capture cannot be freed on the stream that captures, nor can its home wait for
/// one that does: it waits here.
struct Parked {
    std::mutex mutex;
    std::vector<Block> blocks;
    std::atomic<bool> any{false};
};
Parked& parked() {
    static auto* const list = new Parked;
    return *list;
}

/// 0 too where there is nothing to ask any longer: the driver is gone, the device in error, or the
/// stream's library has destroyed it.
std::uint64_t last_known_capture(cuda::Stream stream) noexcept {
    try {
        return capture_on(stream);
    } catch (const std::exception&) {
        return 0;
    }
}

bool is_in_capture(const Block& block) {
    const auto captured = [](cuda::Stream stream) { return last_known_capture(stream) != 0; };
    return captured(block.home) || std::any_of(block.others.begin(), block.others.end(), captured);
}

void wait_if_possible(const Block& block, cuda::Stream other) noexcept {
    try {
        const CudaCall here(block.device);
        cuda::wait_for(block.home, other);
    } catch (const std::exception&) {
        // As in last_known_capture().
    }
}

/// When all streams that used it are done.
void release(const Block& block) noexcept {
    for (const cuda::Stream other : block.others) wait_if_possible(block, other);
    cuda::release(block.data, block.device, block.home);
}

}  // namespace

CudaBuffer::CudaBuffer(std::size_t bytes, int device, cuda::Stream stream)
    : data_((release_parked(), cuda::allocate(bytes, stream))), device_(device), stream_(stream),
      owned_(true), capture_(capture_on(stream)) {}

CudaBuffer::CudaBuffer(void* data, int device, std::shared_ptr<void> keep, PyObject* tensor)
    : data_(data), device_(device), owned_(false), keep_(std::move(keep)), tensor_(tensor) {}

CudaBuffer::~CudaBuffer() {
    if (!owned_ || !data_) return;
    // What a capture allocated, it may free: a node of its graph.
    if (capture_ != 0 && last_known_capture(stream_) == capture_) {
        cuda::release(data_, device_, stream_);
        return;
    }
    Block block{data_, device_, stream_, std::move(others_)};
    if (!is_in_capture(block)) {
        release(block);
        return;
    }
    std::lock_guard<std::mutex> lock(parked().mutex);
    parked().blocks.push_back(std::move(block));
    parked().any = true;
}

void release_parked() {
    if (!parked().any) return;
    std::vector<Block> ready;
    {
        std::lock_guard<std::mutex> lock(parked().mutex);
        std::vector<Block>& blocks = parked().blocks;
        const auto first = std::stable_partition(blocks.begin(), blocks.end(), is_in_capture);
        ready.assign(std::make_move_iterator(first), std::make_move_iterator(blocks.end()));
        blocks.erase(first, blocks.end());
        parked().any = !blocks.empty();
    }
    for (const Block& block : ready) release(block);
}

void CudaBuffer::used_on(cuda::Stream stream) {
    if (!owned_ || same_stream(stream, stream_)) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::find(others_.begin(), others_.end(), stream) == others_.end())
        others_.push_back(stream);
}

}  // namespace fastconv
