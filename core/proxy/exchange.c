/* exchange.c - the steps of a request, in order, and the news of the client's side.
 *
 * Read `way` at the end of this file first: it is the way of a request. */
#include "exchange.h"

#include <assert.h>

#include "access.h"
#include "attempt.h"
#include "canary.h"
#include "engine.h"
#include "forward.h"
#include "log.h"
#include "mirror.h"
#include "retry.h"
#include "tls.h"

/* How much of a request's body is kept (by reference) for another try, until there is an answer. */
enum { REPLAY_MOST = 64 * 1024 };

static const struct mg_stream_events client_events;

/* ---- A request begins. ---- */

static void describe_client(struct mg_exchange *x, const struct mg_peer_info *info)
{
    char *ip = mg_arena_take(x->arena, INET6_ADDRSTRLEN);

    if (ip)
        x->view.client_ip = (mg_slice){ ip, (uint32_t)mg_endpoint_print(&info->client, ip) };
    x->view.client_port = info->client.port;
    x->view.local_port = info->local.port;
    x->view.tls = info->tls != NULL;
    if (info->tls)
        x->tls = mg_tls_session_hold(info->tls);
}

void mg_exchange_open(struct mg_stream *s, const struct mg_message *request, bool last, const struct mg_limits *limits)
{
    struct mg_exchange *x = mg_engine_new(mg_canary ? mg_canary_choose(request, s->info) : mg_generation_now);

    if (!x) {
        s->ops->reset(s, MG_WHY_CANCELLED); /* out of memory costs this connection */
        return;
    }
    s->owner = x;
    s->events = &client_events;
    x->client = s;
    x->limits = limits;
    x->route = &x->generation->unrouted;
    x->view.wants = x->route->wants;
    mg_message_keep(&x->request, request, x->arena);
    x->view.request = &x->request;
    x->view.method = x->request.method;
    x->view.version = x->request.version;
    x->continued = !mg_message_has(&x->request, MG_FIELD_EXPECT);
    x->in.from = last ? NULL : s;
    x->in.keep = REPLAY_MOST;
    x->in.whole = last;
    describe_client(x, s->info);
    mg_engine_run(x);
}

void mg_exchange_open_tcp(struct mg_stream *s, const struct mg_tcp_destination *to, const struct mg_limits *limits)
{
    struct mg_exchange *x = mg_engine_new(to->generation);

    if (!x) {
        s->ops->reset(s, MG_WHY_CANCELLED);
        return;
    }
    s->owner = x;
    s->events = &client_events;
    x->client = s;
    x->limits = limits;
    x->route = to->route;
    x->bytes = x->continued = true;
    x->view.route = (int32_t)(to->route - to->generation->routes);
    x->view.wants = to->route->wants;
    x->view.upstream = to->upstream;
    mg_message_init(&x->request, x->arena);
    x->request.method = x->view.method = MG_LIT("CONNECT");
    x->request.target = x->view.host = mg_arena_copy(x->arena, to->name);
    x->view.request = &x->request;
    x->view.scheme = MG_LIT("tcp");
    x->view.raw_path = x->view.path = MG_LIT("");
    x->in.from = s;
    describe_client(x, s->info);
    x->view.step = MG_STEP_BALANCE;
    mg_engine_run(x);
}

/* ---- News from the client. ---- */

/* The request's body can't become whole: what an origin got of it is cut, and the client is told if it still can be. */
static void break_request(struct mg_exchange *x, unsigned status, const char *text)
{
    if (x->view.head_sent && !x->view.from_peer)
        return; /* our own answer stands, and the codec closes behind it */
    x->broken = true;
    x->error_status = status;
    x->error_text = mg_slice_of(text);
    mg_flow_cut(&x->in);
    if (x->view.head_sent && x->client) {
        struct mg_stream *s = x->client;
        x->client = NULL;
        x->out.to = NULL;
        s->ops->reset(s, MG_WHY_MALFORMED);
        mg_engine_drop(x, MG_HELD_CLIENT);
    }
    mg_engine_run(x);
}

