/* ask.h - what the command line asks a running moongate, by its control socket (control.h). */
#pragma once

#include <stdbool.h>

/* Is this a command that it takes? */
bool mg_ask_knows(const char *command);
/* What a word behind it stands for (control.h); NULL: none may follow. */
const char *mg_ask_word(const char *command);

/* A key and a string that go with it; a NULL key ends a list, and NULL strings are left out. */
struct mg_given {
    const char *key, *value;
};

/* Sends it, with these, and prints the answer: to be read, or as it came. The exit status. */
int mg_ask(const char *path, const char *command, const struct mg_given *given, bool json);
