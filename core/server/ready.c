/* ready.c - what a worker tells the master of a generation that it has prepared. */
#include "ready.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "services.h"

static void describe_bind(struct mg_bind *b, const struct mg_listen *l)
{
    b->address = l->address;
    b->backlog = l->backlog;
    snprintf(b->text, sizeof(b->text), "%.*s", (int)l->text.len, l->text.ptr);
    snprintf(b->where, sizeof(b->where), "%.*s", (int)l->where.len, l->where.ptr);
}

/* The two texts that a zero byte parts, with the one at their end. */
static size_t size_of_changes(const char *text)
{
    size_t first = text ? strlen(text) + 1 : 0;

    return first ? first + strlen(text + first) + 1 : 0;
}

bool mg_ready_send(int channel, const struct mg_generation *g)
{
    size_t size = sizeof(struct mg_ready) + g->listen_count * sizeof(struct mg_bind);
    size_t changes = size_of_changes(g->changes), files = g->files ? strlen(g->files) + 1 : 0;

    if (size + changes + files > MG_LETTER_MOST)
        changes = files = 0;
    struct mg_ready *r = calloc(1, size + changes + files);
    if (!r)
        return false;
    r->drain_timeout = g->settings.drain_timeout;
    r->workers = g->settings.workers;
    r->log_level = (int)mg_services_level(&g->settings);
    r->probation = g->settings.probation;
    r->probation_errors = g->settings.probation_errors;
    r->probation_least = g->settings.probation_least;
    if (!mg_text_equal(g->settings.error_log, MG_LIT("stderr")))
        snprintf(r->error_log, sizeof(r->error_log), "%.*s", (int)g->settings.error_log.len, g->settings.error_log.ptr);
    r->count = g->listen_count;
    for (unsigned i = 0; i < r->count; i++)
        describe_bind(&r->binds[i], &g->listens[i]);
    r->changes = (unsigned)changes;
    r->files = (unsigned)files;
    if (changes)
        memcpy(&r->binds[r->count], g->changes, changes);
    if (files)
        memcpy((char *)&r->binds[r->count] + changes, g->files, files);
    bool sent = mg_channel_send(channel, MG_WORD_READY, r, size + changes + files, NULL, 0);
    free(r);
    return sent;
}
