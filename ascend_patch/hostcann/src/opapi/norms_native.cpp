// aclnnRmsNorm, aclnnGemmaRmsNorm, aclnnAddRmsNorm.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "opapi/operator.h"
#include "opapi/simd.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

// gamma's shape is the end of x's shape.
bool gamma_ends(const Call& call, const char* x) {
  const auto& full = call.tensor(x)->shape;
  const auto& gamma = call.tensor("gamma")->shape;
  return gamma.size() <= full.size() && std::equal(gamma.rbegin(), gamma.rend(), full.rbegin());
}

// rstd keeps x's leading dimensions and has 1 in place of the normalised ones.
bool rstd_matches(const Call& call, const char* x) {
  const aclTensor* rstd = call.tensor("rstdOut");
  const auto& full = call.tensor(x)->shape;
  const size_t kept = full.size() - call.tensor("gamma")->shape.size();
  if (rstd->shape.size() != full.size()) return false;
  for (size_t i = 0; i < full.size(); ++i) {
    if (rstd->shape[i] != (i < kept ? full[i] : 1)) return false;
  }
  return true;
}

const OperatorTable kRmsNorm{
    "aclnnRmsNorm", "CANN ops-nn, aclnnRmsNorm.md", kAllFamilies,
    {{"x", kFloats, 1, 8}, {"gamma", kFloats, 1, 8}, {"yOut", kFloats, 1, 8}, {"rstdOut", dtypes(kFloat), 1, 8}},
    {{"gamma", "the last dimensions of x", "parameters, gamma", [](const Call& c) { return gamma_ends(c, "x"); },
      kTilingError},
     {"gamma", "a tensor that is not empty", "parameters, gamma",
      [](const Call& c) { return element_count(*c.tensor("gamma")) > 0; }, kTilingError},
     {"yOut", "the shape of x", "parameters, yOut", [](const Call& c) { return c.same_shape("x", "yOut"); },
      kTilingError},
     {"yOut", "the type of x", "parameters, yOut", [](const Call& c) { return c.same_dtype("x", "yOut"); }},
     {"rstdOut", "the shape of x with 1 in place of the normalised dimensions", "parameters, rstdOut",
      [](const Call& c) { return rstd_matches(c, "x"); }, kTilingError}}};

const OperatorTable kGemmaRmsNorm{
    "aclnnGemmaRmsNorm", "CANN ops-nn, aclnnGemmaRmsNorm.md", kA2A3A5,
    {{"x", kFloats, 1, 8}, {"gamma", kFloats, 1, 8}, {"yOut", kFloats, 1, 8}, {"rstdOut", dtypes(kFloat), 1, 8}},
    {{"gamma", "the last dimensions of x", "parameters, gamma", [](const Call& c) { return gamma_ends(c, "x"); },
      kTilingError},
     {"gamma", "the type of x", "constraints, supported types",
      [](const Call& c) { return c.same_dtype("x", "gamma"); }},
     {"yOut", "the shape of x", "parameters, yOut", [](const Call& c) { return c.same_shape("x", "yOut"); },
      kTilingError},
     {"yOut", "the type of x", "parameters, yOut", [](const Call& c) { return c.same_dtype("x", "yOut"); }},
     {"rstdOut", "the shape of x with 1 in place of the normalised dimensions", "parameters, rstdOut",
      [](const Call& c) { return rstd_matches(c, "x"); }, kTilingError}}};

