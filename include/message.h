/* message.h - the head of a request or response: start line and fields.
 *
 * Slices point to memory that lives at least as long as the message: the
 * bytes it was parsed from until mg_message_keep(), its arena after. Fields
 * keep their order, their repetition and the case of their names. Names of
 * the protocol's own are known by number, so that asking for one costs a bit
 * test, and a miss costs nothing more.
 */
#pragma once

#include "arena.h"
#include "status.h"
#include "text.h"

enum mg_field_id {
    MG_FIELD_OTHER, /* known by its name alone */
    MG_FIELD_HOST,
    MG_FIELD_CONNECTION,
    MG_FIELD_KEEP_ALIVE,
    MG_FIELD_PROXY_CONNECTION,
    MG_FIELD_TRANSFER_ENCODING,
    MG_FIELD_CONTENT_LENGTH,
    MG_FIELD_TE,
    MG_FIELD_TRAILER,
    MG_FIELD_UPGRADE,
    MG_FIELD_EXPECT,
    MG_FIELD_DATE,
    MG_FIELD_VIA,
    MG_FIELD_FORWARDED,
    MG_FIELD_X_FORWARDED_FOR,
    MG_FIELD_X_FORWARDED_PROTO,
    MG_FIELD_X_FORWARDED_HOST,
    MG_FIELD_MAX_FORWARDS,
    MG_FIELD_CONTENT_ENCODING,
    MG_FIELD_CONTENT_TYPE,
    MG_FIELD_ETAG,
    MG_FIELD_HTTP2_SETTINGS,
    MG_FIELD_COUNT /* at most 32 */
};

struct mg_field {
    mg_slice name, value;
    uint8_t id; /* enum mg_field_id */
};

struct mg_message {
    struct mg_arena *arena; /* where new fields go; NULL for one just parsed */
    struct mg_field *fields;
    uint16_t count, room;
    uint8_t version;         /* of the sender: 10, 11, 20 */
    uint16_t status;         /* responses; in a request not 0 means it was refused by the codec with this status */
    uint64_t present;        /* a bit for each known id in fields, and mg_field_bit() of the other names */
    mg_slice method, target; /* requests */
    mg_slice reason;         /* responses, and why a request was refused */
};

/* How many fields a head may have at most, whatever the limits say. */
enum { MG_FIELDS_MAX = 1024 };

/* The number of a known name, MG_FIELD_OTHER for the rest. */
enum mg_field_id mg_field_id(mg_slice name);
mg_slice mg_field_name(enum mg_field_id id); /* "Content-Length" */

/* An empty message whose fields come from the arena. */
void mg_message_init(struct mg_message *m, struct mg_arena *arena);
/* Where `present` notes this name: a known one has its own bit, all others share what is above them, so that most
 * names that are not there are known not to be without a look at the fields. */
static inline uint64_t mg_field_bit(mg_slice name, enum mg_field_id id)
{
    unsigned last = name.len ? (uint8_t)name.ptr[name.len - 1] : 0;

    return UINT64_C(1) << (id ? (unsigned)id : 32 | ((last ^ name.len * 5u) & 31));
}

/* mg_message_push() of a message whose array is full. */
enum mg_status MG_MUST_CHECK mg_message_grow(struct mg_message *m);
/* Adds without a check and without a copy: for parsers. MG_FULL if there is no room. */
static inline enum mg_status MG_MUST_CHECK mg_message_push(struct mg_message *m, mg_slice name, mg_slice value,
                                                           enum mg_field_id id)
{
    if (__builtin_expect(m->count == m->room, 0) && mg_message_grow(m) != MG_OK)
        return MG_FULL;
    m->fields[m->count++] = (struct mg_field){ name, value, (uint8_t)id };
    m->present |= mg_field_bit(name, id);
    return MG_OK;
}
/* Copies m, and the bytes its slices point to, into the arena. `to` may be m. */
void mg_message_keep(struct mg_message *to, const struct mg_message *m, struct mg_arena *arena);
/* As keep, but slices are shared with m, which must live as long: for an attempt. */
void mg_message_fork(struct mg_message *to, const struct mg_message *m, struct mg_arena *arena);

static inline bool mg_message_has(const struct mg_message *m, enum mg_field_id id)
{
    return m->present >> id & 1;
}

/* The first field of this id or name, NULL if none. */
struct mg_field *mg_message_known(const struct mg_message *m, enum mg_field_id id);
struct mg_field *mg_message_find(const struct mg_message *m, mg_slice name);
/* The value, joined with ", " if the field is repeated (RFC 9110 5.3; Cookie with "; "); MG_ABSENT
 * if there is none. Joining takes arena memory. */
enum mg_status MG_MUST_CHECK mg_message_get(const struct mg_message *m, mg_slice name, mg_slice *out);

/* These copy name and value into the arena. MG_MALFORMED if the name is no token or the value holds
 * a byte that may not stand in it; MG_FULL at MG_FIELDS_MAX or without memory. set replaces the
 * first and removes the others; add puts another at the end. */
enum mg_status MG_MUST_CHECK mg_message_set(struct mg_message *m, mg_slice name, mg_slice value);
enum mg_status MG_MUST_CHECK mg_message_add(struct mg_message *m, mg_slice name, mg_slice value);
/* How many were removed. */
unsigned mg_message_remove(struct mg_message *m, mg_slice name);
unsigned mg_message_remove_known(struct mg_message *m, enum mg_field_id id);
/* Removes every field whose id is in the bit mask; one pass. */
void mg_message_remove_mask(struct mg_message *m, uint64_t ids);

/* Takes off what belongs to one connection only (RFC 9110 7.6.1): Connection and all that it
 * names, Keep-Alive, Proxy-Connection, TE, Transfer-Encoding, Upgrade, HTTP2-Settings. What
 * frames or routes the message (Host, Content-Length, ...) stays even if Connection names it. */
void mg_message_strip_hop(struct mg_message *m);

/* The standard reason phrase, "" for an unknown status. */
mg_slice mg_reason(unsigned status);

/* RFC 9110 9.2.2. */
bool mg_method_is_idempotent(mg_slice method);
/* RFC 9110 9.2.1. */
bool mg_method_is_safe(mg_slice method);
static inline bool mg_method_is(mg_slice method, const char *name)
{
    size_t len = strlen(name);

    return method.len == len && memcmp(method.ptr, name, len) == 0;
}
