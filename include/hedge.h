/* hedge.h - a second try beside one that takes long: the first head wins. */
#pragma once

#include "exchange.h"

struct mg_hedge {
    struct mg_exchange *exchange;
    /* The response's head has come, for who takes its stream and its peer over: mg_hedge_let_go(). */
    void (*won)(struct mg_hedge *h, const struct mg_message *m, bool last);
    struct mg_peer *other;  /* chosen and not begun; NULL: none */
    double after;           /* seconds */
    struct mg_alarm *alarm; /* until it is due */
    bool due;
    bool asking;              /* the attempt hooks are at work for it */
    bool sent;                /* the request went out */
    struct mg_peer *peer;     /* counted as in flight; NULL: it is not under way */
    struct mg_dial dial;      /* to it */
    struct mg_stream *stream; /* or from it */
    struct mg_message head;
    struct mg_timeout total; /* as of a try */
    double began;
};

/* A balance hook's choice, behind that of a peer; MG_ABSENT if this one may not be picked. */
enum mg_status mg_hedge_choose(struct mg_exchange *x, struct mg_peer *other, double after);
/* The try beside which it may stand has begun. */
void mg_hedge_arm(struct mg_hedge *h);
/* Goes on with it, as far as that is possible. True: its attempt hooks wait. They may have answered, or thrown. */
bool mg_hedge_run(struct mg_hedge *h);
static inline bool mg_hedge_is_under_way(const struct mg_hedge *h)
{
    return h->peer != NULL;
}
/* The peer of one that has not begun, which will not begin any more; NULL. */
struct mg_peer *mg_hedge_take(struct mg_hedge *h);
/* Its stream and its peer are somebody else's now. */
void mg_hedge_let_go(struct mg_hedge *h);
/* Ends it, wherever it is: its stream is reset, and its peer counted off, not as failed. */
void mg_hedge_end(struct mg_hedge *h);
