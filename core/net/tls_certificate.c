/* tls_certificate.c - a certificate with its chain, key, names and stapled answer, as files or as text.
 *
 * Everything that can be wrong with a pair is found here, when the script is
 * loaded, and told by the file's name. */
#include "tls_settings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "log.h"
#include "text.h"

enum { PROBLEM_MOST = 512, NAME_MOST = 256, OCSP_MOST = 64 * 1024 };

const char *mg_tls_complain(const char *format, ...)
{
    static char text[PROBLEM_MOST];
    unsigned long error = ERR_peek_last_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (reason && n > 0 && (size_t)n < sizeof(text))
        snprintf(text + n, sizeof(text) - (size_t)n, ": %s", reason);
    ERR_clear_error();
    return text;
}

/* ---- Reading. ---- */

static bool is_text(mg_slice source)
{
    return source.len > 10 && memcmp(source.ptr, "-----BEGIN", 10) == 0;
}

const char *mg_pem_name(mg_slice source)
{
    static char names[2][NAME_MOST]; /* a message may need two */
    static unsigned turn;
    char *name = names[turn++ % 2];

    if (is_text(source))
        return "given as text";
    snprintf(name, NAME_MOST, "\"%.*s\"", (int)source.len, source.ptr);
    return name;
}

BIO *mg_pem_open(mg_slice source, const char *what, const char **why)
{
    char path[4096];
    BIO *bio;

    if (is_text(source)) {
        bio = BIO_new_mem_buf(source.ptr, (int)source.len);
    } else {
        snprintf(path, sizeof(path), "%.*s", (int)source.len, source.ptr);
        errno = 0;
        bio = BIO_new_file(path, "r");
    }
    if (!bio) {
        int error = errno;
        ERR_clear_error();
        *why = mg_tls_complain("%s %s can't be read: %s", what, mg_pem_name(source), strerror(error ? error : ENOMEM));
    }
    return bio;
}

/* Nobody is there who could type it. */
static int no_passphrase(char *to, int size, int writing, void *asked)
{
    (void)to, (void)size, (void)writing;
    *(bool *)asked = true;
    return -1;
}

