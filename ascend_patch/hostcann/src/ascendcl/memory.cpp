#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "order.h"

namespace hostcann {
namespace {

constexpr size_t kAlignment = 512;            // aclrtMalloc: "the start address is 512-byte aligned"
constexpr size_t kPadding = 32;               // aclrtMalloc rounds (size + 32) up to a multiple of 32
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kMaxDevices = 64;

struct Entry {
  size_t bytes;
  Location location;
  int device;
  Origin origin;
};

struct Registry {
  std::shared_mutex mutex;
  std::map<uintptr_t, Entry> ranges;
  std::atomic<size_t> used[kMaxDevices] = {};
};

Registry& registry() {
  static Registry* const instance = new Registry;  // outlives every static destructor that may still free memory
  return *instance;
}

uintptr_t key_of(const void* address) { return reinterpret_cast<uintptr_t>(address); }

size_t rounded_size(size_t bytes) { return (bytes + kPadding + kPadding - 1) / kPadding * kPadding; }

const char* origin_name(Origin origin) {
  switch (origin) {
    case Origin::kMalloc: return "aclrtMalloc";
    case Origin::kMallocHost: return "aclrtMallocHost";
    case Origin::kRegistered: return "aclrtHostRegister";
    case Origin::kMapped: return "aclrtMapMem";
  }
  return "?";
}

}  // namespace

void register_range(const void* base, size_t bytes, Location location, int device, Origin origin) {
  Registry& all = registry();
  std::unique_lock lock(all.mutex);
  all.ranges[key_of(base)] = Entry{bytes, location, device, origin};
}

bool unregister_range(const void* base, Origin origin, MemoryRange* removed) {
  Registry& all = registry();
  std::unique_lock lock(all.mutex);
  const auto found = all.ranges.find(key_of(base));
  if (found == all.ranges.end() || found->second.origin != origin) return false;
  *removed = MemoryRange{base, found->second.bytes, found->second.location, found->second.device};
  all.ranges.erase(found);
  return true;
}

bool charge(int device, size_t bytes) {
  std::atomic<size_t>& used = registry().used[device];
  const size_t limit = static_cast<size_t>(config().memory_bytes);
  size_t before = used.load(std::memory_order_relaxed);
  do {
    if (bytes > limit || before > limit - bytes) return false;
  } while (!used.compare_exchange_weak(before, before + bytes));
  return true;
}

void discharge(int device, size_t bytes) { registry().used[device].fetch_sub(bytes); }

size_t used_bytes(int device) { return registry().used[device].load(std::memory_order_relaxed); }

MemoryRange find_range(const void* address) {
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  auto after = all.ranges.upper_bound(key_of(address));
  if (after == all.ranges.begin()) return {};
  --after;
  if (key_of(address) >= after->first + after->second.bytes) return {};
  return MemoryRange{reinterpret_cast<const void*>(after->first), after->second.bytes, after->second.location,
                     after->second.device};
}

bool is_device_memory(const void* address, size_t bytes, int device) {
  if (bytes == 0) return true;
  const char* at = static_cast<const char*>(address);
  // Neighbouring mappings of an expandable segment are separate entries: walk over them.
  while (true) {
    const MemoryRange range = find_range(at);
    if (range.location != Location::kDevice || (device >= 0 && range.device != device)) return false;
    const size_t available = static_cast<const char*>(range.base) + range.bytes - at;
    if (bytes <= available) return true;
    bytes -= available;
    at += available;
  }
}

void* allocate_device(int device, size_t bytes) {
  const size_t size = rounded_size(bytes);
  if (!charge(device, size)) return nullptr;
  const bool large = size >= kHugePage;
  void* address = nullptr;
  if (posix_memalign(&address, large ? kHugePage : kAlignment, size) != 0) {
    discharge(device, size);
    return nullptr;
  }
  if (large) madvise(address, size, MADV_HUGEPAGE);  // only speed depends on it
  register_range(address, size, Location::kDevice, device, Origin::kMalloc);
  return address;
}

void free_device(void* address) {
  MemoryRange removed;
  if (!unregister_range(address, Origin::kMalloc, &removed)) return;
  discharge(removed.device, removed.bytes);
  forget_accesses(address, removed.bytes);
  std::free(address);
}

namespace {

// The destructor runs when the library is unloaded at exit: what is still allocated then was leaked.
struct LeakReport {
  ~LeakReport() {
    if (!config().log_to_console || config().log_level > 1) return;
    Registry& all = registry();
    std::shared_lock lock(all.mutex);
    size_t count = 0;
    size_t bytes = 0;
    for (const auto& [base, entry] : all.ranges) {
      log_line(1, "still allocated at exit: %zu bytes from %s on device %d", entry.bytes, origin_name(entry.origin),
               entry.device);
      ++count;
      bytes += entry.bytes;
    }
    log_line(1, "%zu allocations with %zu bytes were not freed before exit", count, bytes);
  }
} leak_report;

aclError refuse_free(const char* function, const void* address) {
  const MemoryRange range = find_range(address);
  if (range.location == Location::kUnknown) {
    return fail(kRtParamInvalid, "%s: %p is not allocated (freed twice, or not from hostcann)", function, address);
  }
  if (range.base != address) {
    return fail(kRtParamInvalid, "%s: %p lies inside an allocation but is not its start", function, address);
  }
  return fail(kRtParamInvalid, "%s: %p was allocated by another kind of function", function, address);
}

aclError allocate_host(const char* function, void** address, size_t bytes) {
  if (address == nullptr || bytes == 0) return fail(kRtParamInvalid, "%s: null pointer or size 0", function);
  *address = nullptr;
  if (posix_memalign(address, 4096, bytes) != 0) {
    return fail(kRtMemoryAllocation, "%s: %zu bytes of host memory are not available", function, bytes);
  }
  register_range(*address, bytes, Location::kHost, -1, Origin::kMallocHost);
  return kSuccess;
}

aclError allocate(const char* function, void** address, size_t bytes) {
  if (address == nullptr || bytes == 0) return fail(kRtParamInvalid, "%s: null pointer or size 0", function);
  *address = nullptr;
  const int device = current_device();
  if (device < 0) return fail(kRtContextNull, "%s: no device is set on this thread (call aclrtSetDevice)", function);
  *address = allocate_device(device, bytes);
  if (*address == nullptr) {
    return fail(kRtMemoryAllocation, "%s: EL0004: device %d has %zu of %zu bytes in use, %zu more do not fit (HOSTCANN_MEMORY)",
                function, device, used_bytes(device), static_cast<size_t>(config().memory_bytes), bytes);
  }
  return kSuccess;
}

}  // namespace
}  // namespace hostcann

