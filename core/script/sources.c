/* sources.c - the texts of the files that a generation was loaded from. */
#include "sources.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MOST = 512, BYTES_MOST = 16 * 1024 * 1024 };

struct source {
    char *path, *text; /* of malloc */
    size_t len;
};

struct mg_sources {
    struct source all[FILES_MOST];
    unsigned count;
    size_t bytes;
};

static bool read_whole(int fd, char *to, size_t size)
{
    size_t filled = 0;
    ssize_t n = 1;

    while (filled < size && (n = read(fd, to + filled, size - filled)) > 0)
        filled += (size_t)n;
    return filled == size;
}

static bool add(struct mg_sources *s, char *path)
{
    struct source *one = &s->all[s->count];
    struct stat about;

    if (!path || s->count == FILES_MOST) {
        free(path);
        return false;
    }
    *one = (struct source){ .path = path };
    s->count++;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size >= 0 &&
                (size_t)about.st_size <= BYTES_MOST - s->bytes;
    if (good) {
        one->len = (size_t)about.st_size;
        s->bytes += one->len;
        one->text = malloc(one->len + 1);
        good = one->text && read_whole(fd, one->text, one->len);
    }
    if (fd >= 0)
        close(fd);
    return good;
}

struct mg_sources *mg_sources_read(const char *files)
{
    struct mg_sources *s = calloc(1, sizeof(*s));
    bool good = s != NULL;

    while (good && *files) {
        size_t n = strcspn(files, "\n");
        good = add(s, strndup(files, n));
        files += n + (files[n] == '\n');
    }
    if (good && s->count)
        return s;
    mg_sources_free(s);
    return NULL;
}

void mg_sources_free(struct mg_sources *s)
{
    for (unsigned i = 0; s && i < s->count; i++) {
        free(s->all[i].path);
        free(s->all[i].text);
    }
    free(s);
}

mg_slice mg_sources_find(const struct mg_sources *s, const char *path)
{
    for (unsigned i = 0; s && i < s->count; i++)
        if (strcmp(s->all[i].path, path) == 0)
            return (mg_slice){ s->all[i].text, (uint32_t)s->all[i].len };
    return (mg_slice){ NULL, 0 };
}
