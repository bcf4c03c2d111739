/* key.c - public and private keys for scripts, by OpenSSL: read from PEM or JWK, asked whether a signature is theirs.
 *
 * A key belongs to its generation. Lua frees it when nothing refers to it any more (ffi.gc), and what is left when the
 * VM has gone, whichever way it went, is freed with it. OpenSSL's queue of errors is left empty: TLS looks at it. */
#include "key.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "crypto.h"
#include "generation.h"
#include "seam.h"
#include "text.h"

enum {
    RSA_LEAST = 2048, /* bits: RFC 7518 section 3.3 */
    RSA_MOST = 8192,  /* what is above only costs time */
    RSA_EXPONENT_MOST = 64,
    COORDINATE_MOST = 66, /* bytes: P-521 */
    DER_MOST = 160,       /* an ECDSA signature of P-521 has at most 139 bytes */
};

struct mg_key {
    struct mg_key *next, *previous;
    const struct mg_generation *generation;
    EVP_PKEY *pkey;
    int kind;
    int bits;   /* an RSA modulus's; of EC the curve's */
    int number; /* bytes of a coordinate, or of the whole Ed signature */
    bool is_private;
};

struct curve {
    const char *name, *openssl;
    int bits, number;
};

static const struct curve curves[] = {
    { "P-256", "prime256v1", 256, 32 },
    { "P-384", "secp384r1", 384, 48 },
    { "P-521", "secp521r1", 521, COORDINATE_MOST },
};
enum { CURVES = sizeof(curves) / sizeof(*curves) };

static struct mg_key *keys; /* of all generations */

/* ---- What a key is. ---- */

static bool is_curve(struct mg_key *k)
{
    char name[32];
    size_t len;

    if (EVP_PKEY_get_group_name(k->pkey, name, sizeof(name), &len) != 1)
        return false;
    for (unsigned i = 0; i < CURVES; i++) {
        if (strcmp(name, curves[i].openssl) == 0) {
            k->kind = MG_KEY_EC;
            k->bits = curves[i].bits;
            k->number = curves[i].number;
            return true;
        }
    }
    return false;
}

static bool is_rsa(struct mg_key *k)
{
    BIGNUM *e = NULL;

    k->kind = MG_KEY_RSA;
    k->bits = EVP_PKEY_get_bits(k->pkey);
    bool good = k->bits >= RSA_LEAST && k->bits <= RSA_MOST &&
                EVP_PKEY_get_bn_param(k->pkey, OSSL_PKEY_PARAM_RSA_E, &e) == 1 && BN_is_odd(e) && BN_num_bits(e) > 1 &&
                BN_num_bits(e) <= RSA_EXPONENT_MOST;
    BN_free(e);
    return good;
}

/* Is it of a kind, and of a size, that signatures are taken of? */
static bool learn(struct mg_key *k)
{
    switch (EVP_PKEY_get_base_id(k->pkey)) {
    case EVP_PKEY_RSA:
        return is_rsa(k);
    case EVP_PKEY_EC:
        return is_curve(k);
    case EVP_PKEY_ED25519:
        *k = (struct mg_key){ .pkey = k->pkey, .kind = MG_KEY_ED25519, .bits = 256, .number = 64 };
        return true;
    case EVP_PKEY_ED448:
        *k = (struct mg_key){ .pkey = k->pkey, .kind = MG_KEY_ED448, .bits = 456, .number = 114 };
        return true;
    default:
        return false;
    }
}

/* Takes pkey, which may be NULL. */
static int keep(mg_generation *g, EVP_PKEY *pkey, bool is_private, mg_key **out)
{
    struct mg_key *k = pkey ? calloc(1, sizeof(*k)) : NULL;
    bool good = false;

    if (k) {
        k->pkey = pkey;
        good = learn(k);
    }
    ERR_clear_error();
    if (!good) {
        EVP_PKEY_free(pkey);
        free(k);
        return pkey && !k ? MG_NO_MEMORY : pkey ? MG_REFUSED : MG_MALFORMED;
    }
    k->is_private = is_private;
    k->generation = g;
    k->next = keys;
    if (keys)
        keys->previous = k;
    keys = k;
    *out = k;
    return MG_OK;
}

void mg_key_free(mg_key *k)
{
    if (k->previous)
        k->previous->next = k->next;
    else
        keys = k->next;
    if (k->next)
        k->next->previous = k->previous;
    EVP_PKEY_free(k->pkey);
    free(k);
}

void mg_keys_end(const struct mg_generation *g)
{
    for (struct mg_key *k = keys, *next; k; k = next) {
        next = k->next;
        if (k->generation == g)
            mg_key_free(k);
    }
}

