/* block.c - counted blocks of bytes, and chains of spans over them.
 *
 * Blocks of the two usual sizes and all spans go round through bounded lists,
 * last in, first out. Every span holds one reference to its block.
 */
#include "block.h"

#include <assert.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "poison.h"

/* What the lists may keep: 64 MiB of small blocks, 4 MiB of large ones. */
enum { SMALL_MAX = 2048, LARGE_MAX = 8, SPANS_MAX = 4096 };
enum { KEEP = 128 * 1024 }; /* that malloc may keep of what is given back to the system */

/* What mg_chain_join() copies: less than a second span costs in a system call's vector. */
enum { JOIN_MOST = 512 };

struct block_list {
    struct mg_block *first;
    unsigned count, max;
    unsigned least; /* that there were since mg_block_relax() */
};

static struct block_list small_blocks = { .max = SMALL_MAX };
static struct block_list large_blocks = { .max = LARGE_MAX };
static struct mg_span *free_spans;
static unsigned free_span_count;
static unsigned live;

/* The list of the blocks of this size; NULL if they have none. */
static struct block_list *list_of(size_t size)
{
    if (size == MG_BLOCK_SMALL)
        return &small_blocks;
    return size == MG_BLOCK_LARGE ? &large_blocks : NULL;
}

struct mg_block *mg_block_take(size_t size)
{
    if (size < MG_BLOCK_SMALL)
        size = MG_BLOCK_SMALL;

    struct block_list *list = list_of(size);
    struct mg_block *b = list ? list->first : NULL;
    if (b) {
        list->first = b->next_free;
        if (--list->count < list->least)
            list->least = list->count;
        mg_unpoison(b->data, size);
    } else {
        if (size > INT32_MAX)
            return NULL;
        b = malloc(sizeof(*b) + size);
        if (!b)
            return NULL;
        b->size = (unsigned)size;
    }
    b->refs = 1;
    b->used = 0;
    live++;
    return b;
}

void mg_block_hold(struct mg_block *b)
{
    b->refs++;
}

/* With the last reference. Its own function, so that mg_block_give() is short. */
static __attribute__((noinline)) void block_free(struct mg_block *b)
{
    live--;
    struct block_list *list = list_of(b->size);
    if (!list || list->count == list->max) {
        free(b);
        return;
    }
    mg_poison(b->data, b->size);
    b->next_free = list->first;
    list->first = b;
    list->count++;
}

void mg_block_give(struct mg_block *b)
{
    assert(b->refs > 0);
    if (--b->refs == 0)
        block_free(b);
}

unsigned mg_block_live(void)
{
    return live;
}

unsigned mg_block_spare(void)
{
    return small_blocks.count + large_blocks.count;
}

static void drop_blocks(struct block_list *list, unsigned count)
{
    for (list->count -= count; count; count--) {
        struct mg_block *b = list->first;
        list->first = b->next_free;
        mg_unpoison(b->data, b->size);
        free(b);
    }
    list->least = list->count;
}

void mg_block_relax(void)
{
    bool any = small_blocks.least || large_blocks.least;

    drop_blocks(&small_blocks, small_blocks.least);
    drop_blocks(&large_blocks, large_blocks.least);
    if (any)
        malloc_trim(KEEP);
}

void mg_block_trim(void)
{
    drop_blocks(&small_blocks, small_blocks.count);
    drop_blocks(&large_blocks, large_blocks.count);
    while (free_spans) {
        struct mg_span *s = free_spans;
        free_spans = s->next;
        free(s);
    }
    free_span_count = 0;
}

static struct mg_span *span_take(void)
{
    struct mg_span *s = free_spans;
    if (!s)
        return malloc(sizeof(*s));
    free_spans = s->next;
    free_span_count--;
    return s;
}

/* The span, and its reference. */
static void span_free(struct mg_span *s)
{
    mg_block_give(s->block);
    if (free_span_count == SPANS_MAX) {
        free(s);
        return;
    }
    s->next = free_spans;
    free_spans = s;
    free_span_count++;
}

/* Do these bytes go on where the chain's last span ends? */
static bool goes_on(const struct mg_chain *c, const struct mg_block *b, const char *ptr)
{
    const struct mg_span *last = c->last;
    return last && last->block == b && last->ptr + last->len == ptr;
}

static void append(struct mg_chain *c, struct mg_span *s)
{
    s->next = NULL;
    if (c->last)
        c->last->next = s;
    else
        c->first = s;
    c->last = s;
    c->bytes += s->len;
}

/* Adds bytes of b as a new span, which takes over one reference. */
static bool add_span(struct mg_chain *c, struct mg_block *b, const char *ptr, size_t len)
{
    struct mg_span *s = span_take();
    if (!s) {
        c->failed = true;
        return false;
    }
    s->block = b;
    s->ptr = ptr;
    s->len = len;
    append(c, s);
    return true;
}

