/* outside.c - sockets that Lua opens.
 *
 * What arrives lies in an inbox (inbox.h). Sends are queued and written once a
 * turn. Answering a ticket may run Lua, and Lua may close the socket: a
 * function that goes on after an answer holds the socket meanwhile.
 */
#include "outside.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "clock.h"
#include "inbox.h"
#include "resolve.h"
#include "text.h"
#include "tls.h"

enum {
    SOCKET_MAGIC = 0x6d67736f,
    BUCKETS = 256,          /* of the table of owners; a power of two */
    TRIES_MOST = 3,         /* addresses of a name that are tried */
    AHEAD_MOST = 64 * 1024, /* read while nobody asks for it */
    OUT_HIGH = 256 * 1024,  /* queued: a sender must wait */
    OUT_LOW = 64 * 1024,    /* until no more than this is left */
    IOVECS = 16,
};

struct mg_socket {
    unsigned magic;
    unsigned held;                     /* functions that will still look at it */
    struct mg_socket *next, *previous; /* in its owner's bucket */
    struct mg_socket *next_dirty;
    const void *owner; /* a task, or the generation */
    struct mg_generation *generation;
    struct mg_transport *transport; /* NULL before it connects and after it broke */
    struct mg_tls *tls;             /* held; NULL: clear text */
    struct mg_tls_memory memory;
    char *name;    /* with TLS: whom the certificate must be of */
    char *problem; /* why the handshake failed */
    struct mg_lookup *lookup;
    struct mg_wait reader, writer;   /* reader: also who waits for the connection */
    struct mg_timeout timeout;       /* the reader's */
    struct mg_clock_queue *patience; /* the queue of `seconds`, the last one asked for */
    double seconds;

    struct mg_inbox inbox;
    bool connected, ended, broken; /* ended: the peer's side */
    bool paused;                   /* not reading: enough lies in the inbox */
    bool blocked, dirty, closed;
    struct mg_chain out;
    uint16_t port;
    unsigned at, count;
    struct mg_address addresses[TRIES_MOST];
};

static struct mg_socket *buckets[BUCKETS];
static struct mg_socket *dirty;
static unsigned live;

/* ---- Life. ---- */

static struct mg_socket **bucket_of(const void *owner)
{
    uint64_t n = (uint64_t)(uintptr_t)owner * 0x9e3779b97f4a7c15u;

    return &buckets[n >> 56 & (BUCKETS - 1)];
}

static void link_to(struct mg_socket *s, const void *owner)
{
    struct mg_socket **bucket = bucket_of(owner);

    s->owner = owner;
    s->previous = NULL;
    s->next = *bucket;
    if (s->next)
        s->next->previous = s;
    *bucket = s;
}

static void unlink_from_owner(struct mg_socket *s)
{
    if (s->previous)
        s->previous->next = s->next;
    else
        *bucket_of(s->owner) = s->next;
    if (s->next)
        s->next->previous = s->previous;
}

static void mark_dirty(struct mg_socket *s)
{
    if (s->dirty)
        return;
    s->dirty = true;
    s->next_dirty = dirty;
    dirty = s;
}

static void unmark_dirty(struct mg_socket *s)
{
    if (!s->dirty)
        return;
    struct mg_socket **at = &dirty;
    while (*at != s)
        at = &(*at)->next_dirty;
    *at = s->next_dirty;
    s->dirty = false;
}

static void hold(struct mg_socket *s)
{
    s->held++;
}

static void release(struct mg_socket *s)
{
    if (--s->held || !s->closed)
        return;
    s->magic = 0;
    mg_tls_forget(&s->memory);
    mg_tls_drop(s->tls);
    free(s->name);
    free(s->problem);
    mg_inbox_free(&s->inbox);
    free(s);
    live--;
}

static void answer(struct mg_wait *w, int code)
{
    if (mg_wait_pending(w))
        mg_task_answer(w, code);
}

static void drop_transport(struct mg_socket *s, bool abort)
{
    struct mg_transport *t = s->transport;

    s->transport = NULL;
    s->connected = s->blocked = false;
    mg_chain_clear(&s->out);
    unmark_dirty(s);
    if (t)
        t->ops->close(t, abort);
}

