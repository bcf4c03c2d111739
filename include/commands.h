/* commands.h - what the control socket may ask of the master (control.h). */
#pragma once

#include <stdbool.h>

struct mg_control_command;

struct mg_commands_events {
    /* Why no generation can be put in force now; NULL: it can. */
    const char *(*why_no_change)(void);
    const char *(*upgrade)(unsigned ticket);
    void (*stop)(bool drain);
};

/* All of them; `events` must live as long. */
const struct mg_control_command *mg_commands(const struct mg_commands_events *events);
/* Probation has found the newest generation worse, and this is why: it is taken back. What can't be now is tried again
 * at the next look. */
void mg_commands_on_worse(const char *why);
