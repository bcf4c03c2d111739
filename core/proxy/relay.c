/* relay.c - moves a body from its stream to the other, with back-pressure.
 *
 * Whatever changes (bytes arrive, room comes, Lua is done) calls
 * mg_flow_pump(), which does all that can be done now. */
#include "relay.h"

#include <assert.h>

#include "generation.h"

enum {
    HELD_HIGH = 256 * 1024, /* what may wait for a taker before its source is stopped */
    SLICE_MOST = 64 * 1024, /* a piece of a flow that is sliced */
    KEPT_AS_COPY = 4 * 1024,
};

void mg_flow_init(struct mg_flow *f, mg_view *view, enum mg_phase phase)
{
    f->view = view;
    f->phase = phase;
}

static void answer(struct mg_wait *w, int code)
{
    if (mg_wait_pending(w))
        mg_task_answer(w, code);
}

/* Tells the source to stop or go on, if that is news. */
static void steer(struct mg_flow *f)
{
    bool full = (f->to && f->to->queued > MG_STREAM_HIGH) ||
                (f->held.bytes + f->piece.bytes > HELD_HIGH && !f->collecting);

    if (!f->from || f->whole || full == f->stopped)
        return;
    f->stopped = full;
    f->from->ops->want(f->from, !full);
}

/* Does Lua's reader have something to come back for? */
static void tell_reader(struct mg_flow *f)
{
    if (!mg_wait_pending(&f->reader))
        return;
    if (f->collecting) {
        if (f->held.bytes > f->collect)
            answer(&f->reader, MG_FULL);
        else if (f->cut)
            answer(&f->reader, MG_CUT);
        else if (f->whole)
            answer(&f->reader, MG_OK);
        return;
    }
    if (f->held.bytes || f->whole)
        answer(&f->reader, MG_OK);
    else if (f->cut)
        answer(&f->reader, MG_CUT);
}

/* References to what goes out, while it is little. Small pieces behind the first are copied: each could hold a whole
 * block otherwise. */
static void keep(struct mg_flow *f, const struct mg_chain *c)
{
    if (!f->keep)
        return;
    if (f->kept.bytes + c->bytes > f->keep) {
        mg_flow_settle(f);
        return;
    }
    for (const struct mg_span *s = c->first; s; s = s->next)
        if (f->kept.first && s->len < KEPT_AS_COPY)
            mg_chain_copy(&f->kept, s->ptr, s->len);
        else
            mg_chain_add(&f->kept, s->block, s->ptr, s->len);
}

void mg_flow_settle(struct mg_flow *f)
{
    f->keep = 0;
    if (f->kept.first)
        mg_chain_clear(&f->kept);
}

void mg_flow_rewind(struct mg_flow *f)
{
    struct mg_chain rest = f->held;

    f->held = f->kept;
    f->kept = (struct mg_chain){ 0 };
    mg_chain_move(&f->held, &rest);
    f->done = false;
}

static void send_end(struct mg_flow *f, struct mg_chain *rest)
{
    f->done = true;
    f->sent += rest->bytes;
    keep(f, rest);
    if (f->trailers && f->trailers->count) {
        if (rest->bytes)
            f->to->ops->send_body(f->to, rest, false);
        f->to->ops->send_trailers(f->to, f->trailers);
    } else {
        f->to->ops->send_body(f->to, rest, true);
    }
}

/* Gives some of the body to the taker; the end follows. */
static void send_some(struct mg_flow *f, struct mg_chain *some)
{
    if (!some->bytes)
        return;
    f->sent += some->bytes;
    keep(f, some);
    f->to->ops->send_body(f->to, some, false);
}

/* Gives all that is held to the taker. */
static void pass_on(struct mg_flow *f)
{
    if (f->whole)
        send_end(f, &f->held);
    else
        send_some(f, &f->held);
}

/* Lets Lua have what is held, or the end. False when it waits. */
static bool filter(struct mg_flow *f)
{
    struct mg_policy *policy = f->view->task->generation->policy;

    if (f->sliced && f->held.bytes > SLICE_MOST)
        mg_chain_split(&f->piece, &f->held, SLICE_MOST);
    else
        mg_chain_move(&f->piece, &f->held);
    f->ended = f->piece.bytes == 0;
    f->at_work = true;
    if (policy->enter(policy, f->view, f->phase) == MG_PARK)
        return false;
    f->at_work = false;
    return true;
}

/* What Lua has left of its piece goes to the taker. */
static void pass_on_piece(struct mg_flow *f)
{
    if (!f->to || f->spoilt) {
        mg_chain_clear(&f->piece);
        return;
    }
    if (f->ended)
        send_end(f, &f->piece);
    else
        send_some(f, &f->piece);
}

