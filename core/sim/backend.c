/* backend.c - simulated servers.
 *
 * A job is a try of an exchange at a server, and the stream that the engine has to it. It travels there for half of the
 * delay, waits for its turn, is worked at, and travels back. A server does not notice that nobody waits for its answer
 * any more. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "chance.h"
#include "clock.h"
#include "dial.h"
#include "ledger.h"
#include "text.h"

enum { BUCKETS = 4096, ANSWERS_FULL_WITH = 503 };

enum stage { DIALLING, OPENED, GOING, WAITING, AT_WORK, COMING };

struct backend;

struct job {
    struct mg_stream stream; /* first */
    struct mg_due due;
    struct mg_timeout patience; /* the response's, or the connect timeout */
    struct backend *backend;
    struct mg_dial *dial;         /* while DIALLING */
    struct mg_clock_queue *until; /* how long a response may take */
    struct job *next, *previous;  /* the server's */
    struct job *behind;           /* while WAITING; or unused */
    enum stage stage;
    uint32_t draw; /* which of the chances it has */
    uint32_t worker;
    uint16_t status; /* 0: it will be cut */
    bool left;       /* the engine has let go */
    double service;  /* below 0: by the server's law */
};

struct backend {
    mg_backend_plan plan;
    uint32_t number;
    int state;                    /* of mg_change_what: UP, KILLED, FROZEN, UNREACHABLE */
    uint32_t busy, queued, crowd; /* worked at; waiting; there at all */
    struct job *jobs;             /* all but those that dial */
    struct job *first, *last;     /* waiting */
    struct job *stalled;          /* done while it was frozen, by `behind` */
    struct backend *next;         /* in its bucket */
};

static mg_simulation *sim;
static struct mg_agenda *agenda;
static double zero; /* when the plan begins */
static struct backend *buckets[BUCKETS], **all;
static uint32_t count, room;
static struct job *unused;
static uint32_t extra_draws; /* of requests that no asker has sent: checks, fetches */
static const struct mg_stream_ops ops;

static double since_begin(void)
{
    return mg_clock_now() - zero;
}

/* ---- Servers, by their address. ---- */

static struct backend **bucket_of(mg_slice address)
{
    uint32_t hash = 2166136261u;

    for (uint32_t i = 0; i < address.len; i++)
        hash = (hash ^ (unsigned char)address.ptr[i]) * 16777619u;
    return &buckets[(hash ^ hash >> 15) % BUCKETS];
}

static struct backend *find(mg_slice address)
{
    struct backend *b = *bucket_of(address);

    while (b && !mg_text_equal(b->plan.address, address))
        b = b->next;
    return b;
}

static struct backend *add(const mg_backend_plan *plan, mg_slice address)
{
    struct backend *b = calloc(1, sizeof(*b) + address.len);

    if (count == room) {
        struct backend **more = realloc(all, (room ? room * 2 : 64) * sizeof(*more));
        if (!more) {
            free(b);
            return NULL;
        }
        all = more;
        room = room ? room * 2 : 64;
    }
    if (!b)
        return NULL;
    memcpy(b + 1, address.ptr, address.len);
    b->plan = *plan;
    b->plan.address = (mg_slice){ (char *)(b + 1), address.len };
    b->number = count;
    b->state = MG_CHANGE_UP;
    struct backend **bucket = bucket_of(b->plan.address);
    b->next = *bucket;
    *bucket = b;
    all[count++] = b;
    return b;
}

/* A peer that the script has added meanwhile. */
static struct backend *add_unplanned(mg_slice address)
{
    return mg_ledger_add_backend(sim) ? add(&sim->usual, address) : NULL;
}

void mg_simulation_address(uint32_t n, mg_slice *out)
{
    *out = n < count ? all[n]->plan.address : (mg_slice){ "", 0 };
}

/* ---- Jobs. ---- */

static void on_patience(struct mg_timeout *t);

static struct job *new_job(struct backend *b)
{
    struct job *j = unused;

    if (j)
        unused = j->behind;
    else
        j = malloc(sizeof(*j));
    if (!j)
        return NULL;
    *j = (struct job){ .backend = b, .worker = mg_clock_whom(), .patience.fire = on_patience, .service = -1 };
    return j;
}

