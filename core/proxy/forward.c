/* forward.c - a request as the origin sees it, a response as the client sees it (RFC 9110 section 7.6).
 *
 * Doubt about what a request is for is refused here, before any policy sees
 * it. Fields that belong to one connection never pass; who asked is said in
 * fields that only a trusted client may have filled in before us. */
#include "forward.h"

#include <stdio.h>

#include "uri.h"

static int refuse(struct mg_exchange *x, int status, const char *text)
{
    x->error_text = mg_slice_of(text);
    return status;
}

/* RFC 9112 3.2.2: an absolute target's authority takes Host's place. */
static int take_authority(struct mg_exchange *x, const struct mg_target *target, mg_slice *authority)
{
    struct mg_field *host = mg_message_known(&x->request, MG_FIELD_HOST);

    if (target->authority.len) {
        if (mg_message_set(&x->request, mg_field_name(MG_FIELD_HOST), target->authority) != MG_OK)
            return refuse(x, 431, "no room for the Host field");
        *authority = target->authority;
    } else if (host) {
        *authority = host->value;
    } else {
        *authority = (mg_slice){ "", 0 };
    }
    return 0;
}

int mg_forward_identify(struct mg_exchange *x)
{
    mg_view *v = &x->view;
    struct mg_target target;
    mg_slice authority;
    uint16_t port;

    if (mg_target_parse(x->request.method, x->request.target, &target) != MG_OK)
        return refuse(x, 400, "the request target is malformed");
    int status = take_authority(x, &target, &authority);
    if (status)
        return status;
    if (authority.len && mg_host_parse(authority, x->arena, &v->host, &port) != MG_OK)
        return refuse(x, 400, "the Host is malformed");
    if (!authority.len)
        v->host = authority;
    v->scheme = v->tls ? MG_LIT("https") : MG_LIT("http");
    v->raw_path = target.form == MG_TARGET_AUTHORITY ? MG_LIT("/") : target.path;
    v->query = target.query;
    if (target.wild && (mg_wild_encode(v->raw_path, x->arena, &v->raw_path) != MG_OK ||
                        mg_wild_encode(v->query, x->arena, &v->query) != MG_OK))
        return refuse(x, 503, "out of memory");
    if (target.form == MG_TARGET_ASTERISK)
        v->path = target.path;
    else if (mg_path_normalise(v->raw_path, x->arena, &v->path) != MG_OK)
        return refuse(x, 400, "the path is malformed");
    return 0;
}

/* Adds "name: [old, ]added"; the old value counts only if the client is trusted. */
static void append(struct mg_exchange *x, enum mg_field_id id, mg_slice added, bool trusted)
{
    struct mg_message *m = &x->request;
    mg_slice old, name = mg_field_name(id);

    if (!mg_message_has(m, id)) {
        (void)!mg_message_push(m, name, added, id);
        return;
    }
    if (trusted && mg_message_get(m, name, &old) == MG_OK && old.len) {
        char *both = mg_arena_take(x->arena, (size_t)old.len + 2 + added.len);
        if (!both)
            return;
        memcpy(both, old.ptr, old.len);
        memcpy(both + old.len, ", ", 2);
        memcpy(both + old.len + 2, added.ptr, added.len);
        added = (mg_slice){ both, old.len + 2 + added.len };
    }
    mg_message_remove_known(m, id);
    (void)!mg_message_push(m, name, added, id);
}

/* RFC 7239: for=ip;host=name;proto=http. What is no token is quoted. */
static mg_slice forwarded_element(struct mg_exchange *x, mg_slice host)
{
    mg_slice ip = x->view.client_ip;
    bool six = memchr(ip.ptr, ':', ip.len) != NULL;
    bool plain = host.len == x->view.host.len && host.len && host.ptr[0] != '['; /* no port: a name, or IPv4 */
    bool quote_host = !plain && host.len && !mg_text_is_token(host);
    char *start = mg_arena_take(x->arena, (size_t)ip.len + host.len + 64), *to = start;

    if (!start)
        return (mg_slice){ "", 0 };
    to = mg_text_put(to, six ? MG_LIT("for=\"[") : MG_LIT("for="));
    to = mg_text_put(to, ip);
    to = mg_text_put(to, six ? MG_LIT("]\"") : MG_LIT(""));
    if (host.len) {
        to = mg_text_put(to, quote_host ? MG_LIT(";host=\"") : MG_LIT(";host="));
        to = mg_text_put(to, host);
        to = mg_text_put(to, quote_host ? MG_LIT("\"") : MG_LIT(""));
    }
    to = mg_text_put(to, MG_LIT(";proto="));
    to = mg_text_put(to, x->view.scheme);
    return (mg_slice){ start, (uint32_t)(to - start) };
}

