/* hook.c - the functions of a script that may be found at work, and what their policies have overrun. */
#include "hook.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "seam.h"
#include "text.h"

int mg_hooks_add(struct mg_hooks *h, mg_slice who, int policy)
{
    if (h->count == h->room) {
        unsigned room = h->room ? h->room * 2 : 32;
        struct mg_hook *more = realloc(h->list, room * sizeof(*more));
        if (!more)
            return 0;
        h->list = more;
        h->room = room;
    }
    char *copy = strndup(who.ptr, who.len);
    if (!copy)
        return 0;
    h->list[h->count++] = (struct mg_hook){ .who = copy, .policy = policy };
    return (int)h->count;
}

/* The same script declares the same policies in the same order; if it was edited meanwhile, names differ. */
static const struct mg_hook_policy *known_before(const struct mg_hooks *h, const struct mg_hook_policy *p)
{
    const struct mg_hook_policy *b = h->policy_count < h->before_count ? &h->before[h->policy_count] : NULL;

    return b && b->on_fail == p->on_fail && strcmp(b->name, p->name) == 0 ? b : NULL;
}

int mg_hooks_add_policy(struct mg_hooks *h, mg_slice name, int on_fail)
{
    if (h->policy_count == h->policy_room) {
        unsigned room = h->policy_room ? h->policy_room * 2 : 8;
        struct mg_hook_policy *more = realloc(h->policies, room * sizeof(*more));
        if (!more)
            return 0;
        h->policies = more;
        h->policy_room = room;
    }
    struct mg_hook_policy p = { .on_fail = on_fail };
    snprintf(p.name, sizeof(p.name), "%.*s", (int)name.len, name.ptr);
    const struct mg_hook_policy *before = known_before(h, &p);
    h->policies[h->policy_count++] = before ? *before : p;
    return (int)h->policy_count;
}

void mg_hooks_free(struct mg_hooks *h)
{
    for (unsigned i = 0; i < h->count; i++)
        free(h->list[i].who);
    free(h->list);
    free(h->policies);
    free(h->before);
    *h = (struct mg_hooks){ 0 };
}

static const struct mg_hook *find(const struct mg_hooks *h, int hook)
{
    return hook > 0 && (unsigned)hook <= h->count ? &h->list[hook - 1] : NULL;
}

static struct mg_hook_policy *find_policy(const struct mg_hooks *h, int policy)
{
    return policy > 0 && (unsigned)policy <= h->policy_count ? &h->policies[policy - 1] : NULL;
}

bool mg_hooks_tell(struct mg_hooks *h, int hook)
{
    if (!find(h, hook) || h->list[hook - 1].told)
        return false;
    h->list[hook - 1].told = true;
    return true;
}

const char *mg_hooks_who(const struct mg_hooks *h, int hook)
{
    const struct mg_hook *found = find(h, hook);

    return found ? found->who : "a run of Lua";
}

const struct mg_hook_policy *mg_hooks_trip(struct mg_hooks *h, int hook, unsigned most, double seconds)
{
    const struct mg_hook *found = find(h, hook);
    struct mg_hook_policy *p = found ? find_policy(h, found->policy) : NULL;
    double now = mg_clock_now();

    if (!p)
        return NULL;
    p->recent[p->trips++ % MG_TRIPS_MOST] = now;
    if (p->out || p->on_fail == MG_ON_FAIL_NONE || p->trips < most)
        return NULL;
    p->out = now - p->recent[(p->trips - most) % MG_TRIPS_MOST] <= seconds;
    return p->out ? p : NULL;
}

bool mg_hooks_is_out(const struct mg_hooks *h, int policy)
{
    const struct mg_hook_policy *p = find_policy(h, policy);

    return p && p->out;
}

void mg_hooks_inherit(struct mg_hooks *to, const struct mg_hooks *from)
{
    size_t size = from->policy_count * sizeof(*from->policies);

    if (!from->policy_count || !(to->before = malloc(size)))
        return;
    memcpy(to->before, from->policies, size);
    to->before_count = from->policy_count;
}

size_t mg_hooks_report(const struct mg_hooks *h, char *to, size_t size)
{
    static const char *const outs[] = { "false", "\"open\"", "\"closed\"" };
    size_t n = 0;

    for (unsigned i = 0; i < h->policy_count; i++) {
        const struct mg_hook_policy *p = &h->policies[i];
        if (!p->trips)
            continue;
        char name[MG_HOOK_NAME * 6 + 1];
        name[mg_text_put_json(name, mg_slice_of(p->name))] = '\0';
        int more = snprintf(to + n, size - n, "%s{\"name\":\"%s\",\"trips\":%u,\"out\":%s}", n ? "," : "", name,
                            p->trips, outs[p->out ? p->on_fail : 0]);
        if (more < 0 || (size_t)more >= size - n)
            break;
        n += (size_t)more;
    }
    to[n] = '\0';
    return n;
}
