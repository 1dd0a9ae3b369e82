#include "config.h"

#include <algorithm>
#include <cctype>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace hostcann {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kGiB = 1024 * kMiB;

// Core counts, L2 and UB sizes as far as we know them; never read off a machine. They size nothing but what programs ask.
constexpr SocModel kModels[] = {
    {"Ascend910B1", SocFamily::k910B, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910B2", SocFamily::k910B, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910B2C", SocFamily::k910B, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910B3", SocFamily::k910B, 20, 40, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910B4", SocFamily::k910B, 20, 40, 96 * kMiB, 192 * kKiB, true},
    {"Ascend910B4-1", SocFamily::k910B, 20, 40, 96 * kMiB, 192 * kKiB, true},
    {"Ascend910_9391", SocFamily::k910_93, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910_9392", SocFamily::k910_93, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910_9381", SocFamily::k910_93, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910_9382", SocFamily::k910_93, 24, 48, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910_9372", SocFamily::k910_93, 20, 40, 192 * kMiB, 192 * kKiB, true},
    {"Ascend910_9362", SocFamily::k910_93, 20, 40, 192 * kMiB, 192 * kKiB, true},
    {"Ascend310P1", SocFamily::k310P, 10, 8, 16 * kMiB, 256 * kKiB, false},
    {"Ascend310P3", SocFamily::k310P, 8, 7, 16 * kMiB, 256 * kKiB, false},
    {"Ascend950PR_9599", SocFamily::k950, 32, 64, 128 * kMiB, 256 * kKiB, true},
    {"Ascend950PR_9589", SocFamily::k950, 32, 64, 128 * kMiB, 256 * kKiB, true},
    {"Ascend950DT_9599", SocFamily::k950, 32, 64, 128 * kMiB, 256 * kKiB, true},
    {"Ascend950", SocFamily::k950, 32, 64, 128 * kMiB, 256 * kKiB, true},
};

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

const SocModel* find_model(const std::string& name) {
  for (const SocModel& model : kModels) {
    if (name == model.name) return &model;
  }
  return nullptr;
}

// "8GiB", "512MiB", "2G", "1000000": 0 if it cannot be read.
int64_t parse_bytes(const char* text) {
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  if (end == text || number <= 0) return 0;
  std::string unit(end);
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::tolower(c); });
  while (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  if (unit.empty() || unit == "b") return static_cast<int64_t>(number);
  if (unit == "k" || unit == "kib" || unit == "kb") return static_cast<int64_t>(number * kKiB);
  if (unit == "m" || unit == "mib" || unit == "mb") return static_cast<int64_t>(number * kMiB);
  if (unit == "g" || unit == "gib" || unit == "gb") return static_cast<int64_t>(number * kGiB);
  return 0;
}

// ASCEND_RT_VISIBLE_DEVICES is a comma-separated list of physical ids. As documented, the list ends at the first entry
// that is not a valid id, and the ids must be distinct.
std::vector<int> visible_devices(int physical_count) {
  std::vector<int> devices;
  const char* list = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (list == nullptr) {
    for (int i = 0; i < physical_count; ++i) devices.push_back(i);
    return devices;
  }
  for (const char* at = list; *at != '\0';) {
    char* end = nullptr;
    const long id = std::strtol(at, &end, 10);
    if (end == at || id < 0 || id >= physical_count) break;
    if (std::find(devices.begin(), devices.end(), id) != devices.end()) break;
    devices.push_back(static_cast<int>(id));
    if (*end != ',') break;
    at = end + 1;
  }
  return devices;
}

Config read_config() {
  Config result{};
  auto refuse = [&result](const std::string& message) {
    if (result.error.empty()) result.error = message;
  };

  const char* soc_name = variable("HOSTCANN_SOC");
  result.soc = find_model(soc_name != nullptr ? soc_name : "Ascend910B3");
  if (result.soc == nullptr) {
    std::string known;
    for (const SocModel& model : kModels) known += std::string(known.empty() ? "" : ", ") + model.name;
    refuse(std::string("HOSTCANN_SOC=") + soc_name + " is not a modelled SoC; use one of " + known);
    result.soc = find_model("Ascend910B3");
  }

  int physical_count = 1;
  if (const char* text = variable("HOSTCANN_DEVICES")) {
    char* end = nullptr;
    const long count = std::strtol(text, &end, 10);
    if (*end != '\0' || count < 0 || count > 64) {
      refuse(std::string("HOSTCANN_DEVICES=") + text + " must be a number from 0 to 64");
    } else {
      physical_count = static_cast<int>(count);
    }
  }
  result.physical = visible_devices(physical_count);
  result.devices = static_cast<int>(result.physical.size());

  result.memory_bytes = 8 * kGiB;
  if (const char* text = variable("HOSTCANN_MEMORY")) {
    const int64_t bytes = parse_bytes(text);
    if (bytes <= 0) {
      refuse(std::string("HOSTCANN_MEMORY=") + text + " is not a size; write bytes or, for example, 8GiB");
    } else {
      result.memory_bytes = bytes;
    }
  }

  result.streams = StreamMode::kInOrder;
  if (const char* text = variable("HOSTCANN_STREAMS")) {
    if (std::strcmp(text, "concurrent") == 0) {
      result.streams = StreamMode::kConcurrent;
    } else if (std::strcmp(text, "check") == 0) {
      result.streams = StreamMode::kCheck;
    } else if (std::strcmp(text, "inorder") != 0) {
      refuse(std::string("HOSTCANN_STREAMS=") + text + " must be inorder, check or concurrent");
    }
  }

  result.compute = true;
  if (const char* text = variable("HOSTCANN_COMPUTE")) {
    if (std::strcmp(text, "null") == 0) {
      result.compute = false;
    } else if (std::strcmp(text, "full") != 0) {
      refuse(std::string("HOSTCANN_COMPUTE=") + text + " must be full or null");
    }
  }

  // torch-npu asks newer versions for other functions.
  result.cann_version = "8.5.0";
  if (const char* text = variable("HOSTCANN_CANN")) {
    int major, minor, release, end = 0;
    if (std::sscanf(text, "%2d.%2d.%2d%n", &major, &minor, &release, &end) != 3 || text[end] != '\0') {
      refuse(std::string("HOSTCANN_CANN=") + text + " must be a version like 8.5.0");
    } else {
      result.cann_version = text;
    }
  }

  if (const char* text = variable("HOSTCANN_TRACE")) result.trace_path = text;
  const char* level = variable("ASCEND_GLOBAL_LOG_LEVEL");
  result.log_level = level != nullptr ? std::atoi(level) : 3;
  const char* console = variable("ASCEND_SLOG_PRINT_TO_STDOUT");
  result.log_to_console = console != nullptr && std::strcmp(console, "1") == 0;
  return result;
}

}  // namespace

const Config& config() {
  // Never destroyed: threads and late destructors of other libraries may still ask at process exit.
  static const Config* const instance = new Config(read_config());
  return *instance;
}

const SocModel& soc() { return *config().soc; }

int device_count() { return config().devices; }

bool compute_enabled() {
  static const bool enabled = config().compute;
  return enabled;
}

bool streams_are_deferred() {
  static const bool deferred = config().streams == StreamMode::kConcurrent;
  return deferred;
}

bool accesses_are_checked() {
  static const bool checked = config().streams == StreamMode::kCheck;
  return checked;
}

void log_line(int level, const char* format, ...) {
  const Config& settings = config();
  if (!settings.log_to_console || level < settings.log_level) return;
  static const char* const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "[%s] hostcann: %s\n", names[std::clamp(level, 0, 3)], text);
}

}  // namespace hostcann
