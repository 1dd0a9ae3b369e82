// Virtual memory: address ranges are reserved, physical memory is allocated, the two are mapped onto each other.
// Physical memory is a memfd, so that it can be unmapped and mapped again somewhere else with its contents.
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "memory.h"
#include "stream.h"

namespace hostcann {
namespace {

constexpr size_t kGranularity = size_t{2} << 20;  // huge page

struct Physical {
  int file;
  size_t bytes;
  int device;
  int mappings;
};

struct VirtualMemory {
  std::mutex mutex;
  std::map<void*, size_t> reserved;
  std::map<void*, Physical*> mapped;
};

VirtualMemory& memory() {
  static VirtualMemory* const instance = new VirtualMemory;
  return *instance;
}

size_t round_up(size_t bytes) { return (bytes + kGranularity - 1) / kGranularity * kGranularity; }

void release(Physical* physical) {
  discharge(physical->device, physical->bytes);
  close(physical->file);
  delete physical;
}

}  // namespace
}  // namespace hostcann

using namespace hostcann;

// Constraints: CANN runtime, aclrtReserveMemAddress.md, aclrtMallocPhysical.md, aclrtMapMem.md, aclrtFreePhysical.md.
ACL_API aclError aclrtReserveMemAddress(void** address, size_t bytes, size_t alignment, void* expected,
                                        uint64_t /*flags*/) {
  if (address == nullptr || bytes == 0) return fail(kRtParamInvalid, "aclrtReserveMemAddress: no address or no bytes");
  if (alignment != 0) return fail(kRtParamInvalid, "aclrtReserveMemAddress: alignment is reserved and must be 0");
  if (expected != nullptr) {
    return fail(kRtFeatureNotSupported, "aclrtReserveMemAddress: a start address of one's own is not modelled");
  }
  const size_t size = round_up(bytes);
  // Ask for one granule more, so that the start can be aligned.
  void* const raw = mmap(nullptr, size + kGranularity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return fail(kRtMemoryAllocation, "aclrtReserveMemAddress: %zu bytes cannot be reserved", size);
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (start + kGranularity - 1) / kGranularity * kGranularity;
  if (aligned > start) munmap(raw, aligned - start);
  const size_t tail = start + kGranularity - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + size), tail);
  *address = reinterpret_cast<void*>(aligned);
  VirtualMemory& all = memory();
  std::lock_guard lock(all.mutex);
  all.reserved[*address] = size;
  return kSuccess;
}

ACL_API aclError aclrtReleaseMemAddress(void* address) {
  VirtualMemory& all = memory();
  std::lock_guard lock(all.mutex);
  const auto found = all.reserved.find(address);
  if (found == all.reserved.end()) {
    return fail(kRtParamInvalid, "aclrtReleaseMemAddress: %p was not reserved", address);
  }
  const auto first = all.mapped.lower_bound(address);
  if (first != all.mapped.end() && first->first < static_cast<char*>(address) + found->second) {
    return fail(kRtParamInvalid, "aclrtReleaseMemAddress: memory is still mapped into the range at %p", address);
  }
  munmap(address, found->second);
  all.reserved.erase(found);
  return kSuccess;
}

namespace {
// aclrtPhysicalMemProp: handle type, allocation type, memory attribute, location {id, type}, reserved.
struct PhysicalProperties {
  int handle_type;
  int allocation_type;
  int attribute;
  uint32_t device;
  int location_type;
  uint64_t reserved;
};
}  // namespace

