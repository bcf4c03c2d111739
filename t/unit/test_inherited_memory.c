/* test_inherited_memory.c - core/proxy/shared: the memory of another process is taken over, or refused. */
#undef NDEBUG
#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared.h"
#include "text.h"

enum { SIZE = 1 << 20, MARK = 4711 };

static pid_t other;
static char path[64]; /* of the other process's memory */

/* Another process that has such memory, with a place and a slot of its own. */
static void start_other(void)
{
    int pair[2], fd;

    assert(pipe(pair) == 0);
    other = fork();
    if (other == 0) {
        assert(mg_shared_start(SIZE));
        *(int *)mg_shared_place(MG_LIT("place"), sizeof(int)) = MARK;
        assert(mg_shared_slot_take(getpid()) == 0 && mg_shared_slot_take(getpid()) == 1);
        fd = mg_shared_descriptor();
        assert(write(pair[1], &fd, sizeof(fd)) == sizeof(fd));
        pause();
        _exit(1);
    }
    assert(read(pair[0], &fd, sizeof(fd)) == sizeof(fd));
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)other, fd);
    close(pair[0]);
    close(pair[1]);
}

/* Each of these runs in a process of its own: a process has one such memory. */
static int take(const char **why)
{
    int fd = open(path, O_RDWR);

    assert(fd >= 0);
    return mg_shared_inherit(fd, why);
}

static void places_are_found_again_and_slots_of_others_are_not_given_out(void)
{
    const char *why;

    assert(take(&why) && mg_shared_descriptor() >= 0);
    assert(*(int *)mg_shared_place(MG_LIT("place"), sizeof(int)) == MARK);
    assert(mg_shared_slots() == 2 && mg_shared_slot_of(other) == 0);
    assert(mg_shared_slot_take(getpid()) == 2 && mg_shared_slots() == 3);
    mg_shared_slot_give(0);
    assert(mg_shared_slot_of(other) == 1);
    assert(mg_shared_slot_take(getpid()) == 0 && mg_shared_slot_of(getpid()) == 0);
}

static void a_slot_is_refused_when_all_are_taken(void)
{
    unsigned taken = 0;

    assert(mg_shared_start(SIZE));
    while (mg_shared_slot_take(getpid()) >= 0)
        taken++;
    assert(taken == MG_SLOTS_MAX);
    mg_shared_slot_give(7);
    assert(mg_shared_slot_take(getpid()) == 7);
}

static void change_head(size_t at, uint32_t to)
{
    int fd = open(path, O_RDWR);

    assert(fd >= 0 && pwrite(fd, &to, sizeof(to), (off_t)at) == sizeof(to));
    close(fd);
}

static void memory_of_another_layout_is_refused(void)
{
    const char *why;

    change_head(4, MG_SHARED_LAYOUT + 1);
    assert(!take(&why) && strstr(why, "in another way"));
    assert(mg_shared_start(SIZE)); /* and a fresh one can be started */
}

static void memory_that_is_something_else_is_refused(void)
{
    const char *why;

    change_head(0, 0);
    assert(!take(&why) && strstr(why, "expected"));
    assert(!mg_shared_inherit(open("/dev/null", O_RDWR), &why) && strstr(why, "mapped"));
    assert(!mg_shared_inherit(memfd_create("empty", 0), &why) && strstr(why, "mapped"));
}

#define PROMISE(name) \
    {                 \
#name, name   \
    }
static const struct {
    const char *sentence;
    void (*test)(void);
} promises[] = {
    PROMISE(places_are_found_again_and_slots_of_others_are_not_given_out),
    PROMISE(a_slot_is_refused_when_all_are_taken),
    PROMISE(memory_of_another_layout_is_refused),
    PROMISE(memory_that_is_something_else_is_refused),
};

int main(void)
{
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        int status;
        start_other();
        pid_t child = fork();
        if (child == 0) {
            promises[i].test();
            exit(0);
        }
        assert(waitpid(child, &status, 0) == child && status == 0);
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
        printf("ok ");
        for (const char *c = promises[i].sentence; *c; c++)
            putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
    }
    return 0;
}
