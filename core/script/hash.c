/* hash.c - a fast hash of text for scripts, by xxHash: the same on every machine, and no secret. */
#include <string.h>

#include <xxhash.h>

#include "seam.h"

double mg_hash(const char *ptr, uint32_t len, double seed)
{
    uint64_t bits;

    memcpy(&bits, &seed, sizeof(bits));
    return (double)(XXH3_64bits_withSeed(ptr, len, bits) >> 11) * 0x1p-53;
}
