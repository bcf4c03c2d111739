/* tls_settings.c - what a script said of TLS, as one OpenSSL context.
 *
 * A listener has one context whatever the number of its certificates: the
 * first ones stand in it, and a client that names another host is shown that
 * host's (RFC 6066 3). */
#include "tls_settings.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/hmac.h>

#include "text.h"

/* Mozilla's "intermediate" recommendation, version 5.7: forward secrecy and authenticated encryption only. */
static const char CIPHERS[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
                              "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
                              "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
static const char GROUPS[] = "X25519:P-256:P-384";

enum { NAMES_MOST = 253 + 1, DEPTH = 4, EARLY_MOST = 16 * 1024 };

/* ---- The digest: all that makes two connections differ. ---- */

static void digest(struct mg_tls *tls, const void *bytes, size_t len)
{
    HMAC(EVP_sha256(), tls->digest, MG_TLS_DIGEST, bytes, len, tls->digest, NULL);
}

static void digest_slice(struct mg_tls *tls, mg_slice s)
{
    digest(tls, s.len ? s.ptr : "", s.len);
}

/* The text itself, or the file's contents: a file that has changed makes other connections. */
static void digest_source(struct mg_tls *tls, mg_slice source)
{
    const char *why;
    char piece[4096];
    int n;
    BIO *bio = source.len ? mg_pem_open(source, "", &why) : NULL;

    digest(tls, &source.len, sizeof(source.len));
    while (bio && (n = BIO_read(bio, piece, sizeof(piece))) > 0)
        digest(tls, piece, (size_t)n);
    BIO_free(bio);
}

static void digest_spec(struct mg_tls *tls, const mg_tls_spec *s)
{
    int32_t numbers[] = { s->least, s->most, s->verify, s->depth, (int32_t)s->protocols };

    digest_source(tls, s->ca);
    digest_slice(tls, s->ciphers);
    digest_slice(tls, s->groups);
    digest_slice(tls, s->sni);
    digest(tls, numbers, sizeof(numbers));
}

/* ---- Names. ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct mg_tls_host *)a)->name, ((const struct mg_tls_host *)b)->name);
}

static const struct mg_tls_host *find_name(const struct mg_tls *tls, const char *name)
{
    struct mg_tls_host wanted = { .name = name };

    return tls->host_count ? bsearch(&wanted, tls->hosts, tls->host_count, sizeof(*tls->hosts), by_name) : NULL;
}

/* The exact name, or the wildcard for its last labels (RFC 9525 6.3: one label, the leftmost). */
static const struct mg_tls_host *find_host(const struct mg_tls *tls, const char *given)
{
    char name[NAMES_MOST];
    size_t len = strlen(given);

    if (len && given[len - 1] == '.')
        len--;
    if (!len || len >= sizeof(name))
        return NULL;
    for (size_t i = 0; i < len; i++)
        name[i] = mg_text_lower(given[i]);
    name[len] = '\0';
    const struct mg_tls_host *host = find_name(tls, name);
    char *dot = strchr(name, '.');
    if (host || !dot || dot == name)
        return host;
    dot[-1] = '*';
    return find_name(tls, dot - 1);
}

static bool show(SSL *ssl, struct mg_certificate *const *certificates)
{
    SSL_certs_clear(ssl);
    for (unsigned i = 0; i < MG_TLS_KINDS; i++)
        if (certificates[i] && !mg_certificate_show(certificates[i], ssl))
            return false;
    return true;
}

static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    struct mg_tls *tls = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    if (SSL_get_app_data(ssl)) /* a certificate was chosen already */
        return name ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
    if (!name && !tls->strict)
        return SSL_TLSEXT_ERR_NOACK;
    const struct mg_tls_host *host = name ? find_host(tls, name) : NULL;
    if (!host) {
        *alert = SSL_AD_UNRECOGNIZED_NAME;
        return tls->strict ? SSL_TLSEXT_ERR_ALERT_FATAL : SSL_TLSEXT_ERR_NOACK;
    }
    if (!show(ssl, host->certificates)) {
        *alert = SSL_AD_INTERNAL_ERROR;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return SSL_TLSEXT_ERR_OK;
}

/* ---- Stapling (RFC 6066 8). ---- */

static int on_status(SSL *ssl, void *arg)
{
    (void)arg;
    const struct mg_certificate *c = mg_certificate_of(SSL_get_certificate(ssl));
    unsigned char *copy = c && c->ocsp ? OPENSSL_memdup(c->ocsp, c->ocsp_len) : NULL;

    if (!copy)
        return SSL_TLSEXT_ERR_NOACK;
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)c->ocsp_len); /* takes it over */
    return SSL_TLSEXT_ERR_OK;
}