/* Frames that are ready go out. True if the taker has room for more, and more may come. */
static bool send_frames(struct mg_flow *f)
{
    struct mg_messages *m = f->messages;

    if (!f->to || f->done)
        return false;
    if (m->ended)
        send_end(f, &m->out);
    else
        send_some(f, &m->out);
    return !f->done && f->to->queued <= MG_STREAM_HIGH;
}

/* A WebSocket's bytes: message by message through Lua, in order. */
static void talk(struct mg_flow *f)
{
    struct mg_policy *policy = f->view->task->generation->policy;

    while (send_frames(f) && !f->at_work && !f->spoilt && f->held.bytes) {
        if (!mg_messages_read(f->messages, &f->held))
            continue;
        f->at_work = true;
        if (policy->enter(policy, f->view, f->phase) == MG_PARK)
            break;
        f->at_work = false;
        mg_messages_release(f->messages);
    }
    if (f->to && f->whole && !f->done && !f->at_work && !f->held.bytes)
        send_end(f, &f->messages->out);
    if (f->done)
        mg_chain_clear(&f->held);
}

void mg_flow_pump(struct mg_flow *f)
{
    tell_reader(f);
    if (f->messages)
        talk(f);
    while (!f->messages && f->to && !f->done && !f->at_work && !f->spoilt && (f->held.bytes || f->whole)) {
        if (!f->filtered || f->to->tunnel) {
            pass_on(f);
        } else {
            if (f->to->queued > MG_STREAM_HIGH)
                break;
            if (!filter(f))
                break;
            if (f->at_work || !f->to)
                break;
            pass_on_piece(f);
        }
    }
    if (f->to && f->to->queued <= MG_STREAM_HIGH)
        answer(&f->writer, MG_OK);
    steer(f);
}

void mg_flow_spoil(struct mg_flow *f)
{
    f->spoilt = true;
    mg_chain_clear(&f->held);
    mg_chain_clear(&f->piece);
    if (f->messages)
        f->messages->dropped = true;
}

void mg_flow_talk(struct mg_flow *f, struct mg_messages *m, enum mg_phase phase)
{
    f->messages = m;
    f->phase = phase;
}

void mg_flow_filtered(struct mg_flow *f)
{
    f->seen = false;
    if (!f->at_work)
        return;
    f->at_work = false;
    if (f->messages)
        mg_messages_release(f->messages);
    else
        pass_on_piece(f);
    mg_flow_pump(f);
}

bool mg_flow_arrive(struct mg_flow *f, struct mg_chain *body, bool last)
{
    f->arrived += body->bytes;
    if (f->most && f->arrived > f->most) {
        mg_chain_clear(body);
        return false;
    }
    f->whole |= last;
    /* The usual path: nothing is held, nobody looks, and the taker is there. */
    if (f->to && !f->held.bytes && !f->at_work && !f->done && (!f->filtered || f->to->tunnel) && !f->trailers &&
        !f->messages) {
        f->done = last;
        f->sent += body->bytes;
        keep(f, body);
        f->to->ops->send_body(f->to, body, last);
        steer(f);
        return true;
    }
    if (f->spoilt)
        mg_chain_clear(body);
    mg_chain_move(&f->held, body);
    mg_flow_pump(f);
    return true;
}

void mg_flow_trailers(struct mg_flow *f, struct mg_message *trailers)
{
    f->trailers = trailers;
    f->whole = true;
    mg_flow_pump(f);
}

void mg_flow_cut(struct mg_flow *f)
{
    f->from = NULL;
    if (f->whole)
        return;
    f->cut = true;
    tell_reader(f);
}

void mg_flow_drop(struct mg_flow *f)
{
    if (f->held.first)
        mg_chain_clear(&f->held);
    if (f->piece.first)
        mg_chain_clear(&f->piece);
    if (f->taken.first)
        mg_chain_clear(&f->taken);
    if (f->kept.first)
        mg_chain_clear(&f->kept);
    if (f->messages)
        mg_messages_free(f->messages);
}

void mg_flow_reset(struct mg_flow *f)
{
    mg_flow_drop(f);
    answer(&f->reader, MG_CUT);
    answer(&f->writer, MG_CUT);
    uint64_t most = f->most;
    *f = (struct mg_flow){ .view = f->view, .phase = f->phase, .most = most, .filtered = f->filtered };
}

/* ---- The seam's side. ---- */

static struct mg_flow *flow_of_reader(struct mg_wait *w)
{
    return MG_HOLDER(w, struct mg_flow, reader);
}

static void cancel_reader(struct mg_wait *w)
{
    struct mg_flow *f = flow_of_reader(w);

    f->collecting = false;
    steer(f);
}

static void cancel_writer(struct mg_wait *w)
{
    (void)w;
}

int mg_flow_read(struct mg_flow *f)
{
    if (mg_wait_pending(&f->reader))
        return MG_BUSY;
    f->consumed = true;
    mg_chain_clear(&f->taken);
    if (f->held.bytes || f->whole)
        return MG_OK;
    if (f->cut || !f->from)
        return MG_CUT;
    steer(f);
    return mg_task_wait(f->view->task, &f->reader, cancel_reader);
}

