/* seam.c - what Lua may ask of the core: checks arguments, calls the files below.
 *
 * Knows nothing of Lua itself. Every call records facts and returns; what
 * follows from them runs after Lua has been left (mg_seam_settle). */
#include "seam.h"

#include <stdlib.h>
#include <string.h>

#include "attempt.h"
#include "engine.h"
#include "forward.h"
#include "hedge.h"
#include "log.h"
#include "permit.h"
#include "script.h"
#include "tls.h"
#include "uri.h"

static struct mg_connecting *connected;
static struct mg_generation *readied;

void mg_seam_settle(void)
{
    mg_engine_run_touched();
    while (connected) {
        struct mg_connecting *c = connected;
        connected = c->next;
        c->done(c);
    }
    if (readied) {
        struct mg_generation *g = readied;
        readied = NULL;
        g->on_ready(g, g->ready_code == MG_OK ? MG_OK : MG_MALFORMED);
    }
}

/* ---- An exchange. ---- */

static int set_host(struct mg_exchange *x, mg_slice host)
{
    uint16_t port;
    mg_slice lower;

    if (mg_host_parse(host, x->arena, &lower, &port) != MG_OK)
        return MG_MALFORMED;
    int status = mg_message_set(&x->request, mg_field_name(MG_FIELD_HOST), host);
    if (status == MG_OK)
        x->view.host = mg_arena_copy(x->arena, lower);
    return status;
}

static int set_path(struct mg_exchange *x, mg_slice path)
{
    if (!path.len || path.ptr[0] != '/')
        return MG_MALFORMED;
    path = mg_arena_copy(x->arena, path);
    if (mg_path_encode(path, x->arena, &x->view.raw_path) != MG_OK)
        return MG_MALFORMED;
    x->view.path = path;
    return MG_OK;
}

static int set_raw_path(struct mg_exchange *x, mg_slice raw)
{
    if (!raw.len || raw.ptr[0] != '/' || !mg_path_is_valid(raw))
        return MG_MALFORMED;
    raw = mg_arena_copy(x->arena, raw);
    x->view.raw_path = raw;
    return mg_path_normalise(raw, x->arena, &x->view.path);
}

int mg_view_set(mg_view *v, int part, const char *ptr, uint32_t len)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    mg_slice text = { ptr, len };

    switch ((enum mg_part)part) {
    case MG_PART_METHOD:
        if (!mg_text_is_token(text))
            return MG_MALFORMED;
        v->method = mg_arena_copy(x->arena, text);
        return MG_OK;
    case MG_PART_HOST:
        return set_host(x, text);
    case MG_PART_PATH:
        return set_path(x, text);
    case MG_PART_RAW_PATH:
        return set_raw_path(x, text);
    case MG_PART_QUERY:
        if (len && !mg_query_is_valid(text))
            return MG_MALFORMED;
        v->query = len ? mg_arena_copy(x->arena, text) : (mg_slice){ 0 };
        return MG_OK;
    }
    return MG_MALFORMED;
}

bool mg_view_tls(const mg_view *v, mg_tls_about *out)
{
    const struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (x->tls)
        mg_tls_session_about(x->tls, out);
    return x->tls != NULL;
}

int mg_view_set_status(mg_view *v, int status)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (v->head_sent)
        return MG_TOO_LATE;
    if (!v->response)
        return MG_ABSENT;
    if (status < 200 || status > 599)
        return MG_MALFORMED;
    x->response.status = v->status = (uint16_t)status;
    x->response.reason = (mg_slice){ 0 };
    return MG_OK;
}

static void put_hex(char *to, uint64_t n)
{
    for (int i = 15; i >= 0; i--, n >>= 4)
        to[i] = "0123456789abcdef"[n & 15];
}

void mg_view_id(mg_view *v, char *to)
{
    put_hex(to, MG_EXCHANGE_OF(v)->id);
}

