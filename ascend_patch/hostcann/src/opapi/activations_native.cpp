// aclnnSwiGlu, aclnnFastGelu, aclnnGelu, aclnnGeluV2, aclnnSilu.
#include <ATen/Parallel.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include "opapi/operator.h"
#include "opapi/simd.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

int64_t split_dim(const Call& c) {
  const int64_t dim = c.integer("dim");
  return dim < 0 ? dim + c.dims("x") : dim;
}

bool halves(const Call& c) {
  std::vector<int64_t> expected = c.tensor("x")->shape;
  expected[split_dim(c)] /= 2;
  return c.tensor("out")->shape == expected;
}

const OperatorTable kSwiGlu{
    "aclnnSwiGlu", "CANN ops-nn, aclnnSwiGlu.md", kAllFamilies,
    {{"x", kFloats, 1, 8, true}, {"out", kFloats, 1, 8, true}},
    {{"dim", "-dimensions of x to dimensions of x - 1", "parameters, dim",
      [](const Call& c) { return c.integer("dim") >= -c.dims("x") && c.integer("dim") < c.dims("x"); }},
     {"x", "an even size along dim", "parameters, x",
      [](const Call& c) { return c.size("x", static_cast<int>(split_dim(c))) % 2 == 0; }},
     {"x", "a last dimension aligned to 64 bytes", "parameters, Atlas inference products",
      [](const Call& c) { return c.size("x", -1) * element_size(c.tensor("x")->dtype) % 64 == 0; }, kAclnnInvalidParam,
      family(SocFamily::k310P)},
     {"x", "a tensor that is not empty", "parameters, Atlas inference products",
      [](const Call& c) { return element_count(*c.tensor("x")) > 0; }, kAclnnInvalidParam,
      family(SocFamily::k310P)},
     {"out", "the type of x", "parameters, out", [](const Call& c) { return c.same_dtype("x", "out"); }},
     {"out", "the shape of x with half the size along dim", "function", halves}}};

std::vector<Rule> elementwise_rules(const char* section) {
  return {{"out", "the shape of self", section, [](const Call& c) { return c.same_shape("self", "out"); }},
          {"out", "the type of self", section, [](const Call& c) { return c.same_dtype("self", "out"); }}};
}

const OperatorTable kFastGelu{"aclnnFastGelu", "CANN ops-nn, aclnnFastGelu.md", kA2A3A5,
                              {{"self", kFloats, 0, 8}, {"out", kFloats, 0, 8}}, elementwise_rules("return codes")};
const OperatorTable kGelu{"aclnnGelu", "CANN ops-nn, aclnnGelu.md", kAllFamilies,
                          {{"self", kFloats, 0, 8}, {"out", kFloats, 0, 8}}, elementwise_rules("return codes")};
const OperatorTable kSilu{"aclnnSilu", "CANN ops-nn, aclnnSilu.md", kAllFamilies,
                          {{"self", kFloats, 0, 8}, {"out", kFloats, 0, 8}}, elementwise_rules("return codes")};
const OperatorTable kGeluV2{
    "aclnnGeluV2", "CANN ops-nn, aclnnGeluV2.md", kAllFamilies,
    {{"x", kFloats, 0, 8}, {"y", kFloats, 0, 8}},
    {{"y", "the shape of x", "return codes", [](const Call& c) { return c.same_shape("x", "y"); }},
     {"y", "the type of x", "return codes", [](const Call& c) { return c.same_dtype("x", "y"); }},
     {"approximate", "0 (none) or 1 (tanh)", "parameters, approximate",
      [](const Call& c) { return c.integer("approximate") == 0 || c.integer("approximate") == 1; }}}};

