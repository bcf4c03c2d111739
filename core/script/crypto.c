/* crypto.c - digests, HMAC, random bytes and AES-GCM for scripts, by OpenSSL. */
#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include "random.h"
#include "seam.h"

/* To look one up by its name takes longer than to use it on a short text. */
const EVP_MD *mg_digest_of(int digest)
{
    static const char *const names[] = { "SHA1", "SHA256", "SHA384", "SHA512" };
    static EVP_MD *found[sizeof(names) / sizeof(*names)];

    if (digest < 0 || digest > MG_DIGEST_SHA512)
        return NULL;
    if (!found[digest])
        found[digest] = EVP_MD_fetch(NULL, names[digest], NULL);
    return found[digest];
}

int mg_crypto_digest(int digest, const char *ptr, uint32_t len, char *to)
{
    static EVP_MD_CTX *c;
    const EVP_MD *type = mg_digest_of(digest);
    unsigned made = 0;

    if (!type)
        return MG_MALFORMED;
    if (!c && !(c = EVP_MD_CTX_new()))
        return MG_NO_MEMORY;
    bool done = EVP_DigestInit_ex2(c, type, NULL) == 1 && EVP_DigestUpdate(c, ptr, len) == 1 &&
                EVP_DigestFinal_ex(c, (unsigned char *)to, &made) == 1;
    return done ? (int)made : MG_NO_MEMORY;
}

int mg_crypto_hmac(int digest, const char *key, uint32_t key_len, const char *ptr, uint32_t len, char *to)
{
    const EVP_MD *type = mg_digest_of(digest);
    unsigned made = 0;

    if (!type || key_len > INT32_MAX)
        return MG_MALFORMED;
    return HMAC(type, key, (int)key_len, (const unsigned char *)ptr, len, (unsigned char *)to, &made) ? (int)made
                                                                                                      : MG_NO_MEMORY;
}

int mg_crypto_random(char *to, uint32_t len)
{
    return mg_random(to, len) ? MG_OK : MG_ABSENT;
}

void mg_crypto_hex(const char *ptr, uint32_t len, char *to)
{
    static const char digits[] = "0123456789abcdef";

    for (uint32_t i = 0; i < len; i++) {
        to[2 * i] = digits[(unsigned char)ptr[i] >> 4];
        to[2 * i + 1] = digits[ptr[i] & 15];
    }
}

bool mg_crypto_equal(const char *a, const char *b, uint32_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}

static const EVP_CIPHER *cipher_of(uint32_t key_len)
{
    switch (key_len) {
    case 16:
        return EVP_aes_128_gcm();
    case 24:
        return EVP_aes_192_gcm();
    case 32:
        return EVP_aes_256_gcm();
    default:
        return NULL;
    }
}

/* What both ways begin with: key, nonce, and the bytes that are vouched for, but not hidden. */
static bool begin(EVP_CIPHER_CTX *c, bool seal, const mg_seal *s)
{
    int n;

    return EVP_CipherInit_ex(c, cipher_of(s->key.len), NULL, (const unsigned char *)s->key.ptr,
                             (const unsigned char *)s->nonce, seal) == 1 &&
           (!s->context.len ||
            EVP_CipherUpdate(c, NULL, &n, (const unsigned char *)s->context.ptr, (int)s->context.len) == 1);
}

static bool is_sound(const mg_seal *s)
{
    return cipher_of(s->key.len) && s->context.len <= INT32_MAX && s->text.len <= INT32_MAX - MG_SEAL_TAG;
}

int mg_crypto_seal(const mg_seal *s, char *to)
{
    EVP_CIPHER_CTX *c;
    unsigned char *out = (unsigned char *)to;
    int made = 0, rest = 0;

    if (!is_sound(s))
        return MG_MALFORMED;
    if (!(c = EVP_CIPHER_CTX_new()))
        return MG_NO_MEMORY;
    bool done = begin(c, true, s) &&
                EVP_CipherUpdate(c, out, &made, (const unsigned char *)s->text.ptr, (int)s->text.len) == 1 &&
                EVP_CipherFinal_ex(c, out + made, &rest) == 1 &&
                EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, MG_SEAL_TAG, out + made + rest) == 1;
    EVP_CIPHER_CTX_free(c);
    return done ? made + rest + MG_SEAL_TAG : MG_NO_MEMORY;
}

int mg_crypto_open(const mg_seal *s, char *to)
{
    EVP_CIPHER_CTX *c;
    unsigned char *out = (unsigned char *)to;
    int made = 0, rest = 0;

    if (!is_sound(s) || s->text.len < MG_SEAL_TAG)
        return MG_MALFORMED;
    if (!(c = EVP_CIPHER_CTX_new()))
        return MG_NO_MEMORY;
    uint32_t len = s->text.len - MG_SEAL_TAG;
    bool done = begin(c, false, s) &&
                EVP_CipherUpdate(c, out, &made, (const unsigned char *)s->text.ptr, (int)len) == 1 &&
                EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, MG_SEAL_TAG, (char *)s->text.ptr + len) == 1 &&
                EVP_CipherFinal_ex(c, out + made, &rest) == 1;
    EVP_CIPHER_CTX_free(c);
    return done ? made + rest : MG_MALFORMED;
}
