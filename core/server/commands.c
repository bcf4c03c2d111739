/* commands.c - what the control socket may ask of the master. */
#include "commands.h"

#include "control.h"
#include "declared.h"
#include "level.h"
#include "peers_command.h"
#include "probation.h"
#include "reload.h"
#include "status_report.h"

static const struct mg_commands_events *events;

static const char *on_reload(unsigned ticket)
{
    const char *why = events->why_no_change(), *share = mg_control_given("canary"), *by = mg_control_given("by");
    struct mg_canary_terms terms;

    if (why)
        return why;
    if (!share)
        return by ? "\"by\" needs a share: \"canary\":\"5%\"" : mg_reload_asked(ticket);
    why = mg_canary_read(&terms, share, by);
    return why ? why : mg_reload_try_out(ticket, &terms);
}

static const char *on_check(unsigned ticket)
{
    const char *why = events->why_no_change();

    return why ? why : mg_reload_check(ticket);
}

static const char *on_rollback(unsigned ticket)
{
    const char *why = events->why_no_change();

    if (why)
        return why;
    if (mg_declared_canary())
        return mg_reload_end_canary("it was asked for");
    if (!mg_probation_is_on())
        return "no generation is on probation: there is none that could be put in force again";
    return mg_reload_back(ticket, "it was asked for");
}

static const char *on_promote(unsigned ticket)
{
    const char *why = events->why_no_change();

    if (mg_declared_canary())
        return why ? why : mg_reload_promote(ticket);
    return mg_probation_promote() ? mg_control_done : "no generation is on probation: the one in force is final";
}

void mg_commands_on_worse(const char *why)
{
    if (events->why_no_change() || mg_reload_is_under_way())
        return;
    if (mg_declared_canary())
        (void)mg_reload_end_canary(why);
    else
        (void)mg_reload_back(0, why);
}

static const char *on_upgrade(unsigned ticket)
{
    return events->upgrade(ticket);
}

static const char *on_drain(unsigned ticket)
{
    (void)ticket;
    events->stop(true);
    return mg_control_done;
}

static const char *on_stop(unsigned ticket)
{
    (void)ticket;
    events->stop(false);
    return mg_control_done;
}

static const char *const peers_takes[] = { "action", "upstream", "peer", "weight", "zone", NULL };
static const char *const reload_takes[] = { "canary", "by", NULL }, *const level_takes[] = { "level", NULL };

static const struct mg_control_command commands[] = {
    { "status", mg_status_ask, NULL },
    { "generations", mg_status_ask_generations, NULL },
    { "reload", on_reload, reload_takes },
    { "check", on_check, NULL },
    { "rollback", on_rollback, NULL },
    { "promote", on_promote, NULL },
    { "upgrade", on_upgrade, NULL },
    { "peers", mg_peers_ask, peers_takes },
    { "drain", on_drain, NULL },
    { "log-level", mg_level_ask, level_takes },
    { "stop", on_stop, NULL },
    { NULL, NULL, NULL },
};

const struct mg_control_command *mg_commands(const struct mg_commands_events *given)
{
    events = given;
    return commands;
}
