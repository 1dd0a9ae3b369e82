// The old single-operator interface compiles operators on the fly. hostcann has the aclnn operators only, so that an
// operator that ends up here is reported by name instead of being computed in another way. The exception is Identity
// between formats, which is how torch-npu casts to FRACTAL_NZ and back on 310P, and on every SoC below CANN 9.1.0.
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "hostcann/descriptors.h"
#include "hostcann/fractal_nz.h"
#include "hostcann/runtime.h"

using namespace hostcann;

namespace {

constexpr int kJitCompile = 10;  // ACL_OP_JIT_COMPILE

struct Options {
  std::mutex mutex;
  // Prebuilt operators are the default on 910B and newer: this is what makes torch-npu take its aclnn path.
  std::map<int, std::string> values = {{kJitCompile, "disable"}};
};

Options& options() {
  static Options* const instance = new Options;
  return *instance;
}

aclError refuse(const char* operator_type) {
  return fail(kFeatureUnsupported,
              "operator %s was sent to the aclop compiler, hostcann implements aclnn operators only "
              "(is its aclnn function missing, jit_compile on, or one of its tensors in a private format?)",
              operator_type);
}

// Whether a buffer has the bytes that dimensions like these take, which are all known.
bool holds(const aclDataBuffer& buffer, const std::vector<int64_t>& dims, int64_t element_bytes) {
  size_t needed = static_cast<size_t>(element_bytes);
  for (const int64_t size : dims) {
    if (size < 0) return false;
    needed *= static_cast<size_t>(size);
  }
  return buffer.bytes >= needed;
}

// A copy: between ND and FRACTAL_NZ, or, where private formats are not allowed, without any change.
aclError cast_format(const aclTensorDesc& from, const aclDataBuffer& source, const aclTensorDesc& to,
                     const aclDataBuffer& target, Stream stream) {
  for (const aclDataBuffer* buffer : {&source, &target}) {
    if (buffer->data == nullptr || !is_device_memory(buffer->data, buffer->bytes)) {
      return fail(kAclnnRuntimeError, "Identity: %zu bytes at %p, which are not all memory of the device", buffer->bytes,
                  buffer->data);
    }
  }
  if (from.dims != to.dims) {
    return fail(kAclnnInvalidParam, "Identity: input and output have different shapes");
  }
  const std::vector<Access> accesses = {{source.data, source.bytes, false}, {target.data, target.bytes, true}};
  const bool plain = !is_private(from.storage_format) && !is_private(to.storage_format);
  if (plain && from.data_type == to.data_type && from.storage_dims == to.storage_dims && source.bytes == target.bytes) {
    if (!holds(source, from.storage_dims, 1)) {
      return fail(kAclnnInvalidParam, "Identity: buffers of %zu bytes are too small for their shape", source.bytes);
    }
    auto copy = [read = source.data, written = target.data, bytes = source.bytes] { std::memmove(written, read, bytes); };
    return launch(stream, "Identity", copy, accesses);
  }
  const bool into = to.storage_format == kFractalNz;
  const aclTensorDesc& tiled = into ? to : from;
  const aclTensorDesc& plain_side = into ? from : to;
  if (tiled.storage_format != kFractalNz || is_private(plain_side.storage_format)) {
    return fail(kFeatureUnsupported, "Identity from format %d to %d: hostcann has FRACTAL_NZ (29) and no other private format",
                from.storage_format, to.storage_format);
  }
  if (from.data_type != to.data_type || !has_fractal_nz(from.data_type)) {
    return fail(kFeatureUnsupported,
                "Identity between ND and FRACTAL_NZ of data type %d: hostcann keeps float16, bfloat16 and int8 in FRACTAL_NZ",
                from.data_type);
  }
  if (from.data_type == kBf16 && !soc().bfloat16) {
    return fail(kAclnnInvalidParam, "Identity: %s does not compute in bfloat16", soc().name);
  }
  const int64_t bytes = from.data_type == kInt8 ? 1 : 2;
  const std::vector<int64_t> shape = plain_side.dims;
  if (shape.size() < 2 || tiled.storage_dims != fractal_nz_shape(shape, bytes) || plain_side.storage_dims != shape) {
    return fail(kAclnnInvalidParam, "Identity between ND and FRACTAL_NZ: the memory does not have the shape that these "
                "matrices need in ND and in FRACTAL_NZ");
  }
  if (!holds(source, from.storage_dims, bytes) || !holds(target, to.storage_dims, bytes)) {
    return fail(kAclnnInvalidParam, "Identity between ND and FRACTAL_NZ: buffers of %zu and %zu bytes, of which one is too "
                "small for the shape of its memory", source.bytes, target.bytes);
  }
  auto work = [into, shape, bytes, read = source.data, written = target.data] {
    if (into) {
      to_fractal_nz(read, written, shape, bytes);
    } else {
      from_fractal_nz(read, written, shape, bytes);
    }
  };
  return launch(stream, "Identity", work, accesses);
}

aclError execute(const char* operator_type, int inputs, const aclTensorDesc* const* input_descriptors,
                 const aclDataBuffer* const* input_buffers, int outputs, const aclTensorDesc* const* output_descriptors,
                 const aclDataBuffer* const* output_buffers, Stream stream) {
  if (std::strcmp(operator_type, "Identity") != 0 || inputs != 1 || outputs != 1) return refuse(operator_type);
  return cast_format(*input_descriptors[0], *input_buffers[0], *output_descriptors[0], *output_buffers[0], stream);
}

}  // namespace

