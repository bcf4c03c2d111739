/* reload.c - the script is loaded anew in all workers, or in none. */
#include "reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "declared.h"
#include "level.h"
#include "log.h"
#include "notify.h"
#include "probation.h"
#include "tally.h"

static const double PREPARE_PATIENCE = 60.0; /* for one worker's init hooks */

static struct {
    struct ev_loop *loop;
    bool active, committed;
    bool again;      /* it was asked for meanwhile */
    unsigned ticket; /* of the control socket's question; 0: nobody waits */
    double began;
    bool back;                    /* it takes back the one before */
    bool check;                   /* all but the last step, which changes something */
    struct mg_canary_terms terms; /* a share above 0: it is tried out */
    char why[512];
    struct mg_ready *ready;  /* what the first worker said that was ready */
    ev_timer soon, patience; /* soon: to begin, from the loop */
} r;

/* ---- How it ends. ---- */

static void begin(unsigned ticket, bool check)
{
    mg_tally_clear(mg_declared_next());
    r.active = true;
    r.check = check;
    r.ticket = ticket;
    r.began = ev_now(r.loop);
    if (!check)
        mg_notify_reloading();
    ev_timer_set(&r.soon, 0, 0);
    ev_timer_start(r.loop, &r.soon);
}

/* `reply` is mg_control_answer or mg_control_refuse. */
static void end(void (*reply)(unsigned ticket, const char *text), const char *text)
{
    unsigned ticket = r.ticket;
    bool again = r.again;

    ev_timer_stop(r.loop, &r.soon);
    ev_timer_stop(r.loop, &r.patience);
    free(r.ready);
    r.ready = NULL;
    if (!r.check)
        mg_notify_ready("Generation %u serves in %u workers", mg_declared_generation(), mg_children_serving());
    r.active = r.committed = r.again = r.back = r.check = false;
    r.terms.share = 0;
    r.ticket = 0;
    reply(ticket, text);
    if (again)
        begin(0, false);
}

static void log_lines(enum mg_log_level level, const char *what, const char *text)
{
    char line[2048];
    size_t n = 0;

    for (; *text && n < sizeof(line) - 3; text++) {
        line[n++] = *text == '\n' ? ';' : *text;
        if (*text == '\n')
            line[n++] = ' ';
    }
    line[n] = '\0';
    mg_log(level, "%s: %s", what, line);
}

/* What has been prepared is of no use. */
static void abandon(void)
{
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++) {
        struct mg_child *c = &mg_children.all[i];
        if (c->pid && c->serves && (c->prepares || c->ready))
            mg_channel_send(c->channel, MG_WORD_ABANDON, NULL, 0, NULL, 0);
        c->prepares = false;
        if (c->serves) {
            free(c->ready);
            c->ready = NULL;
        }
    }
}

void mg_reload_give_up(const char *why)
{
    if (!r.active || r.committed)
        return;
    abandon();
    if (r.check) {
        log_lines(MG_LOG_INFO, "check: a reload would fail", why);
    } else {
        log_lines(MG_LOG_ERROR, "reload: nothing has changed", why);
        mg_declared_watch(true);
    }
    end(mg_control_refuse, why);
}

static void on_patience(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    mg_reload_give_up("a worker's init hooks have not ended within 60 seconds");
}

/* What has changed, or would, as a line to read and as members of a JSON object. */
static void tell(void)
{
    static char answer[MG_LETTER_MOST + 256];
    const char *text = mg_declared_changes(r.ready);
    const char *members = text ? text + strlen(text) + 1 : NULL;
    unsigned number = r.check ? mg_declared_next() : mg_declared_generation();
    unsigned serving = mg_children_serving();
    double took = ev_now(r.loop) - r.began;
    char what[256], terms[MG_CANARY_NAME_MOST + 96];
    const char *state = r.check ? "would be ready" : "is in force";

    if (!text)
        text = "what has changed is not known, since worker 0 was not there";
    if (r.terms.share > 0) {
        number = mg_declared_canary();
        size_t n = (size_t)snprintf(terms, sizeof(terms), "is tried out with ");
        mg_canary_print(&r.terms, terms + n, sizeof(terms) - n);
        state = terms;
    }
    snprintf(what, sizeof(what), "generation %u %s in %u worker%s after %.0f ms", number, state, serving,
             serving == 1 ? "" : "s", took * 1000);
    log_lines(MG_LOG_INFO, what, text);
    size_t n = (size_t)snprintf(answer, sizeof(answer),
                                "{\"generation\":%u,\"workers\":%u,\"seconds\":%.4f,\"summary\":\"%s\",", number,
                                serving, took, what);
    if (members)
        snprintf(answer + n, sizeof(answer) - n, "%s}", members);
    else
        snprintf(answer + n, sizeof(answer) - n, "\"text\":\"%s\"}", text);
    end(mg_control_answer, answer);
}

