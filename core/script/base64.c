/* base64.c - base64 of RFC 4648, both alphabets, and the tokens of HTTP's authentication that look alike. Implements
 * what seam.h declares. */
#include <stdlib.h>
#include <strings.h>

#include <openssl/evp.h>

#include "status.h"

/* A buffer that grows to the largest text encoded so far. */
static char *scratch(size_t n)
{
    static char *buffer;
    static size_t room;

    if (n > room) {
        char *bigger = realloc(buffer, n);
        if (!bigger)
            return NULL;
        buffer = bigger;
        room = n;
    }
    return buffer;
}

int mg_base64(const char *ptr, uint32_t len, bool url, mg_slice *out)
{
    char *to = len < INT32_MAX / 2 ? scratch((size_t)len / 3 * 4 + 5) : NULL;

    if (!to)
        return MG_NO_MEMORY;
    int n = EVP_EncodeBlock((unsigned char *)to, (const unsigned char *)ptr, (int)len);
    if (url) { /* RFC 4648 section 5, without padding */
        for (int i = 0; i < n; i++)
            to[i] = to[i] == '+' ? '-' : to[i] == '/' ? '_' : to[i];
        while (n && to[n - 1] == '=')
            n--;
    }
    *out = (mg_slice){ to, (uint32_t)n };
    return MG_OK;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

/* Both alphabets, padded or not; nothing else. */
int mg_unbase64(const char *ptr, uint32_t len, mg_slice *out)
{
    while (len && ptr[len - 1] == '=')
        len--;
    char *to = scratch((size_t)len / 4 * 3 + 4);
    if (!to)
        return MG_NO_MEMORY;
    if (len % 4 == 1)
        return MG_MALFORMED;
    uint32_t bits = 0, held = 0, n = 0;
    for (uint32_t i = 0; i < len; i++) {
        int digit = base64_digit(ptr[i]);
        if (digit < 0)
            return MG_MALFORMED;
        bits = bits << 6 | (uint32_t)digit;
        held += 6;
        if (held >= 8) {
            held -= 8;
            to[n++] = (char)(bits >> held);
        }
    }
    *out = (mg_slice){ to, n };
    return MG_OK;
}

static bool is_token68(char c)
{
    return base64_digit(c) >= 0 || c == '.' || c == '~';
}

/* RFC 6750 section 2.1; blanks behind it are let pass. */
int mg_bearer(const char *ptr, uint32_t len, mg_slice *out)
{
    const char *end = ptr + len, *at = ptr + 7;

    if (len < 8 || strncasecmp(ptr, "bearer ", 7) != 0)
        return MG_ABSENT;
    while (at < end && *at == ' ')
        at++;
    const char *from = at;
    while (at < end && is_token68(*at))
        at++;
    if (at == from)
        return MG_ABSENT;
    while (at < end && *at == '=')
        at++;
    *out = (mg_slice){ from, (uint32_t)(at - from) };
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return at == end ? MG_OK : MG_ABSENT;
}
