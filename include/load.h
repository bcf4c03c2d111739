/* load.h - how a script gets into a VM of its own: piece by piece, so that the worker serves meanwhile. */
#pragma once

#include "budget.h"
#include "generation.h"
#include "sources.h"

struct lua_State;

/* What is found out of a generation while it is loaded. */
struct mg_load_wants {
    const char *before;               /* the outline of the one in force: what has changed since? NULL: nobody asks */
    bool outline;                     /* for the next one to be compared with */
    bool files;                       /* that it was made of */
    const struct mg_sources *sources; /* instead of what lies on the disk by now; NULL: that */
};

struct mg_load {
    struct mg_generation *generation;
    struct lua_State *L, *co; /* co: what the stage runs in */
    const char *script;
    const struct mg_sources *sources;
    struct mg_budget_load budget;
    int stage;
    bool outline, changes, files; /* are wanted */
};

/* Puts the runtime into the fresh VM L, and leaves its step and its works on the stack. 0, or the text of the error is
 * there. L, g and script must live as long as the load. */
int mg_load_begin(struct mg_load *l, struct lua_State *L, struct mg_generation *g, const char *script,
                  const struct mg_load_wants *wants);
/* Goes on for a slice of time (budget.h). MG_OK: the script has run, has been found good, and what was wanted is in
 * the generation; MG_BUSY: more is to be done; MG_MALFORMED: the text for the user is on top of L's stack; MG_GONE: it
 * took longer than load_budget and did not stop when it was asked to, so that only L's memory may be freed. */
enum mg_status MG_MUST_CHECK mg_load_go_on(struct mg_load *l);