static void tell_back(void)
{
    static char answer[1024];
    unsigned serving = mg_children_serving();

    mg_log(MG_LOG_WARN, "generation %u is in force again in %u worker%s: %s", mg_declared_generation(), serving,
           serving == 1 ? "" : "s", r.why);
    snprintf(answer, sizeof(answer),
             "{\"generation\":%u,\"workers\":%u,\"seconds\":%.4f,\"summary\":\"generation %u is in force again in %u "
             "worker%s\"}",
             mg_declared_generation(), serving, ev_now(r.loop) - r.began, mg_declared_generation(), serving,
             serving == 1 ? "" : "s");
    end(mg_control_answer, answer);
}

static void tell_if_all_committed(void)
{
    if (!r.active || !r.committed)
        return;
    for (unsigned i = 0; i < mg_children.count; i++)
        if (mg_children.all[i].pid && mg_children.all[i].commits)
            return;
    if (r.back)
        tell_back();
    else
        tell();
}

/* ---- Its way. ---- */

/* All workers load the same files, but somebody may write them in between. */
static bool all_declare_the_same(void)
{
    for (unsigned i = 0; i < mg_children.count; i++) {
        const struct mg_ready *other = mg_children.all[i].ready;
        if (!other)
            continue;
        if (other->count != r.ready->count)
            return false;
        for (unsigned n = 0; n < other->count; n++)
            if (!mg_address_equal(&other->binds[n].address, &r.ready->binds[n].address))
                return false;
    }
    return true;
}

static void commit(void)
{
    const char *why;
    unsigned before = mg_declared_generation();

    if (!mg_declared_take(r.ready, &why)) {
        mg_reload_give_up(why);
        return;
    }
    ev_timer_stop(r.loop, &r.patience);
    r.committed = true;
    mg_level_follow();
    mg_probation_begin(before, mg_declared_generation(), r.ready);
    for (unsigned i = 0; i < mg_children.count; i++)
        if (mg_children.all[i].pid && mg_children.all[i].ready)
            mg_child_commit(&mg_children.all[i]);
    mg_children_recount();
    tell_if_all_committed();
}

static void begin_canary(void)
{
    const char *why;

    if (!mg_declared_try(r.ready, &why) || !mg_declared_begin_canary(r.ready, &r.terms, &why)) {
        mg_reload_give_up(why);
        return;
    }
    ev_timer_stop(r.loop, &r.patience);
    r.committed = true;
    mg_probation_try_out(mg_declared_canary(), r.ready);
    for (unsigned i = 0; i < mg_children.count; i++)
        if (mg_children.all[i].pid && mg_children.all[i].ready)
            mg_child_try_out(&mg_children.all[i], &r.terms);
    tell_if_all_committed();
}

static void end_check(void)
{
    const char *why;

    if (!mg_declared_try(r.ready, &why)) {
        mg_reload_give_up(why);
        return;
    }
    abandon();
    tell();
}

static void on_all_prepared(void)
{
    if (!r.ready)
        mg_reload_give_up("no worker runs; the log says why");
    else if (!all_declare_the_same())
        mg_reload_give_up("the script was edited while the workers loaded it; reload once more");
    else if (r.check)
        end_check();
    else if (r.terms.share > 0)
        begin_canary();
    else
        commit();
}

static void ask_to_prepare(struct mg_child *c)
{
    uint32_t number = mg_declared_next();

    c->prepares = true;
    ev_timer_stop(r.loop, &r.patience);
    ev_timer_set(&r.patience, PREPARE_PATIENCE, 0);
    ev_timer_start(r.loop, &r.patience);
    if (!mg_channel_send(c->channel, MG_WORD_PREPARE, &number, sizeof(number), NULL, 0))
        mg_reload_give_up("a worker can't be asked to prepare");
}

/* The next worker in turn; when all are ready, commit. One that is just being started is waited for. */
static void go_on(void)
{
    if (!r.active || r.committed)
        return;
    for (unsigned i = 0; i < mg_children.count; i++) {
        struct mg_child *c = &mg_children.all[i];
        if (!c->pid || (c->serves && c->ready))
            continue;
        if (c->serves && !c->prepares)
            ask_to_prepare(c);
        return;
    }
    on_all_prepared();
}