const OperatorTable kAddRmsNorm{
    "aclnnAddRmsNorm", "CANN ops-nn, aclnnAddRmsNorm.md", kAllFamilies,
    {{"x1", kFloats, 1, 8},
     {"x2", kFloats, 1, 8},
     {"gamma", kFloats, 1, 8},
     {"yOut", kFloats, 1, 8},
     {"rstdOut", dtypes(kFloat), 1, 8},
     {"xOut", kFloats, 1, 8}},
    {{"x2", "the shape of x1", "parameters, x2", [](const Call& c) { return c.same_shape("x1", "x2"); }},
     {"x2", "the type of x1", "parameters, x2", [](const Call& c) { return c.same_dtype("x1", "x2"); }},
     {"gamma", "the type of x1", "parameters, gamma", [](const Call& c) { return c.same_dtype("x1", "gamma"); }},
     {"gamma", "the last dimensions of x1", "constraints, combinations",
      [](const Call& c) { return gamma_ends(c, "x1"); }},
     {"epsilon", "0 or more", "parameters, epsilon", [](const Call& c) { return c.real("epsilon") >= 0.0; }},
     {"yOut", "the shape of x1", "parameters, yOut", [](const Call& c) { return c.same_shape("x1", "yOut"); }},
     {"yOut", "the type of x1", "parameters, yOut", [](const Call& c) { return c.same_dtype("x1", "yOut"); }},
     {"xOut", "the shape of x1", "parameters, xOut", [](const Call& c) { return c.same_shape("x1", "xOut"); }},
     {"xOut", "the type of x1", "parameters, xOut", [](const Call& c) { return c.same_dtype("x1", "xOut"); }},
     {"rstdOut", "the shape of x1 with 1 in place of the normalised dimensions", "parameters, rstdOut",
      [](const Call& c) { return rstd_matches(c, "x1"); }}}};

// What one normalisation works on: `rows` rows of `width` elements, already contiguous in memory.
struct Rows {
  int64_t rows;
  int64_t width;
  float epsilon;
};

// y = x * rsqrt(mean(x^2) + epsilon) * gamma, computed in float32 and rounded once at the end. With `addend` the input
// is x + addend, rounded to T first, as the fused operator hands out that sum.
template <typename T>
void normalise(const Rows& p, const T* x, const T* addend, const std::vector<float>& weight, T* y, float* rstd,
               T* sum_out) {
  using namespace simd;
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.width));
  at::parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * p.width;
      const T* source = x + at;
      if (addend != nullptr) {
        sweep(p.width,
              [&](int64_t i) {
                Floats a, b;
                load(x + at + i, a);
                load(addend + at + i, b);
                store(a + b, sum_out + at + i);
              },
              [&](int64_t i, int64_t n) {
                Floats a, b;
                load_part(x + at + i, n, a);
                load_part(addend + at + i, n, b);
                store_part(a + b, n, sum_out + at + i);
              });
        source = sum_out + at;
      }
      Floats squares{};
      sweep(p.width,
            [&](int64_t i) {
              Floats a;
              load(source + i, a);
              squares += a * a;
            },
            [&](int64_t i, int64_t n) {
              Floats a;
              load_part(source + i, n, a);
              squares += a * a;
            });
      const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(p.width) + p.epsilon);
      sweep(p.width,
            [&](int64_t i) {
              Floats a, w;
              load(source + i, a);
              load(weight.data() + i, w);
              store(a * scale * w, y + at + i);
            },
            [&](int64_t i, int64_t n) {
              Floats a, w;
              load_part(source + i, n, a);
              load_part(weight.data() + i, n, w);
              store_part(a * scale * w, n, y + at + i);
            });
      if (rstd != nullptr) rstd[row] = scale;
    }
  });
}

// The tensors of one call. Inputs that are not contiguous are copied when the operator runs; so are outputs, back.
struct NormTensors {
  at::Tensor x, addend, gamma, y, rstd, sum;
  DataType type, gamma_type;
  double epsilon;
  float gamma_offset;  // 1 for Gemma, whose weight is stored minus one
};

std::vector<float> weights(const NormTensors& t) {
  const at::Tensor gamma = t.gamma.contiguous();
  std::vector<float> weight(gamma.numel());
  for_float_type(t.gamma_type, [&](auto element) {
    const auto* from = static_cast<const decltype(element)*>(gamma.const_data_ptr());
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(from[i]) + t.gamma_offset;
  });
  return weight;
}