static void on_request_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    struct mg_exchange *x = s->owner;

    x->view.bytes_in += (double)body->bytes;
    if (last)
        x->in.from = NULL;
    if (x->view.head_sent && !x->view.from_peer)
        return; /* answered by ourselves: nobody takes it */
    if (mg_flow_arrive(&x->in, body, last) || x->broken)
        return;
    if (x->client)
        s->ops->want(s, false);
    break_request(x, 413, "the body is longer than max_body_size");
}

static void on_request_trailers(struct mg_stream *s, const struct mg_message *m)
{
    struct mg_exchange *x = s->owner;
    struct mg_message *kept = mg_arena_zeroed(x->arena, sizeof(*kept));

    if (kept)
        mg_message_keep(kept, m, x->arena);
    x->in.from = NULL;
    mg_flow_trailers(&x->in, kept);
}

static void on_client_room(struct mg_stream *s)
{
    struct mg_exchange *x = s->owner;

    mg_flow_pump(&x->out);
}

static void on_client_broken(struct mg_stream *s, enum mg_why why, const char *text)
{
    break_request(s->owner, why == MG_WHY_TIMEOUT ? 408 : 400, text);
}

static void on_client_end(struct mg_stream *s, enum mg_why why)
{
    struct mg_exchange *x = s->owner;

    x->client = NULL;
    x->in.from = NULL;
    x->out.to = NULL;
    if (why != MG_WHY_COMPLETE) {
        if (x->bytes && s->problem)
            x->view.failure_text = mg_slice_of(s->problem);
        x->view.gone = 1;
        mg_flow_cut(&x->in);
        mg_task_gone(&x->task);
        if (x->scripted) {
            struct mg_policy *policy = x->generation->policy;
            policy->gone(policy, x->view.slot);
        }
    }
    mg_engine_run(x);
    mg_engine_drop(x, MG_HELD_CLIENT);
}

static const struct mg_stream_events client_events = {
    .on_body = on_request_body,
    .on_trailers = on_request_trailers,
    .on_room = on_client_room,
    .on_broken = on_client_broken,
    .on_end = on_client_end,
};

/* ---- The steps. ---- */

/* What the request means is in doubt, and so is all that follows it on its connection. */
static enum mg_next refuse(struct mg_exchange *x, unsigned status, mg_slice text)
{
    x->client->final = true;
    x->failed = true;
    x->error_status = status;
    x->error_text = text;
    return mg_go(x, MG_STEP_ERROR);
}

/* RFC 8470 5.2: a method that changes nothing may be repeated, and the origin is told that it might be. */
static bool take_early(struct mg_exchange *x)
{
    if (!mg_method_is_safe(x->request.method))
        return false;
    return mg_message_set(&x->request, MG_LIT("Early-Data"), MG_LIT("1")) == MG_OK;
}

static enum mg_next step_open(struct mg_exchange *x)
{
    if (x->request.status)
        return refuse(x, x->request.status, x->request.reason);
    int status = mg_forward_identify(x);
    if (status)
        return refuse(x, (unsigned)status, x->error_text);
    if (!x->continued && x->request.version >= 11 &&
        !mg_text_same(mg_message_known(&x->request, MG_FIELD_EXPECT)->value, MG_LIT("100-continue")))
        return refuse(x, 417, MG_LIT("an expectation other than 100-continue"));
    if (x->tls && mg_tls_session_is_early(x->tls) && !take_early(x))
        return mg_engine_fail(x, 425, "early data may be a replay, which this method does not bear");
    mg_forward_request(x);
    if (mg_arena_failed(x->arena))
        return mg_engine_fail(x, 503, "out of memory");
    if (x->generation->use_wants & 1u << MG_PHASE_REQUEST)
        x->view.wants |= 1u << MG_PHASE_REQUEST;
    return mg_go(x, MG_STEP_REQUEST);
}

static enum mg_next step_request(struct mg_exchange *x)
{
    if (mg_engine_hooks(x, MG_PHASE_REQUEST) == MG_PARK)
        return MG_PARK;
    return mg_engine_after_hooks(x, MG_STEP_ROUTE);
}