static void free_job(struct job *j)
{
    mg_agenda_remove(agenda, &j->due);
    mg_timeout_clear(&j->patience);
    j->behind = unused;
    unused = j;
}

static void crowd(struct backend *b, int by)
{
    b->crowd = (uint32_t)((int)b->crowd + by);
    mg_ledger_load(b->number, b->crowd, since_begin());
}

static void work(struct backend *b, int by)
{
    b->busy = (uint32_t)((int)b->busy + by);
    mg_ledger_work(b->number, b->busy, since_begin());
}

static void enter(struct job *j)
{
    struct backend *b = j->backend;

    j->next = b->jobs;
    j->previous = NULL;
    if (j->next)
        j->next->previous = j;
    b->jobs = j;
}

static void leave(struct job *j)
{
    struct backend *b = j->backend;

    if (j->next)
        j->next->previous = j->previous;
    if (j->previous)
        j->previous->next = j->next;
    else
        b->jobs = j->next;
}

/* Without room in the agenda the run can't go on. */
static void later(struct job *j, double seconds)
{
    if (!mg_agenda_add(agenda, &j->due, mg_clock_now() + seconds))
        abort();
}

static double half_delay(const struct job *j)
{
    uint32_t n = j->backend->number;

    return n < sim->backend_count ? sim->delays[(size_t)j->worker * sim->backend_count + n] / 2 : 0;
}

/* ---- The way back. ---- */

static void cut(struct job *j, enum mg_why why)
{
    leave(j);
    mg_clock_enter(j->worker);
    if (!j->left)
        j->stream.events->on_end(&j->stream, why);
    free_job(j);
}

static void answer(struct job *j)
{
    static struct mg_arena scattered; /* no one text, as that of a parsed message */
    struct mg_message m = { .arena = &scattered, .version = 11, .status = j->status };

    if (j->left || !j->status) {
        cut(j, MG_WHY_CUT);
        return;
    }
    leave(j);
    mg_timeout_clear(&j->patience);
    j->stream.events->on_head(&j->stream, &m, true);
    if (!j->left)
        j->stream.events->on_end(&j->stream, MG_WHY_COMPLETE);
    free_job(j);
}

static void go_back(struct job *j)
{
    double seconds = half_delay(j);

    j->stage = COMING;
    if (seconds > 0)
        later(j, seconds);
    else
        answer(j);
}

/* ---- At work. ---- */

static void begin_work(struct job *j)
{
    struct backend *b = j->backend;
    double seconds = j->service;

    if (seconds < 0)
        seconds = mg_law_draw(&b->plan.service, mg_chance(sim->seed, MG_CHANCE_SERVICE, j->draw),
                              mg_chance(sim->seed, MG_CHANCE_SERVICE_SECOND, j->draw));
    seconds *= b->plan.slowness;
    j->stage = AT_WORK;
    j->status = 200;
    if (b->plan.fails > 0 && mg_chance(sim->seed, MG_CHANCE_FAILURE, j->draw) < b->plan.fails)
        j->status = b->plan.fails_with;
    work(b, 1);
    later(j, seconds);
}

static void work_on(struct backend *b)
{
    while (b->first && (!b->plan.capacity || b->busy < b->plan.capacity)) {
        struct job *j = b->first;
        b->first = j->behind;
        b->queued--;
        begin_work(j);
    }
}

static void arrive(struct job *j)
{
    struct backend *b = j->backend;

    crowd(b, 1);
    if (!b->plan.capacity || b->busy < b->plan.capacity) {
        begin_work(j);
        return;
    }
    if (b->queued >= b->plan.queue) {
        crowd(b, -1);
        j->status = ANSWERS_FULL_WITH;
        j->stage = COMING;
        later(j, half_delay(j)); /* not at once: the engine may be on the stack */
        return;
    }
    j->stage = WAITING;
    j->behind = NULL;
    if (b->first)
        b->last->behind = j;
    else
        b->first = j;
    b->last = j;
    b->queued++;
}

