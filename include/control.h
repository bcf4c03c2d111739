/* control.h - the control socket: a line of JSON in, a line of JSON out.
 *
 *   {"command":"status"}     what every worker has open
 *   {"command":"generations"}  the last generations, what became of them, and what is tried out
 *   {"command":"reload"}     load the script anew; what has changed, or {"error":"..."} and nothing has; with
 *                            "canary":"5%" it is tried out only, and "by" may be "client", "cookie:NAME", "header:NAME"
 *   {"command":"rollback"}   put the generation of before in force again, or end what is tried out; or {"error":"..."}
 *   {"command":"promote"}    what is tried out is in force; or the probation of the one in force is over
 *   {"command":"upgrade"}    another process, of the binary that is there by now, takes over; or {"error":"..."}
 *   {"command":"check"}      prepare the script anew; what a reload would change, or {"error":"..."}; nothing has
 *   {"command":"log-level"}  how much the error log says; with "level", as it is from now on
 *   {"command":"peers"}      the peers of all upstreams, or of "upstream"; with "action" ("add", "remove", "drain",
 *                            "undrain", "weight") and "peer", "weight", "zone" one is changed in all workers;
 *                            "reset" forgets what was added, removed and weighed
 *   {"command":"stop"}       quick stop      {"command":"drain"}   finish, then stop
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct ev_loop;

/* What a command returns when it is done at once. */
extern const char mg_control_done[];
/* The same, with an answer of its own. */
const char *mg_control_done_with(const char *json);

struct mg_control_command {
    const char *name; /* NULL ends a list */
    /* mg_control_done; NULL: mg_control_answer() or mg_control_refuse() follows, later; or why it can't be. */
    const char *(*run)(unsigned ticket);
    const char *const *takes; /* keys of strings that may stand beside its name, ended by NULL; NULL: none */
};
/* Such a string, while the command runs; NULL: not given. */
const char *mg_control_given(const char *key);

/* Listens at path, mode 0600, and takes these commands. on_left: somebody who was connected is not any more. NULL, or
 * what is wrong as a sentence. An inherited socket (-1: none) is taken; then nobody is answered before
 * mg_control_begin(), and the file is not ours. */
const char *mg_control_open(struct ev_loop *loop, const char *path, int inherited,
                            const struct mg_control_command *commands, void (*on_left)(void));
void mg_control_begin(void);
/* The listening descriptor; -1: none. */
int mg_control_descriptor(void);
/* Another process answers from now on. Who has asked already gets an answer still. */
void mg_control_hand_over(void);
/* How many are connected. */
unsigned mg_control_askers(void);
/* Nobody is there: nothing happens, also with a ticket of 0. */
void mg_control_answer(unsigned ticket, const char *json);
void mg_control_refuse(unsigned ticket, const char *why);
/* Closes and unlinks. */
void mg_control_close(void);
/* In a worker, after the fork: closes, and leaves the file. */
void mg_control_forget(void);
