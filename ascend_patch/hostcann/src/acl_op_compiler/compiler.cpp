// The old single-operator interface compiles operators on the fly. hostcann has the aclnn operators only, so that an
// operator that ends up here is reported by name instead of being computed in another way.
#include <cstring>
#include <map>
#include <mutex>
#include <string>

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
              "(is its aclnn function missing, or jit_compile on?)",
              operator_type);
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

ACL_API aclError aclopCompileAndExecute(const char* operator_type, ...) { return refuse(operator_type); }
ACL_API aclError aclopCompileAndExecuteV2(const char* operator_type, ...) { return refuse(operator_type); }

ACL_API aclError aclGenGraphAndDumpForOp() { return unimplemented("aclGenGraphAndDumpForOp"); }
ACL_API void* aclCreateGraphDumpOpt() { return nullptr; }
ACL_API aclError aclDestroyGraphDumpOpt() { return kSuccess; }
ACL_API aclError aclopStartDumpArgs() { return unimplemented("aclopStartDumpArgs"); }
ACL_API aclError aclopStopDumpArgs() { return unimplemented("aclopStopDumpArgs"); }
