/* message.c - the fields of a head, kept in order.
 *
 * A message that was just parsed has no arena: its slices lie in one run of
 * bytes, which keep() copies at once. A kept one may have slices anywhere. */
#include "message.h"

enum { SPARE_FIELDS = 8, FIRST_FIELDS = 16 };

#define BIT(id) (UINT64_C(1) << (id))

static const mg_slice names[MG_FIELD_COUNT] = {
    [MG_FIELD_OTHER] = { "", 0 },
    [MG_FIELD_HOST] = MG_LIT("Host"),
    [MG_FIELD_CONNECTION] = MG_LIT("Connection"),
    [MG_FIELD_KEEP_ALIVE] = MG_LIT("Keep-Alive"),
    [MG_FIELD_PROXY_CONNECTION] = MG_LIT("Proxy-Connection"),
    [MG_FIELD_TRANSFER_ENCODING] = MG_LIT("Transfer-Encoding"),
    [MG_FIELD_CONTENT_LENGTH] = MG_LIT("Content-Length"),
    [MG_FIELD_TE] = MG_LIT("TE"),
    [MG_FIELD_TRAILER] = MG_LIT("Trailer"),
    [MG_FIELD_UPGRADE] = MG_LIT("Upgrade"),
    [MG_FIELD_EXPECT] = MG_LIT("Expect"),
    [MG_FIELD_DATE] = MG_LIT("Date"),
    [MG_FIELD_VIA] = MG_LIT("Via"),
    [MG_FIELD_FORWARDED] = MG_LIT("Forwarded"),
    [MG_FIELD_X_FORWARDED_FOR] = MG_LIT("X-Forwarded-For"),
    [MG_FIELD_X_FORWARDED_PROTO] = MG_LIT("X-Forwarded-Proto"),
    [MG_FIELD_X_FORWARDED_HOST] = MG_LIT("X-Forwarded-Host"),
    [MG_FIELD_MAX_FORWARDS] = MG_LIT("Max-Forwards"),
    [MG_FIELD_CONTENT_ENCODING] = MG_LIT("Content-Encoding"),
    [MG_FIELD_CONTENT_TYPE] = MG_LIT("Content-Type"),
    [MG_FIELD_ETAG] = MG_LIT("ETag"),
    [MG_FIELD_HTTP2_SETTINGS] = MG_LIT("HTTP2-Settings"),
};

/* Is p, which has as many bytes as `word`, the same but for case? `word` is lower case. Setting bit 5 folds letters; it
 * changes what no token holds, so only a token can be taken for a word. The length is constant at every call: two
 * overlapping loads and no loop. */
static inline __attribute__((always_inline)) bool folds_to(const char *p, const char *word, size_t len)
{
    const uint64_t fold = UINT64_C(0x2020202020202020);
    uint64_t a, b, c, d;

    if (len >= 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + len - 8, 8);
        memcpy(&c, word, 8);
        memcpy(&d, word + len - 8, 8);
        if (((a | fold) ^ c) | ((b | fold) ^ d))
            return false;
        return len <= 16 || (p[8] | 0x20) == word[8];
    }
    for (size_t i = 0; i < len; i++)
        if ((p[i] | 0x20) != word[i])
            return false;
    return true;
}
_Static_assert(sizeof("transfer-encoding") - 1 <= 17, "folds_to() looks at 17 bytes");

#define IS(word, id)                         \
    if (folds_to(p, word, sizeof(word) - 1)) \
    return id

enum mg_field_id mg_field_id(mg_slice name)
{
    const char *p = name.ptr;