void mg_socket_close(mg_socket *s)
{
    assert(s->magic == SOCKET_MAGIC);
    if (s->closed)
        return;
    hold(s);
    s->closed = s->ended = true;
    unlink_from_owner(s);
    mg_timeout_clear(&s->timeout);
    if (s->lookup)
        mg_lookup_cancel(s->lookup);
    s->lookup = NULL;
    /* What was sent just before is still meant to go out. */
    if (s->connected && s->out.bytes && !s->blocked) {
        struct iovec v[IOVECS];
        size_t n;
        (void)s->transport->ops->write(s->transport, v, mg_chain_iovec(&s->out, v, IOVECS), &n);
    }
    drop_transport(s, false);
    answer(&s->reader, MG_CUT);
    answer(&s->writer, MG_CUT);
    release(s);
}

/* The task is ending: nothing is answered to it. */
static void forget(struct mg_wait *w, const struct mg_task *t)
{
    if (t && mg_wait_pending(w) && w->task == t)
        mg_task_cancel(w->task, w->ticket);
}

void mg_outside_end(struct mg_generation *g, struct mg_task *t)
{
    const void *owner = t ? (const void *)t : (const void *)g;
    struct mg_socket **bucket = bucket_of(owner);

    for (struct mg_socket *s = *bucket; s;) {
        if (s->owner != owner) {
            s = s->next;
            continue;
        }
        forget(&s->reader, t);
        forget(&s->writer, t);
        mg_socket_close(s);
        s = *bucket; /* answers may have run anything */
    }
}

unsigned mg_outside_live(void)
{
    return live;
}

/* ---- Waiting. ---- */

struct mg_clock_queue *mg_outside_patience(double seconds)
{
    if (!(seconds > 0))
        return NULL;
    seconds = seconds < 0.001 ? 0.001 : seconds > 1e6 ? 1e6 : seconds;
    double step = pow(10, floor(log10(seconds)) - 1);
    return mg_clock_queue(ceil(seconds / step - 1e-9) * step);
}

static struct mg_clock_queue *queue_of(struct mg_socket *s, double seconds)
{
    if (seconds != s->seconds) {
        s->seconds = seconds;
        s->patience = mg_outside_patience(seconds);
    }
    return s->patience;
}

static void on_timeout(struct mg_timeout *timeout)
{
    struct mg_socket *s = MG_HOLDER(timeout, struct mg_socket, timeout);

    if (!s->connected) {
        if (s->lookup)
            mg_lookup_cancel(s->lookup);
        s->lookup = NULL;
        s->ended = true;
        drop_transport(s, true);
    }
    answer(&s->reader, MG_TIMEOUT);
}

static void cancel_reader(struct mg_wait *w)
{
    struct mg_socket *s = MG_HOLDER(w, struct mg_socket, reader);

    mg_timeout_clear(&s->timeout);
    if (s->connected || s->closed)
        return;
    if (s->lookup)
        mg_lookup_cancel(s->lookup);
    s->lookup = NULL;
    s->ended = true;
    drop_transport(s, true);
}

static void cancel_writer(struct mg_wait *w)
{
    (void)w;
}

static void answer_reader(struct mg_socket *s, int code)
{
    mg_timeout_clear(&s->timeout);
    answer(&s->reader, code);
}

/* ---- Receiving. ---- */

static int look(struct mg_socket *s)
{
    return mg_inbox_look(&s->inbox, s->ended, s->broken);
}

static void read_some(struct mg_socket *s)
{
    size_t n = 0, size;
    char *room = mg_inbox_room(&s->inbox, mg_wait_pending(&s->reader), &size);

    if (!room) {
        s->ended = s->broken = true;
        return;
    }
    switch (s->transport->ops->read(s->transport, room, size, &n)) {
    case MG_IO_DONE:
        mg_inbox_add(&s->inbox, n);
        break;
    case MG_IO_AGAIN:
        break;
    case MG_IO_ERROR:
        s->broken = true;
        s->ended = true;
        break;
    case MG_IO_CLOSED:
        s->ended = true;
        break;
    }
}

static void on_readable(struct mg_transport *t)
{
    struct mg_socket *s = t->owner;

    if (!mg_wait_pending(&s->reader) && mg_inbox_have(&s->inbox) >= AHEAD_MOST) {
        s->paused = true;
        t->ops->want_read(t, false);
        return;
    }
    read_some(s);
    if (s->ended)
        t->ops->want_read(t, false);
    int code = mg_wait_pending(&s->reader) ? look(s) : MG_INBOX_PENDING;
    hold(s);
    if (s->broken)
        answer(&s->writer, MG_CUT);
    if (code != MG_INBOX_PENDING)
        answer_reader(s, code);
    release(s);
}

