// Initialisation, devices, contexts, device properties, versions and system options.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "memory.h"
#include "stream.h"

namespace hostcann {
namespace {


thread_local int thread_device = -1;

struct Process {
  std::mutex mutex;
  bool initialised = false;
  std::vector<bool> active;  // devices that were set at least once and not reset
  std::map<int, int64_t> options;
};

Process& process() {
  static Process* const instance = new Process;
  return *instance;
}

// A context handle is the address of its device's slot.
char context_slots[64];

bool valid_device(int64_t device) { return device >= 0 && device < device_count(); }

aclError invalid_device(const char* function, int64_t device) {
  return fail(kRtInvalidDevice, "%s: device %lld does not exist, %d are visible (HOSTCANN_DEVICES)", function,
              static_cast<long long>(device), device_count());
}

}  // namespace

int current_device() { return thread_device; }

void set_thread_device(int device) { thread_device = device; }

}  // namespace hostcann

using namespace hostcann;

ACL_API aclError aclInit(const char* /*config_path*/) {
  constexpr aclError kRepeatInitialise = 100002;
  if (!config().error.empty()) return fail(kInvalidParam, "%s", config().error.c_str());
  Process& self = process();
  std::lock_guard lock(self.mutex);
  if (self.initialised) return kRepeatInitialise;
  self.initialised = true;
  return kSuccess;
}

ACL_API aclError aclFinalize() {
  drain_device(-1);
  Process& self = process();
  std::lock_guard lock(self.mutex);
  self.initialised = false;
  return kSuccess;
}

ACL_API aclError aclrtGetDeviceCount(uint32_t* count) {
  if (!config().error.empty()) return fail(kInvalidParam, "%s", config().error.c_str());
  *count = static_cast<uint32_t>(device_count());
  return kSuccess;
}

ACL_API aclError aclrtSetDevice(int32_t device) {
  if (!valid_device(device)) return invalid_device("aclrtSetDevice", device);
  thread_device = device;
  Process& self = process();
  std::lock_guard lock(self.mutex);
  if (self.active.size() <= static_cast<size_t>(device)) self.active.resize(device + 1);
  self.active[device] = true;
  return kSuccess;
}

ACL_API aclError aclrtGetDevice(int32_t* device) {
  if (thread_device < 0) return kRtContextNull;  // documented answer before aclrtSetDevice; callers test for it
  *device = thread_device;
  return kSuccess;
}

ACL_API aclError aclrtResetDevice(int32_t device) {
  if (!valid_device(device)) return invalid_device("aclrtResetDevice", device);
  drain_device(device);
  if (thread_device == device) thread_device = -1;
  Process& self = process();
  std::lock_guard lock(self.mutex);
  if (static_cast<size_t>(device) < self.active.size()) self.active[device] = false;
  return kSuccess;
}

ACL_API aclError aclrtGetCurrentContext(void** context) {
  if (thread_device < 0) return kRtContextNull;
  *context = &context_slots[thread_device];
  return kSuccess;
}

ACL_API aclError aclrtSetCurrentContext(void* context) {
  const auto device = static_cast<char*>(context) - context_slots;
  if (context == nullptr || !valid_device(device)) {
    return fail(kRtContextNull, "aclrtSetCurrentContext: %p is not a context", context);
  }
  thread_device = static_cast<int>(device);
  return kSuccess;
}

ACL_API aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t* flags, int32_t* active) {
  if (!valid_device(device)) return invalid_device("aclrtGetPrimaryCtxState", device);
  if (flags != nullptr) *flags = 0;
  Process& self = process();
  std::lock_guard lock(self.mutex);
  *active = static_cast<size_t>(device) < self.active.size() && self.active[device] ? 1 : 0;
  return kSuccess;
}

ACL_API const char* aclrtGetSocName() { return soc().name; }

ACL_API aclError aclGetDeviceCapability(uint32_t device, int info, int64_t* value) {
  if (!valid_device(device)) return invalid_device("aclGetDeviceCapability", device);
  switch (info) {
    case 0: *value = soc().cube_cores; return kSuccess;
    case 1: *value = soc().vector_cores; return kSuccess;
    case 2: *value = soc().l2_bytes; return kSuccess;
    default: return fail(kInvalidParam, "aclGetDeviceCapability: unknown information %d", info);
  }
}