using namespace hostcann;

ACL_API aclError aclrtMalloc(void** address, size_t bytes, int /*policy*/) {
  return allocate("aclrtMalloc", address, bytes);
}

ACL_API aclError aclrtMallocAlign32(void** address, size_t bytes, int /*policy*/) {
  return allocate("aclrtMallocAlign32", address, bytes);
}

ACL_API aclError aclrtFree(void* address) {
  MemoryRange removed;
  if (!unregister_range(address, Origin::kMalloc, &removed)) return refuse_free("aclrtFree", address);
  discharge(removed.device, removed.bytes);
  forget_accesses(address, removed.bytes);
  // The documentation requires that no task uses the memory any more; deferred tasks would read freed memory.
  drain_device(removed.device);
  std::free(address);
  return kSuccess;
}

ACL_API aclError aclrtMallocHost(void** address, size_t bytes) {
  return allocate_host("aclrtMallocHost", address, bytes);
}

ACL_API aclError aclrtMallocHostWithCfg(void** address, uint64_t bytes, void* /*config*/) {
  return allocate_host("aclrtMallocHostWithCfg", address, bytes);
}

ACL_API aclError aclrtFreeHost(void* address) {
  MemoryRange removed;
  if (!unregister_range(address, Origin::kMallocHost, &removed)) return refuse_free("aclrtFreeHost", address);
  drain_device(-1);
  std::free(address);
  return kSuccess;
}

ACL_API aclError aclrtHostRegister(void* address, uint64_t bytes, int type, void** device_address) {
  constexpr int kMapped = 0;
  if (address == nullptr || bytes == 0 || device_address == nullptr) {
    return fail(kRtParamInvalid, "aclrtHostRegister: null pointer or size 0");
  }
  if (type != kMapped) return fail(kRtParamInvalid, "aclrtHostRegister: type %d is not ACL_HOST_REGISTER_MAPPED", type);
  if (find_range(address).location != Location::kUnknown) {
    return fail(kRtParamInvalid, "aclrtHostRegister: %p is registered or allocated already", address);
  }
  register_range(address, bytes, Location::kHost, -1, Origin::kRegistered);
  *device_address = address;
  return kSuccess;
}

ACL_API aclError aclrtHostRegisterV2(void* address, uint64_t bytes, uint32_t /*flag*/) {
  void* device_address = nullptr;
  return aclrtHostRegister(address, bytes, 0, &device_address);
}

ACL_API aclError aclrtHostUnregister(void* address) {
  MemoryRange removed;
  if (!unregister_range(address, Origin::kRegistered, &removed)) return refuse_free("aclrtHostUnregister", address);
  drain_device(-1);
  return kSuccess;
}

// attr selects the memory (DDR, HBM, page size); a host CANN has one kind, so every attr gives the same answer.
ACL_API aclError aclrtGetMemInfo(int /*attr*/, size_t* free_bytes, size_t* total_bytes) {
  // torch-npu asks for the properties of a device before it has set one: device 0 is meant.
  const int device = std::max(current_device(), 0);
  if (device >= device_count()) return fail(kRtContextNull, "aclrtGetMemInfo: no device is visible");
  *total_bytes = static_cast<size_t>(config().memory_bytes);
  *free_bytes = *total_bytes - used_bytes(device);
  return kSuccess;
}

namespace {
// aclrtPtrAttributes: location {id, type}, page size, reserved words.
struct PointerAttributes {
  uint32_t device;
  uint32_t type;  // 0 host, 1 device, 2 unregistered
  uint32_t page_size;
  uint32_t reserved[4];
};
}  // namespace

ACL_API aclError aclrtPointerGetAttributes(const void* address, PointerAttributes* attributes) {
  if (address == nullptr || attributes == nullptr) {
    return fail(kRtParamInvalid, "aclrtPointerGetAttributes: null pointer");
  }
  const MemoryRange range = find_range(address);
  std::memset(attributes, 0, sizeof *attributes);
  attributes->device = range.device < 0 ? 0 : static_cast<uint32_t>(range.device);
  attributes->type = range.location == Location::kDevice ? 1 : range.location == Location::kHost ? 0 : 2;
  attributes->page_size = 4096;
  return kSuccess;
}
