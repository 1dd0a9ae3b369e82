// Counts of operators, copies and synchronisations, written as JSON at exit or on request.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "config.h"

namespace hostcann {
namespace {

struct Count {
  uint64_t calls = 0;
  uint64_t bytes = 0;
};

constexpr const char* kKindNames[] = {"aclnn", "aten", "copy", "sync", "hccl"};
constexpr size_t kKinds = sizeof kKindNames / sizeof *kKindNames;

struct Trace {
  std::mutex mutex;
  std::map<std::string, Count, std::less<>> counts[kKinds];
};

Trace& trace() {
  static Trace* const instance = new Trace;
  return *instance;
}

std::atomic<bool> recording{false};

void append_quoted(std::string* out, const std::string& text) {
  *out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') *out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) *out += c;
  }
  *out += '"';
}

std::string to_json() {
  Trace& all = trace();
  std::lock_guard lock(all.mutex);
  std::string out = "{\"version\": 1, \"soc\": ";
  append_quoted(&out, soc().name);
  out += ", \"compute\": ";
  out += compute_enabled() ? "\"full\"" : "\"null\"";
  uint64_t launches = 0;
  uint64_t syncs = 0;
  for (size_t kind = 0; kind < kKinds; ++kind) {
    out += std::string(", \"") + kKindNames[kind] + "\": {";
    bool first = true;
    for (const auto& [name, count] : all.counts[kind]) {
      if (!first) out += ", ";
      first = false;
      append_quoted(&out, name);
      out += ": {\"calls\": " + std::to_string(count.calls) + ", \"bytes\": " + std::to_string(count.bytes) + "}";
      (static_cast<TraceKind>(kind) == TraceKind::kSync ? syncs : launches) += count.calls;
    }
    out += "}";
  }
  out += ", \"launches\": " + std::to_string(launches) + ", \"syncs\": " + std::to_string(syncs) + "}\n";
  return out;
}

// HOSTCANN_TRACE: record from the start and write when the library is unloaded at exit.
struct ExitWriter {
  ExitWriter() { recording = !config().trace_path.empty(); }
  ~ExitWriter() {
    const std::string& path = config().trace_path;
    if (path.empty()) return;
    std::FILE* const file = std::fopen(path.c_str(), "w");
    if (file == nullptr) {
      std::fprintf(stderr, "hostcann: cannot write the trace to %s\n", path.c_str());
      return;
    }
    const std::string json = to_json();
    std::fwrite(json.data(), 1, json.size(), file);
    std::fclose(file);
  }
} exit_writer;

}  // namespace

bool trace_enabled() { return recording.load(std::memory_order_relaxed); }

void trace_count(TraceKind kind, const char* name, size_t bytes) {
  if (!trace_enabled()) return;
  Trace& all = trace();
  std::lock_guard lock(all.mutex);
  auto& counts = all.counts[static_cast<size_t>(kind)];
  auto found = counts.find(name);
  if (found == counts.end()) found = counts.emplace(name, Count{}).first;
  ++found->second.calls;
  found->second.bytes += bytes;
}

}  // namespace hostcann

using namespace hostcann;

// The four functions below are for Python (ctypes).

ACL_API void hostcann_trace_start() { recording = true; }

ACL_API void hostcann_trace_stop() { recording = false; }

ACL_API void hostcann_trace_reset() {
  Trace& all = trace();
  std::lock_guard lock(all.mutex);
  for (auto& counts : all.counts) counts.clear();
}

// Copies the JSON into `buffer` if it fits (with its terminating zero); returns the size needed.
ACL_API size_t hostcann_trace_snapshot(char* buffer, size_t capacity) {
  const std::string json = to_json();
  if (buffer != nullptr && capacity > json.size()) std::memcpy(buffer, json.c_str(), json.size() + 1);
  return json.size() + 1;
}
