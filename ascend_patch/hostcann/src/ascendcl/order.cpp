// The check mode: every operation has a vector clock, every range of device memory remembers who wrote and read it last.
// Two accesses of which one writes must be ordered by submission to the same stream, an event, or a host
// synchronisation; if they are not, the second one is refused with the names of both.
//
// What this cannot see: what host code does with pinned memory (only copies are seen), and several host threads, which
// count as one.
#include <algorithm>
#include <map>
#include <mutex>

#include "stream.h"

namespace hostcann {
namespace {

constexpr int kHost = 0;  // index of the host in clocks; streams count from 1

struct Touch {
  int actor = -1;
  uint64_t time = 0;
  const char* name = "";
};

struct History {  // of one range of memory; the range's start is the key in the map
  uintptr_t end;
  Touch write;
  std::vector<Touch> reads;  // the last one of each actor since the last write
};

struct Checker {
  std::mutex mutex;
  Clock host = Clock(1, 0);
  std::map<uintptr_t, History> ranges;
};

Checker& checker() {
  static Checker* const instance = new Checker;
  return *instance;
}

uint64_t& component(Clock& clock, int actor) {
  if (clock.size() <= static_cast<size_t>(actor)) clock.resize(actor + 1, 0);
  return clock[actor];
}

void join(Clock& into, const Clock& other) {
  if (into.size() < other.size()) into.resize(other.size(), 0);
  for (size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
}

bool happened_before(const Touch& touch, Clock& now) {
  return touch.actor < 0 || component(now, touch.actor) >= touch.time;
}

// Cuts the history so that `at` is no inner point of any range.
void cut(std::map<uintptr_t, History>& ranges, uintptr_t at) {
  auto next = ranges.upper_bound(at);
  if (next == ranges.begin()) return;
  auto range = std::prev(next);
  if (range->first == at || range->second.end <= at) return;
  History tail = range->second;
  range->second.end = at;
  ranges.emplace(at, std::move(tail));
}

// Calls `visit` for every range in [begin, end), creating those without a history.
template <typename Visit>
void walk(std::map<uintptr_t, History>& ranges, uintptr_t begin, uintptr_t end, const Visit& visit) {
  cut(ranges, begin);
  cut(ranges, end);
  uintptr_t at = begin;
  while (at < end) {
    auto found = ranges.lower_bound(at);
    if (found == ranges.end() || found->first != at) {
      const uintptr_t until = found == ranges.end() ? end : std::min(end, found->first);
      found = ranges.emplace(at, History{until, {}, {}}).first;
    }
    visit(found->second);
    at = found->second.end;
  }
}

std::string actor_name(int actor) { return actor == kHost ? "the host" : "stream " + std::to_string(actor); }

aclError conflict(const char* name, int actor, const Access& access, const Touch& other, bool other_wrote) {
  return fail(kRtInternalError,
              "missing synchronisation: %s on %s %s %zu bytes at %p, which %s on %s %s without an event, stream or "
              "device synchronisation in between",
              name, actor_name(actor).c_str(), access.write ? "writes" : "reads", access.bytes, access.address,
              other.name, actor_name(other.actor).c_str(), other_wrote ? "wrote" : "read");
}

aclError check(int actor, Clock& now, const char* name, const std::vector<Access>& accesses) {
  Checker& all = checker();
  const Touch touch{actor, ++component(now, actor), name};
  aclError result = kSuccess;
  for (const Access& access : accesses) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(access.address);
    walk(all.ranges, begin, begin + access.bytes, [&](History& range) {
      if (result != kSuccess) return;
      if (!happened_before(range.write, now)) {
        result = conflict(name, actor, access, range.write, true);
      } else if (access.write) {
        for (const Touch& read : range.reads) {
          if (!happened_before(read, now)) {
            result = conflict(name, actor, access, read, false);
            break;
          }
        }
      }
    });
  }
  // Remembered even after a conflict: one missing event should not be reported again by everything that follows.
  for (const Access& access : accesses) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(access.address);
    walk(all.ranges, begin, begin + access.bytes, [&](History& range) {
      if (access.write) {
        range.write = touch;
        range.reads.clear();
        return;
      }
      for (Touch& read : range.reads) {
        if (read.actor == actor) {
          read = touch;
          return;
        }
      }
      range.reads.push_back(touch);
    });
  }
  return result;
}

}  // namespace

void forget_accesses(const void* address, size_t bytes) {
  if (!accesses_are_checked()) return;
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  cut(all.ranges, begin);
  cut(all.ranges, begin + bytes);
  all.ranges.erase(all.ranges.lower_bound(begin), all.ranges.lower_bound(begin + bytes));
}

aclError check_accesses(StreamObject* stream, const char* name, const std::vector<Access>& accesses) {
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  join(stream->clock, all.host);  // submitted after everything the host has seen
  return check(stream->id, stream->clock, name, accesses);
}

aclError host_access(const char* name, const std::vector<Access>& accesses) {
  if (!accesses_are_checked()) return kSuccess;
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  return check(kHost, all.host, name, accesses);
}

void order_record(StreamObject* stream, Recording* recording) {
  if (!accesses_are_checked()) return;
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  join(stream->clock, all.host);
  recording->clock = stream->clock;
}

void order_wait(StreamObject* stream, const Recording* recording) {
  if (!accesses_are_checked()) return;
  std::lock_guard lock(checker().mutex);
  join(stream->clock, recording->clock);
}

void order_host_saw(const Recording* recording) {
  if (!accesses_are_checked()) return;
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  join(all.host, recording->clock);
}

void order_host_saw_stream(StreamObject* stream) {
  if (!accesses_are_checked()) return;
  Checker& all = checker();
  std::lock_guard lock(all.mutex);
  join(all.host, stream->clock);
}

}  // namespace hostcann
