// Devices, errors in words and memory, on the CUDA runtime alone. No kernels.
//
// Memory comes from a pool of our own on each device, which keeps what was freed (release threshold:
// all of it): after the first calls an allocation is a list operation of the driver's. In a capture
// the same calls become nodes of the graph, which then owns the memory.
#include <deque>
#include <mutex>
#include <new>
#include <string>

#include "cuda/architectures.h"
#include "cuda/device.h"

namespace fastconv::cuda {
namespace {

std::string version_of(int version) {  // 12040 -> 12.4
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string megabytes(std::size_t bytes) { return std::to_string((bytes + 524288) >> 20) + " MB"; }

struct PerDevice {
    DeviceInfo info;
    std::once_flag pool_made;
    cudaMemPool_t pool = nullptr;
};

struct Machine {
    std::deque<PerDevice> devices;  // their addresses stay
    std::string why_none;           // empty: the first device fits
};

int attribute(cudaDeviceAttr what, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, what, device), "cudaDeviceGetAttribute");
    return value;
}

std::string sentence_for(cudaError_t status) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "no NVIDIA driver was found on this machine (libcuda.so.1)";
    if (status == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is too old: it supports CUDA " + version_of(driver) +
               ", but this build needs " + version_of(runtime) + "; update the driver";
    if (status == cudaErrorNoDevice)
        return "no NVIDIA GPU was found (CUDA_VISIBLE_DEVICES can hide one)";
    return std::string("CUDA could not start: ") + cudaGetErrorString(status);
}

void describe(PerDevice& device, int index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    DeviceInfo& info = device.info;
    info.index = index;
    info.name = properties.name;
    info.capability = attribute(cudaDevAttrComputeCapabilityMajor, index) * 10 +
                      attribute(cudaDevAttrComputeCapabilityMinor, index);
    info.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
    info.shared_bytes =
        static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
    info.l2_bytes = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize, index));
    info.memory_bytes = properties.totalGlobalMem;
}

// Looks once: a process's devices do not change. Never destroyed: buffers of other libraries' tensors
// may be released while the process ends.
Machine& machine() {
    static Machine* const found = [] {
        auto* m = new Machine;
        int count = 0;
        const cudaError_t status = cudaGetDeviceCount(&count);
        if (status != cudaSuccess || count == 0) {
            cudaGetLastError();
            m->why_none = sentence_for(status == cudaSuccess ? cudaErrorNoDevice : status);
            return m;
        }
        for (int index = 0; index < count; ++index) {
            describe(m->devices.emplace_back(), index);
            const DeviceInfo& info = m->devices.back().info;
            if (index == 0 && !fits(info.capability, architectures()))
                m->why_none = unfit_sentence(index, info.name, info.capability, architectures());
        }
        return m;
    }();
    return *found;
}

PerDevice& per_device(int index) {
    Machine& m = machine();
    if (m.devices.empty()) throw std::runtime_error(m.why_none);
    if (index < 0 || index >= static_cast<int>(m.devices.size()))
        throw std::invalid_argument("there is no GPU " + std::to_string(index) + ": this machine has " +
                                    std::to_string(m.devices.size()));
    return m.devices[static_cast<std::size_t>(index)];
}

cudaMemPool_t pool_of(int index) {
    PerDevice& device = per_device(index);
    std::call_once(device.pool_made, [&] {
        if (!attribute(cudaDevAttrMemoryPoolsSupported, index))
            throw std::runtime_error("GPU " + std::to_string(index) + " (" + device.info.name +
                                     ") or its driver has no stream-ordered memory pools");
        cudaMemPoolProps properties{};
        properties.allocType = cudaMemAllocationTypePinned;
        properties.location.type = cudaMemLocationTypeDevice;
        properties.location.id = index;
        cudaMemPool_t pool = nullptr;
        check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
        std::uint64_t keep = UINT64_MAX;
        check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
              "cudaMemPoolSetAttribute");
        device.pool = pool;
    });
    return device.pool;
}

