/* poison.h - memory that is ours but that nobody may touch now.
 *
 * Free lists hide mistakes from AddressSanitizer; marking what lies in them
 * brings these to light. In other builds both calls are nothing.
 */
#pragma once

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MG_POISON
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define MG_POISON
#endif

#ifdef MG_POISON
#include <sanitizer/asan_interface.h>
#endif

static inline void mg_poison(void *p, size_t n)
{
#ifdef MG_POISON
    __asm__("" : "+r"(p)); /* gcc takes the call for a read of what is not set yet */
    __asan_poison_memory_region(p, n);
#else
    (void)p, (void)n;
#endif
}

static inline void mg_unpoison(void *p, size_t n)
{
#ifdef MG_POISON
    __asan_unpoison_memory_region(p, n);
#else
    (void)p, (void)n;
#endif
}
