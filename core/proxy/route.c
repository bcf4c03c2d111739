/* route.c - a tree of segments for each host.
 *
 * A node is reached by one run of segments only, so a search with backtracking
 * meets each node at most once, and it goes no deeper than the longest pattern
 * whatever the path. Children and hosts are found by hash. */
#include "route.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "text.h"
#include "uri.h"

enum { SEGMENTS_MAX = 128, REFUSED_MAX = 32 };

/* Methods with a bit of their own; OTHERS is every other name. */
enum {
    GET = 1,
    HEAD = 2,
    POST = 4,
    PUT = 8,
    DELETE = 16,
    PATCH = 32,
    OPTIONS = 64,
    CONNECT = 128,
    TRACE = 256,
    OTHERS = 512
};
enum { KNOWN_METHODS = 9, ALL_METHODS = GET | HEAD | POST | PUT | DELETE | PATCH | OPTIONS | OTHERS };

/* clang-format off */
static const mg_slice method_names[KNOWN_METHODS] = {
    MG_LIT("GET"),   MG_LIT("HEAD"),    MG_LIT("POST"),    MG_LIT("PUT"),   MG_LIT("DELETE"),
    MG_LIT("PATCH"), MG_LIT("OPTIONS"), MG_LIT("CONNECT"), MG_LIT("TRACE"),
};
/* clang-format on */

struct route {
    struct route *next; /* of the same pattern, for other methods */
    int number;
    unsigned methods;
    unsigned name_count;
    mg_slice *names; /* methods without a bit */
    unsigned param_count;
    mg_slice params[MG_ROUTE_PARAMS_MAX];
};

/* Slices to pointers, open addressing; size is a power of two or 0. */
struct table {
    struct slot {
        uint32_t hash;
        mg_slice key;
        void *value; /* NULL: free */
    } * slots;
    unsigned size, count;
};

struct node {
    struct table literals;
    struct node *children, *sibling, **last; /* the literals in order of declaration */
    struct node *param;
    struct route *here, *star; /* patterns that end here, and with "*" after here */
    struct route *asterisk;    /* a root's: the pattern "*" */
};

struct host {
    struct host *next;
    mg_slice name; /* of a wildcard with its first dot: ".example.com" */
    struct node root;
};

struct block {
    struct block *next;
    max_align_t data[];
};

struct mg_router {
    struct table exact, wildcards;
    struct host *hosts, *suffixes; /* in match order: exact as declared, wildcards from the longest */
    struct node any;
    struct route **routes; /* as added; in match order once compiled: `order` */
    int *order;
    unsigned count, room, ordered;
    uint32_t longest_suffix;
    struct block *blocks;
    char problem[512];
};

/* ---- Memory and tables. ---- */

static void *take(struct mg_router *r, size_t n)
{
    struct block *b = calloc(1, sizeof(*b) + n);

    if (!b)
        return NULL;
    b->next = r->blocks;
    r->blocks = b;
    return b->data;
}

static mg_slice copy(struct mg_router *r, mg_slice s)
{
    char *to = take(r, s.len + 1);

    if (to && s.len)
        memcpy(to, s.ptr, s.len);
    return (mg_slice){ to, s.len };
}

static inline uint32_t hash_of(mg_slice s)
{
    uint32_t h = 2166136261u;

    for (uint32_t i = 0; i < s.len; i++)
        h = (h ^ (uint8_t)s.ptr[i]) * 16777619u;
    return h;
}

static inline struct slot *slot_for(const struct table *t, mg_slice key, uint32_t hash)
{
    for (unsigned i = hash;; i++) {
        struct slot *slot = &t->slots[i & (t->size - 1)];

        if (!slot->value || (slot->hash == hash && mg_text_equal(slot->key, key)))
            return slot;
    }
}

static inline void *table_find(const struct table *t, mg_slice key)
{
    return t->count ? slot_for(t, key, hash_of(key))->value : NULL;
}

static bool table_add(struct mg_router *r, struct table *t, mg_slice key, void *value)
{
    if (2 * (t->count + 1) > t->size) {
        struct table larger = { .size = t->size ? 2 * t->size : 4, .count = t->count };

        larger.slots = take(r, larger.size * sizeof(*larger.slots));
        if (!larger.slots)
            return false;
        for (unsigned i = 0; i < t->size; i++)
            if (t->slots[i].value)
                *slot_for(&larger, t->slots[i].key, t->slots[i].hash) = t->slots[i];
        *t = larger;
    }
    uint32_t hash = hash_of(key);
    *slot_for(t, key, hash) = (struct slot){ hash, key, value };
    t->count++;
    return true;
}