static void take_route(struct mg_exchange *x, const struct mg_route_match *match)
{
    struct mg_route *r = &x->generation->routes[match->route];

    x->route = r;
    x->view.route = match->route;
    x->view.wants = r->wants;
    if (!x->view.upstream)
        x->view.upstream = r->upstream;
    if (r->own_limits) {
        x->limits = &r->limits;
        if (x->client)
            x->client->times = &r->times;
    }
    if (!match->param_count)
        return;
    x->view.params = mg_arena_take(x->arena, match->param_count * sizeof(mg_slice));
    if (x->view.params)
        memcpy(x->view.params, match->params, match->param_count * sizeof(mg_slice));
}

/* RFC 9110 15.5.6: 405 says what would be allowed. */
static enum mg_next refuse_method(struct mg_exchange *x, const char *allow, size_t len)
{
    x->allow = mg_arena_copy(x->arena, (mg_slice){ allow, (uint32_t)len });
    return mg_engine_fail(x, 405, "the route does not take this method");
}

bool mg_exchange_bound_body(struct mg_exchange *x, uint64_t most)
{
    uint64_t length;

    x->in.most = most;
    if (!most)
        return true;
    if (x->in.arrived > most)
        return false;
    return !mg_message_has(&x->request, MG_FIELD_CONTENT_LENGTH) ||
           !mg_text_number(mg_message_known(&x->request, MG_FIELD_CONTENT_LENGTH)->value, &length) || length <= most;
}

/* RFC 9110 7.6.2: OPTIONS and TRACE count down; at 0 we are who answers. */
static bool is_last_hop(struct mg_exchange *x)
{
    char digits[20];
    uint64_t hops;

    if (!mg_message_has(&x->request, MG_FIELD_MAX_FORWARDS) ||
        !(mg_method_is(x->view.method, "OPTIONS") || mg_method_is(x->view.method, "TRACE")) ||
        !mg_text_number(mg_message_known(&x->request, MG_FIELD_MAX_FORWARDS)->value, &hops))
        return false;
    if (hops == 0)
        return mg_exchange_answer(x, 200) == MG_OK;
    size_t n = mg_text_put_number(digits, hops - 1);
    (void)!mg_message_set(&x->request, mg_field_name(MG_FIELD_MAX_FORWARDS), (mg_slice){ digits, (uint32_t)n });
    return false;
}

static enum mg_next step_route(struct mg_exchange *x)
{
    struct mg_route_match match;
    char allow[512];
    size_t allow_len = 0;

    switch (mg_router_find(x->generation->router, x->view.host, x->view.path, x->view.method, &match, allow,
                           sizeof(allow), &allow_len)) {
    case MG_OK:
        break;
    case MG_REFUSED:
        return refuse_method(x, allow, allow_len);
    default:
        return mg_engine_fail(x, 404, "no route matches");
    }
    take_route(x, &match);
    if (is_last_hop(x))
        return mg_go(x, MG_STEP_RESPONSE);
    if (x->limits->max_body_size && !mg_exchange_bound_body(x, x->limits->max_body_size))
        return mg_engine_fail(x, 413, "the body is longer than max_body_size");
    x->in.filtered = mg_wants(x, MG_PHASE_REQUEST_BODY);
    if (x->in.filtered)
        mg_flow_settle(&x->in); /* hooks see a body once */
    x->out.filtered = mg_wants(x, MG_PHASE_RESPONSE_BODY);
    return mg_go(x, MG_STEP_ACCESS);
}

/* Before an origin is asked: is there still a request to forward? */
static bool is_broken(struct mg_exchange *x)
{
    return x->broken && !x->failed && !x->answered;
}

static enum mg_next fail_broken(struct mg_exchange *x)
{
    mg_attempt_abandon(x);
    x->failed = true;
    return mg_go(x, MG_STEP_ERROR);
}

static enum mg_next step_access(struct mg_exchange *x)
{
    if (mg_engine_hooks(x, MG_PHASE_ACCESS) == MG_PARK)
        return MG_PARK;
    if (is_broken(x))
        return fail_broken(x);
    return mg_engine_after_hooks(x, MG_STEP_HANDLE);
}

static enum mg_next step_handle(struct mg_exchange *x)
{
    enum mg_next next = mg_engine_hooks(x, MG_PHASE_HANDLE);

    if (x->forwarding)
        return mg_go(x, MG_STEP_BALANCE);
    if (next == MG_PARK)
        return MG_PARK;
    return mg_engine_after_hooks(x, MG_STEP_BALANCE);
}