/// Pybind11 makes a MemoryError of it.
class OutOfMemory : public std::bad_alloc {
public:
    explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
    const char* what() const noexcept override { return text_.c_str(); }

private:
    std::string text_;
};

}  // namespace

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // else the next call would report it again
    switch (status) {
        case cudaErrorInsufficientDriver:
        case cudaErrorNoDevice: throw std::runtime_error(sentence_for(status));
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction: {
            const DeviceInfo& info = device(current_device());
            throw std::runtime_error(
                unfit_sentence(info.index, info.name, info.capability, architectures()));
        }
        case cudaErrorMemoryAllocation:
            throw OutOfMemory(std::string("out of GPU memory in ") + what);
        default:
            throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status) + " (" +
                                     cudaGetErrorName(status) + ")");
    }
}

// ---- devices -------------------------------------------------------------------------------------

int device_count() { return static_cast<int>(machine().devices.size()); }
std::string why_no_device() { return machine().why_none; }
const DeviceInfo& device(int index) { return per_device(index).info; }

int current_device() {
    int index = 0;
    check(cudaGetDevice(&index), "cudaGetDevice");
    return index;
}

void set_device(int index) {
    per_device(index);
    check(cudaSetDevice(index), "cudaSetDevice");
}

bool is_pinned(const void* pointer) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
    return attributes.type == cudaMemoryTypeHost;
}

int device_of(const void* pointer) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
    if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
        throw std::invalid_argument("the address does not lie in a GPU's memory");
    return attributes.device;
}

// ---- memory --------------------------------------------------------------------------------------

void* allocate(std::size_t bytes, Stream stream) {
    if (bytes == 0) return nullptr;
    const int index = current_device();
    const cudaMemPool_t pool = pool_of(index);
    void* data = nullptr;
    cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool, stream_of(stream));
    if (status == cudaErrorMemoryAllocation && !is_capturing(stream)) {
        // What other streams have freed but not finished with is not theirs to take; after waiting
        // and giving everything unused back it is.
        cudaGetLastError();
        if (!synchronize_device_unless_capturing(index)) synchronize(stream);
        trim_memory(index);
        status = cudaMallocFromPoolAsync(&data, bytes, pool, stream_of(stream));
    }
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        std::size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        throw OutOfMemory("out of memory on GPU " + std::to_string(index) + " (" +
                          device(index).name + "): " + megabytes(bytes) + " asked for, " +
                          megabytes(free) + " of " + megabytes(total) + " free");
    }
    check(status, "cudaMallocFromPoolAsync");
    return data;
}

void release(void* data, int device, Stream stream) noexcept {
    if (!data) return;
    int before = device;
    cudaGetDevice(&before);
    if (before != device) cudaSetDevice(device);  // stream 0 is the current device's
    // An error here: the process ends, or a graph that never ran owns the memory.
    if (cudaFreeAsync(data, stream_of(stream)) != cudaSuccess) cudaGetLastError();
    if (before != device) cudaSetDevice(before);
}

void* allocate_pinned(std::size_t bytes) {
    void* data = nullptr;
    check(cudaMallocHost(&data, bytes), "cudaMallocHost");
    return data;
}

void release_pinned(void* data) noexcept {
    if (data && cudaFreeHost(data) != cudaSuccess) cudaGetLastError();
}

MemoryStats memory_stats(int device) {
    const cudaMemPool_t pool = pool_of(device);
    auto read = [&](cudaMemPoolAttr what) {
        std::uint64_t value = 0;
        check(cudaMemPoolGetAttribute(pool, what, &value), "cudaMemPoolGetAttribute");
        return static_cast<std::size_t>(value);
    };
    return {read(cudaMemPoolAttrUsedMemCurrent), read(cudaMemPoolAttrUsedMemHigh),
            read(cudaMemPoolAttrReservedMemCurrent), read(cudaMemPoolAttrReservedMemHigh)};
}

void trim_memory(int device) { check(cudaMemPoolTrimTo(pool_of(device), 0), "cudaMemPoolTrimTo"); }

void copy_bytes(void* to, const void* from, std::size_t bytes, CopyKind kind, Stream stream) {
    constexpr cudaMemcpyKind kKinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
                                         cudaMemcpyDeviceToDevice};
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, kKinds[static_cast<int>(kind)], stream_of(stream)),
          "cudaMemcpyAsync");
}

}  // namespace fastconv::cuda
