/* The command line: options in any place, "--name VALUE", "--name=VALUE", "-n VALUE", "-nVALUE";
 * "--" ends them. What is not known is an error with the nearest name. */
#include "main.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/options.h"

const cps_flag cps_common_flags[] = {
    {"help", 'h', NULL, "shows this"},
    {"quiet", 'q', NULL, "only warnings and errors"},
    {"verbose", 'v', NULL, "says more, on every rank"},
    {NULL, 0, NULL, NULL},
};
const cps_flag cps_ranks_flags[] = {
    {"ranks", 'n', "RANKS", "starts that many ranks with mpirun (default: this process alone)"},
    {NULL, 0, NULL, NULL},
};

typedef struct given {
    const cps_flag *flag;
    const char *value;
} given;

struct cps_args {
    const cps_command *command;
    cps_flag *row_flags;
    int32_t operand_count, given_count, forward_count;
    const char **operands; /* [argc] */
    given *given;          /* [argc] */
    char **forward;        /* [argc + 1]: argv without -n */
};

/* The flag tables of a command, in order. */
static const cps_flag *table_at(const cps_args *args, int32_t index) {
    switch (index) {
    case 0:
        return args->command->flags;
    case 1:
        return args->row_flags;
    case 2:
        return (args->command->kind & CPS_COMMAND_LAUNCH) != 0 ? cps_ranks_flags : NULL;
    default:
        return cps_common_flags;
    }
}
enum { TABLES = 4, MAX_FLAGS = 64 };

static const cps_flag *find_flag(const cps_args *args, const char *name, size_t length,
                                 char letter) {
    for (int32_t t = 0; t < TABLES; t++) {
        for (const cps_flag *flag = table_at(args, t); flag != NULL && flag->name != NULL; flag++) {
            const bool same = letter != 0 ? flag->letter == letter
                                          : strlen(flag->name) == length &&
                                                strncmp(flag->name, name, length) == 0;
            if (same) {
                return flag;
            }
        }
    }
    return NULL;
}

static cps_status unknown_flag(const cps_args *args, const char *text, size_t length) {
    const cps_command *command = args->command;
    const char *names[MAX_FLAGS + 1];
    int32_t count = 0;
    for (int32_t t = 0; t < TABLES; t++) {
        for (const cps_flag *flag = table_at(args, t);
             flag != NULL && flag->name != NULL && count < MAX_FLAGS; flag++) {
            names[count++] = flag->name;
        }
    }
    names[count] = NULL;
    char name[64] = "";
    const size_t start = length > 2 && text[1] == '-' ? 2 : 1;
    if (length - start < sizeof name) {
        memcpy(name, text + start, length - start);
        name[length - start] = '\0';
    }
    const char *near = cps_nearest_name(name, names);
    if (near != NULL) {
        return cps_fail(CPS_ERR_USAGE,
                        "copse %s: unknown option '%.*s' (did you mean '--%s'?); 'copse %s --help' "
                        "lists the options",
                        command->name, (int)length, text, near, command->name);
    }
    return cps_fail(CPS_ERR_USAGE,
                    "copse %s: unknown option '%.*s'; 'copse %s --help' lists the options",
                    command->name, (int)length, text, command->name);
}

/* One option at argv[*at]; moves *at past its value. */
static cps_status read_flag(cps_args *args, int argc, char **argv, int *at) {
    const char *text = argv[*at];
    const bool is_long = text[1] == '-';
    const char *equals = is_long ? strchr(text, '=') : NULL;
    const size_t length =
        is_long ? (equals != NULL ? (size_t)(equals - text) : strlen(text)) : (size_t)2;
    const cps_flag *flag =
        is_long ? find_flag(args, text + 2, length - 2, 0) : find_flag(args, NULL, 0, text[1]);
    if (flag == NULL) {
        return unknown_flag(args, text, is_long ? length : strlen(text));
    }
    const char *attached =
        is_long ? (equals != NULL ? equals + 1 : NULL) : (text[2] != '\0' ? text + 2 : NULL);
    const int first = *at;
    const char *value = NULL;
    if (flag->value == NULL) {
        if (attached != NULL) {
            return cps_fail(CPS_ERR_USAGE,
                            "copse %s: option '--%s' takes no value, but '%s' is given",
                            args->command->name, flag->name, attached);
        }
    } else if (attached != NULL) {
        value = attached;
    } else if (*at + 1 < argc) {
        *at += 1;
        value = argv[*at];
    } else {
        return cps_fail(CPS_ERR_USAGE, "copse %s: option '--%s' needs a value: --%s %s",
                        args->command->name, flag->name, flag->name, flag->value);
    }
    args->given[args->given_count++] = (given){flag, value};
    if (strcmp(flag->name, "ranks") != 0) {
        for (int i = first; i <= *at; i++) {
            args->forward[args->forward_count++] = argv[i];
        }
    }
    return CPS_OK;
}