    switch (name.len) {
    case 2:
        IS("te", MG_FIELD_TE);
        break;
    case 3:
        IS("via", MG_FIELD_VIA);
        break;
    case 4:
        IS("host", MG_FIELD_HOST);
        IS("date", MG_FIELD_DATE);
        IS("etag", MG_FIELD_ETAG);
        break;
    case 6:
        IS("expect", MG_FIELD_EXPECT);
        break;
    case 7:
        IS("upgrade", MG_FIELD_UPGRADE);
        IS("trailer", MG_FIELD_TRAILER);
        break;
    case 9:
        IS("forwarded", MG_FIELD_FORWARDED);
        break;
    case 10:
        IS("connection", MG_FIELD_CONNECTION);
        IS("keep-alive", MG_FIELD_KEEP_ALIVE);
        break;
    case 12:
        IS("content-type", MG_FIELD_CONTENT_TYPE);
        IS("max-forwards", MG_FIELD_MAX_FORWARDS);
        break;
    case 14:
        IS("content-length", MG_FIELD_CONTENT_LENGTH);
        IS("http2-settings", MG_FIELD_HTTP2_SETTINGS);
        break;
    case 15:
        IS("x-forwarded-for", MG_FIELD_X_FORWARDED_FOR);
        break;
    case 16:
        IS("content-encoding", MG_FIELD_CONTENT_ENCODING);
        IS("proxy-connection", MG_FIELD_PROXY_CONNECTION);
        IS("x-forwarded-host", MG_FIELD_X_FORWARDED_HOST);
        break;
    case 17:
        IS("transfer-encoding", MG_FIELD_TRANSFER_ENCODING);
        IS("x-forwarded-proto", MG_FIELD_X_FORWARDED_PROTO);
        break;
    }
    return MG_FIELD_OTHER;
}

#undef IS

mg_slice mg_field_name(enum mg_field_id id)
{
    return names[id];
}

/* Gives the message an array for `room` fields with those it has. False without memory: it is as it was. */
static bool make_room(struct mg_message *m, unsigned room)
{
    struct mg_field *fields = mg_arena_take(m->arena, room * sizeof(*fields));

    if (!fields)
        return false;
    if (m->count)
        memcpy(fields, m->fields, m->count * sizeof(*fields));
    m->fields = fields;
    m->room = (uint16_t)room;
    return true;
}

void mg_message_init(struct mg_message *m, struct mg_arena *arena)
{
    *m = (struct mg_message){ .arena = arena, .version = 11 };
    make_room(m, FIRST_FIELDS);
}

enum mg_status mg_message_grow(struct mg_message *m)
{
    unsigned room = m->room ? 2u * m->room : FIRST_FIELDS;

    if (room > MG_FIELDS_MAX)
        room = MG_FIELDS_MAX;
    return m->arena && room != m->room && make_room(m, room) ? MG_OK : MG_FULL;
}

/* ---- Copies. ---- */

/* Where a parsed head begins and ends: its parts lie in their order. */
static mg_slice extent(const struct mg_message *m, bool is_request)
{
    mg_slice first = is_request ? m->method : m->reason, last = is_request ? m->target : m->reason;

    if (m->count) {
        const struct mg_field *f = &m->fields[m->count - 1];
        last = f->value.len ? f->value : f->name;
        if (!first.len)
            first = m->fields[0].name;
    }
    return first.len ? (mg_slice){ first.ptr, (uint32_t)(last.ptr + last.len - first.ptr) } : first;
}

/* One copy of the head's bytes; every slice moves by the same distance. */
static void keep_parsed(struct mg_message *to, struct mg_arena *arena)
{
    bool is_request = to->method.len != 0;
    mg_slice run = extent(to, is_request);

    /* Why a request was refused is the codec's text, not the head's. */
    if (is_request)
        to->reason = mg_arena_copy(arena, to->reason);
    if (!run.len)
        return;

    char *copy = mg_arena_take(arena, run.len);
    if (!copy) {
        *to = (struct mg_message){ .arena = arena, .version = to->version, .status = to->status };
        return;
    }
    memcpy(copy, run.ptr, run.len);
    ptrdiff_t by = copy - run.ptr;
    if (is_request) {
        to->method.ptr += by;
        to->target.ptr += by;
    } else if (to->reason.len) {
        to->reason.ptr += by;
    }
    for (struct mg_field *f = to->fields, *end = f + to->count; f < end; f++) {
        f->name.ptr += by;
        f->value.ptr += by;
    }
}

static void keep_scattered(struct mg_message *to, struct mg_arena *arena)
{
    to->method = mg_arena_copy(arena, to->method);
    to->target = mg_arena_copy(arena, to->target);
    to->reason = mg_arena_copy(arena, to->reason);
    for (unsigned i = 0; i < to->count; i++) {
        to->fields[i].name = mg_arena_copy(arena, to->fields[i].name);
        to->fields[i].value = mg_arena_copy(arena, to->fields[i].value);
    }
}

