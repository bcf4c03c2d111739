/* tls.c - TLS as a transport on top of a transport.
 *
 * OpenSSL never waits for the socket: what it seals goes out at once, or lies
 * in `sealed` until it can. Bytes count as written when their records have
 * left: until then the caller keeps them and offers them again, as it would
 * for a socket that is full, and nobody has to wait for us before a close.
 *
 * What OpenSSL has read ahead no event of the socket announces; `more` says
 * that it may hold some.
 *
 * What came of a call OpenSSL tells by a queue of errors that is the thread's:
 * whatever others have left there is cleared before each call. */
#include "tls_settings.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "block.h"
#include "text.h"

enum {
    TLS_MAGIC = 0x6d67746c,
    RECORD = 16 * 1024, /* RFC 8446 5.1 */
    BATCH = 64 * 1024,  /* sealed with one write */
    LARGE = 64 * 1024,  /* who reads so much at once reads several records at once */
    PROBLEM_MOST = 512,
    NAME_MOST = 256,
};

struct tls_transport {
    struct mg_transport base;
    struct mg_transport *below;
    struct mg_tls_session *session;
    SSL *ssl;               /* the session's */
    struct mg_chain sealed; /* records on their way */
    size_t owed;            /* bytes of the caller's that they hold */
    bool opened;            /* its owner may read and write */
    bool early;             /* the handshake is not done: what is read is early data */
    bool reading, writing;  /* what the owner asked for */
    bool corked;            /* records are gathered */
    bool more;              /* OpenSSL may hold bytes that have arrived */
    bool eof, broken;
    bool early_read; /* there is no more of it */
    char *ahead;     /* early data that was read before its owner was there */
    size_t ahead_len;
};

static struct tls_transport *handed_up; /* whose event is being handed up; NULL once it was closed */
static char problem[PROBLEM_MOST];

static struct tls_transport *tls_of(struct mg_transport *t)
{
    assert(t->magic == TLS_MAGIC);
    return (struct tls_transport *)t;
}

const char *mg_tls_problem(void)
{
    return problem;
}

/* ---- Below OpenSSL: records from and to the transport. ---- */

/* Sends what is sealed; false when the transport is broken. */
static bool flush(struct tls_transport *t)
{
    if (t->sealed.failed || (!t->broken && mg_transport_send(t->below, &t->sealed) == MG_IO_ERROR))
        t->broken = true;
    if (t->broken)
        mg_chain_clear(&t->sealed);
    return !t->broken;
}

static int bio_write(BIO *bio, const char *bytes, int len)
{
    struct tls_transport *t = BIO_get_data(bio);
    size_t n = 0;

    if (t->broken)
        return -1;
    if (!t->corked && !t->sealed.bytes) {
        struct iovec v = { (void *)(uintptr_t)bytes, (size_t)len };
        enum mg_io io = t->below->ops->write(t->below, &v, 1, &n);
        if (io == MG_IO_ERROR || io == MG_IO_CLOSED) {
            t->broken = true;
            return -1;
        }
    }
    if (n < (size_t)len) {
        mg_chain_copy(&t->sealed, bytes + n, (size_t)len - n);
        if (!t->corked && !flush(t))
            return -1;
    }
    return len;
}

static int bio_read(BIO *bio, char *to, int cap)
{
    struct tls_transport *t = BIO_get_data(bio);
    size_t n = 0;

    BIO_clear_retry_flags(bio);
    switch (t->below->ops->read(t->below, to, (size_t)cap, &n)) {
    case MG_IO_DONE:
        return (int)n;
    case MG_IO_AGAIN:
        BIO_set_retry_read(bio);
        return -1;
    case MG_IO_CLOSED:
        t->eof = true;
        return 0;
    case MG_IO_ERROR:
        t->broken = true;
        return -1;
    }
    return -1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)number, (void)pointer;
    if (command == BIO_CTRL_EOF)
        return ((struct tls_transport *)BIO_get_data(bio))->eof;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method(void)
{
    static BIO_METHOD *method;

    if (!method && (method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "transport"))) {
        BIO_meth_set_write(method, bio_write);
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_ctrl(method, bio_control);
    }
    return method;
}

/* ---- Reading. ---- */

/* What a failed read means. The end of an origin's bytes must be said (RFC 8446 6.1): without that, somebody may have
 * cut them. Clients often just leave; what they say has lengths. */
static enum mg_io outcome(struct tls_transport *t, int error)
{
    switch (error) {
    case SSL_ERROR_WANT_READ:
        return MG_IO_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return MG_IO_CLOSED;
    default:
        if (t->eof && !t->broken && t->session->tls->serves)
            return MG_IO_CLOSED;
        t->broken = true;
        errno = ECONNRESET;
        return MG_IO_ERROR;
    }
}