struct mg_router *mg_router_new(void)
{
    return calloc(1, sizeof(struct mg_router));
}

void mg_router_free(struct mg_router *r)
{
    if (!r)
        return;
    for (struct block *b = r->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(r->routes);
    free(r->order);
    free(r);
}

/* ---- Declaring. ---- */

__attribute__((format(printf, 2, 3))) static enum mg_status malformed(struct mg_router *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(r->problem, sizeof(r->problem), format, args);
    va_end(args);
    return MG_MALFORMED;
}

#define SHOWN(s) (int)((s).len < 200 ? (s).len : 200), (s).ptr

static unsigned method_bit(mg_slice name)
{
    for (unsigned i = 0; i < KNOWN_METHODS; i++)
        if (mg_text_equal(name, method_names[i]))
            return 1u << i;
    return OTHERS;
}

static enum mg_status read_methods(struct mg_router *r, mg_slice methods, struct route *route)
{
    mg_slice rest = methods, name;

    while (mg_text_next_item(&rest, &name)) {
        if (!mg_text_is_token(name))
            return malformed(r, "\"%.*s\" is no method: write names like \"GET\"", SHOWN(name));
        unsigned bit = method_bit(name);
        for (unsigned i = 0; bit == OTHERS && i < KNOWN_METHODS; i++)
            if (mg_text_same(name, method_names[i]))
                return malformed(r, "method \"%.*s\" must be written \"%s\": methods are case-sensitive", SHOWN(name),
                                 method_names[i].ptr);
        if (bit != OTHERS) {
            route->methods |= bit;
            continue;
        }
        mg_slice *names = take(r, (route->name_count + 1) * sizeof(*names));
        if (!names)
            return MG_NO_MEMORY;
        if (route->name_count)
            memcpy(names, route->names, route->name_count * sizeof(*names));
        route->names = names;
        names[route->name_count] = copy(r, name);
        if (!names[route->name_count++].ptr)
            return MG_NO_MEMORY;
    }
    if (!route->methods && !route->name_count)
        route->methods = ALL_METHODS;
    return MG_OK;
}

static bool names_method(const struct route *route, mg_slice name)
{
    for (unsigned i = 0; i < route->name_count; i++)
        if (mg_text_equal(route->names[i], name))
            return true;
    return false;
}

static bool overlap(const struct route *a, const struct route *b)
{
    if (a->methods & b->methods)
        return true;
    if ((a->methods & OTHERS && b->name_count) || (b->methods & OTHERS && a->name_count))
        return true;
    for (unsigned i = 0; i < a->name_count; i++)
        if (names_method(b, a->names[i]))
            return true;
    return false;
}

/* The host of this name, made if it is new; the lists stay in match order. */
static struct node *host_root(struct mg_router *r, struct table *table, struct host **list, mg_slice name)
{
    struct host *h = table_find(table, name);

    if (h)
        return &h->root;
    h = take(r, sizeof(*h));
    if (!h)
        return NULL;
    h->name = copy(r, name);
    if (!h->name.ptr || !table_add(r, table, h->name, h))
        return NULL;
    if (table == &r->wildcards && name.len > r->longest_suffix)
        r->longest_suffix = name.len;
    while (*list && (table == &r->exact || (*list)->name.len >= name.len))
        list = &(*list)->next;
    h->next = *list;
    *list = h;
    return &h->root;
}

static enum mg_status find_root(struct mg_router *r, mg_slice pattern, mg_slice host, struct node **root)
{
    bool wildcard = host.len > 2 && memcmp(host.ptr, "*.", 2) == 0;
    mg_slice name = wildcard ? (mg_slice){ host.ptr + 2, host.len - 2 } : host;
    mg_slice plain;
    uint16_t port;

    *root = &r->any;
    if (host.len == 0)
        return MG_OK;
    if (memchr(name.ptr, '*', name.len))
        return malformed(r,
                         "pattern \"%.*s\": \"*\" in a host stands only as \"*.\" before a whole name; for every host "
                         "begin with \"/\"",
                         SHOWN(pattern));
    mg_slice lower = copy(r, host);
    if (!lower.ptr)
        return MG_NO_MEMORY;
    for (uint32_t i = 0; i < lower.len; i++)
        ((char *)lower.ptr)[i] = mg_text_lower(lower.ptr[i]);
    name = wildcard ? (mg_slice){ lower.ptr + 2, lower.len - 2 } : lower;
    if (mg_host_parse(name, NULL, &plain, &port) != MG_OK)
        return malformed(r, "pattern \"%.*s\": \"%.*s\" is no host name", SHOWN(pattern), SHOWN(host));
    if (plain.len + (name.ptr[name.len - 1] == '.') != name.len)
        return malformed(r, "pattern \"%.*s\": a route's host has no port; routes are the same on every listener",
                         SHOWN(pattern));
    if (wildcard)
        *root = host_root(r, &r->wildcards, &r->suffixes, (mg_slice){ plain.ptr - 1, plain.len + 1 });
    else
        *root = host_root(r, &r->exact, &r->hosts, plain);
    return *root ? MG_OK : MG_NO_MEMORY;
}

static struct node *literal_child(struct mg_router *r, struct node *n, mg_slice segment)
{
    struct node *child = table_find(&n->literals, segment);

    if (child)
        return child;
    child = take(r, sizeof(*child));
    mg_slice key = copy(r, segment);
    if (!child || !key.ptr || !table_add(r, &n->literals, key, child))
        return NULL;
    if (!n->last)
        n->last = &n->children;
    *n->last = child;
    n->last = &child->sibling;
    return child;
}

static bool is_word(mg_slice s)
{
    for (uint32_t i = 0; i < s.len; i++) {
        char c = mg_text_lower(s.ptr[i]);

        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_')
            return false;
    }
    return s.len > 0;
}

static enum mg_status add_param(struct mg_router *r, mg_slice pattern, struct route *route, mg_slice name)
{
    if (route->param_count == MG_ROUTE_PARAMS_MAX)
        return malformed(r, "pattern \"%.*s\" has more than %d parameters", SHOWN(pattern), MG_ROUTE_PARAMS_MAX);
    for (unsigned i = 0; i < route->param_count; i++)
        if (mg_text_equal(route->params[i], name))
            return malformed(r, "pattern \"%.*s\" has two parameters \":%.*s\": give each its own name", SHOWN(pattern),
                             SHOWN(name));
    route->params[route->param_count] = copy(r, name);
    return route->params[route->param_count++].ptr ? MG_OK : MG_NO_MEMORY;
}

/* Goes one segment down from *n. */
static enum mg_status add_segment(struct mg_router *r, mg_slice pattern, struct route *route, struct node **n,
                                  mg_slice segment)
{
    if (segment.len && segment.ptr[0] == ':') {
        mg_slice name = { segment.ptr + 1, segment.len - 1 };

        if (!is_word(name))
            return malformed(r, "pattern \"%.*s\": \"%.*s\" is no parameter; its name is letters, digits and \"_\"",
                             SHOWN(pattern), SHOWN(segment));
        enum mg_status status = add_param(r, pattern, route, name);
        if (status != MG_OK)
            return status;
        if (!(*n)->param)
            (*n)->param = take(r, sizeof(**n));
        *n = (*n)->param;
        return *n ? MG_OK : MG_NO_MEMORY;
    }
    if (segment.len && memchr(segment.ptr, '*', segment.len))
        return malformed(r,
                         "pattern \"%.*s\": \"*\" may only be its whole last segment; for one segment write \":name\"",
                         SHOWN(pattern));
    if (mg_text_equal(segment, MG_LIT(".")) || mg_text_equal(segment, MG_LIT("..")))
        return malformed(r, "pattern \"%.*s\" can't match: \".\" and \"..\" are resolved before routing",
                         SHOWN(pattern));
    *n = literal_child(r, *n, segment);
    return *n ? MG_OK : MG_NO_MEMORY;
}

/* Files the path of a pattern below root; *list becomes the list of routes it belongs to. */
static enum mg_status add_path(struct mg_router *r, mg_slice pattern, mg_slice path, struct route *route,
                               struct node *root, struct route ***list)
{
    const char *at = path.ptr + 1, *end = path.ptr + path.len;
    struct node *n = root;

    for (unsigned count = 0; count < SEGMENTS_MAX; count++) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        mg_slice segment = { at, (uint32_t)((slash ? slash : end) - at) };

        if (!slash && mg_text_equal(segment, MG_LIT("*"))) {
            *list = &n->star;
            return add_param(r, pattern, route, segment);
        }
        enum mg_status status = add_segment(r, pattern, route, &n, segment);
        if (status != MG_OK)
            return status;
        if (!slash) {
            *list = &n->here;
            return MG_OK;
        }
        at = slash + 1;
    }
    return malformed(r, "pattern \"%.*s\" has more than %d segments", SHOWN(pattern), SEGMENTS_MAX);
}

