"""A kernel that needs no AscendC header: what these tests load, launch, tamper with and refuse."""

from __future__ import annotations

from pathlib import Path

from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="toy",
    why="Tests of loading.",
    replaces=1,
    entries=("toy_scale", "toy_fault"),
    # An i32 before a pointer: the buffer has a gap.
    parameters=("i32", "ptr", "f32", "i64"),
)

DECLARATION = f"from ascend_patch.kernels.declaration import Kernel\n\nKERNEL = {KERNEL!r}\n"

# In the place of kernels/host/entry.h: the launch function of the contract, without unpacking anything.
ENTRY_H = """
#pragma once
#define ASCENDC_HOST_ENTRY(f) \\
  extern "C" __attribute__((visibility("default"))) int f##__ascendc_host_launch( \\
      uint32_t blocks, const void* arguments, size_t size, const Environment* environment, char* message, \\
      size_t capacity) { return f(blocks, arguments, size, environment, message, capacity); }
"""

SOURCE = """
#include <cstddef>
#include <cstdint>
#include <cstdio>

struct Environment {
  uint32_t size;
  void* context;
  int (*allocation)(void*, const void*, const void**, size_t*);
  uint32_t checks;
};

struct Arguments { int32_t count; float* values; float factor; int64_t offset; };

// values[i] = values[i] * factor + offset + blocks
static int toy_scale(uint32_t blocks, const void* data, size_t size, const Environment* environment, char* message,
                     size_t capacity) {
  const auto& a = *static_cast<const Arguments*>(data);
  if (size != sizeof(Arguments)) {
    std::snprintf(message, capacity, "%zu bytes of arguments", size);
    return 1;
  }
  const void* begin = nullptr;
  size_t bytes = 0;
  if (environment->size < sizeof(Environment) ||
      !environment->allocation(environment->context, a.values, &begin, &bytes)) {
    std::snprintf(message, capacity, "values is not device memory");
    return 3;
  }
  const char* const last = reinterpret_cast<const char*>(a.values + a.count);
  if (last > static_cast<const char*>(begin) + bytes) {
    std::snprintf(message, capacity, "DataCopy reads %d values past the allocation", a.count);
    return 3;
  }
  for (int32_t i = 0; i < a.count; ++i) a.values[i] = a.values[i] * a.factor + a.offset + blocks;
  return 0;
}

static int toy_fault(uint32_t, const void*, size_t, const Environment*, char* message, size_t capacity) {
  std::snprintf(message, capacity, "DataCopy: block 3, offset 40 is not a multiple of 32 bytes");
  return 4;
}

extern "C" __attribute__((visibility("default"))) uint32_t ascendc_host_abi(void) { return 1; }
"""


def write(kernels: Path) -> None:
    """Writes the toy's folder and its header below `kernels`."""
    for name, text in (
        ("host/entry.h", ENTRY_H),
        ("toy/toy.cpp", SOURCE),
        ("toy/__init__.py", DECLARATION),
    ):
        path = kernels / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
