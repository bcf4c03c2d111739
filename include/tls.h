/* tls.h - TLS as a transport on top of a transport (RFC 8446, RFC 5246), by OpenSSL.
 *
 * struct mg_tls is what a script said of TLS, for clients or for origins: made
 * once a generation, counted, and held by every connection that uses it. A
 * connection's handshake is its on_connected; after that whoever stands above
 * does not know that TLS is there.
 *
 * Texts of what went wrong are valid until the next call that can fail.
 */
#pragma once

#include "status.h"
#include "transport.h"

/* ---- Settings. ---- */

/* With one reference, for the caller; NULL with `why`. Certificates are added before it is first used. */
struct mg_tls *mg_tls_new(const mg_tls_spec *spec, const char **why);
/* The first one is also for clients that name no host or an unknown one. */
enum mg_status MG_MUST_CHECK mg_tls_add(struct mg_tls *tls, const mg_certificate_spec *spec, const char **why);
/* One that is shown by itself; NULL with `why`. */
struct mg_certificate *mg_certificate_load(const mg_certificate_spec *spec, const char **why);
/* NULL is allowed. */
void mg_certificate_drop(struct mg_certificate *c);
/* All certificates are there: names are sorted. */
enum mg_status MG_MUST_CHECK mg_tls_complete(struct mg_tls *tls, const char **why);
struct mg_tls *mg_tls_hold(struct mg_tls *tls);
/* NULL is allowed. */
void mg_tls_drop(struct mg_tls *tls);
/* Would the two make the same connections to an origin, whichever generation they are of? NULL is plain. */
bool mg_tls_same(const struct mg_tls *a, const struct mg_tls *b);
/* The name that an origin is asked for, if the script gave one; empty otherwise. */
mg_slice mg_tls_sni(const struct mg_tls *tls);

/* The keys of session tickets: made in the master before it forks, and turned by every process by itself, so that all
 * workers have the same ones (tls_tickets.c). False without randomness. */
bool mg_tls_start(void);
/* Forgets the keys whose time is over; the master's timer. Seconds until it is due again. */
double mg_tls_turn(void);
/* What mg_tls_start() and mg_tls_turn() have made, for a process that takes this one's place: how many bytes, at most
 * `room`, 0: none. And there: false, with keys of its own, if it can't be read. */
size_t mg_tls_tickets_save(void *to, size_t room);
bool mg_tls_tickets_restore(const void *from, size_t len);

/* ---- Connections. ---- */

/* What is remembered of an origin for a shorter handshake. All zero at first. */
struct mg_tls_memory {
    void *session;
};
void mg_tls_forget(struct mg_tls_memory *m);

/* Take over an open transport and begin the handshake; NULL without memory (`below` is closed then). on_connected
 * follows, never at once: 0 (with early data before the handshake is done), or an errno with mg_tls_problem().
 * `certificate`, which is taken over, is shown whatever name the client asks for; NULL: as the settings say. */
struct mg_transport *mg_tls_serve(struct mg_transport *below, struct mg_tls *tls, struct mg_certificate *certificate,
                                  const struct mg_transport_events *events, void *owner);
/* `name` is whom the certificate must be of: a host's name, or an address. `memory` must live as long as the
 * transport. */
struct mg_transport *mg_tls_dial(struct mg_transport *below, struct mg_tls *tls, mg_slice name,
                                 struct mg_tls_memory *memory, const struct mg_transport_events *events, void *owner);
/* Why the handshake failed. */
const char *mg_tls_problem(void);
/* What ALPN (RFC 7301) has settled on, a bit of mg_tls_spec.protocols; 0 if nothing. After on_connected. */
unsigned mg_tls_protocol(struct mg_transport *t);

/* ---- What is known of a client by its handshake; it outlives the connection if it is held. ---- */

struct mg_tls_session *mg_tls_session_of(struct mg_transport *t);
struct mg_tls_session *mg_tls_session_hold(struct mg_tls_session *s);
/* NULL is allowed. */
void mg_tls_session_drop(struct mg_tls_session *s);
/* Is what is read now early data, which may be a replay (RFC 8446 2.3)? */
bool mg_tls_session_is_early(const struct mg_tls_session *s);
/* Was the handshake short, because the client had a session of before? */
bool mg_tls_session_is_resumed(const struct mg_tls_session *s);
/* "1.3". */
mg_slice mg_tls_session_version(const struct mg_tls_session *s);
/* The slices are valid until the next call. */
void mg_tls_session_about(struct mg_tls_session *s, mg_tls_about *out);
