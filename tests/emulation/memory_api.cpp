// Memory of the emulated runtime: allocation, pools, copies. In a captured graph an allocation
// keeps its address for the graph's life; between its free node and its next allocation node
// nothing may touch it.
#include <cstring>
#include <mutex>

#include "memory.h"
#include "streams.h"

struct CUmemPoolHandle_st {
    int device = 0;
    std::size_t threshold = 0, reserved = 0, reserved_high = 0, used_high = 0;
};

namespace emulation {
namespace {

constexpr int kMaxDevices = 16;
std::mutex pools_mutex;
CUmemPoolHandle_st pools[kMaxDevices];

/// Reserved grows to what is used, and shrinks to the threshold as cudaStreamSynchronize would do
/// it.
void count_memory(int device) {
    const std::lock_guard lock(pools_mutex);
    CUmemPoolHandle_st& pool = pools[device % kMaxDevices];
    pool.device = device;
    const std::size_t used = Memory::get().used_bytes(device);
    const std::size_t kept = pool.reserved < pool.threshold ? pool.reserved : pool.threshold;
    pool.reserved = used > kept ? used : kept;
    if (used > pool.used_high) pool.used_high = used;
    if (pool.reserved > pool.reserved_high) pool.reserved_high = pool.reserved;
}

cudaError_t allocate(void** data, std::size_t bytes, MemoryKind kind) {
    *data = nullptr;
    if (device_count() == 0) return cudaErrorNoDevice;
    if (bytes == 0) return cudaSuccess;
    *data = Memory::get().allocate(bytes, current_device(), kind);
    count_memory(current_device());
    return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}

/// Whether [address, address + bytes) is device memory (from begin to end) as `device` says.
bool is_right(const void* address, std::size_t bytes, bool device) {
    Allocation found;
    const bool known = Memory::get().find(address, bytes, found);
    if (device) return known && found.is_device() && found.accessible;
    if (known) return !found.is_device();
    return !Memory::get().find(address, 0, found);
}

}  // namespace
}  // namespace emulation

using namespace emulation;

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
    const cudaError_t error = refuse_while_capturing();
    return returned(error != cudaSuccess ? error : allocate(data, bytes, MemoryKind::kDevice));
}

cudaError_t cudaFree(void* data) {
    const cudaError_t error = refuse_while_capturing();
    if (error != cudaSuccess) return returned(error);
    if (!data) return cudaSuccess;
    Allocation found;
    if (!Memory::get().find(data, 0, found) || !Memory::get().release(data))
        return returned(cudaErrorInvalidValue);
    count_memory(found.device);
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream) {
    const auto recording = recording_of(stream);
    if (recording && recording->invalid) return returned(cudaErrorStreamCaptureInvalidated);
    const cudaError_t error =
        allocate(data, bytes, recording ? MemoryKind::kGraph : MemoryKind::kDevice);
    if (error != cudaSuccess || !recording || !*data) return returned(error);
    recording->memory.push_back(*data);
    Memory::get().set_accessible(*data, false);
    return enqueue(stream, [data = *data] {
        Memory::get().set_accessible(data, true);
        return cudaSuccess;
    });
}

cudaError_t cudaMallocFromPoolAsync(void** data, std::size_t bytes, cudaMemPool_t,
                                    cudaStream_t stream) {
    return cudaMallocAsync(data, bytes, stream);
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
    if (!data) return cudaSuccess;
    Allocation found;
    if (!Memory::get().find(data, 0, found) || found.data != data)
        return returned(cudaErrorInvalidValue);
    if (const auto recording = recording_of(stream)) {
        for (void* own : recording->memory) {
            if (own != data) continue;
            return enqueue(stream, [data] {
                Memory::get().set_accessible(data, false);
                return cudaSuccess;
            });
        }
        recording->invalid = true;  // a graph frees no memory of others more than once
        return returned(cudaErrorInvalidValue);
    }
    if (!found.accessible) return returned(cudaErrorInvalidValue);
    if (found.kind == MemoryKind::kGraph) {
        Memory::get().set_accessible(data, false);
        return cudaSuccess;
    }
    Memory::get().release(data);
    count_memory(found.device);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes, unsigned) {
    *data = nullptr;
    if (device_count() == 0) return returned(cudaErrorNoDevice);
    if (bytes == 0) return cudaSuccess;
    *data = Memory::get().allocate(bytes, current_device(), MemoryKind::kPinned);
    return *data ? cudaSuccess : returned(cudaErrorMemoryAllocation);
}

cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned flags) {
    return cudaMallocHost(data, bytes, flags);
}

cudaError_t cudaFreeHost(void* data) {
    if (!data) return cudaSuccess;
    return Memory::get().release(data) ? cudaSuccess : returned(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
    *total = Memory::kDeviceBytes;
    *free_bytes = Memory::kDeviceBytes - Memory::get().used_bytes(current_device());
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, const_cast<void*>(pointer)};
    Allocation found;
    if (!pointer || !Memory::get().find(pointer, 0, found)) return cudaSuccess;
    attributes->type = found.is_device() ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    attributes->device = found.device;
    attributes->devicePointer = const_cast<void*>(pointer);
    if (found.is_device()) attributes->hostPointer = nullptr;
    return cudaSuccess;
}

// ---- pools: one a device, which only counts -----------------------------------------------------

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    if (device < 0 || device >= device_count() || device >= kMaxDevices)
        return returned(cudaErrorInvalidDevice);
    *pool = &pools[device];
    return cudaSuccess;
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
    return cudaDeviceGetDefaultMemPool(pool, device);
}

cudaError_t cudaDeviceSetMemPool(int, cudaMemPool_t) { return cudaSuccess; }

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
    return cudaDeviceGetDefaultMemPool(pool, properties->location.id);
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t) { return cudaSuccess; }

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    const std::lock_guard lock(pools_mutex);
    switch (attribute) {
        case cudaMemPoolAttrReleaseThreshold:
            pool->threshold = static_cast<std::size_t>(*static_cast<std::uint64_t*>(value));
            return cudaSuccess;
        case cudaMemPoolAttrReservedMemHigh:
            pool->reserved_high = pool->reserved;
            return cudaSuccess;
        case cudaMemPoolAttrUsedMemHigh:
            pool->used_high = Memory::get().used_bytes(pool->device);
            return cudaSuccess;
        case cudaMemPoolReuseFollowEventDependencies:
        case cudaMemPoolReuseAllowOpportunistic:
        case cudaMemPoolReuseAllowInternalDependencies: return cudaSuccess;
        default: return returned(cudaErrorInvalidValue);
    }
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    const std::lock_guard lock(pools_mutex);
    auto& result = *static_cast<std::uint64_t*>(value);
    switch (attribute) {
        case cudaMemPoolAttrReleaseThreshold: result = pool->threshold; return cudaSuccess;
        case cudaMemPoolAttrReservedMemCurrent: result = pool->reserved; return cudaSuccess;
        case cudaMemPoolAttrReservedMemHigh: result = pool->reserved_high; return cudaSuccess;
        case cudaMemPoolAttrUsedMemCurrent:
            result = Memory::get().used_bytes(pool->device);
            return cudaSuccess;
        case cudaMemPoolAttrUsedMemHigh: result = pool->used_high; return cudaSuccess;
        default: return returned(cudaErrorInvalidValue);
    }
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t bytes) {
    const std::lock_guard lock(pools_mutex);
    const std::size_t used = Memory::get().used_bytes(pool->device);
    const std::size_t kept = used > bytes ? used : bytes;
    if (pool->reserved > kept) pool->reserved = kept;
    return cudaSuccess;
}

cudaError_t cudaDeviceGraphMemTrim(int) { return cudaSuccess; }

cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
    *static_cast<std::uint64_t*>(value) = 0;
    return cudaSuccess;
}

// ---- copies -------------------------------------------------------------------------------------

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return enqueue(stream, [=] {
        if (bytes == 0) return cudaSuccess;
        if (kind != cudaMemcpyDefault) {
            const bool to_device =
                kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
            const bool from_device =
                kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
            if (!is_right(to, bytes, to_device) || !is_right(from, bytes, from_device))
                return cudaErrorInvalidValue;
        }
        std::memmove(to, from, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    const cudaError_t error = refuse_while_capturing();
    return error != cudaSuccess ? returned(error) : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] {
        if (bytes == 0) return cudaSuccess;
        if (!is_right(to, bytes, true)) return cudaErrorInvalidValue;
        std::memset(to, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    const cudaError_t error = refuse_while_capturing();
    return error != cudaSuccess ? returned(error) : cudaMemsetAsync(to, value, bytes, nullptr);
}