int mg_view_set_trace(mg_view *v, const char *id, uint32_t len)
{
    uint64_t trace[2] = { 0, 0 };

    if (len != 32)
        return MG_MALFORMED;
    for (uint32_t i = 0; i < len; i++) {
        int digit = mg_text_hex(id[i]);
        if (digit < 0)
            return MG_MALFORMED;
        trace[i / 16] = trace[i / 16] << 4 | (unsigned)digit;
    }
    if (!trace[0] && !trace[1])
        return MG_MALFORMED;
    memcpy(MG_EXCHANGE_OF(v)->trace, trace, sizeof(trace));
    return MG_OK;
}

int mg_view_trace(mg_view *v, char *to)
{
    const uint64_t *trace = MG_EXCHANGE_OF(v)->trace;

    if (!trace[0] && !trace[1])
        return MG_ABSENT;
    put_hex(to, trace[0]);
    put_hex(to + 16, trace[1]);
    return MG_OK;
}

int mg_view_set_upstream(mg_view *v, mg_upstream *u)
{
    if (v->tries && !(MG_EXCHANGE_OF(v)->at_work & 1u << MG_PHASE_HANDLE))
        return MG_TOO_LATE;
    v->upstream = u;
    return MG_OK;
}

int mg_view_bound_body(mg_view *v, double most)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (v->step < MG_STEP_ACCESS)
        return MG_ABSENT;
    if (x->in.most && !(most >= 1 && most < (double)x->in.most))
        return MG_OK;
    return mg_exchange_bound_body(x, (uint64_t)most) ? MG_OK : MG_FULL;
}

void mg_view_mirror(mg_view *v, bool on)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    x->mirrored = !on;
    x->mirror_chosen = on;
}

int mg_view_count(mg_view *v, mg_dict *d, const char *key, uint32_t len, double most, double *total)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    return mg_permit_take(&x->permits, x->arena, d, (mg_slice){ key, len }, most, total);
}

int mg_view_want(mg_view *v, int phase)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (phase == MG_PHASE_RESPONSE_BODY) {
        if (v->head_sent)
            return MG_TOO_LATE;
        x->out.filtered = true;
    } else {
        if (x->attempt.sent)
            return MG_TOO_LATE;
        x->in.filtered = true;
    }
    return MG_OK;
}

void mg_phase_done(mg_view *v, int phase)
{
    mg_engine_phase_done(MG_EXCHANGE_OF(v), (enum mg_phase)phase);
}

void mg_phase_failed(mg_view *v, int phase)
{
    mg_engine_phase_failed(MG_EXCHANGE_OF(v), (enum mg_phase)phase);
}

/* ---- Fields. ---- */

int mg_field_get(const mg_message *m, const char *name, uint32_t len, mg_slice *out)
{
    return mg_message_get(m, (mg_slice){ name, len }, out);
}

int mg_field_set(mg_message *m, const char *name, uint32_t nlen, const char *value, uint32_t vlen)
{
    return mg_message_set(m, (mg_slice){ name, nlen }, (mg_slice){ value, vlen });
}

int mg_field_add(mg_message *m, const char *name, uint32_t nlen, const char *value, uint32_t vlen)
{
    return mg_message_add(m, (mg_slice){ name, nlen }, (mg_slice){ value, vlen });
}

int mg_field_remove(mg_message *m, const char *name, uint32_t nlen)
{
    return (int)mg_message_remove(m, (mg_slice){ name, nlen });
}

int mg_field_count(const mg_message *m)
{
    return m->count;
}

int mg_field_at(const mg_message *m, int index, mg_slice *name, mg_slice *value)
{
    if (index < 0 || index >= m->count)
        return MG_ABSENT;
    *name = m->fields[index].name;
    *value = m->fields[index].value;
    return MG_OK;
}

/* ---- Answers. ---- */

int mg_answer(mg_view *v, int status)
{
    if (status < 200 || status > 599)
        return MG_MALFORMED;
    return mg_exchange_answer(MG_EXCHANGE_OF(v), (unsigned)status);
}

