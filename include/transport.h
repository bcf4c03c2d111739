/* transport.h - a stream of bytes to one peer.
 *
 * One interface for a plain socket and for layers on top of it, such as TLS
 * (tls.h); whoever stands above does not know which. Calls return
 * at once, in four words. News comes up through events, one at a time.
 *
 * Reading is asked for with want_read(true) and stays on until it is turned
 * off; on_writable comes once after a write has said MG_IO_AGAIN.
 */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

#include "address.h"
#include "block.h"

struct mg_transport;

enum mg_io {
    MG_IO_DONE,   /* some bytes went through; how many is in *n */
    MG_IO_AGAIN,  /* none now */
    MG_IO_CLOSED, /* the peer has ended its side (reads only) */
    MG_IO_ERROR,  /* the connection is broken; errno says how */
};

struct mg_transport_ops {
    enum mg_io (*read)(struct mg_transport *t, void *to, size_t cap, size_t *n);
    enum mg_io (*write)(struct mg_transport *t, const struct iovec *v, int count, size_t *n);
    /* Ends our side; the peer may still send. */
    void (*shutdown)(struct mg_transport *t);
    /* Ends both and frees t. With `abort` the peer sees a reset, so that what
     * it has got so far stays visibly incomplete. */
    void (*close)(struct mg_transport *t, bool abort);
    void (*want_read)(struct mg_transport *t, bool on);
    /* Ask for one on_writable. */
    void (*want_write)(struct mg_transport *t);
    /* on_readable comes once more, soon, whether the peer sends or not: for a layer that holds bytes. */
    void (*again)(struct mg_transport *t);
    /* Has the peer ended its side, or is the connection broken, whatever lies unread? One system call. */
    bool (*ended)(struct mg_transport *t);
    /* Have bytes or an end arrived that were not read? One system call. */
    bool (*stirred)(struct mg_transport *t);
};

struct mg_transport_events {
    /* After mg_transport_connect, and after a handshake; error is an errno, 0 if it is good. */
    void (*on_connected)(struct mg_transport *t, int error);
    void (*on_readable)(struct mg_transport *t);
    void (*on_writable)(struct mg_transport *t);
};

struct mg_transport {
    unsigned magic;
    const struct mg_transport_ops *ops;
    const struct mg_transport_events *events;
    void *owner;
};

struct ev_loop;

/* Every transport of the process runs on this loop. `after` is called after
 * each event that was handed up, with nothing else on the stack: the place to
 * flush what it led to, and to free what is done. False with errno. */
bool mg_transport_start(struct ev_loop *loop, void (*after)(void));
void mg_transport_stop(void);

/* Takes an accepted, non-blocking socket. NULL when out of memory; fd is
 * closed then. Events start when want_read says so. */
struct mg_transport *mg_transport_accepted(int fd, bool tcp);
/* Begins to connect; on_connected comes later, never at once, also for a
 * refusal. NULL with errno when it can't begin (no descriptor, no memory).
 * Reading and writing start when it has said 0. */
struct mg_transport *mg_transport_connect(const struct mg_address *to, const struct mg_transport_events *events,
                                          void *owner);
/* Writes what the chain holds, and takes off what was written. MG_IO_DONE: it is empty; MG_IO_AGAIN: on_writable was
 * asked for; MG_IO_ERROR. */
enum mg_io mg_transport_send(struct mg_transport *t, struct mg_chain *out);
/* Transports of the process that are open: for the question what is left open. */
unsigned mg_transport_live(void);
