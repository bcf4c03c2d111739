/* seam.h - everything Lua may ask of the core.
 *
 * One text, two readers: the C compiler, and LuaJIT's ffi.cdef (the Makefile
 * puts slice.h in front and drops the lines that start with #). So it stays
 * plain C: enums for constants, pointers for structs, no varargs, no
 * callbacks, no bit-fields, and no lua_State.
 *
 * Every call returns at once and never runs Lua: 0 or more is good, below 0 is
 * an mg_status. A call that says "ticket" gives 0 when the work is done
 * already, or a ticket above 0: the core answers every ticket exactly once,
 * by step(MG_EVENT_WAKE, ticket, code), unless its task ends first; never
 * before the call has returned. Slices that come back are valid until the
 * fiber next waits or calls the same function.
 */
#pragma once

#include "slice.h"

enum mg_status {
    MG_OK = 0,
    MG_ABSENT = -1,   /* no such thing */
    MG_TOO_LATE = -2, /* the head has gone out */
    MG_FULL = -3,     /* over a limit */
    MG_GONE = -4,     /* the client has left, or the task has ended */
    MG_MALFORMED = -5,
    MG_TIMEOUT = -6,
    MG_REFUSED = -7, /* nobody listens there */
    MG_CUT = -8,     /* the peer went away in the middle */
    MG_NO_MEMORY = -9,
    MG_UNKNOWN_NAME = -10, /* the name does not resolve */
    MG_BUSY = -11,         /* somebody else waits for it already */
    MG_NO_PEER = -12,      /* no peer is left to try */
    MG_UNTRUSTED = -13,    /* the TLS handshake failed */
};

/* A phase is entered by calling its work(slot, view*), a function in the table that moongate.works hands out, in the
 * coroutine works[0] (lua/moongate/works.lua). When it has returned the phase is done. When the exchange is over
 * works[-1](slot) is called, and its view dies; 1: fibers of it are left, SETTLE follows. Those of
 * MG_PHASE_LOG and MG_PHASE_BALANCE may return true: Lua keeps nothing of the exchange, and works[-1] is not called.
 *
 * For everything else the core calls the runtime's one function: step(event, a, b, c) -> number.
 *   WAITS    slot, phase              that work has yielded. 1: mg_phase_done comes later; below 0: the phase failed
 *   THREW    slot, phase, problem     that work has thrown. 0; or below 0: nobody has said mg_phase_failed
 *   SETTLE   0                        works have set mg_lua_counts.settled: fibers wait for their turn
 *   WAKE     ticket, code
 *   GONE     slot                     the client has left: fibers of the exchange that wait in Lua alone (for
 *                                     each other) get the same error as those whose tickets were answered
 *                                     MG_GONE; the log phase still comes
 *   CONNECT  slot, 0, connection*     the hooks of its phase. 1: still at work (mg_connect_done comes later), 0: done;
 *                                     slots of connections are their own numbers
 *   CLOSED   slot                     the connection's view dies
 *   INIT     0                        run the init hooks; 1: still at work, mg_generation_ready follows
 *   START    0                        the generation is in force: timers begin
 *   RETIRE   0                        another one has taken its place: timers end
 *   GIVE     0                        the script's gate.keep tables are packed: mg_keep
 *   TAKE     0                        they get what mg_kept hands out
 *   EXIT     0                        run the exit hooks, which can't wait
 */
enum mg_event {
    MG_EVENT_WAITS,
    MG_EVENT_THREW,
    MG_EVENT_SETTLE,
    MG_EVENT_WAKE,
    MG_EVENT_CONNECT,
    MG_EVENT_CLOSED,
    MG_EVENT_INIT,
    MG_EVENT_START,
    MG_EVENT_EXIT,
    MG_EVENT_GONE,
    MG_EVENT_RETIRE,
    MG_EVENT_GIVE,
    MG_EVENT_TAKE,
};

/* The way of a request, in order (exchange.c has one function each). */
enum mg_step {
    MG_STEP_OPEN,     /* the head is checked, hop-by-hop fields come off */
    MG_STEP_REQUEST,  /* policies see the request before it is routed */
    MG_STEP_ROUTE,    /* host and path to a route */
    MG_STEP_ACCESS,   /* policies decide whether it may pass */
    MG_STEP_HANDLE,   /* onion policies and handlers run, until they forward or answer */
    MG_STEP_BALANCE,  /* a peer is picked */
    MG_STEP_CONNECT,  /* a stream to that peer */
    MG_STEP_ATTEMPT,  /* policies on this try's copy; the request goes out */
    MG_STEP_WAIT,     /* for the response's head, or a failure */
    MG_STEP_RETRY,    /* try again, or give up? */
    MG_STEP_ERROR,    /* the proxy itself must answer */
    MG_STEP_RESPONSE, /* policies on the response's head */
    MG_STEP_RETURN,   /* onion policies and handlers end */
    MG_STEP_RELAY,    /* bodies both ways, until both messages are whole */
    MG_STEP_LOG,      /* policies and the access log */
    MG_STEP_COUNT,
};

/* What a hook may be for. Bits of mg_view.wants and of a route's. */
enum mg_phase {
    MG_PHASE_REQUEST,
    MG_PHASE_ACCESS,
    MG_PHASE_HANDLE, /* handle hooks, and a route's handler */
    MG_PHASE_REQUEST_BODY,
    MG_PHASE_BALANCE,
    MG_PHASE_ATTEMPT,
    MG_PHASE_RETRY,
    MG_PHASE_ERROR,
    MG_PHASE_RESPONSE,
    MG_PHASE_RESPONSE_BODY,
    MG_PHASE_PRODUCE,        /* a function that makes the answer's body */
    MG_PHASE_CLIENT_MESSAGE, /* a WebSocket's message from the client, from the origin */
    MG_PHASE_ORIGIN_MESSAGE,
    MG_PHASE_LOG,
    MG_PHASE_COUNT,
};

typedef struct mg_message mg_message; /* a head; its fields by mg_field_* */
typedef struct mg_task mg_task;       /* somebody running Lua, who can wait */
typedef struct mg_generation mg_generation;
typedef struct mg_peer mg_peer;
typedef struct mg_upstream mg_upstream;
typedef struct mg_socket mg_socket;
typedef struct mg_fetch mg_fetch;
typedef struct mg_lookup_wait mg_lookup_wait;
typedef struct mg_srv_wait mg_srv_wait;
typedef struct mg_file_watch mg_file_watch;
typedef struct mg_dict mg_dict;
typedef struct mg_coder mg_coder;
typedef struct mg_tls mg_tls;
typedef struct mg_certificate mg_certificate;
typedef struct mg_leader mg_leader;
typedef struct mg_cache mg_cache;

/* ---- An exchange: the part that Lua reads in place, without a call. ---- */

