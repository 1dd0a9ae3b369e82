// aclnnAttentionUpdate: joins attention over two parts of the keys, given the log-sum-exp of the scores of each part.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr const char* kLse[] = {"lse[0]", "lse[1]"};
constexpr const char* kLocalOut[] = {"localOut[0]", "localOut[1]"};

int64_t rows(const Call& c) { return c.size("localOut[0]", 0); }

bool lse_out_fits(const Call& c) {
  return !c.has("lseOut") || c.tensor("lseOut")->shape == std::vector<int64_t>{rows(c)};
}

const OperatorTable kAttentionUpdate{
    "aclnnAttentionUpdate", "CANN ops-transformer, aclnnAttentionUpdate.md", kA2A3A5,
    {{"lse[0]", dtypes(kFloat), 1, 1, true},
     {"lse[1]", dtypes(kFloat), 1, 1, true},
     {"localOut[0]", kFloats, 2, 2, true},
     {"localOut[1]", kFloats, 2, 2, true},
     {"out", kFloats, 2, 2, true},
     {"lseOut", dtypes(kFloat), 1, 1, true, Presence::kOptional}},
    {{"sp", "2 tensors in each list (other numbers up to 16 are not emulated)", "constraints, sp",
      [](const Call& c) { return c.integer("sp") == 2; }},
     {"updateType", "0 or 1", "parameters, updateType",
      [](const Call& c) { return c.integer("updateType") == 0 || c.integer("updateType") == 1; }},
     {"lseOut", "given with updateType 1 and only then", "returns, 161002",
      [](const Call& c) { return c.has("lseOut") == (c.integer("updateType") == 1); }},
     {"localOut[0]", "a head size of 8 to 512 that is a multiple of 8", "constraints, headDim",
      [](const Call& c) {
        const int64_t size = c.size("localOut[0]", 1);
        return size >= 8 && size <= 512 && size % 8 == 0;
      }},
     {"localOut[1]", "the shape of localOut[0]", "parameters, localOut",
      [](const Call& c) { return c.same_shape("localOut[0]", "localOut[1]"); }},
     {"localOut[1]", "the type of localOut[0]", "parameters, localOut",
      [](const Call& c) { return c.same_dtype("localOut[0]", "localOut[1]"); }},
     {"lse[0]", "one value per row of localOut[0]", "parameters, lse",
      [](const Call& c) { return c.size("lse[0]", 0) == rows(c); }},
     {"lse[1]", "one value per row of localOut[0]", "parameters, lse",
      [](const Call& c) { return c.size("lse[1]", 0) == rows(c); }},
     {"out", "the shape of localOut[0]", "parameters, out",
      [](const Call& c) { return c.same_shape("localOut[0]", "out"); }},
     {"out", "the type of localOut[0]", "parameters, out",
      [](const Call& c) { return c.same_dtype("localOut[0]", "out"); }},
     {"lseOut", "one value per row of localOut[0]", "parameters, lseOut", lse_out_fits}}};

struct Joined {
  const float* lse[2];
  const void* parts[2];
  void* out;
  float* lse_out;
  int64_t rows, size;
};

template <typename T>
void join(const Joined& j) {
  at::parallel_for(0, j.rows, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float a = j.lse[0][row], b = j.lse[1][row], top = std::max(a, b);
      const float total = top + std::log(std::exp(a - top) + std::exp(b - top));
      const float first = std::exp(a - total), second = std::exp(b - total);
      const T* x = static_cast<const T*>(j.parts[0]) + row * j.size;
      const T* y = static_cast<const T*>(j.parts[1]) + row * j.size;
      T* to = static_cast<T*>(j.out) + row * j.size;
      for (int64_t i = 0; i < j.size; ++i) {
        to[i] = static_cast<T>(static_cast<float>(x[i]) * first + static_cast<float>(y[i]) * second);
      }
      if (j.lse_out != nullptr) j.lse_out[row] = total;
    }
  });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnAttentionUpdateGetWorkspaceSize(const aclTensorList* lse, const aclTensorList* local_out,
                                                      int64_t update_type, aclTensor* out, aclTensor* lse_out,
                                                      uint64_t* workspace_size, aclOpExecutor** executor) {
  if (lse == nullptr || local_out == nullptr) return fail(kAclnnNullPointer, "aclnnAttentionUpdate: a list is null");
  Call call(kAttentionUpdate);
  const size_t parts = lse->values.size() == local_out->values.size() ? lse->values.size() : 0;
  for (size_t i = 0; i < 2; ++i) {
    // The first tensor stands in for one that a wrong list lacks, so that the rule for their number is what complains.
    call.input(kLse[i], parts == 0 ? nullptr : lse->values[std::min(i, parts - 1)]);
    call.input(kLocalOut[i], parts == 0 ? nullptr : local_out->values[std::min(i, parts - 1)]);
  }
  call.integer("sp", static_cast<int64_t>(parts)).integer("updateType", update_type);
  call.output("out", out).output("lseOut", lse_out);
  if (aclError error = call.check()) return error;
  Joined j{};
  for (size_t i = 0; i < 2; ++i) {
    j.lse[i] = static_cast<const float*>(first_element(*call.tensor(kLse[i])));
    j.parts[i] = first_element(*call.tensor(kLocalOut[i]));
  }
  j.out = first_element(*out);
  j.lse_out = lse_out == nullptr ? nullptr : static_cast<float*>(first_element(*lse_out));
  j.rows = rows(call);
  j.size = call.size("localOut[0]", 1);
  return call.finish(workspace_size, executor, [j, dtype = out->dtype] {
    for_float_type(dtype, [&](auto zero) { join<decltype(zero)>(j); });
  });
}
HOSTCANN_OPERATOR_RUN(aclnnAttentionUpdate)
