/* coding.c - content codings: gzip, deflate, br and zstd, written and read piece by piece.
 *
 * The door to zlib, brotli and zstd. A coder belongs to a task and is closed
 * with it. It turns bytes into bytes through one buffer that all share, so what
 * comes out must be taken before the next call. An encoder's memory is much to
 * get and give back for a small body, so a few are kept for those that come. */
#include "coding.h"

#include <stdlib.h>

#include <brotli/decode.h>
#include <brotli/encode.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "seam.h"

enum {
    ROOM = 64 * 1024,             /* of what comes out of one call */
    KEPT_MOST = 4,                /* encoders that wait for the next body */
    BUCKETS = 256,                /* coders by owner */
    GZIP_WINDOW = MAX_WBITS + 16, /* zlib's way to say: with gzip's head and end */
    BROTLI_WINDOW = 19,           /* 512 KiB: an encoder needs some 2 MiB with it */
    ZSTD_WINDOW = 19,
    ZSTD_WINDOW_MOST = 23, /* RFC 9659: 8 MiB is what every decoder takes, and what no encoder may go beyond */
    ZSTD_MAGIC_LEN = 4,
    ZSTD_HEAD_MOST = 18, /* RFC 8878 3.1.1: the magic number and at most 14 bytes of header */
};

/* A decoder is not held to its ratio before it has given so much: little that repeats itself is no bomb. */
static const uint64_t RATIO_FROM = 1024 * 1024;

struct mg_coder {
    const struct mg_task *owner;
    struct mg_coder *next, *previous;
    enum mg_coding coding;
    int level; /* an encoder's */
    bool decodes;
    bool begun;       /* a decoder: a byte has come */
    bool at_end;      /* a decoder: its last byte ended a stream */
    uint64_t in, out; /* bytes, in all */
    uint64_t most;    /* of out; 0: no bound */
    double ratio;     /* of out to in; 0: no bound */
    z_stream z;
    BrotliEncoderState *brotli_out;
    BrotliDecoderState *brotli_in;
    ZSTD_CCtx *zstd_out;
    ZSTD_DCtx *zstd_in;
    uint32_t zstd_magic; /* what has come of it, of the frame that is read */
    unsigned zstd_head;  /* bytes of that frame that have come, up to ZSTD_HEAD_MOST */
};

/* One turn of a library: bytes that are left, room that is left. */
struct turn {
    const uint8_t *in;
    size_t left;
    uint8_t *out;
    size_t room;
    int how;
};

static struct mg_coder *coders[BUCKETS];
static struct mg_coder *kept[KEPT_MOST];
static unsigned live, kept_count;
static uint8_t buffer[ROOM];

static struct mg_coder **bucket_of(const struct mg_task *t)
{
    return &coders[((uintptr_t)t >> 6) % BUCKETS];
}

/* ---- Opening and closing. ---- */

/* Into the list of its owner's. */
static void own(struct mg_coder *c, const struct mg_task *t)
{
    struct mg_coder **bucket = bucket_of(t);

    c->owner = t;
    c->previous = NULL;
    c->next = *bucket;
    if (c->next)
        c->next->previous = c;
    *bucket = c;
    live++;
}

static void disown(struct mg_coder *c)
{
    if (c->previous)
        c->previous->next = c->next;
    else
        *bucket_of(c->owner) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    live--;
}

static struct mg_coder *new_coder(const struct mg_task *t, int coding)
{
    struct mg_coder *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->coding = (enum mg_coding)coding;
    own(c, t);
    return c;
}

/* Keeps an encoder whose library can begin anew with it. False: it is not kept. */
static bool keep(struct mg_coder *c)
{
    if (c->decodes || kept_count == KEPT_MOST)
        return false;
    if (c->zstd_out ? ZSTD_isError(ZSTD_CCtx_reset(c->zstd_out, ZSTD_reset_session_only))
                    : c->coding != MG_CODING_GZIP || deflateReset(&c->z) != Z_OK)
        return false;
    c->in = c->out = 0;
    kept[kept_count++] = c;
    return true;
}