typedef struct mg_view {
    mg_task *task;
    mg_message *request, *response; /* response: NULL until there is one */
    mg_message *attempt;            /* this try's copy, during the attempt phase */
    mg_upstream *upstream;          /* where it goes; NULL if to none */
    mg_peer *peer;                  /* of the current or last try */
    mg_slice method, scheme, host;  /* host in lower case, without the port */
    mg_slice raw_path, path, query; /* path: decoded and normalised; query.ptr is NULL if there is none */
    mg_slice client_ip;
    mg_slice *params;           /* of the route's pattern, in its order; last the rest, if it ends in * */
    double started;             /* Unix time */
    double bytes_in, bytes_out; /* body bytes from and to the client */
    uint32_t slot;              /* of the live exchanges of this generation; used again when it is over */
    int32_t route;              /* its number in the generation; -1 if none was found */
    uint32_t wants;             /* 1 << mg_phase: who has hooks */
    uint32_t tries;             /* attempts begun */
    uint16_t client_port;
    uint16_t local_port;
    uint16_t status;   /* of the response (or of the error to answer); 0 before */
    uint8_t step;      /* mg_step */
    uint8_t version;   /* of the client's request: 10, 11, 20 */
    uint8_t gone;      /* the client has left */
    uint8_t head_sent; /* the response's head has gone out */
    uint8_t from_peer; /* the response is an origin's, not our own */
    uint8_t failure;   /* of the last try: mg_failure */
    uint8_t tls;
    mg_slice failure_text; /* the last failure, or the error to answer, in words */
} mg_view;

enum mg_failure {
    MG_FAIL_NONE,
    MG_FAIL_CONNECT, /* refused, unreachable, no descriptor, name unknown */
    MG_FAIL_CONNECT_TIMEOUT,
    MG_FAIL_TLS,       /* the handshake failed, or the certificate is not good */
    MG_FAIL_RESET,     /* cut before the response's head was whole */
    MG_FAIL_TIMEOUT,   /* no response's head in time */
    MG_FAIL_MALFORMED, /* an answer that is not HTTP */
    MG_FAIL_STATUS,    /* an answer whose status is in retry.on */
    MG_FAIL_BUSY,      /* max_connections, and no place in the queue */
};

/* Changes what routing and forwarding go by; the bytes are copied. MG_MALFORMED if they can't stand
 * there. A path is given decoded, raw_path encoded (it sets path too). */
enum mg_part { MG_PART_METHOD, MG_PART_HOST, MG_PART_PATH, MG_PART_RAW_PATH, MG_PART_QUERY };
int mg_view_set(mg_view *x, int part, const char *ptr, uint32_t len);
/* MG_TOO_LATE after the head went out. */
int mg_view_set_status(mg_view *x, int status);
/* "0f3a...": 16 hex digits, the same until the exchange ends; for logs and headers. */
void mg_view_id(mg_view *x, char *to);
/* The id of a distributed trace: 32 hex digits. MG_MALFORMED: they are not, or all are 0; MG_ABSENT: it has none. */
int mg_view_set_trace(mg_view *x, const char *id, uint32_t len);
int mg_view_trace(mg_view *x, char *to);
/* Where it goes, if no later answer: NULL is nowhere. MG_TOO_LATE once a try has begun. */
int mg_view_set_upstream(mg_view *x, mg_upstream *u);
/* How long the request's body may be, once it was routed, if that is less than max_body_size. MG_FULL: it is longer
 * already, or says that it will be. MG_ABSENT: it was not routed. */
int mg_view_bound_body(mg_view *x, double most);
/* Is it mirrored, if its route is? Instead of by chance. */
void mg_view_mirror(mg_view *x, bool on);
/* From now on this exchange's bodies pass through Lua: MG_PHASE_REQUEST_BODY or _RESPONSE_BODY. */
int mg_view_want(mg_view *x, int phase);

/* A phase that had answered WAITS with 1 is done now. The core goes on after step() has returned. */
void mg_phase_done(mg_view *x, int phase);
/* A hook of this phase threw: the exchange is answered with 500 (or cut, if its head has gone out). */
void mg_phase_failed(mg_view *x, int phase);

/* ---- Fields. All of them are plain calls on a head. ---- */

int mg_field_get(const mg_message *m, const char *name, uint32_t len, mg_slice *out); /* joined; MG_ABSENT */
int mg_field_set(mg_message *m, const char *name, uint32_t nlen, const char *value, uint32_t vlen);
int mg_field_add(mg_message *m, const char *name, uint32_t nlen, const char *value, uint32_t vlen);
int mg_field_remove(mg_message *m, const char *name, uint32_t nlen); /* how many there were */
int mg_field_count(const mg_message *m);
int mg_field_at(const mg_message *m, int index, mg_slice *name, mg_slice *value); /* from 0; MG_ABSENT past the end */

/* ---- Answers. ---- */

/* Begins an answer of our own with this status: an earlier response, its body and stream are dropped,
 * view->response is a new, empty head. MG_TOO_LATE once the head has gone out. */
int mg_answer(mg_view *x, int status);
/* Adds to the answer's body. A ticket if the client is slow and the head has gone out: wait before more. */
int mg_answer_write(mg_view *x, const char *ptr, uint32_t len);
/* The body is whole (needed only after mg_answer_produce). */
int mg_answer_end(mg_view *x);
/* The body will come piece by piece: MG_PHASE_PRODUCE is entered when the head goes out. */
int mg_answer_produce(mg_view *x);
/* In a phase that may answer: the proxy itself answers so, as when no peer is left; the reason is logged. */
int mg_view_refuse(mg_view *x, int status, const char *reason, uint32_t len);
/* The standard page for a status, as an answer: what `error` replaces. */
int mg_answer_default(mg_view *x, int status);

/* Runs balance, connect, attempt, retry for view->upstream. Ticket, answered when there is a response
 * (an origin's, or our own 502 or 504 after the error phase). MG_NO_PEER without an upstream; MG_TOO_LATE
 * if the request's body was consumed by mg_body_read. Only while HANDLE is at work. */
int mg_forward(mg_view *x);

/* ---- Bodies. `side` says whose. ---- */

enum mg_side { MG_SIDE_REQUEST, MG_SIDE_RESPONSE };

/* In REQUEST_BODY and RESPONSE_BODY: the piece the phase was entered with. MG_OK, or MG_ABSENT at the end. */
int mg_body_piece(mg_view *x, int side, mg_slice *out);
/* Puts these bytes in the piece's place (len 0 drops it); at the end they are added. Without it the piece stays. */
int mg_body_replace(mg_view *x, int side, const char *ptr, uint32_t len);
/* Pulls: ticket until there is a piece or the end. Then mg_body_take gives the piece (MG_OK) or MG_ABSENT at the
 * end. What is taken so is not relayed. MG_CUT if the body broke off. */
int mg_body_read(mg_view *x, int side);
int mg_body_take(mg_view *x, int side, mg_slice *out);
/* Collects: ticket until the body is whole (it stays in place and is relayed later), MG_FULL when it is longer
 * than `most`. Then mg_body_text gives all of it. */
