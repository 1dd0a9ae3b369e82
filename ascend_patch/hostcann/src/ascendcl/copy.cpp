// Copies and memset. Kinds are checked against where the pointers really are, because on a device a wrong kind is an
// error (or worse), while on the CPU it would go unnoticed.
#include <cstring>

#include "memory.h"
#include "stream.h"

namespace hostcann {
namespace {

enum Kind { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice, kDefault, kHostBufferToDevice,
            kInnerDevice, kInterDevice, kKindCount };

const char* kind_name(int kind) {
  static const char* const names[] = {"host_to_host", "host_to_device", "device_to_host", "device_to_device",
                                      "default", "host_buffer_to_device", "inner_device", "inter_device"};
  return kind >= 0 && kind < kKindCount ? names[kind] : "unknown";
}

bool on_device(const void* address) { return find_range(address).location == Location::kDevice; }

// Resolves kDefault and refuses a kind that does not fit the pointers.
aclError resolve_kind(const char* function, const void* target, const void* source, size_t bytes, int* kind) {
  const bool target_on_device = on_device(target);
  const bool source_on_device = on_device(source);
  const int actual = target_on_device ? (source_on_device ? kDeviceToDevice : kHostToDevice)
                                      : (source_on_device ? kDeviceToHost : kHostToHost);
  int wanted = *kind;
  if (wanted < 0 || wanted >= kKindCount) return fail(kRtParamInvalid, "%s: unknown kind %d", function, wanted);
  if (wanted == kDefault) wanted = actual;
  if (wanted == kHostBufferToDevice) wanted = kHostToDevice;
  if (wanted == kInnerDevice || wanted == kInterDevice) wanted = kDeviceToDevice;
  if (wanted != actual) {
    return fail(kRtInvalidMemoryType, "%s: the kind is %s but the pointers are %s", function, kind_name(*kind),
                kind_name(actual));
  }
  if (target_on_device && !is_device_memory(target, bytes)) {
    return fail(kRtParamInvalid, "%s: %zu bytes at %p reach beyond the allocation", function, bytes, target);
  }
  if (source_on_device && !is_device_memory(source, bytes)) {
    return fail(kRtParamInvalid, "%s: %zu bytes at %p reach beyond the allocation", function, bytes, source);
  }
  *kind = wanted;
  return kSuccess;
}

aclError check_copy(const char* function, void* target, size_t capacity, const void* source, size_t bytes, int* kind) {
  if (target == nullptr || source == nullptr) return fail(kRtParamInvalid, "%s: null pointer", function);
  if (bytes > capacity) {
    return fail(kRtParamInvalid, "%s: %zu bytes do not fit into %zu", function, bytes, capacity);
  }
  return resolve_kind(function, target, source, bytes, kind);
}

aclError copy_async(const char* function, void* target, size_t capacity, const void* source, size_t bytes, int kind,
                    Stream stream) {
  if (bytes == 0) return kSuccess;
  const aclError code = check_copy(function, target, capacity, source, bytes, &kind);
  if (code != kSuccess) return code;
  if (trace_enabled()) trace_count(TraceKind::kCopy, kind_name(kind), bytes);
  // Pageable host memory is staged before the call returns on a device, so that the caller may reuse it at once.
  const bool pageable = (kind == kHostToDevice && find_range(source).location == Location::kUnknown) ||
                        (kind == kDeviceToHost && find_range(target).location == Location::kUnknown);
  const aclError launched =
      launch_always(stream, function, [=] { std::memmove(target, source, bytes); },
                    accesses_are_checked() ? std::vector<Access>{{source, bytes, false}, {target, bytes, true}}
                                           : std::vector<Access>{});
  if (launched != kSuccess || !pageable) return launched;
  StreamObject* const object = resolve_stream(function, stream);
  return object == nullptr ? kRtParamInvalid : drain(object);
}

}  // namespace
}  // namespace hostcann

using namespace hostcann;

