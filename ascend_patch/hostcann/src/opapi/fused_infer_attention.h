// What the constraint table and the operator of fused_infer_attention share: reading the layout out of the arguments.
#pragma once

#include "opapi/operator.h"

namespace hostcann::opapi::fia {

enum class Layout { kTnd, kBsnd, kBnsd, kBsh, kBnsdBsnd, kUnknown };

// How the paged cache is laid out: [blocks, block size, heads * head size] or [blocks, heads, block size, head size].
enum class Cache { kNone, kBnBsH, kBnNBsD };

Layout layout(const Call& call);
Cache cache(const Call& call);
int64_t heads(const Call& call);
int64_t key_heads(const Call& call);   // numKeyValueHeads, where 0 means numHeads
int64_t batch(const Call& call);
int64_t head_size(const Call& call);   // of query
int64_t value_size(const Call& call);
constexpr int64_t kRopeSize = 64;      // of queryRope and keyRope
int64_t max_queries(const Call& call); // longest query sequence of the batch
int64_t queries(const Call& call, int64_t index);
int64_t keys(const Call& call, int64_t index);
int64_t key_capacity(const Call& call);  // S of key in batched layouts
std::vector<int64_t> output_shape(const Call& call);
std::vector<int64_t> lse_shape(const Call& call);
bool is_quantised(const Call& call);   // keys and values are int8 and have steps
std::vector<Rule> quantised_rules();

extern const OperatorTable kTableV3;
extern const OperatorTable kTableV5;

}  // namespace hostcann::opapi::fia