int mg_body_collect(mg_view *x, int side, double most);
int mg_body_text(mg_view *x, int side, mg_slice *out);

/* In REQUEST_BODY and RESPONSE_BODY: the last `len` bytes of the piece are not used yet. They come again with what
 * follows, and from now on in pieces of 64 KiB at most. */
int mg_body_put_back(mg_view *x, int side, uint32_t len);
/* Has the end arrived, with nothing left behind the piece? */
bool mg_body_is_last(mg_view *x, int side);

/* ---- Messages of a WebSocket. ---- */

/* In CLIENT_MESSAGE (side REQUEST) and ORIGIN_MESSAGE (RESPONSE): the message. 0: text, 1: binary; MG_ABSENT when it
 * is not there any more. */
int mg_websocket_message(mg_view *x, int side, mg_slice *out);
/* Puts these bytes in its place. MG_MALFORMED: a text must be UTF-8. */
int mg_websocket_replace(mg_view *x, int side, const char *ptr, uint32_t len);
int mg_websocket_drop(mg_view *x, int side);
/* A message of our own, to the origin (side REQUEST) or to the client (RESPONSE). Ticket when too much is queued: wait
 * before more. MG_ABSENT: this is no WebSocket, or its messages have no hook; MG_GONE: it is closed; MG_BUSY: somebody
 * waits to send there, and nothing was sent; MG_MALFORMED: a text must be UTF-8. */
int mg_websocket_send(mg_view *x, int side, bool binary, const char *ptr, uint32_t len);
/* Closes both sides. MG_ABSENT; MG_MALFORMED: no such code, or no such reason (123 bytes of UTF-8). */
int mg_websocket_close(mg_view *x, int code, const char *ptr, uint32_t len);

/* ---- Content codings. ---- */

enum mg_coding { MG_CODING_GZIP, MG_CODING_DEFLATE, MG_CODING_BROTLI, MG_CODING_ZSTD };
/* MORE follows; FLUSH: all that was given comes out now; END: nothing follows. */
enum mg_code { MG_CODE_MORE, MG_CODE_FLUSH, MG_CODE_END };
typedef struct mg_coded {
    mg_slice bytes; /* what came out; until the next call, of any coder */
    uint32_t used;  /* so many of the given bytes */
} mg_coded;
/* These belong to the task and are closed with it. level: the library's own. most: bytes that may come out in all;
 * ratio: how many for each that goes in, once it is more than 1 MiB; 0: no bound. MG_NO_MEMORY. DEFLATE can only be
 * decoded. */
int mg_encoder_open(mg_task *t, int coding, int level, mg_coder **out);
int mg_decoder_open(mg_task *t, int coding, double most, double ratio, mg_coder **out);
/* 0: all is used; 1: call again with what was not used, for more comes out. MG_MALFORMED: not in this coding; MG_CUT:
 * it ends too early; MG_FULL: over `most` or `ratio`; MG_NO_MEMORY. */
int mg_coder_run(mg_coder *c, const char *ptr, uint32_t len, int how, mg_coded *out);
void mg_coder_close(mg_coder *c);

/* ---- Waiting. ---- */

/* Ticket; code MG_OK when the time is over. */
int mg_sleep(mg_task *t, double seconds);
/* Takes back a ticket of this task: its work is cancelled, it is never answered. */
void mg_ticket_cancel(mg_task *t, int ticket);

/* A task of the generation's own (timers, spawn in init), until mg_task_close. NULL without memory. */
mg_task *mg_task_open(mg_generation *g);
void mg_task_close(mg_task *t);

/* Names. Ticket; then the addresses as text, from 0; free it in any case. */
int mg_lookup_open(mg_task *t, const char *name, uint32_t len, mg_lookup_wait **out);
int mg_lookup_address(mg_lookup_wait *l, int index, mg_slice *out);
void mg_lookup_free(mg_lookup_wait *l);

/* One of a name's SRV records (RFC 2782). */
typedef struct mg_srv {
    mg_slice target; /* "." if the service is not offered */
    uint16_t port, priority, weight;
} mg_srv;
/* Ticket; then the records, from 0, or why there are none, in words; free it in any case. */
int mg_srv_open(mg_task *t, const char *name, uint32_t len, mg_srv_wait **out);
int mg_srv_record(const mg_srv_wait *w, int index, mg_srv *out); /* MG_ABSENT past the end */
double mg_srv_ttl(const mg_srv_wait *w);                         /* seconds */
void mg_srv_problem(const mg_srv_wait *w, mg_slice *out);
void mg_srv_free(mg_srv_wait *w);

/* A file that is watched, whether it is there or not. Belongs to the task. MG_MALFORMED: no path. */
int mg_file_watch_open(mg_task *t, const char *path, uint32_t len, mg_file_watch **out);
/* Ticket; MG_OK: it may be another one than when it was waited for last, or opened; MG_TIMEOUT. */
int mg_file_watch_wait(mg_file_watch *w, mg_task *t, double seconds);
void mg_file_watch_close(mg_file_watch *w);

/* A stream socket. It belongs to the task (and is closed with it) until it is given away. `host` may be
 * a name, an address, or "unix:/path" (port 0). Ticket; *out is set at once and freed by mg_socket_close. */
int mg_socket_open(mg_task *t, const char *host, uint32_t len, int port, mg_tls *tls, double timeout, mg_socket **out);
/* Another task, or the generation with NULL, owns it from now on. */
void mg_socket_give(mg_socket *s, mg_task *t);
/* Copies the bytes. Ticket when too many are queued: wait before more. t is who waits. */
int mg_socket_send(mg_socket *s, mg_task *t, const char *ptr, uint32_t len);
enum mg_receive { MG_RECEIVE_SOME, MG_RECEIVE_BYTES, MG_RECEIVE_LINE, MG_RECEIVE_ALL, MG_RECEIVE_UNTIL };
/* Ticket until what was asked for has arrived; then mg_socket_take gives it. BYTES: `count` of them. LINE: up to LF,
 * handed out without CRLF or LF. UNTIL: up to the pattern, which is taken off too. Over `count` bytes (not for BYTES;
 * 0: 16 MiB) it is
 * MG_FULL. MG_CUT if the peer closed first; then mg_socket_take gives what there was. timeout in seconds, 0: none. */
int mg_socket_receive(mg_socket *s, mg_task *t, int how, double count, const char *pattern, uint32_t len,
                      double timeout);
int mg_socket_take(mg_socket *s, mg_slice *out);
/* Why the handshake failed, in words, behind MG_UNTRUSTED. */
void mg_socket_problem(mg_socket *s, mg_slice *out);
/* Bytes that have arrived and were not taken. */
int mg_socket_ready(mg_socket *s);
bool mg_socket_is_open(mg_socket *s);
void mg_socket_close(mg_socket *s);

/* A request of the script's own, through the pool of upstream connections. Fill in mg_fetch_request's fields (Host is
 * set), then send: ticket until the response's head is there. Belongs to the task. */
