/* children.h - the workers as the master holds them: started, spoken to, counted, replaced. */
#pragma once

#include <ev.h>

#include "canary.h"
#include "channel.h"
#include "master.h"
#include "shared.h"

/* Seconds beyond drain_timeout until one that does not end by itself is killed. */
enum { MG_STOP_PATIENCE = 3 };

struct mg_child {
    int number;
    pid_t pid;     /* 0: not running */
    unsigned slot; /* in what is shared, while it runs */
    int channel;
    ev_io io;
    ev_child watch;
    ev_timer again;         /* when it is started anew; of one that leaves: when it is killed */
    double delay;           /* how long until it is started anew; below 0: at once */
    double in_force;        /* since when it has served; 0: not yet */
    char *report;           /* the last status */
    struct mg_ready *ready; /* what it declared, until it is told to begin */
    bool reported, told;    /* told: why it ends has been said */
    bool serves;            /* it has a generation in force */
    bool prepares;          /* it was asked to, and has not answered */
    bool commits;           /* it was told to, and has not answered */
    bool leaves;            /* there are fewer workers now */
};

struct mg_child_end {
    pid_t pid;
    int status;      /* of waitpid */
    const char *how; /* the same as words */
    bool left;       /* it was sent away */
    bool prepared;   /* or was about to: a reload has lost what it counted on */
};

struct mg_children_events {
    void (*on_letter)(struct mg_child *c, const struct mg_letter *l);
    /* c runs no more; it may be started again. */
    void (*on_end)(struct mg_child *c, const struct mg_child_end *end);
    void (*on_not_started)(struct mg_child *c);
    /* In the new process: all that is the master's is let go. */
    void (*on_forked)(void);
};

struct mg_children {
    struct mg_child all[MG_WORKERS_MAX];
    unsigned count;        /* how many there should be; behind them, those that leave */
    bool log_level_stands; /* in those that are started, whatever the script says */
};
extern struct mg_children mg_children;

/* Once, before all others. */
void mg_children_start(struct ev_loop *loop, const struct mg_master_options *options,
                       const struct mg_children_events *events);
/* Frees what is known of them. */
void mg_children_end(void);
/* To all that run. */
void mg_children_tell(enum mg_word word);
void mg_children_tell_with(enum mg_word word, const void *body, size_t len);
void mg_children_kill(void);
unsigned mg_children_alive(void);
/* Those that have a generation in force. */
unsigned mg_children_serving(void);
/* As many as the script in force says: more are started, or some drain and leave. */
void mg_children_recount(void);
/* Nobody is started any more. */
void mg_children_start_no_more(void);

/* The worker of this slot has ended: what it had in flight and what it led is nobody's, and the slot is free. */
void mg_child_forget_slot(unsigned slot);

void mg_child_start(struct mg_child *c);
/* With a delay that grows. */
void mg_child_start_later(struct mg_child *c);
/* It has died: at once if it has served, or for the first time; later if it dies again and again before it has. */
void mg_child_replace(struct mg_child *c);
/* One that has left: it is started if it is wanted again by now. */
void mg_child_return(struct mg_child *c);
/* What it has declared is in force in it from now on. */
void mg_child_commit(struct mg_child *c);
/* What it has beside the one in force is in force in it: MG_WORD_BACK what is kept, MG_WORD_COMMIT what is tried out.
 * One that has not begun yet is replaced. */
void mg_child_put_in_force(struct mg_child *c, enum mg_word word);
/* What it has prepared is tried out. */
void mg_child_try_out(struct mg_child *c, const struct mg_canary_terms *t);
/* And it says that it is. */
void mg_child_on_in_force(struct mg_child *c);
/* Is it so in all that there should be? */
bool mg_children_all_in_force(void);
