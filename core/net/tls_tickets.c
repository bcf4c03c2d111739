/* tls_tickets.c - the keys of session tickets (RFC 5077, RFC 8446 4.6.1).
 *
 * One secret is made before the workers are forked. Every PERIOD it is turned
 * into the next one by a hash that does not go back, so each process comes to
 * the same keys by the clock alone, and what is over is forgotten: nothing in
 * memory opens a ticket of two periods ago. */
#include "tls_settings.h"

#include <string.h>
#include <time.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "random.h"

enum { SECRET = 32, NAME = 16, AES = 32, MAC = 32, PERIOD = 4 * 3600 };

struct key {
    unsigned char name[NAME], aes[AES], mac[MAC];
};

static unsigned char secret[SECRET];
static struct key current, previous;
static time_t began; /* of the current one's period */

static void derive(unsigned char *to, size_t len, const char *label)
{
    unsigned char out[SECRET];

    HMAC(EVP_sha256(), secret, SECRET, (const unsigned char *)label, strlen(label), out, NULL);
    memcpy(to, out, len);
    OPENSSL_cleanse(out, sizeof(out));
}

static void make_current(void)
{
    derive(current.name, NAME, "moongate ticket name");
    derive(current.aes, AES, "moongate ticket aes");
    derive(current.mac, MAC, "moongate ticket mac");
}

bool mg_tls_start(void)
{
    if (!mg_random(secret, SECRET) || !mg_random(&previous, sizeof(previous)))
        return false;
    began = time(NULL);
    make_current();
    return true;
}

double mg_tls_turn(void)
{
    time_t now = time(NULL);

    while (now - began >= PERIOD) {
        unsigned char next[SECRET];
        derive(next, SECRET, "moongate ticket next");
        memcpy(secret, next, SECRET);
        OPENSSL_cleanse(next, sizeof(next));
        previous = current;
        make_current();
        began += PERIOD;
    }
    return (double)(began + PERIOD - now);
}

/* As it is handed to another process, which may be of another version. */
struct saved {
    uint32_t version; /* of this layout */
    int64_t began;
    unsigned char secret[SECRET];
    struct key previous;
} __attribute__((packed));
enum { SAVED_VERSION = 1 };

size_t mg_tls_tickets_save(void *to, size_t room)
{
    struct saved s = { .version = SAVED_VERSION };

    if (room < sizeof(s))
        return 0;
    (void)mg_tls_turn();
    s.began = began;
    s.previous = previous;
    memcpy(s.secret, secret, SECRET);
    memcpy(to, &s, sizeof(s));
    OPENSSL_cleanse(&s, sizeof(s));
    return sizeof(s);
}

bool mg_tls_tickets_restore(const void *from, size_t len)
{
    struct saved s;

    if (len != sizeof(s))
        return false;
    memcpy(&s, from, sizeof(s));
    bool good = s.version == SAVED_VERSION && s.began <= time(NULL);
    if (good) {
        began = s.began;
        previous = s.previous;
        memcpy(secret, s.secret, SECRET);
        make_current();
    }
    OPENSSL_cleanse(&s, sizeof(s));
    return good;
}

static bool begin(const struct key *key, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int sealing)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)key->mac, MAC),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)(uintptr_t) "sha256", 0),
        OSSL_PARAM_construct_end(),
    };

    return EVP_MAC_CTX_set_params(mac, params) == 1 &&
           EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->aes, iv, sealing) == 1;
}

/* OpenSSL's callback: 1 go on, 2 go on and give a new ticket, 0 no such key, -1 broken. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int sealing)
{
    /* A ticket of TLS 1.3 is for one connection (RFC 8446 C.4): the next one needs another. */
    int good = SSL_version(ssl) == TLS1_3_VERSION ? 2 : 1;

    (void)mg_tls_turn();
    if (sealing) {
        memcpy(name, current.name, NAME);
        return mg_random(iv, (size_t)EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) &&
                       begin(&current, iv, cipher, mac, sealing)
                   ? 1
                   : -1;
    }
    if (memcmp(name, current.name, NAME) == 0)
        return begin(&current, iv, cipher, mac, sealing) ? good : -1;
    if (memcmp(name, previous.name, NAME) == 0)
        return begin(&previous, iv, cipher, mac, sealing) ? 2 : -1;
    return 0;
}

void mg_tls_seal_tickets(SSL_CTX *context)
{
    SSL_CTX_set_tlsext_ticket_key_evp_cb(context, on_ticket);
    SSL_CTX_set_timeout(context, PERIOD);
}
