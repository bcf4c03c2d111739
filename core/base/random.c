/* random.c - bytes that nobody can foresee. OpenSSL's generator, seeded anew after a fork. */
#include "random.h"

#include <limits.h>

#include <openssl/rand.h>

bool mg_random(void *to, size_t len)
{
    return len <= INT_MAX && RAND_bytes(to, (int)len) == 1;
}
