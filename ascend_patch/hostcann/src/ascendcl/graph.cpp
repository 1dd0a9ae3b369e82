// Graph capture. Capturing is not implemented (unimplemented.cpp), so that no stream is ever in capture.
#include "stream.h"

using namespace hostcann;

ACL_API aclError aclmdlRICaptureGetInfo(Stream stream, int* status, void** model) {
  constexpr int kNotCapturing = 0;
  if (resolve_stream("aclmdlRICaptureGetInfo", stream) == nullptr) return kRtParamInvalid;
  if (status != nullptr) *status = kNotCapturing;
  if (model != nullptr) *model = nullptr;
  return kSuccess;
}
