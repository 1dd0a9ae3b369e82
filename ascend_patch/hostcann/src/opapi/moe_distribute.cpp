// aclnnMoeDistributeDispatchV2 and CombineV2: tokens to the ranks of their experts, and the experts' answers back.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "hostcann/exchange.h"
#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr Families kA2 = family(SocFamily::k910B);
constexpr Families kA3A5 = family(SocFamily::k910_93) | family(SocFamily::k950);

int64_t ranks(const Call& c) { return c.integer("epWorldSize"); }
int64_t own_experts(const Call& c) { return c.integer("moeExpertNum") / ranks(c); }
int64_t choices(const Call& c) { return c.size("expertIds", 1); }
// Tokens of the rank that has the most.
int64_t most_tokens(const Call& c) {
  return c.integer("globalBS") == 0 ? c.size("expertIds", 0) : c.integer("globalBS") / ranks(c);
}
int64_t most_rows(const Call& c) { return most_tokens(c) * ranks(c) * std::min(own_experts(c), choices(c)); }

bool fullmesh_size(const Call& c) {
  constexpr int64_t kMany[] = {16, 32, 64, 128, 256};
  return (ranks(c) >= 2 && ranks(c) <= 8) || std::count(std::begin(kMany), std::end(kMany), ranks(c)) != 0;
}

