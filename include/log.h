/* log.h - the error log: one line, one write.
 *
 * A line is "2026-11-23T05:53:35.123Z warn [worker 2] text". Whoever knows
 * what a failure means logs it, once, with who, what and why.
 */
#pragma once

#include "slice.h"

enum mg_log_level { MG_LOG_DEBUG, MG_LOG_INFO, MG_LOG_WARN, MG_LOG_ERROR, MG_LOG_NONE };

/* Lines below this level are not written. Default: MG_LOG_INFO. */
extern enum mg_log_level mg_log_level;

/* "debug", "info", "warn", "error", "none"; false for another word. */
bool mg_log_level_named(mg_slice word, enum mg_log_level *out);
const char *mg_log_level_word(enum mg_log_level level);
/* Who writes: "master", "worker 2". Kept, not copied. */
void mg_log_who(const char *who);
/* To this file from now on, appending; NULL is stderr. On failure the old
 * target stays, and the answer is false with errno. */
bool mg_log_open(const char *path);
/* Opens the same file again (after it was renamed). */
void mg_log_reopen(void);
int mg_log_fd(void);

void mg_log(enum mg_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Of several lines, such as a traceback: all but the first are indented. */
void mg_log_text(enum mg_log_level level, mg_slice text);
