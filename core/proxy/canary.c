/* canary.c - a generation that is tried out: a share of the new exchanges begins in it. */
#include "canary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"
#include "text.h"

struct mg_generation *mg_canary;
static struct mg_canary_terms terms;
static uint64_t chance; /* the generator's state; never 0 */

/* ---- Terms. ---- */

static bool read_share(const char *text, double *out)
{
    char *end;

    *out = strtod(text, &end);
    if (*end == '%') {
        *out /= 100;
        end++;
    }
    return !*end && *out > 0 && *out < 1;
}

static bool read_key(const char *text, struct mg_canary_terms *t)
{
    static const char *const kinds[] = { [MG_CANARY_COOKIE] = "cookie:", [MG_CANARY_HEADER] = "header:" };

    if (strcmp(text, "client") == 0) {
        t->by = MG_CANARY_CLIENT;
        return true;
    }
    for (unsigned by = MG_CANARY_COOKIE; by <= MG_CANARY_HEADER; by++) {
        size_t len = strlen(kinds[by]);
        mg_slice name = mg_slice_of(strncmp(text, kinds[by], len) == 0 ? text + len : "");
        if (!mg_text_is_token(name) || name.len >= sizeof(t->name))
            continue;
        t->by = by;
        memcpy(t->name, name.ptr, name.len + 1);
        return true;
    }
    return false;
}

/* 5 may be meant as 5 %, and may be a slip for 0.5: whoever has written it says which. */
static const char *refuse_share(const char *given, double read)
{
    static char why[192];
    int n = snprintf(
        why, sizeof(why),
        "the share of a canary must be above 0 and below 100 per cent, like \"5%%\" or \"0.05\", got \"%.32s\"", given);

    if (read >= 1 && read < 100 && strspn(given, "0123456789.") == strlen(given))
        snprintf(why + n, sizeof(why) - (size_t)n, "; for %.32s per cent write \"%.32s%%\"", given, given);
    return why;
}

const char *mg_canary_read(struct mg_canary_terms *t, const char *share, const char *by)
{
    *t = (struct mg_canary_terms){ 0 };
    if (!read_share(share, &t->share))
        return refuse_share(share, t->share);
    if (by && !read_key(by, t))
        return "a canary goes by client, cookie:NAME or header:NAME";
    return NULL;
}

size_t mg_canary_print(const struct mg_canary_terms *t, char *to, size_t size)
{
    static const char *const kinds[] = { "exchanges", "clients by address",
                                         "clients by cookie:", "clients by header:" };

    return (size_t)snprintf(to, size, "%.4g %% of the %s%s", t->share * 100, kinds[t->by], t->name);
}

/* ---- At work. ---- */

void mg_canary_begin(struct mg_generation *g, const struct mg_canary_terms *t)
{
    mg_canary = g;
    terms = *t;
    if (!mg_random(&chance, sizeof(chance)) || !chance)
        chance = 1;
}

void mg_canary_end(void)
{
    mg_canary = NULL;
}

/* xorshift64 of G. Marsaglia ("Xorshift RNGs", Journal of Statistical Software 8, 2003); from 0 to below 1. */
static double by_chance(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (double)(chance >> 11) * 0x1p-53;
}

/* The same for the same key in every worker, and other keys with each canary: FNV-1a, and the finalizer of MurmurHash3
 * so that its upper bits are as good as the lower. */
static double by_key(const void *key, size_t len)
{
    const unsigned char *p = key;
    uint64_t h = 0xcbf29ce484222325u ^ mg_canary->number;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return (double)((h ^ h >> 33) >> 11) * 0x1p-53;
}

/* The value of the cookie of this name in "a=1; b=2"; ptr is NULL if it is not there (RFC 6265 4.2.1). */
static mg_slice find_cookie(mg_slice all, mg_slice name)
{
    const char *at = all.ptr, *end = all.ptr + all.len;

    while (at < end) {
        const char *next = memchr(at, ';', (size_t)(end - at));
        const char *stop = next ? next : end;
        while (at < stop && (*at == ' ' || *at == '\t'))
            at++;
        if ((size_t)(stop - at) > name.len && at[name.len] == '=' && memcmp(at, name.ptr, name.len) == 0)
            return (mg_slice){ at + name.len + 1, (uint32_t)(stop - at) - name.len - 1 };
        at = stop + 1;
    }
    return (mg_slice){ 0 };
}

static mg_slice find_key(const struct mg_message *m)
{
    mg_slice name = mg_slice_of(terms.name);

    if (terms.by == MG_CANARY_HEADER) {
        const struct mg_field *f = mg_message_find(m, name);
        return f ? f->value : (mg_slice){ 0 };
    }
    for (unsigned i = 0; i < m->count; i++) { /* HTTP/2 may bring several (RFC 9113 8.2.3) */
        mg_slice found = { 0 };
        if (mg_text_same(m->fields[i].name, MG_LIT("cookie")))
            found = find_cookie(m->fields[i].value, name);
        if (found.ptr)
            return found;
    }
    return (mg_slice){ 0 };
}

struct mg_generation *mg_canary_choose(const struct mg_message *request, const struct mg_peer_info *info)
{
    double place = 1;
    mg_slice key;

    switch (terms.by) {
    case MG_CANARY_CHANCE:
        place = by_chance();
        break;
    case MG_CANARY_CLIENT:
        place = by_key(info->client.ip, sizeof(info->client.ip));
        break;
    case MG_CANARY_COOKIE:
    case MG_CANARY_HEADER:
        key = find_key(request);
        place = key.ptr ? by_key(key.ptr, key.len) : place;
        break;
    }
    return place < terms.share ? mg_canary : mg_generation_now;
}
