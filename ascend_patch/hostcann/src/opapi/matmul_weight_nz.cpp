// aclnnMatmulWeightNz and aclnnAddmmWeightNz: products of 16-bit rows and a weight in FRACTAL_NZ.
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include "hostcann/matmul.h"
#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

// CANN 8.5 does not have them on 310P; later documents have the first one there, in float16.
constexpr const char* kMatmulSource = "CANN ops-nn, aclnnMatmulWeightNz.md";
constexpr const char* kAddmmSource = "CANN ops-nn, aclnnAddmmWeightNz.md";

bool rows_without_overlap(const Call& c, const char* x) {
  return is_contiguous(*c.tensor(x)) || is_transposed(*c.tensor(x));
}

bool depth_fits(const Call& c, const char* x) { return c.size("mat2", 0) == c.size(x, 1); }

bool shape_of_out_fits(const Call& c, const char* x) {
  return c.size("out", 0) == c.size(x, 0) && c.size("out", 1) == c.size("mat2", 1);
}

bool more_than_one(const Call& c) { return c.size("mat2", 0) > 1 && c.size("mat2", 1) > 1; }

// KEEP_DTYPE or ALLOW_FP32_DOWN_PRECISION, which are the same for 16-bit types.
bool keeps_types(const Call& c) { return c.integer("cubeMathType") == 0 || c.integer("cubeMathType") == 1; }

constexpr const char* kTypes = "0 or 1 (other ways to compute are not emulated)";

const OperatorTable kMatmulWeightNz{
    "aclnnMatmulWeightNz", kMatmulSource, kA2A3A5,
    {{"self", kHalfFloats, 2, 2}, fractal_nz("mat2", kHalfFloats, 2), {"out", kHalfFloats, 2, 2, true}},
    {{"cubeMathType", kTypes, "parameters, cubeMathType", keeps_types},
     {"cubeMathType", "0", "parameters, cubeMathType, Ascend 950",
      [](const Call& c) { return c.integer("cubeMathType") == 0; }, kAclnnInvalidParam, family(SocFamily::k950)},
     {"self", "a matrix without gaps, as it is or transposed", "parameters, self",
      [](const Call& c) { return rows_without_overlap(c, "self"); }},
     {"mat2", "the type of self", "constraints, types", [](const Call& c) { return c.same_dtype("self", "mat2"); }},
     {"out", "the type of self", "parameters, out", [](const Call& c) { return c.same_dtype("self", "out"); }},
     {"mat2", "as many rows as self has columns", "parameters, mat2", [](const Call& c) { return depth_fits(c, "self"); }},
     {"mat2", "more than one row and more than one column", "constraints, k = 1 and n = 1", more_than_one},
     {"out", "the rows of self, the columns of mat2", "parameters, out",
      [](const Call& c) { return shape_of_out_fits(c, "self"); }}}};

bool bias_broadcasts(const Call& c) {
  const auto& shape = c.tensor("self")->shape;
  const int64_t rows = shape.size() == 2 ? shape[0] : 1;
  return (rows == 1 || rows == c.size("out", 0)) && (shape.back() == 1 || shape.back() == c.size("out", 1));
}

const OperatorTable kAddmmWeightNz{
    "aclnnAddmmWeightNz", kAddmmSource, kA2A3A5,
    {{"self", kHalfFloats, 1, 2},
     {"mat1", kHalfFloats, 2, 2},
     fractal_nz("mat2", kHalfFloats, 2),
     {"out", kHalfFloats, 2, 2, true}},
    {{"cubeMathType", kTypes, "parameters, cubeMathType", keeps_types},
     {"mat1", "a matrix without gaps, as it is or transposed", "parameters, mat1",
      [](const Call& c) { return rows_without_overlap(c, "mat1"); }},
     {"mat2", "the type of mat1", "constraints, types", [](const Call& c) { return c.same_dtype("mat1", "mat2"); }},
     {"self", "the type of mat1", "constraints, types", [](const Call& c) { return c.same_dtype("mat1", "self"); }},
     {"out", "the type of mat1", "parameters, out", [](const Call& c) { return c.same_dtype("mat1", "out"); }},
     {"mat2", "as many rows as mat1 has columns", "parameters, mat2", [](const Call& c) { return depth_fits(c, "mat1"); }},
     {"mat2", "more than one row and more than one column", "aclnnMatmulWeightNz.md, constraints, k = 1 and n = 1",
      more_than_one},
     {"out", "the rows of mat1, the columns of mat2", "function",
      [](const Call& c) { return shape_of_out_fits(c, "mat1"); }},
     {"self", "[n], [1, n], [m, 1], [1, 1] or [m, n] for out [m, n]", "parameters, self", bias_broadcasts}}};

struct Product {
  at::Tensor x, bias, out;
  Tiles weight;
  double beta = 1.0, alpha = 1.0;
};

// As the plain product of the fallback, where it is one; otherwise summed up in float32 and rounded once.
void multiply(const Product& p) {
  if (p.x.numel() == 0) {
    p.out.zero_();
    if (p.bias.defined()) p.out.add_(p.bias, p.beta);
    return;
  }
  const at::Tensor weight = from_tiles(p.weight);
  const bool plain = p.alpha == 1.0 && p.beta == 1.0 && suits_linear_matmul(p.x, weight.t(), p.bias);
  if (plain) {
    p.out.copy_(linear_matmul(p.x, weight.t(), p.bias));
    return;
  }
  at::Tensor result = at::mm(p.x.to(at::kFloat), weight.to(at::kFloat)).mul_(p.alpha);
  if (p.bias.defined()) result.add_(p.bias.to(at::kFloat), p.beta);
  p.out.copy_(result);
}

double value_of(const aclScalar* scalar) {
  const bool whole = scalar->dtype != kFloat && scalar->dtype != kDouble && scalar->dtype != kFloat16 &&
                     scalar->dtype != kBf16;
  return whole ? static_cast<double>(scalar->integer) : scalar->real;
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnMatmulWeightNzGetWorkspaceSize(const aclTensor* self, const aclTensor* mat2, aclTensor* out,
                                                     int8_t cube_math_type, uint64_t* workspace_size,
                                                     aclOpExecutor** executor) {
  Call call(kMatmulWeightNz);
  call.input("self", self).input("mat2", mat2).output("out", out).integer("cubeMathType", cube_math_type);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [product = Product{view(self), {}, view(out), tiles(*mat2)}] { multiply(product); });
}
HOSTCANN_OPERATOR_RUN(aclnnMatmulWeightNz)

ACL_API aclError aclnnAddmmWeightNzGetWorkspaceSize(const aclTensor* self, const aclTensor* mat1, const aclTensor* mat2,
                                                    const aclScalar* beta, const aclScalar* alpha, aclTensor* out,
                                                    int8_t cube_math_type, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  Call call(kAddmmWeightNz);
  call.input("self", self).input("mat1", mat1).input("mat2", mat2).output("out", out);
  call.integer("cubeMathType", cube_math_type);
  if (aclError error = call.check()) return error;
  if (beta == nullptr || alpha == nullptr) {
    return fail(kAclnnNullPointer, "aclnnAddmmWeightNz: beta and alpha must not be null");
  }
  const Product product{view(mat1), view(self), view(out), tiles(*mat2), value_of(beta), value_of(alpha)};
  return call.finish(workspace_size, executor, [product] { multiply(product); });
}
HOSTCANN_OPERATOR_RUN(aclnnAddmmWeightNz)
