// Profiling and dump hooks. torch-npu calls them around every operator; a host CANN has no profiler attached, so that
// reporting nothing is right. Starting a profiler is refused instead (unimplemented.cpp).
#include <chrono>

#include "config.h"

using namespace hostcann;

ACL_API int32_t MsprofRegisterCallback(uint32_t /*module*/, void* /*handle*/) { return 0; }
ACL_API int32_t MsprofReportApi(uint32_t /*aging*/, const void* /*api*/) { return 0; }
ACL_API int32_t MsprofReportAdditionalInfo(uint32_t /*aging*/, const void* /*data*/, uint32_t /*bytes*/) { return 0; }
ACL_API int32_t MsprofReportCompactInfo(uint32_t /*aging*/, const void* /*data*/, uint32_t /*bytes*/) { return 0; }

ACL_API uint64_t MsprofSysCycleTime() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// FNV-1a; callers only need equal names to give equal ids.
ACL_API uint64_t MsprofGetHashId(const char* text, size_t length) {
  uint64_t hash = 14695981039346656037ULL;
  for (size_t i = 0; i < length; ++i) hash = (hash ^ static_cast<unsigned char>(text[i])) * 1099511628211ULL;
  return hash;
}

ACL_API aclError aclmdlFinalizeDump() { return kSuccess; }
