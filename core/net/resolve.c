/* resolve.c - names to addresses, by c-ares, without blocking.
 *
 * A name's entry lives in a table, in order of use, with its last good answer
 * and its waiters. c-ares may answer inside the call that asks, so answers are
 * only recorded there; on_ready() hands them out later, from the loop.
 */
#include "resolve.h"

#include <stdlib.h>
#include <string.h>

#include <ares.h>
#include <ev.h>

#include "clock.h"
#include "dns.h"
#include "log.h"
#include "text.h"

enum {
    NAME_MAX_BYTES = 254, /* RFC 1035 2.3.4, with a dot at the end */
    NAMES_MAX = 4096,
    BUCKETS = 1024,
    ADDRESSES_MAX = 32, /* of one name; more are left out */
    TTL_MIN = 1,
    TTL_MAX = 3600,
    FAILURE_TTL = 1,
};

/* An old answer is used when a new one takes longer than this. */
static const double GRACE = 0.5;

struct mg_lookup {
    struct mg_lookup *next, *previous;
    mg_lookup_done *done;
    void *owner;
};

struct name {
    struct name *next_in_bucket;
    struct name *older, *newer; /* by last use */
    struct name *next_ready;
    struct mg_lookup waiting; /* a ring; only its links are used */
    struct mg_alarm *grace;   /* set while an old answer could be used instead */
    struct mg_address *list;  /* the last good answer */
    const char *problem;      /* why the last question failed, or NULL */
    double until;             /* list or problem counts as fresh before this */
    unsigned count;
    uint32_t hash;
    bool asking;
    bool stale; /* the servers are slow or silent: list is used at any age */
    bool ready; /* in the list of on_ready() */
    uint8_t len;
    char text[]; /* zero-ended, in lower case */
};

static struct ev_loop *loop;
static ev_timer ready_event; /* never started, only fed */
static struct name *buckets[BUCKETS];
static struct name *oldest, *newest;
static struct name *first_ready;
static struct mg_lookup refused; /* a ring of lookups of what is no name, or too many */
static unsigned name_count;
static unsigned live;

static void ring_init(struct mg_lookup *ring)
{
    ring->next = ring->previous = ring;
}

static bool ring_empty(const struct mg_lookup *ring)
{
    return ring->next == ring;
}

static void ring_append(struct mg_lookup *ring, struct mg_lookup *l)
{
    l->next = ring;
    l->previous = ring->previous;
    l->previous->next = l;
    ring->previous = l;
}

/* All of `from` to the empty ring `to`. */
static void ring_move(struct mg_lookup *to, struct mg_lookup *from)
{
    ring_init(to);
    if (ring_empty(from))
        return;
    to->next = from->next;
    to->previous = from->previous;
    to->next->previous = to;
    to->previous->next = to;
    ring_init(from);
}

static void lookup_free(struct mg_lookup *l)
{
    l->previous->next = l->next;
    l->next->previous = l->previous;
    free(l);
    live--;
}

static void ring_clear(struct mg_lookup *ring)
{
    while (!ring_empty(ring))
        lookup_free(ring->next);
}

static struct mg_lookup *lookup_new(struct mg_lookup *ring, mg_lookup_done *done, void *owner)
{
    struct mg_lookup *l = malloc(sizeof(*l));
    if (!l)
        return NULL;
    l->done = done;
    l->owner = owner;
    ring_append(ring, l);
    live++;
    return l;
}

static void deliver(struct mg_lookup *ring, const struct mg_address *list, unsigned count, const char *problem)
{
    /* What the callbacks ask anew joins the old ring and waits for its turn. */
    struct mg_lookup now;
    ring_move(&now, ring);
    while (!ring_empty(&now)) {
        mg_lookup_done *done = now.next->done;
        void *owner = now.next->owner;
        lookup_free(now.next);
        done(owner, list, count, problem);
    }
}

static void on_ready(struct ev_loop *l, ev_timer *w, int events)
{
    (void)l, (void)w, (void)events;
    deliver(&refused, NULL, 0, "not a name, or too many names at once");

    struct name *n = first_ready;
    first_ready = NULL;
    while (n) {
        /* A callback may ask again and so change or drop the entry: use a copy. */
        struct mg_address list[ADDRESSES_MAX];
        struct name *next = n->next_ready;
        unsigned count = n->count;
        if (count > 0)
            memcpy(list, n->list, count * sizeof(list[0]));
        n->ready = false;
        deliver(&n->waiting, count > 0 ? list : NULL, count, count > 0 ? NULL : n->problem);
        n = next;
    }
}