static void on_soon(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop;
    (void)t;
    (void)events;
    tell_if_all_committed();
    go_on();
}

/* ---- And back. ---- */

const char *mg_reload_back(unsigned ticket, const char *why)
{
    const char *why_not;

    if (r.active)
        return "a reload is under way; ask again when it has ended";
    if (!mg_declared_go_back(&why_not)) {
        mg_log(MG_LOG_ERROR, "rollback: nothing has changed: %s", why_not);
        mg_probation_promote();
        return why_not;
    }
    snprintf(r.why, sizeof(r.why), "%s", why);
    mg_probation_taken_back(mg_declared_generation(), why);
    mg_level_follow();
    begin(ticket, false);
    r.committed = r.back = true;
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid && !mg_children.all[i].leaves)
            mg_child_put_in_force(&mg_children.all[i], MG_WORD_BACK);
    mg_children_recount();
    return NULL;
}

/* ---- What is tried out. ---- */

const char *mg_reload_promote(unsigned ticket)
{
    unsigned before = mg_declared_generation();
    const char *why;

    if (r.active)
        return "a reload is under way; ask again when it has ended";
    if (!mg_declared_take_canary(&why))
        return why;
    begin(ticket, false);
    r.committed = true;
    r.ready = mg_declared_copy(mg_declared_now());
    mg_level_follow();
    mg_probation_begin(before, mg_declared_generation(), mg_declared_now());
    for (unsigned i = 0; i < MG_WORKERS_MAX; i++)
        if (mg_children.all[i].pid && !mg_children.all[i].leaves)
            mg_child_put_in_force(&mg_children.all[i], MG_WORD_COMMIT);
    mg_children_recount();
    return NULL;
}

const char *mg_reload_end_canary(const char *why)
{
    static char answer[256];
    unsigned canary = mg_declared_canary();

    if (r.active)
        return "a reload is under way; ask again when it has ended";
    mg_declared_forget_canary();
    mg_probation_end_canary(why);
    mg_children_tell(MG_WORD_ABANDON);
    mg_log(MG_LOG_WARN, "generation %u is tried out no more, and generation %u serves all: %s", canary,
           mg_declared_generation(), why);
    snprintf(answer, sizeof(answer),
             "{\"generation\":%u,\"summary\":\"generation %u is tried out no more, and generation %u serves all\"}",
             mg_declared_generation(), canary, mg_declared_generation());
    return mg_control_done_with(answer);
}

/* ---- News. ---- */

void mg_reload_on_prepared(struct mg_child *c)
{
    c->prepares = false;
    if (!r.ready)
        r.ready = mg_declared_copy(c->ready);
    go_on();
}

void mg_reload_on_in_force(void)
{
    tell_if_all_committed();
    go_on();
}

/* What it was told to put in force, the next one will load. */
void mg_reload_on_end(const struct mg_child *c, const struct mg_child_end *e)
{
    char why[160];

    if (e->prepared) {
        snprintf(why, sizeof(why), "worker %d died while it was preparing: %s", c->number, e->how);
        mg_reload_give_up(why);
    }
    tell_if_all_committed();
    go_on();
}

/* ---- Who asks for it. ---- */

bool mg_reload_is_under_way(void)
{
    return r.active;
}

static const char *ask(unsigned ticket, bool check)
{
    if (mg_declared_canary())
        return "a generation is tried out; promote it or roll it back first";
    if (r.active)
        return r.check ? "a check is under way; ask again when it has ended"
                       : "another reload is under way; ask again when it has ended";
    begin(ticket, check);
    return NULL;
}

const char *mg_reload_asked(unsigned ticket)
{
    return ask(ticket, false);
}

const char *mg_reload_try_out(unsigned ticket, const struct mg_canary_terms *t)
{
    const char *why = ask(ticket, false);

    if (!why)
        r.terms = *t;
    return why;
}

const char *mg_reload_check(unsigned ticket)
{
    return ask(ticket, true);
}

void mg_reload_unasked(void)
{
    if (r.active && r.terms.share <= 0)
        r.again = true;
    else if (r.active || mg_declared_canary())
        mg_log(MG_LOG_WARN, "nothing is reloaded while a generation is tried out; promote it or roll it back first");
    else
        begin(0, false);
}

void mg_reload_no_more(void)
{
    r.again = false;
    mg_reload_give_up("moongate is told to stop");
}

void mg_reload_start(struct ev_loop *loop)
{
    r.loop = loop;
    ev_init(&r.soon, on_soon);
    ev_init(&r.patience, on_patience);
}

void mg_reload_end(void)
{
    free(r.ready);
    r.ready = NULL;
}
