/* crowd.c - simulated clients.
 *
 * Each request comes on a stream of its own, at once and whole. A client keeps the cookies that it is given, as the
 * peers of sticky balancers need it. */
#include "crowd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "clock.h"
#include "exchange.h"
#include "ledger.h"
#include "text.h"

enum { FIELDS_MOST = 32, COOKIES_MOST = 4096 };

/* Texts of a message that has an arena lie anywhere. No field is added to these beyond their room. */
static struct mg_arena scattered;

static struct crowd {
    mg_simulation *plan;
    double zero;                /* when the plan begins */
    struct mg_endpoint *places; /* by client */
    char **cookies;             /* by client; NULL: none */
    struct mg_asker *unused, *over, *asking;
    uint32_t open;
    mg_limits limits;
} crowd;

static mg_slice word(const mg_words *w, uint32_t n)
{
    uint32_t from = n ? w->ends[n - 1] : 0;

    return (mg_slice){ w->bytes + from, w->ends[n] - from };
}

/* ---- Cookies. ---- */

/* Takes the cookie of this name out of "a=1; b=2". */
static void forget_cookie(char *text, mg_slice name)
{
    for (char *at = text; *at;) {
        size_t n = strcspn(at, ";");
        char *behind = at + n + (at[n] ? 2 : 0);
        if (n > name.len && at[name.len] == '=' && memcmp(at, name.ptr, name.len) == 0)
            memmove(at, behind, strlen(behind) + 1);
        else
            at = behind;
    }
    size_t len = strlen(text);
    if (len >= 2 && text[len - 2] == ';')
        text[len - 2] = '\0';
}

static void keep_cookie(uint32_t client, mg_slice set)
{
    const char *end = memchr(set.ptr, ';', set.len);
    uint32_t len = end ? (uint32_t)(end - set.ptr) : set.len;
    const char *equals = memchr(set.ptr, '=', len);
    char *old = crowd.cookies[client];

    if (!equals || len > COOKIES_MOST)
        return;
    if (old)
        forget_cookie(old, (mg_slice){ set.ptr, (uint32_t)(equals - set.ptr) });
    size_t room = (old ? strlen(old) + 2 : 0) + len + 1;
    char *fresh = room <= COOKIES_MOST ? malloc(room) : NULL;
    if (!fresh)
        return;
    snprintf(fresh, room, "%s%s%.*s", old ? old : "", old && *old ? "; " : "", (int)len, set.ptr);
    free(old);
    crowd.cookies[client] = fresh;
}

static void keep_cookies(uint32_t client, const struct mg_message *m)
{
    for (unsigned i = 0; i < m->count; i++)
        if (mg_text_same(m->fields[i].name, MG_LIT("set-cookie")))
            keep_cookie(client, m->fields[i].value);
}

/* ---- A request's stream. ---- */

static void end(struct mg_asker *a)
{
    if (a->over)
        return;
    a->over = true;
    a->next = crowd.over;
    crowd.over = a;
}

static void note(struct mg_asker *a, uint16_t status)
{
    double now = mg_clock_now();

    if (a->answered)
        return;
    a->answered = true;
    mg_outcome o = { (float)(now - a->came), status, a->backend, a->tries };
    mg_ledger_answered(a->number, o, now - crowd.zero);
}

static void send_head(struct mg_stream *s, const struct mg_message *m, bool last)
{
    struct mg_asker *a = (struct mg_asker *)s;

    note(a, m->status);
    keep_cookies(crowd.plan->client[a->number], m);
    if (last)
        end(a);
}

static void send_interim(struct mg_stream *s, const struct mg_message *m)
{
    (void)s, (void)m;
}

static void send_body(struct mg_stream *s, struct mg_chain *body, bool last)
{
    mg_chain_clear(body);
    if (last)
        end((struct mg_asker *)s);
}

static void send_trailers(struct mg_stream *s, const struct mg_message *m)
{
    (void)m;
    end((struct mg_asker *)s);
}

static void want(struct mg_stream *s, bool more)
{
    (void)s, (void)more;
}

/* The engine has let go: no on_end. */
static void reset(struct mg_stream *s, enum mg_why why)
{
    struct mg_asker *a = (struct mg_asker *)s;

    (void)why;
    note(a, 0);
    s->owner = NULL;
    end(a);
}

static const struct mg_stream_ops ops = {
    .name = "simulated",
    .send_head = send_head,
    .send_interim = send_interim,
    .send_body = send_body,
    .send_trailers = send_trailers,
    .want = want,
    .reset = reset,
};

static struct mg_asker *new_asker(void)
{
    struct mg_asker *a = crowd.unused;

    if (a)
        crowd.unused = a->next;
    else if (!(a = malloc(sizeof(*a))))
        abort();
    return a;
}

static void add_field(struct mg_message *m, mg_slice name, mg_slice value)
{
    if (value.len)
        (void)!mg_message_push(m, name, value, mg_field_id(name));
}

static void describe(struct mg_message *m, uint32_t number)
{
    const mg_simulation *s = crowd.plan;
    const char *cookies = crowd.cookies[s->client[number]];

    m->method = MG_LIT("GET");
    m->target = word(&s->targets, s->target[number]);
    m->version = 11;
    for (uint32_t i = 0; i < s->field_count && m->count < m->room - 2; i++) {
        const mg_field_plan *f = &s->fields[i];
        add_field(m, f->name, word(&f->values, f->chosen ? f->chosen[number] : s->client[number]));
    }
    if (!mg_message_has(m, MG_FIELD_HOST))
        add_field(m, MG_LIT("Host"), MG_LIT("simulated"));
    if (cookies && *cookies)
        add_field(m, MG_LIT("Cookie"), mg_slice_of(cookies));
}

void mg_crowd_ask(uint32_t number)
{
    struct mg_field fields[FIELDS_MOST];
    struct mg_message m = { .arena = &scattered, .fields = fields, .room = FIELDS_MOST };
    struct mg_asker *a = new_asker();

    *a = (struct mg_asker){
        .stream = { .ops = &ops },
        .info = { .client = crowd.places[crowd.plan->client[number]] },
        .came = mg_clock_now(),
        .number = number,
        .worker = mg_clock_whom(),
        .backend = UINT16_MAX,
        .behind = crowd.asking,
    };
    a->stream.info = &a->info;
    if (crowd.asking)
        crowd.asking->before = a;
    crowd.asking = a;
    crowd.open++;
    describe(&m, number);
    mg_exchange_open(&a->stream, &m, true, &crowd.limits);
}

static void let_go(struct mg_asker *a)
{
    if (a->behind)
        a->behind->before = a->before;
    if (a->before)
        a->before->behind = a->behind;
    else
        crowd.asking = a->behind;
    crowd.open--;
    a->next = crowd.unused;
    crowd.unused = a;
}

void mg_crowd_settle(void)
{
    while (crowd.over) {
        struct mg_asker *a = crowd.over;
        crowd.over = a->next;
        mg_clock_enter(a->worker);
        if (a->stream.owner)
            a->stream.events->on_end(&a->stream, MG_WHY_COMPLETE);
        let_go(a);
    }
}

uint32_t mg_crowd_open_count(void)
{
    return crowd.open;
}

void mg_crowd_leave(void)
{
    mg_crowd_settle();
    while (crowd.asking) {
        struct mg_asker *a = crowd.asking;
        mg_clock_enter(a->worker);
        a->stream.events->on_end(&a->stream, MG_WHY_CUT);
        let_go(a);
    }
}

/* ---- The whole. ---- */

static bool read_places(const char **problem)
{
    static char text[256];
    const mg_words *w = &crowd.plan->clients;

    for (uint32_t i = 0; i < w->count; i++) {
        struct mg_address address;
        mg_slice ip = word(w, i);
        if (!mg_address_literal(ip, 1024, &address)) {
            snprintf(text, sizeof(text), "\"%.*s\" is not a client's address", (int)(ip.len < 100 ? ip.len : 100),
                     ip.ptr);
            *problem = text;
            return false;
        }
        crowd.places[i] = mg_endpoint_of(&address);
    }
    return true;
}

bool mg_crowd_open(mg_simulation *s, double begin, const char **problem)
{
    *problem = "out of memory";
    crowd.plan = s;
    crowd.zero = begin;
    mg_limits_default(&crowd.limits);
    crowd.places = calloc(s->clients.count ? s->clients.count : 1, sizeof(*crowd.places));
    crowd.cookies = calloc(s->clients.count ? s->clients.count : 1, sizeof(*crowd.cookies));
    return crowd.places && crowd.cookies && read_places(problem);
}

void mg_crowd_close(void)
{
    while (crowd.unused) {
        struct mg_asker *a = crowd.unused;
        crowd.unused = a->next;
        free(a);
    }
    for (uint32_t i = 0; crowd.cookies && i < crowd.plan->clients.count; i++)
        free(crowd.cookies[i]);
    free(crowd.cookies);
    free(crowd.places);
    crowd = (struct crowd){ 0 };
}
