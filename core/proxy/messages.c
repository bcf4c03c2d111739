/* messages.c - a tunnel's bytes into the messages of a WebSocket, and back (RFC 6455).
 *
 * Every message is built anew as one frame, so that a frame from elsewhere
 * may come between any two. */
#include "messages.h"

#include <assert.h>
#include <string.h>

#include "random.h"

void mg_messages_init(struct mg_messages *from_client, struct mg_messages *from_origin, uint64_t most)
{
    from_client->reader.most = from_origin->reader.most = most;
    from_client->reader.masked = from_client->masks = true;
    from_client->answers = from_origin;
    from_origin->answers = from_client;
}

void mg_messages_free(struct mg_messages *m)
{
    mg_websocket_clear(&m->reader);
    mg_chain_clear(&m->out);
}

enum mg_status mg_messages_send(struct mg_messages *m, enum mg_opcode opcode, const char *ptr, size_t len)
{
    char mask[4];

    if (m->closed)
        return MG_GONE;
    /* RFC 6455 10.3: nobody may foresee a mask. */
    if (m->masks && !mg_random(mask, sizeof(mask)))
        return MG_NO_MEMORY;
    struct mg_block *b = mg_block_take(len + MG_FRAME_HEAD_MOST);
    if (!b)
        return MG_NO_MEMORY;
    size_t n = mg_frame_head(b->data, opcode, len, m->masks ? mask : NULL);
    if (m->masks)
        mg_frame_mask(b->data + n, ptr, len, mask, 0);
    else if (len)
        memcpy(b->data + n, ptr, len);
    b->used = (unsigned)(n + len);
    mg_chain_add(&m->out, b, b->data, b->used);
    mg_block_give(b);
    m->closed = opcode == MG_OPCODE_CLOSE;
    return m->out.failed ? MG_NO_MEMORY : MG_OK;
}

static void close_one(struct mg_messages *m, const char *text, size_t len)
{
    m->ended = m->dropped = true;
    (void)!mg_messages_send(m, MG_OPCODE_CLOSE, text, len); /* or one has gone that way before */
    m->closed = true;
}

void mg_messages_close(struct mg_messages *m, unsigned code, const char *reason, size_t len)
{
    char text[MG_CONTROL_MOST] = { (char)(code >> 8), (char)(code & 0xff) };

    assert(len <= sizeof(text) - 2);
    if (len)
        memcpy(text + 2, reason, len);
    close_one(m, text, len + 2);
    close_one(m->answers, text, len + 2);
}

/* One span's next event. True: a message is whole. */
static bool read_some(struct mg_messages *m, struct mg_chain *in)
{
    size_t used;
    enum mg_websocket_event event = mg_websocket_read(&m->reader, in->first->ptr, in->first->len, &used);
    enum mg_status status = MG_OK;

    mg_chain_drop(in, used);
    switch (event) {
    case MG_WEBSOCKET_MORE:
        break;
    case MG_WEBSOCKET_MESSAGE:
        m->waiting = true;
        return true;
    case MG_WEBSOCKET_CONTROL:
        status = mg_messages_send(m, m->reader.control_kind, m->reader.control, m->reader.control_len);
        break;
    case MG_WEBSOCKET_BROKEN:
        mg_messages_close(m, m->reader.problem, "", 0);
        break;
    }
    if (status == MG_NO_MEMORY)
        mg_messages_close(m, MG_CLOSE_INTERNAL, "", 0);
    return false;
}

bool mg_messages_read(struct mg_messages *m, struct mg_chain *in)
{
    while (in->bytes && !m->closed) {
        if (read_some(m, in))
            return true;
    }
    if (in->first)
        mg_chain_clear(in);
    return false;
}

void mg_messages_release(struct mg_messages *m)
{
    enum mg_status status = MG_OK;

    if (!m->waiting)
        return;
    if (!m->dropped)
        status = mg_messages_send(m, m->reader.kind, m->reader.text, m->reader.len);
    mg_websocket_clear(&m->reader);
    m->waiting = m->dropped = false;
    if (status == MG_NO_MEMORY)
        mg_messages_close(m, MG_CLOSE_INTERNAL, "", 0);
}
