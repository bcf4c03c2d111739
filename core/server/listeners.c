/* listeners.c - the listeners of a worker, by address. */
#include "listeners.h"

#include <unistd.h>

static struct ev_loop *loop;
static struct mg_listener *listeners[MG_BINDS_MOST];
static unsigned count;

/* Which listener it is; count: none. */
static unsigned find(const struct mg_address *a)
{
    unsigned i = 0;

    while (i < count && !mg_address_equal(mg_listener_address(listeners[i]), a))
        i++;
    return i;
}

static bool listens_at(const struct mg_generation *g, const struct mg_address *a)
{
    for (unsigned i = 0; i < g->listen_count; i++)
        if (mg_address_equal(&g->listens[i].address, a))
            return true;
    return false;
}

static void remove_others(const struct mg_generation *g)
{
    for (unsigned i = count; i-- > 0;) {
        if (listens_at(g, mg_listener_address(listeners[i])))
            continue;
        mg_listener_remove(listeners[i]);
        listeners[i] = listeners[--count];
    }
}

static bool add(const struct mg_listen *listen, int fd)
{
    if (find(&listen->address) < count) {
        close(fd);
        return true;
    }
    struct mg_listener *l = mg_listener_new(loop, fd, listen);
    if (!l)
        return false;
    listeners[count++] = l;
    mg_listener_start(l);
    return true;
}

bool mg_listeners_take(const struct mg_generation *g, const struct mg_letter *l)
{
    const uint32_t *numbers = (const uint32_t *)l->body;

    if (l->fd_count != l->len / sizeof(*numbers))
        return false; /* no descriptor was left for them */
    remove_others(g);
    for (unsigned i = 0; i < g->listen_count; i++) {
        unsigned n = find(&g->listens[i].address);
        if (n < count && !mg_listener_settle(listeners[n], &g->listens[i]))
            return false;
    }
    for (unsigned i = 0; i < l->fd_count; i++)
        if (numbers[i] >= g->listen_count || !add(&g->listens[numbers[i]], l->fds[i]))
            return false;
    return true;
}

void mg_listeners_stop(void)
{
    for (unsigned i = 0; i < count; i++)
        mg_listener_stop(listeners[i]);
}

void mg_listeners_remove(void)
{
    while (count)
        mg_listener_remove(listeners[--count]);
}

void mg_listeners_start(struct ev_loop *on)
{
    loop = on;
}
