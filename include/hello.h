/* hello.h - the ClientHello of TLS, read before anybody answers it (RFC 8446 4.1.2). Pure. */
#pragma once

#include <stddef.h>

#include "slice.h"

enum { MG_HELLO_MOST = 16 * 1024 }; /* bytes that are looked at, with the heads of their records */

enum mg_hello_state {
    MG_HELLO_WHOLE,
    MG_HELLO_PARTIAL, /* more must come */
    MG_HELLO_NONE,    /* the first byte is none of TLS */
    MG_HELLO_MALFORMED,
};

/* The slices are valid until the next call. */
struct mg_hello {
    mg_slice sni;      /* in lower case; empty: none is named */
    mg_slice alpn;     /* names of protocols, each behind a byte with its length (RFC 7301 3.1); checked */
    bool tls12, tls13; /* what the client offers */
};

/* `why` only with MALFORMED. */
enum mg_hello_state mg_hello_read(const char *data, size_t len, struct mg_hello *h, const char **why);
