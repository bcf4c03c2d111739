/* slice.h - a run of bytes that somebody else owns.
 *
 * The one type that C and Lua share everywhere, so it stands alone: the
 * Makefile puts this text in front of seam.h when it becomes LuaJIT's cdef.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct mg_slice {
    const char *ptr;
    uint32_t len;
} mg_slice;
