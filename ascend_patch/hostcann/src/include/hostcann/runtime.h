// What libascendcl offers to the other hostcann libraries (libopapi, libhccl, the aten fallback).
// Plain C++ functions exported by libascendcl.so; all of them are thread-safe.
#pragma once

#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "hostcann/acl_types.h"

namespace hostcann {

// ---------------------------------------------------------------------------------------------------------------------
// Modelled hardware

// The hardware generations whose constraints differ. Operators decide by family, never by the model's name.
enum class SocFamily {
  k910B,    // Atlas A2 training / 800I A2 inference
  k910_93,  // Atlas A3
  k310P,    // Atlas inference products
  k950,     // Atlas A5
};

// One SoC model, selected with HOSTCANN_SOC (default Ascend910B3).
struct SocModel {
  const char* name;          // what aclrtGetSocName reports
  SocFamily family;
  int cube_cores;            // AI cores (cube)
  int vector_cores;
  int64_t l2_bytes;
  int64_t ub_bytes;          // unified buffer per vector core
  bool bfloat16;             // the family computes in bfloat16 (310P does not)
};

// The SoC model of this process; fixed at first use. An unknown HOSTCANN_SOC ends with an error in aclInit.
HOSTCANN_API const SocModel& soc();

// Number of devices visible to this process (HOSTCANN_DEVICES filtered by ASCEND_RT_VISIBLE_DEVICES).
HOSTCANN_API int device_count();

// Device of the calling thread (aclrtSetDevice), -1 if the thread has none yet.
HOSTCANN_API int current_device();

// ---------------------------------------------------------------------------------------------------------------------
// Errors

// Records a message for aclGetRecentErrMsg (per thread, printf-style) and returns `code`, so that
// `return hostcann::fail(kAclnnInvalidParam, "...")` is one line. torch-npu appends the message to its exception.
HOSTCANN_API aclError fail(aclError code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Takes the message that aclGetRecentErrMsg would return ("" if there is none), for code that throws instead.
HOSTCANN_API const char* last_message();

// For an ABI function that exists but is not implemented: records "<function> is not implemented in hostcann" and
// returns kFeatureUnsupported.
HOSTCANN_API aclError unimplemented(const char* function);

// ---------------------------------------------------------------------------------------------------------------------
// Memory

enum class Location {
  kUnknown,  // not ours: pageable host memory or garbage
  kHost,     // pinned (aclrtMallocHost) or registered host memory
  kDevice,   // aclrtMalloc or mapped with aclrtMapMem
};

// An allocation that contains an address.
struct MemoryRange {
  const void* base = nullptr;
  size_t bytes = 0;
  Location location = Location::kUnknown;
  int device = -1;  // for kDevice; -1 otherwise
};

// Finds the allocation that contains `address`; location kUnknown if there is none.
HOSTCANN_API MemoryRange find_range(const void* address);

// True if [address, address + bytes) lies inside one device allocation of `device` (any device when -1).
// bytes == 0 is always true. Use it to refuse pointers that are not device memory.
HOSTCANN_API bool is_device_memory(const void* address, size_t bytes, int device = -1);

// Allocates from the device's budget like aclrtMalloc (512-byte aligned); nullptr when the device is full.
HOSTCANN_API void* allocate_device(int device, size_t bytes);

// Gives back what allocate_device or aclrtMalloc returned.
HOSTCANN_API void free_device(void* address);

// ---------------------------------------------------------------------------------------------------------------------
// Launching

// One contiguous range of memory that an operation touches; strided tensors give the span first..last element.
struct Access {
  const void* address;
  size_t bytes;
  bool write;
};

// What `work` below throws when the device itself fails: its code is returned instead of kInternalError.
struct DeviceError : std::runtime_error {
  DeviceError(aclError code, const std::string& message) : std::runtime_error(message), code(code) {}
  aclError code;
};

// Runs `work` on `stream` in stream order. `name` is the operator's name for traces and error messages and must
// live as long as the process (a literal).
//   inorder     runs now, on the calling thread
//   check       runs now, after checking `accesses` for missing synchronisation with other streams
//   concurrent  runs later on the stream's thread
// Behind a collective that is still under way (launch_deferred) the first two wait for it before they run.
// The closure must own everything it needs (at::Tensor handles made with from_blob over device memory, scalars) and
// must be able to run again: graph replay runs recorded launches several times.
// An exception inside `work` becomes the return code kInternalError with its text as the recent error message; on a
// concurrent stream it surfaces at the next synchronisation.
// In null mode (compute_enabled() == false) the closure is not run at all; the writing accesses keep their contents.
HOSTCANN_API aclError launch(Stream stream, const char* name, std::function<void()> work,
                             const std::vector<Access>& accesses = {});

// Launches that must happen even in null mode (copies, memset, filling index outputs with zeros).
HOSTCANN_API aclError launch_always(Stream stream, const char* name, std::function<void()> work,
                                    const std::vector<Access>& accesses = {});

// Launches that never block the caller, in any mode: a collective waits for other processes, so that it runs on the
// stream's thread. An exception inside `work` surfaces at the next synchronisation, and at that of every stream that
// waits for an event recorded behind it.
HOSTCANN_API aclError launch_deferred(Stream stream, const char* name, std::function<void()> work,
                                      const std::vector<Access>& accesses = {});

// The host itself touches memory, in a blocking copy: checks the order in check mode, does nothing otherwise.
HOSTCANN_API aclError host_access(const char* name, const std::vector<Access>& accesses);

// Waits for everything submitted to `stream` (a host synchronisation; counted in the trace).
HOSTCANN_API aclError synchronize(Stream stream);

// The default stream of a device (what nullptr stands for).
HOSTCANN_API Stream default_stream(int device);

// Whether anything is pending on any stream, or failed there and was not reported yet; one atomic load. Code that works
// on the calling thread must settle its stream first.
HOSTCANN_API bool work_is_pending();

// Waits until nothing is pending on the stream and returns the error of what failed there. Not a host synchronisation:
// neither counted in the trace nor an edge for the check mode.
HOSTCANN_API aclError settle(Stream stream);

// Accesses are checked (check mode): filling in the access list pays off only then.
HOSTCANN_API bool accesses_are_checked();

// False with HOSTCANN_COMPUTE=null: operators give shapes but do no arithmetic.
HOSTCANN_API bool compute_enabled();

// ---------------------------------------------------------------------------------------------------------------------
// Trace

enum class TraceKind {
  kAclnn,     // an aclnn operator, counted by launch()
  kAten,      // an operator of the aten fallback
  kCopy,      // memcpy by kind: "host_to_device", ...
  kSync,      // host synchronisation, by the function that blocked
  kHccl,      // a collective
};

// True while a trace is being recorded; test it before building anything for trace_count.
HOSTCANN_API bool trace_enabled();

// Counts one event. `name` need not outlive the call. launch() counts kAclnn itself: operators need not.
HOSTCANN_API void trace_count(TraceKind kind, const char* name, size_t bytes = 0);

}  // namespace hostcann