void mg_chain_add(struct mg_chain *c, struct mg_block *b, const char *ptr, size_t len)
{
    if (len == 0 || c->failed)
        return;
    if (goes_on(c, b, ptr)) {
        c->last->len += len;
        c->bytes += len;
        return;
    }
    if (add_span(c, b, ptr, len))
        mg_block_hold(b);
}

/* Puts what fits into the chain's last block, if that is the chain's alone and
 * the last span is what was last put there; how many bytes. */
static size_t fill_last(struct mg_chain *c, const char *bytes, size_t len)
{
    struct mg_span *last = c->last;
    if (!last || last->block->refs != 1)
        return 0;

    struct mg_block *b = last->block;
    if (last->ptr + last->len != b->data + b->used)
        return 0;
    size_t n = b->size - b->used;
    if (n > len)
        n = len;
    memcpy(b->data + b->used, bytes, n);
    b->used += (unsigned)n;
    last->len += n;
    c->bytes += n;
    return n;
}

void mg_chain_copy(struct mg_chain *c, const void *bytes, size_t len)
{
    if (len == 0 || c->failed)
        return;

    const char *from = bytes;
    size_t done = fill_last(c, from, len);
    while (done < len) {
        size_t rest = len - done;
        struct mg_block *b = mg_block_take(rest < MG_BLOCK_LARGE ? rest : MG_BLOCK_LARGE);
        if (!b) {
            c->failed = true;
            return;
        }
        size_t n = rest < b->size ? rest : b->size;
        memcpy(b->data, from + done, n);
        b->used = (unsigned)n;
        if (!add_span(c, b, b->data, n)) {
            mg_block_give(b);
            return;
        }
        done += n;
    }
}

void mg_chain_move(struct mg_chain *to, struct mg_chain *from)
{
    to->failed |= from->failed;
    if (to->failed) {
        mg_chain_clear(from);
        return;
    }
    if (!from->first)
        return;

    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    to->bytes += from->bytes;
    *from = (struct mg_chain){ 0 };
}

void mg_chain_join(struct mg_chain *to, struct mg_chain *from)
{
    const struct mg_span *last = to->last;

    if (from->bytes > JOIN_MOST || from->failed || !last || last->block->refs != 1 ||
        last->ptr + last->len != last->block->data + last->block->used ||
        last->block->size - last->block->used < from->bytes) {
        mg_chain_move(to, from);
        return;
    }
    for (const struct mg_span *s = from->first; s; s = s->next)
        fill_last(to, s->ptr, s->len);
    mg_chain_clear(from);
}

/* Takes the first span off; it is the caller's. */
static struct mg_span *take_first(struct mg_chain *c)
{
    struct mg_span *s = c->first;
    c->first = s->next;
    if (!c->first)
        c->last = NULL;
    c->bytes -= s->len;
    return s;
}

void mg_chain_split(struct mg_chain *to, struct mg_chain *from, size_t len)
{
    assert(len <= from->bytes);

    if (to->failed) {
        mg_chain_drop(from, len);
        return;
    }
    while (len > 0 && from->first->len <= len) {
        struct mg_span *s = take_first(from);
        len -= s->len;
        if (goes_on(to, s->block, s->ptr)) {
            to->last->len += s->len;
            to->bytes += s->len;
            span_free(s);
        } else {
            append(to, s);
        }
    }
    if (len > 0) {
        mg_chain_add(to, from->first->block, from->first->ptr, len);
        mg_chain_drop(from, len);
    }
}

void mg_chain_drop(struct mg_chain *c, size_t len)
{
    assert(len <= c->bytes);

    while (len > 0 && c->first->len <= len) {
        struct mg_span *s = take_first(c);
        len -= s->len;
        span_free(s);
    }
    if (len > 0) {
        c->first->ptr += len;
        c->first->len -= len;
        c->bytes -= len;
    }
}

void mg_chain_clear(struct mg_chain *c)
{
    for (struct mg_span *s = c->first, *next; s; s = next) {
        next = s->next;
        span_free(s);
    }
    *c = (struct mg_chain){ 0 };
}

int mg_chain_iovec(const struct mg_chain *c, struct iovec *v, int max)
{
    int count = 0;
    for (const struct mg_span *s = c->first; s && count < max; s = s->next)
        v[count++] = (struct iovec){ (char *)(uintptr_t)s->ptr, s->len };
    return count;
}

void mg_chain_read(const struct mg_chain *c, char *to)
{
    for (const struct mg_span *s = c->first; s; s = s->next) {
        memcpy(to, s->ptr, s->len);
        to += s->len;
    }
}
