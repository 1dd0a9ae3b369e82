// AscendC for the CPU: what a vector kernel includes, one header per concept. Written from the public API
// documentation; it models one dav-2201 vector core (Atlas A2 and A3): 192 KB of unified buffer with the top 8 KB
// reserved, 32-byte blocks, repeats of 256 bytes, and the pipes S, V, MTE2 and MTE3.
//
// Instructions run in program order. What the device would do differently - hang, race, read past an end - is found by
// checks and ends the kernel with one line that names the call, the line of the kernel and the remedy. How to compile
// and launch: environment.h.
#pragma once

#include "cast.h"
#include "compare.h"
#include "copies.h"
#include "fill.h"
#include "fused.h"
#include "reduce.h"
#include "sync.h"
