// aclrtBinaryLoadFromFile, aclrtBinaryLoadFromData, aclrtBinaryGetFunction, aclrtBinaryUnLoad.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <unordered_set>

#include "kernels.h"

namespace hostcann {
namespace {

constexpr uint32_t kHostAbi = 1;
constexpr uint16_t kDeviceMachine = 0x1029;  // e_machine of AscendC device code, as in every published kernel file

#if defined(__x86_64__)
constexpr uint16_t kHostMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr uint16_t kHostMachine = EM_AARCH64;
#else
#error "hostcann runs on x86-64 and aarch64"
#endif

struct Binaries {
  std::mutex mutex;
  std::unordered_map<KernelBinary*, std::shared_ptr<KernelBinary>> loaded;
  // Never freed: a handle that was used after its binary was unloaded is refused, and traces keep the names.
  std::unordered_set<KernelFunction*> functions;
};

Binaries& binaries() {
  static Binaries* const instance = new Binaries;
  return *instance;
}

struct LoadOption {
  int type;
  uint32_t value[4];
};

// aclrtBinaryLoadOptions.
struct LoadOptions {
  const LoadOption* options;
  size_t count;
};

// What CANN accepts (aclrtBinaryLoadOptionType, aclrtBinaryLoadOptionValue). No option changes anything here.
aclError check_options(const char* api, const LoadOptions* options, bool from_file) {
  constexpr int kLazyLoad = 1;
  constexpr int kMagic = 2;
  constexpr uint32_t kMagics[] = {0x43554245, 0x41415246, 0x41494343};  // AI core, vector core, cube core
  if (options == nullptr) return kSuccess;
  if (options->options == nullptr) return fail(kRtParamInvalid, "%s: options are a null pointer", api);
  for (size_t i = 0; i < options->count; ++i) {
    const LoadOption& option = options->options[i];
    if (option.type == kLazyLoad && option.value[0] <= 1) continue;
    if (option.type == kMagic && from_file) {
      return fail(kRtParamInvalid, "%s: takes no magic number, aclrtBinaryLoadFromData does", api);
    }
    if (option.type == kMagic && std::count(std::begin(kMagics), std::end(kMagics), option.value[0]) == 1) continue;
    return fail(kRtParamInvalid, "%s: option %d with the value %#x", api, option.type, option.value[0]);
  }
  return kSuccess;
}

aclError check_image(const char* api, const char* data, size_t bytes) {
  Elf64_Ehdr header;
  if (bytes < sizeof header || std::memcmp(data, ELFMAG, SELFMAG) != 0) {
    return fail(kRtParamInvalid, "%s: %zu bytes that are no ELF file", api, bytes);
  }
  std::memcpy(&header, data, sizeof header);
  if (header.e_machine == kDeviceMachine) {
    return fail(kRtParamInvalid, "%s: device code (ELF machine 0x1029); hostcann runs host builds of kernels only", api);
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kHostMachine || header.e_type != ET_DYN) {
    return fail(kRtParamInvalid, "%s: ELF machine %u, type %u: no shared object for this CPU", api, header.e_machine,
                header.e_type);
  }
  // dlopen of a truncated file can end in SIGBUS: the section table comes last in what linkers write.
  if (header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize > bytes) {
    return fail(kRtParamInvalid, "%s: truncated: %zu bytes of %llu", api, bytes,
                static_cast<unsigned long long>(header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize));
  }
  return kSuccess;
}

// A path to an open file that no earlier load had. dlopen takes a path it knows for the library it knows, and file numbers
// come again; slashes and dots that mean nothing make the difference.
std::string fresh_path(int file) {
  static std::atomic<uint64_t> loads{0};
  std::string path = "/proc/self/fd";
  for (uint64_t count = ++loads; count != 0; count >>= 1) path += count & 1 ? "/." : "/";
  return path + "/" + std::to_string(file);
}

aclError load(const char* api, const char* data, size_t bytes, void** handle) {
  if (current_device() < 0) return fail(kRtContextNull, "%s: no device is set on this thread", api);
  if (const aclError error = check_image(api, data, bytes)) return error;
  // A file of our own: the caller may change or remove his.
  const int file = memfd_create("hostcann-kernel", MFD_CLOEXEC);
  if (file < 0) return fail(kRtMemoryAllocation, "%s: memfd_create: %s", api, std::strerror(errno));
  size_t written = 0;
  while (written < bytes) {
    const ssize_t step = write(file, data + written, bytes - written);
    if (step <= 0) break;
    written += static_cast<size_t>(step);
  }
  void* library = nullptr;
  std::string reason = "the host refuses the memory";
  if (written == bytes) {
    library = dlopen(fresh_path(file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) reason = dlerror();
  }
  close(file);
  if (library == nullptr) return fail(kRtParamInvalid, "%s: %s", api, reason.c_str());
  auto binary = std::make_shared<KernelBinary>(library);
  const auto abi = reinterpret_cast<uint32_t (*)()>(binary->symbol("ascendc_host_abi"));
  if (abi == nullptr) return fail(kRtParamInvalid, "%s: a shared object, but no host build of a kernel", api);
  if (abi() != kHostAbi) {
    return fail(kRtParamInvalid, "%s: host build with ABI %u, hostcann has %u: build it again", api, abi(), kHostAbi);
  }
  *handle = binary.get();
  Binaries& all = binaries();
  std::lock_guard lock(all.mutex);
  all.loaded.emplace(binary.get(), binary);
  return kSuccess;
}

}  // namespace

KernelBinary::~KernelBinary() { dlclose(library_); }

void* KernelBinary::symbol(const std::string& name) const { return dlsym(library_, name.c_str()); }

KernelFunction* resolve_function(const char* api, void* handle, std::shared_ptr<KernelBinary>* binary) {
  auto* const function = static_cast<KernelFunction*>(handle);
  Binaries& all = binaries();
  std::lock_guard lock(all.mutex);
  if (function == nullptr || all.functions.count(function) == 0) {
    fail(kRtInvalidHandle, "%s: %p is not a kernel function", api, handle);
    return nullptr;
  }
  *binary = function->binary.lock();
  if (!*binary) {
    fail(kRtInvalidHandle, "%s: the binary of %s is unloaded", api, function->name.c_str());
    return nullptr;
  }
  return function;
}

}  // namespace hostcann

using namespace hostcann;

ACL_API aclError aclrtBinaryLoadFromData(const void* data, size_t bytes, const LoadOptions* options, void** handle) {
  if (data == nullptr || handle == nullptr) return fail(kRtParamInvalid, "aclrtBinaryLoadFromData: null pointer");
  if (const aclError error = check_options("aclrtBinaryLoadFromData", options, false)) return error;
  return load("aclrtBinaryLoadFromData", static_cast<const char*>(data), bytes, handle);
}

ACL_API aclError aclrtBinaryLoadFromFile(const char* path, LoadOptions* options, void** handle) {
  if (path == nullptr || handle == nullptr) return fail(kRtParamInvalid, "aclrtBinaryLoadFromFile: null pointer");
  if (const aclError error = check_options("aclrtBinaryLoadFromFile", options, true)) return error;
  // "The path must be absolute" (aclrtBinaryLoadFromFile, parameter binPath).
  if (*path != '/') return fail(kRtParamInvalid, "aclrtBinaryLoadFromFile: %s is not an absolute path", path);
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(kRtFileOpen, "aclrtBinaryLoadFromFile: %s cannot be opened: %s", path, std::strerror(errno));
  const std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return load("aclrtBinaryLoadFromFile", data.data(), data.size(), handle);
}

ACL_API aclError aclrtBinaryGetFunction(void* handle, const char* name, void** function) {
  if (name == nullptr || function == nullptr) return fail(kRtParamInvalid, "aclrtBinaryGetFunction: null pointer");
  Binaries& all = binaries();
  std::lock_guard lock(all.mutex);
  const auto found = all.loaded.find(static_cast<KernelBinary*>(handle));
  if (found == all.loaded.end()) {
    return fail(kRtInvalidHandle, "aclrtBinaryGetFunction: %p is not a loaded binary", handle);
  }
  const std::shared_ptr<KernelBinary>& binary = found->second;
  KernelFunction*& known = binary->functions[name];
  if (known == nullptr) {
    const std::string entry = name;
    auto* const launch = reinterpret_cast<KernelLaunch>(binary->symbol(entry + "__ascendc_host_launch"));
    if (launch == nullptr) {
      binary->functions.erase(name);
      return fail(kRtKernelLookup, "aclrtBinaryGetFunction: the binary has no kernel %s", name);
    }
    auto* const sizes = static_cast<const uint8_t*>(binary->symbol(entry + "__ascendc_host_sizes"));
    known = new KernelFunction{entry, launch, sizes, binary};
    all.functions.insert(known);
  }
  *function = known;
  return kSuccess;
}

ACL_API aclError aclrtBinaryUnLoad(void* handle) {
  std::shared_ptr<KernelBinary> last;  // released after the lock
  Binaries& all = binaries();
  std::lock_guard lock(all.mutex);
  const auto found = all.loaded.find(static_cast<KernelBinary*>(handle));
  if (found == all.loaded.end()) {
    return fail(kRtInvalidHandle, "aclrtBinaryUnLoad: %p is not a loaded binary", handle);
  }
  last = std::move(found->second);
  all.loaded.erase(found);
  return kSuccess;
}