ACL_API aclError aclrtGetDeviceInfo(uint32_t device, int attribute, int64_t* value) {
  if (!valid_device(device)) return invalid_device("aclrtGetDeviceInfo", device);
  switch (attribute) {
    case 1: *value = 6; return kSuccess;  // AI CPU cores
    case 101:
    case 102: *value = soc().cube_cores; return kSuccess;
    case 201: *value = soc().vector_cores; return kSuccess;
    case 204: *value = soc().ub_bytes; return kSuccess;
    case 301: *value = config().memory_bytes; return kSuccess;
    case 302: *value = soc().l2_bytes; return kSuccess;
    case 402: *value = config().physical[device]; return kSuccess;  // physical chip
    case 403: *value = config().physical[device]; return kSuccess;  // device in the super pod
    case 404:
    case 405: *value = 0; return kSuccess;  // server, super pod
    case 501: *value = 0; return kSuccess;  // not a virtual NPU
    default: return fail(kRtFeatureNotSupported, "aclrtGetDeviceInfo: attribute %d is not modelled", attribute);
  }
}

ACL_API aclError aclrtGetDeviceUtilizationRate(int32_t device, void* information) {
  if (!valid_device(device)) return invalid_device("aclrtGetDeviceUtilizationRate", device);
  // aclrtUtilizationInfo begins with four percentages: cube, vector, AI CPU, memory. -1: not available.
  auto* const percentages = static_cast<int32_t*>(information);
  std::fill_n(percentages, 3, -1);
  percentages[3] = static_cast<int32_t>(used_bytes(device) * 100 / static_cast<size_t>(config().memory_bytes));
  return kSuccess;
}

ACL_API aclError aclrtDeviceCanAccessPeer(int32_t* can_access, int32_t device, int32_t peer) {
  if (!valid_device(device)) return invalid_device("aclrtDeviceCanAccessPeer", device);
  if (!valid_device(peer)) return invalid_device("aclrtDeviceCanAccessPeer", peer);
  *can_access = device == peer ? 0 : 1;
  return kSuccess;
}

ACL_API aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t /*flags*/) {
  return valid_device(peer) ? kSuccess : invalid_device("aclrtDeviceEnablePeerAccess", peer);
}

ACL_API aclError aclrtDeviceGetBareTgid(int32_t* process_id) {
  *process_id = static_cast<int32_t>(getpid());
  return kSuccess;
}

ACL_API aclError aclrtDeviceGetUuid(int32_t device, char* uuid) {
  if (!valid_device(device)) return invalid_device("aclrtDeviceGetUuid", device);
  std::memset(uuid, 0, 16);
  std::snprintf(uuid, 16, "hostcann-npu-%02d", config().physical[device]);
  return kSuccess;
}

ACL_API aclError aclrtGetLogicDevIdByUserDevId(int32_t user_device, int32_t* logic_device) {
  if (!valid_device(user_device)) return invalid_device("aclrtGetLogicDevIdByUserDevId", user_device);
  *logic_device = config().physical[user_device];
  return kSuccess;
}

// A device that cannot fail has no errors to report and no uncorrectable memory.
ACL_API aclError aclrtGetMemUceInfo(int32_t device, void* /*entries*/, size_t /*capacity*/, size_t* count) {
  if (!valid_device(device)) return invalid_device("aclrtGetMemUceInfo", device);
  *count = 0;
  return kSuccess;
}

// aclrtMemUsageInfo: name[32], current and peak bytes, reserved. One entry: this process.
ACL_API aclError aclrtGetMemUsageInfo(int32_t device, void* entries, size_t capacity, size_t* count) {
  if (!valid_device(device)) return invalid_device("aclrtGetMemUsageInfo", device);
  if (capacity < 1) return fail(kRtParamInvalid, "aclrtGetMemUsageInfo: room for at least one entry is needed");
  auto* const bytes = static_cast<char*>(entries);
  std::memset(bytes, 0, 112);
  std::snprintf(bytes, 32, "hostcann");
  const uint64_t used = used_bytes(device);
  std::memcpy(bytes + 32, &used, sizeof used);
  std::memcpy(bytes + 40, &used, sizeof used);
  *count = 1;
  return kSuccess;
}