// The blocking copy is not ordered after any stream: whoever calls it must have synchronised before.
ACL_API aclError aclrtMemcpy(void* target, size_t capacity, const void* source, size_t bytes, int kind) {
  if (bytes == 0) return kSuccess;
  const aclError code = check_copy("aclrtMemcpy", target, capacity, source, bytes, &kind);
  if (code != kSuccess) return code;
  if (trace_enabled()) {
    trace_count(TraceKind::kCopy, kind_name(kind), bytes);
    if (kind == kDeviceToHost) trace_count(TraceKind::kSync, "aclrtMemcpy");
  }
  if (accesses_are_checked()) {
    const aclError order = host_access("aclrtMemcpy", {{source, bytes, false}, {target, bytes, true}});
    if (order != kSuccess) return order;
  }
  std::memmove(target, source, bytes);
  return kSuccess;
}

ACL_API aclError aclrtMemcpyAsync(void* target, size_t capacity, const void* source, size_t bytes, int kind,
                                  Stream stream) {
  return copy_async("aclrtMemcpyAsync", target, capacity, source, bytes, kind, stream);
}

ACL_API aclError aclrtMemcpyAsyncWithCondition(void* target, size_t capacity, const void* source, size_t bytes,
                                               int kind, Stream stream) {
  return copy_async("aclrtMemcpyAsyncWithCondition", target, capacity, source, bytes, kind, stream);
}

ACL_API aclError aclrtMemcpyBatch(void** targets, size_t* capacities, void** sources, size_t* sizes, size_t count,
                                  void* /*attributes*/, size_t* /*attribute_indexes*/, size_t /*attribute_count*/,
                                  size_t* failed) {
  for (size_t i = 0; i < count; ++i) {
    const aclError code = aclrtMemcpy(targets[i], capacities[i], sources[i], sizes[i], kDefault);
    if (code == kSuccess) continue;
    if (failed != nullptr) *failed = i;
    return code;
  }
  return kSuccess;
}

ACL_API aclError aclrtMemcpyBatchAsync(void** targets, size_t* capacities, void** sources, size_t* sizes, size_t count,
                                       void* /*attributes*/, size_t* /*attribute_indexes*/, size_t /*attribute_count*/,
                                       size_t* failed, Stream stream) {
  for (size_t i = 0; i < count; ++i) {
    const aclError code =
        copy_async("aclrtMemcpyBatchAsync", targets[i], capacities[i], sources[i], sizes[i], kDefault, stream);
    if (code == kSuccess) continue;
    if (failed != nullptr) *failed = i;
    return code;
  }
  return kSuccess;
}

ACL_API aclError aclrtMemset(void* target, size_t capacity, int32_t value, size_t bytes) {
  if (bytes > capacity) return fail(kRtParamInvalid, "aclrtMemset: %zu bytes do not fit into %zu", bytes, capacity);
  if (!is_device_memory(target, bytes)) {
    return fail(kRtParamInvalid, "aclrtMemset: %zu bytes at %p are not device memory", bytes, target);
  }
  if (accesses_are_checked()) {
    const aclError order = host_access("aclrtMemset", {{target, bytes, true}});
    if (order != kSuccess) return order;
  }
  std::memset(target, value, bytes);
  return kSuccess;
}

ACL_API aclError aclrtMemsetAsync(void* target, size_t capacity, int32_t value, size_t bytes, Stream stream) {
  if (bytes > capacity) {
    return fail(kRtParamInvalid, "aclrtMemsetAsync: %zu bytes do not fit into %zu", bytes, capacity);
  }
  if (!is_device_memory(target, bytes)) {
    return fail(kRtParamInvalid, "aclrtMemsetAsync: %zu bytes at %p are not device memory", bytes, target);
  }
  return launch_always(stream, "aclrtMemsetAsync", [=] { std::memset(target, value, bytes); }, {{target, bytes, true}});
}

// Cache maintenance (prefetch into L2, write back): a hint without an effect on results.
ACL_API aclError aclrtCmoAsync(void* /*address*/, size_t /*bytes*/, int /*type*/, Stream stream) {
  return resolve_stream("aclrtCmoAsync", stream) != nullptr ? kSuccess : kRtParamInvalid;
}