int mg_socket_receive(mg_socket *s, mg_task *t, int how, double count, const char *pattern, uint32_t len,
                      double timeout)
{
    assert(s->magic == SOCKET_MAGIC);
    if (mg_wait_pending(&s->reader))
        return MG_BUSY;
    int code = mg_inbox_ask(&s->inbox, how, count, pattern, len);
    if (code == MG_OK)
        code = look(s);
    if (code != MG_INBOX_PENDING)
        return code;

    int ticket = mg_task_wait(t, &s->reader, cancel_reader);
    if (ticket < 0)
        return ticket;
    mg_timeout_set(&s->timeout, queue_of(s, timeout));
    if (s->paused) {
        s->paused = false;
        s->transport->ops->want_read(s->transport, true);
    }
    return ticket;
}

int mg_socket_take(mg_socket *s, mg_slice *out)
{
    return mg_inbox_take(&s->inbox, out);
}

void mg_socket_problem(mg_socket *s, mg_slice *out)
{
    *out = mg_slice_of(s->problem ? s->problem : "");
}

int mg_socket_ready(mg_socket *s)
{
    return (int)mg_inbox_have(&s->inbox);
}

bool mg_socket_is_open(mg_socket *s)
{
    return s->connected && !s->ended && !s->broken;
}

/* ---- Sending. ---- */

static void write_out(struct mg_socket *s)
{
    if (!s->blocked) {
        enum mg_io io = mg_transport_send(s->transport, &s->out);
        s->blocked = io == MG_IO_AGAIN;
        if (io == MG_IO_ERROR) {
            /* What the peer said before it went can still be read. */
            s->broken = true;
            mg_chain_clear(&s->out);
        }
    }
    if (s->broken)
        answer(&s->writer, MG_CUT);
    else if (s->out.bytes <= OUT_LOW)
        answer(&s->writer, MG_OK);
}

static void flush_all(void)
{
    while (dirty) {
        struct mg_socket *s = dirty;
        dirty = s->next_dirty;
        s->dirty = false;
        if (s->connected)
            write_out(s);
    }
}

void mg_outside_flush(void)
{
    if (dirty)
        flush_all();
}

static void on_writable(struct mg_transport *t)
{
    struct mg_socket *s = t->owner;

    s->blocked = false;
    write_out(s);
}

int mg_socket_send(mg_socket *s, mg_task *t, const char *ptr, uint32_t len)
{
    assert(s->magic == SOCKET_MAGIC);
    if (mg_wait_pending(&s->writer))
        return MG_BUSY;
    if (!s->transport || s->broken)
        return MG_CUT;
    mg_chain_copy(&s->out, ptr, len);
    if (s->out.failed) {
        s->broken = true; /* a part of it may be queued: the stream is no good any more */
        return MG_NO_MEMORY;
    }
    if (!s->blocked)
        mark_dirty(s);
    return s->out.bytes > OUT_HIGH ? mg_task_wait(t, &s->writer, cancel_writer) : MG_OK;
}

/* ---- Opening. ---- */

static int code_of(int error)
{
    switch (error) {
    case ETIMEDOUT:
        return MG_TIMEOUT;
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
        return MG_NO_MEMORY;
    default:
        return MG_REFUSED;
    }
}

static void on_connected(struct mg_transport *t, int error);
static const struct mg_transport_events events = { on_connected, on_readable, on_writable };

/* Begins to connect to the next address: MG_OK, or why the last of them failed. */
static int connect_next(struct mg_socket *s, int code)
{
    while (s->at < s->count) {
        s->transport = mg_transport_connect(&s->addresses[s->at++], &events, s);
        if (s->transport)
            return MG_OK;
        code = code_of(errno);
    }
    s->ended = true;
    return code;
}

static void open_for_use(struct mg_socket *s)
{
    s->connected = true;
    s->transport->ops->want_read(s->transport, true);
    if (s->out.bytes)
        mark_dirty(s);
    answer_reader(s, MG_OK);
}

static void on_shaken(struct mg_transport *t, int error)
{
    struct mg_socket *s = t->owner;

    if (!error) {
        open_for_use(s);
        return;
    }
    s->problem = strdup(mg_tls_problem());
    s->ended = true;
    drop_transport(s, true);
    answer_reader(s, MG_UNTRUSTED);
}