static struct mg_coder *take_kept(int coding, int level)
{
    for (unsigned i = 0; i < kept_count; i++) {
        struct mg_coder *c = kept[i];
        if ((int)c->coding == coding && c->level == level) {
            kept[i] = kept[--kept_count];
            return c;
        }
    }
    return NULL;
}

static bool open_encoder(struct mg_coder *c, int level)
{
    switch (c->coding) {
    case MG_CODING_GZIP:
        return deflateInit2(&c->z, level, Z_DEFLATED, GZIP_WINDOW, MAX_MEM_LEVEL - 1, Z_DEFAULT_STRATEGY) == Z_OK;
    case MG_CODING_BROTLI:
        c->brotli_out = BrotliEncoderCreateInstance(NULL, NULL, NULL);
        return c->brotli_out && BrotliEncoderSetParameter(c->brotli_out, BROTLI_PARAM_QUALITY, (uint32_t)level) &&
               BrotliEncoderSetParameter(c->brotli_out, BROTLI_PARAM_LGWIN, BROTLI_WINDOW);
    case MG_CODING_ZSTD:
        c->zstd_out = ZSTD_createCCtx();
        return c->zstd_out && !ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd_out, ZSTD_c_compressionLevel, level)) &&
               !ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd_out, ZSTD_c_windowLog, ZSTD_WINDOW));
    case MG_CODING_DEFLATE:
        break; /* read, since some origins write it, but never written: nobody needs it beside gzip */
    }
    return false;
}

static bool open_decoder(struct mg_coder *c)
{
    switch (c->coding) {
    case MG_CODING_GZIP:
        return inflateInit2(&c->z, GZIP_WINDOW) == Z_OK;
    case MG_CODING_DEFLATE:
        return inflateInit2(&c->z, MAX_WBITS) == Z_OK;
    case MG_CODING_BROTLI:
        c->brotli_in = BrotliDecoderCreateInstance(NULL, NULL, NULL);
        return c->brotli_in != NULL;
    case MG_CODING_ZSTD:
        c->zstd_in = ZSTD_createDCtx();
        return c->zstd_in && !ZSTD_isError(ZSTD_DCtx_setParameter(c->zstd_in, ZSTD_d_windowLogMax, ZSTD_WINDOW_MOST));
    }
    return false;
}

int mg_encoder_open(mg_task *t, int coding, int level, mg_coder **out)
{
    *out = take_kept(coding, level);
    if (*out) {
        own(*out, t);
        return MG_OK;
    }
    *out = new_coder(t, coding);
    if (*out && open_encoder(*out, level)) {
        (*out)->level = level;
        return MG_OK;
    }
    mg_coder_close(*out);
    return MG_NO_MEMORY;
}

int mg_decoder_open(mg_task *t, int coding, double most, double ratio, mg_coder **out)
{
    *out = new_coder(t, coding);
    if (!*out)
        return MG_NO_MEMORY;
    (*out)->decodes = true;
    (*out)->most = most > 0 ? (uint64_t)most : 0;
    (*out)->ratio = ratio;
    if (open_decoder(*out))
        return MG_OK;
    mg_coder_close(*out);
    return MG_NO_MEMORY;
}

void mg_coder_close(mg_coder *c)
{
    if (!c)
        return;
    disown(c);
    if (keep(c))
        return;
    if (c->decodes)
        inflateEnd(&c->z); /* nothing if it was never begun */
    else
        deflateEnd(&c->z);
    if (c->brotli_out)
        BrotliEncoderDestroyInstance(c->brotli_out);
    if (c->brotli_in)
        BrotliDecoderDestroyInstance(c->brotli_in);
    ZSTD_freeCCtx(c->zstd_out);
    ZSTD_freeDCtx(c->zstd_in);
    free(c);
}

void mg_coding_end(const struct mg_task *t)
{
    if (!live)
        return;
    for (struct mg_coder *c = *bucket_of(t), *next; c; c = next) {
        next = c->next;
        if (c->owner == t)
            mg_coder_close(c);
    }
}

unsigned mg_coding_live(void)
{
    return live;
}

/* ---- zlib. ---- */