int mg_answer_write(mg_view *v, const char *ptr, uint32_t len)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (v->gone)
        return MG_GONE;
    mg_engine_touch(x);
    return mg_flow_write(&x->out, ptr, len);
}

int mg_answer_end(mg_view *v)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    x->out.whole = true;
    mg_engine_touch(x);
    return MG_OK;
}

int mg_answer_produce(mg_view *v)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (!x->answered || v->head_sent)
        return MG_TOO_LATE;
    x->producing = true;
    x->out.whole = false;
    return MG_OK;
}

int mg_view_refuse(mg_view *v, int status, const char *reason, uint32_t len)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    if (v->head_sent)
        return MG_TOO_LATE;
    x->failed = true;
    x->error_status = (unsigned)status;
    x->error_text = mg_arena_copy(x->arena, (mg_slice){ reason, len });
    return MG_OK;
}

int mg_answer_default(mg_view *v, int status)
{
    int answered = mg_answer(v, status);

    if (answered == MG_OK)
        mg_forward_default_page(MG_EXCHANGE_OF(v), (unsigned)status);
    return answered;
}

int mg_forward(mg_view *v)
{
    return mg_exchange_forward(MG_EXCHANGE_OF(v));
}

/* ---- Bodies. ---- */

static struct mg_flow *flow_of(mg_view *v, int side)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);

    return side == MG_SIDE_REQUEST ? &x->in : &x->out;
}

int mg_body_piece(mg_view *v, int side, mg_slice *out)
{
    return mg_flow_piece(flow_of(v, side), out);
}

int mg_body_replace(mg_view *v, int side, const char *ptr, uint32_t len)
{
    return mg_flow_replace(flow_of(v, side), ptr, len);
}

int mg_body_put_back(mg_view *v, int side, uint32_t len)
{
    return mg_flow_put_back(flow_of(v, side), len);
}

bool mg_body_is_last(mg_view *v, int side)
{
    const struct mg_flow *f = flow_of(v, side);

    return f->whole && !f->held.bytes;
}

/* Bytes that were passed on, or will be by a taker that is there, can't be had any more. */
static bool is_taken(const struct mg_flow *f)
{
    return f->to != NULL || f->done;
}

int mg_body_read(mg_view *v, int side)
{
    if (is_taken(flow_of(v, side)))
        return MG_TOO_LATE;
    if (side == MG_SIDE_REQUEST)
        mg_exchange_wants_body(MG_EXCHANGE_OF(v));
    return mg_flow_read(flow_of(v, side));
}

int mg_body_take(mg_view *v, int side, mg_slice *out)
{
    return mg_flow_take(flow_of(v, side), out);
}

int mg_body_collect(mg_view *v, int side, double most)
{
    struct mg_flow *f = flow_of(v, side);

    if (is_taken(f) && !(f->whole && f->arrived == 0))
        return MG_TOO_LATE;
    if (side == MG_SIDE_REQUEST)
        mg_exchange_wants_body(MG_EXCHANGE_OF(v));
    return mg_flow_collect(f, most > 0 ? (uint64_t)most : 0);
}

int mg_body_text(mg_view *v, int side, mg_slice *out)
{
    return mg_flow_text(flow_of(v, side), out);
}

/* ---- Messages of a WebSocket. ---- */

int mg_websocket_message(mg_view *v, int side, mg_slice *out)
{
    const struct mg_messages *m = flow_of(v, side)->messages;

    if (!m || !m->waiting)
        return MG_ABSENT;
    *out = (mg_slice){ m->reader.text, (uint32_t)m->reader.len };
    return m->reader.kind == MG_OPCODE_BINARY;
}

int mg_websocket_replace(mg_view *v, int side, const char *ptr, uint32_t len)
{
    struct mg_messages *m = flow_of(v, side)->messages;

    return m && m->waiting ? mg_websocket_put(&m->reader, ptr, len) : MG_ABSENT;
}