static void say_who_asked(struct mg_exchange *x)
{
    const struct mg_field *host = mg_message_known(&x->request, MG_FIELD_HOST);
    mg_slice host_value = host ? host->value : (mg_slice){ "", 0 };
    mg_slice via = x->request.version < 11   ? MG_LIT("1.0 moongate")
                   : x->request.version < 20 ? MG_LIT("1.1 moongate")
                                             : MG_LIT("2.0 moongate");
    bool trusted = x->client->info->trusted;

    append(x, MG_FIELD_X_FORWARDED_FOR, x->view.client_ip, trusted);
    append(x, MG_FIELD_FORWARDED, forwarded_element(x, host_value), trusted);
    /* These two name the outermost hop only: a trusted client's word stands. */
    if (!trusted || !mg_message_has(&x->request, MG_FIELD_X_FORWARDED_PROTO))
        append(x, MG_FIELD_X_FORWARDED_PROTO, x->view.scheme, false);
    if (host_value.len && (!trusted || !mg_message_has(&x->request, MG_FIELD_X_FORWARDED_HOST)))
        append(x, MG_FIELD_X_FORWARDED_HOST, host_value, false);
    append(x, MG_FIELD_VIA, via, true);
}

/* A protocol the client may change to: it asked for it the right way (RFC 9110 7.8), and not for h2c, which is
 * ours to speak. A request with a body has no place for one. */
static void note_upgrade(struct mg_exchange *x)
{
    struct mg_message *m = &x->request;
    mg_slice list;

    if (!mg_message_has(m, MG_FIELD_UPGRADE) || !mg_message_has(m, MG_FIELD_CONNECTION) || m->version < 11 ||
        !x->in.whole)
        return;
    if (mg_message_get(m, mg_field_name(MG_FIELD_CONNECTION), &list) != MG_OK ||
        !mg_text_list_has(list, MG_LIT("upgrade")))
        return;
    mg_slice protocol = mg_message_known(m, MG_FIELD_UPGRADE)->value;
    if (!mg_text_list_has(protocol, MG_LIT("h2c")))
        x->protocol = protocol;
}

void mg_forward_request(struct mg_exchange *x)
{
    note_upgrade(x);
    mg_message_strip_hop(&x->request);
    if (x->request.version < 11)
        mg_message_remove_known(&x->request, MG_FIELD_EXPECT);
    say_who_asked(x);
}

bool mg_forward_has_messages(const struct mg_exchange *x)
{
    return x->view.wants >> MG_PHASE_CLIENT_MESSAGE & 1 && mg_text_same(x->protocol, MG_LIT("websocket"));
}

static mg_slice present_target(struct mg_exchange *x)
{
    const mg_view *v = &x->view;

    if (mg_method_is(v->method, "CONNECT"))
        return x->request.target;
    if (!v->query.ptr)
        return v->raw_path;
    if (v->query.ptr == v->raw_path.ptr + v->raw_path.len + 1) /* as they came, "?" between them */
        return (mg_slice){ v->raw_path.ptr, v->raw_path.len + 1 + v->query.len };
    char *both = mg_arena_take(x->arena, (size_t)v->raw_path.len + 1 + v->query.len);
    if (!both)
        return v->raw_path;
    char *to = mg_text_put(mg_text_put(both, v->raw_path), MG_LIT("?"));
    to = mg_text_put(to, v->query);
    return (mg_slice){ both, (uint32_t)(to - both) };
}

static mg_slice peer_host(const struct mg_peer *p)
{
    return p && mg_host_is_valid(p->name) ? p->name : MG_LIT("localhost");
}

/* Will this try's head differ from the request in its fields? */
static bool has_own_fields(const struct mg_exchange *x)
{
    return x->protocol.len || (x->in.filtered && !x->in.done) || x->view.wants & 1u << MG_PHASE_ATTEMPT ||
           !mg_message_has(&x->request, MG_FIELD_HOST) || mg_message_has(&x->request, MG_FIELD_EXPECT);
}

void mg_forward_attempt(struct mg_exchange *x, const struct mg_peer *p, struct mg_message *head)
{
    if (x->bytes) {
        *head = x->request;
        return;
    }
    if (has_own_fields(x))
        mg_message_fork(head, &x->request, x->arena);
    else
        *head = x->request;
    head->method = x->view.method;
    head->target = present_target(x);
    /* RFC 9112 3.2: a request of HTTP/1.1 names a host, whatever the client's version let it leave out. */
    if (!mg_message_has(head, MG_FIELD_HOST))
        (void)!mg_message_push(head, mg_field_name(MG_FIELD_HOST), peer_host(p), MG_FIELD_HOST);
    if (x->protocol.len)
        (void)!mg_message_push(head, mg_field_name(MG_FIELD_UPGRADE), x->protocol, MG_FIELD_UPGRADE);
    if (mg_forward_has_messages(x))
        mg_message_remove(head, MG_LIT("Sec-WebSocket-Extensions")); /* compressed messages could not be read */
    if (x->in.filtered && !x->in.done)
        mg_message_remove_known(head, MG_FIELD_CONTENT_LENGTH);
    if (x->continued || x->in.whole)
        mg_message_remove_known(head, MG_FIELD_EXPECT);
}

