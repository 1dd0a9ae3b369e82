// What the environment says about this process: devices, memory, SoC, modes. Read once, at first use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hostcann/runtime.h"

namespace hostcann {

enum class StreamMode { kInOrder, kConcurrent, kCheck };

struct Config {
  std::string error;          // non-empty: aclInit fails with this message
  const SocModel* soc;
  int devices;                // visible devices
  std::vector<int> physical;  // logical device -> physical device (ASCEND_RT_VISIBLE_DEVICES)
  int64_t memory_bytes;       // per device
  StreamMode streams;
  bool compute;
  std::string cann_version;   // what CANN is said to be, three numbers
  std::string trace_path;
  int log_level;              // 0 debug, 1 info, 2 warning, 3 error (ASCEND_GLOBAL_LOG_LEVEL)
  bool log_to_console;        // ASCEND_SLOG_PRINT_TO_STDOUT=1
};

const Config& config();

// printf-style log line in CANN's levels; goes to stderr when ASCEND_SLOG_PRINT_TO_STDOUT=1.
void log_line(int level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace hostcann