/* Where a PEM file has no more of what is looked for. */
static bool at_end(void)
{
    unsigned long error = ERR_peek_last_error();

    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

static bool read_chain(struct mg_certificate *c, BIO *bio)
{
    X509 *next;

    while ((next = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        if (!c->chain)
            c->chain = sk_X509_new_null();
        if (!c->chain || !sk_X509_push(c->chain, next)) {
            X509_free(next);
            return false;
        }
    }
    if (!at_end())
        return false;
    ERR_clear_error();
    return true;
}

static bool read_certificates(struct mg_certificate *c, mg_slice source, const char **why)
{
    BIO *bio = mg_pem_open(source, "certificate", why);

    if (!bio)
        return false;
    c->leaf = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
    bool good = c->leaf && read_chain(c, bio);
    BIO_free(bio);
    if (good)
        return true;
    if (!c->leaf && at_end()) {
        ERR_clear_error();
        *why = mg_tls_complain("certificate %s: no certificate is in it; a PEM file is needed", mg_pem_name(source));
    } else {
        *why = mg_tls_complain("certificate %s is not well formed", mg_pem_name(source));
    }
    return false;
}

static bool read_key(struct mg_certificate *c, mg_slice source, mg_slice certificate, const char **why)
{
    bool asked = false;
    BIO *bio = mg_pem_open(source, "key", why);

    if (!bio)
        return false;
    c->key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
    BIO_free(bio);
    if (!c->key) {
        ERR_clear_error();
        *why = mg_tls_complain("key %s%s", mg_pem_name(source),
                               asked ? ": it is encrypted; decrypt it with openssl pkey, nobody is there to type a "
                                       "passphrase"
                                     : ": no private key could be read from it");
        return false;
    }
    if (X509_check_private_key(c->leaf, c->key) == 1)
        return true;
    ERR_clear_error();
    *why = mg_tls_complain("key %s does not belong to certificate %s", mg_pem_name(source), mg_pem_name(certificate));
    return false;
}

static bool read_ocsp(struct mg_certificate *c, mg_slice source, const char **why)
{
    char path[4096];

    snprintf(path, sizeof(path), "%.*s", (int)source.len, source.ptr);
    FILE *f = fopen(path, "rb");
    if (!f) {
        *why = mg_tls_complain("ocsp %s can't be read: %s", mg_pem_name(source), strerror(errno));
        return false;
    }
    c->ocsp = malloc(OCSP_MOST);
    c->ocsp_len = c->ocsp ? fread(c->ocsp, 1, OCSP_MOST, f) : 0;
    fclose(f);
    const unsigned char *at = c->ocsp;
    OCSP_RESPONSE *answer = c->ocsp_len ? d2i_OCSP_RESPONSE(NULL, &at, (long)c->ocsp_len) : NULL;
    if (!answer) {
        ERR_clear_error();
        *why = mg_tls_complain("ocsp %s: it is not an OCSP response in DER", mg_pem_name(source));
        return false;
    }
    OCSP_RESPONSE_free(answer);
    return true;
}

/* ---- Names. ---- */

static bool add_name(struct mg_certificate *c, const char *name, size_t len)
{
    char **more = realloc(c->names, (c->name_count + 1) * sizeof(*more));
    char *copy = malloc(len + 1);

    if (more)
        c->names = more;
    if (!more || !copy) {
        free(copy);
        return false;
    }
    for (size_t i = 0; i < len; i++)
        copy[i] = mg_text_lower(name[i]);
    copy[len] = '\0';
    c->names[c->name_count++] = copy;
    return true;
}

static bool add_alternative_names(struct mg_certificate *c)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(c->leaf, NID_subject_alt_name, NULL, NULL);
    bool good = true;

    for (int i = 0; good && i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        if (name->type == GEN_DNS)
            good = add_name(c, (const char *)ASN1_STRING_get0_data(name->d.dNSName),
                            (size_t)ASN1_STRING_length(name->d.dNSName));
    }
    GENERAL_NAMES_free(all);
    return good;
}

/* What the script says; otherwise what the certificate says of itself, its common name only if it has nothing better
 * (RFC 9525 looks at alternative names alone, but clients' operators still make such ones for tests). */
static bool find_names(struct mg_certificate *c, mg_slice given)
{
    char common[NAME_MOST];
    mg_slice name;

    if (given.len) {
        while (mg_text_next_item(&given, &name))
            if (!add_name(c, name.ptr, name.len))
                return false;
        return true;
    }
    if (!add_alternative_names(c))
        return false;
    int n = c->name_count
                ? 0
                : X509_NAME_get_text_by_NID(X509_get_subject_name(c->leaf), NID_commonName, common, sizeof(common));
    return n <= 0 || add_name(c, common, (size_t)n);
}

/* ---- The whole. ---- */

static int index_of_certificate(void)
{
    static int index = -1;

    if (index < 0)
        index = X509_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    return index;
}

const struct mg_certificate *mg_certificate_of(const X509 *leaf)
{
    return leaf ? X509_get_ex_data(leaf, index_of_certificate()) : NULL;
}

static void warn_of_times(const struct mg_certificate *c, mg_slice source)
{
    if (X509_cmp_current_time(X509_get0_notAfter(c->leaf)) < 0)
        mg_log(MG_LOG_WARN, "certificate %s has expired", mg_pem_name(source));
    else if (X509_cmp_current_time(X509_get0_notBefore(c->leaf)) > 0)
        mg_log(MG_LOG_WARN, "certificate %s is not valid yet", mg_pem_name(source));
}

struct mg_certificate *mg_certificate_load(const mg_certificate_spec *spec, const char **why)
{
    struct mg_certificate *c = calloc(1, sizeof(*c));

    *why = "out of memory";
    if (!c)
        return NULL;
    if (!read_certificates(c, spec->certificate, why) ||
        !read_key(c, spec->key.len ? spec->key : spec->certificate, spec->certificate, why) ||
        (spec->ocsp.len && !read_ocsp(c, spec->ocsp, why)))
        goto drop;
    if (!find_names(c, spec->names) || !X509_set_ex_data(c->leaf, index_of_certificate(), c)) {
        *why = "out of memory";
        goto drop;
    }
    warn_of_times(c, spec->certificate);
    return c;

drop:
    mg_certificate_drop(c);
    return NULL;
}

void mg_certificate_drop(struct mg_certificate *c)
{
    if (!c)
        return;
    X509_free(c->leaf);
    EVP_PKEY_free(c->key);
    sk_X509_pop_free(c->chain, X509_free);
    free(c->ocsp);
    for (unsigned i = 0; i < c->name_count; i++)
        free(c->names[i]);
    free(c->names);
    free(c);
}

unsigned mg_certificate_kind(const struct mg_certificate *c)
{
    switch (EVP_PKEY_get_base_id(c->key)) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
        return 0;
    case EVP_PKEY_EC:
        return 1;
    default:
        return 2;
    }
}

bool mg_certificate_show(const struct mg_certificate *c, SSL *ssl)
{
    return SSL_use_cert_and_key(ssl, c->leaf, c->key, c->chain, 1) == 1;
}