static enum mg_status read_pattern(struct mg_router *r, mg_slice pattern, struct route *route, struct route ***list)
{
    const char *slash = pattern.len ? memchr(pattern.ptr, '/', pattern.len) : NULL;
    struct node *root;

    if (mg_text_equal(pattern, MG_LIT("*"))) {
        *list = &r->any.asterisk;
        return MG_OK;
    }
    if (pattern.len == 0)
        return malformed(r, "an empty pattern: write \"/*\" for every path");
    if (memchr(pattern.ptr, '?', pattern.len) || memchr(pattern.ptr, '#', pattern.len))
        return malformed(r, "pattern \"%.*s\": only host and path are routed, a pattern has no \"?\" or \"#\"",
                         SHOWN(pattern));
    if (!slash)
        return malformed(r, "pattern \"%.*s\" has no path: write \"%.*s/*\", or \"/%.*s\" if it is no host",
                         SHOWN(pattern), SHOWN(pattern), SHOWN(pattern));

    mg_slice host = { pattern.ptr, (uint32_t)(slash - pattern.ptr) };
    enum mg_status status = find_root(r, pattern, host, &root);
    if (status != MG_OK)
        return status;
    return add_path(r, pattern, (mg_slice){ slash, pattern.len - host.len }, route, root, list);
}