static void add_date(struct mg_message *m, struct mg_arena *arena)
{
    if (mg_message_has(m, MG_FIELD_DATE))
        return;
    mg_slice date = mg_arena_copy(arena, (mg_slice){ mg_clock_date(), 29 });
    (void)!mg_message_push(m, mg_field_name(MG_FIELD_DATE), date, MG_FIELD_DATE);
}

void mg_forward_response(struct mg_exchange *x)
{
    struct mg_message *m = &x->response;
    mg_slice protocol = { 0 };

    if (m->status == 101 && mg_message_has(m, MG_FIELD_UPGRADE))
        protocol = mg_message_known(m, MG_FIELD_UPGRADE)->value;
    mg_message_strip_hop(m);
    if (protocol.len)
        (void)!mg_message_push(m, mg_field_name(MG_FIELD_UPGRADE), protocol, MG_FIELD_UPGRADE);
    if (m->status == 204 || m->status == 101 || (m->status / 100 == 2 && mg_method_is(x->view.method, "CONNECT")))
        mg_message_remove_known(m, MG_FIELD_CONTENT_LENGTH); /* RFC 9110 8.6 */
    add_date(m, x->arena);
}

/* What gRPC's "HTTP to gRPC status code mapping" says of a status, and of those that it leaves open what is near. */
static mg_slice grpc_status(unsigned status)
{
    switch (status) {
    case 400:
        return MG_LIT("13"); /* INTERNAL */
    case 401:
        return MG_LIT("16"); /* UNAUTHENTICATED */
    case 403:
        return MG_LIT("7"); /* PERMISSION_DENIED */
    case 404:
        return MG_LIT("12"); /* UNIMPLEMENTED */
    case 413:
    case 431:
        return MG_LIT("8"); /* RESOURCE_EXHAUSTED */
    case 429:
    case 502:
    case 503:
    case 504:
        return MG_LIT("14"); /* UNAVAILABLE */
    default:
        return MG_LIT("2"); /* UNKNOWN */
    }
}

/* A call of gRPC is told in gRPC's way: a head alone, of status 200, that says why. */
static bool answer_grpc(struct mg_exchange *x, unsigned status)
{
    const mg_slice grpc = MG_LIT("application/grpc");
    const struct mg_field *type = mg_message_known(&x->request, MG_FIELD_CONTENT_TYPE);

    if (!type || type->value.len < grpc.len || !mg_text_same((mg_slice){ type->value.ptr, grpc.len }, grpc))
        return false;
    x->response.status = 200;
    (void)!mg_message_push(&x->response, mg_field_name(MG_FIELD_CONTENT_TYPE), grpc, MG_FIELD_CONTENT_TYPE);
    (void)!mg_message_push(&x->response, MG_LIT("grpc-status"), grpc_status(status), MG_FIELD_OTHER);
    (void)!mg_message_push(&x->response, MG_LIT("grpc-message"), mg_reason(status), MG_FIELD_OTHER);
    return true;
}

void mg_forward_default_page(struct mg_exchange *x, unsigned status)
{
    char page[64];

    if (answer_grpc(x, status))
        return;
    mg_slice reason = mg_reason(status);
    int n = snprintf(page, sizeof(page), "%u %.*s\n", status, (int)reason.len, reason.ptr);

    (void)!mg_message_push(&x->response, mg_field_name(MG_FIELD_CONTENT_TYPE), MG_LIT("text/plain; charset=utf-8"),
                           MG_FIELD_CONTENT_TYPE);
    mg_chain_copy(&x->out.held, page, (size_t)n);
    x->out.arrived += (size_t)n;
}

void mg_forward_complete_answer(struct mg_exchange *x)
{
    struct mg_message *m = &x->response;
    bool may_have_body = m->status >= 200 && m->status != 204 && m->status != 304;
    /* Of a stored one that comes in pieces; of what a GET would have got. */
    bool told = mg_message_has(m, MG_FIELD_CONTENT_LENGTH) && (x->cached || mg_method_is(x->view.method, "HEAD"));
    char digits[20];

    if (!x->producing && may_have_body && !x->out.filtered && !told) {
        size_t n = mg_text_put_number(digits, x->out.held.bytes);
        mg_message_remove_known(m, MG_FIELD_CONTENT_LENGTH);
        (void)!mg_message_push(m, mg_field_name(MG_FIELD_CONTENT_LENGTH),
                               mg_arena_copy(x->arena, (mg_slice){ digits, (uint32_t)n }), MG_FIELD_CONTENT_LENGTH);
    } else if (!may_have_body) {
        mg_message_remove_known(m, MG_FIELD_CONTENT_LENGTH);
    }
    add_date(m, x->arena);
}
