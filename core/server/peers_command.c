/* peers_command.c - the command "peers" of the control socket: the master passes it on to a worker.
 *
 * The master knows no upstreams. Any worker that serves can answer, since what is said of peers lies in memory that
 * all of them share. */
#include "peers_command.h"

#include <string.h>

#include "control.h"

enum { ORDER_MOST = 4096 };
static const double PATIENCE = 2.0; /* seconds for the worker to answer */

static struct ev_loop *loop;
static ev_timer late;
static unsigned asked; /* the control socket's question under way; 0: none */
static int of;         /* the number of the worker that was asked */

static void end(void)
{
    ev_timer_stop(loop, &late);
    asked = 0;
}

static void give_up(const char *why)
{
    unsigned ticket = asked;

    end();
    mg_control_refuse(ticket, why);
}

static void on_late(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)t;
    (void)events;
    give_up("peers: the worker did not answer in time; ask again");
}

static struct mg_child *find_worker(void)
{
    for (unsigned i = 0; i < mg_children.count; i++)
        if (mg_children.all[i].pid && mg_children.all[i].in_force)
            return &mg_children.all[i];
    return NULL;
}

static size_t put(char *to, size_t n, const char *key, const char *otherwise)
{
    const char *value = mg_control_given(key);
    size_t len = strlen(value ? value : otherwise) + 1;

    if (n + len > ORDER_MOST)
        return n;
    memcpy(to + n, value ? value : otherwise, len);
    return n + len;
}

const char *mg_peers_ask(unsigned ticket)
{
    static const char *const keys[] = { "action", "upstream", "peer", "weight", "zone" };
    struct mg_child *c = find_worker();
    char order[ORDER_MOST];
    size_t n = 0;

    if (asked)
        return "peers: another question about peers is under way; ask again";
    if (!c)
        return "peers: no worker serves now; ask again";
    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        n = put(order, n, keys[i], i ? "" : "list");
    if (!mg_channel_send(c->channel, MG_WORD_PEERS, order, n, NULL, 0))
        return "peers: the worker can't be asked; ask again";
    asked = ticket;
    of = c->number;
    ev_timer_set(&late, PATIENCE, 0);
    ev_timer_start(loop, &late);
    return NULL;
}

void mg_peers_on_answer(const struct mg_letter *l)
{
    unsigned ticket = asked;

    end();
    mg_control_answer(ticket, l->body);
}

void mg_peers_on_end(const struct mg_child *c)
{
    if (asked && c->number == of)
        give_up("peers: the worker that was asked has ended; ask again");
}

void mg_peers_start(struct ev_loop *on)
{
    loop = on;
    ev_init(&late, on_late);
}