void mg_key_describe(const mg_key *k, mg_key_about *out)
{
    *out = (mg_key_about){ .kind = k->kind, .bits = k->bits, .is_private = k->is_private };
}

/* ---- PEM. ---- */

static int no_password(char *to, int room, int writing, void *data)
{
    (void)to;
    (void)room;
    (void)writing;
    (void)data;
    return -1; /* nobody is there to type one */
}

static EVP_PKEY *read_certificate(BIO *from)
{
    X509 *x = PEM_read_bio_X509(from, NULL, no_password, NULL);
    EVP_PKEY *pkey = x ? X509_get_pubkey(x) : NULL;

    X509_free(x);
    return pkey;
}

int mg_key_from_pem(mg_generation *g, const char *ptr, uint32_t len, mg_key **out)
{
    BIO *from = len <= INT_MAX ? BIO_new_mem_buf(ptr, (int)len) : NULL;
    bool is_private = false;
    EVP_PKEY *pkey;

    if (!from)
        return MG_NO_MEMORY;
    pkey = PEM_read_bio_PUBKEY(from, NULL, no_password, NULL);
    if (!pkey && BIO_reset(from) == 1)
        pkey = read_certificate(from);
    if (!pkey && BIO_reset(from) == 1) {
        pkey = PEM_read_bio_PrivateKey(from, NULL, no_password, NULL);
        is_private = pkey != NULL;
    }
    BIO_free(from);
    return keep(g, pkey, is_private, out);
}

/* ---- JWK: RFC 7517, RFC 7518 section 6, RFC 8037. Public ones. ---- */

static EVP_PKEY *make(const char *type, OSSL_PARAM_BLD *parts)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(parts);
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *pkey = NULL;

    if (!params || !c || EVP_PKEY_fromdata_init(c) != 1 ||
        EVP_PKEY_fromdata(c, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
        pkey = NULL;
    EVP_PKEY_CTX_free(c);
    OSSL_PARAM_free(params);
    return pkey;
}

static EVP_PKEY *make_rsa(const mg_jwk *j)
{
    OSSL_PARAM_BLD *parts = OSSL_PARAM_BLD_new();
    BIGNUM *n = BN_bin2bn((const unsigned char *)j->first.ptr, (int)j->first.len, NULL);
    BIGNUM *e = BN_bin2bn((const unsigned char *)j->second.ptr, (int)j->second.len, NULL);
    EVP_PKEY *pkey = NULL;

    if (parts && n && e && OSSL_PARAM_BLD_push_BN(parts, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
        OSSL_PARAM_BLD_push_BN(parts, OSSL_PKEY_PARAM_RSA_E, e) == 1)
        pkey = make("RSA", parts);
    BN_free(n);
    BN_free(e);
    OSSL_PARAM_BLD_free(parts);
    return pkey;
}

/* The point must be on the curve, which public_check looks at, and its coordinates be whole. */
static EVP_PKEY *make_ec(const mg_jwk *j)
{
    unsigned char point[1 + 2 * COORDINATE_MOST] = { POINT_CONVERSION_UNCOMPRESSED };
    const struct curve *c = NULL;
    EVP_PKEY *pkey = NULL;

    for (unsigned i = 0; i < CURVES; i++)
        if (mg_text_equal(j->curve, mg_slice_of(curves[i].name)))
            c = &curves[i];
    if (!c || (int)j->first.len != c->number || (int)j->second.len != c->number)
        return NULL;
    memcpy(point + 1, j->first.ptr, j->first.len);
    memcpy(point + 1 + c->number, j->second.ptr, j->second.len);

    OSSL_PARAM_BLD *parts = OSSL_PARAM_BLD_new();
    if (parts && OSSL_PARAM_BLD_push_utf8_string(parts, OSSL_PKEY_PARAM_GROUP_NAME, c->openssl, 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(parts, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * (size_t)c->number) == 1)
        pkey = make("EC", parts);
    OSSL_PARAM_BLD_free(parts);

    EVP_PKEY_CTX *check = pkey ? EVP_PKEY_CTX_new(pkey, NULL) : NULL;
    if (pkey && (!check || EVP_PKEY_public_check(check) != 1)) {
        EVP_PKEY_free(pkey);
        pkey = NULL;
    }
    EVP_PKEY_CTX_free(check);
    return pkey;
}

int mg_key_from_jwk(mg_generation *g, const mg_jwk *j, mg_key **out)
{
    const unsigned char *raw = (const unsigned char *)j->first.ptr;
    EVP_PKEY *pkey = NULL;

    if (j->first.len > RSA_MOST || j->second.len > RSA_MOST)
        return MG_MALFORMED;
    switch ((enum mg_key_kind)j->kind) {
    case MG_KEY_RSA:
        pkey = make_rsa(j);
        break;
    case MG_KEY_EC:
        pkey = make_ec(j);
        break;
    case MG_KEY_ED25519:
        pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, j->first.len);
        break;
    case MG_KEY_ED448:
        pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED448, NULL, raw, j->first.len);
        break;
    }
    return keep(g, pkey, false, out);
}

/* ---- Signatures. ---- */

static bool prepare(EVP_PKEY_CTX *c, int padding)
{
    if (padding == MG_PADDING_PSS)
        return EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PSS_PADDING) == 1 &&
               EVP_PKEY_CTX_set_rsa_pss_saltlen(c, RSA_PSS_SALTLEN_DIGEST) == 1;
    return padding == MG_PADDING_NONE || EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PADDING) == 1;
}

