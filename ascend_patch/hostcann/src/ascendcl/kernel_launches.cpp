// aclrtLaunchKernel and its variants: the blocks of a host build run on the stream like any other operation.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "stream.h"

namespace hostcann {
namespace {

constexpr uint32_t kMaxBlocks = 65535;  // "value range [1, 65535]" (aclrtLaunchKernel, parameter blockDim)

int allocation_of(void* /*context*/, const void* address, const void** begin, size_t* bytes) {
  const MemoryRange range = find_range(address);
  if (range.location != Location::kDevice) return 0;
  *begin = range.base;
  *bytes = range.bytes;
  return 1;
}

const KernelEnvironment& environment() {
  static const KernelEnvironment shared = [] {
    const char* const races = std::getenv("HOSTCANN_KERNEL_RACES");
    const bool wanted = accesses_are_checked() || (races != nullptr && std::strcmp(races, "1") == 0);
    return KernelEnvironment{sizeof(KernelEnvironment), nullptr, allocation_of, wanted ? 1U : 0U, nullptr, nullptr};
  }();
  return shared;
}

void remember_access(void* context, const void* address, size_t bytes, int write) {
  auto& seen = *static_cast<std::vector<Access>*>(context);
  if (!seen.empty()) {  // tile by tile, most follow the one before
    Access& last = seen.back();
    if (last.write == (write != 0) && static_cast<const char*>(last.address) + last.bytes == address) {
      last.bytes += bytes;
      return;
    }
  }
  seen.push_back({address, bytes, write != 0});
}

// Each byte once for reading and once for writing: cores share their tables, and many accesses lie side by side.
std::vector<Access> merged(std::vector<Access> accesses) {
  std::sort(accesses.begin(), accesses.end(), [](const Access& a, const Access& b) {
    return a.write != b.write ? a.write < b.write : a.address < b.address;
  });
  std::vector<Access> result;
  for (const Access& access : accesses) {
    const char* const begin = static_cast<const char*>(access.address);
    if (!result.empty() && result.back().write == access.write) {
      Access& last = result.back();
      const char* const first = static_cast<const char*>(last.address);
      if (begin <= first + last.bytes) {
        last.bytes = std::max(last.bytes, static_cast<size_t>(begin - first) + access.bytes);
        continue;
      }
    }
    result.push_back(access);
  }
  return result;
}

// aclrtLaunchKernelCfg: attributes and their number.
struct LaunchAttribute {
  int id;
  uint32_t value[4];
};

struct LaunchConfig {
  LaunchAttribute* attributes;
  size_t count;
};

aclError check_config(const char* api, const LaunchConfig* config) {
  constexpr int kScheduleMode = 1;  // whether all blocks start together: SyncAll works here either way
  constexpr int kEngineType = 3;
  constexpr int kTimeout = 7;
  for (size_t i = 0; config != nullptr && i < config->count; ++i) {
    const int id = config->attributes[i].id;
    if (id != kScheduleMode && id != kEngineType && id != kTimeout) {
      return fail(kRtFeatureNotSupported, "%s: launch attribute %d is not modelled", api, id);
    }
  }
  return kSuccess;
}

// `arguments` gives the flat argument buffer when the stream gets there.
template <typename Arguments>
aclError launch_blocks(const char* api, void* handle, uint32_t blocks, Stream stream, Arguments arguments) {
  std::shared_ptr<KernelBinary> binary;
  KernelFunction* const function = resolve_function(api, handle, &binary);
  if (function == nullptr) return kRtInvalidHandle;
  if (blocks == 0 || blocks > kMaxBlocks) {
    return fail(kRtParamInvalid, "%s: %s on %u blocks; allowed are 1 to %u", api, function->name.c_str(), blocks,
                kMaxBlocks);
  }
  const auto accesses = std::make_shared<std::vector<Access>>();
  const auto run = [function, binary = std::move(binary), blocks, arguments = std::move(arguments), accesses] {
    const std::vector<unsigned char>& buffer = arguments();
    char message[1024] = "";
    KernelEnvironment seen = environment();
    if (accesses_are_checked()) {
      seen.context = accesses.get();
      seen.access = remember_access;
    }
    const int fault = function->launch(blocks, buffer.data(), buffer.size(), &seen, message, sizeof message);
    if (fault != 0) throw DeviceError(kRtVectorCoreException, std::string("vector core exception: ") + message);
  };
  const aclError error = launch(stream, function->name.c_str(), run);
  if (error != kSuccess || accesses->empty()) return error;
  // What a kernel touches is known once it has run, which in the check mode it has by now.
  return check_accesses(resolve_stream(api, stream), function->name.c_str(), merged(*accesses));
}

std::vector<unsigned char> copied(const void* data, size_t bytes) {
  const auto* const first = static_cast<const unsigned char*>(data);
  return {first, first + bytes};
}

}  // namespace
}  // namespace hostcann

