#include "opapi/operator.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <cstdio>
#include <cstring>
#include <exception>

#include "hostcann/fractal_nz.h"
#include "opapi/tensors.h"

// What the first phase leaves for the second.
struct aclOpExecutor {
  const char* name;
  std::function<void()> compute;
  std::vector<hostcann::Access> accesses;
  bool repeatable = false;
};

namespace hostcann::opapi {
namespace {

std::vector<const OperatorTable*>& registry() {
  static std::vector<const OperatorTable*> tables;
  return tables;
}

std::string names_of(DtypeSet set) {
  std::string text;
  for (int bit = 0; bit < 64; ++bit) {
    if (!(set >> bit & 1)) continue;
    if (!text.empty()) text += ", ";
    text += dtype_name(static_cast<DataType>(bit));
  }
  return text;
}

std::string dims_text(const TensorRow& row) {
  if (row.min_dims == row.max_dims) return std::to_string(row.min_dims) + " dimensions";
  return std::to_string(row.min_dims) + " to " + std::to_string(row.max_dims) + " dimensions";
}

DtypeSet allowed_here(const TensorRow& row) { return soc().bfloat16 ? row.allowed : row.allowed & ~dtypes(kBf16); }

const char* family_name(SocFamily f) {
  switch (f) {
    case SocFamily::k910B: return "910B";
    case SocFamily::k910_93: return "910_93";
    case SocFamily::k310P: return "310P";
    case SocFamily::k950: return "950";
  }
  return "?";
}

std::string families_text(Families families) {
  std::string text;
  for (unsigned bit = 0; bit < 4; ++bit) {
    if (!(families >> bit & 1)) continue;
    if (!text.empty()) text += ", ";
    text += family_name(static_cast<SocFamily>(bit));
  }
  return text;
}

const char* presence_name(Presence presence) {
  switch (presence) {
    case Presence::kRequired: return "required";
    case Presence::kOptional: return "optional";
    case Presence::kUnsupported: return "unsupported";
  }
  return "?";
}

const char* layout_name(Layout layout) {
  switch (layout) {
    case Layout::kPlain: return "ND";
    case Layout::kFractalNz: return "FRACTAL_NZ";
    case Layout::kAny: return "any";
  }
  return "?";
}

}  // namespace

OperatorTable::OperatorTable(const char* name_, const char* source_, Families families_,
                             std::vector<TensorRow> tensors_, std::vector<Rule> rules_)
    : name(name_), source(source_), families(families_), tensors(std::move(tensors_)), rules(std::move(rules_)) {
  registry().push_back(this);
}

Call& Call::add(const char* name, const aclTensor* tensor, bool output) {
  Argument argument{name, Kind::kTensor};
  argument.tensor = tensor;
  argument.output = output;
  argument.present = tensor != nullptr;
  arguments_.push_back(std::move(argument));
  return *this;
}

Call& Call::single(const char* name, const aclTensorList* list, bool output) {
  if (list != nullptr && list->values.size() != 1) wrong_list_ = name;
  return add(name, list == nullptr || list->values.empty() ? nullptr : list->values[0], output);
}

Call& Call::at_most_single(const char* name, const aclTensorList* list) {
  return single(name, list != nullptr && list->values.empty() ? nullptr : list);
}

Call& Call::array(const char* name, const aclIntArray* values) {
  Argument argument{name, Kind::kArray};
  argument.values = values ? &values->values : nullptr;
  argument.present = values != nullptr;
  arguments_.push_back(std::move(argument));
  return *this;
}

Call& Call::integer(const char* name, int64_t value) {
  Argument argument{name, Kind::kInteger};
  argument.integer = value;
  arguments_.push_back(std::move(argument));
  return *this;
}

Call& Call::real(const char* name, double value) {
  Argument argument{name, Kind::kReal};
  argument.real = value;
  arguments_.push_back(std::move(argument));
  return *this;
}

Call& Call::text(const char* name, const char* value) {
  Argument argument{name, Kind::kText};
  argument.present = value != nullptr;
  if (value != nullptr) argument.text = value;
  arguments_.push_back(std::move(argument));
  return *this;
}

const Call::Argument& Call::find(const char* name) const {
  for (const Argument& argument : arguments_) {
    if (argument.name == name || std::strcmp(argument.name, name) == 0) return argument;
  }
  std::fprintf(stderr, "hostcann: %s has no argument called %s\n", table_.name, name);
  std::terminate();  // a table and its operator disagree: nothing sensible can follow
}

const aclTensor* Call::tensor(const char* name) const { return find(name).tensor; }
const std::vector<int64_t>* Call::array(const char* name) const { return find(name).values; }
int64_t Call::integer(const char* name) const { return find(name).integer; }
double Call::real(const char* name) const { return find(name).real; }
const std::string& Call::text(const char* name) const { return find(name).text; }
bool Call::has(const char* name) const { return find(name).present; }
int64_t Call::dims(const char* name) const { return static_cast<int64_t>(tensor(name)->shape.size()); }

int64_t Call::size(const char* name, int dim) const {
  const auto& shape = tensor(name)->shape;
  const size_t index = dim < 0 ? shape.size() + dim : static_cast<size_t>(dim);
  return index < shape.size() ? shape[index] : 0;
}

bool Call::same_shape(const char* a, const char* b) const { return tensor(a)->shape == tensor(b)->shape; }
bool Call::same_dtype(const char* a, const char* b) const { return tensor(a)->dtype == tensor(b)->dtype; }

std::string Call::value_of(const Argument& argument) {
  switch (argument.kind) {
    case Kind::kTensor: return argument.tensor ? describe(*argument.tensor) : "not given";
    case Kind::kArray: return argument.values ? describe(*argument.values) : "not given";
    case Kind::kInteger: return std::to_string(argument.integer);
    case Kind::kReal: return std::to_string(argument.real);
    case Kind::kText: return "\"" + argument.text + "\"";
  }
  return "?";
}

aclError Call::violated(const char* argument, aclError code, const std::string& allowed, const char* section) const {
  return fail(code, "%s: %s is %s; allowed: %s (source: %s, %s)", table_.name, argument,
              value_of(find(argument)).c_str(), allowed.c_str(), table_.source, section);
}

aclError Call::check_tensor(const TensorRow& row) const {
  const Argument& argument = find(row.name);
  if (argument.tensor == nullptr) {
    if (row.presence != Presence::kRequired) return kSuccess;
    return violated(row.name, kAclnnNullPointer, "a tensor, it is required", "return codes");
  }
  if (row.presence == Presence::kUnsupported) {
    return fail(kAclnnInvalidParam, "%s: %s is given; hostcann does not emulate this argument of the operator",
                table_.name, row.name);
  }
  const aclTensor& tensor = *argument.tensor;
  const DtypeSet allowed = allowed_here(row);
  if (tensor.dtype < 0 || tensor.dtype > 63 || !(allowed >> tensor.dtype & 1)) {
    return violated(row.name, kAclnnInvalidParam, names_of(allowed) + " on " + soc().name, "parameters, data type");
  }
  const int count = static_cast<int>(tensor.shape.size());
  if (count < row.min_dims || count > row.max_dims) {
    return violated(row.name, kAclnnInvalidParam, dims_text(row), "parameters, dimensions");
  }
  if (row.layout == Layout::kPlain && is_private(tensor.format)) {
    return violated(row.name, kAclnnInvalidParam, "format ND", "parameters, data format");
  }
  if (row.layout == Layout::kFractalNz && !is_fractal_nz(tensor)) {
    return violated(row.name, kAclnnInvalidParam,
                    "whole matrices in format FRACTAL_NZ, as they are or transposed, memory [.., ceil(columns / C0), "
                    "ceil(rows / 16), 16, C0] with C0 of 32 bytes", "parameters, data format");
  }
  if (row.must_be_contiguous && !is_contiguous(tensor)) {
    return violated(row.name, kAclnnInvalidParam, "a contiguous tensor", "parameters, non-contiguous tensors");
  }
  const size_t bytes = span_bytes(tensor);
  if (bytes != 0 && !is_device_memory(first_element(tensor), bytes)) {
    return fail(kAclnnRuntimeError, "%s: %s is %s outside device memory; move it to the NPU first", table_.name,
                row.name, describe(tensor).c_str());
  }
  return kSuccess;
}

aclError Call::check() {
  if (!(table_.families & family(soc().family))) {
    return fail(kAclnnInvalidParam, "%s does not exist on %s; it exists on %s (source: %s, products)", table_.name,
                soc().name, families_text(table_.families).c_str(), table_.source);
  }
  if (wrong_list_ != nullptr) {
    return fail(kAclnnInvalidParam, "%s: %s must hold exactly one tensor; lists of tensors are not emulated",
                table_.name, wrong_list_);
  }
  for (const TensorRow& row : table_.tensors) {
    if (aclError error = check_tensor(row)) return error;
  }
  for (const Rule& rule : table_.rules) {
    if (!(rule.families & family(soc().family)) || rule.holds(*this)) continue;
    return violated(rule.argument, rule.code, rule.allowed, rule.section);
  }
  return kSuccess;
}

aclError Call::finish(uint64_t* workspace_size, aclOpExecutor** executor, std::function<void()> compute) const {
  if (workspace_size == nullptr || executor == nullptr) {
    return fail(kAclnnNullPointer, "%s: workspaceSize and executor must not be null", table_.name);
  }
  // torch-npu's task queue launches in a thread of its own, which is not in the caller's inference mode.
  auto without_autograd = [compute = std::move(compute)] {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    compute();
  };
  auto* result = new aclOpExecutor{table_.name, std::move(without_autograd), {}};
  if (accesses_are_checked()) {
    for (const Argument& argument : arguments_) {
      if (argument.tensor == nullptr || element_count(*argument.tensor) == 0) continue;
      result->accesses.push_back({first_element(*argument.tensor), span_bytes(*argument.tensor), argument.output});
    }
  }
  *workspace_size = 0;
  *executor = result;
  return kSuccess;
}

aclError run(aclOpExecutor* executor, Stream stream) {
  if (executor == nullptr) return fail(kAclnnNullPointer, "aclnn: the executor is null");
  const char* name = executor->name;
  if (executor->repeatable) return launch(stream, name, executor->compute, executor->accesses);
  const aclError result = launch(stream, name, std::move(executor->compute), executor->accesses);
  delete executor;
  return result;
}

const std::string& tables_as_json() {
  static const std::string json = [] {
    auto quoted = [](const std::string& text) {
      std::string result = "\"";
      for (char c : text) {
        if (c == '"' || c == '\\') result += '\\';
        result += c;
      }
      return result + "\"";
    };
    std::string text = "[";
    for (const OperatorTable* table : registry()) {
      if (text.size() > 1) text += ",";
      text += "{\"name\":" + quoted(table->name) + ",\"source\":" + quoted(table->source) +
              ",\"families\":" + quoted(families_text(table->families)) + ",\"tensors\":[";
      for (size_t i = 0; i < table->tensors.size(); ++i) {
        const TensorRow& row = table->tensors[i];
        text += std::string(i ? "," : "") + "{\"name\":" + quoted(row.name) + ",\"dtypes\":" +
                quoted(names_of(row.allowed)) + ",\"min_dims\":" + std::to_string(row.min_dims) +
                ",\"max_dims\":" + std::to_string(row.max_dims) +
                ",\"contiguous\":" + (row.must_be_contiguous ? "true" : "false") +
                ",\"layout\":" + quoted(layout_name(row.layout)) +
                ",\"presence\":" + quoted(presence_name(row.presence)) + "}";
      }
      text += "],\"rules\":[";
      for (size_t i = 0; i < table->rules.size(); ++i) {
        const Rule& rule = table->rules[i];
        text += std::string(i ? "," : "") + "{\"argument\":" + quoted(rule.argument) + ",\"allowed\":" +
                quoted(rule.allowed) + ",\"section\":" + quoted(rule.section) + ",\"code\":" +
                std::to_string(rule.code) + ",\"families\":" + quoted(families_text(rule.families)) + "}";
      }
      text += "]}";
    }
    return text + "]";
  }();
  return json;
}

}  // namespace hostcann::opapi

using namespace hostcann;

ACL_API aclError aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  delete executor;
  return kSuccess;
}

ACL_API aclError aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
  if (executor == nullptr) return kAclnnNullPointer;
  executor->repeatable = true;
  return kSuccess;
}

// Not part of CANN: every constraint table, for tests and documentation.
ACL_API const char* hostcannOperatorTables() { return opapi::tables_as_json().c_str(); }

// CANN's per-thread cache of host memory. torch-npu calls these around every operator; there is nothing to cache here.
ACL_API int InitHugeMemThreadLocal(void*, bool) { return kSuccess; }
ACL_API void UnInitHugeMemThreadLocal(void*, bool) {}
ACL_API void ReleaseHugeMem(void*, bool) {}