static void make_ready(struct name *n)
{
    if (n->ready)
        return;
    n->ready = true;
    n->next_ready = first_ready;
    first_ready = n;
    ev_feed_event(loop, &ready_event, EV_TIMER);
}

static void end_grace(struct name *n)
{
    if (n->grace)
        mg_alarm_free(n->grace);
    n->grace = NULL;
}

static void on_grace(void *owner)
{
    struct name *n = owner;
    n->grace = NULL;
    n->stale = true;
    make_ready(n);
}

/* Does this failure say that the name has no address any more? */
static bool is_final(int status)
{
    return status == ARES_ENOTFOUND || status == ARES_ENODATA || status == ARES_EBADNAME;
}

/* The answer's addresses, by malloc, and how long they hold. */
static struct mg_address *copy_answer(const struct ares_addrinfo *answer, unsigned *count, int *ttl)
{
    struct mg_address *list = calloc(ADDRESSES_MAX, sizeof(*list));
    if (!list)
        return NULL;

    *count = 0;
    *ttl = TTL_MAX;
    for (const struct ares_addrinfo_node *a = answer->nodes; a && *count < ADDRESSES_MAX; a = a->ai_next) {
        if (a->ai_addrlen > sizeof(list->ip6) || (a->ai_family != AF_INET && a->ai_family != AF_INET6))
            continue;
        list[*count].len = a->ai_addrlen;
        memcpy(&list[*count].any, a->ai_addr, a->ai_addrlen);
        (*count)++;
        if (a->ai_ttl < *ttl)
            *ttl = a->ai_ttl;
    }
    for (const struct ares_addrinfo_cname *c = answer->cnames; c; c = c->next)
        if (c->ttl < *ttl)
            *ttl = c->ttl;
    if (*ttl < TTL_MIN)
        *ttl = TTL_MIN;
    return list;
}

static void keep_answer(struct name *n, const struct ares_addrinfo *answer)
{
    int ttl;
    unsigned count;
    struct mg_address *list = copy_answer(answer, &count, &ttl);
    if (!list || count == 0) {
        free(list);
        n->problem = list ? mg_dns_problem(ARES_ENODATA) : mg_dns_problem(ARES_ENOMEM);
        n->until = mg_clock_now() + FAILURE_TTL;
        return;
    }
    if (n->problem && n->count > 0)
        mg_log(MG_LOG_INFO, "name %s: answered again", n->text);
    free(n->list);
    n->list = list;
    n->count = count;
    n->problem = NULL;
    n->stale = false;
    n->until = mg_clock_now() + ttl;
}

static void keep_failure(struct name *n, int status)
{
    const char *problem = mg_dns_problem(status);
    if (is_final(status)) {
        free(n->list);
        n->list = NULL;
        n->count = 0;
    }
    if (!n->problem && n->count > 0)
        mg_log(MG_LOG_WARN, "name %s: %s: its last addresses stay in use", n->text, problem);
    n->problem = problem;
    n->stale = n->count > 0;
    n->until = mg_clock_now() + FAILURE_TTL;
}

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *answer)
{
    (void)timeouts;
    struct name *n = arg;
    n->asking = false;
    if (status == ARES_EDESTRUCTION)
        return;

    end_grace(n);
    if (status == ARES_SUCCESS)
        keep_answer(n, answer);
    else
        keep_failure(n, status);
    if (answer)
        ares_freeaddrinfo(answer);
    make_ready(n);
}

static void ask(struct name *n)
{
    struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    n->asking = true;
    ares_getaddrinfo(mg_dns_channel(), n->text, NULL, &hints, on_answer, n);
    mg_dns_asked();
    if (n->asking && n->count > 0 && !n->stale)
        n->grace = mg_alarm_new(GRACE, on_grace, n);
}

/* FNV-1a. */
static uint32_t hash_of(mg_slice s)
{
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < s.len; i++)
        h = (h ^ (uint8_t)s.ptr[i]) * 16777619u;
    return h;
}

static void leave_order(struct name *n)
{
    *(n->older ? &n->older->newer : &oldest) = n->newer;
    *(n->newer ? &n->newer->older : &newest) = n->older;
}

static void make_newest(struct name *n)
{
    n->older = newest;
    n->newer = NULL;
    *(newest ? &newest->newer : &oldest) = n;
    newest = n;
}