int64_t align(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// HCCL_BUFFSIZE, the memory of a communicator in MB.
bool fits_buffer(const Call& c, const char* rows) {
  const char* const text = std::getenv("HCCL_BUFFSIZE");
  const int64_t buffer = (text == nullptr || *text == '\0' ? 200 : std::atoll(text)) << 20;
  const int64_t most = most_tokens(c), hidden = c.size(rows, 1);
  int64_t needed = 0;
  if (soc().family == SocFamily::k910B) {
    needed = 2 * (most * ranks(c) * std::min(own_experts(c), choices(c)) * hidden * 2 + (2 << 20));
  } else {
    needed = 2 * (own_experts(c) * most * ranks(c) * align(align(2 * hidden, 32) + 64, 512) +
                  choices(c) * most * align(2 * hidden, 512));
  }
  return buffer >= needed;
}

// What both operators check; `rows` holds as many columns as a token.
std::vector<Rule> with_common_rules(std::vector<Rule> rules) {
  const std::vector<Rule> common{
      {"epWorldSize", "2 to 8, 16, 32, 64, 128 or 256", "op-plugin, npu_moe_distribute_dispatch_v2, ep_world_size, fullmesh",
       fullmesh_size, kTilingError, kA2},
      {"epWorldSize", "2 to 768", "parameters, Atlas A3, epWorldSize",
       [](const Call& c) { return ranks(c) >= 2 && ranks(c) <= 768; }, kTilingError, kA3A5},
      {"epRankId", "0 to epWorldSize - 1", "parameters, epRankId",
       [](const Call& c) { return c.integer("epRankId") >= 0 && c.integer("epRankId") < ranks(c); }, kTilingError},
      {"groupEp", "the name of a communicator, of 1 to 127 characters", "parameters, groupEp",
       [](const Call& c) {
         const std::string& name = c.text("groupEp");
         return !name.empty() && name.size() < 128 && find_ranks(name).size != 0;
       }},
      {"epWorldSize", "the size of the communicator", "parameters, epWorldSize",
       [](const Call& c) { return find_ranks(c.text("groupEp")).size == ranks(c); }, kTilingError},
      {"epRankId", "this rank's number in the communicator", "parameters, epRankId",
       [](const Call& c) { return find_ranks(c.text("groupEp")).rank == c.integer("epRankId"); }, kTilingError},
      {"moeExpertNum", "1 to 1024", "parameters, moeExpertNum",
       [](const Call& c) { return c.integer("moeExpertNum") >= 1 && c.integer("moeExpertNum") <= 1024; },
       kTilingError},
      {"moeExpertNum", "a multiple of the ranks", "parameters, moeExpertNum",
       [](const Call& c) { return c.integer("moeExpertNum") % ranks(c) == 0; }, kTilingError},
      {"groupTp", "no communicator (none is emulated)", "parameters, groupTp",
       [](const Call& c) { return c.text("groupTp").empty(); }},
      {"tpWorldSize", "0", "parameters, Atlas A2, tpWorldSize", [](const Call& c) { return c.integer("tpWorldSize") == 0; },
       kTilingError, kA2},
      {"tpWorldSize", "0 or 1 (2 is not emulated)", "parameters, Atlas A3, tpWorldSize",
       [](const Call& c) { return c.integer("tpWorldSize") == 0 || c.integer("tpWorldSize") == 1; }, kTilingError,
       kA3A5},
      {"tpRankId", "0", "parameters, tpRankId", [](const Call& c) { return c.integer("tpRankId") == 0; }, kTilingError},
      {"expertShardType", "0", "parameters, expertShardType",
       [](const Call& c) { return c.integer("expertShardType") == 0; }, kTilingError},
      {"sharedExpertNum", "0", "parameters, Atlas A2, sharedExpertNum",
       [](const Call& c) { return c.integer("sharedExpertNum") == 0; }, kTilingError, kA2},
      {"sharedExpertNum", "0 or 1 without ranks of shared experts", "parameters, Atlas A3, sharedExpertRankNum",
       [](const Call& c) { return c.integer("sharedExpertNum") == 0 || c.integer("sharedExpertNum") == 1; },
       kTilingError, kA3A5},
      {"sharedExpertRankNum", "0 (others are not emulated)", "parameters, sharedExpertRankNum",
       [](const Call& c) { return c.integer("sharedExpertRankNum") == 0; }, kTilingError},
      {"commAlg", "fullmesh (hierarchy, and the choice by environment variables, are not emulated)",
       "parameters, Atlas A2, commAlg", [](const Call& c) { return c.text("commAlg") == "fullmesh"; },
       kAclnnInvalidParam, kA2},
      {"commAlg", "none", "parameters, Atlas A3, commAlg", [](const Call& c) { return c.text("commAlg").empty(); },
       kAclnnInvalidParam, kA3A5},
      {"expertIds", "1 to 16 experts per token, at most all", "constraints, K",
       [](const Call& c) { return choices(c) >= 1 && choices(c) <= 16 && choices(c) <= c.integer("moeExpertNum"); },
       kTilingError},
      {"expertIds", "1 to 256 tokens", "constraints, BS, Atlas A2, fullmesh",
       [](const Call& c) { return c.size("expertIds", 0) >= 1 && c.size("expertIds", 0) <= 256; }, kTilingError, kA2},
      {"expertIds", "1 to 512 tokens", "constraints, BS, Atlas A3",
       [](const Call& c) { return c.size("expertIds", 0) >= 1 && c.size("expertIds", 0) <= 512; }, kTilingError,
       kA3A5},
      {"globalBS", "0, or the ranks times the most tokens of a rank", "parameters, globalBS",
       [](const Call& c) {
         return c.integer("globalBS") % ranks(c) == 0 && most_tokens(c) >= c.size("expertIds", 0);
       },
       kTilingError}};
  rules.insert(rules.begin(), common.begin(), common.end());
  return rules;
}

bool columns_of_a2(const Call& c, const char* rows) {
  return c.size(rows, 1) > 0 && c.size(rows, 1) <= 7168 && c.size(rows, 1) % 32 == 0;
}
bool columns_of_a3(const Call& c, const char* rows) { return c.size(rows, 1) >= 1024 && c.size(rows, 1) <= 8192; }

const OperatorTable kDispatch{
    "aclnnMoeDistributeDispatchV2", "CANN ops-transformer, aclnnMoeDistributeDispatchV2.md", kA2A3A5,
    {{"x", kHalfFloats, 2, 2, true},
     {"expertIds", dtypes(kInt32), 2, 2, true},
     unsupported("scales"),
     unsupported("xActiveMask"),
     {"expertScales", dtypes(kFloat), 2, 2, true, Presence::kOptional},
     {"expandXOut", kHalfFloats, 2, 2, true},
     {"dynamicScalesOut", dtypes(kFloat), 1, 1},
     {"assistInfoForCombineOut", dtypes(kInt32), 1, 1, true},
     {"expertTokenNumsOut", dtypes(kInt64), 1, 1, true},
     {"epRecvCountsOut", dtypes(kInt32), 1, 1, true},
     {"tpRecvCountsOut", dtypes(kInt32), 1, 1},
     {"expandScalesOut", dtypes(kFloat), 1, 1, true}},
    with_common_rules(
        {{"x", "up to 7168 columns, a multiple of 32", "op-plugin, constraints, H, fullmesh",
          [](const Call& c) { return columns_of_a2(c, "x"); }, kTilingError, kA2},
         {"x", "1024 to 8192 columns", "constraints, H, Atlas A3",
          [](const Call& c) { return columns_of_a3(c, "x"); }, kTilingError, kA3A5},
         {"expertIds", "the rows of x", "parameters, expertIds",
          [](const Call& c) { return c.size("expertIds", 0) == c.size("x", 0); }, kTilingError},
         {"expertScales", "the shape of expertIds", "parameters, Atlas A2, expertScalesOptional",
          [](const Call& c) { return c.has("expertScales") && c.same_shape("expertScales", "expertIds"); },
          kTilingError, kA2},
         {"expertScales", "none", "parameters, Atlas A3, expertScalesOptional",
          [](const Call& c) { return !c.has("expertScales"); }, kAclnnInvalidParam, kA3A5},
         {"quantMode", "0, no quantisation (others are not emulated)", "parameters, quantMode",
          [](const Call& c) { return c.integer("quantMode") == 0; }, kTilingError},
         {"expertTokenNumsType", "0 (running totals) or 1 (counts)", "parameters, expertTokenNumsType",
          [](const Call& c) { return c.integer("expertTokenNumsType") == 0 || c.integer("expertTokenNumsType") == 1; },
          kTilingError},
         {"x", "so many tokens and columns that HCCL_BUFFSIZE is enough", "constraints, HCCL_BUFFSIZE",
          [](const Call& c) { return fits_buffer(c, "x"); }, kTilingError},
         {"expandXOut", "the type of x", "constraints, quantMode",
          [](const Call& c) { return c.same_dtype("x", "expandXOut"); }},
         {"expandXOut", "a row for every token that may come, as wide as x", "constraints, A",
          [](const Call& c) {
            return c.size("expandXOut", 0) >= most_rows(c) && c.size("expandXOut", 1) == c.size("x", 1);
          },
          kTilingError},
         {"assistInfoForCombineOut", "128 for every row of expandXOut", "parameters, assistInfoForCombineOut",
          [](const Call& c) { return c.size("assistInfoForCombineOut", 0) >= 128 * c.size("expandXOut", 0); },
          kTilingError},
         {"expertTokenNumsOut", "one for each expert of this rank", "parameters, expertTokenNumsOut",
          [](const Call& c) { return c.size("expertTokenNumsOut", 0) == own_experts(c); }, kTilingError},
         {"epRecvCountsOut", "one for each rank and expert of this rank", "parameters, epRecvCountsOut",
          [](const Call& c) { return c.size("epRecvCountsOut", 0) >= c.integer("moeExpertNum"); }, kTilingError},
         {"groupEp", "a communicator that nothing else uses", "constraints, communicators",
          [](const Call& c) { return reserve_for_operators(c.text("groupEp")); }}})};

const OperatorTable kCombine{
    "aclnnMoeDistributeCombineV2", "CANN ops-transformer, aclnnMoeDistributeCombineV2.md", kA2A3A5,
    {{"expandX", kHalfFloats, 2, 2, true},
     {"expertIds", dtypes(kInt32), 2, 2, true},
     {"assistInfoForCombine", dtypes(kInt32), 1, 1, true},
     {"epSendCounts", dtypes(kInt32), 1, 1, true},
     {"expertScales", dtypes(kFloat), 2, 2, true},
     {"tpSendCounts", dtypes(kInt32), 1, 1, false, Presence::kOptional},
     unsupported("xActiveMask"),
     unsupported("activationScale"),
     unsupported("weightScale"),
     unsupported("groupList"),
     {"expandScales", dtypes(kFloat), 1, 1, true, Presence::kOptional},
     unsupported("sharedExpertX"),
     {"xOut", kHalfFloats, 2, 2, true}},
    with_common_rules(
        {{"expandX", "up to 7168 columns, a multiple of 32", "op-plugin, constraints, H, fullmesh",
          [](const Call& c) { return columns_of_a2(c, "expandX"); }, kTilingError, kA2},
         {"expandX", "1024 to 8192 columns", "constraints, H, Atlas A3",
          [](const Call& c) { return columns_of_a3(c, "expandX"); }, kTilingError, kA3A5},
         {"expandX", "a row for every token that may have come", "constraints, A",
          [](const Call& c) { return c.size("expandX", 0) >= most_rows(c); }, kTilingError},
         {"assistInfoForCombine", "128 for every row of expandX", "parameters, assistInfoForCombine",
          [](const Call& c) { return c.size("assistInfoForCombine", 0) >= 128 * c.size("expandX", 0); }, kTilingError},
         {"epSendCounts", "one for each rank and expert of this rank", "parameters, epSendCounts",
          [](const Call& c) { return c.size("epSendCounts", 0) >= c.integer("moeExpertNum"); }, kTilingError},
         {"expertScales", "the shape of expertIds", "parameters, expertScales",
          [](const Call& c) { return c.same_shape("expertScales", "expertIds"); }, kTilingError},
         {"expandScales", "one for each row of expandX", "parameters, Atlas A2, expandScalesOptional",
          [](const Call& c) { return c.has("expandScales") && c.size("expandScales", 0) == c.size("expandX", 0); },
          kTilingError, kA2},
         {"expandScales", "none", "parameters, Atlas A3, expandScalesOptional",
          [](const Call& c) { return !c.has("expandScales"); }, kAclnnInvalidParam, kA3A5},
         {"outDtype", "0", "parameters, outDtype", [](const Call& c) { return c.integer("outDtype") == 0; },
          kTilingError},
         {"commQuantMode", "0, no quantisation (2 is not emulated)", "parameters, commQuantMode",
          [](const Call& c) { return c.integer("commQuantMode") == 0; }, kTilingError},
         {"groupListType", "0", "parameters, groupListType",
          [](const Call& c) { return c.integer("groupListType") == 0; }, kTilingError},
         {"xOut", "the type of expandX", "parameters, xOut",
          [](const Call& c) { return c.same_dtype("expandX", "xOut"); }},
         {"xOut", "the rows of expertIds and the columns of expandX", "parameters, xOut",
          [](const Call& c) {
            return c.size("xOut", 0) == c.size("expertIds", 0) && c.size("xOut", 1) == c.size("expandX", 1);
          },
          kTilingError}})};

// Where a row of expandX comes from: what combine reads in assistInfoForCombine.
struct Origin {
  int32_t rank, token, choice;
};
constexpr int64_t kOriginStride = 128;

struct Shape {
  std::string group;
  int64_t ranks, rank, experts, tokens, choices, most, row_bytes;

  int64_t own() const { return experts / ranks; }
};

Shape shape_of(const Call& c, const char* rows) {
  return {c.text("groupEp"),         ranks(c),   c.integer("epRankId"), c.integer("moeExpertNum"),
          c.size("expertIds", 0),    choices(c), most_tokens(c),        c.size(rows, 1) * 2};
}

int64_t expert_at(const char* name, const Shape& s, const int32_t* ids, int64_t slot) {
  if (ids[slot] >= 0 && ids[slot] < s.experts) return ids[slot];
  throw std::runtime_error(std::string(name) + ": expertIds[" + std::to_string(slot / s.choices) + ", " +
                           std::to_string(slot % s.choices) + "] is " + std::to_string(ids[slot]) +
                           "; allowed: 0 to moeExpertNum - 1 = " + std::to_string(s.experts - 1) +
                           " (source: parameters, expertIds)");
}

struct Dispatch {
  Shape shape;
  const char* x;
  const int32_t* ids;
  const float* weights;  // or null
  bool totals;
  int64_t capacity;
  char* rows;
  int32_t *origins, *counts;
  int64_t* tokens_per_expert;
  float* row_weights;
};

// Every rank shows all its tokens to every other, in packets of one size: the number of tokens, where they go, their
// weights, themselves. Each picks those of its experts, by expert, then by rank, then in the order of the tokens.
void dispatch(const Dispatch& d) {
  const Shape& s = d.shape;
  const int64_t slots = s.most * s.choices;
  const int64_t weights_at = 8 + slots * 4, rows_at = weights_at + slots * 4, bytes = rows_at + s.most * s.row_bytes;
  std::vector<std::vector<char>> packets(s.ranks, std::vector<char>(bytes));
  std::vector<char>& own = packets[s.rank];
  for (int64_t slot = 0; slot < s.tokens * s.choices; ++slot) expert_at("aclnnMoeDistributeDispatchV2", s, d.ids, slot);
  std::memcpy(own.data(), &s.tokens, 8);
  std::memcpy(own.data() + 8, d.ids, s.tokens * s.choices * 4);
  if (d.weights != nullptr) std::memcpy(own.data() + weights_at, d.weights, s.tokens * s.choices * 4);
  std::memcpy(own.data() + rows_at, d.x, s.tokens * s.row_bytes);
  std::vector<Piece> sent, received;
  for (int64_t step = 1; step < s.ranks; ++step) {
    const auto to = static_cast<uint32_t>((s.rank + step) % s.ranks);
    const auto from = static_cast<uint32_t>((s.rank + s.ranks - step) % s.ranks);
    sent.push_back({to, own.data(), static_cast<uint64_t>(bytes)});
    received.push_back({from, packets[from].data(), static_cast<uint64_t>(bytes)});
  }
  exchange(s.group, Exchange::kDispatch, s.most * s.ranks, sent, received);
  int64_t row = 0;
  for (int64_t expert = 0; expert < s.own(); ++expert) {
    const int64_t before = row;
    for (int64_t rank = 0; rank < s.ranks; ++rank) {
      const char* const packet = packets[rank].data();
      const auto* const ids = reinterpret_cast<const int32_t*>(packet + 8);
      const auto* const weights = reinterpret_cast<const float*>(packet + weights_at);
      int64_t tokens = 0;
      std::memcpy(&tokens, packet, 8);
      for (int64_t slot = 0; slot < tokens * s.choices; ++slot) {
        if (ids[slot] != s.rank * s.own() + expert) continue;
        if (row == d.capacity) {
          throw std::runtime_error("aclnnMoeDistributeDispatchV2: a token names an expert twice: expandXOut has only " +
                                   std::to_string(d.capacity) + " rows (source: constraints, A)");
        }
        const int64_t token = slot / s.choices;
        std::memcpy(d.rows + row * s.row_bytes, packet + rows_at + token * s.row_bytes, s.row_bytes);
        const Origin origin{static_cast<int32_t>(rank), static_cast<int32_t>(token),
                            static_cast<int32_t>(slot % s.choices)};
        std::memcpy(d.origins + row * kOriginStride, &origin, sizeof origin);
        if (d.weights != nullptr) d.row_weights[row] = weights[slot];
        ++row;
      }
      d.counts[expert * s.ranks + rank] = static_cast<int32_t>(row);
    }
    d.tokens_per_expert[expert] = d.totals ? row : row - before;
  }
}

struct Combine {
  Shape shape;
  at::Tensor answers, weights, out;
  const int32_t *ids, *origins, *counts;
};

// A row goes back with its token and choice in front. Who gets how many rows from whom is known on both sides.
void combine(const Combine& c) {
  const Shape& s = c.shape;
  const int64_t record = 8 + s.row_bytes;
  std::vector<std::vector<char>> back(s.ranks), returned(s.ranks);
  const auto* const rows = static_cast<const char*>(c.answers.const_data_ptr());
  const int64_t count = c.counts[s.experts - 1];
  for (int64_t row = 0; row < count; ++row) {
    Origin origin;
    std::memcpy(&origin, c.origins + row * kOriginStride, sizeof origin);
    std::vector<char>& packet = back.at(origin.rank);
    packet.resize(packet.size() + record);
    char* const to = packet.data() + packet.size() - record;
    std::memcpy(to, &origin.token, 8);
    std::memcpy(to + 8, rows + row * s.row_bytes, s.row_bytes);
  }
  for (int64_t slot = 0; slot < s.tokens * s.choices; ++slot) {
    const int64_t rank = expert_at("aclnnMoeDistributeCombineV2", s, c.ids, slot) / s.own();
    returned[rank].resize(returned[rank].size() + record);
  }
  std::vector<Piece> sent, received;
  for (int64_t step = 1; step < s.ranks; ++step) {
    const auto to = static_cast<uint32_t>((s.rank + step) % s.ranks);
    const auto from = static_cast<uint32_t>((s.rank + s.ranks - step) % s.ranks);
    sent.push_back({to, back[to].data(), back[to].size()});
    received.push_back({from, returned[from].data(), returned[from].size()});
  }
  exchange(s.group, Exchange::kCombine, s.most * s.ranks, sent, received);
  returned[s.rank] = back[s.rank];
  const int64_t columns = c.out.size(1);
  const at::Tensor each = at::zeros({s.tokens, s.choices, columns}, c.out.options());
  for (const std::vector<char>& packet : returned) {
    for (size_t at = 0; at < packet.size(); at += record) {
      int32_t place[2];
      std::memcpy(place, packet.data() + at, 8);
      std::memcpy(static_cast<char*>(each.mutable_data_ptr()) + (place[0] * s.choices + place[1]) * s.row_bytes,
                  packet.data() + at + 8, s.row_bytes);
    }
  }
  c.out.copy_(each.to(at::kFloat).mul(c.weights.unsqueeze(-1)).sum(1));
}

template <typename T>
T* data(const aclTensor* tensor) {
  return tensor == nullptr ? nullptr : static_cast<T*>(first_element(*tensor));
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnMoeDistributeDispatchV2GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expert_ids, const aclTensor* scales, const aclTensor* x_active_mask,
    const aclTensor* expert_scales, const char* group_ep, int64_t ep_world_size, int64_t ep_rank_id,
    int64_t moe_expert_num, const char* group_tp, int64_t tp_world_size, int64_t tp_rank_id, int64_t expert_shard_type,
    int64_t shared_expert_num, int64_t shared_expert_rank_num, int64_t quant_mode, int64_t global_bs,
    int64_t expert_token_nums_type, const char* comm_alg, aclTensor* expand_x, aclTensor* dynamic_scales,
    aclTensor* assist_info, aclTensor* expert_token_nums, aclTensor* ep_recv_counts, aclTensor* tp_recv_counts,
    aclTensor* expand_scales, uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kDispatch);
  call.input("x", x).input("expertIds", expert_ids).input("scales", scales).input("xActiveMask", x_active_mask);
  call.input("expertScales", expert_scales).text("groupEp", group_ep).integer("epWorldSize", ep_world_size);
  call.integer("epRankId", ep_rank_id).integer("moeExpertNum", moe_expert_num).text("groupTp", group_tp);
  call.integer("tpWorldSize", tp_world_size).integer("tpRankId", tp_rank_id);
  call.integer("expertShardType", expert_shard_type).integer("sharedExpertNum", shared_expert_num);
  call.integer("sharedExpertRankNum", shared_expert_rank_num).integer("quantMode", quant_mode);
  call.integer("globalBS", global_bs).integer("expertTokenNumsType", expert_token_nums_type);
  call.text("commAlg", comm_alg).output("expandXOut", expand_x).output("dynamicScalesOut", dynamic_scales);
  call.output("assistInfoForCombineOut", assist_info).output("expertTokenNumsOut", expert_token_nums);
  call.output("epRecvCountsOut", ep_recv_counts).output("tpRecvCountsOut", tp_recv_counts);
  call.output("expandScalesOut", expand_scales);
  if (aclError error = call.check()) return error;
  const Dispatch arguments{shape_of(call, "x"),          data<const char>(x),
                           data<const int32_t>(expert_ids), data<const float>(expert_scales),
                           expert_token_nums_type == 0,  call.size("expandXOut", 0),
                           data<char>(expand_x),         data<int32_t>(assist_info),
                           data<int32_t>(ep_recv_counts), data<int64_t>(expert_token_nums),
                           data<float>(expand_scales)};
  return call.finish(workspace_size, executor, [arguments] { dispatch(arguments); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeDistributeDispatchV2)

ACL_API aclError aclnnMoeDistributeCombineV2GetWorkspaceSize(
    const aclTensor* expand_x, const aclTensor* expert_ids, const aclTensor* assist_info,
    const aclTensor* ep_send_counts, const aclTensor* expert_scales, const aclTensor* tp_send_counts,
    const aclTensor* x_active_mask, const aclTensor* activation_scale, const aclTensor* weight_scale,
    const aclTensor* group_list, const aclTensor* expand_scales, const aclTensor* shared_expert_x,
    const char* group_ep, int64_t ep_world_size, int64_t ep_rank_id, int64_t moe_expert_num, const char* group_tp,
    int64_t tp_world_size, int64_t tp_rank_id, int64_t expert_shard_type, int64_t shared_expert_num,
    int64_t shared_expert_rank_num, int64_t global_bs, int64_t out_dtype, int64_t comm_quant_mode,
    int64_t group_list_type, const char* comm_alg, aclTensor* out, uint64_t* workspace_size,
    aclOpExecutor** executor) {
  Call call(kCombine);
  call.input("expandX", expand_x).input("expertIds", expert_ids).input("assistInfoForCombine", assist_info);
  call.input("epSendCounts", ep_send_counts).input("expertScales", expert_scales);
  call.input("tpSendCounts", tp_send_counts).input("xActiveMask", x_active_mask);
  call.input("activationScale", activation_scale).input("weightScale", weight_scale).input("groupList", group_list);
  call.input("expandScales", expand_scales).input("sharedExpertX", shared_expert_x).text("groupEp", group_ep);
  call.integer("epWorldSize", ep_world_size).integer("epRankId", ep_rank_id).integer("moeExpertNum", moe_expert_num);
  call.text("groupTp", group_tp).integer("tpWorldSize", tp_world_size).integer("tpRankId", tp_rank_id);
  call.integer("expertShardType", expert_shard_type).integer("sharedExpertNum", shared_expert_num);
  call.integer("sharedExpertRankNum", shared_expert_rank_num).integer("globalBS", global_bs);
  call.integer("outDtype", out_dtype).integer("commQuantMode", comm_quant_mode);
  call.integer("groupListType", group_list_type).text("commAlg", comm_alg).output("xOut", out);
  if (aclError error = call.check()) return error;
  const Combine arguments{shape_of(call, "expandX"),       view(expand_x),
                          view(expert_scales),             view(out),
                          data<const int32_t>(expert_ids), data<const int32_t>(assist_info),
                          data<const int32_t>(ep_send_counts)};
  return call.finish(workspace_size, executor, [arguments] { combine(arguments); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeDistributeCombineV2)
