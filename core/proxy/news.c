/* news.c - what has become of an upstream or a peer, for the error log and the script. */
#include "news.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "generation.h"
#include "log.h"

enum { KEPT_MOST = 256, REASON_MOST = 192 };
static const double SOON = 1e-6; /* the next turn of the loop */

struct mg_news_entry {
    struct mg_news_entry *next;
    struct mg_upstream *upstream;
    struct mg_peer *peer;
    enum mg_news_kind kind;
    char reason[REASON_MOST];
};

static const struct {
    const char *text;
    enum mg_log_level level;
} words[] = {
    [MG_NEWS_HEALTHY] = { "is healthy", MG_LOG_INFO },
    [MG_NEWS_UNHEALTHY] = { "is unhealthy", MG_LOG_WARN },
    [MG_NEWS_EJECTED] = { "is ejected", MG_LOG_WARN },
    [MG_NEWS_BACK] = { "is back", MG_LOG_INFO },
    [MG_NEWS_PANIC] = { "is in panic, all its peers are used", MG_LOG_WARN },
    [MG_NEWS_CALM] = { "is not in panic any more", MG_LOG_INFO },
    [MG_NEWS_BREAKER_OPEN] = { "has its breaker open", MG_LOG_WARN },
    [MG_NEWS_BREAKER_HALF_OPEN] = { "has its breaker half open", MG_LOG_INFO },
    [MG_NEWS_BREAKER_CLOSED] = { "has its breaker closed", MG_LOG_INFO },
};

/* Nobody may be in the middle of anything when the script hears of it. */
static void on_soon(struct mg_timeout *t)
{
    struct mg_news *n = MG_HOLDER(t, struct mg_news, soon);

    if (mg_wait_pending(&n->wait))
        mg_task_answer(&n->wait, MG_OK);
}

static void wake(struct mg_news *n)
{
    n->soon.fire = on_soon;
    if (mg_wait_pending(&n->wait))
        mg_timeout_set(&n->soon, mg_clock_queue(SOON));
}

static void keep(struct mg_news *n, const struct mg_news_entry *entry)
{
    struct mg_news_entry *copy = n->count < KEPT_MOST ? malloc(sizeof(*copy)) : NULL;

    if (!copy) {
        mg_log(MG_LOG_WARN, "the peer hooks are not told of this one: they are %d behind", KEPT_MOST);
        return;
    }
    *copy = *entry;
    if (n->last)
        n->last->next = copy;
    else
        n->first = copy;
    n->last = copy;
    n->count++;
    wake(n);
}

void mg_news_tell(struct mg_upstream *u, struct mg_peer *p, enum mg_news_kind kind, const char *format, ...)
{
    mg_slice name = mg_upstream_spec_of(u)->name;
    struct mg_news *n = mg_upstream_watch(u)->news;
    struct mg_news_entry e = { .upstream = u, .peer = p, .kind = kind };
    va_list args;

    va_start(args, format);
    vsnprintf(e.reason, sizeof(e.reason), format, args);
    va_end(args);
    if (p) {
        snprintf(p->view->why, sizeof(p->view->why), "%.*s", (int)sizeof(p->view->why) - 1, e.reason);
        mg_log(words[kind].level, "upstream %.*s: peer %.*s %s: %s", (int)name.len, name.ptr, (int)p->name.len,
               p->name.ptr, words[kind].text, e.reason);
    } else {
        mg_log(words[kind].level, "upstream %.*s %s: %s", (int)name.len, name.ptr, words[kind].text, e.reason);
    }
    if (n && n->wanted)
        keep(n, &e);
}

static void cancel(struct mg_wait *w)
{
    mg_timeout_clear(&MG_HOLDER(w, struct mg_news, wait)->soon);
}

int mg_news_wait(mg_generation *g, mg_task *t)
{
    g->news.wanted = true;
    if (g->news.first)
        return 0;
    return mg_task_wait(t, &g->news.wait, cancel);
}

bool mg_news_take(mg_generation *g, mg_news_item *out)
{
    struct mg_news *n = &g->news;

    free(n->taken);
    n->taken = n->first;
    if (!n->taken)
        return false;
    n->first = n->taken->next;
    if (!n->first)
        n->last = NULL;
    n->count--;
    *out = (mg_news_item){
        .upstream = n->taken->upstream,
        .peer = n->taken->peer,
        .kind = (int32_t)n->taken->kind,
        .reason = mg_slice_of(n->taken->reason),
    };
    return true;
}

void mg_news_free(struct mg_news *n)
{
    mg_timeout_clear(&n->soon);
    free(n->taken);
    while (n->first) {
        struct mg_news_entry *e = n->first;
        n->first = e->next;
        free(e);
    }
    *n = (struct mg_news){ 0 };
}
