/* sink.c - lines into a buffer, the buffer into a file, a pipe or syslog's socket.
 *
 * A write holds whole lines, so that workers that share a file never mix
 * theirs. Nothing here fails an exchange: what can't be written is counted,
 * and told once until it works again. */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "text.h"

enum { BUFFER = MG_SINK_LINE_MOST + 1 };
enum target { OFF, FILE_OR_PIPE, SYSLOG };

static enum target target;
static int fd = -1;
static char path[512];
static char buffer[BUFFER];
static size_t filled;
static size_t write_most = BUFFER; /* what the target takes without mixing in another worker's lines */
static unsigned long dropped;
static bool told, torn; /* torn: the last write ended within a line */
static struct mg_timeout flusher;
static struct mg_clock_queue *flush_queue;

/* ---- A file or a pipe. ---- */

static void drop_lines(const char *at, size_t len, int error)
{
    const char *end = at + len;

    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) {
        dropped++;
        at++;
    }
    if (!told)
        mg_log(MG_LOG_ERROR, "log %s: %s; lines are dropped until it works again", path, strerror(error));
    told = true;
}

/* As many whole lines as fit into one write, at least one. */
static size_t next_write(const char *at, size_t left)
{
    const char *end;

    if (left <= write_most)
        return left;
    end = memrchr(at, '\n', write_most);
    if (!end)
        end = memchr(at, '\n', left);
    return end ? (size_t)(end + 1 - at) : left;
}

void mg_sink_flush(void)
{
    size_t done = 0;

    while (done < filled) {
        ssize_t n = write(fd, buffer + done, next_write(buffer + done, filled - done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            drop_lines(buffer + done, filled - done, n < 0 ? errno : ENOSPC);
            break;
        }
        done += (size_t)n;
    }
    if (done)
        torn = buffer[done - 1] != '\n';
    if (filled && done == filled)
        told = false;
    filled = 0;
}

static void on_flush(struct mg_timeout *t)
{
    (void)t;
    mg_sink_flush();
}

/* A pipe that several write to keeps apart only what is no longer than PIPE_BUF. */
static void look_at_target(void)
{
    struct stat s;

    write_most = fstat(fd, &s) == 0 && S_ISFIFO(s.st_mode) ? PIPE_BUF : BUFFER;
}

/* Without waiting: a named pipe's reader may be away or slow. */
static bool open_file(void)
{
    int opened = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);

    if (opened < 0)
        return false;
    if (fd >= 0)
        close(fd);
    fd = opened;
    look_at_target();
    return true;
}

/* ---- Syslog. ---- */

static bool open_syslog(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(a.sun_path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(a.sun_path, path, strlen(path));
    if (fd >= 0)
        close(fd);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

/* RFC 3164 as local daemons take it: local0.info, the time, no host. Made once a second. */
static mg_slice syslog_head(void)
{
    static char head[64];
    static time_t of;
    static uint32_t len;
    time_t now = (time_t)mg_clock_wall();
    struct tm tm;

    if (now != of && localtime_r(&now, &tm)) {
        char stamp[32];
        strftime(stamp, sizeof(stamp), "%b %e %H:%M:%S", &tm);
        len = (uint32_t)snprintf(head, sizeof(head), "<134>%s moongate[%d]: ", stamp, (int)getpid());
        of = now;
    }
    return (mg_slice){ head, len };
}

static void send_to_syslog(mg_slice line)
{
    mg_slice head = syslog_head();
    struct iovec v[2] = { { (void *)head.ptr, head.len }, { (void *)line.ptr, line.len - 1 } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

    ssize_t n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* A daemon that was started anew has another socket behind the same path. */
    if (n < 0 && (errno == ECONNREFUSED || errno == ENOTCONN || errno == EBADF) && open_syslog())
        n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        drop_lines(line.ptr, line.len, errno);
    else
        told = false;
}

/* ---- Either. ---- */

void mg_sink_put(mg_slice line)
{
    if (target == SYSLOG) {
        send_to_syslog(line);
        return;
    }
    if (filled + line.len > BUFFER)
        mg_sink_flush();
    if (torn && !filled)
        buffer[filled++] = '\n';
    memcpy(buffer + filled, line.ptr, line.len);
    filled += line.len;
    if (!flush_queue)
        mg_sink_flush();
    else if (!flusher.queue)
        mg_timeout_set(&flusher, flush_queue);
}

static bool open_target(mg_slice where)
{
    static const char prefix[] = "syslog:";
    const size_t n = sizeof(prefix) - 1;

    if (mg_text_equal(where, MG_LIT("off"))) {
        target = OFF;
        return true;
    }
    if (mg_text_equal(where, MG_LIT("stderr"))) {
        target = FILE_OR_PIPE;
        snprintf(path, sizeof(path), "stderr");
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        look_at_target();
        return fd >= 0;
    }
    target = where.len > n && memcmp(where.ptr, prefix, n) == 0 ? SYSLOG : FILE_OR_PIPE;
    if (target == SYSLOG)
        where = (mg_slice){ where.ptr + n, where.len - (uint32_t)n };
    if (where.len >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    snprintf(path, sizeof(path), "%.*s", (int)where.len, where.ptr);
    return target == SYSLOG ? open_syslog() : open_file();
}

bool mg_sink_open(mg_slice where, double flush)
{
    if (!open_target(where))
        return false;
    flusher.fire = on_flush;
    flush_queue = mg_clock_queue(flush);
    return true;
}

bool mg_sink_is_open(void)
{
    return target != OFF;
}

void mg_sink_reopen(void)
{
    if (target != FILE_OR_PIPE || strcmp(path, "stderr") == 0)
        return;
    mg_sink_flush();
    if (!open_file())
        mg_log(MG_LOG_ERROR, "log %s: %s; the old file stays in use", path, strerror(errno));
}

void mg_sink_close(void)
{
    if (target != OFF && fd >= 0) {
        mg_sink_flush();
        close(fd);
        fd = -1;
    }
    mg_timeout_clear(&flusher);
    target = OFF;
}

unsigned long mg_sink_dropped(void)
{
    return dropped;
}