// out = silu(first half) * second half; both halves of a row lie next to each other. Rounded once, at the end.
template <typename T>
void swiglu(const T* x, T* out, int64_t rows, int64_t half) {
  using namespace simd;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, half));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* gate = x + row * 2 * half;
      const T* up = gate + half;
      T* result = out + row * half;
      auto gated = [](const Floats& a, const Floats& b) { return a / (1.0f + exponential(-a)) * b; };
      sweep(half,
            [&](int64_t i) {
              Floats a, b;
              load(gate + i, a);
              load(up + i, b);
              store(gated(a, b), result + i);
            },
            [&](int64_t i, int64_t n) {
              Floats a, b;
              load_part(gate + i, n, a);
              load_part(up + i, n, b);
              store_part(gated(a, b), n, result + i);
            });
    }
  });
}

// An elementwise operator as ATen computes it: in float32, rounded to the output type.
aclError prepare_elementwise(const OperatorTable& table, const aclTensor* self, const aclTensor* out,
                             uint64_t* workspace_size, aclOpExecutor** executor,
                             at::Tensor (*compute)(const at::Tensor&)) {
  Call call(table);
  call.input("self", self).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor, [x = view(self), y = view(out), compute] {
    y.copy_(compute(x.to(at::kFloat)));
  });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnSwiGluGetWorkspaceSize(const aclTensor* x, int64_t dim, const aclTensor* out,
                                             uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kSwiGlu);
  call.input("x", x).integer("dim", dim).output("out", out);
  if (aclError error = call.check()) return error;
  const int64_t axis = dim < 0 ? dim + static_cast<int64_t>(x->shape.size()) : dim;
  int64_t half = x->shape[axis] / 2;
  int64_t rows = 1;
  for (int64_t i = 0; i < axis; ++i) rows *= x->shape[i];
  for (size_t i = axis + 1; i < x->shape.size(); ++i) half *= x->shape[i];
  return call.finish(workspace_size, executor,
                     [from = first_element(*x), to = first_element(*out), type = x->dtype, rows, half] {
                       for_float_type(type, [&](auto element) {
                         using T = decltype(element);
                         swiglu(static_cast<const T*>(from), static_cast<T*>(to), rows, half);
                       });
                     });
}
HOSTCANN_OPERATOR_RUN(aclnnSwiGlu)

ACL_API aclError aclnnFastGeluGetWorkspaceSize(const aclTensor* self, aclTensor* out, uint64_t* workspace_size,
                                               aclOpExecutor** executor) {
  return prepare_elementwise(kFastGelu, self, out, workspace_size, executor,
                             [](const at::Tensor& x) { return at::mul(x, at::sigmoid(at::mul(x, 1.702))); });
}
HOSTCANN_OPERATOR_RUN(aclnnFastGelu)

ACL_API aclError aclnnGeluGetWorkspaceSize(const aclTensor* self, aclTensor* out, uint64_t* workspace_size,
                                           aclOpExecutor** executor) {
  // aclnnGelu is the tanh approximation on this hardware (aclnnGelu.md, function).
  return prepare_elementwise(kGelu, self, out, workspace_size, executor,
                             [](const at::Tensor& x) { return at::gelu(x, "tanh"); });
}
HOSTCANN_OPERATOR_RUN(aclnnGelu)

ACL_API aclError aclnnSiluGetWorkspaceSize(const aclTensor* self, aclTensor* out, uint64_t* workspace_size,
                                           aclOpExecutor** executor) {
  return prepare_elementwise(kSilu, self, out, workspace_size, executor,
                             [](const at::Tensor& x) { return at::silu(x); });
}
HOSTCANN_OPERATOR_RUN(aclnnSilu)

ACL_API aclError aclnnGeluV2GetWorkspaceSize(const aclTensor* x, int64_t approximate, aclTensor* y,
                                             uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kGeluV2);
  call.input("x", x).integer("approximate", approximate).output("y", y);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor, [from = view(x), to = view(y), approximate] {
    to.copy_(at::gelu(from.to(at::kFloat), approximate == 1 ? "tanh" : "none"));
  });
}
HOSTCANN_OPERATOR_RUN(aclnnGeluV2)
