/* inbox.c - what has arrived for a script on a socket, and what it asks of that. */
#include "inbox.h"

#include <stdlib.h>
#include <string.h>

enum {
    PIECE = 4096,           /* least room for one read */
    KEPT_MOST = 256 * 1024, /* a larger buffer goes when it is empty */
    RECEIVE_USUAL = 16 * 1024 * 1024,
    RECEIVE_MOST = 1024 * 1024 * 1024,
    PATTERN_MOST = 4096,
};

size_t mg_inbox_have(const struct mg_inbox *b)
{
    return b->end - b->at;
}

/* ---- What is asked for. ---- */

int mg_inbox_ask(struct mg_inbox *b, int how, double count, const char *pattern, uint32_t len)
{
    if (how < MG_RECEIVE_SOME || how > MG_RECEIVE_UNTIL || !(count >= 0))
        return MG_MALFORMED;
    if (count > RECEIVE_MOST)
        return MG_FULL;
    if (how == MG_RECEIVE_UNTIL) {
        if (!len || len > PATTERN_MOST)
            return MG_MALFORMED;
        char *copy = len > b->pattern_len ? realloc(b->pattern, len) : b->pattern;
        if (!copy)
            return MG_NO_MEMORY;
        memcpy(copy, pattern, len);
        b->pattern = copy;
        b->pattern_len = len;
    }
    b->how = (uint8_t)how;
    b->most = count > 0 || how == MG_RECEIVE_BYTES ? (size_t)count : RECEIVE_USUAL;
    b->scanned = 0;
    b->ready = false;
    return MG_OK;
}

/* Says what mg_inbox_take will hand out. */
static int give(struct mg_inbox *b, size_t len, size_t dropped, int code)
{
    b->ready = true;
    b->ready_len = len;
    b->ready_drop = dropped;
    return code;
}

static int cut(struct mg_inbox *b, bool ended)
{
    size_t all = mg_inbox_have(b);

    return ended ? give(b, all, all, MG_CUT) : MG_INBOX_PENDING;
}

static int look_for_end(struct mg_inbox *b, const char *pattern, size_t len, bool ended)
{
    const char *bytes = b->bytes + b->at;
    size_t have = mg_inbox_have(b), from = b->scanned >= len ? b->scanned - len + 1 : 0;
    const char *end = have ? memmem(bytes + from, have - from, pattern, len) : NULL;

    b->scanned = have;
    if ((size_t)(end ? end - bytes : (ptrdiff_t)have) > b->most)
        return MG_FULL;
    if (!end)
        return cut(b, ended);
    size_t line = (size_t)(end - bytes);
    size_t whole = line + len;
    if (b->how == MG_RECEIVE_LINE && line && bytes[line - 1] == '\r')
        line--;
    return give(b, line, whole, MG_OK);
}

int mg_inbox_look(struct mg_inbox *b, bool ended, bool broken)
{
    size_t have = mg_inbox_have(b);

    switch ((enum mg_receive)b->how) {
    case MG_RECEIVE_SOME:
        have = have < b->most ? have : b->most;
        return have ? give(b, have, have, MG_OK) : cut(b, ended);
    case MG_RECEIVE_BYTES:
        return have >= b->most ? give(b, b->most, b->most, MG_OK) : cut(b, ended);
    case MG_RECEIVE_LINE:
        return look_for_end(b, "\n", 1, ended);
    case MG_RECEIVE_UNTIL:
        return look_for_end(b, b->pattern, b->pattern_len, ended);
    case MG_RECEIVE_ALL:
        if (have > b->most)
            return MG_FULL;
        return ended ? give(b, have, have, broken ? MG_CUT : MG_OK) : MG_INBOX_PENDING;
    }
    return MG_MALFORMED;
}

int mg_inbox_take(struct mg_inbox *b, mg_slice *out)
{
    if (!b->ready)
        return MG_ABSENT;
    b->ready = false;
    *out = (mg_slice){ b->ready_len ? b->bytes + b->at : "", (uint32_t)b->ready_len };
    b->at += b->ready_drop;
    return MG_OK;
}

/* ---- What arrives. ---- */

/* Room behind `end` for a read, and for `asked` bytes in all; false without memory. */
static bool make_room(struct mg_inbox *b, size_t asked)
{
    size_t have = mg_inbox_have(b);

    if (!have) {
        b->at = b->end = 0;
        if (b->room > KEPT_MOST && asked + PIECE < b->room / 2) {
            free(b->bytes);
            b->bytes = NULL;
            b->room = 0;
        }
    }
    if (b->room - b->end >= PIECE)
        return true;
    if (b->at && b->room - have >= PIECE && b->at >= have) {
        memcpy(b->bytes, b->bytes + b->at, have);
    } else {
        size_t room = b->room < PIECE ? 2 * PIECE : 2 * b->room;
        if (asked + PIECE > room)
            room = asked + PIECE;
        char *more = malloc(room);
        if (!more)
            return false;
        if (have)
            memcpy(more, b->bytes + b->at, have);
        free(b->bytes);
        b->bytes = more;
        b->room = room;
    }
    b->at = 0;
    b->end = have;
    return true;
}

char *mg_inbox_room(struct mg_inbox *b, bool wanted, size_t *size)
{
    if (!make_room(b, wanted && b->how == MG_RECEIVE_BYTES ? b->most : 0))
        return NULL;
    *size = b->room - b->end;
    return b->bytes + b->end;
}

void mg_inbox_add(struct mg_inbox *b, size_t len)
{
    b->end += len;
}

void mg_inbox_free(struct mg_inbox *b)
{
    free(b->bytes);
    free(b->pattern);
}