void mg_message_fork(struct mg_message *to, const struct mg_message *m, struct mg_arena *arena)
{
    unsigned room = m->count + SPARE_FIELDS;

    *to = *m;
    to->arena = arena;
    if (!make_room(to, room > MG_FIELDS_MAX ? MG_FIELDS_MAX : room)) {
        to->fields = NULL;
        to->count = to->room = 0;
        to->present = 0;
    }
}

void mg_message_keep(struct mg_message *to, const struct mg_message *m, struct mg_arena *arena)
{
    bool parsed = !m->arena;

    mg_message_fork(to, m, arena);
    if (parsed)
        keep_parsed(to, arena);
    else
        keep_scattered(to, arena);
}

/* ---- Looking for fields. ---- */

static inline bool is_named(const struct mg_field *f, enum mg_field_id id, mg_slice name)
{
    if (f->id != id)
        return false;
    if (id != MG_FIELD_OTHER)
        return true;
    return f->name.len == name.len && (f->name.ptr[0] | 0x20) == (name.ptr[0] | 0x20) && mg_text_same(f->name, name);
}

struct mg_field *mg_message_known(const struct mg_message *m, enum mg_field_id id)
{
    if (!mg_message_has(m, id))
        return NULL;
    for (struct mg_field *f = m->fields, *end = f + m->count; f < end; f++)
        if (f->id == id)
            return f;
    return NULL;
}

static struct mg_field *find_from(const struct mg_message *m, unsigned i, enum mg_field_id id, mg_slice name)
{
    for (; i < m->count; i++)
        if (is_named(&m->fields[i], id, name))
            return &m->fields[i];
    return NULL;
}

struct mg_field *mg_message_find(const struct mg_message *m, mg_slice name)
{
    enum mg_field_id id = mg_field_id(name);

    return m->present & mg_field_bit(name, id) ? find_from(m, 0, id, name) : NULL;
}

enum mg_status mg_message_get(const struct mg_message *m, mg_slice name, mg_slice *out)
{
    struct mg_field *first = mg_message_find(m, name);

    if (!first)
        return MG_ABSENT;
    *out = first->value;

    unsigned after = (unsigned)(first - m->fields) + 1;
    enum mg_field_id id = first->id;
    if (!find_from(m, after, id, name))
        return MG_OK;
    if (!m->arena)
        return MG_NO_MEMORY;

    size_t len = first->value.len;
    for (struct mg_field *f; (f = find_from(m, after, id, name)); after = (unsigned)(f - m->fields) + 1)
        len += 2 + f->value.len;
    char *joined = mg_arena_take(m->arena, len);
    if (!joined)
        return MG_NO_MEMORY;

    char separator = mg_text_same(name, MG_LIT("Cookie")) ? ';' : ',';
    char *to = mempcpy(joined, first->value.ptr, first->value.len);
    after = (unsigned)(first - m->fields) + 1;
    for (struct mg_field *f; (f = find_from(m, after, id, name)); after = (unsigned)(f - m->fields) + 1) {
        *to++ = separator;
        *to++ = ' ';
        to = mempcpy(to, f->value.ptr, f->value.len);
    }
    *out = (mg_slice){ joined, (uint32_t)len };
    return MG_OK;
}

/* ---- Changing fields. ---- */

/* Copies a new value, and the name if `name` is not NULL, in one piece of the arena. */
static enum mg_status copy_field(struct mg_message *m, mg_slice *name, mg_slice *value)
{
    size_t name_len = name ? name->len : 0;

    if (!m->arena)
        return MG_FULL;
    char *to = mg_arena_take(m->arena, name_len + value->len + 1);
    if (!to)
        return MG_FULL;
    if (name) {
        mg_text_put(to, *name);
        name->ptr = to;
    }
    mg_text_put(to + name_len, *value);
    value->ptr = to + name_len;
    return MG_OK;
}

static enum mg_status check_field(mg_slice name, mg_slice *value)
{
    if (!mg_text_is_token(name) || !mg_text_is_field_value(*value))
        return MG_MALFORMED;
    *value = mg_text_trim(*value);
    return MG_OK;
}

enum mg_status mg_message_add(struct mg_message *m, mg_slice name, mg_slice value)
{
    if (check_field(name, &value) != MG_OK)
        return MG_MALFORMED;
    if (m->count >= MG_FIELDS_MAX || copy_field(m, &name, &value) != MG_OK)
        return MG_FULL;
    return mg_message_push(m, name, value, mg_field_id(name));
}