/* Early data, or what ends the handshake behind it: MG_IO_DONE without bytes then, and it is not early any more. */
static enum mg_io read_early(struct tls_transport *t, void *to, size_t cap, size_t *n)
{
    if (t->ahead_len) {
        *n = t->ahead_len < cap ? t->ahead_len : cap;
        memcpy(to, t->ahead, *n);
        t->ahead_len -= *n;
        memmove(t->ahead, t->ahead + *n, t->ahead_len);
        t->more = true;
        return MG_IO_DONE;
    }
    if (!t->early_read) {
        int got = SSL_read_early_data(t->ssl, to, cap, n);
        if (got == SSL_READ_EARLY_DATA_SUCCESS) {
            t->more = true;
            return MG_IO_DONE;
        }
        if (got == SSL_READ_EARLY_DATA_ERROR)
            return outcome(t, SSL_get_error(t->ssl, 0));
        t->early_read = true;
    }
    t->corked = true;
    int done = SSL_do_handshake(t->ssl);
    t->corked = false;
    flush(t);
    if (done != 1)
        return outcome(t, SSL_get_error(t->ssl, done));
    t->early = false;
    free(t->ahead);
    t->ahead = NULL;
    return MG_IO_DONE;
}

/* As much as is there: who gets less than asked for waits for the next event. */
static enum mg_io tls_read(struct mg_transport *base, void *to, size_t cap, size_t *n)
{
    struct tls_transport *t = tls_of(base);

    *n = 0;
    t->more = false;
    ERR_clear_error();
    if (t->early) {
        enum mg_io io = read_early(t, to, cap, n);
        if (t->early || io != MG_IO_DONE)
            return io;
    }
    if (cap >= LARGE)
        SSL_set_default_read_buffer_len(t->ssl, LARGE);
    for (;;) {
        size_t got = 0;
        if (SSL_read_ex(t->ssl, (char *)to + *n, cap - *n, &got) != 1) {
            int error = SSL_get_error(t->ssl, 0);
            if (*n) { /* the end, if it is one, is told by the next read */
                t->more = error != SSL_ERROR_WANT_READ;
                return MG_IO_DONE;
            }
            return outcome(t, error);
        }
        *n += got;
        bool pending = SSL_has_pending(t->ssl);
        if (*n == cap || !pending) {
            t->more = pending;
            return MG_IO_DONE;
        }
    }
}

/* ---- Writing. ---- */

struct offer {
    const struct iovec *v;
    int count;
    size_t at; /* in the first of v */
    size_t left;
};

static struct offer offer_of(const struct iovec *v, int count)
{
    struct offer o = { .v = v, .count = count };

    for (int i = 0; i < count; i++)
        o.left += v[i].iov_len;
    return o;
}

static void skip(struct offer *o, size_t n)
{
    o->left -= n;
    while (o->count && n >= o->v->iov_len - o->at) {
        n -= o->v->iov_len - o->at;
        o->at = 0;
        o->v++;
        o->count--;
    }
    o->at += n;
}

/* A record's worth of bytes: where they lie, if that is in one piece; otherwise gathered. */
static struct iovec record_of(const struct offer *o)
{
    static char gathered[RECORD];
    struct offer at = *o;
    size_t n = 0;

    if (o->v->iov_len - o->at >= RECORD || o->v->iov_len - o->at == o->left)
        return (struct iovec){ (char *)o->v->iov_base + o->at,
                               o->v->iov_len - o->at < RECORD ? o->v->iov_len - o->at : RECORD };
    while (at.left && n < RECORD) {
        size_t piece = at.v->iov_len - at.at;
        if (piece > RECORD - n)
            piece = RECORD - n;
        memcpy(gathered + n, (char *)at.v->iov_base + at.at, piece);
        n += piece;
        skip(&at, piece);
    }
    return (struct iovec){ gathered, n };
}

/* Seals the next bytes and sends them; how many were sealed, 0 when it is broken. */
static size_t seal_batch(struct tls_transport *t, struct offer *o)
{
    size_t sealed = 0;

    while (o->left && sealed < BATCH) {
        struct iovec r = record_of(o);
        size_t n = 0;
        t->corked = sealed + r.iov_len < BATCH && o->left > r.iov_len;
        if ((t->early ? SSL_write_early_data : SSL_write_ex)(t->ssl, r.iov_base, r.iov_len, &n) != 1) {
            t->broken = true;
            break;
        }
        sealed += n;
        skip(o, n);
    }
    t->corked = false;
    return flush(t) ? sealed : 0;
}

static enum mg_io tls_write(struct mg_transport *base, const struct iovec *v, int count, size_t *n)
{
    struct tls_transport *t = tls_of(base);
    struct offer o = offer_of(v, count);

