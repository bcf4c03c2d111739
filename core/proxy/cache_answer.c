/* cache_answer.c - a stored response becomes the answer of an exchange. */
#include <string.h>

#include "cache.h"
#include "clock.h"
#include "engine.h"
#include "exchange.h"

enum { PIECE = 128 * 1024 };

/* What a trusted proxy before us has been asked for, if that is not what we are asked for: the origin may go by it. */
static mg_slice forwarded(const struct mg_message *m, enum mg_field_id id, mg_slice ours)
{
    const struct mg_field *f = mg_message_known(m, id);

    return f && !mg_text_equal(f->value, ours) ? f->value : (mg_slice){ 0 };
}

int mg_cache_key(mg_view *v, mg_slice *out)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    const struct mg_field *host = mg_message_known(&x->request, MG_FIELD_HOST);
    mg_slice whole = host ? host->value : v->host, port = { 0 }, scheme = v->scheme;

    if (whole.len > v->host.len)
        port = (mg_slice){ whole.ptr + v->host.len, whole.len - v->host.len };
    mg_slice asked_scheme = forwarded(&x->request, MG_FIELD_X_FORWARDED_PROTO, scheme);
    mg_slice asked_host = forwarded(&x->request, MG_FIELD_X_FORWARDED_HOST, whole);
    if (asked_scheme.len && mg_text_is_plain(asked_scheme))
        scheme = asked_scheme;
    size_t len = scheme.len + 3 + v->host.len + port.len + v->raw_path.len + 1 + v->query.len + 1 + asked_host.len;
    char *start = mg_arena_take(x->arena, len), *to = start;
    if (!start)
        return MG_NO_MEMORY;
    to = mg_text_put(mg_text_put(to, scheme), MG_LIT("://"));
    to = mg_text_put(mg_text_put(to, v->host), port);
    to = mg_text_put(to, v->raw_path);
    if (v->query.ptr)
        to = mg_text_put(mg_text_put(to, MG_LIT("?")), v->query);
    if (asked_host.len) /* behind what no URL has */
        to = mg_text_put(mg_text_put(to, MG_LIT("#")), asked_host);
    *out = (mg_slice){ start, (uint32_t)(to - start) };
    return MG_OK;
}

static bool has(const struct mg_message *m, mg_slice name)
{
    return m->present & mg_field_bit(name, MG_FIELD_OTHER) && mg_message_find(m, name);
}

static uint32_t asks_of(const struct mg_exchange *x)
{
    const struct mg_message *m = &x->request;
    uint32_t asks = 0;

    if (has(m, MG_LIT("cache-control")) || has(m, MG_LIT("pragma")))
        asks |= MG_ASKS_CONTROL;
    if (has(m, MG_LIT("if-none-match")) || has(m, MG_LIT("if-modified-since")) || has(m, MG_LIT("if-match")) ||
        has(m, MG_LIT("if-unmodified-since")))
        asks |= MG_ASKS_CONDITION;
    if (has(m, MG_LIT("range")))
        asks |= MG_ASKS_RANGE;
    if (mg_method_is(x->view.method, "HEAD"))
        asks |= MG_ASKS_HEAD;
    return asks;
}

int mg_cache_find(mg_view *v, mg_cache *c, const char *ptr, uint32_t len, mg_cached **out)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    struct mg_cache_use *u = mg_cache_use(x);
    mg_slice key = { ptr, len };

    if (!(mg_method_is(v->method, "GET") || mg_method_is(v->method, "HEAD")) || !x->in.whole || x->in.arrived ||
        x->protocol.len)
        return MG_CACHE_UNFIT;
    if (!u || (!ptr && mg_cache_key(v, &key) != MG_OK))
        return MG_NO_MEMORY;
    if (u->answers)
        mg_chain_add(&u->answered, u->copy.block, u->copy.block->data, 1);
    u->answers = false;
    mg_cache_let_go(&u->copy);
    int found = mg_cache_look(c, key, &x->request, &u->copy);
    if (found == MG_CACHE_FOUND) {
        u->copy.about.asks = asks_of(x);
        *out = &u->copy.about;
    }
    return found;
}

static void put_fields(struct mg_message *m, mg_slice head)
{
    while (head.len) {
        const char *end = memchr(head.ptr, '\n', head.len);
        const char *colon = memchr(head.ptr, ':', head.len);
        mg_slice name = { head.ptr, (uint32_t)(colon - head.ptr) };
        mg_slice value = { colon + 1, (uint32_t)(end - colon) - 1 };
        (void)!mg_message_push(m, name, value, mg_field_id(name));
        head = (mg_slice){ end + 1, head.len - (uint32_t)(end + 1 - head.ptr) };
    }
}

static void put_number(struct mg_exchange *x, enum mg_field_id id, mg_slice name, uint64_t number)
{
    char digits[20];
    size_t n = mg_text_put_number(digits, number);

    (void)!mg_message_push(&x->response, name, mg_arena_copy(x->arena, (mg_slice){ digits, (uint32_t)n }), id);
}

int mg_cache_answer(mg_view *v, int status, double from, double len)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    struct mg_cache_use *u = x->cached;

    if (!u || !u->copy.block)
        return MG_ABSENT;
    const mg_cached *about = &u->copy.about;
    if (!(from >= 0 && from <= about->length) || status < 200 || status > 599)
        return MG_MALFORMED;
    if (!(len >= 0 && len <= about->length - from))
        len = about->length - from;
    enum mg_status begun = mg_exchange_answer(x, (unsigned)status);
    if (begun != MG_OK)
        return begun;

    u->answers = true;
    double age = mg_clock_now() - about->times.born;
    put_fields(&x->response, about->head);
    put_number(x, MG_FIELD_OTHER, MG_LIT("Age"), age > 0 ? (uint64_t)age : 0);
    if (status == 304 || len == 0)
        return MG_OK;
    if (u->copy.body.ptr) {
        mg_chain_add(&x->out.held, u->copy.block, u->copy.body.ptr + (size_t)from, (size_t)len);
        x->out.arrived += (uint64_t)len;
        return x->out.held.failed ? MG_NO_MEMORY : MG_OK;
    }
    u->at = (size_t)from;
    u->end = u->at + (size_t)len;
    put_number(x, MG_FIELD_CONTENT_LENGTH, mg_field_name(MG_FIELD_CONTENT_LENGTH), (uint64_t)len);
    x->producing = true;
    x->out.whole = false;
    return 1;
}

int mg_cache_more(mg_view *v)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    struct mg_cache_use *u = x->cached;

    if (v->gone)
        return MG_GONE;
    if (!u || u->at == u->end)
        return MG_ABSENT;
    size_t len = u->end - u->at < PIECE ? u->end - u->at : PIECE;
    struct mg_block *b = mg_block_take(len);
    if (!b)
        return MG_NO_MEMORY;
    enum mg_status status = mg_cache_read(&u->copy, u->at, len, b->data);
    int code = status;
    if (status == MG_OK) {
        b->used = (unsigned)len;
        u->at += len;
        mg_engine_touch(x);
        code = mg_flow_add(&x->out, b, len);
    }
    mg_block_give(b);
    return code;
}