int mg_fetch_open(mg_task *t, const char *host, uint32_t hlen, int port, mg_tls *tls, const char *method, uint32_t mlen,
                  const char *target, uint32_t tlen, mg_fetch **out);
/* The same to a peer, as its upstream's requests go there, but on a connection of its own (with HTTP/2: on one that is
 * shared). port 0: the peer's. */
int mg_fetch_open_peer(mg_task *t, const mg_peer *p, int port, const char *method, uint32_t mlen, const char *target,
                       uint32_t tlen, mg_fetch **out);
mg_message *mg_fetch_request(mg_fetch *f);
/* Once the body was read to its end: NULL if there were none. */
mg_message *mg_fetch_trailers(mg_fetch *f);
/* timeout: of the whole fetch up to the head, and then between pieces; max: bytes of body taken in before MG_FULL (0:
 * none). */
int mg_fetch_send(mg_fetch *f, const char *body, uint32_t len, double timeout);
mg_message *mg_fetch_response(mg_fetch *f);
int mg_fetch_status(mg_fetch *f);
/* As mg_body_read and mg_body_take. */
int mg_fetch_read(mg_fetch *f);
int mg_fetch_take(mg_fetch *f, mg_slice *out);
/* Why it failed, in words. */
void mg_fetch_problem(mg_fetch *f, mg_slice *out);
void mg_fetch_close(mg_fetch *f);

/* ---- Peers. ---- */

/* Shared by all workers; read in place, racy by nature. */
typedef struct mg_peer_view {
    double latency;    /* EWMA of the time to the response's head, seconds; 0: none yet */
    double since;      /* mg_now() when it came, became healthy again, or its draining ended */
    uint64_t requests; /* tries begun */
    uint32_t failures; /* in a row */
    uint32_t failed;   /* in all */
    uint8_t healthy;   /* neither down nor ejected */
    uint8_t draining;
    uint8_t down;         /* its checks have failed */
    uint8_t ejected;      /* until ejected_until */
    uint32_t ejections;   /* how long the next one is; falls again while it does well */
    double ejected_until; /* mg_now() */
    double checked;       /* mg_now() when it was checked last; 0: never */
    double load;          /* as it said itself, at `loaded` (mg_now()); 0: never */
    double loaded;
    char why[96]; /* of what became of it last, ended by a zero byte */
} mg_peer_view;

mg_peer_view *mg_peer_look(mg_peer *p);
/* What was declared. The slices live as long as the peer. */
void mg_peer_about(const mg_peer *p, mg_slice *address, mg_slice *zone, double *weight);
int mg_peer_active(const mg_peer *p); /* in flight, over all workers */
int mg_peer_tier(const mg_peer *p);   /* as was said when it came; 1 */
int mg_peer_twin(const mg_peer *p);   /* which of the peers with the same address it is, from 0 */
/* As view.latency, but a slower sample counts at once, and what is old fades, to 1/e in 10 s. 0: none yet. Samples are
 * taken from the first call for a peer of this upstream. */
double mg_peer_peak(mg_peer *p);
void mg_peer_drain(mg_peer *p, bool on);
void mg_peer_set_load(mg_peer *p, double load);
int mg_upstream_count(const mg_upstream *u);
mg_peer *mg_upstream_peer(const mg_upstream *u, int index); /* from 0, in the order of declaration */
int mg_peer_index(const mg_peer *p);
/* Changes whenever a peer comes, goes or changes its health: the list of candidates may be kept until then. */
uint32_t mg_upstream_version(const mg_upstream *u);
/* In balance: may this peer be picked (healthy, not draining, not tried)? And: pick it. */
bool mg_peer_eligible(const mg_view *x, const mg_peer *p);
int mg_balance_pick(mg_view *x, mg_peer *p);
/* Behind that: if no head has come after so many seconds, the request goes to `other`, too. MG_ABSENT: it may not be
 * picked, and there is no hedge. */
int mg_balance_hedge(mg_view *x, mg_peer *other, double after);
/* In retry: true tries again, false gives up; without a call the core decides. */
void mg_retry_verdict(mg_view *x, bool again);
/* While traffic flows, in all workers: peers come and go, and have other weights. The address is "host:port" or
 * "unix:...", the zone may be empty, the tier is 1 as a rule. MG_MALFORMED; MG_FULL: too much was said of one
 * upstream. */
int mg_upstream_add(mg_upstream *u, const char *address, uint32_t len, double weight, const char *zone, uint32_t zlen,
                    uint16_t tier, bool found);
int mg_peer_remove(mg_peer *p);
bool mg_peer_came(const mg_peer *p); /* the script has not declared it */
/* What was found for this upstream goes. */
void mg_upstream_forget_found(mg_upstream *u);
/* What other workers have said since is taken up. */
void mg_upstream_follow(mg_upstream *u);

/* ---- Their health. ---- */

/* Too few are healthy: all count. */
bool mg_upstream_panics(mg_upstream *u);
const char *mg_breaker_word(mg_upstream *u); /* "closed", "open", "half open"; "none" */
/* The generation is in force: what it does not look at any more counts no longer. */
void mg_upstream_begin(mg_upstream *u);
/* A check has passed, or failed for this reason. Called by whoever leads. */
void mg_peer_checked(mg_peer *p, bool passed, const char *why, uint32_t len);
/* Ejections that are over, and what windows show. Called at an interval by whoever leads. */
void mg_upstream_judge(mg_upstream *u);

/* The place of this name: one worker leads there. NULL: the shared memory is full. */
mg_leader *mg_leader_of(const char *name, uint32_t len);
/* Is it this worker, which has led before or finds nobody who does? If so, for these seconds more. */
bool mg_leader_lead(mg_leader *l, double seconds);

/* What has become of peers, for the script. */
enum mg_news_kind {
    MG_NEWS_HEALTHY,
    MG_NEWS_UNHEALTHY,
    MG_NEWS_EJECTED,
    MG_NEWS_BACK,
    MG_NEWS_PANIC,
    MG_NEWS_CALM,
    MG_NEWS_BREAKER_OPEN,
    MG_NEWS_BREAKER_HALF_OPEN,
    MG_NEWS_BREAKER_CLOSED,
};
typedef struct mg_news_item {
    mg_upstream *upstream;
    mg_peer *peer; /* NULL: of the upstream as a whole */
    int32_t kind;
    mg_slice reason;
} mg_news_item;
/* Ticket until there is some of what this worker has decided; one task at a time. */
int mg_news_wait(mg_generation *g, mg_task *t);
/* The next one; false if there is none. */
bool mg_news_take(mg_generation *g, mg_news_item *out);

/* ---- Values shared by all workers. ---- */

enum mg_value_type { MG_VALUE_NIL, MG_VALUE_BOOLEAN, MG_VALUE_NUMBER, MG_VALUE_TEXT };
typedef struct mg_value {
    int type;
    double number; /* of a boolean: 0 or 1 */
    mg_slice text;
} mg_value;