static void name_free(struct name *n)
{
    struct name **at = &buckets[n->hash % BUCKETS];
    while (*at != n)
        at = &(*at)->next_in_bucket;
    *at = n->next_in_bucket;
    leave_order(n);
    end_grace(n);
    free(n->list);
    free(n);
    name_count--;
}

/* Makes room for one more: the oldest that nobody needs now goes. */
static bool make_room(void)
{
    if (name_count < NAMES_MAX)
        return true;
    for (struct name *n = oldest; n; n = n->newer) {
        if (!n->asking && !n->ready && ring_empty(&n->waiting)) {
            name_free(n);
            return true;
        }
    }
    return false;
}

static struct name *name_find(mg_slice text, uint32_t hash)
{
    for (struct name *n = buckets[hash % BUCKETS]; n; n = n->next_in_bucket)
        if (n->hash == hash && mg_text_equal((mg_slice){ n->text, n->len }, text))
            return n;
    return NULL;
}

/* The entry of a name in lower case, new if need be; NULL if there is no room. */
static struct name *name_get(mg_slice text)
{
    uint32_t hash = hash_of(text);
    struct name *n = name_find(text, hash);
    if (n) {
        leave_order(n);
        make_newest(n);
        return n;
    }
    if (!make_room())
        return NULL;
    n = calloc(1, sizeof(*n) + text.len + 1);
    if (!n)
        return NULL;

    memcpy(n->text, text.ptr, text.len);
    n->len = (uint8_t)text.len;
    n->hash = hash;
    ring_init(&n->waiting);
    n->next_in_bucket = buckets[hash % BUCKETS];
    buckets[hash % BUCKETS] = n;
    make_newest(n);
    name_count++;
    return n;
}

/* Into `to` in lower case; false for what can't be a name. */
static bool fold_name(mg_slice name, char *to)
{
    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return false;
    for (uint32_t i = 0; i < name.len; i++) {
        if ((uint8_t)name.ptr[i] <= 0x20 || (uint8_t)name.ptr[i] >= 0x7f)
            return false;
        to[i] = mg_text_lower(name.ptr[i]);
    }
    return true;
}

/* RFC 6761 6.3: this machine itself, whatever its files or a server say. */
static unsigned loopback(mg_slice name, struct mg_address *list, unsigned room)
{
    if (!mg_text_same(name, MG_LIT("localhost")))
        return 0;
    bool v4 = mg_address_literal(MG_LIT("127.0.0.1"), 0, &list[0]);
    bool v6 = room > 1 && mg_address_literal(MG_LIT("::1"), 0, &list[1]);
    return v4 + v6;
}

struct mg_lookup *mg_resolve(mg_slice name, struct mg_address *list, unsigned *count, mg_lookup_done *done, void *owner)
{
    unsigned room = *count;
    *count = 0;
    if (room > 0 && mg_address_literal(name, 0, &list[0])) {
        *count = 1;
        return NULL;
    }
    if (room > 0 && (*count = loopback(name, list, room)))
        return NULL;
    if (!loop) /* not started: in a simulation there are no names */
        return NULL;

    char text[NAME_MAX_BYTES];
    struct name *n = fold_name(name, text) ? name_get((mg_slice){ text, name.len }) : NULL;
    if (!n) {
        ev_feed_event(loop, &ready_event, EV_TIMER);
        return lookup_new(&refused, done, owner);
    }

    if (mg_clock_now() >= n->until && !n->asking)
        ask(n);
    bool fresh = mg_clock_now() < n->until;
    if (n->count > 0 && (fresh || n->stale)) {
        *count = n->count < room ? n->count : room;
        memcpy(list, n->list, *count * sizeof(*list));
        return NULL;
    }
    if (fresh)
        make_ready(n); /* a failure, remembered */
    return lookup_new(&n->waiting, done, owner);
}

void mg_lookup_cancel(struct mg_lookup *l)
{
    lookup_free(l);
}

unsigned mg_resolve_live(void)
{
    return live;
}

bool mg_resolve_start(struct ev_loop *on, const char *servers)
{
    loop = on;
    ring_init(&refused);
    ev_timer_init(&ready_event, on_ready, 0, 0);
    return mg_dns_start(on, servers);
}

void mg_resolve_stop(void)
{
    mg_dns_stop();
    ev_clear_pending(loop, &ready_event);
    first_ready = NULL;
    ring_clear(&refused);
    while (oldest) {
        ring_clear(&oldest->waiting);
        name_free(oldest);
    }
}
