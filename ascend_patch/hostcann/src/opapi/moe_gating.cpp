// aclnnMoeGatingTopK and aclnnMoeGatingTopKSoftmaxV2: which experts a token goes to, and with which weights.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

int64_t experts(const Call& c) { return c.size("x", -1); }

int64_t per_group(const Call& c) { return experts(c) / c.integer("groupCount"); }

// The sizes of `like`, with `last` as the last one.
bool same_rows(const Call& c, const char* name, const char* like, int64_t last) {
  std::vector<int64_t> expected = c.tensor(like)->shape;
  expected.back() = last;
  return c.tensor(name)->shape == expected;
}

const OperatorTable kMoeGatingTopK{
    "aclnnMoeGatingTopK", "CANN ops-transformer, aclnnMoeGatingTopK.md", kA2A3A5,
    {{"x", kFloats, 2, 2},
     {"bias", kFloats, 1, 1, false, Presence::kOptional},
     {"yOut", kFloats, 2, 2, true},
     {"expertIdxOut", dtypes(kInt32), 2, 2, true},
     {"outOut", dtypes(kFloat), 2, 2, true}},
    {{"x", "at most 2048 experts", "constraints, shapes", [](const Call& c) { return experts(c) <= 2048; },
      kTilingError},
     {"bias", "the type of x", "torch_npu.npu_moe_gating_top_k, bias",
      [](const Call& c) { return !c.has("bias") || c.same_dtype("x", "bias"); }},
     {"bias", "one value per expert", "parameters, biasOptional",
      [](const Call& c) { return !c.has("bias") || c.size("bias", 0) == experts(c); }, kTilingError},
     {"groupSelectMode", "0 (maximum) or 1 (sum of the best two)", "constraints, groupSelectMode",
      [](const Call& c) { return c.integer("groupSelectMode") == 0 || c.integer("groupSelectMode") == 1; },
      kTilingError},
     {"normType", "0 (softmax) or 1 (sigmoid)", "constraints, normType",
      [](const Call& c) { return c.integer("normType") == 0 || c.integer("normType") == 1; }, kTilingError},
     {"renorm", "0", "constraints, values", [](const Call& c) { return c.integer("renorm") == 0; }, kTilingError},
     {"groupCount", "a divisor of the number of experts", "constraints, values",
      [](const Call& c) { return c.integer("groupCount") > 0 && experts(c) % c.integer("groupCount") == 0; },
      kTilingError},
     {"groupCount", "groups of more experts than groupSelectMode says", "constraints, values",
      [](const Call& c) { return per_group(c) > c.integer("groupSelectMode"); }, kTilingError},
     {"groupCount", "groups that hold 2048 experts after rounding each up to a multiple of 32", "constraints, values",
      [](const Call& c) { return (per_group(c) + 31) / 32 * 32 * c.integer("groupCount") <= 2048; }, kTilingError},
     {"kGroup", "1 to groupCount", "constraints, values",
      [](const Call& c) { return c.integer("kGroup") >= 1 && c.integer("kGroup") <= c.integer("groupCount"); },
      kTilingError},
     {"k", "1 to the number of experts in kGroup groups", "constraints, values",
      [](const Call& c) { return c.integer("k") >= 1 && c.integer("k") <= per_group(c) * c.integer("kGroup"); },
      kTilingError},
     {"yOut", "the type of x", "parameters, yOut", [](const Call& c) { return c.same_dtype("x", "yOut"); }},
     {"yOut", "[rows of x, k]", "parameters, yOut",
      [](const Call& c) { return same_rows(c, "yOut", "x", c.integer("k")); }, kTilingError},
     {"expertIdxOut", "the shape of yOut", "parameters, expertIdxOut",
      [](const Call& c) { return c.same_shape("yOut", "expertIdxOut"); }, kTilingError},
     {"outOut", "the shape of x", "parameters, outOut", [](const Call& c) { return c.same_shape("x", "outOut"); },
      kTilingError}}};

