// aclnnMatmulAllReduce: a product of 16-bit matrices, added up over all ranks of a communicator.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include "hostcann/exchange.h"
#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr Families kA2 = family(SocFamily::k910B);
constexpr Families kA2A5 = kA2 | family(SocFamily::k950);

int64_t columns(const Call& c, const char* name) {
  return c.size(name, static_cast<int>(c.tensor(name)->shape.size()) - 1);
}

// As it is or transposed: one of both dimensions without gaps.
bool matrix_without_gaps(const aclTensor& matrix) {
  return is_contiguous(matrix) || (matrix.strides[0] == 1 && matrix.strides[1] == matrix.shape[0]);
}

bool one_of(int64_t size, std::initializer_list<int64_t> sizes) {
  for (const int64_t allowed : sizes) {
    if (size == allowed) return true;
  }
  return false;
}

const OperatorTable kMatmulAllReduce{
    "aclnnMatmulAllReduce", "CANN ops-transformer, aclnnMatmulAllReduce.md", kA2A5,
    {{"x1", kHalfFloats, 2, 3, true},
     {"x2", kHalfFloats, 2, 2},
     {"bias", kHalfFloats, 1, 1, false, Presence::kOptional},
     {"output", kHalfFloats, 2, 3, true}},
    {{"group", "the name of a communicator", "parameters, group",
      [](const Call& c) { return find_ranks(c.text("group")).size != 0; }},
     {"group", "1, 2, 4 or 8 ranks", "constraints, Atlas A2",
      [](const Call& c) { return one_of(find_ranks(c.text("group")).size, {1, 2, 4, 8}); }, kTilingError, kA2},
     {"group", "1, 2, 4, 8, 16, 32 or 64 ranks", "constraints, Ascend 950",
      [](const Call& c) { return one_of(find_ranks(c.text("group")).size, {1, 2, 4, 8, 16, 32, 64}); }, kTilingError,
      family(SocFamily::k950)},
     {"reduceOp", "sum", "parameters, reduceOp", [](const Call& c) { return c.text("reduceOp") == "sum"; }},
     {"commTurn", "0", "parameters, commTurn", [](const Call& c) { return c.integer("commTurn") == 0; }},
     {"streamMode", "1", "parameters, streamMode", [](const Call& c) { return c.integer("streamMode") == 1; }},
     {"x2", "the type of x1", "constraints, types", [](const Call& c) { return c.same_dtype("x1", "x2"); }},
     {"bias", "the type of x1", "constraints, types",
      [](const Call& c) { return !c.has("bias") || c.same_dtype("x1", "bias"); }},
     {"output", "the type of x1", "constraints, types", [](const Call& c) { return c.same_dtype("x1", "output"); }},
     {"x2", "a matrix without gaps, as it is or transposed", "parameters, x2",
      [](const Call& c) { return matrix_without_gaps(*c.tensor("x2")); }},
     {"x1", "no size of 0", "op-plugin, npu_mm_all_reduce_base, constraints, Atlas A2",
      [](const Call& c) { return view(c.tensor("x1")).numel() > 0; }, kAclnnInvalidParam, kA2},
     {"x2", "no size of 0", "op-plugin, npu_mm_all_reduce_base, constraints, Atlas A2",
      [](const Call& c) { return view(c.tensor("x2")).numel() > 0; }, kAclnnInvalidParam, kA2},
     {"x2", "as many rows as x1 has columns", "constraints, shapes",
      [](const Call& c) { return c.size("x2", 0) == columns(c, "x1"); }},
     {"bias", "one per column of x2", "constraints, shapes",
      [](const Call& c) { return !c.has("bias") || c.size("bias", 0) == c.size("x2", 1); }},
     {"output", "the shape of x1, with the columns of x2", "constraints, shapes",
      [](const Call& c) {
        std::vector<int64_t> wanted = c.tensor("x1")->shape;
        wanted.back() = c.size("x2", 1);
        return c.tensor("output")->shape == wanted;
      }},
     {"group", "a communicator without operators that want it for themselves",
      "aclnnMoeDistributeDispatchV2.md, constraints, communicators",
      [](const Call& c) { return use_beside_collectives(c.text("group")); }}}};

struct Product {
  std::string group;
  at::Tensor x1, x2, bias, out;
};

// Every rank shows its product to every other, and all add them up in the order of the ranks.
void multiply_and_add_up(const Product& p) {
  at::Tensor own = at::matmul(p.x1.to(at::kFloat), p.x2.to(at::kFloat));
  if (p.bias.defined()) own.add_(p.bias.to(at::kFloat));
  own = own.to(p.out.scalar_type()).contiguous();
  const Ranks ranks = find_ranks(p.group);
  std::vector<at::Tensor> parts(ranks.size, own);
  std::vector<Piece> sent, received;
  const auto bytes = static_cast<uint64_t>(own.nbytes());
  for (uint32_t step = 1; step < ranks.size; ++step) {
    const uint32_t to = (ranks.rank + step) % ranks.size;
    const uint32_t from = (ranks.rank + ranks.size - step) % ranks.size;
    parts[from] = at::empty(own.sizes(), own.options());
    sent.push_back({to, own.mutable_data_ptr(), bytes});
    received.push_back({from, parts[from].mutable_data_ptr(), bytes});
  }
  if (ranks.size > 1) exchange(p.group, Exchange::kMatmulAllReduce, own.numel(), sent, received);
  at::Tensor sum = parts[0].to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  for (uint32_t rank = 1; rank < ranks.size; ++rank) sum.add_(parts[rank].to(at::kFloat));
  p.out.copy_(sum);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnMatmulAllReduceGetWorkspaceSize(const aclTensor* x1, const aclTensor* x2, const aclTensor* bias,
                                                      const char* group, const char* reduce_op, int64_t comm_turn,
                                                      int64_t stream_mode, const aclTensor* output,
                                                      uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kMatmulAllReduce);
  call.input("x1", x1).input("x2", x2).input("bias", bias).text("group", group).text("reduceOp", reduce_op);
  call.integer("commTurn", comm_turn).integer("streamMode", stream_mode).output("output", output);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [product = Product{call.text("group"), view(x1), view(x2), view(bias), view(output)}] {
                       multiply_and_add_up(product);
                     });
}
HOSTCANN_OPERATOR_RUN(aclnnMatmulAllReduce)
