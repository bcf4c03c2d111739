/* declared.h - what the script in force declares for the master: where it listens, its log, how many workers. */
#pragma once

#include "canary.h"
#include "channel.h"
#include "master.h"
#include "sources.h"

/* Once, before all others; `options` must live as long. */
void mg_declared_start(const struct mg_master_options *options);
void mg_declared_end(void);

/* What a worker's READY says, the caller's to free; NULL: it is not whole, or there is no memory. */
struct mg_ready *mg_declared_read(const struct mg_letter *l);
/* The caller's to free; NULL without memory. */
struct mg_ready *mg_declared_copy(const struct mg_ready *r);
/* What moongate.changes says: lines to read, and behind their zero byte the members of a JSON object. NULL: not known.
 * It is r's. */
const char *mg_declared_changes(const struct mg_ready *r);

/* A copy of r is in force from now on: its sockets are bound, those of before closed, its log is open. All of it, or
 * nothing has changed and *why says what is wrong. */
bool mg_declared_take(const struct mg_ready *r, const char **why);
/* Could it be? All that it listens on can be bound, or *why says what is wrong; nothing has changed. */
bool mg_declared_try(const struct mg_ready *r, const char **why);
/* The one of before is in force again. The same. */
bool mg_declared_go_back(const char **why);
/* A copy of r is tried out from now on by these terms; nothing of it is bound. */
bool mg_declared_begin_canary(const struct mg_ready *r, const struct mg_canary_terms *t, const char **why);
/* It is in force: as mg_declared_take(). */
bool mg_declared_take_canary(const char **why);
void mg_declared_forget_canary(void);
/* Its number; 0: none is tried out. */
unsigned mg_declared_canary(void);
const struct mg_canary_terms *mg_declared_terms(void);
/* The number of the one that workers have beside the one in force, kept or tried out, and its files' texts; 0: none. */
unsigned mg_declared_beside(const struct mg_sources **sources);
/* It will not be in force again. */
void mg_declared_forget_former(void);
/* The texts to load the one in force from; NULL: it is on the disk. */
const struct mg_sources *mg_declared_sources(void);
/* NULL before the first. */
const struct mg_ready *mg_declared_now(void);
/* The number of the generation in force; 1 before it is. */
unsigned mg_declared_generation(void);
/* And what the next one is called. */
unsigned mg_declared_next(void);
/* How many workers there should be. */
unsigned mg_declared_workers(void);
/* Its files are watched; with `broadly`, after a failure, any Lua file beside them: the mend may be in a new one. */
void mg_declared_watch(bool broadly);