const OperatorTable kMoeGatingTopKSoftmaxV2{
    "aclnnMoeGatingTopKSoftmaxV2", "CANN ops-transformer, aclnnMoeGatingTopKSoftmaxV2.md", kA2A3A5,
    {{"x", kFloats, 2, 3},
     {"finished", dtypes(kBool), 1, 2, false, Presence::kOptional},
     {"yOut", kFloats, 2, 3, true},
     {"expertIdxOut", dtypes(kInt32), 2, 3, true},
     {"softmaxResultOut", dtypes(kFloat), 1, 3, true, Presence::kOptional}},
    {{"finished", "the shape of x without its last dimension", "parameters, finishedOptional",
      [](const Call& c) {
        if (!c.has("finished")) return true;
        const auto& x = c.tensor("x")->shape;
        return c.tensor("finished")->shape == std::vector<int64_t>(x.begin(), x.end() - 1);
      },
      kTilingError},
     {"k", "0 to the number of experts, at most 1024", "parameters, k",
      [](const Call& c) { return c.integer("k") >= 0 && c.integer("k") <= std::min<int64_t>(1024, experts(c)); },
      kTilingError},
     {"renorm", "0 or 1", "parameters, renorm",
      [](const Call& c) { return c.integer("renorm") == 0 || c.integer("renorm") == 1; }, kTilingError},
     {"yOut", "the type of x", "parameters, yOut", [](const Call& c) { return c.same_dtype("x", "yOut"); }},
     {"yOut", "the shape of x with k as its last size", "parameters, yOut",
      [](const Call& c) { return same_rows(c, "yOut", "x", c.integer("k")); }, kTilingError},
     {"expertIdxOut", "the shape of yOut", "parameters, expertIdxOut",
      [](const Call& c) { return c.same_shape("yOut", "expertIdxOut"); }, kTilingError},
     {"softmaxResultOut", "the shape of x where it is asked for", "parameters, softmaxResultOutOptional",
      [](const Call& c) {
        if (c.integer("outputSoftmaxResultFlag") == 0 || c.integer("renorm") == 1) return true;
        return c.has("softmaxResultOut") && c.same_shape("x", "softmaxResultOut");
      },
      kTilingError}}};

// Indices of the `count` largest of `values`, largest first; of equal ones the first comes first.
void largest(const float* values, int64_t size, int64_t count, std::vector<int64_t>& order) {
  order.resize(size);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [values](int64_t a, int64_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  });
  order.resize(count);
}

void softmax(const float* from, int64_t size, float* to) {
  const float top = *std::max_element(from, from + size);
  float total = 0.0f;
  for (int64_t i = 0; i < size; ++i) total += to[i] = std::exp(from[i] - top);
  for (int64_t i = 0; i < size; ++i) to[i] /= total;
}

struct Gating {
  int64_t k, groups, chosen_groups;
  bool best_two, sigmoid, keep_norm;
  float factor, eps;
  at::Tensor x, bias, y, index, norm;
};

float group_score(const float* values, int64_t size, bool best_two) {
  float first = -INFINITY, second = -INFINITY;
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] > first) {
      second = first;
      first = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  return best_two ? first + second : first;
}

void gate(const Gating& g) {
  const at::Tensor x = g.x.to(at::kFloat).contiguous();
  const at::Tensor bias = g.bias.defined() ? g.bias.to(at::kFloat).contiguous() : g.bias;
  const at::Tensor y = at::empty(g.y.sizes(), at::kFloat);
  const int64_t rows = x.size(0), count = x.size(1), size = count / g.groups;
  const auto* logits = x.const_data_ptr<float>();
  auto* weights = y.mutable_data_ptr<float>();
  auto* index = g.index.mutable_data_ptr<int32_t>();
  at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> norm(count), choice(count), scores(g.groups);
    std::vector<int64_t> order;
    for (int64_t row = begin; row < end; ++row) {
      const float* from = logits + row * count;
      if (g.sigmoid) {
        for (int64_t i = 0; i < count; ++i) norm[i] = 1.0f / (1.0f + std::exp(-from[i]));
      } else {
        softmax(from, count, norm.data());
      }
      // The bias chooses; it does not weigh.
      choice = norm;
      for (int64_t i = 0; bias.defined() && i < count; ++i) choice[i] += bias.const_data_ptr<float>()[i];
      if (g.groups > 1) {
        for (int64_t i = 0; i < g.groups; ++i) scores[i] = group_score(choice.data() + i * size, size, g.best_two);
        largest(scores.data(), g.groups, g.groups, order);
        for (int64_t i = g.chosen_groups; i < g.groups; ++i) {
          std::fill_n(choice.begin() + order[i] * size, size, -INFINITY);
        }
      }
      largest(choice.data(), count, g.k, order);
      float total = g.eps;
      for (int64_t i : order) total += norm[i];
      for (int64_t i = 0; i < g.k; ++i) {
        weights[row * g.k + i] = norm[order[i]] / (g.sigmoid ? total : 1.0f) * g.factor;
        index[row * g.k + i] = static_cast<int32_t>(order[i]);
      }
      if (g.keep_norm) std::copy(norm.begin(), norm.end(), g.norm.mutable_data_ptr<float>() + row * count);
    }
  });
  g.y.copy_(y);
}