using namespace hostcann;

ACL_API aclError aclrtLaunchKernelWithHostArgs(void* function, uint32_t blocks, Stream stream, LaunchConfig* config,
                                               void* arguments, size_t bytes, void* /*placeholders*/,
                                               size_t placeholder_count) {
  constexpr const char* kApi = "aclrtLaunchKernelWithHostArgs";
  if (const aclError error = check_config(kApi, config)) return error;
  if (arguments == nullptr && bytes != 0) return fail(kRtParamInvalid, "%s: null pointer", kApi);
  if (placeholder_count != 0) return fail(kRtFeatureNotSupported, "%s: placeholders are not modelled", kApi);
  return launch_blocks(kApi, function, blocks, stream,
                       [buffer = copied(arguments, bytes)]() -> const std::vector<unsigned char>& { return buffer; });
}

ACL_API aclError aclrtLaunchKernelWithArgsArray(void* function, uint32_t blocks, Stream stream, LaunchConfig* config,
                                                void** arguments) {
  constexpr const char* kApi = "aclrtLaunchKernelWithArgsArray";
  if (const aclError error = check_config(kApi, config)) return error;
  std::shared_ptr<KernelBinary> binary;
  const KernelFunction* const known = resolve_function(kApi, function, &binary);
  if (known == nullptr) return kRtInvalidHandle;
  if (known->sizes == nullptr) {
    return fail(kRtFeatureNotSupported, "%s: the build of %s does not say how large its parameters are", kApi,
                known->name.c_str());
  }
  std::vector<unsigned char> buffer;
  for (size_t i = 0; known->sizes[i] != 0; ++i) {
    const size_t bytes = known->sizes[i];
    if (arguments == nullptr || arguments[i] == nullptr) return fail(kRtParamInvalid, "%s: null pointer", kApi);
    const size_t begin = (buffer.size() + bytes - 1) / bytes * bytes;
    buffer.resize(begin + bytes);
    std::memcpy(buffer.data() + begin, arguments[i], bytes);
  }
  return launch_blocks(kApi, function, blocks, stream,
                       [buffer = std::move(buffer)]() -> const std::vector<unsigned char>& { return buffer; });
}

ACL_API aclError aclrtLaunchKernelV2(void* function, uint32_t blocks, const void* arguments, size_t bytes,
                                     LaunchConfig* config, Stream stream) {
  constexpr const char* kApi = "aclrtLaunchKernel";
  if (const aclError error = check_config(kApi, config)) return error;
  // "Address of the device memory that holds all arguments" (aclrtLaunchKernel, parameter argsData).
  if (!is_device_memory(arguments, bytes)) {
    return fail(kRtParamInvalid, "%s: the arguments at %p are not in device memory", kApi, arguments);
  }
  return launch_blocks(kApi, function, blocks, stream, [arguments, bytes] { return copied(arguments, bytes); });
}

ACL_API aclError aclrtLaunchKernel(void* function, uint32_t blocks, const void* arguments, size_t bytes,
                                   Stream stream) {
  return aclrtLaunchKernelV2(function, blocks, arguments, bytes, nullptr, stream);
}
