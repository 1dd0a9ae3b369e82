// A fault ends the kernel: it is thrown here and turned into one line of text by the launch function.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "environment.h"
#include "types.h"

namespace ascendc_host {

struct Fault {
    int kind;
    char text[480];
};

// Where the kernel is: kept by every API function, read when a fault is reported.
struct Position {
    const char* api = "kernel";
    int line = 0;
    uint32_t block = 0;
};

inline Position& Here() {
    static thread_local Position position;
    return position;
}

// Cold and never inlined: the checks around it must stay cheap.
[[noreturn, gnu::cold, gnu::noinline, gnu::format(printf, 2, 3)]] inline void Fail(int kind, const char* format, ...) {
    Fault fault;
    fault.kind = kind;
    const Position& here = Here();
    int used = std::snprintf(fault.text, sizeof(fault.text), "block %u, line %d: %s: ", here.block, here.line, here.api);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(fault.text + used, sizeof(fault.text) - used, format, arguments);
    va_end(arguments);
    throw fault;
}

}  // namespace ascendc_host