static void end_work(struct job *j)
{
    struct backend *b = j->backend;

    if (b->state == MG_CHANGE_FROZEN) {
        j->behind = b->stalled;
        b->stalled = j;
        return;
    }
    work(b, -1);
    crowd(b, -1);
    if (b->first)
        work_on(b);
    go_back(j);
}

static void refuse(struct job *j)
{
    struct mg_dial *d = j->dial;

    free_job(j);
    d->work = NULL;
    d->done(d, NULL, MG_FAIL_CONNECT, "connection refused");
}

void mg_backend_turn(struct mg_due *due)
{
    struct job *j = MG_HOLDER(due, struct job, due);

    mg_clock_enter(j->worker);
    switch (j->stage) {
    case DIALLING:
        refuse(j);
        return;
    case GOING:
        arrive(j);
        return;
    case AT_WORK:
        end_work(j);
        return;
    case COMING:
        answer(j);
        return;
    case OPENED:
    case WAITING:
        break;
    }
    abort(); /* these are not in the agenda */
}

/* The engine waits no longer; the server goes on. */
static void on_patience(struct mg_timeout *t)
{
    struct job *j = MG_HOLDER(t, struct job, patience);
    struct mg_dial *d = j->dial;

    if (j->stage == DIALLING) {
        free_job(j);
        d->work = NULL;
        d->done(d, NULL, MG_FAIL_CONNECT_TIMEOUT, "the connection was not made in time");
        return;
    }
    j->left = true;
    j->stream.events->on_end(&j->stream, MG_WHY_TIMEOUT);
}

/* ---- The engine's side. ---- */

static void go(struct job *j)
{
    double seconds = half_delay(j);

    mg_timeout_set(&j->patience, j->until);
    j->stage = GOING;
    if (seconds > 0)
        later(j, seconds);
    else
        arrive(j);
}

static void send_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    (void)m;
    if (last)
        go((struct job *)s);
}

static void send_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    mg_chain_clear(body);
    if (last)
        go((struct job *)s);
}

static void send_trailers(struct mg_stream *s, const struct mg_message *m)
{
    (void)m;
    go((struct job *)s);
}

static void want(struct mg_stream *s, bool more)
{
    (void)s, (void)more;
}

static void reset(struct mg_stream *s, enum mg_why why)
{
    struct job *j = (struct job *)s;

    (void)why;
    j->left = true;
    mg_timeout_clear(&j->patience);
    if (j->stage != OPENED)
        return;
    leave(j);
    free_job(j);
}