static cps_status check_operands(const cps_args *args) {
    const cps_command *command = args->command;
    if (cps_args_has(args, "help")) {
        return CPS_OK;
    }
    if (args->operand_count < command->least) {
        return cps_fail(CPS_ERR_USAGE,
                        "copse %s: something is missing: copse %s %s ('copse %s --help' says more)",
                        command->name, command->name, command->operands, command->name);
    }
    if (command->most >= 0 && args->operand_count > command->most) {
        const char *extra = args->operands[command->most];
        return cps_fail(CPS_ERR_USAGE,
                        "copse %s: '%s' is one argument too many: copse %s %s ('copse %s --help' "
                        "says more)%s",
                        command->name, extra, command->name, command->operands, command->name,
                        strchr(extra, '=') != NULL ? "; KEY=VALUE wants a --set in front of each"
                                                   : "");
    }
    return CPS_OK;
}

static cps_status read_all(cps_args *args, int argc, char **argv, int first) {
    for (int i = 0; i < first; i++) {
        args->forward[args->forward_count++] = argv[i];
    }
    bool options = true;
    for (int i = first; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
            args->forward[args->forward_count++] = argv[i];
        } else if (options && argv[i][0] == '-' && argv[i][1] != '\0') {
            CPS_TRY(read_flag(args, argc, argv, &i));
        } else {
            args->operands[args->operand_count++] = argv[i];
            args->forward[args->forward_count++] = argv[i];
        }
    }
    return check_operands(args);
}

cps_status cps_args_parse(const cps_command *command, int argc, char **argv, int first,
                          cps_args **args_out) {
    const size_t room = (size_t)argc + 1;
    cps_args *args = calloc(1, sizeof *args);
    if (args != NULL) {
        args->command = command;
        args->row_flags = cps_flags_of_rows(command->rows);
        args->operands = calloc(room, sizeof *args->operands);
        args->given = calloc(room, sizeof *args->given);
        args->forward = calloc(room, sizeof *args->forward);
    }
    if (args == NULL || args->operands == NULL || args->given == NULL || args->forward == NULL) {
        cps_args_destroy(args);
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory at the command line");
    }
    const cps_status status = read_all(args, argc, argv, first);
    if (status != CPS_OK) {
        cps_args_destroy(args);
        return status;
    }
    *args_out = args;
    return CPS_OK;
}

void cps_args_destroy(cps_args *args) {
    if (args != NULL) {
        cps_flags_destroy(args->row_flags);
        free(args->operands);
        free(args->given);
        free(args->forward);
        free(args);
    }
}

const cps_command *cps_args_command(const cps_args *args) {
    return args->command;
}

int32_t cps_args_count(const cps_args *args) {
    return args->operand_count;
}

const char *cps_args_at(const cps_args *args, int32_t index) {
    return index < args->operand_count ? args->operands[index] : NULL;
}

const char *cps_args_get_at(const cps_args *args, const char *flag, int32_t index) {
    for (int32_t i = 0; i < args->given_count; i++) {
        if (strcmp(args->given[i].flag->name, flag) == 0 && index-- == 0) {
            return args->given[i].value != NULL ? args->given[i].value : "";
        }
    }
    return NULL;
}

const char *cps_args_get(const cps_args *args, const char *flag) {
    const char *last = NULL;
    const char *value;
    for (int32_t i = 0; (value = cps_args_get_at(args, flag, i)) != NULL; i++) {
        last = value;
    }
    return last;
}

bool cps_args_has(const cps_args *args, const char *flag) {
    return cps_args_get_at(args, flag, 0) != NULL;
}

char **cps_args_without_ranks(const cps_args *args) {
    return args->forward;
}

cps_status cps_args_integer(const cps_args *args, const char *flag, int64_t least, int64_t most,
                            int64_t *out) {
    const char *text = cps_args_get(args, flag);
    if (text == NULL) {
        return CPS_OK;
    }
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most) {
        return cps_fail(CPS_ERR_USAGE,
                        "copse %s: --%s is '%s': a whole number from %lld to %lld is wanted",
                        args->command->name, flag, text, (long long)least, (long long)most);
    }
    *out = value;
    return CPS_OK;
}

