// aclnnApplyTopKTopP: filters logits before sampling.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

bool per_row(const Call& c, const char* name) { return !c.has(name) || c.size(name, 0) == c.size("logits", 0); }

const OperatorTable kApplyTopKTopP{
    "aclnnApplyTopKTopP", "CANN ops-nn, aclnnApplyTopKTopP.md", kA2A3A5,
    {{"logits", kFloats, 2, 2},
     {"p", kFloats, 1, 1, false, Presence::kOptional},
     {"k", dtypes(kInt32), 1, 1, false, Presence::kOptional},
     {"out", kFloats, 2, 2}},
    {{"p", "p or k, at least one of them", "return codes", [](const Call& c) { return c.has("p") || c.has("k"); },
      kAclnnNullPointer},
     {"p", "the type of logits", "parameters, p",
      [](const Call& c) { return !c.has("p") || c.same_dtype("logits", "p"); }},
     {"p", "one value per row of logits", "parameters, p", [](const Call& c) { return per_row(c, "p"); }},
     {"k", "one value per row of logits", "parameters, k", [](const Call& c) { return per_row(c, "k"); }},
     {"out", "the type of logits", "parameters, out", [](const Call& c) { return c.same_dtype("logits", "out"); }},
     {"out", "the shape of logits", "parameters, out", [](const Call& c) { return c.same_shape("logits", "out"); }}}};

// One row. `k` outside 1 ... n - 1 means no top-k; p < 0 stands for no top-p.
void filter(float* row, int64_t n, int64_t k, float p) {
  if (k > 0 && k < n) {
    std::vector<float> sorted(row, row + n);
    std::nth_element(sorted.begin(), sorted.begin() + (n - k), sorted.end());
    const float smallest = sorted[n - k];
    for (int64_t i = 0; i < n; ++i) {
      if (row[i] < smallest) row[i] = -INFINITY;  // values equal to the k-th stay, as documented
    }
  }
  if (p < 0.0f) return;
  // Only what is left takes part: the others have probability 0 and stay excluded.
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] != -INFINITY) order.push_back(i);
  }
  if (order.empty()) return;
  std::stable_sort(order.begin(), order.end(), [row](int64_t a, int64_t b) { return row[a] < row[b]; });
  const float top = row[order.back()];
  double total = 0.0;
  for (int64_t i : order) total += std::exp(static_cast<double>(row[i]) - top);
  // Probabilities are summed from the smallest; what lies within the first 1 - p is excluded, never the last one.
  double sum = 0.0;
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    sum += std::exp(static_cast<double>(row[order[i]]) - top) / total;
    if (sum > 1.0 - static_cast<double>(p)) break;
    row[order[i]] = -INFINITY;
  }
}

void compute(const at::Tensor& logits, const at::Tensor& p, const at::Tensor& k, const at::Tensor& out) {
  const at::Tensor work = logits.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const at::Tensor limits = p.defined() ? p.to(at::kFloat).contiguous() : p;
  const at::Tensor counts = k.defined() ? k.contiguous() : k;
  auto* data = work.mutable_data_ptr<float>();
  const int64_t rows = work.size(0), n = work.size(1);
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      filter(data + row * n, n, counts.defined() ? counts.const_data_ptr<int32_t>()[row] : 0,
             limits.defined() ? limits.const_data_ptr<float>()[row] : -1.0f);
    }
  });
  out.copy_(work);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnApplyTopKTopPGetWorkspaceSize(const aclTensor* logits, const aclTensor* p, const aclTensor* k,
                                                    aclTensor* out, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  Call call(kApplyTopKTopP);
  call.input("logits", logits).input("p", p).input("k", k).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [l = view(logits), p = view(p), k = view(k), o = view(out)] { compute(l, p, k, o); });
}
HOSTCANN_OPERATOR_RUN(aclnnApplyTopKTopP)
