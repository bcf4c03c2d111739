/* siphash.c - SipHash-1-3, after Aumasson and Bernstein 2012. */
#include "siphash.h"

#include <stdbool.h>
#include <string.h>

static uint64_t rotate(uint64_t v, unsigned bits)
{
    return v << bits | v >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

uint32_t mg_siphash(const uint64_t seed[2], const char *ptr, uint32_t len)
{
    uint64_t v[4] = { seed[0] ^ 0x736f6d6570736575u, seed[1] ^ 0x646f72616e646f6du, seed[0] ^ 0x6c7967656e657261u,
                      seed[1] ^ 0x7465646279746573u };

    for (uint32_t at = 0;; at += 8) {
        uint64_t word = 0;
        bool last = len - at < 8;
        memcpy(&word, ptr + at, last ? len - at : 8);
        if (last)
            word |= (uint64_t)len << 56;
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
        if (last)
            break;
    }
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    uint64_t hash = v[0] ^ v[1] ^ v[2] ^ v[3];
    return (uint32_t)(hash ^ hash >> 32);
}