cps_status cps_args_choice(const cps_args *args, const char *flag, const char *const *names,
                           int32_t *out) {
    const char *text = cps_args_get(args, flag);
    if (text == NULL) {
        return CPS_OK;
    }
    char list[256] = "";
    for (int32_t i = 0; names[i] != NULL; i++) {
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return CPS_OK;
        }
        if (strlen(list) + strlen(names[i]) + 3 < sizeof list) {
            strcat(list, i == 0 ? "" : ", ");
            strcat(list, names[i]);
        }
    }
    return cps_fail(CPS_ERR_USAGE, "copse %s: --%s is '%s': one of %s is wanted",
                    args->command->name, flag, text, list);
}

/* The command as it was typed, for provenance; quoted where a shell would need it. */
char *cps_main_command_line(int argc, char **argv) {
    char *line = cps_format("copse");
    for (int i = 1; i < argc; i++) {
        const bool plain =
            argv[i][0] != '\0' &&
            strspn(argv[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                            "-_=./:,+@%") == strlen(argv[i]);
        char *longer =
            plain ? cps_format("%s %s", line, argv[i]) : cps_format("%s '%s'", line, argv[i]);
        free(line);
        line = longer;
    }
    return line;
}

/* ---- rows ---- */

static const char *value_name(cps_option_kind kind) {
    switch (kind) {
    case CPS_OPT_BOOL:
        return NULL;
    case CPS_OPT_INTEGER:
        return "N";
    case CPS_OPT_NUMBER:
        return "X";
    case CPS_OPT_CHOICE:
        return "NAME";
    default:
        return "TEXT";
    }
}

cps_flag *cps_flags_of_rows(const cps_option *rows) {
    const size_t count = rows != NULL ? (size_t)cps_options_count(rows) : 0;
    cps_flag *flags = calloc(count + 1, sizeof *flags);
    for (size_t i = 0; flags != NULL && i < count; i++) {
        char *name = cps_format("%s", rows[i].name);
        for (char *at = name; *at != '\0'; at++) {
            *at = *at == '_' ? '-' : *at;
        }
        const char *standard = rows[i].default_text;
        flags[i].name = name;
        flags[i].value = value_name(rows[i].kind);
        flags[i].help = standard != NULL && rows[i].kind != CPS_OPT_BOOL
                            ? cps_format("%s (default: %s)", rows[i].help, standard)
                            : cps_format("%s", rows[i].help);
    }
    return flags;
}

void cps_flags_destroy(cps_flag *flags) {
    for (cps_flag *flag = flags; flag != NULL && flag->name != NULL; flag++) {
        free((void *)(uintptr_t)flag->name);
        free((void *)(uintptr_t)flag->help);
    }
    free(flags);
}

/* One given value as JSON of its row's kind. */
static cps_status add_value(const cps_args *args, const cps_option *row, const char *text,
                            cps_json *object) {
    if (row->kind == CPS_OPT_BOOL) {
        cps_json_add_bool(object, row->name, true);
        return CPS_OK;
    }
    if (row->kind != CPS_OPT_NUMBER && row->kind != CPS_OPT_INTEGER) {
        cps_json_add_string(object, row->name, text);
        return CPS_OK;
    }
    char *end = NULL;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) {
        return cps_fail(CPS_ERR_USAGE, "copse %s: --%s is '%s': a number is wanted",
                        args->command->name, row->name, text);
    }
    cps_json_add_number(object, row->name, value);
    return CPS_OK;
}

cps_status cps_args_fill(const cps_args *args, cps_arena *arena, void *out) {
    const cps_option *rows = args->command->rows;
    cps_json *object = cps_json_new_object();
    cps_status status = CPS_OK;
    for (int64_t i = 0; status == CPS_OK && rows[i].name != NULL; i++) {
        const char *text = cps_args_get(args, args->row_flags[i].name);
        if (text != NULL) {
            status = add_value(args, &rows[i], text, object);
        }
    }
    if (status == CPS_OK) {
        char where[64];
        snprintf(where, sizeof where, "copse %s", args->command->name);
        status = cps_options_parse(rows, object, where, NULL, arena, out);
    }
    cps_json_destroy(object);
    return status;
}
