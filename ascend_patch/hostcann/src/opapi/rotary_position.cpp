// aclnnRotaryPositionEmbedding and aclnnApplyRotaryPosEmbV2: rotary embedding with cos and sin given per token.
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/stack.h>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

bool even_size(const Call& c, const char* name) { return c.size(name, -1) % 2 == 0; }

// cos and sin spread over x: in every dimension but the last either x's size or 1.
bool spreads(const Call& c) {
  for (int i = 0; i < 3; ++i) {
    if (c.size("cos", i) != 1 && c.size("cos", i) != c.size("x", i)) return false;
  }
  return c.size("cos", 3) == c.size("x", 3);
}

bool dimensions_match(const Call& c) {
  if (!spreads(c)) return false;
  // Interleaved pairs: 11SD for BNSD, 1S1D for BSND, S11D for SBND, that is one dimension of x and ones.
  if (c.integer("mode") == 1) {
    int own = 0;
    for (int i = 0; i < 3; ++i) own += c.size("cos", i) != 1;
    return own <= 1;
  }
  return true;
}

const OperatorTable kRotaryPositionEmbedding{
    "aclnnRotaryPositionEmbedding", "CANN ops-transformer, aclnnRotaryPositionEmbedding.md", kA2A3,
    {{"x", kFloats, 4, 4}, {"cos", kFloats, 4, 4}, {"sin", kFloats, 4, 4}, {"out", kFloats, 4, 4, true}},
    {{"mode", "0 (half) or 1 (interleave)", "parameters, mode",
      [](const Call& c) { return c.integer("mode") == 0 || c.integer("mode") == 1; }, kTilingError},
     {"cos", "the type of x", "parameters, cos", [](const Call& c) { return c.same_dtype("x", "cos"); }},
     {"sin", "the type of x", "parameters, sin", [](const Call& c) { return c.same_dtype("x", "sin"); }},
     {"out", "the type of x", "parameters, out", [](const Call& c) { return c.same_dtype("x", "out"); }},
     {"out", "the shape of x", "constraints", [](const Call& c) { return c.same_shape("x", "out"); }, kTilingError},
     {"sin", "the shape of cos", "constraints", [](const Call& c) { return c.same_shape("cos", "sin"); }, kTilingError},
     {"x", "an even last dimension below 896", "constraints, A2 and A3",
      [](const Call& c) { return even_size(c, "x") && c.size("x", 3) < 896; }, kTilingError},
     {"x", "fewer than 1000 in the first two dimensions", "constraints, half mode",
      [](const Call& c) {
        // B and N, whichever two of the first three dimensions they are: one of the three is S and unlimited.
        int large = 0;
        for (int i = 0; i < 3; ++i) large += c.size("x", i) >= 1000;
        return large <= 1;
      },
      kTilingError},
     {"cos", "x's last dimension, and before it x's sizes or 1 (interleave: at most one size other than 1)",
      "constraints", dimensions_match, kTilingError}}};

const char* kHalfOrInterleave = "\"half\" or \"interleave\" (\"quarter\" is not emulated)";

// The unified buffer that aclnnApplyRotaryPosEmbV2.md says one token needs.
int64_t buffer_bytes(const Call& c) {
  const int heads = c.integer("layout") == 3 ? 1 : 2;
  const int64_t both = c.size("query", heads) + c.size("key", heads);
  const bool cast = c.tensor("query")->dtype == kBf16;
  const auto element = static_cast<int64_t>(element_size(c.tensor("query")->dtype));
  const int64_t inside = cast ? 4 : element;
  return both * 128 * inside * 5 + 128 * element * 4 + (cast ? 128 * 4 * 2 : 0);
}

bool same_but_heads(const Call& c, const char* other, bool one_head) {
  const int heads = c.integer("layout") == 3 ? 1 : 2;
  for (int i = 0; i < 4; ++i) {
    if (i == heads ? one_head && c.size(other, i) != 1 : c.size(other, i) != c.size("query", i)) return false;
  }
  return true;
}