static enum mg_next step_balance(struct mg_exchange *x)
{
    return is_broken(x) ? fail_broken(x) : mg_attempt_balance(x);
}

static enum mg_next step_connect(struct mg_exchange *x)
{
    return is_broken(x) ? fail_broken(x) : mg_attempt_connect(x);
}

static enum mg_next step_attempt(struct mg_exchange *x)
{
    return is_broken(x) && !(x->at_work & 1u << MG_PHASE_ATTEMPT) ? fail_broken(x) : mg_attempt_send(x);
}

static enum mg_next step_wait(struct mg_exchange *x)
{
    return is_broken(x) ? fail_broken(x) : mg_attempt_wait(x);
}

/* What of the policies or the origin has failed is answered by an error hook, or by the plain page. */
static enum mg_next step_error(struct mg_exchange *x)
{
    unsigned status = x->error_status;

    if (!(x->at_work & 1u << MG_PHASE_ERROR)) {
        mg_attempt_abandon(x);
        x->failed = x->answered = false;
        x->view.status = (uint16_t)status;
        x->view.failure_text = x->error_text;
    }
    if (mg_engine_hooks(x, MG_PHASE_ERROR) == MG_PARK)
        return MG_PARK;
    if (x->failed || !x->answered) { /* an error hook that throws does not get another turn */
        x->failed = false;
        status = x->error_status; /* 500, if it threw */
        if (mg_exchange_answer(x, status) == MG_OK && !x->bytes)
            mg_forward_default_page(x, status);
    }
    if (x->allow.len && x->response.status == 405)
        (void)!mg_message_set(&x->response, MG_LIT("Allow"), x->allow);
    return mg_go(x, MG_STEP_RESPONSE);
}

/* A fiber in HANDLE gets the response, and decides what becomes of it. */
static enum mg_next hand_to_fiber(struct mg_exchange *x)
{
    x->forwarding = false;
    if (mg_wait_pending(&x->forward))
        mg_task_answer(&x->forward, MG_OK);
    return mg_go(x, MG_STEP_RETURN);
}

static enum mg_next step_response(struct mg_exchange *x)
{
    if (x->route->mirror && !x->mirrored)
        mg_mirror_send(x);
    if (x->view.from_peer && !x->prepared) {
        if (!(x->at_work & 1u << MG_PHASE_HANDLE))
            mg_flow_settle(&x->in);
        mg_forward_response(x);
        x->prepared = true;
    }
    if (x->forwarding)
        return hand_to_fiber(x);
    if (x->at_work & 1u << MG_PHASE_HANDLE)
        return mg_go(x, MG_STEP_RETURN);
    if (!(x->entered & 1u << MG_PHASE_HANDLE) || x->hook_failed) {
        if (mg_engine_hooks(x, MG_PHASE_RESPONSE) == MG_PARK)
            return MG_PARK;
        if (x->failed)
            return mg_go(x, MG_STEP_ERROR);
    }
    return mg_go(x, MG_STEP_RELAY);
}

static enum mg_next step_return(struct mg_exchange *x)
{
    if (x->forwarding) {
        mg_attempt_abandon(x);
        x->prepared = false;
        return mg_go(x, MG_STEP_BALANCE);
    }
    if (x->at_work & 1u << MG_PHASE_HANDLE)
        return MG_PARK;
    return mg_go(x, x->failed ? MG_STEP_ERROR : MG_STEP_RELAY);
}

/* ---- WebSockets whose messages Lua sees. ---- */

struct conversation {
    struct mg_messages from_client, from_origin; /* the first of them stands for all of it */
    struct mg_exchange *exchange;
    struct conversation *next, **link;
};

static struct conversation *conversations;
static bool draining;

static void leave(struct conversation *c)
{
    mg_messages_close(&c->from_client, MG_CLOSE_GOING_AWAY, "", 0);
    mg_engine_touch(c->exchange);
}

/* False without memory. */
static bool begin_messages(struct mg_exchange *x)
{
    struct conversation *c = mg_arena_zeroed(x->arena, sizeof(*c));

    if (!c)
        return false;
    c->exchange = x;
    c->link = &conversations;
    c->next = conversations;
    if (c->next)
        c->next->link = &c->next;
    conversations = c;
    mg_messages_init(&c->from_client, &c->from_origin, x->limits->max_message_size);
    mg_flow_talk(&x->in, &c->from_client, MG_PHASE_CLIENT_MESSAGE);
    mg_flow_talk(&x->out, &c->from_origin, MG_PHASE_ORIGIN_MESSAGE);
    if (draining)
        leave(c);
    return true;
}

