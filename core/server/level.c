/* level.c - how much the error log says. */
#include "level.h"

#include <stdio.h>
#include <string.h>

#include "children.h"
#include "control.h"
#include "declared.h"
#include "log.h"
#include "text.h"

static bool on_line, told; /* by the command line, by the control socket */
static enum mg_log_level of_line;

void mg_level_start(bool given)
{
    on_line = given;
    of_line = mg_log_level;
    mg_children.log_level_stands = given;
}

static void settle(void)
{
    const struct mg_ready *now = mg_declared_now();

    if (!told && (on_line || now))
        mg_log_level = on_line ? of_line : (enum mg_log_level)now->log_level;
}

void mg_level_follow(void)
{
    settle();
}

static const char *answer(void)
{
    const char *word = mg_log_level_word(mg_log_level), *source = told ? "command" : on_line ? "option" : "script";
    const char *why = told ? "as it was told" : on_line ? "as --log says" : "as the script says";
    char text[128];

    snprintf(text, sizeof(text), "{\"level\":\"%s\",\"by\":\"%s\",\"summary\":\"%s, %s\"}", word, source, word, why);
    return mg_control_done_with(text);
}

const char *mg_level_ask(unsigned ticket)
{
    const char *word = mg_control_given("level");
    enum mg_log_level level = mg_log_level;

    (void)ticket;
    if (!word)
        return answer();
    bool back = strcmp(word, "default") == 0;
    if (!back && !mg_log_level_named(mg_slice_of(word), &level))
        return "log-level: debug, info, warn, error, none, or default is needed";
    told = !back;
    mg_log_level = level;
    settle();
    mg_children.log_level_stands = told || on_line;
    struct mg_level l = { (int)mg_log_level, mg_children.log_level_stands };
    mg_children_tell_with(MG_WORD_LEVEL, &l, sizeof(l));
    return answer();
}
