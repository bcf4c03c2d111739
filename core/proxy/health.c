/* health.c - which peers are healthy. */
#include "health.h"

#include "clock.h"
#include "news.h"
#include "text.h"

enum { LOAD_MOST = 32 /* digits of a load */ };

/* ---- Health. ---- */

static unsigned count_healthy(const struct mg_upstream *u, unsigned *all)
{
    unsigned healthy = 0;

    *all = 0;
    for (int i = 0, n = mg_upstream_count(u); i < n; i++) {
        const mg_peer_view *view = mg_upstream_peer(u, i)->view;
        *all += !view->draining;
        healthy += !view->draining && view->healthy;
    }
    return healthy;
}

static void look_for_panic(struct mg_upstream *u)
{
    bool panics;
    unsigned all, healthy;

    if (!mg_upstream_panic_changed(u, &panics))
        return;
    healthy = count_healthy(u, &all);
    mg_news_tell(u, NULL, panics ? MG_NEWS_PANIC : MG_NEWS_CALM, "%u of %u peers are healthy", healthy, all);
}

static bool should_be_healthy(const struct mg_peer *p)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !p->view->down && !p->view->ejected;
}

/* Another worker may change the other flag meanwhile: whoever comes last looks once more. */
void mg_health_settle(struct mg_peer *p)
{
    bool healthy;

    do {
        healthy = should_be_healthy(p);
        mg_peer_set_healthy(p, healthy);
    } while (healthy != should_be_healthy(p));
    look_for_panic(p->upstream);
}

static void set_down(struct mg_peer *p, bool down)
{
    p->health->passed = p->health->missed = 0;
    if (__atomic_exchange_n(&p->view->down, (uint8_t)down, __ATOMIC_ACQ_REL) != (uint8_t)down)
        mg_health_settle(p);
}

void mg_peer_checked(mg_peer *p, bool passed, const char *why, uint32_t len)
{
    const mg_upstream_spec *spec = mg_upstream_spec_of(p->upstream);
    struct mg_peer_health *h = p->health;

    p->view->checked = mg_clock_now();
    if (passed) {
        h->missed = 0;
        if (!p->view->down || ++h->passed < spec->rise)
            return;
        mg_news_tell(p->upstream, p, MG_NEWS_HEALTHY, "%u checks in a row have passed", h->passed);
        set_down(p, false);
    } else {
        h->passed = 0;
        if (p->view->down || ++h->missed < spec->fall)
            return;
        mg_news_tell(p->upstream, p, MG_NEWS_UNHEALTHY, "%u checks in a row have failed, the last: %.*s", h->missed,
                     (int)len, why);
        set_down(p, true);
    }
}

/* What nobody looks at any more, as the script has changed, must not count for ever. */
void mg_upstream_begin(mg_upstream *u)
{
    const mg_upstream_spec *spec = mg_upstream_spec_of(u);

    for (int i = 0, n = mg_upstream_count(u); i < n; i++) {
        struct mg_peer *p = mg_upstream_peer(u, i);
        if (!spec->fall)
            set_down(p, false);
        if (!spec->eject.on && __atomic_exchange_n(&p->view->ejected, 0, __ATOMIC_ACQ_REL))
            mg_health_settle(p);
    }
}

/* ---- What peers say of themselves. ---- */

/* A number as people write it: digits, perhaps a point and digits. False for anything else. */
static bool read_load(mg_slice text, double *out)
{
    double value = 0, unit = 1;
    bool fraction = false, any = false;

    if (!text.len || text.len > LOAD_MOST)
        return false;
    for (uint32_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '.' && !fraction) {
            fraction = true;
        } else if (c >= '0' && c <= '9') {
            any = true;
            unit = fraction ? unit / 10 : unit;
            value = fraction ? value + (c - '0') * unit : value * 10 + (c - '0');
        } else {
            return false;
        }
    }
    *out = value;
    return any;
}

void mg_peer_set_load(mg_peer *p, double load)
{
    double now = mg_clock_now();

    __atomic_store(&p->view->load, &load, __ATOMIC_RELAXED);
    __atomic_store(&p->view->loaded, &now, __ATOMIC_RELAXED);
}

static void note_load(struct mg_peer *p, const struct mg_message *answer)
{
    mg_slice name = mg_upstream_spec_of(p->upstream)->load_header, value;
    double load;

    if (name.len && mg_message_get(answer, name, &value) == MG_OK && read_load(mg_text_trim(value), &load))
        mg_peer_set_load(p, load);
}

bool mg_health_see(struct mg_peer *p, const struct mg_message *answer)
{
    const mg_upstream_spec *spec = mg_upstream_spec_of(p->upstream);

    note_load(p, answer);
    if (!spec->eject.on && !spec->breaker.on)
        return false;
    for (unsigned i = 0; i < spec->error_status_count; i++)
        if (spec->error_status[i] == answer->status)
            return true;
    return false;
}
