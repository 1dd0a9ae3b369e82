// aclnnClippedSwiglu: the gated activation of gpt-oss.
#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sigmoid.h>

#include <stdexcept>
#include <string>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

int64_t cut_dim(const Call& c) {
  const int64_t dim = c.integer("dim");
  return dim < 0 ? dim + c.dims("x") : dim;
}

const OperatorTable kClippedSwiglu{
    "aclnnClippedSwiglu", "CANN ops-nn, aclnnClippedSwiglu.md", kA2A3A5,
    {{"x", kFloats, 1, 8, true},
     {"groupIndex", dtypes(kInt64), 1, 1, true, Presence::kOptional},
     {"out", kFloats, 1, 8, true}},
    {{"dim", "-dimensions of x to dimensions of x - 1", "parameters, dim",
      [](const Call& c) { return c.integer("dim") >= -c.dims("x") && c.integer("dim") < c.dims("x"); }},
     {"x", "an even size along dim", "parameters, x",
      [](const Call& c) { return c.size("x", static_cast<int>(cut_dim(c))) % 2 == 0; }},
     {"limit", "above 0", "parameters, limit", [](const Call& c) { return c.real("limit") > 0.0; }},
     {"groupIndex", "at most 8192 groups", "parameters, groupIndexOptional",
      [](const Call& c) { return !c.has("groupIndex") || c.size("groupIndex", 0) <= 8192; }},
     {"groupIndex", "a tensor that is not empty", "parameters, 950",
      [](const Call& c) { return !c.has("groupIndex") || c.size("groupIndex", 0) > 0; }, kAclnnInvalidParam,
      family(SocFamily::k950)},
     {"out", "the type of x", "function", [](const Call& c) { return c.same_dtype("x", "out"); }},
     {"out", "the shape of x with half the size along dim", "parameters, out", [](const Call& c) {
        std::vector<int64_t> expected = c.tensor("x")->shape;
        expected[cut_dim(c)] /= 2;
        return c.tensor("out")->shape == expected;
      }}}};

struct Clipping {
  at::Tensor x, groups, out;
  int64_t dim;
  double alpha, limit, bias;
  bool interleaved;
};

int64_t rows_in(const at::Tensor& groups, int64_t rows) {
  if (!groups.defined()) return rows;
  int64_t total = 0;
  for (int64_t i = 0; i < groups.numel(); ++i) {
    const int64_t size = groups.const_data_ptr<int64_t>()[i];
    total += size;
    if (size < 0 || total > rows) {
      throw std::runtime_error("aclnnClippedSwiglu: groupIndex[" + std::to_string(i) + "] is " + std::to_string(size) +
                               "; allowed: at least 0, and together at most the " + std::to_string(rows) +
                               " rows before dim (source: parameters, groupIndexOptional)");
    }
  }
  return total;
}

void compute(const Clipping& c) {
  if (c.out.numel() == 0) return;
  // The document's [pre, cut]: what lies before dim, and everything from it on.
  const int64_t rows = c10::multiply_integers(c.x.sizes().slice(0, c.dim));
  const int64_t used = rows_in(c.groups, rows);
  const at::Tensor x = c.x.reshape({rows, -1}).slice(0, 0, used).to(at::kFloat);
  const int64_t half = x.size(1) / 2;
  const at::Tensor gate = at::clamp(c.interleaved ? x.slice(1, 0, c10::nullopt, 2) : x.slice(1, 0, half), c10::nullopt,
                                    c.limit);
  const at::Tensor up = at::clamp(c.interleaved ? x.slice(1, 1, c10::nullopt, 2) : x.slice(1, half), -c.limit, c.limit);
  const at::Tensor result = at::mul(at::mul(gate, at::sigmoid(at::mul(gate, c.alpha))), up.add(c.bias));
  c.out.view({rows, -1}).slice(0, 0, used).copy_(result);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnClippedSwigluGetWorkspaceSize(const aclTensor* x, const aclTensor* group_index, int64_t dim,
                                                    double alpha, double limit, double bias, bool interleaved,
                                                    const aclTensor* out, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  Call call(kClippedSwiglu);
  call.input("x", x).input("groupIndex", group_index).integer("dim", dim).real("limit", limit).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [clipping = Clipping{view(x), view(group_index), view(out), cut_dim(call), alpha, limit, bias,
                                          interleaved}] { compute(clipping); });
}
HOSTCANN_OPERATOR_RUN(aclnnClippedSwiglu)
