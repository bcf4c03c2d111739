/* channel.h - messages between the master and a worker, over a SOCK_SEQPACKET pair.
 *
 * The master binds and decides; a worker loads scripts and serves. Loading is
 * in two steps, so that it happens in all workers or in none: a worker says
 * READY or FAILED, and goes on only when the master says COMMIT. A worker that
 * was just started loads unasked; later it does so on PREPARE. */
#pragma once

#include "bind.h"

enum mg_word {
    MG_WORD_READY = 1, /* worker: struct mg_ready */
    MG_WORD_FAILED,    /* worker: why, as text for the user */
    MG_WORD_COMMIT,    /* master: descriptors, and for each the number of its bind in READY (uint32_t) */
    MG_WORD_IN_FORCE,  /* worker: it has done so */
    MG_WORD_PREPARE,   /* master: load the script anew, as the generation of this number (uint32_t) */
    MG_WORD_CANARY,    /* master: what was prepared is tried out (struct mg_canary_terms); IN_FORCE is the answer */
    MG_WORD_BACK,      /* master: the kept generation is in force again; body and descriptors as with COMMIT */
    MG_WORD_PROMOTE,   /* master: let the kept generation go */
    MG_WORD_ABANDON,   /* master: forget what was prepared, also what is tried out */
    MG_WORD_STATUS,    /* master asks; the worker answers with a JSON object */
    MG_WORD_DRAIN,     /* master: finish what is in progress, then end */
    MG_WORD_STOP,      /* master: end now */
    MG_WORD_REOPEN,    /* master: open the logs again */
    MG_WORD_PEERS,     /* master: an order (peers.h); the worker answers with a JSON object */
    MG_WORD_LEVEL,     /* master: how much the error log says (struct mg_level) */
};

enum { MG_LETTER_MOST = 192 * 1024 };

struct mg_level {
    int level;  /* enum mg_log_level */
    int stands; /* whatever the script says */
};

struct mg_ready {
    int workers;                   /* 0: as many as processors */
    int log_level;                 /* enum mg_log_level */
    char error_log[MG_WHERE_TEXT]; /* empty: standard error */
    double drain_timeout;          /* seconds; 0: for ever */
    double probation;              /* seconds that the one before is kept; 0: not at all */
    double probation_errors, probation_least;
    unsigned changes; /* bytes behind the binds: what moongate.changes says; 0: not known */
    unsigned files;   /* and behind those: moongate.files, with a zero byte; 0: not known */
    unsigned count;
    struct mg_bind binds[];
};

struct mg_letter {
    enum mg_word word;
    size_t len; /* of body */
    char *body; /* ended by a zero byte; the receiver's until the next receive */
    int fds[MG_BINDS_MOST];
    unsigned fd_count;
};

/* False with errno when the other side is gone or has no room. */
bool mg_channel_send(int channel, enum mg_word word, const void *body, size_t len, const int *fds, unsigned fd_count);
/* 1: a letter; 0: none now; -1: the other side is gone. */
int mg_channel_receive(int channel, struct mg_letter *l);
