/* control.h - the control socket: a line of JSON in, a line of JSON out.
 *
 *   {"command":"status"}   what every worker has open
 *   {"command":"reload"}   load the script anew; what has changed, or {"error":"..."} and nothing has
 *   {"command":"upgrade"}  another process, of the binary that is there by now, takes over; or {"error":"..."}
 *   {"command":"rollback"} put the generation of before in force again, while it is kept; or {"error":"..."}
 *   {"command":"promote"}  let it go: the one in force is final; or {"error":"..."}
 *   {"command":"stop"}     quick stop      {"command":"drain"}   finish, then stop
 *
 * Also the client's side: what `moongate status`, `reload`, `upgrade` and `stop` do. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct ev_loop;

/* What the master does for the socket. */
struct mg_control_events {
    /* Ask the workers; the answer goes, later, to mg_control_answer(). False: they are being asked already. */
    bool (*on_status)(unsigned ticket);
    /* The same, or why it can't be now. */
    const char *(*on_reload)(unsigned ticket);
    const char *(*on_upgrade)(unsigned ticket);
    const char *(*on_rollback)(unsigned ticket);
    /* At once. */
    const char *(*on_promote)(void);
    void (*on_stop)(bool drain);
    void (*on_left)(void); /* somebody who was connected is not any more */
};

/* Listens at path, mode 0600. NULL, or what is wrong as a sentence. An inherited socket (-1: none) is taken; then
 * nobody is answered before mg_control_begin(), and the file is not ours. */
const char *mg_control_open(struct ev_loop *loop, const char *path, int inherited,
                            const struct mg_control_events *events);
void mg_control_begin(void);
/* The listening descriptor; -1: none. */
int mg_control_descriptor(void);
/* Another process answers from now on. Who has asked already gets an answer still. */
void mg_control_hand_over(void);
/* How many are connected. */
unsigned mg_control_askers(void);
void mg_control_answer(unsigned ticket, const char *json);
/* Closes and unlinks. */
void mg_control_close(void);
/* In a worker, after the fork: closes, and leaves the file. */
void mg_control_forget(void);

/* Sends a command to a running moongate and prints what it answers. The exit status. */
int mg_control_ask(const char *path, const char *command, bool json);
