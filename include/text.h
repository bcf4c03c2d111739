/* text.h - bytes as HTTP reads them: case-less words, numbers, tokens, escapes.
 *
 * All functions are pure. Nothing here allocates.
 */
#pragma once

#include <stddef.h>
#include <string.h>

#include "slice.h"

/* A slice over a string literal. */
#define MG_LIT(literal) ((mg_slice){ "" literal, sizeof(literal) - 1 })

static inline mg_slice mg_slice_of(const char *zero_ended)
{
    return (mg_slice){ zero_ended, (uint32_t)strlen(zero_ended) };
}

/* Copies s to `to`, which is not NULL, and gives where it ends. No call for the lengths that most names and values
 * have: two pieces that may overlap. */
static inline char *mg_text_put(char *to, mg_slice s)
{
    char *end = to + s.len;
    uint64_t a, b;
    uint32_t c, d;

    if (s.len > 16)
        return (char *)mempcpy(to, s.ptr, s.len);
    if (s.len >= 8) {
        memcpy(&a, s.ptr, 8);
        memcpy(&b, s.ptr + s.len - 8, 8);
        memcpy(to, &a, 8);
        memcpy(end - 8, &b, 8);
    } else if (s.len >= 4) {
        memcpy(&c, s.ptr, 4);
        memcpy(&d, s.ptr + s.len - 4, 4);
        memcpy(to, &c, 4);
        memcpy(end - 4, &d, 4);
    } else {
        for (uint32_t i = 0; i < s.len; i++)
            to[i] = s.ptr[i];
    }
    return end;
}

/* Are the two the same, to the byte? */
static inline bool mg_text_equal(mg_slice a, mg_slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* Are the two the same but for the case of ASCII letters? */
bool mg_text_same(mg_slice a, mg_slice b);

static inline char mg_text_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* One or more letters, digits, hyphens and dots: what most names are made of, and looked at eight at a time. */
bool mg_text_is_plain(mg_slice s);
/* Is an ASCII letter of it a capital? */
bool mg_text_has_upper(mg_slice s);
/* RFC 9110 5.6.2: 1*tchar. */
bool mg_text_is_token(mg_slice s);
/* RFC 9110 5.5: no byte below 0x20 but HTAB, no 0x7f. Empty is a value too. */
bool mg_text_is_field_value(mg_slice s);

/* 1*DIGIT, nothing else, that fits; false otherwise. */
bool mg_text_number(mg_slice digits, uint64_t *out);
/* A size as users write it: "64K", "1M", "2G", "123"; false otherwise. */
bool mg_text_size(mg_slice s, uint64_t *out);
/* The value of one hex digit, or -1. */
int mg_text_hex(char c);

/* Writes n in decimal at `to` (20 bytes are enough); how many bytes. */
size_t mg_text_put_number(char *to, uint64_t n);
/* Copies s to `to`, escaped for the inside of a JSON string: control bytes,
 * quote and backslash, and bytes that are not valid UTF-8 as \u00XX. Needs up
 * to 6 bytes a byte; how many were written. */
size_t mg_text_put_json(char *to, mg_slice s);
/* The same for combined logs: bytes outside 0x20..0x7e, quote and backslash
 * become \xHH. Needs up to 4 bytes a byte. */
size_t mg_text_put_escaped(char *to, mg_slice s);

/* How many bytes the well-formed UTF-8 at `text` takes (Unicode, table 3-7), whose first byte is 0x80 or more; 0: it is
 * not well formed. */
size_t mg_text_utf8(const char *text, size_t room);

/* Without the spaces and tabs at both ends (OWS). */
mg_slice mg_text_trim(mg_slice s);
/* Takes the next element off a comma-separated list (RFC 9110 5.6.1), trimmed
 * and not empty; quoted strings may hold commas. False at the end. */
bool mg_text_next_item(mg_slice *rest, mg_slice *item);
/* Does the comma-separated list name this token, case-less? */
bool mg_text_list_has(mg_slice list, mg_slice token);
