/* heap.h - the memory of one Lua VM: bounded, fast, and thrown away as a whole.
 *
 * Lua tells its allocator how large a block was, so blocks need no headers:
 * each size class has a free list, filled from segments of the heap's own.
 * A VM that was left in the middle of anything is got rid of with its heap.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { MG_HEAP_CLASSES = 64 + 8 }; /* every 16 bytes up to 1 KiB, then powers of two up to 256 KiB */

struct mg_heap {
    size_t used, most; /* bytes that Lua holds, and may hold */
    bool refused;      /* it has asked for more than that; whoever looks resets it */
    char *at, *end;    /* room in the newest segment */
    struct mg_heap_segment *segments;
    struct mg_heap_big *bigs; /* larger blocks, each mapped by itself */
    void *free[MG_HEAP_CLASSES];
};

/* A lua_Alloc whose ud is a struct mg_heap, zeroed but for `most`. */
void *mg_heap_change(void *heap, void *old, size_t old_size, size_t size);
void mg_heap_free(struct mg_heap *h);
