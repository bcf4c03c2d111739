/* hook.h - the functions of a script that may be found at work, by number, and the policies that they are of.
 *
 * A number is all that Lua notes when it calls one (mg_lua_counts.hook): when a
 * VM must be left in the middle of it, nothing of Lua can be read any more.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "slice.h"

enum { MG_TRIPS_MOST = 64, MG_HOOK_NAME = 64 };

/* What a policy has overrun: its budget of CPU or of memory. */
struct mg_hook_policy {
    char name[MG_HOOK_NAME];
    int on_fail; /* enum mg_on_fail of seam.h */
    bool out;    /* it has done so too often, and is not run any more */
    unsigned trips;
    double recent[MG_TRIPS_MOST]; /* when, as mg_clock_now(); a ring */
};

struct mg_hook {
    char *who; /* of malloc: "access of policy auth (gateway.lua:12)" */
    int policy;
    bool told; /* that it has held the worker */
};

/* Both by number, from 1. */
struct mg_hooks {
    struct mg_hook *list;
    unsigned count, room;
    struct mg_hook_policy *policies, *before; /* before: of the VM in whose place this one comes */
    unsigned policy_count, policy_room, before_count;
};

/* Their numbers; 0 without memory. */
int mg_hooks_add(struct mg_hooks *h, mg_slice who, int policy);
int mg_hooks_add_policy(struct mg_hooks *h, mg_slice name, int on_fail);
void mg_hooks_free(struct mg_hooks *h);

/* It has held the worker: true if that was not told yet. */
bool mg_hooks_tell(struct mg_hooks *h, int hook);
/* Whose hook this is, in words. */
const char *mg_hooks_who(const struct mg_hooks *h, int hook);
/* The hook has overrun. NULL, or its policy, if that is taken out now: it was the last of `most` within so many
 * seconds, and the policy has an on_fail. */
const struct mg_hook_policy *mg_hooks_trip(struct mg_hooks *h, int hook, unsigned most, double seconds);
bool mg_hooks_is_out(const struct mg_hooks *h, int policy);
/* The same script is loaded anew in `to`, as a VM was lost: its policies begin with what they have overrun so far. */
void mg_hooks_inherit(struct mg_hooks *to, const struct mg_hooks *from);
/* Policies that have overrun, as elements of a JSON list; how many bytes. As many as there is room for. */
size_t mg_hooks_report(const struct mg_hooks *h, char *to, size_t size);