void compute(const NormTensors& t) {
  const int64_t width = t.gamma.numel();
  if (t.y.numel() == 0 || width == 0) return;
  const at::Tensor x = t.x.contiguous();
  const std::vector<float> weight = weights(t);
  const at::Tensor addend = t.addend.defined() ? t.addend.contiguous() : at::Tensor();
  const at::Tensor y = t.y.is_contiguous() ? t.y : at::empty(t.y.sizes(), t.y.options());
  const at::Tensor sum = !t.sum.defined() || t.sum.is_contiguous() ? t.sum : at::empty(t.sum.sizes(), t.sum.options());
  const at::Tensor rstd = t.rstd.is_contiguous() ? t.rstd : at::empty(t.rstd.sizes(), t.rstd.options());
  const Rows rows{x.numel() / width, width, static_cast<float>(t.epsilon)};
  for_float_type(t.type, [&](auto element) {
    using T = decltype(element);
    normalise<T>(rows, static_cast<const T*>(x.const_data_ptr()),
                 addend.defined() ? static_cast<const T*>(addend.const_data_ptr()) : nullptr, weight,
                 static_cast<T*>(y.mutable_data_ptr()), static_cast<float*>(rstd.mutable_data_ptr()),
                 sum.defined() ? static_cast<T*>(sum.mutable_data_ptr()) : nullptr);
  });
  if (!y.is_same(t.y)) t.y.copy_(y);
  if (!rstd.is_same(t.rstd)) t.rstd.copy_(rstd);
  if (sum.defined() && !sum.is_same(t.sum)) t.sum.copy_(sum);
}

aclError prepare_norm(const OperatorTable& table, float gamma_offset, const aclTensor* x, const aclTensor* gamma,
                      double epsilon, const aclTensor* y, const aclTensor* rstd, uint64_t* workspace_size,
                      aclOpExecutor** executor) {
  Call call(table);
  call.input("x", x).input("gamma", gamma).real("epsilon", epsilon).output("yOut", y).output("rstdOut", rstd);
  if (aclError error = call.check()) return error;
  NormTensors t{view(x), {}, view(gamma), view(y), view(rstd), {}, x->dtype, gamma->dtype, epsilon, gamma_offset};
  return call.finish(workspace_size, executor, [t] { compute(t); });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnRmsNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, double epsilon,
                                              const aclTensor* y, const aclTensor* rstd, uint64_t* workspace_size,
                                              aclOpExecutor** executor) {
  return prepare_norm(kRmsNorm, 0.0f, x, gamma, epsilon, y, rstd, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnRmsNorm)

ACL_API aclError aclnnGemmaRmsNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, double epsilon,
                                                   const aclTensor* y, const aclTensor* rstd, uint64_t* workspace_size,
                                                   aclOpExecutor** executor) {
  return prepare_norm(kGemmaRmsNorm, 1.0f, x, gamma, epsilon, y, rstd, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnGemmaRmsNorm)

ACL_API aclError aclnnAddRmsNormGetWorkspaceSize(const aclTensor* x1, const aclTensor* x2, const aclTensor* gamma,
                                                 double epsilon, const aclTensor* y, const aclTensor* rstd,
                                                 const aclTensor* x, uint64_t* workspace_size,
                                                 aclOpExecutor** executor) {
  Call call(kAddRmsNorm);
  call.input("x1", x1).input("x2", x2).input("gamma", gamma).real("epsilon", epsilon);
  call.output("yOut", y).output("rstdOut", rstd).output("xOut", x);
  if (aclError error = call.check()) return error;
  NormTensors t{view(x1), view(x2), view(gamma), view(y), view(rstd), view(x), x1->dtype, gamma->dtype, epsilon, 0.0f};
  return call.finish(workspace_size, executor, [t] { compute(t); });
}
HOSTCANN_OPERATOR_RUN(aclnnAddRmsNorm)