static void end_messages(struct mg_exchange *x)
{
    struct conversation *c = MG_HOLDER(x->in.messages, struct conversation, from_client);

    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
}

void mg_exchange_drain(void)
{
    draining = true;
    for (struct conversation *c = conversations; c; c = c->next)
        leave(c);
}

/* The head goes out. Edits of the body change its length. */
static void send_head(struct mg_exchange *x)
{
    struct mg_stream *s = x->client;
    bool bodiless = x->response.status == 204 || x->response.status == 304 || mg_method_is(x->view.method, "HEAD");

    if (bodiless) {
        x->out.filtered = x->producing = false;
        x->out.whole |= !x->view.from_peer;
    } else if (x->out.filtered) {
        mg_message_remove_known(&x->response, MG_FIELD_CONTENT_LENGTH);
    }
    if (!x->view.from_peer)
        mg_forward_complete_answer(x);
    bool last = x->out.whole && !x->out.held.bytes && !x->out.trailers && !x->out.filtered;
    x->view.head_sent = 1;
    x->view.status = x->response.status;
    x->out.to = s;
    s->ops->send_head(s, &x->response, last);
    if (s->tunnel && !x->bytes) { /* both messages are plain bytes now */
        x->in.whole = x->in.done = false;
        x->in.from = s;
        x->in.to = x->attempt.stream;
        x->in.most = 0;
        if (mg_forward_has_messages(x) && !begin_messages(x))
            mg_flow_cut(&x->out);
    }
    if (last)
        x->out.done = true;
}

/* The response ends before it is whole, or a hook failed behind the head: the client must see that. */
static enum mg_next cut_client(struct mg_exchange *x)
{
    struct mg_stream *s = x->client;

    x->client = NULL;
    x->out.to = NULL;
    s->ops->reset(s, MG_WHY_CUT);
    mg_engine_drop(x, MG_HELD_CLIENT);
    return mg_go(x, MG_STEP_LOG);
}

/* The client has all of its answer; does the origin still wait for the rest of the request? */
static bool uploads(const struct mg_exchange *x)
{
    return !x->view.gone && x->in.done && x->attempt.stream;
}

static enum mg_next step_relay(struct mg_exchange *x)
{
    if (!x->client)
        return uploads(x) ? MG_PARK : mg_go(x, MG_STEP_LOG);
    if (!x->view.head_sent) {
        if (x->failed)
            return mg_go(x, MG_STEP_ERROR);
        if (mg_arena_failed(x->arena))
            return cut_client(x);
        send_head(x);
        if (x->producing)
            x->view.wants |= 1u << MG_PHASE_PRODUCE;
        else if (!x->out.done)
            mg_flow_pump(&x->out);
    }
    if (mg_engine_hooks(x, MG_PHASE_PRODUCE) == MG_MORE && x->producing) {
        x->producing = false;
        x->out.whole = !x->failed;
        mg_flow_pump(&x->out);
    }
    if (!x->client)
        return mg_go(x, MG_STEP_LOG);
    return x->failed || (x->out.cut && !x->out.held.bytes && !x->out.at_work) ? cut_client(x) : MG_PARK;
}

static void count_it(struct mg_exchange *x)
{
    bool traced = x->trace[0] || x->trace[1];
    struct mg_metered m = {
        .status = x->view.status,
        .in = x->view.bytes_in,
        .out = x->view.bytes_out,
        .duration = mg_clock_now() - x->began,
        .time = mg_clock_wall(),
        .id = { x->trace[0], traced ? x->trace[1] : x->id },
        .traced = traced,
        .failure = x->view.failure_text,
    };

    mg_meter_exchange(&x->route->meter, x->route->name, &m);
}