/* The dictionary of this name, made at this size (bytes) when first asked for. MG_FULL, MG_NO_MEMORY; MG_MALFORMED if
 * it stands already with another size. */
int mg_dict_open(const char *name, uint32_t len, double size, mg_dict **out);
int mg_dict_get(mg_dict *d, const char *key, uint32_t len, mg_value *out); /* MG_ABSENT */
/* ttl in seconds, 0: for ever. ADD: MG_ABSENT... see below; REPLACE: only if it stands. */
enum mg_dict_how { MG_DICT_SET, MG_DICT_ADD, MG_DICT_REPLACE };
/* MG_OK; MG_BUSY if ADD found it standing; MG_ABSENT if REPLACE did not; MG_FULL if it is larger than the dictionary.
 * When there is no room the least recently used go first. */
int mg_dict_set(mg_dict *d, int how, const char *key, uint32_t len, const mg_value *value, double ttl);
/* Adds by; a missing key counts as `initial` (MG_ABSENT if it is NaN) and gets the ttl. MG_MALFORMED if it is no
 * number. */
int mg_dict_incr(mg_dict *d, const char *key, uint32_t len, double by, double initial, double ttl, double *out);
/* Writes `value` if `expected` stands there; NIL is none, in either. MG_BUSY: another one does. */
int mg_dict_swap(mg_dict *d, const char *key, uint32_t len, const mg_value *expected, const mg_value *value,
                 double ttl);
int mg_dict_delete(mg_dict *d, const char *key, uint32_t len); /* MG_ABSENT */
double mg_dict_ttl(mg_dict *d, const char *key, uint32_t len); /* seconds; 0: for ever; below 0: MG_ABSENT */
/* Walks the keys: *at begins at 0; MG_ABSENT at the end. Keys that come or go meanwhile may be missed or come twice. */
int mg_dict_next(mg_dict *d, uint32_t *at, mg_slice *key);
int mg_dict_flush(mg_dict *d);
/* Counts the exchange under a key until it ends, if fewer than `most` are; *total: how many there are now. MG_FULL;
 * MG_MALFORMED if the key holds something else. */
int mg_view_count(mg_view *x, mg_dict *d, const char *key, uint32_t len, double most, double *total);

/* ---- Stored responses, shared by all workers: Lua decides what is stored and when that may be used. ---- */

/* When a stored response counts. Times are mg_now()'s and its seconds. */
typedef struct mg_cache_times {
    double born;             /* when its age was 0 */
    double fresh;            /* how long it is, from then on */
    double while_revalidate; /* and behind that, stale: while another one is asked for; if the origin fails */
    double if_error;
    int32_t status;
    uint32_t flags; /* Lua's own */
} mg_cache_times;
/* One that was found: a copy, or a hold on what is too long for one. Good until its exchange ends. */
typedef struct mg_cached {
    mg_cache_times times;
    double id;     /* no other has it */
    double length; /* of the body */
    mg_slice head; /* "name:value\n" for each field, but Age and Content-Length */
    uint32_t asks; /* mg_cache_asks */
} mg_cached;
/* What the request has that asks for more than "the same as everybody gets". */
enum mg_cache_asks { MG_ASKS_CONTROL = 1, MG_ASKS_CONDITION = 2, MG_ASKS_RANGE = 4, MG_ASKS_HEAD = 8 };
typedef struct mg_cache_spec {
    mg_cache_times times;
    mg_slice key;
    mg_slice vary; /* "name:value\n" for each request field that chose it; without the colon: it was not there */
    mg_slice tags; /* words with commas, without blanks */
    mg_slice head;
    double max_body; /* a longer body is not stored */
} mg_cache_spec;
typedef struct mg_cache_stats {
    double size, used; /* bytes */
    double entries, evicted, stored;
} mg_cache_stats;

/* As mg_dict_open. */
int mg_cache_open(const char *name, uint32_t len, double size, mg_cache **out);
/* The key of a request where Lua has none of its own: scheme, Host, path and query, as they came; and what a trusted
 * proxy says it was asked for, if that is another scheme or host. MG_NO_MEMORY. */
int mg_cache_key(mg_view *x, mg_slice *out);
/* Looks for a response that this request's fields choose, by this key, or with NULL by mg_cache_key's. One of these, or
 * below 0. UNFIT: neither GET nor HEAD, or with a body or Upgrade. CROWDED: too many long ones are being read. */
enum mg_cache_found {
    MG_CACHE_FOUND,
    MG_CACHE_MISS,
    MG_CACHE_OTHER_VARIANT,
    MG_CACHE_UNFIT,
    MG_CACHE_CROWDED,
};
int mg_cache_find(mg_view *x, mg_cache *c, const char *key, uint32_t len, mg_cached **out);
/* Makes what was found the answer, with Age; `len` bytes of its body from `from` on (below 0: all). 1: the body is
 * long, and comes by mg_answer_produce and mg_cache_more. MG_ABSENT: nothing was found; MG_TOO_LATE. */
int mg_cache_answer(mg_view *x, int status, double from, double len);
/* Adds to that body. As mg_answer_write; MG_ABSENT at its end, MG_CUT if it is not there any more. */
int mg_cache_more(mg_view *x);
/* Stores the response of this exchange, as it comes from the origin, when its body is whole. What is not the cache's
 * comes after that, in response and response_body hooks. MG_FULL: it says that it is too long, or too much is on its
 * way into the cache; MG_TOO_LATE: some of it has passed already. */
int mg_cache_fill(mg_view *x, mg_cache *c, const mg_cache_spec *spec);
/* Stores one that was fetched elsewhere; `since` is what mg_cache_purges had said before. MG_FULL: too long; MG_ABSENT:
 * it was purged meanwhile. */
int mg_cache_put(mg_cache *c, const mg_cache_spec *spec, const char *body, uint32_t len, double since);
double mg_cache_purges(mg_cache *c);
/* The stored one of this key and id has a new head and new times. MG_ABSENT: it is gone; MG_FULL. */
int mg_cache_refresh(mg_cache *c, const mg_cache_spec *spec, double id);

/* Who asks the origin for what others wait for: one over all workers, until it lets go, it dies or so many seconds are
 * over. With x NULL Lua must let go, otherwise it is done when the exchange ends, or what it fills has been stored.
 * MG_BUSY: somebody else does; MG_REFUSED: it is known that nothing will be stored; MG_FULL: x asks for another key. */
int mg_cache_claim(mg_cache *c, mg_view *x, const char *key, uint32_t len, double seconds);
/* pass: for so many seconds nobody needs to wait for this key, as nothing is stored. */
void mg_cache_release(mg_cache *c, mg_view *x, const char *key, uint32_t len, double pass);
bool mg_cache_is_claimed(mg_cache *c, const char *key, uint32_t len);

/* Takes out what is stored under a key, all keys that begin so, what bears a tag, or all. *at begins at 0; call again
 * until it is 0 again. How many were taken out. */