/* ---- Protocols (RFC 7301 3.1: names with their lengths, the best first). ---- */

static mg_slice alpn_of(unsigned protocols)
{
    const char *both = "\2h2\10http/1.1";

    switch (protocols) {
    case MG_TLS_HTTP2:
        return (mg_slice){ both, 3 };
    case MG_TLS_HTTP1:
        return (mg_slice){ both + 3, 9 };
    default:
        return (mg_slice){ both, protocols ? 12 : 0 };
    }
}

/* A client that names protocols of which we speak none is refused (RFC 7301 3.2). */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *len, const unsigned char *in, unsigned in_len,
                   void *arg)
{
    (void)ssl;
    mg_slice ours = alpn_of(((const struct mg_tls *)arg)->protocols);
    unsigned char *chosen;

    if (!ours.len)
        return SSL_TLSEXT_ERR_NOACK;
    if (SSL_select_next_proto(&chosen, len, (const unsigned char *)ours.ptr, ours.len, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* ---- The context. ---- */

static int version_of(int32_t version)
{
    return version == 13 ? TLS1_3_VERSION : TLS1_2_VERSION;
}

/* Bytes that a script gave for OpenSSL, which wants a zero at their end. */
static bool set_list(SSL_CTX *context, int (*set)(SSL_CTX *, const char *), mg_slice given, const char *ours)
{
    char text[2048];

    if (!given.len)
        return set(context, ours) == 1;
    if (given.len >= sizeof(text))
        return false;
    memcpy(text, given.ptr, given.len);
    text[given.len] = '\0';
    return set(context, text) == 1;
}

static int set_groups(SSL_CTX *context, const char *list)
{
    return (int)SSL_CTX_set1_groups_list(context, list);
}

static bool apply_common(struct mg_tls *tls, const mg_tls_spec *s, const char **why)
{
    SSL_CTX *c = tls->context;

    SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                               SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS);
    /* A record is read with its head in one call, not in two. */
    SSL_CTX_set_read_ahead(c, 1);
    if (SSL_CTX_set_min_proto_version(c, version_of(s->least ? s->least : 12)) != 1 ||
        SSL_CTX_set_max_proto_version(c, version_of(s->most ? s->most : 13)) != 1) {
        *why = mg_tls_complain("versions: not possible with this OpenSSL");
        return false;
    }
    if (!set_list(c, SSL_CTX_set_cipher_list, s->ciphers, CIPHERS)) {
        *why = mg_tls_complain("ciphers: \"%.*s\" names no cipher of TLS 1.2 that OpenSSL knows", (int)s->ciphers.len,
                               s->ciphers.ptr);
        return false;
    }
    if (!set_list(c, set_groups, s->groups, GROUPS)) {
        *why = mg_tls_complain("groups: \"%.*s\" has a group that OpenSSL does not know", (int)s->groups.len,
                               s->groups.ptr);
        return false;
    }
    return true;
}

/* All certificates of a source into a store; how many, below 0 with `why`. For clients their names are sent too. */
static int read_authorities(SSL_CTX *context, mg_slice source, bool announce, const char **why)
{
    BIO *bio = mg_pem_open(source, "ca", why);
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509 *x;
    int count = 0;

    if (!bio)
        return -1;
    while ((x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        count += X509_STORE_add_cert(store, x) == 1;
        if (announce)
            SSL_CTX_add_client_CA(context, x);
        X509_free(x);
    }
    BIO_free(bio);
    ERR_clear_error();
    if (!count)
        *why = mg_tls_complain("ca %s: no certificate is in it", mg_pem_name(source));
    return count ? count : -1;
}

static char refused[256]; /* the subject of the certificate that was refused last */

const char *mg_tls_refused(void)
{
    return refused;
}

/* The certificate at fault may be any of the chain; later nobody knows which. */
static int remember_refused(int good, X509_STORE_CTX *context)
{
    X509 *x = good ? NULL : X509_STORE_CTX_get_current_cert(context);

    if (x)
        X509_NAME_oneline(X509_get_subject_name(x), refused, sizeof(refused));
    return good;
}

/* Asks, and takes whatever comes: the script looks at what was found. */
static int take_any(int good, X509_STORE_CTX *context)
{
    (void)good, (void)context;
    return 1;
}

static bool apply_for_clients(struct mg_tls *tls, const mg_tls_spec *s, const char **why)
{
    SSL_CTX *c = tls->context;

    if (s->verify != MG_TLS_VERIFY_NONE) {
        if (read_authorities(c, s->ca, true, why) < 0)
            return false;
        SSL_CTX_set_verify(c,
                           SSL_VERIFY_PEER | (s->verify == MG_TLS_VERIFY_REQUIRE ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                           s->verify == MG_TLS_VERIFY_REQUIRE ? remember_refused : take_any);
        SSL_CTX_set_verify_depth(c, s->depth ? s->depth : DEPTH);
    }
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF); /* tickets carry all there is */
    SSL_CTX_set_session_id_context(c, tls->digest, MG_TLS_DIGEST);
    mg_tls_seal_tickets(c);
    if (tls->early) {
        /* Tickets that no worker remembers can't be taken once only, so whatever is early may be a replay: it is for
         * who reads it to bear that (RFC 8470 3). */
        SSL_CTX_set_options(c, SSL_OP_NO_ANTI_REPLAY);
        SSL_CTX_set_max_early_data(c, EARLY_MOST);
    }
    SSL_CTX_set_tlsext_servername_callback(c, on_server_name);
    SSL_CTX_set_tlsext_servername_arg(c, tls);
    SSL_CTX_set_tlsext_status_cb(c, on_status);
    SSL_CTX_set_alpn_select_cb(c, on_alpn, tls);
    return true;
}

/* The system's authorities: read once, they are many. */
static X509_STORE *system_store(void)
{
    static X509_STORE *store;

    if (!store) {
        store = X509_STORE_new();
        if (store)
            X509_STORE_set_default_paths(store);
        ERR_clear_error();
    }
    return store;
}

/* OpenSSL's callback: a session that may be resumed. 1: it is ours from now on. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct mg_tls_memory *memory = SSL_get_app_data(ssl);

    if (!memory)
        return 0;
    SSL_SESSION_free(memory->session);
    memory->session = session;
    return 1;
}

static bool apply_for_origins(struct mg_tls *tls, const mg_tls_spec *s, const char **why)
{
    SSL_CTX *c = tls->context;
    mg_slice offered = alpn_of(tls->protocols);

    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(c, on_session);
    if (SSL_CTX_set_alpn_protos(c, (const unsigned char *)offered.ptr, offered.len) != 0)
        return false;
    if (s->verify == MG_TLS_VERIFY_NONE)
        return true;
    if (s->ca.len ? read_authorities(c, s->ca, false, why) < 0 : !system_store())
        return false;
    if (!s->ca.len)
        SSL_CTX_set1_cert_store(c, system_store());
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER, remember_refused);
    if (s->depth)
        SSL_CTX_set_verify_depth(c, s->depth);
    return true;
}

struct mg_tls *mg_tls_new(const mg_tls_spec *s, const char **why)
{
    struct mg_tls *tls = calloc(1, sizeof(*tls));

    *why = "out of memory";
    if (!tls)
        return NULL;
    tls->refs = 1;
    tls->serves = s->serves;
    tls->strict = s->strict;
    tls->early = s->early;
    tls->protocols = s->protocols;
    tls->context = SSL_CTX_new(s->serves ? TLS_server_method() : TLS_client_method());
    tls->sni = strndup(s->sni.len ? s->sni.ptr : "", s->sni.len);
    if (!tls->context || !tls->sni)
        goto drop;
    digest_spec(tls, s);
    if (!apply_common(tls, s, why) || !(s->serves ? apply_for_clients : apply_for_origins)(tls, s, why))
        goto drop;
    return tls;

drop:
    mg_tls_drop(tls);
    return NULL;
}

enum mg_status mg_tls_add(struct mg_tls *tls, const mg_certificate_spec *spec, const char **why)
{
    struct mg_certificate **more = realloc(tls->certificates, (tls->certificate_count + 1) * sizeof(*more));

    *why = "out of memory";
    if (!more)
        return MG_NO_MEMORY;
    tls->certificates = more;
    struct mg_certificate *c = mg_certificate_load(spec, why);
    if (!c)
        return MG_MALFORMED;
    tls->certificates[tls->certificate_count++] = c;
    digest_source(tls, spec->certificate);
    digest_source(tls, spec->key);
    return MG_OK;
}

/* ---- All certificates are there. ---- */

static struct mg_tls_host *room_for_hosts(const struct mg_tls *tls)
{
    size_t most = 1;

    for (unsigned i = 0; i < tls->certificate_count; i++)
        most += tls->certificates[i]->name_count;
    return calloc(most, sizeof(struct mg_tls_host));
}

/* The first certificate of a kind wins. */
static void put_in_place(struct mg_certificate **places, struct mg_certificate *c)
{
    struct mg_certificate **place = &places[mg_certificate_kind(c)];

    if (!*place)
        *place = c;
}

static void sort_names(struct mg_tls *tls)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < tls->certificate_count; i++)
        for (unsigned n = 0; n < tls->certificates[i]->name_count; n++) {
            struct mg_tls_host *h = &tls->hosts[tls->host_count++];
            h->name = tls->certificates[i]->names[n];
            put_in_place(h->certificates, tls->certificates[i]);
        }
    if (tls->host_count)
        qsort(tls->hosts, tls->host_count, sizeof(*tls->hosts), by_name);
    for (unsigned i = 0; i < tls->host_count; i++) {
        struct mg_tls_host *last = kept ? &tls->hosts[kept - 1] : NULL;
        if (!last || strcmp(last->name, tls->hosts[i].name) != 0) {
            tls->hosts[kept++] = tls->hosts[i];
            continue;
        }
        for (unsigned kind = 0; kind < MG_TLS_KINDS; kind++)
            if (tls->hosts[i].certificates[kind])
                put_in_place(last->certificates, tls->hosts[i].certificates[kind]);
    }
    tls->host_count = kept;
}

/* What is shown to those that name nobody: the first certificate, and those of other kinds for the same first name. */
static bool set_default(struct mg_tls *tls)
{
    const struct mg_certificate *first = tls->certificates[0];
    const struct mg_tls_host *host = first->name_count ? find_name(tls, first->names[0]) : NULL;

    for (unsigned kind = 0; host && kind < MG_TLS_KINDS; kind++) {
        const struct mg_certificate *c = host->certificates[kind];
        if (c && kind != mg_certificate_kind(first) &&
            SSL_CTX_use_cert_and_key(tls->context, c->leaf, c->key, c->chain, 1) != 1)
            return false;
    }
    return SSL_CTX_use_cert_and_key(tls->context, first->leaf, first->key, first->chain, 1) == 1;
}

enum mg_status mg_tls_complete(struct mg_tls *tls, const char **why)
{
    *why = "out of memory";
    tls->hosts = room_for_hosts(tls);
    if (!tls->hosts)
        return MG_NO_MEMORY;
    sort_names(tls);
    if (!tls->certificate_count || set_default(tls))
        return MG_OK;
    *why = mg_tls_complain("the certificate can't be used");
    return MG_MALFORMED;
}

void mg_tls_forget(struct mg_tls_memory *m)
{
    SSL_SESSION_free(m->session);
    m->session = NULL;
}

struct mg_tls *mg_tls_hold(struct mg_tls *tls)
{
    tls->refs++;
    return tls;
}

void mg_tls_drop(struct mg_tls *tls)
{
    if (!tls || --tls->refs)
        return;
    SSL_CTX_free(tls->context);
    for (unsigned i = 0; i < tls->certificate_count; i++)
        mg_certificate_drop(tls->certificates[i]);
    free(tls->certificates);
    free(tls->hosts);
    free(tls->sni);
    free(tls);
}

bool mg_tls_same(const struct mg_tls *a, const struct mg_tls *b)
{
    return a == b || (a && b && memcmp(a->digest, b->digest, MG_TLS_DIGEST) == 0);
}

mg_slice mg_tls_sni(const struct mg_tls *tls)
{
    return mg_slice_of(tls->sni);
}