/* Removes from the ith field on; how many. */
static unsigned remove_from(struct mg_message *m, unsigned i, enum mg_field_id id, mg_slice name)
{
    unsigned kept = i;

    for (; i < m->count; i++) {
        if (is_named(&m->fields[i], id, name))
            continue;
        if (kept != i)
            m->fields[kept] = m->fields[i];
        kept++;
    }
    unsigned removed = m->count - kept;
    m->count = (uint16_t)kept;
    return removed;
}

enum mg_status mg_message_set(struct mg_message *m, mg_slice name, mg_slice value)
{
    struct mg_field *first = mg_message_find(m, name);

    if (!first)
        return mg_message_add(m, name, value);
    if (check_field(name, &value) != MG_OK)
        return MG_MALFORMED;
    if (copy_field(m, NULL, &value) != MG_OK)
        return MG_FULL;
    first->value = value;
    remove_from(m, (unsigned)(first - m->fields) + 1, first->id, name);
    return MG_OK;
}

unsigned mg_message_remove(struct mg_message *m, mg_slice name)
{
    enum mg_field_id id = mg_field_id(name);

    if (!(m->present & mg_field_bit(name, id)))
        return 0;
    if (id != MG_FIELD_OTHER)
        m->present &= ~BIT(id);
    return remove_from(m, 0, id, name);
}

unsigned mg_message_remove_known(struct mg_message *m, enum mg_field_id id)
{
    unsigned before = m->count;

    mg_message_remove_mask(m, BIT(id));
    return before - m->count;
}

void mg_message_remove_mask(struct mg_message *m, uint64_t ids)
{
    unsigned kept = 0;

    if (!(m->present & ids))
        return;
    for (unsigned i = 0; i < m->count; i++) {
        if (ids >> m->fields[i].id & 1)
            continue;
        if (kept != i)
            m->fields[kept] = m->fields[i];
        kept++;
    }
    m->count = (uint16_t)kept;
    m->present &= ~ids;
}

/* ---- What is the connection's only. ---- */

static const uint64_t hop = BIT(MG_FIELD_CONNECTION) | BIT(MG_FIELD_KEEP_ALIVE) | BIT(MG_FIELD_PROXY_CONNECTION) |
                            BIT(MG_FIELD_TE) | BIT(MG_FIELD_TRANSFER_ENCODING) | BIT(MG_FIELD_UPGRADE) |
                            BIT(MG_FIELD_HTTP2_SETTINGS);

/* A client must not be able to take these off by naming them: they say how the message is read and where it goes. */
static const uint64_t ours = BIT(MG_FIELD_HOST) | BIT(MG_FIELD_CONTENT_LENGTH) | BIT(MG_FIELD_CONTENT_ENCODING) |
                             BIT(MG_FIELD_CONTENT_TYPE) | BIT(MG_FIELD_EXPECT) | BIT(MG_FIELD_MAX_FORWARDS) |
                             BIT(MG_FIELD_TRAILER) | BIT(MG_FIELD_DATE) | BIT(MG_FIELD_VIA);

/* Marks the unknown fields that this Connection value names, as Keep-Alive, which goes too; gives the mask of the
 * known ones. */
static uint64_t mark_named(struct mg_message *m, mg_slice options)
{
    uint64_t ids = 0;
    mg_slice option;

    while (mg_text_next_item(&options, &option)) {
        enum mg_field_id id = mg_field_id(option);

        if (id != MG_FIELD_OTHER) {
            ids |= BIT(id);
            continue;
        }
        for (unsigned i = 0; i < m->count; i++)
            if (is_named(&m->fields[i], MG_FIELD_OTHER, option))
                m->fields[i].id = MG_FIELD_KEEP_ALIVE;
    }
    return ids;
}

void mg_message_strip_hop(struct mg_message *m)
{
    uint64_t ids = hop;

    if (!(m->present & hop))
        return;
    if (mg_message_has(m, MG_FIELD_CONNECTION))
        for (unsigned i = 0; i < m->count; i++)
            if (m->fields[i].id == MG_FIELD_CONNECTION)
                ids |= mark_named(m, m->fields[i].value) & ~ours;
    mg_message_remove_mask(m, ids);
}

/* ---- Statuses and methods. ---- */

