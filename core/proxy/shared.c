/* shared.c - the region that all workers share, and its named places.
 *
 * A place is found through a table of offsets and is never freed. The list of
 * all places is what a repair believes: a place is written first, then put
 * into the list, then into its bucket.
 *
 * It is a file without a name, so that an upgrade can hand it to another process:
 * what describes it comes first, and says what that one must agree with. */
#include "shared.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

enum {
    PLACE_BUCKETS = 1024,
    NAME_MOST = 255,
    SPACE_MOST = 12,  /* bytes that a space puts before a name */
    PLACE_ALIGN = 64, /* a cache line */
    MAGIC = 0x6d677368,
};

struct place {
    uint64_t next, next_in_bucket; /* offsets; 0 ends */
    uint64_t data, size;
    uint32_t name_len;
    bool made; /* mg_shared_make's function has said so */
    char name[];
};

struct region {
    uint32_t magic, layout;
    uint32_t head_size, place_size, lock_size; /* what a compiler may make of the structs */
    uint32_t whole;                            /* all of this was written */
    pthread_mutex_t lock;
    uint64_t size, used;
    uint64_t first, last; /* all places; what a repair believes */
    uint64_t buckets[PLACE_BUCKETS];
    uint32_t slots;               /* one more than the highest that was taken */
    int32_t owners[MG_SLOTS_MAX]; /* the masters that have given the slots out; 0: free */
    uint32_t turns[MG_SLOTS_MAX]; /* how often each was given out */
};

static struct region *region;
static int worker_number = -1;
static unsigned worker_slot;
static int descriptor = -1;
static unsigned space;

bool mg_shared_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t how;

    if (pthread_mutexattr_init(&how) != 0)
        return false;
    bool good = pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED) == 0 &&
                pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST) == 0 && pthread_mutex_init(lock, &how) == 0;
    pthread_mutexattr_destroy(&how);
    return good;
}

/* What another binary must agree with. */
static void fill_head(struct region *r)
{
    r->magic = MAGIC;
    r->layout = MG_SHARED_LAYOUT;
    r->head_size = sizeof(struct region);
    r->place_size = sizeof(struct place);
    r->lock_size = sizeof(pthread_mutex_t);
}

/* NULL: it can't be. */
static struct region *map_region(int fd, size_t size)
{
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    return map != MAP_FAILED ? map : NULL;
}

bool mg_shared_start(size_t size)
{
    assert(!region);
    if (size < 2 * sizeof(*region)) {
        errno = EINVAL;
        return false;
    }
    int fd = memfd_create("moongate", MFD_CLOEXEC);
    struct region *r = fd >= 0 && ftruncate(fd, (off_t)size) == 0 ? map_region(fd, size) : NULL;
    if (!r || !mg_shared_lock_init(&r->lock)) {
        if (r)
            munmap(r, size);
        if (fd >= 0)
            close(fd);
        errno = ENOMEM;
        return false;
    }
    fill_head(r);
    r->size = size;
    r->used = (sizeof(*r) + PLACE_ALIGN - 1) & ~(uint64_t)(PLACE_ALIGN - 1);
    r->slots = 1;
    r->whole = 1;
    region = r;
    descriptor = fd;
    return true;
}

static const char *fault_of(const struct region *r, size_t size)
{
    struct region mine;

    fill_head(&mine);
    if (r->magic != mine.magic || !r->whole)
        return "it is not what was expected";
    if (r->layout != mine.layout || r->head_size != mine.head_size || r->place_size != mine.place_size ||
        r->lock_size != mine.lock_size)
        return "this version lays it out in another way";
    return r->size == size && r->used <= size ? NULL : "its size is not what it says";
}

bool mg_shared_inherit(int fd, const char **why)
{
    struct stat s;

    assert(!region);
    *why = "it can't be mapped";
    bool sized = fstat(fd, &s) == 0 && s.st_size >= (off_t)(2 * sizeof(*region));
    struct region *r = sized ? map_region(fd, (size_t)s.st_size) : NULL;
    if (r && !(*why = fault_of(r, (size_t)s.st_size))) {
        region = r;
        descriptor = fd;
        return true;
    }
    if (r)
        munmap(r, (size_t)s.st_size);
    close(fd);
    return false;
}

int mg_shared_descriptor(void)
{
    return descriptor;
}

/* ---- Slots. ---- */

