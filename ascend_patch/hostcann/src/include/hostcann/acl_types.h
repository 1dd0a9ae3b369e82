// The part of the ACL C ABI that more than one hostcann library needs: handles, error codes, data types, formats.
// Values follow the public "AscendCL API reference" (CANN 8.5); names are our own so that nothing clashes with CANN's
// headers when a kernel author includes both.
#pragma once

#include <cstddef>
#include <cstdint>

#define HOSTCANN_API __attribute__((visibility("default")))
#define ACL_API extern "C" __attribute__((visibility("default")))

namespace hostcann {

using aclError = int;
using Stream = void*;  // aclrtStream; nullptr is the default stream of the current device
using Event = void*;   // aclrtEvent

// Error codes of aclError that hostcann returns.
enum Status : aclError {
  kSuccess = 0,
  kInvalidParam = 100000,
  kUninitialised = 100001,
  kUnsupportedDataType = 100026,
  kKernelNotFound = 100029,
  kApiNotSupported = 200001,
  kFeatureUnsupported = 200006,
  kInternalError = 500000,
  kRtParamInvalid = 107000,
  kRtInvalidDevice = 107001,
  kRtContextNull = 107002,
  kRtStreamContext = 107003,
  kRtEventTimestampInvalid = 107006,
  kRtAddressUnaligned = 107008,
  kRtFileOpen = 107009,
  kRtStreamNoCallback = 107015,
  kRtInvalidMemoryType = 107016,
  kRtInvalidHandle = 107017,
  kRtWaitTimeout = 107019,
  kRtFeatureNotSupported = 207000,
  kRtMemoryAllocation = 207001,
  kRtMemoryFree = 207002,
  kRtNoDevice = 207004,
  kRtInternalError = 507000,
  kRtKernelLookup = 507027,
  kRtVectorCoreException = 507035,
  // aclnn: the codes of the two-phase operator interface.
  kAclnnNullPointer = 161001,
  kAclnnInvalidParam = 161002,
  kAclnnRuntimeError = 361001,
  kAclnnInnerError = 561000,
};

// aclDataType.
enum DataType : int {
  kFloat = 0,
  kFloat16 = 1,
  kInt8 = 2,
  kInt32 = 3,
  kUint8 = 4,
  kInt16 = 6,
  kUint16 = 7,
  kUint32 = 8,
  kInt64 = 9,
  kUint64 = 10,
  kDouble = 11,
  kBool = 12,
  kString = 13,
  kComplex64 = 16,
  kComplex128 = 17,
  kBf16 = 27,
  kInt4 = 29,
  kComplex32 = 33,
  kHifloat8 = 34,
  kFloat8E5m2 = 35,
  kFloat8E4m3 = 36,
  kFloat8E8m0 = 37,
};

// aclFormat.
enum Format : int {
  kFormatUndefined = -1,
  kNchw = 0,
  kNhwc = 1,
  kNd = 2,
  kNc1hwc0 = 3,
  kFractalZ = 4,
  kNdhwc = 27,
  kFractalNz = 29,
  kNcdhw = 30,
  kNcl = 47,
};

}  // namespace hostcann
