/* siphash.h - a hash whose collisions nobody can find who does not know its seed. */
#pragma once

#include <stdint.h>

/* SipHash-1-3, folded to 32 bits: keys may be a client's choice, who must not know which of them meet in a bucket. */
uint32_t mg_siphash(const uint64_t seed[2], const char *ptr, uint32_t len);