enum mg_cache_what { MG_CACHE_KEY, MG_CACHE_PREFIX, MG_CACHE_TAG, MG_CACHE_ALL };
int mg_cache_purge(mg_cache *c, int what, const char *text, uint32_t len, uint32_t *at);
void mg_cache_look_at(mg_cache *c, mg_cache_stats *out);

/* ---- Connections, before their first request. ---- */

/* CHOOSE: of a TCP route whose upstream a function of the script names. */
enum mg_connection_phase { MG_CONNECTION_ACCEPTED, MG_CONNECTION_HELLO, MG_CONNECTION_CHOOSE };
typedef struct mg_connection_view {
    mg_task *task;
    mg_slice ip, local_ip;
    mg_slice sni, alpn; /* of a ClientHello, if one was read; alpn: names, each behind a byte with its length */
    uint16_t port, local_port;
    double accepted;       /* Unix time */
    mg_upstream *upstream; /* CHOOSE: to be written; NULL refuses */
    int32_t route;         /* CHOOSE: the TCP route's number */
    uint32_t slot;
    uint8_t phase;   /* mg_connection_phase: whose hooks are to run */
    uint8_t refused; /* write 1 to have it closed */
    bool tls12, tls13;
    mg_certificate *certificate; /* what conn:certificate has chosen; NULL: as its name says */
} mg_connection_view;

void mg_connect_done(mg_connection_view *c);

/* ---- TLS. ---- */

/* What a client's handshake has shown. The certificate's part is of its own one, if it has shown any. */
typedef struct mg_tls_about {
    mg_slice sni, version, cipher, alpn;
    bool resumed, early, has_certificate, verified; /* early: the handshake is not done yet */
    mg_slice problem;                               /* why it is not verified */
    mg_slice subject, issuer, serial, fingerprint;
    mg_slice names;               /* alternative ones, each with its kind and a line's end: "DNS:a.example\n" */
    double not_before, not_after; /* Unix time */
} mg_tls_about;
/* False without TLS. */
bool mg_view_tls(const mg_view *x, mg_tls_about *out);

/* ---- Declaring: while the script's top level runs. ---- */

/* Everything that gate.set, gate.listen and gate.route can bound. Names are the users'. Sizes in bytes, times in
 * seconds; 0 is
 * never or no bound where the reference says so. */
typedef struct mg_limits {
    uint32_t max_head_size, max_fields, max_target_size;
    uint32_t max_chunk_line, max_chunk_extensions, max_trailer_size, max_message_size;
    uint64_t max_body_size, max_text_size;
    uint32_t max_connections, keepalive_requests;
    uint32_t max_concurrent_streams, stream_window, max_resets, max_control_frames; /* HTTP/2 */
    double handshake_timeout, head_timeout, body_timeout, send_timeout, idle_timeout, half_close_timeout;
} mg_limits;
void mg_limits_default(mg_limits *l);

/* Of the whole process. */
typedef struct mg_settings {
    int32_t workers; /* 0: as many as processors */
    double drain_timeout, cpu_budget, memory_limit, shared_size;
    double log_flush;               /* seconds between writes of the access log */
    double load_budget;             /* seconds of CPU that the script's top level may take */
    double max_decoded_size;        /* bytes that may come out of a coded body; 0: no bound */
    double max_decoded_ratio;       /* and how many for each that goes in */
    double blocking_threshold;      /* seconds that a call may hold the worker untold; 0: for ever */
    double max_trips, trips_window; /* how often a policy may overrun within so many seconds, if it has an on_fail */
    double probation;               /* seconds that the one before is kept; 0: not at all */
    double probation_errors, probation_least; /* growth of a share, and failures, below which nothing is taken back */
    mg_slice access_log, error_log;           /* a path, "stderr", "off", "syslog:/dev/log" */
    mg_slice log_format;                      /* "json", "common", "combined" */
    mg_slice log_fields;                      /* of json: names with commas; empty: all */
    mg_slice log_level;
    mg_slice resolver; /* "ip:port,..." instead of the system's */
} mg_settings;
mg_settings *mg_generation_settings(mg_generation *g);
/* A setting that is text: the bytes are copied. */
void mg_settings_text(mg_generation *g, mg_slice *setting, const char *ptr, uint32_t len);

enum mg_tls_verify { MG_TLS_VERIFY_NONE, MG_TLS_VERIFY_REQUEST, MG_TLS_VERIFY_REQUIRE };
enum mg_tls_protocols { MG_TLS_HTTP1 = 1, MG_TLS_HTTP2 = 2 }; /* as ALPN names them */
typedef struct mg_tls_spec {
    mg_slice ca;              /* a path or PEM text; of clients, or instead of the system's store */
    mg_slice ciphers, groups; /* as OpenSSL writes them; empty: ours */
    mg_slice sni;             /* the name of the origins; empty: each one's own */
    int32_t least, most;      /* versions: 12, 13; 0: both */
    int32_t verify;           /* mg_tls_verify; of origins: NONE or REQUIRE */
    int32_t depth;            /* of chains; 0: as usual */
    uint32_t protocols;       /* bits of mg_tls_protocols, for ALPN */
    bool serves;              /* clients; otherwise it is for origins */
    bool strict;              /* clients must name a host that a certificate has */
    bool early;               /* early data is taken */
} mg_tls_spec;
typedef struct mg_certificate_spec {
    mg_slice certificate, key; /* paths or PEM text; no key: it is in the same file */
    mg_slice ocsp;             /* a path; empty: none */
    mg_slice names;            /* with commas; empty: as the certificate says */
} mg_certificate_spec;
/* The generation's. NULL with mg_problem. */
mg_tls *mg_declare_tls(mg_generation *g, const mg_tls_spec *spec);
/* Certificates, then the end of them. 0, or below 0 with mg_problem. */
int mg_declare_certificate(mg_tls *tls, const mg_certificate_spec *spec);
int mg_declare_tls_done(mg_tls *tls);
/* In HELLO: this connection shows this certificate. 0, or below 0 with mg_problem. */
int mg_connection_certificate(mg_connection_view *c, const mg_certificate_spec *spec);

typedef struct mg_listen_spec {
    mg_slice address;
    mg_tls *tls;      /* NULL: clear text */
    mg_slice trusted; /* networks with commas */
    mg_slice where;   /* "gateway.lua:3", for messages */
    int32_t backlog;
    bool tcp;              /* bytes are passed on: a TCP route, whose number mg_declare_listen returns */
    bool sni;              /* of a TCP route: the ClientHello is read first */
    mg_slice name;         /* of a TCP route, for logs; empty: the address */
    mg_upstream *upstream; /* of a TCP route; NULL: CHOOSE is entered for each connection */
    uint32_t wants;        /* of a TCP route: 1 << mg_phase */
    bool proxy_protocol;   /* each connection begins with a PROXY header */
    bool http2;            /* a client may begin with HTTP/2 at once in clear text, or ask for it by ALPN */
    mg_limits limits;
} mg_listen_spec;
/* 0 or above, or below 0 with mg_problem. Nothing is bound. */
int mg_declare_listen(mg_generation *g, const mg_listen_spec *spec);

