/* verify, synth, tokenizer train; what kind a file is. */
#include "main.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "data/tokenize.h"
#include "shards/shard.h"
#include "shards/synth.h"

/* ---- what a file is ---- */

cps_status cps_main_sniff(const char *path, cps_main_file *kind_out) {
    static const unsigned char hdf5[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    if (cps_dir_exists(path)) {
        return cps_fail(CPS_ERR_USAGE, "'%s' is a folder, a file is wanted", path);
    }
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "'%s' cannot be opened: %s", path, strerror(errno));
    }
    unsigned char bytes[9] = {0};
    const size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    if (count >= 8 && memcmp(bytes, hdf5, sizeof hdf5) == 0) {
        *kind_out = CPS_FILE_HDF5;
    } else {
        /* eight bytes of length, then a JSON object */
        *kind_out = count == 9 && bytes[8] == '{' ? CPS_FILE_SAFETENSORS : CPS_FILE_OTHER;
    }
    return CPS_OK;
}

/* ---- tokenizer train ---- */

const cps_flag cps_tokenizer_flags[] = {
    {"vocabulary", 0, "N", "ids wanted: 514 and one for each merge (default: 8192)"},
    {"minimum", 0, "N", "pairs seen less often are not merged (default: 2)"},
    {"field", 0, "NAME", "text field of shards to learn from (default: caption)"},
    {NULL, 0, NULL, NULL},
};

/* Lines of text files and texts of shards, one source after another. */
typedef struct corpus {
    const cps_args *args; /* sources are its operands; NULL: the open file alone */
    const char *field;
    int32_t next; /* operand that is opened next */
    FILE *file;
    char *line;
    size_t room;
    cps_shard *shard;
    int64_t field_index, record, which;
    int64_t lines;
} corpus;

static void close_source(corpus *from) {
    if (from->file != NULL) {
        fclose(from->file);
    }
    cps_shard_close(from->shard);
    from->file = NULL;
    from->shard = NULL;
}

static cps_status open_source(corpus *from) {
    const char *path = cps_args_at(from->args, from->next);
    cps_main_file kind = CPS_FILE_OTHER;
    CPS_TRY(cps_main_sniff(path, &kind));
    from->next += 1;
    if (kind != CPS_FILE_HDF5) {
        from->file = fopen(path, "r");
        return from->file != NULL ? CPS_OK
                                  : cps_fail(CPS_ERR_UNAVAILABLE, "'%s' cannot be opened: %s", path,
                                             strerror(errno));
    }
    CPS_TRY(cps_shard_open(path, &from->shard));
    from->record = from->which = 0;
    from->field_index = cps_shard_field(from->shard, from->field);
    if (from->field_index < 0) {
        return cps_fail(CPS_ERR_DATA,
                        "shard '%s' has no text field '%s'; 'copse inspect' lists its fields, "
                        "--field names one",
                        path, from->field);
    }
    return CPS_OK;
}

/* Next text of the open shard, or NULL. */
static const char *next_text(corpus *from) {
    while (from->record < cps_shard_count(from->shard)) {
        if (from->which < cps_shard_text_count(from->shard, from->field_index, from->record)) {
            return cps_shard_text(from->shard, from->field_index, from->record, from->which++);
        }
        from->record += 1;
        from->which = 0;
    }
    return NULL;
}

static cps_status next_line(void *context, const char **line_out) {
    corpus *from = context;
    for (;;) {
        const char *text = NULL;
        if (from->shard != NULL) {
            text = next_text(from);
        } else if (from->file != NULL && getline(&from->line, &from->room, from->file) >= 0) {
            text = from->line;
        } else if (from->file != NULL && ferror(from->file)) {
            return cps_fail(CPS_ERR_IO, "'%s' cannot be read: %s",
                            cps_args_at(from->args, from->next - 1), strerror(errno));
        }
        if (text != NULL) {
            from->lines += 1;
            *line_out = text;
            return CPS_OK;
        }
        close_source(from);
        if (from->args == NULL || cps_args_at(from->args, from->next) == NULL) {
            *line_out = NULL;
            return CPS_OK;
        }
        CPS_TRY(open_source(from));
    }
}

static void show_merges(void *context, int64_t merges, int64_t wanted) {
    (void)context;
    char line[80];
    snprintf(line, sizeof line, "merges %lld/%lld", (long long)merges, (long long)wanted);
    cps_log_live(line);
}