ACL_API aclError aclrtGetErrorVerbose(int32_t device, void* information) {
  if (!valid_device(device)) return invalid_device("aclrtGetErrorVerbose", device);
  std::memset(information, 0, 8);  // tryRepair, hasDetail, reserved, errorType = none
  return kSuccess;
}

ACL_API aclError aclrtDeviceTaskAbort(int32_t device, uint32_t /*timeout*/) {
  if (!valid_device(device)) return invalid_device("aclrtDeviceTaskAbort", device);
  drain_device(device);
  return kSuccess;
}

// ---------------------------------------------------------------------------------------------------------------------
// Options

ACL_API aclError aclrtSetSysParamOpt(int option, int64_t value) {
  if (option < 0 || option > 2) return fail(kRtParamInvalid, "aclrtSetSysParamOpt: unknown option %d", option);
  Process& self = process();
  std::lock_guard lock(self.mutex);
  self.options[option] = value;
  return kSuccess;
}

ACL_API aclError aclrtGetSysParamOpt(int option, int64_t* value) {
  if (option < 0 || option > 2) return fail(kRtParamInvalid, "aclrtGetSysParamOpt: unknown option %d", option);
  Process& self = process();
  std::lock_guard lock(self.mutex);
  *value = self.options[option];
  return kSuccess;
}

ACL_API aclError aclrtCtxSetSysParamOpt(int option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
ACL_API aclError aclrtCtxGetSysParamOpt(int option, int64_t* value) { return aclrtGetSysParamOpt(option, value); }

// Timeouts of device tasks: accepted, since nothing here can hang on a device.
ACL_API aclError aclrtSetOpExecuteTimeOut(uint32_t /*seconds*/) { return kSuccess; }
ACL_API aclError aclrtSetOpExecuteTimeOutV2(uint64_t microseconds, uint64_t* actual) {
  if (actual != nullptr) *actual = microseconds;
  return kSuccess;
}
ACL_API aclError aclrtSetOpWaitTimeout(uint32_t /*seconds*/) { return kSuccess; }

// 910B and newer compute with inf and nan; the saturating mode belongs to the first generation.
ACL_API aclError aclrtSetDeviceSatMode(int mode) {
  constexpr int kInfNan = 1;
  if (mode == kInfNan || soc().family == SocFamily::k310P) return kSuccess;
  return fail(kRtFeatureNotSupported, "aclrtSetDeviceSatMode: only the inf/nan mode is modelled");
}

// ---------------------------------------------------------------------------------------------------------------------
// Versions and attributes

namespace {
struct PackageVersion {  // aclCANNPackageVersion
  char version[128];
  char major[64];
  char minor[64];
  char release[64];
  char patch[64];
  char reserved[128];
};
}  // namespace

ACL_API aclError aclsysGetCANNVersion(int /*package*/, PackageVersion* version) {
  std::memset(version, 0, sizeof *version);
  const std::string& text = config().cann_version;
  const size_t first = text.find('.'), second = text.find('.', first + 1);
  std::strcpy(version->version, text.c_str());
  std::strcpy(version->major, text.substr(0, first).c_str());
  std::strcpy(version->minor, text.substr(first + 1, second - first - 1).c_str());
  std::strcpy(version->release, text.substr(second + 1).c_str());
  return kSuccess;
}

ACL_API aclError aclsysGetVersionStr(char* /*package*/, char* version) {
  std::strcpy(version, config().cann_version.c_str());
  return kSuccess;
}

// Attributes: 0 inf/nan arithmetic, 1 bfloat16, 2 just-in-time compilation as the default (off: prebuilt operators).
ACL_API aclError aclGetCannAttribute(int attribute, int32_t* value) {
  switch (attribute) {
    case 0: *value = soc().family == SocFamily::k310P ? 0 : 1; return kSuccess;
    case 1: *value = soc().bfloat16 ? 1 : 0; return kSuccess;
    case 2: *value = 0; return kSuccess;
    default: return fail(kInvalidParam, "aclGetCannAttribute: unknown attribute %d", attribute);
  }
}

ACL_API aclError aclGetCannAttributeList(const int** attributes, size_t* count) {
  static constexpr int kWithBfloat16[] = {0, 1};
  if (soc().bfloat16) {
    *attributes = kWithBfloat16;
    *count = 2;
  } else {
    *attributes = nullptr;
    *count = 0;
  }
  return kSuccess;
}
