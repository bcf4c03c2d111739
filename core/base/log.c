/* log.c - the error log: one line, one write.
 *
 * One write to a file opened for appending is not torn apart by the other
 * processes that write to it.
 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

enum { HEAD_MAX = 96, LINES_MAX_BYTES = 16 * 1024, LINE_MAX_BYTES = 4096 };

/* clang-format off */
static const char *const names[] = {
    [MG_LOG_DEBUG] = "debug", [MG_LOG_INFO] = "info", [MG_LOG_WARN] = "warn",
    [MG_LOG_ERROR] = "error", [MG_LOG_NONE] = "none",
};
/* clang-format on */

enum mg_log_level mg_log_level = MG_LOG_INFO;

static const char *who = "moongate";
static int target = STDERR_FILENO;
static char *target_path; /* NULL while the target is stderr */

bool mg_log_level_named(mg_slice word, enum mg_log_level *out)
{
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (mg_text_equal(word, mg_slice_of(names[i]))) {
            *out = (enum mg_log_level)i;
            return true;
        }
    }
    return false;
}

const char *mg_log_level_word(enum mg_log_level level)
{
    return names[level];
}

void mg_log_who(const char *name)
{
    who = name;
}

/* Takes over both. */
static void set_target(int fd, char *path)
{
    if (target != STDERR_FILENO)
        close(target);
    free(target_path);
    target = fd;
    target_path = path;
}

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

bool mg_log_open(const char *path)
{
    if (!path) {
        set_target(STDERR_FILENO, NULL);
        return true;
    }

    char *copy = strdup(path);
    int fd = copy ? open_file(copy) : -1;
    if (fd < 0) {
        int error = errno;
        free(copy);
        errno = error;
        return false;
    }
    set_target(fd, copy);
    return true;
}

void mg_log_reopen(void)
{
    if (!target_path)
        return;
    int fd = open_file(target_path);
    if (fd < 0) {
        mg_log(MG_LOG_ERROR, "log %s: open: %s; the old file stays in use", target_path, strerror(errno));
        return;
    }
    close(target);
    target = fd;
}

int mg_log_fd(void)
{
    return target;
}

static size_t put_head(char *to, enum mg_log_level level)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    struct tm utc;
    gmtime_r(&t.tv_sec, &utc);
    int n = snprintf(to, HEAD_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s [%.32s] ", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, (int)(t.tv_nsec / 1000000),
                     names[level], who);
    return n < HEAD_MAX ? (size_t)n : HEAD_MAX - 1;
}

/* A log that takes nothing (a full disk, a pipe nobody reads) must not stop
 * the service: what it does not take at once is lost. */
static void put_line(enum mg_log_level level, mg_slice text)
{
    int error = errno;
    char head[HEAD_MAX];
    struct iovec v[] = {
        { head, put_head(head, level) },
        { (char *)(uintptr_t)text.ptr, text.len },
        { (char[]){ '\n' }, 1 },
    };
    while (writev(target, v, 3) < 0 && errno == EINTR)
        ;
    errno = error;
}

void mg_log(enum mg_log_level level, const char *format, ...)
{
    if (level < mg_log_level)
        return;

    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n < 0)
        return;
    uint32_t len = (size_t)n < sizeof(line) ? (uint32_t)n : sizeof(line) - 1;

    /* Bytes of a peer may be in it: they must not begin a line of their own. */
    for (uint32_t i = 0; i < len; i++)
        if ((uint8_t)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    put_line(level, (mg_slice){ line, len });
}

/* Further lines are indented, so that none can pass for a line of the log's own. */
void mg_log_text(enum mg_log_level level, mg_slice text)
{
    char lines[LINES_MAX_BYTES];
    uint32_t len = 0;

    if (level < mg_log_level)
        return;
    while (text.len > 0 && text.ptr[text.len - 1] == '\n')
        text.len--;
    for (uint32_t i = 0; i < text.len && len < sizeof(lines) - 3; i++) {
        char c = text.ptr[i];
        lines[len++] = c == '\n' || c == '\t' || ((uint8_t)c >= 0x20 && c != 0x7f) ? c : '?';
        if (c == '\n') {
            lines[len++] = ' ';
            lines[len++] = ' ';
        }
    }
    put_line(level, (mg_slice){ lines, len });
}
