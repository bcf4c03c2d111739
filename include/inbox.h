/* inbox.h - what has arrived for a script on a socket, and what it asks of that: so many bytes, a line, all.
 *
 * All lies in one growing buffer, so that what is asked for is always one slice. */
#pragma once

#include <stddef.h>

#include "status.h"

struct mg_inbox {
    char *bytes;
    size_t at, end, room;
    size_t scanned;               /* of what is asked for: bytes without an end of it */
    size_t most;                  /* the bound of what is asked for */
    size_t ready_len, ready_drop; /* what mg_inbox_take will give, and take off */
    char *pattern;
    uint32_t pattern_len;
    uint8_t how; /* mg_receive */
    bool ready;
};

enum { MG_INBOX_PENDING = 1 };

/* What is asked for: see mg_socket_receive (seam.h). MG_OK; MG_MALFORMED, MG_FULL or MG_NO_MEMORY: nothing is. */
int mg_inbox_ask(struct mg_inbox *b, int how, double count, const char *pattern, uint32_t len);
/* Is it there? ended: nothing more comes; broken: and that was no orderly end. MG_OK, MG_CUT (what has come is given),
 * MG_FULL, or MG_INBOX_PENDING. */
int mg_inbox_look(struct mg_inbox *b, bool ended, bool broken);
/* What the last look has found, until bytes are added; MG_ABSENT if it found nothing. */
int mg_inbox_take(struct mg_inbox *b, mg_slice *out);

/* Bytes that nobody has taken. */
size_t mg_inbox_have(const struct mg_inbox *b);
/* Room for one read of *size bytes at most; NULL without memory. wanted: somebody waits for what was asked for. */
char *mg_inbox_room(struct mg_inbox *b, bool wanted, size_t *size);
/* So many bytes lie in that room now. */
void mg_inbox_add(struct mg_inbox *b, size_t len);
void mg_inbox_free(struct mg_inbox *b);