int mg_websocket_drop(mg_view *v, int side)
{
    struct mg_messages *m = flow_of(v, side)->messages;

    if (!m || !m->waiting)
        return MG_ABSENT;
    m->dropped = true;
    return MG_OK;
}

int mg_websocket_send(mg_view *v, int side, bool binary, const char *ptr, uint32_t len)
{
    struct mg_flow *f = flow_of(v, side);

    if (!f->messages)
        return MG_ABSENT;
    if (!binary && !mg_utf8_is_valid(ptr, len))
        return MG_MALFORMED;
    int status = mg_flow_say(f, binary ? MG_OPCODE_BINARY : MG_OPCODE_TEXT, ptr, len);
    if (status >= 0)
        mg_engine_touch(MG_EXCHANGE_OF(v));
    return status;
}

int mg_websocket_close(mg_view *v, int code, const char *ptr, uint32_t len)
{
    struct mg_messages *m = flow_of(v, MG_SIDE_REQUEST)->messages;

    if (!m)
        return MG_ABSENT;
    if (code < 0 || !mg_close_code_is_valid((unsigned)code) || len > MG_CONTROL_MOST - 2 || !mg_utf8_is_valid(ptr, len))
        return MG_MALFORMED;
    mg_messages_close(m, (unsigned)code, ptr, len);
    mg_engine_touch(MG_EXCHANGE_OF(v));
    return MG_OK;
}

/* ---- Peers. ---- */

bool mg_peer_eligible(const mg_view *v, const mg_peer *p)
{
    return mg_peer_may(p, &((const struct mg_exchange *)v)->tried);
}

int mg_balance_pick(mg_view *v, mg_peer *p)
{
    return mg_attempt_pick(MG_EXCHANGE_OF(v), p);
}

int mg_balance_hedge(mg_view *v, mg_peer *other, double after)
{
    return mg_hedge_choose(MG_EXCHANGE_OF(v), other, after);
}

void mg_retry_verdict(mg_view *v, bool again)
{
    MG_EXCHANGE_OF(v)->retry_known = true;
    MG_EXCHANGE_OF(v)->retry_again = again;
}

/* ---- Connections and generations. ---- */

void mg_connect_done(mg_connection_view *v)
{
    struct mg_connecting *c = (struct mg_connecting *)v;

    c->next = connected;
    connected = c;
}

int mg_worker_number(void)
{
    return mg_shared_worker_number();
}

void mg_generation_ready(mg_generation *g, int code)
{
    if (g->ready_known)
        return;
    g->ready_known = true;
    g->ready_code = code;
    readied = g;
}

void mg_generation_fault(mg_generation *g, const char *ptr, uint32_t len)
{
    free(g->fault);
    g->fault = strndup(ptr, len);
}

void mg_generation_watch(mg_generation *g)
{
    g->watched = true;
    g->lua.settled = 1; /* so that enter.c looks */
}

int mg_keep(mg_generation *g, const char *ptr, uint32_t len)
{
    char *copy = malloc(len);

    if (!copy)
        return MG_NO_MEMORY;
    memcpy(copy, ptr, len);
    free(g->kept);
    g->kept = copy;
    g->kept_len = len;
    return MG_OK;
}

int mg_kept(const mg_generation *g, mg_slice *out)
{
    if (!g->kept || g->kept_len > UINT32_MAX)
        return MG_ABSENT;
    *out = (mg_slice){ g->kept, (uint32_t)g->kept_len };
    return MG_OK;
}

/* ---- Logging, the time. ---- */

void mg_log_line(int level, const char *ptr, uint32_t len)
{
    mg_log_text((enum mg_log_level)level, (mg_slice){ ptr, len });
}

bool mg_log_wants(int level)
{
    return (int)mg_log_level <= level;
}

double mg_now(void)
{
    return mg_clock_now();
}

double mg_now_exactly(void)
{
    return mg_clock_read();
}

double mg_time(void)
{
    return mg_clock_wall();
}
