// Error codes and messages: aclGetRecentErrMsg, aclrtGetLastError, and the two helpers every other file uses.
#include <cstdarg>
#include <cstdio>
#include <string>

#include "config.h"

namespace hostcann {
namespace {

thread_local std::string recent_message;   // waiting to be fetched
thread_local std::string fetched_message;  // what aclGetRecentErrMsg returned last; stays valid until the next call
thread_local aclError last_error = kSuccess;

}  // namespace

aclError fail(aclError code, const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  // Several failures may happen before anyone asks (an operator inside an operator): keep them all, oldest first.
  if (recent_message.size() > 16384) recent_message.clear();
  if (!recent_message.empty()) recent_message += "\n";
  recent_message += "[hostcann] ";
  recent_message += text;
  last_error = code;
  log_line(3, "%d: %s", code, text);
  return code;
}

const char* last_message() {
  fetched_message.swap(recent_message);
  recent_message.clear();
  return fetched_message.c_str();
}

aclError unimplemented(const char* function) {
  return fail(kFeatureUnsupported, "%s is not implemented in hostcann (the CANN emulation for the CPU)", function);
}

}  // namespace hostcann

using namespace hostcann;

// As documented, fetching the message clears it.
ACL_API const char* aclGetRecentErrMsg() {
  if (recent_message.empty()) return nullptr;
  fetched_message.swap(recent_message);
  recent_message.clear();
  return fetched_message.c_str();
}

ACL_API aclError aclrtGetLastError(int /*level*/) {
  const aclError code = last_error;
  last_error = kSuccess;
  return code;
}

ACL_API aclError aclrtPeekAtLastError(int /*level*/) { return last_error; }

ACL_API void aclAppLog(int level, const char* function, const char* file, uint32_t line, const char* format, ...) {
  const Config& settings = config();
  if (!settings.log_to_console || level < settings.log_level) return;
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  log_line(level, "%s (%s:%u %s)", text, file, line, function);
}
