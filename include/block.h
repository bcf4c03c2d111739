/* block.h - counted blocks of bytes, and chains of spans over them.
 *
 * Bytes are read into a block, spans of it move from chain to chain without
 * being copied, and the block goes back to the free list with its last span.
 * So memory follows traffic, not connections. The list is last in, first out:
 * the block that comes next is the one the cache still holds.
 *
 * Running out of memory is sticky in a chain (`failed`): what would be added
 * is dropped, and its owner looks once before it trusts the bytes.
 */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

#include "slice.h"

enum {
    MG_BLOCK_SMALL = 32 * 1024 - 64,  /* a 16 KiB body with its head in one read */
    MG_BLOCK_LARGE = 512 * 1024 - 64, /* for a transfer that has filled a small one */
};

struct mg_block {
    unsigned refs;
    unsigned size; /* of data; MG_BLOCK_SMALL, MG_BLOCK_LARGE or odd */
    unsigned used; /* bytes of data that spans may point into */
    struct mg_block *next_free;
    char data[];
};

/* At least `size` bytes, one reference, used = 0; NULL when out of memory. */
struct mg_block *mg_block_take(size_t size);
void mg_block_hold(struct mg_block *b);
void mg_block_give(struct mg_block *b);
/* Blocks that somebody holds: for the question what is left open. */
unsigned mg_block_live(void);
/* Blocks that nobody holds, kept for the next who needs one. */
unsigned mg_block_spare(void);
/* From time to time: frees what nobody has needed since the last call. */
void mg_block_relax(void);
/* Frees all that nobody holds. */
void mg_block_trim(void);

struct mg_span {
    struct mg_span *next;
    struct mg_block *block;
    const char *ptr;
    size_t len;
};

struct mg_chain {
    struct mg_span *first, *last;
    size_t bytes;
    bool failed;
};

static inline bool mg_chain_empty(const struct mg_chain *c)
{
    return c->bytes == 0;
}

/* Adds ptr..ptr+len, which lies in b, with a reference of its own. */
void mg_chain_add(struct mg_chain *c, struct mg_block *b, const char *ptr, size_t len);
/* Copies the bytes into blocks of the chain's own; room in its last block is
 * used when nobody else holds that block. */
void mg_chain_copy(struct mg_chain *c, const void *bytes, size_t len);
/* All of `from` to the end of `to`; from is empty then. */
void mg_chain_move(struct mg_chain *to, struct mg_chain *from);
/* The same, but little is copied behind the last bytes of `to` if it can be: one piece, one cheaper write. */
void mg_chain_join(struct mg_chain *to, struct mg_chain *from);
/* The first len bytes of `from`, which has as many, to the end of `to`. */
void mg_chain_split(struct mg_chain *to, struct mg_chain *from, size_t len);
/* Drops the first len bytes. */
void mg_chain_drop(struct mg_chain *c, size_t len);
void mg_chain_clear(struct mg_chain *c);
/* Up to max of its spans for writev; how many. */
int mg_chain_iovec(const struct mg_chain *c, struct iovec *v, int max);
/* Copies all its bytes to `to`. */
void mg_chain_read(const struct mg_chain *c, char *to);