static enum mg_status add(struct mg_router *r, mg_slice pattern, mg_slice methods, int number)
{
    struct route *route = take(r, sizeof(*route)), **list = NULL;

    if (!route)
        return MG_NO_MEMORY;
    route->number = number;
    enum mg_status status = read_methods(r, methods, route);
    if (status == MG_OK)
        status = read_pattern(r, pattern, route, &list);
    if (status != MG_OK)
        return status;
    for (struct route *o = *list; o; o = o->next)
        if (overlap(o, route))
            return malformed(r,
                             "pattern \"%.*s\" stands already for the same methods: take one away, or give each route "
                             "other methods",
                             SHOWN(pattern));

    if (r->count == r->room) {
        unsigned room = r->room ? 2 * r->room : 16;
        struct route **routes = reallocarray(r->routes, room, sizeof(struct route *));

        if (!routes)
            return MG_NO_MEMORY;
        r->routes = routes;
        r->room = room;
    }
    r->routes[r->count++] = route;
    while (*list)
        list = &(*list)->next;
    *list = route;
    return MG_OK;
}

enum mg_status mg_router_add(struct mg_router *r, mg_slice pattern, mg_slice methods, int number, const char **problem)
{
    enum mg_status status = add(r, pattern, methods, number);

    if (status == MG_NO_MEMORY)
        snprintf(r->problem, sizeof(r->problem), "no memory for pattern \"%.*s\"", SHOWN(pattern));
    if (status != MG_OK)
        *problem = r->problem;
    return status;
}

/* ---- Match order. ---- */

static void order_list(struct mg_router *r, const struct route *list)
{
    for (; list; list = list->next)
        r->order[r->ordered++] = list->number;
}

static void order_node(struct mg_router *r, const struct node *n)
{
    order_list(r, n->asterisk);
    order_list(r, n->here);
    for (const struct node *child = n->children; child; child = child->sibling)
        order_node(r, child);
    if (n->param)
        order_node(r, n->param);
    order_list(r, n->star);
}

enum mg_status mg_router_compile(struct mg_router *r)
{
    free(r->order);
    r->ordered = 0;
    r->order = calloc(r->count + 1, sizeof(*r->order));
    if (!r->order)
        return MG_NO_MEMORY;
    for (const struct host *h = r->hosts; h; h = h->next)
        order_node(r, &h->root);
    for (const struct host *h = r->suffixes; h; h = h->next)
        order_node(r, &h->root);
    order_node(r, &r->any);
    return MG_OK;
}

int mg_router_in_order(const struct mg_router *r, int n)
{
    return n >= 0 && (unsigned)n < r->ordered ? r->order[n] : MG_ABSENT;
}

unsigned mg_router_param_names(const struct mg_router *r, int number, mg_slice *names)
{
    const struct route *route = NULL;

    /* Numbers are usually the order of declaration. */
    if (number >= 0 && (unsigned)number < r->count && r->routes[number]->number == number)
        route = r->routes[number];
    for (unsigned i = 0; !route && i < r->count; i++)
        if (r->routes[i]->number == number)
            route = r->routes[i];
    if (!route)
        return 0;
    memcpy(names, route->params, route->param_count * sizeof(*names));
    return route->param_count;
}

/* ---- Finding. ---- */

struct search {
    mg_slice method;
    unsigned bit;
    struct mg_route_match *out;
    const char *end;                          /* of the path */
    unsigned allowed;                         /* what the routes allow that were passed over */
    const struct route *refused[REFUSED_MAX]; /* those with names of their own */
    unsigned refused_count;
    bool passed_over;
};