ACL_API aclError aclSetCompileopt(int option, const char* value) {
  std::lock_guard lock(options().mutex);
  options().values[option] = value;
  return kSuccess;
}

ACL_API size_t aclGetCompileoptSize(int option) {
  std::lock_guard lock(options().mutex);
  return options().values[option].size() + 1;
}

ACL_API aclError aclGetCompileopt(int option, char* value, size_t capacity) {
  std::lock_guard lock(options().mutex);
  const std::string& text = options().values[option];
  if (text.size() + 1 > capacity) return fail(kInvalidParam, "aclGetCompileopt: %zu bytes are too few", capacity);
  std::memcpy(value, text.c_str(), text.size() + 1);
  return kSuccess;
}

ACL_API aclError aclopCompileAndExecute(const char* operator_type, int inputs,
                                        const aclTensorDesc* const* input_descriptors,
                                        const aclDataBuffer* const* input_buffers, int outputs,
                                        const aclTensorDesc* const* output_descriptors,
                                        aclDataBuffer* const* output_buffers, const void*, int, int, const char*,
                                        Stream stream) {
  return execute(operator_type, inputs, input_descriptors, input_buffers, outputs, output_descriptors, output_buffers,
                 stream);
}

ACL_API aclError aclopCompileAndExecuteV2(const char* operator_type, int inputs, aclTensorDesc** input_descriptors,
                                          aclDataBuffer** input_buffers, int outputs,
                                          aclTensorDesc** output_descriptors, aclDataBuffer** output_buffers, void*, int,
                                          int, const char*, Stream stream) {
  return execute(operator_type, inputs, input_descriptors, input_buffers, outputs, output_descriptors, output_buffers,
                 stream);
}

ACL_API aclError aclGenGraphAndDumpForOp() { return unimplemented("aclGenGraphAndDumpForOp"); }
ACL_API void* aclCreateGraphDumpOpt() { return nullptr; }
ACL_API aclError aclDestroyGraphDumpOpt() { return kSuccess; }
ACL_API aclError aclopStartDumpArgs() { return unimplemented("aclopStartDumpArgs"); }
ACL_API aclError aclopStopDumpArgs() { return unimplemented("aclopStopDumpArgs"); }