cps_status cps_command_tokenizer_train(const cps_app *app) {
    const char *field = cps_args_get(app->args, "field");
    corpus texts = {.args = app->args, .field = field != NULL ? field : "caption", .next = 1};
    cps_tokenizer_train_options options = {.vocabulary = 8192, .progress = show_merges};
    CPS_TRY(cps_args_integer(app->args, "vocabulary", CPS_TOKENIZER_VOCABULARY_MIN, 1000000,
                             &options.vocabulary));
    CPS_TRY(cps_args_integer(app->args, "minimum", 1, INT64_MAX, &options.minimum_count));
    int64_t vocabulary = 0;
    const char *path = cps_args_at(app->args, 0);
    const cps_status status = cps_tokenizer_train(next_line, &texts, &options, path, &vocabulary);
    close_source(&texts);
    free(texts.line);
    cps_log_live("");
    CPS_TRY(status);
    printf("%s: vocabulary %lld from %lld texts\n", path, (long long)vocabulary,
           (long long)texts.lines);
    if (vocabulary < options.vocabulary) {
        printf("the texts hold no more pairs that are frequent enough: %lld ids were wanted\n",
               (long long)options.vocabulary);
    }
    return CPS_OK;
}

/* ---- synth ---- */

const cps_flag cps_synth_flags[] = {
    {"vocabulary", 0, "N", "ids of OUT/tokenizer.txt, learnt from the captions (default: 2048)"},
    {NULL, 0, NULL, NULL},
};

static void show_drawn(void *context, int64_t done, int64_t total) {
    (void)context;
    char line[80];
    snprintf(line, sizeof line, "drawing %lld/%lld pictures", (long long)done, (long long)total);
    cps_log_live(line);
}

/* A tokenizer of the set's own, so that a job needs nothing else. */
static cps_status learn_tokenizer(const char *folder, int64_t vocabulary) {
    char *texts = cps_format("%s/captions.txt", folder);
    char *path = cps_format("%s/tokenizer.txt", folder);
    corpus lines = {.next = 0};
    const cps_tokenizer_train_options options = {.vocabulary = vocabulary};
    int64_t learnt = 0;
    lines.file = fopen(texts, "r");
    cps_status status =
        lines.file == NULL
            ? cps_fail(CPS_ERR_IO, "'%s' cannot be opened: %s", texts, strerror(errno))
            : cps_tokenizer_train(next_line, &lines, &options, path, &learnt);
    close_source(&lines);
    free(lines.line);
    free(texts);
    free(path);
    return status;
}

cps_status cps_command_synth(const cps_app *app) {
    const char *folder = cps_args_at(app->args, 0);
    cps_synth_options options = {.folder = NULL};
    int64_t vocabulary = 2048;
    cps_arena *arena = NULL;
    CPS_TRY(cps_args_integer(app->args, "vocabulary", CPS_TOKENIZER_VOCABULARY_MIN, 1000000,
                             &vocabulary));
    CPS_TRY(cps_arena_create("command line", 65536, true, &arena));
    cps_synth_report report = {.train_images = 0};
    cps_status status = cps_args_fill(app->args, arena, &options);
    if (status == CPS_OK) {
        options.folder = folder;
        options.progress = show_drawn;
        status = cps_synth(app->comm, &options, &report);
        cps_log_live("");
    }
    cps_arena_destroy(arena);
    if (status == CPS_OK && cps_comm_rank(app->comm) == 0) {
        status = learn_tokenizer(folder, vocabulary);
    }
    if (status == CPS_OK && cps_comm_rank(app->comm) == 0) {
        printf("%s: %lld pictures to train on in %lld shards, %lld to test in %lld; tokenizer.txt, "
               "captions.txt, classes.txt\n",
               folder, (long long)report.train_images, (long long)report.train_shards,
               (long long)report.test_images, (long long)report.test_shards);
    }
    return status;
}

/* ---- verify ---- */

cps_status cps_command_verify(const cps_app *app) {
    cps_status worst = CPS_OK;
    int32_t bad = 0;
    for (int32_t i = 0; i < cps_args_count(app->args); i++) {
        int64_t records = 0;
        const char *path = cps_args_at(app->args, i);
        const cps_status status = cps_shard_verify(path, &records);
        if (status == CPS_OK) {
            printf("%s: %lld records, whole\n", path, (long long)records);
            continue;
        }
        if (cps_args_count(app->args) == 1) {
            return status;
        }
        cps_log(CPS_LOG_ERROR, "%s", cps_fail_message());
        worst = status;
        bad++;
    }
    return worst == CPS_OK
               ? CPS_OK
               : cps_fail(worst, "%d of %d shards are not whole", bad, cps_args_count(app->args));
}
