#include "torch_npu_abi.h"

#include <ATen/ops/empty_strided.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/Stream.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <typeinfo>

#include "hostcann/fractal_nz.h"

namespace hostcann::aten {
namespace {

// c10_npu::NPUStream: a c10::Stream with a destructor of its own, hence returned through memory.
struct NpuStream {
  c10::Stream stream;
  ~NpuStream() {}  // NOLINT: a user-provided destructor decides how the value is returned
};

using GetCurrentStream = NpuStream (*)(c10::DeviceIndex);
using GetHandle = void* (*)(const NpuStream*, bool);
using GetGenerator = const at::Generator& (*)(c10::DeviceIndex);

template <typename Function>
Function find(const char* symbol) {
  void* const address = dlsym(RTLD_DEFAULT, symbol);
  if (address != nullptr) return reinterpret_cast<Function>(address);
  // torch_npu's library is loaded by its Python module and need not be in the global scope.
  void* const library = dlopen("libtorch_npu.so", RTLD_NOW | RTLD_NOLOAD);
  return library == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library, symbol));
}

// Options of the CUDA allocator, as torch's CUDA build registers them when libc10_cuda is loaded (2.10 to 2.14).
const char* const kCudaAllocatorOptions[] = {
    "backend",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "graph_capture_record_stream_reuse",
    "pinned_reserve_segment_size_mb",
    "pinned_num_register_threads",
    "per_process_memory_fraction",
    "pinned_free_catch_all",
    "throw_on_cudamalloc_oom",
};

}  // namespace

void release_cuda_allocator_options() {
  // Where libc10_cuda is not loaded yet, it would take the names later; where torch is a CPU build, there is none.
  if (dlopen("libc10_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) return;
  auto& options = c10::CachingAllocator::AcceleratorAllocatorConfig::getMutableKeys();
  for (const char* const name : kCudaAllocatorOptions) options.erase(name);
}

namespace {

// torch-npu's own class of storages, where it is laid out as declared; null otherwise.
const std::type_info* known_class(c10::DeviceIndex device) {
  static const std::type_info* const known = [device]() -> const std::type_info* {
    const at::Tensor probe =
        at::empty_strided({2, 3}, {3, 1}, at::TensorOptions().dtype(at::kHalf).device(c10::Device(kNpu, device)));
    const c10::StorageImpl& storage = *probe.storage().unsafeGetStorageImpl();
    const StorageDescription& found = static_cast<const NpuStorage&>(storage).description;
    const bool as_declared = found.base_sizes == c10::IntArrayRef({2, 3}) &&
                             found.base_strides == c10::IntArrayRef({3, 1}) &&
                             found.storage_sizes == c10::IntArrayRef({2, 3}) && found.format == kNd &&
                             found.dtype == caffe2::TypeMeta::Make<at::Half>();
    return as_declared ? &typeid(storage) : nullptr;
  }();
  return known;
}

}  // namespace

bool storage_layout_is_known(c10::DeviceIndex device) { return known_class(device) != nullptr; }

const StorageDescription* private_format(const at::TensorBase& tensor) {
  const c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  const std::type_info* const known = known_class(tensor.device().index());
  // Storages that torch made by itself carry no description: torch-npu takes them for ND, too.
  if (known == nullptr || typeid(storage) != *known) return nullptr;
  const StorageDescription& found = static_cast<const NpuStorage&>(storage).description;
  return is_private(found.format) ? &found : nullptr;
}

c10::intrusive_ptr<c10::StorageImpl> make_npu_storage(c10::DataPtr data, size_t bytes, c10::IntArrayRef sizes,
                                                      c10::IntArrayRef strides, caffe2::TypeMeta dtype) {
  static const c10::StorageImplCreateHelper create = c10::GetStorageImplCreate(kNpu);
  static c10::Allocator* const allocator = c10::GetAllocator(kNpu);
  const bool described = storage_layout_is_known(data.device().index());
  c10::intrusive_ptr<c10::StorageImpl> storage =
      create(c10::StorageImpl::use_byte_size_t(), bytes, std::move(data), allocator, true);
  if (described) {
    StorageDescription& description = static_cast<NpuStorage*>(storage.get())->description;
    description.base_sizes.assign(sizes.begin(), sizes.end());
    description.base_strides.assign(strides.begin(), strides.end());
    description.storage_sizes.assign(sizes.begin(), sizes.end());
    description.origin_format = 2;
    description.format = 2;
    description.dtype = dtype;
  }
  return storage;
}

const at::Generator& default_generator(c10::Device device) {
  static const auto get_generator = find<GetGenerator>("_ZN6at_npu6detail22getDefaultNPUGeneratorEa");
  TORCH_CHECK(get_generator != nullptr, "hostcann: this torch-npu does not export getDefaultNPUGenerator");
  return get_generator(device.index());
}

bool task_queue_is_on() {
  static const bool on = [] {
    const char* const value = std::getenv("TASK_QUEUE_ENABLE");
    return value == nullptr || std::strcmp(value, "0") != 0;
  }();
  return on;
}

void* current_stream(c10::DeviceIndex device) {
  static const auto get_stream = find<GetCurrentStream>("_ZN7c10_npu19getCurrentNPUStreamEa");
  static const auto get_handle = find<GetHandle>("_ZNK7c10_npu9NPUStream6streamEb");
  TORCH_CHECK(get_stream != nullptr && get_handle != nullptr,
              "hostcann: this torch-npu does not export getCurrentNPUStream; HOSTCANN_STREAMS=inorder works without");
  const NpuStream stream = get_stream(device);
  return get_handle(&stream, task_queue_is_on());
}

}  // namespace hostcann::aten