    *n = 0;
    if (t->sealed.bytes && flush(t) && t->sealed.bytes)
        return MG_IO_AGAIN;
    *n = t->owed;
    skip(&o, t->owed);
    t->owed = 0;
    while (o.left && !t->broken) {
        size_t sealed = seal_batch(t, &o);
        if (t->sealed.bytes) {
            t->owed = sealed;
            break;
        }
        *n += sealed;
    }
    if (!t->broken)
        return *n ? MG_IO_DONE : MG_IO_AGAIN;
    errno = ECONNRESET;
    return MG_IO_ERROR;
}

/* ---- The rest of a transport. ---- */

static void say_goodbye(struct tls_transport *t)
{
    if (t->opened && !t->early && !t->broken && !(SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN) &&
        SSL_shutdown(t->ssl) < 0)
        ERR_clear_error();
}

static void tls_shutdown(struct mg_transport *base)
{
    struct tls_transport *t = tls_of(base);

    say_goodbye(t);
    t->below->ops->shutdown(t->below);
}

static void tls_close(struct mg_transport *base, bool abort)
{
    struct tls_transport *t = tls_of(base);

    if (handed_up == t)
        handed_up = NULL;
    if (!abort)
        say_goodbye(t);
    /* A session whose connection broke may still be resumed: it was good. */
    SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    mg_chain_clear(&t->sealed);
    free(t->ahead);
    t->below->ops->close(t->below, abort);
    SSL_set_bio(t->ssl, NULL, NULL);
    SSL_set_app_data(t->ssl, NULL);
    mg_tls_session_drop(t->session);
    t->base.magic = 0;
    free(t);
}

static void tls_want_read(struct mg_transport *base, bool on)
{
    struct tls_transport *t = tls_of(base);

    t->reading = on;
    t->below->ops->want_read(t->below, on);
    if (on && t->more)
        t->below->ops->again(t->below);
}

static void tls_want_write(struct mg_transport *base)
{
    struct tls_transport *t = tls_of(base);

    t->writing = true;
    t->below->ops->want_write(t->below);
}

static void tls_again(struct mg_transport *base)
{
    struct tls_transport *t = tls_of(base);

    t->below->ops->again(t->below);
}

static bool tls_ended(struct mg_transport *base)
{
    struct tls_transport *t = tls_of(base);

    return t->below->ops->ended(t->below);
}

/* Tickets that came meanwhile are no bytes. */
static bool tls_stirred(struct mg_transport *base)
{
    struct tls_transport *t = tls_of(base);
    char byte;
    size_t n;

    ERR_clear_error();
    if (SSL_peek_ex(t->ssl, &byte, 1, &n) == 1)
        return true;
    return SSL_get_error(t->ssl, 0) != SSL_ERROR_WANT_READ;
}

static const struct mg_transport_ops tls_ops = {
    .read = tls_read,
    .write = tls_write,
    .shutdown = tls_shutdown,
    .close = tls_close,
    .want_read = tls_want_read,
    .want_write = tls_want_write,
    .again = tls_again,
    .ended = tls_ended,
    .stirred = tls_stirred,
};

/* ---- The handshake. ---- */

static bool is_ip(const char *name, struct mg_address *a)
{
    return mg_address_literal(mg_slice_of(name), 1, a);
}

static void tell(struct tls_transport *t)
{
    unsigned long error = ERR_peek_error();
    long result = SSL_get_verify_result(t->ssl);
    const char *reason = error ? ERR_reason_error_string(error) : NULL;

    if (result != X509_V_OK)
        snprintf(problem, sizeof(problem), "the certificate of %s is refused: %s", mg_tls_refused(),
                 X509_verify_cert_error_string(result));
    else if (t->eof || !reason)
        snprintf(problem, sizeof(problem), "the TLS handshake was broken off by the other side");
    else
        snprintf(problem, sizeof(problem), "the TLS handshake failed: %s", reason);
    ERR_clear_error();
}

/* A client that resumes may send a request at once, which is answered before the handshake is done. The first piece is
 * read here, to know whether there is any. True if there is. */
static bool begin_early(struct tls_transport *t)
{
    if (!t->ahead && !(t->ahead = malloc(RECORD)))
        return false;
    int got = SSL_read_early_data(t->ssl, t->ahead, RECORD, &t->ahead_len);
    t->early = got == SSL_READ_EARLY_DATA_SUCCESS && t->ahead_len;
    t->early_read = got == SSL_READ_EARLY_DATA_FINISH;
    return t->early;
}

static int step(struct tls_transport *t)
{
    ERR_clear_error();
    if (t->session->tls->early && !t->early_read) {
        if (begin_early(t))
            return 0;
        if (!t->early_read)
            return SSL_get_error(t->ssl, 0);
        free(t->ahead);
        t->ahead = NULL;
    }
    int done = SSL_do_handshake(t->ssl);
    return done == 1 ? 0 : SSL_get_error(t->ssl, done);
}