static const struct {
    uint16_t status;
    mg_slice reason;
} reasons[] = {
    { 100, MG_LIT("Continue") },
    { 101, MG_LIT("Switching Protocols") },
    { 102, MG_LIT("Processing") },
    { 103, MG_LIT("Early Hints") },
    { 200, MG_LIT("OK") },
    { 201, MG_LIT("Created") },
    { 202, MG_LIT("Accepted") },
    { 203, MG_LIT("Non-Authoritative Information") },
    { 204, MG_LIT("No Content") },
    { 205, MG_LIT("Reset Content") },
    { 206, MG_LIT("Partial Content") },
    { 207, MG_LIT("Multi-Status") },
    { 208, MG_LIT("Already Reported") },
    { 226, MG_LIT("IM Used") },
    { 300, MG_LIT("Multiple Choices") },
    { 301, MG_LIT("Moved Permanently") },
    { 302, MG_LIT("Found") },
    { 303, MG_LIT("See Other") },
    { 304, MG_LIT("Not Modified") },
    { 305, MG_LIT("Use Proxy") },
    { 307, MG_LIT("Temporary Redirect") },
    { 308, MG_LIT("Permanent Redirect") },
    { 400, MG_LIT("Bad Request") },
    { 401, MG_LIT("Unauthorized") },
    { 402, MG_LIT("Payment Required") },
    { 403, MG_LIT("Forbidden") },
    { 404, MG_LIT("Not Found") },
    { 405, MG_LIT("Method Not Allowed") },
    { 406, MG_LIT("Not Acceptable") },
    { 407, MG_LIT("Proxy Authentication Required") },
    { 408, MG_LIT("Request Timeout") },
    { 409, MG_LIT("Conflict") },
    { 410, MG_LIT("Gone") },
    { 411, MG_LIT("Length Required") },
    { 412, MG_LIT("Precondition Failed") },
    { 413, MG_LIT("Content Too Large") },
    { 414, MG_LIT("URI Too Long") },
    { 415, MG_LIT("Unsupported Media Type") },
    { 416, MG_LIT("Range Not Satisfiable") },
    { 417, MG_LIT("Expectation Failed") },
    { 421, MG_LIT("Misdirected Request") },
    { 422, MG_LIT("Unprocessable Content") },
    { 423, MG_LIT("Locked") },
    { 424, MG_LIT("Failed Dependency") },
    { 425, MG_LIT("Too Early") },
    { 426, MG_LIT("Upgrade Required") },
    { 428, MG_LIT("Precondition Required") },
    { 429, MG_LIT("Too Many Requests") },
    { 431, MG_LIT("Request Header Fields Too Large") },
    { 451, MG_LIT("Unavailable For Legal Reasons") },
    { 500, MG_LIT("Internal Server Error") },
    { 501, MG_LIT("Not Implemented") },
    { 502, MG_LIT("Bad Gateway") },
    { 503, MG_LIT("Service Unavailable") },
    { 504, MG_LIT("Gateway Timeout") },
    { 505, MG_LIT("HTTP Version Not Supported") },
    { 506, MG_LIT("Variant Also Negotiates") },
    { 507, MG_LIT("Insufficient Storage") },
    { 508, MG_LIT("Loop Detected") },
    { 510, MG_LIT("Not Extended") },
    { 511, MG_LIT("Network Authentication Required") },
};

mg_slice mg_reason(unsigned status)
{
    size_t low = 0, high = sizeof(reasons) / sizeof(*reasons);

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (reasons[middle].status == status)
            return reasons[middle].reason;
        if (reasons[middle].status < status)
            low = middle + 1;
        else
            high = middle;
    }
    return MG_LIT("");
}

bool mg_method_is_idempotent(mg_slice method)
{
    switch (method.len) {
    case 3:
        return memcmp(method.ptr, "GET", 3) == 0 || memcmp(method.ptr, "PUT", 3) == 0;
    case 4:
        return memcmp(method.ptr, "HEAD", 4) == 0;
    case 5:
        return memcmp(method.ptr, "TRACE", 5) == 0;
    case 6:
        return memcmp(method.ptr, "DELETE", 6) == 0;
    case 7:
        return memcmp(method.ptr, "OPTIONS", 7) == 0;
    }
    return false;
}

bool mg_method_is_safe(mg_slice method)
{
    return mg_method_is_idempotent(method) && !mg_method_is(method, "PUT") && !mg_method_is(method, "DELETE");
}
