// Send, receive, batches of them, and groups. As documented, a send ends when its receive has taken everything: two
// ranks that both send first wait for each other, unless both sends are part of a batch or a group.
#include <map>

#include "launch.h"

using namespace hostcann;
using namespace hostcann::hccl;

namespace {

// HcclSendRecvItem.
struct Item {
  int kind;  // 0 send, 1 receive
  void* buffer;
  uint64_t count;
  int data_type;
  uint32_t peer;
};
constexpr int kSendItem = 0;
constexpr int kReceiveItem = 1;

// Items of one communicator and stream, which move together. `function` is what the other side must have called, too;
// kSend stands for sends and receives.
int move_together(Function function, std::vector<Item> items, void* handle, Stream stream) {
  Collective call;
  std::vector<Envelope> envelopes;
  for (const Item& item : items) {
    if (item.kind != kSendItem && item.kind != kReceiveItem) {
      return refuse(kBadParameter, function_name(function), "an item neither sends nor receives");
    }
    const Function own = function == Function::kSend && item.kind == kReceiveItem ? Function::kRecv : function;
    int code = prepare(own, handle, item.count, item.data_type, -1, static_cast<int>(item.peer), &call);
    if (code != kOk) return code;
    code = use_buffer(&call, item.buffer, item.count * element_bytes(item.data_type), item.kind == kReceiveItem);
    if (code != kOk) return code;
    call.envelope.root = -1;
    envelopes.push_back(call.envelope);
  }
  if (items.empty()) return kOk;
  if (call.communicator->size == 1) {
    return refuse(kNotSupported, function_name(function), "the communicator has one rank only");
  }
  call.plan = [items = std::move(items), envelopes = std::move(envelopes)](Transfer& transfer) {
    for (size_t i = 0; i < items.size(); ++i) {
      const Item& item = items[i];
      const uint64_t bytes = item.count * element_bytes(item.data_type);
      Flow& flow = item.kind == kSendItem ? transfer.send(item.peer, item.buffer, bytes)
                                          : transfer.receive(item.peer, item.buffer, bytes);
      flow.envelope = envelopes[i];
      flow.until_received = item.kind == kSendItem;
    }
  };
  return launch(std::move(call), stream);
}

// What was called since HcclGroupStart on this thread.
struct Group {
  int depth = 0;
  std::map<std::pair<void*, Stream>, std::vector<Item>> items;
};
thread_local Group group;

int single(Item item, void* handle, Stream stream) {
  if (group.depth == 0) return move_together(Function::kSend, {item}, handle, stream);
  group.items[{handle, stream}].push_back(item);
  return kOk;
}

}  // namespace

ACL_API int HcclSend(void* buffer, uint64_t count, int data_type, uint32_t peer, void* handle, Stream stream) {
  return single({kSendItem, buffer, count, data_type, peer}, handle, stream);
}

ACL_API int HcclRecv(void* buffer, uint64_t count, int data_type, uint32_t peer, void* handle, Stream stream) {
  return single({kReceiveItem, buffer, count, data_type, peer}, handle, stream);
}

ACL_API int HcclBatchSendRecv(const Item* items, uint32_t count, void* handle, Stream stream) {
  if (items == nullptr) return refuse(kNullPointer, "HcclBatchSendRecv", "null pointer");
  return move_together(Function::kBatchSendRecv, std::vector<Item>(items, items + count), handle, stream);
}

ACL_API int HcclGroupStart() {
  ++group.depth;
  return kOk;
}

ACL_API int HcclGroupEnd() {
  if (group.depth == 0) return refuse(kBadParameter, "HcclGroupEnd", "there was no HcclGroupStart");
  if (--group.depth > 0) return kOk;
  auto items = std::move(group.items);
  group.items.clear();
  int result = kOk;
  for (auto& [place, list] : items) {
    const int code = move_together(Function::kSend, std::move(list), place.first, place.second);
    if (result == kOk) result = code;
  }
  return result;
}
