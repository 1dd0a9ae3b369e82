#include "communicator.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <unordered_map>

#include "rendezvous.h"
#include "transfer.h"

namespace hostcann::hccl {
namespace {

struct Table {
  std::mutex mutex;
  std::unordered_map<void*, std::shared_ptr<Communicator>> live;
  std::unordered_map<std::string, std::unique_ptr<Meeting>> meetings;  // of root infos made here and not used yet
};

Table& table() {
  static Table* const instance = new Table;  // process groups may be destroyed by other static destructors
  return *instance;
}

// An integer from `low` to `high`, or EI0001.
int64_t integer_variable(const char* name, int64_t low, int64_t high, int64_t otherwise) {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  int64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stopped != end || value < low || value > high) {
    throw std::invalid_argument(std::string("EI0001: ") + name + "=" + text + " must be an integer from " +
                                std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

std::unique_ptr<Meeting> take_meeting(const std::string& name) {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  const auto found = all.meetings.find(name);
  if (found == all.meetings.end()) return nullptr;
  std::unique_ptr<Meeting> meeting = std::move(found->second);
  all.meetings.erase(found);
  return meeting;
}

std::string generated_name(uint64_t unique) {
  char text[48];
  std::snprintf(text, sizeof text, "hostcann_%016llx", static_cast<unsigned long long>(unique));
  return text;
}

int check_ranks(const char* function, uint32_t size, uint32_t rank) {
  if (size == 0 || rank >= size) return refuse(kBadParameter, function, "the rank is not below the number of ranks");
  if (size > kMostRanks) return refuse(kNotSupported, function, "hostcann connects at most 64 ranks");
  if (current_device() < 0) return refuse(kRuntime, function, "no device is set on this thread (aclrtSetDevice)");
  return kOk;
}

}  // namespace

Communicator::~Communicator() {
  if (!segment) return;
  segment->member(rank).presence.store(Presence::kLeft, std::memory_order_release);
  for (uint32_t other = 0; other < size; ++other) {
    if (other != rank) segment->notify(other);
  }
}

int refuse(Result code, const char* function, const std::string& reason) {
  fail(code, "%s: %s", function, reason.c_str());
  return code;
}

std::shared_ptr<Communicator> resolve(const char* function, void* handle) {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  const auto found = all.live.find(handle);
  if (found == all.live.end()) {
    refuse(kBadParameter, function, "not a live communicator");
    return nullptr;
  }
  return found->second;
}

std::shared_ptr<Communicator> find(const std::string& name) {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  for (const auto& [handle, communicator] : all.live) {
    if (communicator->name == name) return communicator;
  }
  return nullptr;
}

int create(const char* function, uint32_t rank, uint32_t size, const void* config, void** handle,
           const std::function<std::shared_ptr<Segment>(double)>& join) {
  if (handle == nullptr) return refuse(kNullPointer, function, "null pointer");
  const int checked = check_ranks(function, size, rank);
  if (checked != kOk) return checked;
  CommunicatorConfig settings;
  if (!read_config(function, config, &settings)) return kBadParameter;
  auto communicator = std::make_shared<Communicator>();
  communicator->rank = rank;
  communicator->size = size;
  communicator->name = settings.name;
  communicator->timeout_seconds = settings.timeout_seconds;
  uint64_t unique = 0;
  try {
    if (size > 1) {
      communicator->segment = join(connect_timeout_seconds());
      unique = communicator->segment->header().unique;
    } else {
      unique = std::random_device()() | uint64_t{std::random_device()()} << 32;
    }
  } catch (const TransferError& error) {
    return refuse(static_cast<Result>(error.code), function, error.what());
  } catch (const std::invalid_argument& error) {
    return refuse(kBadParameter, function, error.what());
  }
  if (communicator->name.empty()) communicator->name = generated_name(unique);
  *handle = communicator.get();
  Table& all = table();
  std::lock_guard lock(all.mutex);
  all.live.emplace(*handle, std::move(communicator));
  return kOk;
}

// HcclCommConfig begins with 24 bytes (its size, a magic word, its version, 8 bytes reserved); a caller built against an
// older CANN passes a shorter one.
bool read_config(const char* function, const void* config, CommunicatorConfig* result) {
  constexpr uint32_t kMagic = 0xf0f0f0f0;
  constexpr size_t kNameOffset = 32;
  constexpr size_t kNameBytes = 128;
  constexpr size_t kTimeoutOffset = 316;
  try {
    *result = {"", execution_timeout_seconds()};
  } catch (const std::invalid_argument& error) {
    refuse(kBadParameter, function, error.what());
    return false;
  }
  if (config == nullptr) return true;
  const char* const bytes = static_cast<const char*>(config);
  size_t size = 0;
  uint32_t magic = 0;
  std::memcpy(&size, bytes, sizeof size);
  std::memcpy(&magic, bytes + sizeof size, sizeof magic);
  if (magic != kMagic) {
    refuse(kBadParameter, function, "the configuration was not prepared with HcclCommConfigInit");
    return false;
  }
  if (size >= kNameOffset + kNameBytes) {
    result->name.assign(bytes + kNameOffset, strnlen(bytes + kNameOffset, kNameBytes - 1));
  }
  if (size >= kTimeoutOffset + sizeof(int32_t)) {
    int32_t seconds = 0;
    std::memcpy(&seconds, bytes + kTimeoutOffset, sizeof seconds);
    if (seconds >= 0) result->timeout_seconds = seconds;
  }
  return true;
}

double connect_timeout_seconds() {
  // The documented range has no value that a test could wait for.
  const int64_t chosen = integer_variable("HOSTCANN_CONNECT_TIMEOUT", 1, 7200, 0);
  const int64_t documented = integer_variable("HCCL_CONNECT_TIMEOUT", 120, 7200, 120);
  return static_cast<double>(chosen != 0 ? chosen : documented);
}

double execution_timeout_seconds() {
  constexpr int64_t kDefault = 1836;
  if (soc().family != SocFamily::k310P) {
    return static_cast<double>(integer_variable("HCCL_EXEC_TIMEOUT", 0, 2147483647, kDefault));
  }
  constexpr int64_t kStep = 68;  // documented for this family: whole multiples of 68 s
  const int64_t seconds = integer_variable("HCCL_EXEC_TIMEOUT", 1, 17340, kDefault);
  return static_cast<double>(std::max(seconds / kStep, int64_t{1}) * kStep);
}

}  // namespace hostcann::hccl

using namespace hostcann;
using namespace hostcann::hccl;

ACL_API int HcclGetRootInfo(void* root_info) {
  if (root_info == nullptr) return refuse(kNullPointer, "HcclGetRootInfo", "null pointer");
  static std::atomic<uint64_t> count{0};
  std::random_device random;
  char name[96];
  std::snprintf(name, sizeof name, "root-%d-%llu-%08x%08x", static_cast<int>(getpid()),
                static_cast<unsigned long long>(count++), random(), random());
  try {
    Table& all = table();
    std::lock_guard lock(all.mutex);
    all.meetings.emplace(name, std::make_unique<Meeting>(name));
  } catch (const TransferError& error) {
    return refuse(static_cast<Result>(error.code), "HcclGetRootInfo", error.what());
  }
  std::memset(root_info, 0, kRootInfoBytes);
  std::snprintf(static_cast<char*>(root_info), kRootInfoBytes, "%s", name);
  return kOk;
}

ACL_API int HcclCommInitRootInfoConfig(uint32_t size, const void* root_info, uint32_t rank, const void* config,
                                       void** handle) {
  if (root_info == nullptr) return refuse(kNullPointer, "HcclCommInitRootInfo", "null pointer");
  const auto* const text = static_cast<const char*>(root_info);
  const std::string name(text, strnlen(text, kRootInfoBytes));
  // Whoever comes first in the process that made the root info brings the ranks together.
  const std::shared_ptr<Meeting> meeting = take_meeting(name);
  return create("HcclCommInitRootInfo", rank, size, config, handle, [&](double timeout) {
    return meeting ? meeting->host(rank, size, timeout) : attend(name, rank, size, timeout, false);
  });
}

ACL_API int HcclCommInitRootInfo(uint32_t size, const void* root_info, uint32_t rank, void** handle) {
  return HcclCommInitRootInfoConfig(size, root_info, rank, nullptr, handle);
}

ACL_API int HcclCommInitAll(uint32_t count, int32_t* devices, void** handles) {
  constexpr const char* kFunction = "HcclCommInitAll";
  if (devices == nullptr || handles == nullptr) return refuse(kNullPointer, kFunction, "null pointer");
  int descriptor = -1;
  std::shared_ptr<Segment> segment;
  if (count > 1 && count <= kMostRanks) {
    try {
      segment = Segment::create(count, &descriptor);
    } catch (const std::exception& error) {
      return refuse(kMemory, kFunction, error.what());
    }
    close(descriptor);
  }
  for (uint32_t rank = 0; rank < count; ++rank) {
    const int code = create(kFunction, rank, count, nullptr, &handles[rank], [&](double) {
      segment->enter(rank);
      return segment;
    });
    if (code != kOk) return code;
  }
  return kOk;
}

// Only the ranks of the new communicator take part; for the others the documentation prescribes these two arguments.
ACL_API int HcclCreateSubCommConfig(void** handle, uint32_t size, uint32_t* ranks, uint64_t id, uint32_t rank,
                                    void* config, void** sub_handle) {
  constexpr const char* kFunction = "HcclCreateSubCommConfig";
  constexpr uint64_t kNotTakingPart = 0xffffffff;
  if (handle == nullptr || sub_handle == nullptr) return refuse(kNullPointer, kFunction, "null pointer");
  const std::shared_ptr<Communicator> parent = resolve(kFunction, *handle);
  if (parent == nullptr) return kBadParameter;
  if (ranks == nullptr && id == kNotTakingPart) {
    *sub_handle = nullptr;
    return kOk;
  }
  if (ranks == nullptr) return refuse(kNullPointer, kFunction, "null pointer");
  if (rank >= size || size > parent->size) return refuse(kBadParameter, kFunction, "the rank or their number is wrong");
  std::string members;
  for (uint32_t i = 0; i < size; ++i) {
    for (uint32_t j = 0; j < i; ++j) {
      if (ranks[i] == ranks[j]) return refuse(kBadParameter, kFunction, "a rank is listed twice");
    }
    if (ranks[i] >= parent->size) return refuse(kBadParameter, kFunction, "a rank is not in the communicator");
    members += "," + std::to_string(ranks[i]);
  }
  if (ranks[rank] != parent->rank) return refuse(kBadParameter, kFunction, "the calling rank is not at its place");
  const std::string name =
      "sub-" + generated_name(parent->segment ? parent->segment->header().unique : 0) + "-" + std::to_string(id) + "-" +
      std::to_string(std::hash<std::string>()(members));
  return create(kFunction, rank, size, config, sub_handle,
                [&](double timeout) { return meet(name, rank, size, timeout); });
}

ACL_API int HcclCommDestroy(void* handle) {
  if (resolve("HcclCommDestroy", handle) == nullptr) return kBadParameter;
  // Collectives under way keep it until they are through.
  std::shared_ptr<Communicator> removed;  // its end must not happen under the lock
  Table& all = table();
  std::lock_guard lock(all.mutex);
  const auto found = all.live.find(handle);
  if (found != all.live.end()) {
    removed = std::move(found->second);
    all.live.erase(found);
  }
  return kOk;
}

ACL_API int HcclGetRankSize(void* handle, uint32_t* size) {
  const std::shared_ptr<Communicator> communicator = resolve("HcclGetRankSize", handle);
  if (communicator == nullptr) return kBadParameter;
  *size = communicator->size;
  return kOk;
}

ACL_API int HcclGetRankId(void* handle, uint32_t* rank) {
  const std::shared_ptr<Communicator> communicator = resolve("HcclGetRankId", handle);
  if (communicator == nullptr) return kBadParameter;
  *rank = communicator->rank;
  return kOk;
}

ACL_API int HcclGetCommName(void* handle, char* name) {
  constexpr size_t kNameBytes = 128;
  const std::shared_ptr<Communicator> communicator = resolve("HcclGetCommName", handle);
  if (communicator == nullptr) return kBadParameter;
  std::snprintf(name, kNameBytes, "%s", communicator->name.c_str());
  return kOk;
}

// Documented answers: none, or HCCL_E_REMOTE.
ACL_API int HcclGetCommAsyncError(void* handle, int* error) {
  const std::shared_ptr<Communicator> communicator = resolve("HcclGetCommAsyncError", handle);
  if (communicator == nullptr) return kBadParameter;
  *error = communicator->segment && communicator->segment->failed() ? kRemote : kOk;
  return kOk;
}

// Determinism and the like: reductions here always happen in the same order, so that every setting holds.
ACL_API int HcclSetConfig(int /*option*/, int32_t /*value*/) { return kOk; }

// Number of configuration fields of CANN 8.5 (up to the communicator's buffer name).
ACL_API uint32_t HcclGetCommConfigCapability() { return 12; }

ACL_API const char* HcclGetErrorString(int code) {
  switch (code) {
    case kOk: return "success";
    case kBadParameter: return "parameter error";
    case kNullPointer: return "null pointer";
    case kMemory: return "memory error";
    case kInternal: return "internal error";
    case kNotSupported: return "not supported";
    case kNotFound: return "not found";
    case kTimeout: return "time-out";
    case kOpenFile: return "a file cannot be opened";
    case kTcpConnect: return "no connection";
    case kRuntime: return "error of the runtime";
    case kRemote: return "error of another rank";
    default: return "error";
  }
}

ACL_API int HcclCommResume(void* handle) { return resolve("HcclCommResume", handle) == nullptr ? kBadParameter : kOk; }