static bool choose(struct search *s, const struct route *list)
{
    for (const struct route *route = list; route; route = route->next) {
        if (route->methods & s->bit || (s->bit == OTHERS && names_method(route, s->method))) {
            s->out->route = route->number;
            return true;
        }
        s->passed_over = true;
        s->allowed |= route->methods;
        if (route->name_count && s->refused_count < REFUSED_MAX)
            s->refused[s->refused_count++] = route;
    }
    return false;
}

static bool choose_star(struct search *s, const struct route *list, const char *rest)
{
    if (!list || !choose(s, list))
        return false;
    s->out->params[s->out->param_count++] = (mg_slice){ rest, (uint32_t)(s->end - rest) };
    return true;
}

/* `at` is the next segment's first byte, NULL if the path has no more. The most literal way goes first. */
static bool walk(struct search *s, const struct node *n, const char *at)
{
    if (!at)
        return choose(s, n->here) || choose_star(s, n->star, s->end);

    const char *slash = memchr(at, '/', (size_t)(s->end - at));
    mg_slice segment = { at, (uint32_t)((slash ? slash : s->end) - at) };
    const char *next = slash ? slash + 1 : NULL;

    const struct node *literal = table_find(&n->literals, segment);
    if (literal && walk(s, literal, next))
        return true;
    if (n->param && segment.len) {
        s->out->params[s->out->param_count++] = segment;
        if (walk(s, n->param, next))
            return true;
        s->out->param_count--;
    }
    return choose_star(s, n->star, at);
}

static bool search_root(struct search *s, const struct node *root, mg_slice path)
{
    if (path.ptr[0] == '/')
        return walk(s, root, path.ptr + 1);
    return choose(s, root->asterisk) || choose_star(s, root->star, s->end);
}

/* Tries "*.b.c.d", "*.c.d", "*.d" for "a.b.c.d". */
static bool search_wildcards(struct search *s, const struct mg_router *r, mg_slice host, mg_slice path)
{
    uint32_t i = host.len > r->longest_suffix ? host.len - r->longest_suffix : 1;

    for (; i < host.len; i++) {
        if (host.ptr[i] != '.')
            continue;
        const struct host *h = table_find(&r->wildcards, (mg_slice){ host.ptr + i, host.len - i });
        if (h && search_root(s, &h->root, path))
            return true;
    }
    return false;
}

static bool search(struct search *s, const struct mg_router *r, mg_slice host, mg_slice path)
{
    const struct host *h = table_find(&r->exact, host);

    if (h && search_root(s, &h->root, path))
        return true;
    if (r->wildcards.count && search_wildcards(s, r, host, path))
        return true;
    return search_root(s, &r->any, path);
}

struct list {
    char *text;
    size_t len, cap;
};

/* Adds a name unless it is there already or does not fit. */
static void list_add(struct list *l, mg_slice name)
{
    size_t separator = l->len ? 2 : 0;

    if (l->len + separator + name.len > l->cap || mg_text_list_has((mg_slice){ l->text, (uint32_t)l->len }, name))
        return;
    memcpy(l->text + l->len, ", ", separator);
    memcpy(l->text + l->len + separator, name.ptr, name.len);
    l->len += separator + name.len;
}

static void list_allowed(const struct search *s, struct list *l)
{
    for (unsigned i = 0; i < KNOWN_METHODS; i++)
        if (s->allowed >> i & 1)
            list_add(l, method_names[i]);
    for (unsigned i = 0; i < s->refused_count; i++)
        for (unsigned k = 0; k < s->refused[i]->name_count; k++)
            list_add(l, s->refused[i]->names[k]);
}

enum mg_status mg_router_find(const struct mg_router *r, mg_slice host, mg_slice path, mg_slice method,
                              struct mg_route_match *out, char *allow, size_t cap, size_t *allow_len)
{
    struct search s;

    /* Not cleared as a whole: `refused` is large and rarely used. */
    s.method = method;
    s.bit = method_bit(method);
    s.out = out;
    s.end = path.ptr + path.len;
    s.allowed = s.refused_count = 0;
    s.passed_over = false;
    out->param_count = 0;
    out->route = MG_ABSENT;
    if (path.len == 0)
        return MG_ABSENT;
    if (search(&s, r, host, path))
        return MG_OK;
    if (!s.passed_over)
        return MG_ABSENT;
    if (allow) {
        struct list l = { allow, 0, cap };

        list_allowed(&s, &l);
        *allow_len = l.len;
    }
    return MG_REFUSED;
}
