/* framing.h - how long a body is, and when the answer must be 400. Pure.
 *
 * RFC 9112 section 6.3 without leniency: whatever two readers could read two
 * ways is refused. http-parser's chunk reader is not used: as Debian builds
 * it, it does not check the line ends around a chunk.
 */
#pragma once

#include "message.h"

enum mg_body_kind {
    MG_BODY_NONE,
    MG_BODY_LENGTH,
    MG_BODY_CHUNKED,
    MG_BODY_UNTIL_CLOSE, /* responses to HTTP/1.1 requests, and tunnels */
};

/* Bounds of what stands between the pieces of a chunked body (RFC 9112 7.1.1 asks for them). */
struct mg_framing_limits {
    uint32_t max_chunk_line;       /* one line with its extension */
    uint32_t max_chunk_extensions; /* all of a message together */
    uint32_t max_trailer_size;     /* the trailer section's bytes */
};

struct mg_framing {
    enum mg_body_kind kind;
    uint64_t left;       /* LENGTH: of the body; CHUNKED: of this chunk */
    uint8_t state;       /* of the chunk reader */
    bool whole;          /* all of the body (and its trailers) was taken */
    uint32_t line;       /* bytes of the line being read */
    uint32_t extensions; /* bytes of extensions so far */
};

/* What the head says of the body. 0, or the status that answers: 400 for what is ambiguous, 501 for a
 * transfer coding other than chunked. `why` is set with a status; a Content-Length is f->left. */
int MG_MUST_CHECK mg_framing_of_request(const struct mg_message *m, struct mg_framing *f, const char **why);
/* The same for a response to `method`: 0 or 502. 1xx, 204, 304 and answers to HEAD have none; so has
 * 2xx to CONNECT, which is a tunnel. 101 is UNTIL_CLOSE. */
int MG_MUST_CHECK mg_framing_of_response(const struct mg_message *m, mg_slice method, struct mg_framing *f,
                                         const char **why);

/* Takes the next bytes of a body off data. Each call gives at most one piece of it.
 *   MG_OK         *used bytes are done with, and `piece` (maybe empty) is body. f->whole at the end;
 *                 bytes after the end are not used.
 *   MG_MALFORMED  the chunking is broken (or over a limit); `why` says how.
 * The trailer section, for CHUNKED, is handed out raw: after the last chunk the reader stops at the
 * trailer's first byte with f->state == MG_FRAMING_TRAILER and the caller reads it with
 * mg_trailer_read; an empty one is read here. */
enum { MG_FRAMING_TRAILER = 200 };
enum mg_status MG_MUST_CHECK mg_framing_take(struct mg_framing *f, const struct mg_framing_limits *limits,
                                             const char *data, size_t len, size_t *used, mg_slice *piece,
                                             const char **why);

/* The trailer section as fields (to be kept like a head's). > 0 its length with the empty line, 0 more to
 * come, MG_MALFORMED. Fields that frame, route or authenticate (RFC 9110 6.5.1) are dropped. Sets f->whole. */
int MG_MUST_CHECK mg_trailer_read(struct mg_framing *f, const struct mg_framing_limits *limits, const char *data,
                                  size_t len, struct mg_message *m, const char **why);
/* Drops the fields that have no business in a trailer section: mg_trailer_read has done so. */
void mg_trailer_strip(struct mg_message *m);