struct SoftmaxGating {
  int64_t k;
  bool top_first, keep_softmax;
  at::Tensor x, finished, y, index, result;
};

void gate_softmax(const SoftmaxGating& g) {
  const at::Tensor x = g.x.to(at::kFloat).contiguous();
  const at::Tensor finished = g.finished.defined() ? g.finished.contiguous() : g.finished;
  const at::Tensor y = at::empty(g.y.sizes(), at::kFloat);
  const int64_t count = x.size(-1), rows = count == 0 ? 0 : x.numel() / count;
  auto* weights = y.mutable_data_ptr<float>();
  auto* index = g.index.mutable_data_ptr<int32_t>();
  at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> norm(count), top(g.k);
    std::vector<int64_t> order;
    for (int64_t row = begin; row < end; ++row) {
      const float* from = x.const_data_ptr<float>() + row * count;
      largest(from, count, g.k, order);
      if (g.top_first) {
        for (int64_t i = 0; i < g.k; ++i) top[i] = from[order[i]];
        if (g.k > 0) softmax(top.data(), g.k, weights + row * g.k);
      } else {
        softmax(from, count, norm.data());
        for (int64_t i = 0; i < g.k; ++i) weights[row * g.k + i] = norm[order[i]];
        if (g.keep_softmax) std::copy(norm.begin(), norm.end(), g.result.mutable_data_ptr<float>() + row * count);
      }
      const bool done = finished.defined() && finished.const_data_ptr<bool>()[row];
      for (int64_t i = 0; i < g.k; ++i) index[row * g.k + i] = static_cast<int32_t>(done ? count : order[i]);
    }
  });
  g.y.copy_(y);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnMoeGatingTopKGetWorkspaceSize(const aclTensor* x, const aclTensor* bias, int64_t k,
                                                    int64_t k_group, int64_t group_count, int64_t group_select_mode,
                                                    int64_t renorm, int64_t norm_type, bool out_flag,
                                                    double routed_scaling_factor, double eps, const aclTensor* y,
                                                    const aclTensor* expert_idx, const aclTensor* out,
                                                    uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kMoeGatingTopK);
  call.input("x", x).input("bias", bias).integer("k", k).integer("kGroup", k_group).integer("groupCount", group_count);
  call.integer("groupSelectMode", group_select_mode).integer("renorm", renorm).integer("normType", norm_type);
  call.output("yOut", y).output("expertIdxOut", expert_idx).output("outOut", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [gating = Gating{k, group_count, k_group, group_select_mode == 1, norm_type == 1, out_flag,
                                      static_cast<float>(routed_scaling_factor), static_cast<float>(eps), view(x),
                                      view(bias), view(y), view(expert_idx), view(out)}] { gate(gating); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeGatingTopK)

ACL_API aclError aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize(const aclTensor* x, const aclTensor* finished, int64_t k,
                                                             int64_t renorm, bool output_softmax, const aclTensor* y,
                                                             const aclTensor* expert_idx,
                                                             const aclTensor* softmax_result,
                                                             uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kMoeGatingTopKSoftmaxV2);
  call.input("x", x).input("finished", finished).integer("k", k).integer("renorm", renorm);
  call.integer("outputSoftmaxResultFlag", output_softmax);
  call.output("yOut", y).output("expertIdxOut", expert_idx).output("softmaxResultOut", softmax_result);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [gating = SoftmaxGating{k, renorm == 1, output_softmax, view(x), view(finished), view(y),
                                             view(expert_idx), view(softmax_result)}] { gate_softmax(gating); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeGatingTopKSoftmaxV2)
