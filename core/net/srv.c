/* srv.c - the SRV records of a name (RFC 2782).
 *
 * c-ares reads the records; their TTL, which it does not tell, is read by the
 * C library's ns_parserr(). c-ares can't take back a question, so one that was
 * cancelled stays until its answer is there. */
#include "srv.h"

#include <stdlib.h>
#include <string.h>

#include <ares.h>
#include <arpa/nameser.h>

#include "clock.h"
#include "dns.h"

enum {
    NAME_MAX_BYTES = 254, /* RFC 1035 2.3.4, with a dot at the end */
    RECORDS_MOST = 512,
    TTL_MIN = 1,
    TTL_MAX = 3600,
};
static const double SOON = 1e-6; /* the next turn of the loop */

struct mg_srv_question {
    mg_srv_done *done; /* NULL: cancelled */
    void *owner;
    bool asking;            /* c-ares will call */
    struct mg_timeout soon; /* set once there is an answer */
    struct mg_srv_answer *answer;
    const char *problem;
};

static unsigned live;

static double ttl_of(const unsigned char *bytes, int len)
{
    ns_msg message;
    ns_rr record;
    double ttl = TTL_MAX;

    if (ns_initparse(bytes, len, &message) < 0)
        return TTL_MIN;
    for (int i = 0; i < ns_msg_count(message, ns_s_an); i++)
        if (ns_parserr(&message, ns_s_an, i, &record) == 0 && ns_rr_ttl(record) < ttl)
            ttl = (double)ns_rr_ttl(record);
    return ttl > TTL_MIN ? ttl : TTL_MIN;
}

/* NULL without memory, or without records. */
static struct mg_srv_answer *copy_answer(const struct ares_srv_reply *list, double ttl)
{
    unsigned count = 0;
    size_t room = 0;

    for (const struct ares_srv_reply *r = list; r && count < RECORDS_MOST; r = r->next, count++)
        room += strlen(r->host) + 1;
    struct mg_srv_answer *a = count ? malloc(sizeof(*a) + count * sizeof(a->records[0]) + room) : NULL;
    if (!a)
        return NULL;
    char *text = (char *)&a->records[count];
    a->ttl = ttl;
    a->count = count;
    for (unsigned i = 0; i < count; i++, list = list->next) {
        const char *host = *list->host ? list->host : "."; /* as the root is written */
        size_t len = strlen(host);
        memcpy(text, host, len);
        a->records[i] = (mg_srv){ { text, (uint32_t)len }, list->port, list->priority, list->weight };
        text += len;
    }
    return a;
}

static void question_free(struct mg_srv_question *q)
{
    mg_timeout_clear(&q->soon);
    free(q->answer);
    free(q);
}

static void read_answer(struct mg_srv_question *q, const unsigned char *bytes, int len)
{
    struct ares_srv_reply *list = NULL;
    int status = ares_parse_srv_reply(bytes, len, &list);

    if (status == ARES_SUCCESS && list) {
        q->answer = copy_answer(list, ttl_of(bytes, len));
        if (!q->answer)
            q->problem = mg_dns_problem(ARES_ENOMEM);
    } else if (status == ARES_SUCCESS || status == ARES_ENODATA) {
        q->problem = "the name has no SRV record";
    } else {
        q->problem = mg_dns_problem(status == ARES_ENOMEM ? status : ARES_EBADRESP);
    }
    ares_free_data(list);
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *bytes, int len)
{
    (void)timeouts;
    struct mg_srv_question *q = arg;

    q->asking = false;
    if (!q->done) {
        question_free(q);
        return;
    }
    if (status == ARES_SUCCESS)
        read_answer(q, bytes, len);
    else
        q->problem = status == ARES_ENODATA ? "the name has no SRV record" : mg_dns_problem(status);
    mg_timeout_set(&q->soon, mg_clock_queue(SOON));
}

static void on_soon(struct mg_timeout *t)
{
    struct mg_srv_question *q = MG_HOLDER(t, struct mg_srv_question, soon);
    struct mg_srv_answer *answer = q->answer;

    q->answer = NULL;
    live--;
    q->done(q->owner, answer, q->problem);
    question_free(q);
}

static bool is_name(mg_slice s)
{
    if (!s.len || s.len > NAME_MAX_BYTES)
        return false;
    for (uint32_t i = 0; i < s.len; i++)
        if ((uint8_t)s.ptr[i] <= 0x20 || (uint8_t)s.ptr[i] >= 0x7f)
            return false;
    return true;
}

struct mg_srv_question *mg_srv_ask(mg_slice name, mg_srv_done *done, void *owner)
{
    char text[NAME_MAX_BYTES + 1];
    struct mg_srv_question *q = mg_dns_channel() ? calloc(1, sizeof(*q)) : NULL;

    if (!q)
        return NULL;
    q->done = done;
    q->owner = owner;
    q->soon.fire = on_soon;
    live++;
    if (!is_name(name)) {
        on_answer(q, ARES_EBADNAME, 0, NULL, 0);
        return q;
    }
    memcpy(text, name.ptr, name.len);
    text[name.len] = '\0';
    q->asking = true;
    ares_search(mg_dns_channel(), text, ns_c_in, ns_t_srv, on_answer, q);
    mg_dns_asked();
    return q;
}

void mg_srv_cancel(struct mg_srv_question *q)
{
    live--;
    q->done = NULL;
    if (!q->asking)
        question_free(q);
}

unsigned mg_srv_live(void)
{
    return live;
}
