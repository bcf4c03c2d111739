/* password.c - passwords, checked by crypt(3) in a thread of their own: a good hash takes from milliseconds to a
 * second, for which the loop must not wait.
 *
 * A worker has one such thread, which begins with the first check. It knows jobs and nothing else; what they mean to
 * tasks is the loop's matter. Implements what seam.h declares. */
#include <crypt.h>
#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "clock.h"
#include "task.h"

enum { WAITING_MOST = 256, NICENESS = 10 };

struct job {
    struct mg_wait wait; /* first; the loop's alone */
    struct job *next;
    bool dropped; /* nobody waits any more; the loop's alone */
    bool good;
    char *hash; /* behind the password, which is `password` */
    char password[];
};

struct jobs {
    struct job *first, **last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static struct jobs asked = { NULL, &asked.first }, done = { NULL, &done.first }; /* under the lock */
static unsigned waiting;                                                         /* the loop's: of asked and done */
static ev_async bell;
static bool begun;

static void append(struct jobs *list, struct job *j)
{
    j->next = NULL;
    *list->last = j;
    list->last = &j->next;
}

static struct job *take(struct jobs *list)
{
    struct job *j = list->first;

    if (j && !(list->first = j->next))
        list->last = &list->first;
    return j;
}

static void free_job(struct job *j)
{
    explicit_bzero(j->password, (size_t)(j->hash - j->password));
    free(j);
    waiting--;
}

/* ---- The thread. ---- */

static bool is_right(const struct job *j, struct crypt_data *data)
{
    const char *made = crypt_rn(j->password, j->hash, data, sizeof(*data));
    size_t len = strlen(j->hash);

    return made && strlen(made) == len && mg_crypto_equal(made, j->hash, (uint32_t)len);
}

/* Clients that wait for their responses go first, so it is nice to them. */
static void *work(void *nothing)
{
    static struct crypt_data data;

    (void)nothing;
    setpriority(PRIO_PROCESS, 0, NICENESS);
    pthread_mutex_lock(&lock);
    for (;;) {
        struct job *j = take(&asked);
        if (!j) {
            pthread_cond_wait(&some, &lock);
            continue;
        }
        pthread_mutex_unlock(&lock);
        j->good = is_right(j, &data);
        explicit_bzero(&data, sizeof(data));
        pthread_mutex_lock(&lock);
        append(&done, j);
        ev_async_send(mg_clock_loop(), &bell);
    }
    return NULL;
}

/* ---- The loop. ---- */

static void on_bell(struct ev_loop *l, ev_async *w, int events)
{
    (void)l;
    (void)w;
    (void)events;
    for (;;) {
        pthread_mutex_lock(&lock);
        struct job *j = take(&done);
        pthread_mutex_unlock(&lock);
        if (!j)
            return;
        if (!j->dropped)
            mg_task_answer(&j->wait, j->good ? MG_OK : MG_ABSENT);
        free_job(j);
    }
}

/* The thread may be at it: it is freed when that is done. */
static void cancel(struct mg_wait *w)
{
    ((struct job *)w)->dropped = true;
}

/* The ticks of budget.c, and all other signals, are for the loop. */
static bool begin(void)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;

    if (begun)
        return true;
    ev_async_init(&bell, on_bell);
    ev_async_start(mg_clock_loop(), &bell);
    ev_unref(mg_clock_loop());
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    begun = pthread_create(&thread, &attributes, work, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!begun) {
        ev_ref(mg_clock_loop());
        ev_async_stop(mg_clock_loop(), &bell);
    }
    return begun;
}

int mg_password_check(mg_task *t, const char *password, uint32_t len, const char *hash, uint32_t hash_len)
{
    if (waiting == WAITING_MOST)
        return MG_FULL;
    if (len >= CRYPT_MAX_PASSPHRASE_SIZE || hash_len >= CRYPT_OUTPUT_SIZE || memchr(password, 0, len) ||
        memchr(hash, 0, hash_len))
        return MG_ABSENT;
    struct job *j = calloc(1, sizeof(*j) + len + hash_len + 2);
    if (!j || !begin()) {
        free(j);
        return MG_NO_MEMORY;
    }
    memcpy(j->password, password, len);
    j->hash = j->password + len + 1;
    memcpy(j->hash, hash, hash_len);
    waiting++;
    int ticket = mg_task_wait(t, &j->wait, cancel);
    if (ticket < 0) {
        free_job(j);
        return ticket;
    }
    pthread_mutex_lock(&lock);
    append(&asked, j);
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
    return ticket;
}

bool mg_password_knows(const char *hash)
{
    int salt = crypt_checksalt(hash);

    return salt != CRYPT_SALT_INVALID && salt != CRYPT_SALT_METHOD_DISABLED;
}