static void shake(struct tls_transport *t)
{
    t->corked = true;
    int error = step(t);
    t->corked = false;
    if (error && error != SSL_ERROR_WANT_READ)
        tell(t);
    flush(t);
    if (error == SSL_ERROR_WANT_READ && !t->broken)
        return;
    if (error || t->broken) {
        if (!error)
            snprintf(problem, sizeof(problem), "the connection broke in the TLS handshake");
        t->base.events->on_connected(&t->base, EPROTO);
        return;
    }
    t->opened = true;
    t->more = t->early || SSL_has_pending(t->ssl);
    t->base.events->on_connected(&t->base, 0);
}

/* ---- News from below. ---- */

static void on_readable(struct mg_transport *below)
{
    struct tls_transport *t = handed_up = below->owner;

    if (!t->opened) {
        shake(t);
        return;
    }
    if (!t->reading)
        return;
    t->base.events->on_readable(&t->base);
    if (handed_up && t->more && t->reading)
        t->below->ops->again(t->below);
}

static void on_writable(struct mg_transport *below)
{
    struct tls_transport *t = handed_up = below->owner;

    flush(t);
    if (handed_up && t->writing && (!t->sealed.bytes || t->broken)) {
        t->writing = false;
        t->base.events->on_writable(&t->base);
    }
}

/* The first step comes from the loop, as on_connected must. */
static const struct mg_transport_events below_events = { .on_readable = on_readable, .on_writable = on_writable };

/* ---- Making one. ---- */

static struct mg_tls_session *session_new(struct mg_tls *tls)
{
    struct mg_tls_session *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->ssl = SSL_new(tls->context);
    if (!s->ssl) {
        ERR_clear_error();
        free(s);
        return NULL;
    }
    s->refs = 1;
    s->tls = mg_tls_hold(tls);
    return s;
}

static struct tls_transport *tls_new(struct mg_transport *below, struct mg_tls *tls,
                                     const struct mg_transport_events *events, void *owner)
{
    struct tls_transport *t = calloc(1, sizeof(*t));
    BIO *bio = t && bio_method() ? BIO_new(bio_method()) : NULL;

    if (bio)
        t->session = session_new(tls);
    if (!bio || !t->session) {
        BIO_free(bio);
        free(t);
        below->ops->close(below, true);
        return NULL;
    }
    t->base = (struct mg_transport){ .magic = TLS_MAGIC, .ops = &tls_ops, .events = events, .owner = owner };
    t->below = below;
    t->ssl = t->session->ssl;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    below->events = &below_events;
    below->owner = t;
    below->ops->want_read(below, true);
    return t;
}

struct mg_transport *mg_tls_serve(struct mg_transport *below, struct mg_tls *tls, struct mg_certificate *certificate,
                                  const struct mg_transport_events *events, void *owner)
{
    struct tls_transport *t = tls_new(below, tls, events, owner);

    if (!t) {
        mg_certificate_drop(certificate);
        return NULL;
    }
    t->session->certificate = certificate;
    if (certificate) {
        SSL_certs_clear(t->ssl);
        SSL_set_app_data(t->ssl, certificate);
        if (!mg_certificate_show(certificate, t->ssl)) {
            ERR_clear_error();
            tls_close(&t->base, true);
            return NULL;
        }
    }
    SSL_set_accept_state(t->ssl);
    return &t->base;
}

/* Whom the certificate must be of; a host's name is also asked for (RFC 6066 3: never an address). */
static bool expect_name(SSL *ssl, const char *name)
{
    struct mg_address a;

    if (is_ip(name, &a))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct mg_transport *mg_tls_dial(struct mg_transport *below, struct mg_tls *tls, mg_slice name,
                                 struct mg_tls_memory *memory, const struct mg_transport_events *events, void *owner)
{
    char text[NAME_MOST];
    struct tls_transport *t = tls_new(below, tls, events, owner);

    if (!t)
        return NULL;
    snprintf(text, sizeof(text), "%.*s", (int)name.len, name.ptr);
    SSL_set_app_data(t->ssl, memory);
    if (memory->session)
        SSL_set_session(t->ssl, memory->session);
    if (name.len && !expect_name(t->ssl, text)) {
        ERR_clear_error();
        tls_close(&t->base, true);
        return NULL;
    }
    SSL_set_connect_state(t->ssl);
    below->ops->again(below); /* we speak first */
    return &t->base;
}

unsigned mg_tls_protocol(struct mg_transport *base)
{
    const unsigned char *name;
    unsigned len;

    SSL_get0_alpn_selected(tls_of(base)->ssl, &name, &len);
    return len == 2 ? MG_TLS_HTTP2 : len ? MG_TLS_HTTP1 : 0;
}

struct mg_tls_session *mg_tls_session_of(struct mg_transport *base)
{
    return tls_of(base)->session;
}