int mg_flow_take(struct mg_flow *f, mg_slice *out)
{
    mg_chain_clear(&f->taken);
    if (!f->held.bytes)
        return f->whole ? MG_ABSENT : MG_CUT;
    mg_chain_split(&f->taken, &f->held, f->held.first->len);
    *out = (mg_slice){ f->taken.first->ptr, (uint32_t)f->taken.first->len };
    steer(f);
    return MG_OK;
}

int mg_flow_collect(struct mg_flow *f, uint64_t most)
{
    if (mg_wait_pending(&f->reader))
        return MG_BUSY;
    if (f->held.bytes > most)
        return MG_FULL;
    if (f->whole)
        return MG_OK;
    if (f->cut || !f->from)
        return MG_CUT;
    int ticket = mg_task_wait(f->view->task, &f->reader, cancel_reader);
    if (ticket > 0) {
        f->collecting = true;
        f->collect = most;
        steer(f);
    }
    return ticket;
}

/* All bytes of a chain in one run: itself if it has one span, otherwise copied into a block of its own. */
static bool join(struct mg_chain *c, mg_slice *out)
{
    if (!c->bytes) {
        *out = (mg_slice){ "", 0 };
        return true;
    }
    if (c->first->len != c->bytes) {
        if (c->bytes > UINT32_MAX)
            return false;
        struct mg_block *b = mg_block_take(c->bytes);
        if (!b)
            return false;
        mg_chain_read(c, b->data);
        b->used = (unsigned)c->bytes;
        mg_chain_clear(c);
        mg_chain_add(c, b, b->data, b->used);
        mg_block_give(b);
    }
    *out = (mg_slice){ c->first->ptr, (uint32_t)c->bytes };
    return true;
}

int mg_flow_text(struct mg_flow *f, mg_slice *out)
{
    f->collecting = false;
    return join(&f->held, out) ? MG_OK : MG_NO_MEMORY;
}

int mg_flow_piece(struct mg_flow *f, mg_slice *out)
{
    if (!f->at_work || f->ended)
        return MG_ABSENT;
    return join(&f->piece, out) ? MG_OK : MG_NO_MEMORY;
}

int mg_flow_replace(struct mg_flow *f, const char *ptr, uint32_t len)
{
    if (!f->at_work)
        return MG_TOO_LATE;
    struct mg_chain fresh = { 0 };
    mg_chain_copy(&fresh, ptr, len); /* first: the new bytes may be a part of the old ones */
    mg_chain_clear(&f->piece);
    mg_chain_move(&f->piece, &fresh);
    return f->piece.failed ? MG_NO_MEMORY : MG_OK;
}

int mg_flow_put_back(struct mg_flow *f, size_t len)
{
    struct mg_chain front = { 0 };

    if (!f->at_work || len > f->piece.bytes)
        return MG_TOO_LATE;
    mg_chain_split(&front, &f->piece, f->piece.bytes - len);
    mg_chain_move(&f->piece, &f->held);
    f->held = f->piece;
    f->piece = front;
    f->sliced = true;
    return MG_OK;
}

/* The chain to what is held; empty then. */
static int add(struct mg_flow *f, struct mg_chain *fresh)
{
    if (fresh->failed)
        return MG_NO_MEMORY;
    f->arrived += fresh->bytes;
    mg_chain_move(&f->held, fresh);
    if (f->to)
        return f->held.bytes + f->to->queued > MG_STREAM_HIGH ? mg_task_wait(f->view->task, &f->writer, cancel_writer)
                                                              : MG_OK;
    return MG_OK;
}

int mg_flow_write(struct mg_flow *f, const char *ptr, uint32_t len)
{
    struct mg_chain fresh = { 0 };

    if (mg_wait_pending(&f->writer))
        return MG_BUSY;
    mg_chain_copy(&fresh, ptr, len);
    return add(f, &fresh);
}

int mg_flow_add(struct mg_flow *f, struct mg_block *b, size_t len)
{
    struct mg_chain fresh = { 0 };

    if (mg_wait_pending(&f->writer))
        return MG_BUSY;
    mg_chain_add(&fresh, b, b->data, len);
    return add(f, &fresh);
}

int mg_flow_say(struct mg_flow *f, enum mg_opcode opcode, const char *ptr, uint32_t len)
{
    bool crowded = f->to && f->messages->out.bytes + f->to->queued > MG_STREAM_HIGH;

    if (!f->to || f->done)
        return MG_GONE;
    if (crowded && mg_wait_pending(&f->writer))
        return MG_BUSY;
    int status = mg_messages_send(f->messages, opcode, ptr, len);
    if (status != MG_OK || !crowded)
        return status;
    return mg_task_wait(f->view->task, &f->writer, cancel_writer);
}
