// The collectives of a group with one rank: what is received is what was sent.
#include <cstring>

#include "communicator.h"

using namespace hostcann;
using namespace hostcann::hccl;

namespace {

// Copies `count` elements on the stream after checking the communicator, the type and the buffers.
int copy(const char* function, const void* source, void* target, uint64_t count, int data_type, void* handle,
         Stream stream) {
  const Communicator* const communicator = resolve(function, handle);
  if (communicator == nullptr) return kBadParameter;
  const size_t element = element_bytes(data_type);
  if (element == 0) return refuse(kBadParameter, function, "unknown data type");
  const size_t bytes = count * element;
  if (bytes > 0 && (source == nullptr || target == nullptr)) return refuse(kNullPointer, function, "null buffer");
  if (!is_device_memory(source, bytes) || !is_device_memory(target, bytes)) {
    return refuse(kBadParameter, function, "a buffer is not device memory");
  }
  if (trace_enabled()) trace_count(TraceKind::kHccl, function, bytes);
  const aclError code =
      launch_always(stream, function, [=] { if (target != source) std::memmove(target, source, bytes); },
                    accesses_are_checked() ? std::vector<Access>{{source, bytes, false}, {target, bytes, true}}
                                           : std::vector<Access>{});
  return code == kSuccess ? kOk : kRuntime;
}

int check_root(const char* function, uint32_t root) {
  return root == 0 ? kOk : refuse(kBadParameter, function, "the root is not a rank of the communicator");
}

}  // namespace

ACL_API int HcclAllReduce(void* source, void* target, uint64_t count, int data_type, int /*operation*/, void* handle,
                          Stream stream) {
  return copy("HcclAllReduce", source, target, count, data_type, handle, stream);
}

ACL_API int HcclReduce(void* source, void* target, uint64_t count, int data_type, int /*operation*/, uint32_t root,
                       void* handle, Stream stream) {
  const int code = check_root("HcclReduce", root);
  return code != kOk ? code : copy("HcclReduce", source, target, count, data_type, handle, stream);
}

ACL_API int HcclBroadcast(void* buffer, uint64_t count, int data_type, uint32_t root, void* handle, Stream stream) {
  const int code = check_root("HcclBroadcast", root);
  return code != kOk ? code : copy("HcclBroadcast", buffer, buffer, count, data_type, handle, stream);
}

ACL_API int HcclAllGather(void* source, void* target, uint64_t count, int data_type, void* handle, Stream stream) {
  return copy("HcclAllGather", source, target, count, data_type, handle, stream);
}

ACL_API int HcclReduceScatter(void* source, void* target, uint64_t count, int data_type, int /*operation*/,
                              void* handle, Stream stream) {
  return copy("HcclReduceScatter", source, target, count, data_type, handle, stream);
}

ACL_API int HcclScatter(void* source, void* target, uint64_t count, int data_type, uint32_t root, void* handle,
                        Stream stream) {
  const int code = check_root("HcclScatter", root);
  return code != kOk ? code : copy("HcclScatter", source, target, count, data_type, handle, stream);
}

ACL_API int HcclAlltoAll(const void* source, uint64_t count, int data_type, const void* target, uint64_t received,
                         int received_type, void* handle, Stream stream) {
  if (count != received || data_type != received_type) {
    return refuse(kBadParameter, "HcclAlltoAll", "what one rank sends itself differs from what it receives");
  }
  return copy("HcclAlltoAll", source, const_cast<void*>(target), count, data_type, handle, stream);
}

// Counts and displacements are arrays with one 64-bit number per rank.
ACL_API int HcclAlltoAllV(const void* source, const void* counts, const void* displacements, int data_type,
                          const void* target, const void* received_counts, const void* received_displacements,
                          int received_type, void* handle, Stream stream) {
  const uint64_t count = *static_cast<const uint64_t*>(counts);
  if (count != *static_cast<const uint64_t*>(received_counts) || data_type != received_type) {
    return refuse(kBadParameter, "HcclAlltoAllV", "what one rank sends itself differs from what it receives");
  }
  const size_t element = element_bytes(data_type);
  const char* const from = static_cast<const char*>(source) + *static_cast<const uint64_t*>(displacements) * element;
  char* const to = static_cast<char*>(const_cast<void*>(target)) +
                   *static_cast<const uint64_t*>(received_displacements) * element;
  return copy("HcclAlltoAllV", from, to, count, data_type, handle, stream);
}

ACL_API int HcclBarrier(void* handle, Stream stream) {
  if (resolve("HcclBarrier", handle) == nullptr) return kBadParameter;
  if (trace_enabled()) trace_count(TraceKind::kHccl, "HcclBarrier");
  return launch_always(stream, "HcclBarrier", [] {}) == kSuccess ? kOk : kRuntime;
}
