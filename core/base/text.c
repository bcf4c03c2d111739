/* text.c - bytes as HTTP reads them.
 *
 * The checks that run over every field of every message are tables, or take
 * eight bytes at a time; the rest is written to be read.
 */
#include "text.h"

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* RFC 9110 5.6.2. */
/* clang-format off */
static const uint8_t is_tchar[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1,
    ['-'] = 1, ['.'] = 1, ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1,
    ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};
/* clang-format on */

/* HTAB, SP, VCHAR and obs-text (RFC 9110 5.5). */
/* clang-format off */
static const uint8_t is_field_byte[256] = {
    ['\t'] = 1, [0x20 ... 0x7e] = 1, [0x80 ... 0xff] = 1,
};
/* clang-format on */

static uint64_t load8(const char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

/* A to Z of eight bytes at once; all others stay. */
static uint64_t lower8(uint64_t x)
{
    uint64_t seven_bits = x & EACH(0x7f);
    uint64_t above_z = seven_bits + EACH(0x7f - 'Z');
    uint64_t from_a = seven_bits + EACH(0x80 - 'A');
    uint64_t upper = ~x & (from_a ^ above_z) & EACH(0x80);
    return x | upper >> 2;
}

static bool same8(const char *a, const char *b)
{
    uint64_t x = load8(a), y = load8(b);
    return x == y || lower8(x) == lower8(y);
}

bool mg_text_same(mg_slice a, mg_slice b)
{
    if (a.len != b.len)
        return false;

    size_t i = 0;
    for (; a.len - i >= 8; i += 8)
        if (!same8(a.ptr + i, b.ptr + i))
            return false;
    if (a.len >= 8) /* the rest, overlapping what was compared */
        return same8(a.ptr + a.len - 8, b.ptr + b.len - 8);
    for (; i < a.len; i++)
        if (a.ptr[i] != b.ptr[i] && mg_text_lower(a.ptr[i]) != mg_text_lower(b.ptr[i]))
            return false;
    return true;
}

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint64_t halves __attribute__((vector_size(16)));

/* Are all of sixteen bytes, given as two words, letters, digits, hyphens or dots? */
static bool are_plain16(uint64_t a, uint64_t b)
{
    bytes16 v = (bytes16)(halves){ a, b };
    halves odd = (halves) ~(((v | 0x20) - 'a' < 26) | (v - '0' < 10) | (v - '-' < 2));
    return !(odd[0] | odd[1]);
}

bool mg_text_is_plain(mg_slice s)
{
    const char *last = s.ptr + s.len - 8;

    if (s.len < 8) {
        unsigned good = s.len > 0;
        for (uint32_t i = 0; i < s.len; i++) {
            uint8_t c = (uint8_t)s.ptr[i], letter = (c | 0x20) - 'a', digit = c - '0';
            good &= (letter < 26) | (digit < 10) | (c == '-') | (c == '.');
        }
        return good;
    }
    for (const char *p = s.ptr; p < last - 8; p += 16)
        if (!are_plain16(load8(p), load8(p + 8)))
            return false;
    return are_plain16(load8(s.len > 16 ? last - 8 : s.ptr), load8(last));
}

bool mg_text_has_upper(mg_slice s)
{
    uint32_t i = 0;

    for (; s.len - i >= 8; i += 8)
        if (lower8(load8(s.ptr + i)) != load8(s.ptr + i))
            return true;
    if (s.len >= 8)
        return lower8(load8(s.ptr + s.len - 8)) != load8(s.ptr + s.len - 8);
    for (; i < s.len; i++)
        if (s.ptr[i] >= 'A' && s.ptr[i] <= 'Z')
            return true;
    return false;
}

bool mg_text_is_token(mg_slice s)
{
    if (s.len >= 8 && mg_text_is_plain(s))
        return true;
    unsigned good = s.len > 0;
    for (uint32_t i = 0; i < s.len; i++)
        good &= is_tchar[(uint8_t)s.ptr[i]];
    return good;
}

static bool are_field_bytes(const char *p, size_t n)
{
    unsigned good = 1;
    for (size_t i = 0; i < n; i++)
        good &= is_field_byte[(uint8_t)p[i]];
    return good;
}

/* Is one of eight bytes a control? Also true for HTAB, which the caller sorts out. */
static bool has_control(uint64_t x)
{
    uint64_t no_delete = x ^ EACH(0x7f);
    return (((x - EACH(0x20)) & ~x) | ((no_delete - EACH(1)) & ~no_delete)) & EACH(0x80);
}

bool mg_text_is_field_value(mg_slice s)
{
    if (s.len < 8)
        return are_field_bytes(s.ptr, s.len);

    const char *last = s.ptr + s.len - 8;
    for (const char *p = s.ptr; p < last; p += 8)
        if (has_control(load8(p)) && !are_field_bytes(p, 8))
            return false;
    return !has_control(load8(last)) || are_field_bytes(last, 8);
}

bool mg_text_number(mg_slice digits, uint64_t *out)
{
    uint64_t n = 0;
    uint32_t i = 0;
    for (uint32_t safe = digits.len < 19 ? digits.len : 19; i < safe; i++) {
        unsigned digit = (unsigned)(uint8_t)digits.ptr[i] - '0';
        if (digit > 9)
            return false;
        n = n * 10 + digit; /* 19 digits fit */
    }
    for (; i < digits.len; i++) {
        unsigned digit = (unsigned)(uint8_t)digits.ptr[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, digit, &n))
            return false;
    }
    *out = n;
    return digits.len > 0;
}