/* Peers that fail are left out: ejection.h. */
typedef struct mg_eject_spec {
    bool on;
    uint32_t consecutive; /* failures in a row; 0: not looked at */
    uint32_t least;       /* tries within the window, below which it shows nothing */
    double errors;        /* share of the tries within the window; 0: not looked at */
    double latency;       /* how many times the others' median; 0: not looked at */
    double window, time, time_most;
    double share; /* of the peers that may be out at once */
} mg_eject_spec;
/* An upstream's circuit breaker: breaker.h. */
typedef struct mg_breaker_spec {
    bool on;
    uint32_t consecutive, least;
    uint32_t max_active, max_waiting; /* 0: no bound */
    uint32_t tries;                   /* that may pass while it is half open */
    double errors, window, time, time_most;
} mg_breaker_spec;

typedef struct mg_upstream_spec {
    mg_slice name;
    mg_slice where;
    int32_t balance; /* mg_balance */
    uint32_t keepalive, max_connections, queue, max_head_size;
    uint32_t http2_connections, max_concurrent_streams; /* with HTTP/2 */
    uint32_t protocols;                                 /* bits of mg_tls_protocols that the peers may speak */
    uint8_t proxy_protocol;                             /* version of the header that peers get; 0: none */
    mg_tls *tls;                                        /* NULL: clear text */
    uint32_t attempts;
    uint32_t retry_on; /* 1 << mg_failure */
    uint32_t retry_status_count;
    uint16_t retry_status[16];
    double retry_budget;         /* retries a request, at most, over time */
    double backoff, max_backoff; /* seconds before another try at most, the first time and ever; 0: none */
    double retry_after;          /* how long a Retry-After is waited for; below 0: it is not looked at */
    double total_timeout;        /* of all tries of a request; 0: none */
    uint32_t retry_body;         /* bytes of a request's body that are kept for another try */
    bool non_idempotent;         /* methods that are not idempotent are tried again, too */
    double connect_timeout, response_timeout, read_timeout, send_timeout, timeout;
    double keepalive_timeout, queue_timeout;
    uint32_t rise, fall; /* checks in a row; 0: there are none */
    double panic;        /* the share of healthy peers below which all count */
    mg_slice load_header;
    uint32_t error_status_count; /* answers that count as failures, with eject or breaker */
    uint16_t error_status[16];
    mg_eject_spec eject;
    mg_breaker_spec breaker;
} mg_upstream_spec;
enum mg_balance { MG_BALANCE_ROUND_ROBIN, MG_BALANCE_LEAST_CONN };
void mg_upstream_default(mg_upstream_spec *spec);
/* NULL with mg_problem. */
mg_upstream *mg_declare_upstream(mg_generation *g, const mg_upstream_spec *spec);
mg_peer *mg_declare_peer(mg_upstream *u, const char *address, uint32_t len, double weight, const char *zone,
                         uint32_t zlen);

typedef struct mg_route_spec {
    mg_slice pattern; /* "[host]/path" */
    mg_slice methods; /* with commas; empty: all but CONNECT and TRACE */
    mg_slice name, where;
    mg_upstream *upstream; /* NULL: a handler, or nothing yet */
    uint32_t wants;        /* 1 << mg_phase, of all its policies with gate.use's */
    uint32_t attempts;     /* 0: as the upstream says */
    mg_limits limits;      /* max_body_size, max_text_size, body_timeout, send_timeout count here */
    bool own_limits;       /* false: the listener's */
    mg_upstream *mirror;   /* which gets copies of requests; NULL: none */
    double mirror_share;   /* of them, by chance: 0 to 1 */
    uint32_t mirror_max_body, mirror_max_active; /* bytes of a body; copies under way at once */
} mg_route_spec;
/* The route's number, from 0, or below 0 with mg_problem. -1 as pattern index is the exchange without a route. */
int mg_declare_route(mg_generation *g, const mg_route_spec *spec);
/* gate.use's phases: `request` before routing, and all others for an exchange without a route; connect, init, exit,
 * client_hello are bits MG_PHASE_COUNT + 0, 1, 2, 3. */
void mg_declare_use(mg_generation *g, uint32_t wants);
/* A policy, and a function of the script that the core may find at work: of a policy, or of none (0). Their numbers,
 * from 1; 0 without memory. `who` is for messages. */
enum mg_on_fail { MG_ON_FAIL_NONE, MG_ON_FAIL_OPEN, MG_ON_FAIL_CLOSED };
int mg_declare_policy(mg_generation *g, const char *name, uint32_t len, int on_fail);
int mg_declare_hook(mg_generation *g, const char *who, uint32_t len, int policy);
/* Was it taken out before the VM was built anew? */
bool mg_policy_is_out(const mg_generation *g, int policy);
/* From now on exchanges of this route meet this phase. */
void mg_route_want(mg_generation *g, int route, int phase);
/* Checks the whole and compiles the routes. 0, or below 0 with mg_problem. */
int mg_declare_done(mg_generation *g);
/* Why the last declaring call failed: a sentence that names the value and the remedy. */
void mg_problem(mg_slice *out);
/* Routes in match order, for `moongate check`: the number of the nth, or MG_ABSENT. */
int mg_route_in_order(const mg_generation *g, int n);

/* init hooks that had waited are done: MG_OK, or below 0 if one threw. */
void mg_generation_ready(mg_generation *g, int code);
/* What one of them has thrown, with its traceback: for the user. */
void mg_generation_fault(mg_generation *g, const char *ptr, uint32_t len);
/* What the generation in force keeps, as moongate.keep has packed it, for g that will take its place: while g's script
 * is loaded, and when it is put in force. MG_ABSENT. */
int mg_kept(const mg_generation *g, mg_slice *out);
/* In GIVE: this is what g keeps; the bytes are copied. MG_NO_MEMORY. */
int mg_keep(mg_generation *g, const char *ptr, uint32_t len);
/* Code that nobody here knows may run from now on, and block: g's runs are timed. */
void mg_generation_watch(mg_generation *g);
/* Which worker this is, from 0; -1 in `moongate check`. */
int mg_worker_number(void);

/* ---- Logging and the time. ---- */

void mg_log_line(int level, const char *ptr, uint32_t len);
bool mg_log_wants(int level);
double mg_now(void); /* monotonic, of this turn of the loop */
double mg_now_exactly(void);
double mg_time(void); /* Unix */
int mg_base64(const char *ptr, uint32_t len, bool url, mg_slice *out);
int mg_unbase64(const char *ptr, uint32_t len, mg_slice *out);
/* The token in the value of an Authorization field, "Bearer TOKEN"; MG_ABSENT: there is none. */
int mg_bearer(const char *ptr, uint32_t len, mg_slice *out);

/* From 0 to below 1, evenly spread; the same for the same bytes and seed on every machine. */
double mg_hash(const char *ptr, uint32_t len, double seed);