const OperatorTable kApplyRotaryPosEmb{
    "aclnnApplyRotaryPosEmbV2", "CANN ops-transformer, aclnnApplyRotaryPosEmbV2.md", kA2A3,
    {{"query", kFloats, 4, 4}, {"key", kFloats, 4, 4}, {"cos", kFloats, 4, 4}, {"sin", kFloats, 4, 4}},
    {{"layout", "1 (BSND), 2 (SBND) or 3 (BNSD)", "parameters, layout",
      [](const Call& c) { return c.integer("layout") >= 1 && c.integer("layout") <= 3; }},
     {"rotaryMode", kHalfOrInterleave, "parameters, rotaryMode",
      [](const Call& c) { return c.text("rotaryMode") == "half" || c.text("rotaryMode") == "interleave"; }},
     {"query", "a tensor that is not empty", "parameters, queryRef",
      [](const Call& c) { return element_count(*c.tensor("query")) > 0; }},
     {"query", "a last dimension of 128", "parameters, queryRef",
      [](const Call& c) { return c.size("query", 3) == 128; }},
     {"key", "the type of query", "constraints", [](const Call& c) { return c.same_dtype("query", "key"); }},
     {"cos", "the type of query", "constraints", [](const Call& c) { return c.same_dtype("query", "cos"); }},
     {"sin", "the type of query", "constraints", [](const Call& c) { return c.same_dtype("query", "sin"); }},
     {"key", "the shape of query but for the number of heads", "constraints",
      [](const Call& c) { return same_but_heads(c, "key", false); }},
     {"cos", "the shape of query with one head", "constraints",
      [](const Call& c) { return same_but_heads(c, "cos", true); }},
     {"sin", "the shape of query with one head", "constraints",
      [](const Call& c) { return same_but_heads(c, "sin", true); }},
     {"query", "few enough heads for a token of query and key to fit the unified buffer", "constraints, ub_required",
      [](const Call& c) { return buffer_bytes(c) <= soc().ub_bytes; }}}};

// x * cos + rotated(x) * sin in float32.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool interleave) {
  const at::Tensor wide = x.to(at::kFloat);
  at::Tensor turned;
  if (interleave) {
    const at::Tensor first = wide.slice(-1, 0, c10::nullopt, 2), second = wide.slice(-1, 1, c10::nullopt, 2);
    turned = at::stack({at::neg(second), first}, -1).flatten(-2);
  } else {
    const int64_t half = wide.size(-1) / 2;
    turned = at::cat({at::neg(wide.slice(-1, half)), wide.slice(-1, 0, half)}, -1);
  }
  return at::add(at::mul(wide, cos.to(at::kFloat)), at::mul(turned, sin.to(at::kFloat)));
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnRotaryPositionEmbeddingGetWorkspaceSize(const aclTensor* x, const aclTensor* cos,
                                                              const aclTensor* sin, int64_t mode, aclTensor* out,
                                                              uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kRotaryPositionEmbedding);
  call.input("x", x).input("cos", cos).input("sin", sin).integer("mode", mode).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor, [x = view(x), c = view(cos), s = view(sin), o = view(out), mode] {
    if (x.numel()) o.copy_(rotated(x, c, s, mode == 1));
  });
}
HOSTCANN_OPERATOR_RUN(aclnnRotaryPositionEmbedding)

ACL_API aclError aclnnApplyRotaryPosEmbV2GetWorkspaceSize(aclTensor* query, aclTensor* key, const aclTensor* cos,
                                                          const aclTensor* sin, int64_t layout, char* rotary_mode,
                                                          uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kApplyRotaryPosEmb);
  call.output("query", query).output("key", key).input("cos", cos).input("sin", sin);
  call.integer("layout", layout).text("rotaryMode", rotary_mode);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [q = view(query), k = view(key), c = view(cos), s = view(sin),
                      interleave = call.text("rotaryMode") == "interleave"] {
                       q.copy_(rotated(q, c, s, interleave));
                       k.copy_(rotated(k, c, s, interleave));
                     });
}
HOSTCANN_OPERATOR_RUN(aclnnApplyRotaryPosEmbV2)