static void give_z(struct mg_coder *c, const struct turn *t)
{
    c->z.next_in = (uint8_t *)t->in; /* zlib does not write there, but its type is older than const */
    c->z.avail_in = (unsigned)t->left;
    c->z.next_out = t->out;
    c->z.avail_out = (unsigned)t->room;
}

static void take_z(const struct mg_coder *c, struct turn *t)
{
    t->in = c->z.next_in;
    t->left = c->z.avail_in;
    t->out = c->z.next_out;
    t->room = c->z.avail_out;
}

static int deflate_turn(struct mg_coder *c, struct turn *t)
{
    static const int flush[] = { Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FINISH };

    give_z(c, t);
    int code = deflate(&c->z, flush[t->how]);
    take_z(c, t);
    if (code == Z_STREAM_ERROR)
        return MG_MALFORMED;
    return t->room == 0 && code != Z_STREAM_END;
}

/* What servers call deflate is RFC 1950's format or the bare one of RFC 1951. A first byte tells them apart: of the
 * bare one its four low bits would mean a stored block behind three bits of padding that are always 0. */
static bool is_bare(uint8_t first)
{
    return (first & 0x0f) != Z_DEFLATED || first >> 4 > MAX_WBITS - 8;
}

static int inflate_turn(struct mg_coder *c, struct turn *t)
{
    if (!c->begun && c->coding == MG_CODING_DEFLATE && is_bare(*t->in))
        inflateReset2(&c->z, -MAX_WBITS);
    if (c->at_end && t->left) { /* RFC 1952 2.2: members follow each other */
        if (c->coding != MG_CODING_GZIP)
            return MG_MALFORMED;
        inflateReset(&c->z);
        c->at_end = false;
    }
    give_z(c, t);
    int code = inflate(&c->z, Z_NO_FLUSH);
    take_z(c, t);
    if (code == Z_MEM_ERROR)
        return MG_NO_MEMORY;
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        return MG_MALFORMED;
    c->at_end = code == Z_STREAM_END;
    return t->left > 0 || (t->room == 0 && !c->at_end);
}

/* ---- brotli. ---- */

static int brotli_out_turn(struct mg_coder *c, struct turn *t)
{
    static const BrotliEncoderOperation operation[] = { BROTLI_OPERATION_PROCESS, BROTLI_OPERATION_FLUSH,
                                                        BROTLI_OPERATION_FINISH };

    if (!BrotliEncoderCompressStream(c->brotli_out, operation[t->how], &t->left, &t->in, &t->room, &t->out, NULL))
        return MG_NO_MEMORY;
    return t->left > 0 || BrotliEncoderHasMoreOutput(c->brotli_out);
}

static int brotli_in_turn(struct mg_coder *c, struct turn *t)
{
    if (c->at_end)
        return MG_MALFORMED; /* bytes behind its end */
    BrotliDecoderResult result = BrotliDecoderDecompressStream(c->brotli_in, &t->left, &t->in, &t->room, &t->out, NULL);
    if (result == BROTLI_DECODER_RESULT_ERROR) {
        int code = (int)BrotliDecoderGetErrorCode(c->brotli_in);
        return code <= (int)BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES &&
                       code >= (int)BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES
                   ? MG_NO_MEMORY
                   : MG_MALFORMED;
    }
    c->at_end = result == BROTLI_DECODER_RESULT_SUCCESS;
    if (c->at_end)
        return t->left ? MG_MALFORMED : 0;
    return result == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
}

/* ---- zstd. ---- */

static int zstd_out_turn(struct mg_coder *c, struct turn *t)
{
    static const ZSTD_EndDirective directive[] = { ZSTD_e_continue, ZSTD_e_flush, ZSTD_e_end };
    ZSTD_inBuffer in = { t->in, t->left, 0 };
    ZSTD_outBuffer out = { t->out, t->room, 0 };

    size_t behind = ZSTD_compressStream2(c->zstd_out, &out, &in, directive[t->how]);
    if (ZSTD_isError(behind))
        return MG_NO_MEMORY;
    t->left -= in.pos;
    t->room -= out.pos;
    return t->left > 0 || (t->how != MG_CODE_MORE && behind > 0);
}

/* Takes note of a frame's next byte. False: no frame begins so. The library reads formats older than RFC 8878, too,
 * with code that is kept for old files: nothing that a peer sends may reach it. */
static bool note_zstd_head(struct mg_coder *c, uint8_t byte)
{
    if (c->zstd_head < ZSTD_MAGIC_LEN)
        c->zstd_magic |= (uint32_t)byte << 8 * c->zstd_head;
    c->zstd_head++;
    return c->zstd_head != ZSTD_MAGIC_LEN || c->zstd_magic == ZSTD_MAGICNUMBER ||
           (c->zstd_magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

/* A frame's head goes in byte by byte. With a frame that lies whole in one piece the library takes a short cut that
 * does not look at its window: what is refused would then hang on where the bytes were cut. */
static int zstd_in_turn(struct mg_coder *c, struct turn *t)
{
    ZSTD_inBuffer in = { t->in, t->left, 0 };
    ZSTD_outBuffer out = { t->out, t->room, 0 };
    size_t wanted;

    if (c->at_end)
        c->zstd_head = c->zstd_magic = 0;
    do {
        bool in_head = c->zstd_head < ZSTD_HEAD_MOST && in.pos < t->left;
        if (in_head && !note_zstd_head(c, t->in[in.pos]))
            return MG_MALFORMED;
        in.size = in_head ? in.pos + 1 : t->left;
        wanted = ZSTD_decompressStream(c->zstd_in, &out, &in);
        if (ZSTD_isError(wanted))
            return ZSTD_getErrorCode(wanted) == ZSTD_error_memory_allocation ? MG_NO_MEMORY : MG_MALFORMED;
    } while (wanted && in.pos < t->left && out.pos < out.size);
    t->left -= in.pos;
    t->room -= out.pos;
    c->at_end = wanted == 0; /* a frame's; another may follow (RFC 8878 3) */
    return t->left > 0 || (t->room == 0 && !c->at_end);
}

/* ---- All of them. ---- */

static int encode_turn(struct mg_coder *c, struct turn *t)
{
    switch (c->coding) {
    case MG_CODING_GZIP:
        return deflate_turn(c, t);
    case MG_CODING_BROTLI:
        return brotli_out_turn(c, t);
    case MG_CODING_ZSTD:
        return zstd_out_turn(c, t);
    case MG_CODING_DEFLATE:
        break;
    }
    return MG_MALFORMED;
}

static int decode_turn(struct mg_coder *c, struct turn *t)
{
    switch (c->coding) {
    case MG_CODING_GZIP:
    case MG_CODING_DEFLATE:
        return inflate_turn(c, t);
    case MG_CODING_BROTLI:
        return brotli_in_turn(c, t);
    case MG_CODING_ZSTD:
        return zstd_in_turn(c, t);
    }
    return MG_MALFORMED;
}

static bool is_too_much(const struct mg_coder *c)
{
    if (c->most && c->out > c->most)
        return true;
    return c->ratio > 0 && c->out > RATIO_FROM && (double)c->out > (double)c->in * c->ratio;
}

int mg_coder_run(mg_coder *c, const char *ptr, uint32_t len, int how, mg_coded *out)
{
    struct turn t = { (const uint8_t *)ptr, len, buffer, ROOM, how };
    int more = 0;

    *out = (mg_coded){ { (const char *)buffer, 0 }, 0 };
    if (how < MG_CODE_MORE || how > MG_CODE_END)
        return MG_MALFORMED;
    if (!c->decodes) {
        more = encode_turn(c, &t);
    } else if (len || (c->begun && !c->at_end)) {
        more = decode_turn(c, &t);
        c->begun = true;
    }
    out->used = len - (uint32_t)t.left;
    out->bytes.len = (uint32_t)(ROOM - t.room);
    c->in += out->used;
    c->out += out->bytes.len;
    if (more < 0)
        return more;
    if (c->decodes && is_too_much(c))
        return MG_FULL;
    if (c->decodes && how == MG_CODE_END && !more && c->begun && !c->at_end)
        return MG_CUT;
    return more;
}