/* ---- Metrics. ---- */

enum mg_metric_kind { MG_METRIC_COUNTER, MG_METRIC_GAUGE, MG_METRIC_HISTOGRAM };
typedef struct mg_metric_spec {
    mg_slice name, help;
    mg_slice labels; /* their names, with commas */
    int32_t kind;
    uint32_t bound_count, most; /* series; 0: no bound */
    const double *bounds;       /* of a histogram, growing */
} mg_metric_spec;
/* The metric's number, the same in all workers and generations. MG_MALFORMED: it stands with another kind, other labels
 * or bounds; MG_FULL: there is no room for it, its series are counted nowhere. */
int mg_metric_declare(const mg_metric_spec *spec);
/* The cells of the series with these values, one for each label: metric.h. They stay; counting is `cells[0] += 1`. */
double *mg_metric_series(int metric, const mg_slice *values);
/* Adds to a gauge, which all workers may do at once. */
void mg_metric_add(double *cell, double n);
/* All that is counted, as text for Prometheus, or by OpenMetrics 1.0. MG_NO_MEMORY. */
int mg_metrics_text(bool open, mg_slice *out);

/* ---- Cryptography. ---- */

enum mg_digest { MG_DIGEST_SHA1, MG_DIGEST_SHA256, MG_DIGEST_SHA384, MG_DIGEST_SHA512 };
/* `to` has room for 64 bytes; how many it has got, or below 0. */
int mg_crypto_digest(int digest, const char *ptr, uint32_t len, char *to);
int mg_crypto_hmac(int digest, const char *key, uint32_t key_len, const char *ptr, uint32_t len, char *to);
int mg_crypto_random(char *to, uint32_t len);
/* Two digits for each byte. */
void mg_crypto_hex(const char *ptr, uint32_t len, char *to);
/* Takes as long whichever byte differs. */
bool mg_crypto_equal(const char *a, const char *b, uint32_t len);

enum { MG_SEAL_NONCE = 12, MG_SEAL_TAG = 16 };
typedef struct mg_seal {
    mg_slice key;     /* 16, 24 or 32 bytes */
    mg_slice context; /* vouched for, but not hidden */
    mg_slice text;    /* to open: with the tag at its end */
    char nonce[12];   /* never the same twice with one key */
} mg_seal;
/* AES-GCM. `to` has room for the text and, to seal, the tag; how many bytes it has got. MG_MALFORMED: not sealed so. */
int mg_crypto_seal(const mg_seal *s, char *to);
int mg_crypto_open(const mg_seal *s, char *to);

/* Is this the password that the hash, of crypt(5), was made of? Ticket: MG_OK; MG_ABSENT: it is not. It is found out in
 * a thread of the worker's, one after another. MG_FULL: too many wait. */
int mg_password_check(mg_task *t, const char *password, uint32_t len, const char *hash, uint32_t hash_len);
/* Is it a hash that crypt(3) knows? */
bool mg_password_knows(const char *hash);

/* Keys for signatures. */
enum mg_key_kind { MG_KEY_RSA, MG_KEY_EC, MG_KEY_ED25519, MG_KEY_ED448 };
enum mg_padding { MG_PADDING_NONE, MG_PADDING_PKCS1, MG_PADDING_PSS };
enum { MG_SIGNATURE_MOST = 1024 }; /* bytes: RSA with 8192 bits */
typedef struct mg_key mg_key;
typedef struct mg_key_about {
    int32_t kind, bits;
    bool is_private;
} mg_key_about;
/* The numbers of a public JWK: n and e of RSA; x and y of EC; x of Ed25519 and Ed448. */
typedef struct mg_jwk {
    int32_t kind;
    mg_slice curve; /* "P-256", of EC */
    mg_slice first, second;
} mg_jwk;
typedef struct mg_signing {
    int32_t padding; /* mg_padding; not NONE: RSA */
    int32_t digest;  /* below 0: Ed25519 and Ed448, which bring their own */
    mg_slice text, signature;
} mg_signing;
/* The first key or certificate in PEM text. MG_MALFORMED: there is none; MG_REFUSED: of a kind or a size that is not
 * taken. The key is Lua's to free; what it has not freed goes with the VM. */
int mg_key_from_pem(mg_generation *g, const char *ptr, uint32_t len, mg_key **out);
int mg_key_from_jwk(mg_generation *g, const mg_jwk *j, mg_key **out);
void mg_key_free(mg_key *k);
void mg_key_describe(const mg_key *k, mg_key_about *out);
/* MG_OK: it is of this key; MG_ABSENT: it is not. EC's are two numbers side by side, as in RFC 7518. */
int mg_key_verify(const mg_key *k, const mg_signing *s);
/* `to` has room for MG_SIGNATURE_MOST; how many bytes it has got. Takes a private key. */
int mg_key_sign(const mg_key *k, const mg_signing *s, char *to);

/* ---- Files. ---- */

typedef struct mg_file mg_file;
typedef struct mg_file_about {
    double size, modified; /* bytes; Unix time */
    bool folder;
    char tag[40]; /* another one when the file has changed; ended by a zero byte */
} mg_file_about;
/* Opens what is at `path` beneath the folder `root`; of a folder *out is NULL. MG_ABSENT: there is nothing; MG_REFUSED:
 * it may not be read, leads out of root, or is no plain file; MG_FULL: out of descriptors. The file is Lua's to close;
 * what it has not closed goes with the VM. */
int mg_file_open(mg_generation *g, mg_slice root, mg_slice path, mg_file_about *about, mg_file **out);
/* Bytes from `at` on, valid until the next call; none: it ends there. MG_CUT: the disk has failed. */
int mg_file_read(mg_file *f, double at, uint32_t most, mg_slice *out);
void mg_file_close(mg_file *f);

/* ---- Networks. ---- */

/* The bytes of an address or a network like "10.0.0.0/8", of IPv4 in the first four, and how many bits of them count.
 * 4, 6, or 0 for "unix"; MG_MALFORMED. An IPv4-mapped address counts as IPv4. */
int mg_network_read(const char *ptr, uint32_t len, uint8_t *ip, uint32_t *bits);

/* What Lua has open and is at, noted by Lua itself in place. */
typedef struct mg_lua_counts {
    int32_t fibers, requests;
    int32_t settled; /* not 0: MG_EVENT_SETTLE is wanted */
    int32_t hook;    /* the one at work: what mg_declare_hook gave; 0: the runtime itself */
    int32_t tripped; /* written by the core: ms of CPU of the run at work, which was over cpu_budget; taken back by who
                        has failed that run for it */
    int32_t out;     /* the same: not 0: a policy was taken out */
    int32_t told;    /* the run at work has held the worker, which was told already */
} mg_lua_counts;
mg_lua_counts *mg_lua_count(mg_generation *g);
/* A hook of a connection that has no exchange yet has thrown. */
void mg_connection_threw(mg_generation *g);