ACL_API aclError aclrtMallocPhysical(void** handle, size_t bytes, const PhysicalProperties* properties,
                                     uint64_t flags) {
  constexpr int kOnDevice = 1;
  if (handle == nullptr || properties == nullptr) return fail(kRtParamInvalid, "aclrtMallocPhysical: null pointer");
  if (flags != 0) return fail(kRtParamInvalid, "aclrtMallocPhysical: flags are reserved and must be 0");
  if (properties->handle_type != 0 || properties->allocation_type != 0) {
    return fail(kRtParamInvalid, "aclrtMallocPhysical: only HANDLE_TYPE_NONE and ALLOCATION_TYPE_PINNED exist");
  }
  if (properties->location_type != kOnDevice) {
    return fail(kRtFeatureNotSupported, "aclrtMallocPhysical: only device memory is modelled");
  }
  const int device = static_cast<int>(properties->device);
  if (device < 0 || device >= device_count()) {
    return fail(kRtInvalidDevice, "aclrtMallocPhysical: device %d does not exist", device);
  }
  if (bytes == 0 || bytes % kGranularity != 0) {
    return fail(kRtParamInvalid, "aclrtMallocPhysical: %zu bytes are not a multiple of the 2 MiB granularity", bytes);
  }
  if (!charge(device, bytes)) {
    return fail(kRtMemoryAllocation,
                "aclrtMallocPhysical: EL0004: device %d has %zu of %zu bytes in use, %zu more do not fit", device,
                used_bytes(device), static_cast<size_t>(config().memory_bytes), bytes);
  }
  const int file = memfd_create("hostcann", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    if (file >= 0) close(file);
    discharge(device, bytes);
    return fail(kRtMemoryAllocation, "aclrtMallocPhysical: the host refuses %zu bytes", bytes);
  }
  *handle = new Physical{file, bytes, device, 0};
  return kSuccess;
}

ACL_API aclError aclrtFreePhysical(void* handle) {
  auto* const physical = static_cast<Physical*>(handle);
  if (physical == nullptr) return fail(kRtParamInvalid, "aclrtFreePhysical: null handle");
  VirtualMemory& all = memory();
  std::lock_guard lock(all.mutex);
  if (physical->mappings != 0) {
    return fail(kRtParamInvalid, "aclrtFreePhysical: the memory is mapped; aclrtUnmapMem comes first");
  }
  release(physical);
  return kSuccess;
}

ACL_API aclError aclrtMapMem(void* address, size_t bytes, size_t offset, void* handle, uint64_t flags) {
  auto* const physical = static_cast<Physical*>(handle);
  if (address == nullptr || physical == nullptr) return fail(kRtParamInvalid, "aclrtMapMem: null pointer");
  if (offset != 0 || flags != 0) return fail(kRtParamInvalid, "aclrtMapMem: offset and flags must be 0");
  if (bytes != physical->bytes) {
    return fail(kRtParamInvalid, "aclrtMapMem: %zu bytes wanted, %zu allocated", bytes, physical->bytes);
  }
  VirtualMemory& all = memory();
  std::lock_guard lock(all.mutex);
  auto range = all.reserved.upper_bound(address);
  if (range == all.reserved.begin() ||
      static_cast<char*>(address) + bytes > static_cast<char*>((--range)->first) + range->second) {
    return fail(kRtParamInvalid, "aclrtMapMem: %p was not reserved", address);
  }
  if (mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, physical->file, 0) == MAP_FAILED) {
    return fail(kRtMemoryAllocation, "aclrtMapMem: the host refuses the mapping");
  }
  ++physical->mappings;
  all.mapped[address] = physical;
  register_range(address, bytes, Location::kDevice, physical->device, Origin::kMapped);
  return kSuccess;
}

ACL_API aclError aclrtUnmapMem(void* address) {
  MemoryRange removed;
  if (!unregister_range(address, Origin::kMapped, &removed)) {
    return fail(kRtParamInvalid, "aclrtUnmapMem: nothing is mapped at %p", address);
  }
  drain_device(removed.device);
  forget_accesses(address, removed.bytes);
  VirtualMemory& all = memory();
  std::lock_guard lock(all.mutex);
  mmap(address, removed.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  const auto found = all.mapped.find(address);
  Physical* const physical = found->second;
  all.mapped.erase(found);
  --physical->mappings;
  return kSuccess;
}
