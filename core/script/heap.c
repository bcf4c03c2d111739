/* heap.c - the allocator of a Lua VM: size classes over mapped segments. */
#include "heap.h"

#include <string.h>
#include <sys/mman.h>

enum { STEP = 16, FINE_MOST = 1024, COARSE_MOST = 256 * 1024, SEGMENT = 1024 * 1024 };

struct mg_heap_segment {
    struct mg_heap_segment *next;
    size_t size;
};

struct mg_heap_big {
    struct mg_heap_big *next, *previous;
    size_t size, pad; /* of the mapping; pad keeps blocks aligned to 16 */
};

static unsigned class_of(size_t size)
{
    if (size <= FINE_MOST)
        return (unsigned)((size + STEP - 1) / STEP - 1);
    return 64u + (unsigned)(64 - __builtin_clzl(size - 1)) - 11u;
}

static size_t size_of_class(unsigned class)
{
    return class < 64 ? (class + 1) * (size_t)STEP : (size_t)2048 << (class - 64);
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* What is left of the old segment is too small for this block; it is given up. */
static bool add_segment(struct mg_heap *h)
{
    struct mg_heap_segment *s = map(SEGMENT);

    if (!s)
        return false;
    *s = (struct mg_heap_segment){ h->segments, SEGMENT };
    h->segments = s;
    h->at = (char *)s + sizeof(*s);
    h->end = (char *)s + SEGMENT;
    return true;
}

static void *take_small(struct mg_heap *h, unsigned class)
{
    void *block = h->free[class];

    if (block) {
        h->free[class] = *(void **)block;
        return block;
    }
    size_t size = size_of_class(class);
    if ((size_t)(h->end - h->at) < size && !add_segment(h))
        return NULL;
    block = h->at;
    h->at += size;
    return block;
}

static void *take_big(struct mg_heap *h, size_t size)
{
    struct mg_heap_big *b = map(size + sizeof(*b));

    if (!b)
        return NULL;
    *b = (struct mg_heap_big){ .next = h->bigs, .size = size + sizeof(*b) };
    if (h->bigs)
        h->bigs->previous = b;
    h->bigs = b;
    return b + 1;
}

static void *take(struct mg_heap *h, size_t size)
{
    return size > COARSE_MOST ? take_big(h, size) : take_small(h, class_of(size));
}

static void give_big(struct mg_heap *h, struct mg_heap_big *b)
{
    if (b->previous)
        b->previous->next = b->next;
    else
        h->bigs = b->next;
    if (b->next)
        b->next->previous = b->previous;
    munmap(b, b->size);
}

static void give(struct mg_heap *h, void *block, size_t size)
{
    if (size > COARSE_MOST) {
        give_big(h, (struct mg_heap_big *)block - 1);
        return;
    }
    unsigned class = class_of(size);
    *(void **)block = h->free[class];
    h->free[class] = block;
}

static bool has_same_place(size_t a, size_t b)
{
    return a <= COARSE_MOST && b <= COARSE_MOST && class_of(a) == class_of(b);
}

/* Most calls take or give one of the fine blocks: they come first. */
void *mg_heap_change(void *heap, void *old, size_t old_size, size_t size)
{
    struct mg_heap *h = heap;

    if (!size && old && old_size - 1 < FINE_MOST) {
        void **list = &h->free[(old_size - 1) / STEP];
        *(void **)old = *list;
        *list = old;
        h->used -= old_size;
        return NULL;
    }
    if (!old && size - 1 < FINE_MOST && h->used + size <= h->most && h->free[(size - 1) / STEP]) {
        void **list = &h->free[(size - 1) / STEP], *block = *list;
        *list = *(void **)block;
        h->used += size;
        return block;
    }
    if (!old || !old_size) { /* old_size may hold a kind instead of a size when there is no old block */
        old_size = 0;
        if (!size)
            return NULL;
    }
    if (!size) {
        give(h, old, old_size);
        h->used -= old_size;
        return NULL;
    }
    if (size > old_size && h->used + (size - old_size) > h->most) {
        h->refused = true;
        return NULL;
    }
    if (old_size && has_same_place(old_size, size)) {
        h->used += size - old_size;
        return old;
    }
    void *block = take(h, size);
    if (!block)
        return NULL;
    if (old_size) {
        memcpy(block, old, old_size < size ? old_size : size);
        give(h, old, old_size);
    }
    h->used += size - old_size;
    return block;
}

void mg_heap_free(struct mg_heap *h)
{
    while (h->bigs)
        give_big(h, h->bigs);
    while (h->segments) {
        struct mg_heap_segment *s = h->segments;
        h->segments = s->next;
        munmap(s, s->size);
    }
    *h = (struct mg_heap){ .most = h->most };
}
