/* tls_session.c - what a client's handshake has shown: for logs and scripts, also after the connection. */
#include "tls_settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "text.h"

enum { NAME_MOST = 1024, NAMES_MOST = 4096 };

struct mg_tls_session *mg_tls_session_hold(struct mg_tls_session *s)
{
    s->refs++;
    return s;
}

void mg_tls_session_drop(struct mg_tls_session *s)
{
    if (!s || --s->refs)
        return;
    SSL_free(s->ssl);
    mg_certificate_drop(s->certificate);
    mg_tls_drop(s->tls);
    free(s);
}

/* "CN=ada,O=Engines" (RFC 2253), as others write it. */
static mg_slice name_text(X509_NAME *name, char *to)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int n = 0;

    if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0)
        n = BIO_read(bio, to, NAME_MOST);
    BIO_free(bio);
    return (mg_slice){ to, n > 0 ? (uint32_t)n : 0 };
}

static mg_slice hex_text(const unsigned char *bytes, unsigned len, char *to)
{
    for (unsigned i = 0; i < len; i++) {
        to[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        to[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    return (mg_slice){ to, 2 * len };
}

static mg_slice fingerprint_of(X509 *x)
{
    static char text[2 * EVP_MAX_MD_SIZE];
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (X509_digest(x, EVP_sha256(), sum, &len) != 1)
        len = 0;
    return hex_text(sum, len, text);
}

static mg_slice serial_of(X509 *x)
{
    static char text[2 * EVP_MAX_MD_SIZE];
    const ASN1_INTEGER *number = X509_get0_serialNumber(x);
    unsigned len = (unsigned)ASN1_STRING_length(number);

    return hex_text(ASN1_STRING_get0_data(number), len < EVP_MAX_MD_SIZE ? len : EVP_MAX_MD_SIZE, text);
}

/* "DNS:a.example", "email:ada@example", "URI:spiffe://...", "IP:10.0.0.1", one a line; what holds a line's end is left
 * out, so that nobody can slip in a name. */
static mg_slice names_of(X509 *x)
{
    static char text[NAMES_MOST];
    static const struct {
        int type;
        const char *label;
    } kinds[] = { { GEN_DNS, "DNS:" }, { GEN_EMAIL, "email:" }, { GEN_URI, "URI:" } };
    GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    size_t len = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
            if (name->type != kinds[k].type)
                continue;
            const char *bytes = (const char *)ASN1_STRING_get0_data(name->d.ia5);
            size_t size = (size_t)ASN1_STRING_length(name->d.ia5), label = strlen(kinds[k].label);
            if (memchr(bytes, '\n', size) || memchr(bytes, '\0', size) || len + label + size + 1 > sizeof(text))
                continue;
            memcpy(text + len, kinds[k].label, label);
            memcpy(text + len + label, bytes, size);
            len += label + size;
            text[len++] = '\n';
        }
    }
    GENERAL_NAMES_free(all);
    return (mg_slice){ text, (uint32_t)len };
}

static double seconds_of(const ASN1_TIME *t)
{
    struct tm tm;

    return ASN1_TIME_to_tm(t, &tm) == 1 ? (double)timegm(&tm) : 0;
}

static void describe_certificate(SSL *ssl, X509 *x, mg_tls_about *out)
{
    static char subject[NAME_MOST], issuer[NAME_MOST];
    long result = SSL_get_verify_result(ssl);

    out->has_certificate = true;
    out->verified = result == X509_V_OK;
    out->problem = out->verified ? (mg_slice){ "", 0 } : mg_slice_of(X509_verify_cert_error_string(result));
    out->subject = name_text(X509_get_subject_name(x), subject);
    out->issuer = name_text(X509_get_issuer_name(x), issuer);
    out->serial = serial_of(x);
    out->fingerprint = fingerprint_of(x);
    out->names = names_of(x);
    out->not_before = seconds_of(X509_get0_notBefore(x));
    out->not_after = seconds_of(X509_get0_notAfter(x));
    ERR_clear_error();
}

mg_slice mg_tls_session_version(const struct mg_tls_session *s)
{
    const char *name = SSL_get_version(s->ssl); /* "TLSv1.3" */

    return mg_slice_of(strlen(name) > 4 ? name + 4 : name);
}

bool mg_tls_session_is_early(const struct mg_tls_session *s)
{
    return !SSL_is_init_finished(s->ssl);
}

bool mg_tls_session_is_resumed(const struct mg_tls_session *s)
{
    return SSL_session_reused(s->ssl) == 1;
}

void mg_tls_session_about(struct mg_tls_session *s, mg_tls_about *out)
{
    const unsigned char *alpn;
    unsigned len;
    const char *sni = SSL_get_servername(s->ssl, TLSEXT_NAMETYPE_host_name);

    SSL_get0_alpn_selected(s->ssl, &alpn, &len);
    *out = (mg_tls_about){
        .sni = sni ? mg_slice_of(sni) : (mg_slice){ "", 0 },
        .version = mg_tls_session_version(s),
        .cipher = mg_slice_of(SSL_get_cipher_name(s->ssl)),
        .alpn = { (const char *)alpn, len },
        .resumed = mg_tls_session_is_resumed(s),
        .early = mg_tls_session_is_early(s),
    };
    X509 *certificate = SSL_get0_peer_certificate(s->ssl);
    if (certificate)
        describe_certificate(s->ssl, certificate, out);
}