static enum mg_next step_log(struct mg_exchange *x)
{
    if (!x->logged) {
        x->logged = true;
        mg_attempt_abandon(x);
        if (x->in.messages)
            end_messages(x);
        x->task.gone = false; /* log hooks may wait, whoever left */
        if (x->view.gone && !x->view.head_sent)
            x->view.status = 499;
        x->view.bytes_out = (double)x->out.sent;
    }
    if (mg_engine_hooks(x, MG_PHASE_LOG) == MG_PARK)
        return MG_PARK;
    count_it(x);
    mg_access_log(x);
    return MG_DONE;
}

static const struct mg_step_entry way[MG_STEP_COUNT] = {
    [MG_STEP_OPEN] = { "open", step_open },
    [MG_STEP_REQUEST] = { "request", step_request },
    [MG_STEP_ROUTE] = { "route", step_route },
    [MG_STEP_ACCESS] = { "access", step_access },
    [MG_STEP_HANDLE] = { "handle", step_handle },
    [MG_STEP_BALANCE] = { "balance", step_balance },
    [MG_STEP_CONNECT] = { "connect", step_connect },
    [MG_STEP_ATTEMPT] = { "attempt", step_attempt },
    [MG_STEP_WAIT] = { "wait", step_wait },
    [MG_STEP_RETRY] = { "retry", mg_retry },
    [MG_STEP_ERROR] = { "error", step_error },
    [MG_STEP_RESPONSE] = { "response", step_response },
    [MG_STEP_RETURN] = { "return", step_return },
    [MG_STEP_RELAY] = { "relay", step_relay },
    [MG_STEP_LOG] = { "log", step_log },
};

void mg_exchange_start(void)
{
    for (int i = 0; i < MG_STEP_COUNT; i++)
        assert(way[i].run);
    mg_engine_start(way);
}

/* ---- For the seam. ---- */

enum mg_status mg_exchange_answer(struct mg_exchange *x, unsigned status)
{
    if (x->view.head_sent || x->view.step >= MG_STEP_LOG)
        return MG_TOO_LATE;
    mg_attempt_abandon(x);
    mg_flow_reset(&x->out);
    mg_message_init(&x->response, x->arena);
    x->response.version = 11;
    x->response.status = (uint16_t)status;
    x->view.response = &x->response;
    x->view.status = (uint16_t)status;
    x->view.from_peer = 0;
    x->out.whole = true;
    x->out.trailers = NULL;
    x->out.filtered = mg_wants(x, MG_PHASE_RESPONSE_BODY);
    x->answered = true;
    x->producing = false;
    return MG_OK;
}

static void cancel_forward(struct mg_wait *w)
{
    struct mg_exchange *x = MG_HOLDER(w, struct mg_exchange, forward);

    x->forwarding = false;
}

int mg_exchange_forward(struct mg_exchange *x)
{
    if (x->view.head_sent || x->in.consumed || !(x->at_work & 1u << MG_PHASE_HANDLE) || x->forwarding)
        return MG_TOO_LATE;
    if (!x->view.upstream)
        return MG_NO_PEER;
    /* Asked before: that response is dropped, and the request must be whole for another origin. */
    if (x->view.response || x->view.tries) {
        if (x->in.arrived != x->in.held.bytes + x->in.kept.bytes)
            return MG_TOO_LATE;
        mg_attempt_abandon(x);
        mg_flow_rewind(&x->in);
        mg_flow_reset(&x->out);
        x->view.response = NULL;
        x->view.status = 0;
        x->view.from_peer = 0;
        x->view.tries = x->tried.count = 0;
        x->prepared = x->answered = false;
        x->attempt.failure = MG_FAIL_NONE;
        x->attempt.answered = x->attempt.fresh = false;
        x->entered &= ~(1u << MG_PHASE_BALANCE | 1u << MG_PHASE_ATTEMPT | 1u << MG_PHASE_RETRY | 1u << MG_PHASE_ERROR);
    }
    int ticket = mg_task_wait(&x->task, &x->forward, cancel_forward);
    if (ticket > 0) {
        x->forwarding = true;
        mg_engine_touch(x);
    }
    return ticket;
}

void mg_exchange_wants_body(struct mg_exchange *x)
{
    struct mg_message go_on = { .version = 11, .status = 100 };

    if (x->continued || !x->client || x->in.whole)
        return;
    x->continued = true;
    x->client->ops->send_interim(x->client, &go_on);
}