static const struct mg_transport_events secure_events = { on_shaken, on_readable, on_writable };

static void on_connected(struct mg_transport *t, int error)
{
    struct mg_socket *s = t->owner;

    if (error) {
        s->transport = NULL;
        t->ops->close(t, true);
        int code = connect_next(s, code_of(error));
        if (code != MG_OK)
            answer_reader(s, code);
        return;
    }
    if (!s->tls) {
        open_for_use(s);
        return;
    }
    s->transport = mg_tls_dial(t, s->tls, mg_slice_of(s->name), &s->memory, &secure_events, s);
    if (s->transport)
        return;
    s->ended = true;
    answer_reader(s, MG_NO_MEMORY);
}

static void set_addresses(struct mg_socket *s, const struct mg_address *list, unsigned count)
{
    s->count = count < TRIES_MOST ? count : TRIES_MOST;
    for (unsigned i = 0; i < s->count; i++) {
        struct mg_address *a = &s->addresses[i];
        *a = list[i];
        if (a->any.sa_family == AF_INET6)
            a->ip6.sin6_port = htons(s->port);
        else
            a->ip4.sin_port = htons(s->port);
    }
}

static void on_lookup(void *owner, const struct mg_address *list, unsigned count, const char *problem)
{
    struct mg_socket *s = owner;

    s->lookup = NULL;
    if (problem) {
        s->ended = true;
        answer_reader(s, MG_UNKNOWN_NAME);
        return;
    }
    set_addresses(s, list, count);
    int code = connect_next(s, MG_REFUSED);
    if (code != MG_OK)
        answer_reader(s, code);
}

/* Begins: MG_OK when something is under way. */
static int begin(struct mg_socket *s, mg_slice host)
{
    if (host.len > 5 && memcmp(host.ptr, "unix:", 5) == 0) {
        s->count = 1;
        return mg_address_parse(host, &s->addresses[0]) ? connect_next(s, MG_REFUSED) : MG_MALFORMED;
    }
    if (!s->port)
        return MG_MALFORMED;
    if (mg_address_literal(host, s->port, &s->addresses[0])) {
        s->count = 1;
        return connect_next(s, MG_REFUSED);
    }
    struct mg_address list[TRIES_MOST];
    unsigned count = TRIES_MOST;
    s->lookup = mg_resolve(host, list, &count, on_lookup, s);
    if (!count)
        return s->lookup ? MG_OK : MG_NO_MEMORY;
    set_addresses(s, list, count);
    return connect_next(s, MG_REFUSED);
}

/* Whose certificate it must be: what the script says, or the host. */
static bool expect_tls(struct mg_socket *s, mg_tls *tls, mg_slice host)
{
    mg_slice sni = mg_tls_sni(tls);
    mg_slice name = sni.len ? sni : host;

    s->tls = mg_tls_hold(tls);
    s->name = strndup(name.ptr, name.len);
    return s->name != NULL;
}

int mg_socket_open(mg_task *t, const char *host, uint32_t len, int port, mg_tls *tls, double timeout, mg_socket **out)
{
    *out = NULL;
    if (!len || port < 0 || port > 65535)
        return MG_MALFORMED;
    struct mg_socket *s = calloc(1, sizeof(*s));
    if (!s)
        return MG_NO_MEMORY;
    s->magic = SOCKET_MAGIC;
    s->generation = t->generation;
    s->port = (uint16_t)port;
    s->timeout.fire = on_timeout;
    live++;
    link_to(s, t);
    int ticket = mg_task_wait(t, &s->reader, cancel_reader);
    int code = ticket;
    if (ticket > 0)
        code = tls && !expect_tls(s, tls, (mg_slice){ host, len }) ? MG_NO_MEMORY : begin(s, (mg_slice){ host, len });
    if (code != MG_OK) {
        if (ticket > 0)
            mg_task_cancel(t, ticket);
        mg_socket_close(s);
        return code;
    }
    mg_timeout_set(&s->timeout, queue_of(s, timeout));
    *out = s;
    return ticket;
}

void mg_socket_give(mg_socket *s, mg_task *t)
{
    assert(s->magic == SOCKET_MAGIC);
    if (s->closed)
        return;
    unlink_from_owner(s);
    link_to(s, t ? (const void *)t : (const void *)s->generation);
}
