/* services.h - what a generation's settings settle for the whole worker: logs, the resolver, the budget's clock. */
#pragma once

#include "channel.h"
#include "generation.h"
#include "log.h"
#include "worker.h"

struct ev_loop;

/* Once, before all others; `options` must live as long. */
void mg_services_start(struct ev_loop *loop, const struct mg_worker_options *options);
/* As the first generation says, some of it for good. NULL, or what is wrong. */
const char *mg_services_open(const mg_settings *s);
/* Another generation is in force, instead of the one of `before`. */
void mg_services_take(const mg_settings *s, const mg_settings *before);
void mg_services_close(void);

/* How much the error log should say. */
enum mg_log_level mg_services_level(const mg_settings *s);
void mg_services_tell_level(const struct mg_level *l);