bool mg_text_size(mg_slice s, uint64_t *out)
{
    unsigned shift = 0;
    if (s.len > 0) {
        switch (mg_text_lower(s.ptr[s.len - 1])) {
        case 'k':
            shift = 10;
            break;
        case 'm':
            shift = 20;
            break;
        case 'g':
            shift = 30;
            break;
        }
    }
    s.len -= shift != 0;

    uint64_t n;
    if (!mg_text_number(s, &n) || n > UINT64_MAX >> shift)
        return false;
    *out = n << shift;
    return true;
}

int mg_text_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = mg_text_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t mg_text_put_number(char *to, uint64_t n)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);

    size_t len = sizeof(digits) - at;
    for (size_t i = 0; i < len; i++)
        to[i] = digits[at + i];
    return len;
}

static const char hex_digits[] = "0123456789abcdef";

size_t mg_text_utf8(const char *text, size_t room)
{
    const uint8_t *p = (const uint8_t *)text;

    size_t len = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > room)
        return 0;

    uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

size_t mg_text_put_json(char *to, mg_slice s)
{
    const char *start = to;
    for (uint32_t i = 0; i < s.len;) {
        uint8_t c = (uint8_t)s.ptr[i];
        size_t run = c >= 0x80 ? mg_text_utf8(s.ptr + i, s.len - i) : c >= 0x20 && c != 0x7f;
        if (run == 0) {
            memcpy(to, "\\u00", 4);
            to[4] = hex_digits[c >> 4];
            to[5] = hex_digits[c & 15];
            to += 6;
            i++;
            continue;
        }
        if (c == '"' || c == '\\')
            *to++ = '\\';
        while (run-- > 0)
            *to++ = s.ptr[i++];
    }
    return (size_t)(to - start);
}

size_t mg_text_put_escaped(char *to, mg_slice s)
{
    const char *start = to;
    for (uint32_t i = 0; i < s.len; i++) {
        uint8_t c = (uint8_t)s.ptr[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            *to++ = (char)c;
            continue;
        }
        to[0] = '\\';
        to[1] = 'x';
        to[2] = hex_digits[c >> 4];
        to[3] = hex_digits[c & 15];
        to += 4;
    }
    return (size_t)(to - start);
}

mg_slice mg_text_trim(mg_slice s)
{
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Up to the next comma that is not inside a quoted string. */
static uint32_t item_length(mg_slice s)
{
    bool quoted = false;
    for (uint32_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '"')
            quoted = !quoted;
        else if (c == '\\' && quoted)
            i++;
        else if (c == ',' && !quoted)
            return i;
    }
    return s.len;
}

bool mg_text_next_item(mg_slice *rest, mg_slice *item)
{
    while (rest->len > 0) {
        uint32_t len = item_length(*rest);
        uint32_t taken = len < rest->len ? len + 1 : len;
        *item = mg_text_trim((mg_slice){ rest->ptr, len });
        rest->ptr += taken;
        rest->len -= taken;
        if (item->len > 0)
            return true;
    }
    return false;
}

bool mg_text_list_has(mg_slice list, mg_slice token)
{
    mg_slice item;
    while (mg_text_next_item(&list, &item))
        if (mg_text_same(item, token))
            return true;
    return false;
}
