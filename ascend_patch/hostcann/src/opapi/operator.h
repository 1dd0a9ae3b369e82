// How an aclnn operator is written here.
//
//   1. a constraint table (OperatorTable): what CANN's documentation allows, each row with its source;
//   2. aclnnXxxGetWorkspaceSize: builds a Call from the arguments, lets the table check it, and leaves a closure that
//      computes the result in an executor;
//   3. aclnnXxx: HOSTCANN_OPERATOR_RUN(aclnnXxx), which launches the closure on the stream.
//
// A violated row ends the call with CANN's error code and a message that names operator, argument, value, what is
// allowed and the source. Tables register themselves, so that tests and documentation can walk through all of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hostcann/runtime.h"
#include "opapi/objects.h"

struct aclOpExecutor;

namespace hostcann::opapi {

// ACLNN_ERR_INNER_TILING_ERROR: arguments whose shapes do not fit each other, found while planning the kernel.
constexpr aclError kTilingError = 561002;

using DtypeSet = uint64_t;  // one bit per DataType

template <typename... Types>
constexpr DtypeSet dtypes(Types... types) {
  return ((DtypeSet{1} << types) | ... | DtypeSet{0});
}

constexpr DtypeSet kFloats = dtypes(kFloat, kFloat16, kBf16);
constexpr DtypeSet kHalfFloats = dtypes(kFloat16, kBf16);

using Families = unsigned;  // one bit per SocFamily

constexpr Families family(SocFamily f) { return 1u << static_cast<unsigned>(f); }
constexpr Families kAllFamilies = 0xf;
constexpr Families kA2A3 = family(SocFamily::k910B) | family(SocFamily::k910_93);
constexpr Families kA2A3A5 = kA2A3 | family(SocFamily::k950);

// kUnsupported: CANN knows the argument, this emulation does not; passing it is refused.
enum class Presence { kRequired, kOptional, kUnsupported };

// kPlain: what sizes and strides say; kFractalNz: tiles; kAny: rules decide.
enum class Layout { kPlain, kFractalNz, kAny };

// One tensor argument. bfloat16 is dropped from `allowed` on SoCs that cannot compute in it.
struct TensorRow {
  const char* name;
  DtypeSet allowed;
  int min_dims;
  int max_dims;
  bool must_be_contiguous = false;
  Presence presence = Presence::kRequired;
  Layout layout = Layout::kPlain;
};

// The row of a weight in FRACTAL_NZ.
constexpr TensorRow fractal_nz(const char* name, DtypeSet allowed, int dims) {
  return {name, allowed, dims, dims, false, Presence::kRequired, Layout::kFractalNz};
}

// The row of an argument that must not be passed.
constexpr TensorRow unsupported(const char* name) { return {name, 0, 0, 8, false, Presence::kUnsupported}; }

class Call;

// Any other condition: on one argument's value, or between arguments.
struct Rule {
  const char* argument;
  const char* allowed;                 // completes "... allowed: "
  const char* section;                 // where the source says so
  bool (*holds)(const Call&);
  aclError code = kAclnnInvalidParam;
  Families families = kAllFamilies;    // the rule binds these SoCs
};

struct OperatorTable {
  OperatorTable(const char* name, const char* source, Families families, std::vector<TensorRow> tensors,
                std::vector<Rule> rules);

  const char* name;    // of the aclnn function
  const char* source;  // the document the table was written from
  Families families;   // SoCs that have the operator
  std::vector<TensorRow> tensors;
  std::vector<Rule> rules;
};

// One invocation of an operator: its named arguments, their check against the table, and the executor.
class Call {
 public:
  explicit Call(const OperatorTable& table) : table_(table) { arguments_.reserve(48); }

  Call& input(const char* name, const aclTensor* tensor) { return add(name, tensor, false); }
  Call& output(const char* name, const aclTensor* tensor) { return add(name, tensor, true); }
  // A list that must hold exactly one tensor, as torch-npu passes key and value of attention operators.
  Call& single(const char* name, const aclTensorList* list, bool output = false);
  // The same where the argument is optional and torch-npu passes an empty list for none.
  Call& at_most_single(const char* name, const aclTensorList* list);
  Call& array(const char* name, const aclIntArray* values);
  Call& integer(const char* name, int64_t value);
  Call& real(const char* name, double value);
  Call& text(const char* name, const char* value);  // nullptr counts as ""

  // kSuccess, or the error code after recording the message.
  aclError check();

  // The argument; nullptr where none was passed.
  const aclTensor* tensor(const char* name) const;
  const std::vector<int64_t>* array(const char* name) const;
  int64_t integer(const char* name) const;
  double real(const char* name) const;
  const std::string& text(const char* name) const;
  bool has(const char* name) const;
  // Size of dimension `dim` of tensor `name`; negative counts from the end.
  int64_t size(const char* name, int dim) const;
  int64_t dims(const char* name) const;
  bool same_shape(const char* a, const char* b) const;
  bool same_dtype(const char* a, const char* b) const;

  // Hands `compute` to the caller as an executor; no workspace is ever needed.
  aclError finish(uint64_t* workspace_size, aclOpExecutor** executor, std::function<void()> compute) const;

 private:
  enum class Kind { kTensor, kArray, kInteger, kReal, kText };
  struct Argument {
    const char* name;
    Kind kind;
    bool output = false;
    bool present = true;
    const aclTensor* tensor = nullptr;
    const std::vector<int64_t>* values = nullptr;
    int64_t integer = 0;
    double real = 0.0;
    std::string text{};
  };

  Call& add(const char* name, const aclTensor* tensor, bool output);
  const Argument& find(const char* name) const;
  aclError check_tensor(const TensorRow& row) const;
  aclError violated(const char* argument, aclError code, const std::string& allowed, const char* section) const;
  static std::string value_of(const Argument& argument);

  const OperatorTable& table_;
  std::vector<Argument> arguments_;
  const char* wrong_list_ = nullptr;
};

// Second phase of every operator.
aclError run(aclOpExecutor* executor, Stream stream);

// All tables as JSON, in the order of registration.
const std::string& tables_as_json();

}  // namespace hostcann::opapi

#define HOSTCANN_OPERATOR_RUN(name)                                                                             \
  ACL_API ::hostcann::aclError name(void*, uint64_t, aclOpExecutor* executor, ::hostcann::Stream stream) {      \
    return ::hostcann::opapi::run(executor, stream);                                                            \
  }
