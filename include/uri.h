/* uri.h - request targets and Host: parsed, checked, normalised. Pure.
 *
 * Doubt is refused: what RFC 3986 or RFC 9112 section 3.2 does not allow is
 * MG_MALFORMED. A target is forwarded as it came; the normalised path is what
 * routes and policies see.
 */
#pragma once

#include "arena.h"
#include "status.h"

enum mg_target_form { MG_TARGET_ORIGIN, MG_TARGET_ABSOLUTE, MG_TARGET_AUTHORITY, MG_TARGET_ASTERISK };

struct mg_target {
    enum mg_target_form form;
    mg_slice scheme;    /* absolute form: "http" or "https", in lower case; else empty */
    mg_slice authority; /* absolute and authority form: host[:port] */
    mg_slice path;      /* as received; an absolute form without one has "/", but "*" for OPTIONS */
    mg_slice query;     /* without the "?"; ptr is NULL if there was no "?" */
    bool wild;          /* path or query hold bytes that browsers send and RFC 3986 forbids: []{}|^` */
};

/* Slices of out point into target, or are constants. Only CONNECT has the authority form (RFC
 * 9112 3.2.3), only OPTIONS the asterisk (3.2.4); "http" and "https" are the
 * schemes understood. A fragment is malformed. */
enum mg_status MG_MUST_CHECK mg_target_parse(mg_slice method, mg_slice target, struct mg_target *out);

/* Is this a valid uri-host [":" port] (RFC 3986 3.2.2), without userinfo?
 * Gives the host in lower case without brackets' loss or the trailing dot
 * ("[::1]" keeps its brackets), from the arena only where it had to change,
 * and the port (0 if absent). Empty is malformed. */
enum mg_status MG_MUST_CHECK mg_host_parse(mg_slice text, struct mg_arena *arena, mg_slice *host, uint16_t *port);
/* The check alone. */
bool mg_host_is_valid(mg_slice text);

/* Percent-decoded, dot segments removed (RFC 3986 5.2.4, after decoding).
 * "%2F" and "%00" stay encoded, in upper case, so that decoding can't make a
 * separator; nothing climbs above the root. "*" stays. `out` is `path` itself when there
 * is nothing to do, otherwise from the arena. */
enum mg_status MG_MUST_CHECK mg_path_normalise(mg_slice path, struct mg_arena *arena, mg_slice *out);

/* Percent-encodes what is wild, and leaves the rest: what goes on is well formed. */
enum mg_status MG_MUST_CHECK mg_wild_encode(mg_slice text, struct mg_arena *arena, mg_slice *out);

/* Percent-encodes what may not stand in a path (for a path that a script
 * assigned); '%' too. `out` is `path` itself when there is nothing to do. */
enum mg_status MG_MUST_CHECK mg_path_encode(mg_slice path, struct mg_arena *arena, mg_slice *out);
/* May these bytes stand in a request target after the authority: pchar, "/", "?"? */
bool mg_path_is_valid(mg_slice raw_path);
bool mg_query_is_valid(mg_slice query);
