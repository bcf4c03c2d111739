/* head.h - the bytes of a head to a message, strictly. Pure.
 *
 * Bare LF, folded lines, space before the colon, control bytes, a start line
 * that is not to the letter are refused, all of which http-parser lets pass;
 * but what it makes of the length and coding of the body must be the same. The
 * message's slices point into the bytes, and its fields into an array that the
 * next call uses again: mg_message_keep() it first.
 */
#pragma once

#include "message.h"

struct mg_head_limits {
    uint32_t max_head_size; /* bytes of start line, fields and the empty line */
    uint32_t max_fields;
    uint32_t max_target_size;
};

/* Reads one head from data. Gives
 *   > 0   the head's length in bytes; the message is filled in
 *   0     there is more to come
 *   < 0   minus the status that answers it: -400, -414, -431, -501 (no such method: too long), -505.
 * For a response every error is -502. `skip`: CRLFs before a request line are passed over
 * (RFC 9112 2.2), at most 2; they count as part of the head's length.
 * `why` becomes a few words for the log when the answer is below 0; m then holds what was read of
 * the start line, and no fields. A request has one valid Host, or it is HTTP/1.0 (RFC 9112 3.2); its
 * target is only known to have no blank and no control byte: mg_target_parse() reads it. */
int mg_head_request(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                    const char **why);
int mg_head_response(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                     const char **why);

/* The same for field lines and the empty line alone, without a start line (a trailer section); any error is -400 or
 * -431, and max_target_size does not count. */
int mg_head_fields(const char *data, size_t len, const struct mg_head_limits *limits, struct mg_message *m,
                   const char **why);

/* Is there the end of a head (an empty line, however ended) in data[from..len)? Looks at bytes
 * before `from` only as far as an empty line reaches back: so a head that trickles in is parsed once.
 * Once there are max_head_size bytes, mg_head_* refuses what is not whole. */
bool mg_head_is_whole(const char *data, size_t len, size_t from);

/* How many bytes mg_head_write_* needs at most, and the writing: start line, fields, no empty line. */
size_t mg_head_request_size(const struct mg_message *m);
char *mg_head_write_request(char *to, const struct mg_message *m); /* "HTTP/1.1" always */
size_t mg_head_response_size(const struct mg_message *m);
char *mg_head_write_response(char *to, const struct mg_message *m); /* standard reason if it has none */
