/* tls_settings.h - what TLS was told by the script, as the files tls*.c share it; nobody else includes this.
 *
 * tls_certificate.c loads a certificate with its key; tls_settings.c makes a
 * context of what the script said and finds certificates by name;
 * tls_tickets.c has the keys of tickets; tls_session.c tells what a handshake
 * has shown; tls.c is the transport. */
#pragma once

#include <openssl/ssl.h>

#include "tls.h"

enum { MG_TLS_DIGEST = 32 };

/* A certificate with its chain and key. */
struct mg_certificate {
    X509 *leaf;
    EVP_PKEY *key;
    STACK_OF(X509) * chain; /* NULL if there is none */
    unsigned char *ocsp;    /* the answer to staple, DER; NULL */
    size_t ocsp_len;
    char **names; /* in lower case; a wildcard begins with "*." */
    unsigned name_count;
};

/* All certificates for one name: of different kinds of keys. */
enum { MG_TLS_KINDS = 3 }; /* RSA, EC, Edwards */
struct mg_tls_host {
    const char *name;
    struct mg_certificate *certificates[MG_TLS_KINDS];
};

struct mg_tls {
    unsigned refs;
    bool serves; /* clients; otherwise for origins */
    bool strict; /* a name that no certificate has is refused */
    bool early;  /* early data is taken */
    unsigned protocols;
    SSL_CTX *context;
    struct mg_certificate **certificates;
    unsigned certificate_count;
    struct mg_tls_host *hosts; /* sorted by name */
    unsigned host_count;
    char *sni;
    unsigned char digest[MG_TLS_DIGEST]; /* of all that makes connections differ */
};

/* What is wrong, with OpenSSL's own reason behind it if it has one; takes its queue of errors off. */
const char *mg_tls_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- tls_certificate.c ---- */

/* A path, or PEM text itself. NULL with `why`. */
BIO *mg_pem_open(mg_slice source, const char *what, const char **why);
/* How messages call a source: its path in quotes, or "given as text". */
const char *mg_pem_name(mg_slice source);
/* Below MG_TLS_KINDS. */
unsigned mg_certificate_kind(const struct mg_certificate *c);
/* This handshake shows this one, beside those of other kinds that it has already. */
bool mg_certificate_show(const struct mg_certificate *c, SSL *ssl);
/* The answer that is stapled for the leaf, or NULL. */
const struct mg_certificate *mg_certificate_of(const X509 *leaf);

/* ---- tls_settings.c ---- */

/* The subject of the certificate that a handshake has refused last. */
const char *mg_tls_refused(void);

/* ---- tls_tickets.c ---- */

void mg_tls_seal_tickets(SSL_CTX *context);

/* ---- tls_session.c ---- */

struct mg_tls_session {
    unsigned refs;
    SSL *ssl;
    struct mg_tls *tls;
    struct mg_certificate *certificate; /* chosen for this connection alone; NULL */
};