int mg_shared_slot_take(pid_t master)
{
    for (unsigned slot = 0; region && slot < MG_SLOTS_MAX; slot++) {
        int32_t none = 0;
        if (!__atomic_compare_exchange_n(&region->owners[slot], &none, (int32_t)master, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED))
            continue;
        __atomic_fetch_add(&region->turns[slot], 1, __ATOMIC_RELAXED);
        uint32_t now = mg_shared_slots();
        while (now < slot + 1 &&
               !__atomic_compare_exchange_n(&region->slots, &now, slot + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            ;
        return (int)slot;
    }
    return -1;
}

void mg_shared_slot_give(unsigned slot)
{
    if (region)
        __atomic_store_n(&region->owners[slot], 0, __ATOMIC_RELEASE);
}

uint32_t mg_shared_slot_turn(unsigned slot)
{
    return region ? __atomic_load_n(&region->turns[slot], __ATOMIC_RELAXED) : 0;
}

bool mg_shared_slot_lives(unsigned slot, uint32_t turn)
{
    return region && slot < MG_SLOTS_MAX && __atomic_load_n(&region->owners[slot], __ATOMIC_ACQUIRE) &&
           mg_shared_slot_turn(slot) == turn;
}

int mg_shared_slot_of(pid_t master)
{
    for (unsigned slot = 0; region && master && slot < MG_SLOTS_MAX; slot++)
        if (__atomic_load_n(&region->owners[slot], __ATOMIC_RELAXED) == (int32_t)master)
            return (int)slot;
    return -1;
}

unsigned mg_shared_slots(void)
{
    return region ? __atomic_load_n(&region->slots, __ATOMIC_RELAXED) : 1;
}

void mg_shared_worker(int number, unsigned slot)
{
    assert(number < MG_WORKERS_MAX && slot < MG_SLOTS_MAX);
    worker_number = number;
    worker_slot = slot;
    if (descriptor >= 0)
        close(descriptor);
    descriptor = -1;
}

int mg_shared_worker_number(void)
{
    return worker_number;
}

unsigned mg_shared_slot(void)
{
    return worker_slot;
}

/* ---- Places. ---- */

static struct place *place_at(uint64_t offset)
{
    return offset ? (struct place *)((char *)region + offset) : NULL;
}

static unsigned bucket_of_name(mg_slice name)
{
    uint32_t hash = 2166136261u; /* FNV-1a: these names come from the script, not from clients */

    for (uint32_t i = 0; i < name.len; i++)
        hash = (hash ^ (unsigned char)name.ptr[i]) * 16777619u;
    return (hash ^ hash >> 16) % PLACE_BUCKETS;
}

static void into_bucket(struct place *p)
{
    uint64_t *bucket = &region->buckets[bucket_of_name((mg_slice){ p->name, p->name_len })];

    p->next_in_bucket = *bucket;
    *bucket = (uint64_t)((char *)p - (char *)region);
}

static void lock_region(void)
{
    if (pthread_mutex_lock(&region->lock) != EOWNERDEAD)
        return;
    /* A place is in the list before it is in its bucket. */
    memset(region->buckets, 0, sizeof(region->buckets));
    region->last = 0;
    for (uint64_t at = region->first; at; at = place_at(at)->next) {
        into_bucket(place_at(at));
        region->last = at;
    }
    pthread_mutex_consistent(&region->lock);
}

static struct place *find_place(mg_slice name)
{
    struct place *p = place_at(region->buckets[bucket_of_name(name)]);

    while (p && !mg_text_equal((mg_slice){ p->name, p->name_len }, name))
        p = place_at(p->next_in_bucket);
    return p;
}

static struct place *make_place(mg_slice name, uint64_t size)
{
    uint64_t at = region->used;
    uint64_t data = (at + sizeof(struct place) + name.len + PLACE_ALIGN - 1) & ~(uint64_t)(PLACE_ALIGN - 1);

    if (data > region->size || size > region->size - data)
        return NULL;
    struct place *p = (struct place *)((char *)region + at);
    *p = (struct place){ .data = data, .size = size, .name_len = name.len };
    memcpy(p->name, name.ptr, name.len);
    /* Somebody who died here may have left the head of a place with a longer name. */
    memset((char *)region + data, 0, size < 2 * NAME_MOST ? size : 2 * NAME_MOST);
    uint64_t end = data + size, rest = region->size - end;
    region->used = rest < PLACE_ALIGN ? region->size : (end + PLACE_ALIGN - 1) & ~(uint64_t)(PLACE_ALIGN - 1);
    __atomic_store_n(region->last ? &place_at(region->last)->next : &region->first, at, __ATOMIC_RELEASE);
    region->last = at;
    into_bucket(p);
    return p;
}

void mg_shared_space(unsigned number)
{
    space = number;
}

/* The name as it is in this space, in `to`, which has room for NAME_MOST + SPACE_MOST bytes. */
static mg_slice name_in_space(mg_slice name, char *to)
{
    char *at = to;

    *at++ = '\1';
    at += mg_text_put_number(at, space);
    *at++ = ':';
    memcpy(at, name.ptr, name.len);
    return (mg_slice){ to, (uint32_t)(at - to) + name.len };
}

enum mg_status mg_shared_make(mg_slice name, size_t size, bool (*make)(void *place, size_t size), void **out)
{
    enum mg_status status = MG_OK;
    char longer[NAME_MOST + SPACE_MOST];

    *out = NULL;
    if (!region || !name.len || name.len > NAME_MOST)
        return MG_FULL;
    if (space)
        name = name_in_space(name, longer);
    lock_region();
    struct place *p = find_place(name);
    if (!p)
        p = make_place(name, size);
    if (!p)
        status = MG_FULL;
    else if (p->size != size)
        status = MG_MALFORMED;
    else if (make && !p->made && !make((char *)region + p->data, size))
        status = MG_NO_MEMORY;
    if (status == MG_OK) {
        p->made = true;
        *out = (char *)region + p->data;
    }
    pthread_mutex_unlock(&region->lock);
    return status;
}

void *mg_shared_place(mg_slice name, size_t size)
{
    void *place;

    return mg_shared_make(name, size, NULL, &place) == MG_OK ? place : NULL;
}

void *mg_shared_nth(mg_slice prefix, unsigned n)
{
    struct place *p = NULL;

    if (!region)
        return NULL;
    lock_region();
    for (uint64_t at = region->first; at; at = place_at(at)->next) {
        p = place_at(at);
        if (p->name_len >= prefix.len && memcmp(p->name, prefix.ptr, prefix.len) == 0 && n-- == 0)
            break;
        p = NULL;
    }
    pthread_mutex_unlock(&region->lock);
    return p ? (char *)region + p->data : NULL;
}
