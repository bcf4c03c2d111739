/* services.c - what a generation's settings settle for the whole worker: logs, the resolver, the budget's clock. */
#include "services.h"

#include <stdio.h>

#include "access.h"
#include "budget.h"
#include "folder.h"
#include "resolve.h"
#include "sink.h"
#include "text.h"

static const struct mg_worker_options *options;
static struct ev_loop *loop;
static bool level_stands, resolving; /* the level of the error log: whatever the script says */

void mg_services_start(struct ev_loop *on, const struct mg_worker_options *given)
{
    loop = on;
    options = given;
    level_stands = given->log_level_stands;
    mg_folder_start(on);
}

static void open_error_log(const mg_settings *s)
{
    char path[MG_WHERE_TEXT];

    if (options->error_log_given)
        return;
    snprintf(path, sizeof(path), "%.*s", (int)s->error_log.len, s->error_log.ptr);
    (void)mg_log_open(mg_text_equal(s->error_log, MG_LIT("stderr")) ? NULL : path); /* the master says what is wrong */
}

enum mg_log_level mg_services_level(const mg_settings *s)
{
    enum mg_log_level level = MG_LOG_INFO;

    (void)mg_log_level_named(s->log_level, &level); /* the script's words were checked */
    return level;
}

static void take_level(const mg_settings *s)
{
    if (!level_stands)
        mg_log_level = mg_services_level(s);
}

void mg_services_tell_level(const struct mg_level *l)
{
    level_stands = l->stands;
    mg_log_level = (enum mg_log_level)l->level;
}

const char *mg_services_open(const mg_settings *s)
{
    static char servers[256];

    open_error_log(s);
    snprintf(servers, sizeof(servers), "%.*s", (int)s->resolver.len, s->resolver.len ? s->resolver.ptr : "");
    take_level(s);
    if (!mg_resolve_start(loop, s->resolver.len ? servers : NULL))
        return "the resolver can't be started; look at gate.set{ resolver = ... } and /etc/resolv.conf";
    resolving = true;
    if (!mg_budget_start(s->cpu_budget))
        return "the CPU clock for cpu_budget can't be started";
    return mg_access_open(s);
}

static bool is_same_log(const mg_settings *a, const mg_settings *b)
{
    return mg_text_equal(a->access_log, b->access_log) && mg_text_equal(a->log_format, b->log_format) &&
           mg_text_equal(a->log_fields, b->log_fields) && a->log_flush == b->log_flush;
}

void mg_services_take(const mg_settings *s, const mg_settings *before)
{
    const char *problem = NULL;

    if (!mg_text_equal(s->error_log, before->error_log))
        open_error_log(s);
    take_level(s);
    (void)mg_budget_start(s->cpu_budget);
    if (!is_same_log(s, before)) {
        mg_sink_close();
        problem = mg_access_open(s);
    }
    if (problem)
        mg_log(MG_LOG_ERROR, "%s; no access log is written", problem);
    if (!mg_text_equal(s->resolver, before->resolver) || s->shared_size != before->shared_size)
        mg_log(MG_LOG_WARN, "gate.set: resolver and shared_size count from the next start on");
}

void mg_services_close(void)
{
    mg_sink_close();
    mg_folder_stop();
    if (resolving)
        mg_resolve_stop();
}