static const struct mg_stream_ops ops = {
    .name = "simulated",
    .send_head = send_head,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

/* Whom a try is for. The same request takes as long at every server, and a try behind the first has a chance of its
 * own. */
static void know_asker(struct job *j, const struct mg_peer_info *info)
{
    struct mg_asker *a = info ? MG_HOLDER(info, struct mg_asker, info) : NULL;

    if (!a) {
        j->draw = UINT32_MAX - extra_draws++;
        return;
    }
    j->draw = a->number + sim->count * a->tries;
    if (sim->service)
        j->service = sim->service[a->number];
    if (a->tries < UINT8_MAX)
        a->tries++;
    a->backend = (uint16_t)j->backend->number;
    mg_ledger_sent(j->backend->number, since_begin());
}

static struct mg_stream *dial_nobody(struct mg_dial *d, struct job *j)
{
    j->stage = DIALLING;
    j->dial = d;
    d->work = (struct mg_dial_work *)j; /* nobody but us looks inside */
    return NULL;
}

/* The address as the peer's declaration has it. */
static struct backend *backend_of(const struct mg_dial *d, const struct mg_origin *o)
{
    char text[300];
    size_t n = 0;
    bool whole = !o->port || memchr(o->host.ptr, ':', o->host.len) == NULL;

    if (o->host.len > sizeof(text) - 32)
        return NULL;
    n = (size_t)(mg_text_put(text, whole ? o->host : MG_LIT("[")) - text);
    if (!whole) {
        n = (size_t)(mg_text_put(text + n, o->host) - text);
        text[n++] = ']';
    }
    if (o->port) {
        text[n++] = ':';
        n += mg_text_put_number(text + n, o->port);
    }
    mg_slice address = { text, (uint32_t)n };
    struct backend *b = find(address);
    return b || !d->client ? b : add_unplanned(address);
}

/* Connections are kept: one to a server that is up takes no time. */
static struct mg_stream *begin(struct mg_dial *d, struct mg_origin *o)
{
    struct backend *b = backend_of(d, o);
    struct job *j = new_job(b);

    if (!j)
        return NULL;
    if (!b) {
        later(j, 0); /* somebody outside: refused at once */
        return dial_nobody(d, j);
    }
    know_asker(j, d->client);
    if (b->state == MG_CHANGE_UNREACHABLE) {
        mg_timeout_set(&j->patience, o->connect);
        return dial_nobody(d, j);
    }
    if (b->state == MG_CHANGE_KILLED) {
        later(j, 2 * half_delay(j));
        return dial_nobody(d, j);
    }
    j->stream.ops = &ops;
    j->stream.events = d->events;
    j->stream.owner = d->owner;
    j->until = o->response;
    j->stage = OPENED;
    enter(j);
    return &j->stream;
}

static void cancel(struct mg_dial *d)
{
    free_job((struct job *)d->work);
    d->work = NULL;
}

static const struct mg_dial_stand_in stand_in = { begin, cancel };

/* ---- What happens to a server. ---- */

/* All that it has is gone. What follows may open new streams, but not to a server that is down. */
static void lose_all(struct backend *b, bool told)
{
    struct job *silent = NULL;

    b->first = b->last = b->stalled = NULL;
    b->queued = 0;
    work(b, -(int)b->busy);
    if (b->crowd)
        crowd(b, -(int)b->crowd);
    while (b->jobs) {
        struct job *j = b->jobs;
        mg_agenda_remove(agenda, &j->due);
        if (told || j->left) {
            cut(j, MG_WHY_CUT);
            continue;
        }
        leave(j);
        j->next = silent;
        silent = j;
    }
    /* Nobody tells the engine of these: they wait for their timeouts. */
    while (silent) {
        struct job *j = silent;
        silent = j->next;
        j->stage = WAITING;
        enter(j);
    }
}

static void come_back(struct backend *b)
{
    struct job *stalled = b->stalled;

    b->stalled = NULL;
    while (stalled) {
        struct job *j = stalled;
        stalled = j->behind;
        mg_clock_enter(j->worker);
        end_work(j);
    }
}

void mg_backend_change(const mg_change *c)
{
    struct backend *b = all[c->backend];
    int before = b->state;

    switch ((enum mg_change_what)c->what) {
    case MG_CHANGE_SLOWNESS:
        b->plan.slowness = c->value;
        return;
    case MG_CHANGE_FAILS:
        b->plan.fails = c->value;
        return;
    case MG_CHANGE_HEALTHY:
        return;
    case MG_CHANGE_UP:
    case MG_CHANGE_KILLED:
    case MG_CHANGE_FROZEN:
    case MG_CHANGE_UNREACHABLE:
        break;
    }
    b->state = c->what;
    if (b->state == MG_CHANGE_UP && before == MG_CHANGE_FROZEN)
        come_back(b);
    else if (b->state == MG_CHANGE_KILLED || b->state == MG_CHANGE_UNREACHABLE)
        lose_all(b, b->state == MG_CHANGE_KILLED);
}

bool mg_backend_open(mg_simulation *s, struct mg_agenda *a, double begin_at)
{
    sim = s;
    agenda = a;
    zero = begin_at;
    extra_draws = 0;
    for (uint32_t i = 0; i < s->backend_count; i++)
        if (!add(&s->backends[i], s->backends[i].address))
            return false;
    mg_dial_stand_in(&stand_in);
    return true;
}

void mg_backend_stop(void)
{
    mg_dial_stand_in(NULL);
    for (uint32_t i = 0; i < count; i++)
        while (all[i]->jobs)
            cut(all[i]->jobs, MG_WHY_CUT);
    while (unused) {
        struct job *j = unused;
        unused = j->behind;
        free(j);
    }
}

void mg_backend_close(void)
{
    for (uint32_t i = 0; i < count; i++)
        free(all[i]);
    free(all);
    all = NULL;
    count = room = 0;
    memset(buckets, 0, sizeof(buckets));
}
