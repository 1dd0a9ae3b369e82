#include "communicator.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace hostcann::hccl {
namespace {

struct Table {
  std::mutex mutex;
  std::unordered_map<void*, std::unique_ptr<Communicator>> live;
  uint64_t created = 0;
};

Table& table() {
  static Table* const instance = new Table;  // process groups may be destroyed by other static destructors
  return *instance;
}

int create(const char* function, uint32_t size, uint32_t rank, const char* name, void** handle) {
  if (handle == nullptr) return refuse(kNullPointer, function, "null pointer");
  if (size == 0 || rank >= size) return refuse(kBadParameter, function, "the rank is not below the number of ranks");
  if (size > 1) {
    return refuse(kNotSupported, function,
                  "communicators with more than one rank are not implemented in hostcann yet");
  }
  auto communicator = std::make_unique<Communicator>();
  Table& all = table();
  std::lock_guard lock(all.mutex);
  *communicator = {rank, size, current_device(), name};
  if (communicator->name.empty()) {
    communicator->name = "hostcann_" + std::to_string(getpid()) + "_" + std::to_string(all.created);
  }
  ++all.created;
  *handle = communicator.get();
  all.live.emplace(*handle, std::move(communicator));
  return kOk;
}

// HcclCommConfig: 24 bytes of header, buffer size, determinism, then the communicator's name.
const char* configured_name(const void* config) {
  constexpr size_t kNameOffset = 24 + 2 * sizeof(uint32_t);
  return config == nullptr ? "" : static_cast<const char*>(config) + kNameOffset;
}

}  // namespace

int refuse(Result code, const char* function, const char* reason) {
  fail(code, "%s: %s", function, reason);
  return code;
}

Communicator* resolve(const char* function, void* handle) {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  const auto found = all.live.find(handle);
  if (found == all.live.end()) {
    refuse(kBadParameter, function, "not a live communicator");
    return nullptr;
  }
  return found->second.get();
}

size_t element_bytes(int data_type) {
  switch (data_type) {
    case 0: case 7: case 14: case 15: case 16: case 17: return 1;  // int8, uint8, 8-bit floats
    case 1: case 3: case 8: case 11: return 2;                     // int16, fp16, uint16, bf16
    case 2: case 4: case 9: return 4;                              // int32, fp32, uint32
    case 5: case 6: case 10: return 8;                             // int64, uint64, fp64
    case 12: return 16;                                            // int128
    default: return 0;
  }
}

}  // namespace hostcann::hccl

using namespace hostcann;
using namespace hostcann::hccl;

ACL_API int HcclGetRootInfo(void* root_info) {
  if (root_info == nullptr) return refuse(kNullPointer, "HcclGetRootInfo", "null pointer");
  static std::atomic<uint64_t> count{0};
  std::memset(root_info, 0, kRootInfoBytes);
  std::snprintf(static_cast<char*>(root_info), kRootInfoBytes, "hostcann %d %llu", static_cast<int>(getpid()),
                static_cast<unsigned long long>(count++));
  return kOk;
}

ACL_API int HcclCommInitRootInfo(uint32_t size, const void* /*root_info*/, uint32_t rank, void** handle) {
  return create("HcclCommInitRootInfo", size, rank, "", handle);
}

ACL_API int HcclCommInitRootInfoConfig(uint32_t size, const void* /*root_info*/, uint32_t rank, const void* config,
                                       void** handle) {
  return create("HcclCommInitRootInfoConfig", size, rank, configured_name(config), handle);
}

ACL_API int HcclCommInitAll(uint32_t count, int32_t* /*devices*/, void** handles) {
  return create("HcclCommInitAll", count, 0, "", handles);
}

ACL_API int HcclCreateSubCommConfig(void** handle, uint32_t size, uint32_t* /*ranks*/, uint64_t /*id*/, uint32_t rank,
                                    void* config, void** sub_handle) {
  if (handle == nullptr || resolve("HcclCreateSubCommConfig", *handle) == nullptr) return kBadParameter;
  return create("HcclCreateSubCommConfig", size, rank, configured_name(config), sub_handle);
}

ACL_API int HcclCommDestroy(void* handle) {
  if (resolve("HcclCommDestroy", handle) == nullptr) return kBadParameter;
  Table& all = table();
  std::lock_guard lock(all.mutex);
  all.live.erase(handle);
  return kOk;
}

ACL_API int HcclGetRankSize(void* handle, uint32_t* size) {
  const Communicator* const communicator = resolve("HcclGetRankSize", handle);
  if (communicator == nullptr) return kBadParameter;
  *size = communicator->size;
  return kOk;
}

ACL_API int HcclGetRankId(void* handle, uint32_t* rank) {
  const Communicator* const communicator = resolve("HcclGetRankId", handle);
  if (communicator == nullptr) return kBadParameter;
  *rank = communicator->rank;
  return kOk;
}

ACL_API int HcclGetCommName(void* handle, char* name) {
  constexpr size_t kNameBytes = 128;
  const Communicator* const communicator = resolve("HcclGetCommName", handle);
  if (communicator == nullptr) return kBadParameter;
  std::snprintf(name, kNameBytes, "%s", communicator->name.c_str());
  return kOk;
}

ACL_API int HcclGetCommAsyncError(void* handle, int* error) {
  if (resolve("HcclGetCommAsyncError", handle) == nullptr) return kBadParameter;
  *error = kOk;
  return kOk;
}

// Determinism and the like: the copies of one rank are deterministic, so that every setting holds.
ACL_API int HcclSetConfig(int /*option*/, int32_t /*value*/) { return kOk; }

// Number of configuration fields of CANN 8.5 (up to the communicator's buffer name).
ACL_API uint32_t HcclGetCommConfigCapability() { return 12; }

ACL_API const char* HcclGetErrorString(int code) { return code == kOk ? "success" : "error"; }

ACL_API int HcclGroupStart() { return kOk; }
ACL_API int HcclGroupEnd() { return kOk; }
ACL_API int HcclCommResume(void* handle) { return resolve("HcclCommResume", handle) == nullptr ? kBadParameter : kOk; }