/* Two numbers side by side (RFC 7518 section 3.4) as OpenSSL wants them, in DER; how many bytes, or 0. */
static size_t to_der(const struct mg_key *k, mg_slice signature, unsigned char der[DER_MOST])
{
    const unsigned char *raw = (const unsigned char *)signature.ptr;
    ECDSA_SIG *s = ECDSA_SIG_new();
    BIGNUM *first = BN_bin2bn(raw, k->number, NULL), *second = BN_bin2bn(raw + k->number, k->number, NULL);
    int len = 0;

    if (s && first && second && ECDSA_SIG_set0(s, first, second) == 1) {
        first = second = NULL; /* the signature's now */
        len = i2d_ECDSA_SIG(s, &der);
    }
    BN_free(first);
    BN_free(second);
    ECDSA_SIG_free(s);
    return len > 0 ? (size_t)len : 0;
}

static int from_der(const struct mg_key *k, const unsigned char *der, size_t len, char *to)
{
    ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &der, (long)len);
    unsigned char *raw = (unsigned char *)to;
    bool done = s && BN_bn2binpad(ECDSA_SIG_get0_r(s), raw, k->number) == k->number &&
                BN_bn2binpad(ECDSA_SIG_get0_s(s), raw + k->number, k->number) == k->number;

    ECDSA_SIG_free(s);
    return done ? 2 * k->number : MG_NO_MEMORY;
}

static bool fits(const struct mg_key *k, const mg_signing *s)
{
    bool edwards = k->kind == MG_KEY_ED25519 || k->kind == MG_KEY_ED448;

    return edwards == (s->digest < 0) && (k->kind == MG_KEY_RSA) == (s->padding != MG_PADDING_NONE) &&
           (edwards || mg_digest_of(s->digest));
}

int mg_key_verify(const mg_key *k, const mg_signing *s)
{
    unsigned char der[DER_MOST];
    const unsigned char *signature = (const unsigned char *)s->signature.ptr;
    size_t len = s->signature.len;
    EVP_PKEY_CTX *settings;

    if (!fits(k, s))
        return MG_MALFORMED;
    if (k->kind == MG_KEY_EC) {
        if (len != 2 * (size_t)k->number || !(len = to_der(k, s->signature, der)))
            return MG_ABSENT;
        signature = der;
    }
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (!c)
        return MG_NO_MEMORY;
    bool good = EVP_DigestVerifyInit(c, &settings, s->digest < 0 ? NULL : mg_digest_of(s->digest), NULL, k->pkey) ==
                    1 &&
                prepare(settings, s->padding) &&
                EVP_DigestVerify(c, signature, len, (const unsigned char *)s->text.ptr, s->text.len) == 1;
    EVP_MD_CTX_free(c);
    ERR_clear_error();
    return good ? MG_OK : MG_ABSENT;
}

int mg_key_sign(const mg_key *k, const mg_signing *s, char *to)
{
    unsigned char made[MG_SIGNATURE_MOST];
    size_t len = sizeof(made);
    EVP_PKEY_CTX *settings;

    if (!fits(k, s) || !k->is_private)
        return MG_MALFORMED;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (!c)
        return MG_NO_MEMORY;
    bool done = EVP_DigestSignInit(c, &settings, s->digest < 0 ? NULL : mg_digest_of(s->digest), NULL, k->pkey) == 1 &&
                prepare(settings, s->padding) &&
                EVP_DigestSign(c, made, &len, (const unsigned char *)s->text.ptr, s->text.len) == 1;
    EVP_MD_CTX_free(c);
    ERR_clear_error();
    if (!done)
        return MG_NO_MEMORY;
    if (k->kind == MG_KEY_EC)
        return from_der(k, made, len, to);
    memcpy(to, made, len);
    return (int)len;
}
