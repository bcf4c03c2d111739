/* upgrade.h - another process, of the binary that lies at the same path by now, takes the place of this one.
 *
 * It is started beside this one with the listening sockets, the control socket and the shared memory, and this one
 * goes on until that one says that all its workers serve; whatever goes wrong until then changes nothing. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct ev_loop;

struct mg_upgrade_events {
    /* The new process serves: this one lets go of what both hold, and drains. */
    void (*on_successor)(pid_t pid);
    /* In the new one: the old one has let go, or is not there any more. */
    void (*on_alone)(void);
};

/* Once, before all others. In a process that was started by an upgrade it finds its way back. */
void mg_upgrade_start(struct ev_loop *loop, const struct mg_upgrade_events *events);
void mg_upgrade_end(void);
/* In a worker, after the fork. */
void mg_upgrade_forget(void);

/* Begins; the answer goes to mg_control_answer(), 0: nobody waits. NULL, or why it can't be now. */
const char *mg_upgrade_begin(unsigned ticket);
bool mg_upgrade_under_way(void);
/* This signal is for whoever serves in the end. */
void mg_upgrade_keep_signal(int number);
void mg_upgrade_give_up(const char *why);

/* In a process that was started by an upgrade, until it has said that it serves. */
bool mg_upgrade_is_awaited(void);
void mg_upgrade_tell_ready(void);
/* The text is for whoever asked for the upgrade. */
void mg_upgrade_tell_failed(const char *why);
