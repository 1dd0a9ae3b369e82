// Kernels in host builds of AscendC: shared objects whose entries take the place of device code.
//
// Such a file exports, for each kernel function <entry>,
//   int <entry>__ascendc_host_launch(uint32_t blocks, const void* arguments, size_t bytes,
//                                    const KernelEnvironment*, char* message, size_t capacity);
//     runs all blocks on the calling thread; 0, or a fault with one line in `message`
//   const uint8_t <entry>__ascendc_host_sizes[];
//     size of each parameter, then 0
// and once
//   uint32_t ascendc_host_abi();
//     number of this contract
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "config.h"

namespace hostcann {

// What a running kernel may ask for. Mirrors ascendc_host_environment, the struct of the builds.
struct KernelEnvironment {
  uint32_t size;  // of this struct
  void* context;
  // The device allocation that holds `address`: 1 with its begin and size, or 0.
  int (*allocation)(void* context, const void* address, const void** begin, size_t* bytes);
  uint32_t checks;  // 0: bounds, alignment, queues; 1: races between pipes too
  void* counters;   // null: nothing is counted
  // Told of every access to device memory, or null. Builds of before end at `counters` and know nothing of it.
  void (*access)(void* context, const void* address, size_t bytes, int write);
};

using KernelLaunch = int (*)(uint32_t blocks, const void* arguments, size_t bytes, const KernelEnvironment* environment,
                             char* message, size_t capacity);

class KernelBinary;

// What aclrtFuncHandle points to.
struct KernelFunction {
  std::string name;
  KernelLaunch launch;
  const uint8_t* sizes;  // null in a build without them
  std::weak_ptr<KernelBinary> binary;
};

// A loaded file; unloaded when the last launch that uses it is done.
class KernelBinary {
 public:
  explicit KernelBinary(void* library) : library_(library) {}
  ~KernelBinary();
  KernelBinary(const KernelBinary&) = delete;
  KernelBinary& operator=(const KernelBinary&) = delete;

  void* symbol(const std::string& name) const;

  std::unordered_map<std::string, KernelFunction*> functions;

 private:
  void* library_;
};

// The function behind a handle, and the binary that keeps its code; null with a recorded error if invalid.
KernelFunction* resolve_function(const char* api, void* handle, std::shared_ptr<KernelBinary>* binary);

}  // namespace hostcann
