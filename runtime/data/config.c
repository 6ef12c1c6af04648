#include "data/config.h"

#include "data/stream.h"
#include "shards/pack.h"

#include <stdio.h>
#include <string.h>

/* Largest integer that JSON and Lua floats carry exactly. */
#define EXACT_MAX 9007199254740992.0

static const char *const caption_choices[] = {"resample", "fixed", NULL};
static const char *const draw_choices[] = {
    [CPS_DRAW_OWN] = "copse", [CPS_DRAW_MT19937] = "mt19937", NULL};

const cps_option cps_shards_rows[] = {
    {.name = "source",
     .kind = CPS_OPT_STRING,
     .help = "a CSV or TSV file that is packed into shards once",
     .offset = offsetof(cps_shards_options, source)},
    {.name = "classes",
     .kind = CPS_OPT_STRING,
     .help =
         "a file of class names, one a line in index order (with source; default: sorted labels)",
     .offset = offsetof(cps_shards_options, classes)},
    {.name = "format",
     .kind = CPS_OPT_CHOICE,
     .help =
         "how the source is written: a table, or the caption file that AgriCLIP's authors share "
         "(class folders are the labels)",
     .default_text = "table",
     .choices = cps_table_formats,
     .offset = offsetof(cps_shards_options, format)},
    {.name = "root",
     .kind = CPS_OPT_STRING,
     .help = "folder that the source's files are relative to (default: the source's)",
     .offset = offsetof(cps_shards_options, root)},
    {.name = "class_captions",
     .kind = CPS_OPT_STRING,
     .help = "a table of label and caption, several rows a class: all records of a class get its "
             "captions (with source)",
     .offset = offsetof(cps_shards_options, class_captions)},
    {.name = "allow_missing",
     .kind = CPS_OPT_BOOL,
     .help = "records whose file is not there are left out (with source)",
     .default_text = "false",
     .offset = offsetof(cps_shards_options, allow_missing)},
    {.name = "caption",
     .kind = CPS_OPT_STRING,
     .help = "text field that gives the captions",
     .default_text = "caption",
     .offset = offsetof(cps_shards_options, caption)},
    {.name = "caption_draw",
     .kind = CPS_OPT_CHOICE,
     .help = "which of a record's captions training sees: resample: one drawn at each access; "
             "fixed: one drawn once, by sample id and the job's seed",
     .default_text = "resample",
     .choices = caption_choices,
     .offset = offsetof(cps_shards_options, caption_draw)},
    {.name = "fraction",
     .kind = CPS_OPT_NUMBER,
     .help = "share of the records to use; 0: all, or by count",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1,
     .offset = offsetof(cps_shards_options, fraction)},
    {.name = "count",
     .kind = CPS_OPT_INTEGER,
     .help = "number of records to use; 0: all, or by fraction",
     .default_text = "0",
     .minimum = 0,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_shards_options, count)},
    {.name = "seed",
     .kind = CPS_OPT_INTEGER,
     .help = "seed of the subset's draw",
     .default_text = "0",
     .minimum = 0,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_shards_options, seed)},
    {.name = "draw",
     .kind = CPS_OPT_CHOICE,
     .help = "generator of the subset's draw; mt19937: the published splits",
     .default_text = "copse",
     .choices = draw_choices,
     .offset = offsetof(cps_shards_options, draw)},
    {.name = "rest_of",
     .kind = CPS_OPT_STREAM,
     .help = "the stream whose left-out records these are",
     .offset = offsetof(cps_shards_options, rest_of)},
    {.name = "weight",
     .kind = CPS_OPT_NUMBER,
     .help = "share in a mixture, relative to the other sets; 0: its size",
     .default_text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .offset = offsetof(cps_shards_options, weight)},
    {.name = NULL},
};

const cps_option cps_mixture_rows[] = {
    {.name = "epoch_samples",
     .kind = CPS_OPT_INTEGER,
     .help = "samples of one epoch; 0: the sum of the sets' sizes",
     .default_text = "0",
     .minimum = 0,
     .maximum = EXACT_MAX,
     .offset = offsetof(cps_stream_options, epoch_samples)},
    {.name = NULL},
};

const cps_option cps_tokenizer_rows[] = {
    {.name = "merges",
     .kind = CPS_OPT_STRING,
     .help = "a file of byte-pair merges, plain or gz",
     .offset = offsetof(cps_tokenizer_options, merges)},
    {.name = "json",
     .kind = CPS_OPT_STRING,
     .help = "a Hugging Face tokenizer.json",
     .offset = offsetof(cps_tokenizer_options, json)},
    {.name = "context",
     .kind = CPS_OPT_INTEGER,
     .help = "positions of a text, start and end included; 0: as the model's preset says",
     .default_text = "0",
     .minimum = 0,
     .maximum = 65536,
     .offset = offsetof(cps_tokenizer_options, context)},
    {.name = NULL},
};

cps_status cps_config_strings(const cps_json *array, const char *where, cps_arena *arena,
                              cps_lines *out) {
    const int64_t count = cps_json_count(array);
    if (array && !cps_json_is_array(array)) {
        return cps_fail(CPS_ERR_USAGE, "%s: should be a list of strings", where);
    }
    const char **values = cps_arena_alloc(arena, (size_t)count * sizeof *values);
    if (!values) {
        return CPS_ERR_UNAVAILABLE;
    }
    const cps_json *value = cps_json_first(array);
    for (int64_t i = 0; i < count; i++, value = cps_json_next(value)) {
        const char *text = cps_json_string(value);
        if (!text) {
            return cps_fail(CPS_ERR_USAGE, "%s[%lld]: should be a string", where, (long long)i + 1);
        }
        values[i] = cps_arena_strdup(arena, text);
        if (!values[i]) {
            return CPS_ERR_UNAVAILABLE;
        }
    }
    *out = (cps_lines){.count = count, .lines = values};
    return CPS_OK;
}

cps_status cps_shards_options_parse(const cps_json *object, const char *where, cps_arena *arena,
                                    cps_shards_options *out) {
    static const char *const also[] = {"shards", NULL};
    cps_shards_options options = {0};
    cps_lines patterns = {0};
    CPS_TRY(cps_options_parse(cps_shards_rows, object, where, also, arena, &options));
    CPS_TRY(cps_config_strings(cps_json_get(object, "shards"), where, arena, &patterns));
    options.pattern_count = patterns.count;
    options.patterns = patterns.lines;
    if ((options.pattern_count > 0) == (options.source != NULL)) {
        return cps_fail(CPS_ERR_USAGE, "%s: needs either patterns of shards or a source", where);
    }
    *out = options;
    return CPS_OK;
}

static cps_status parse_stream(const cps_json *object, cps_arena *arena,
                               cps_stream_options *stream) {
    static const char *const also[] = {"mixture", NULL};
    char where[256];
    const cps_json *mixture = cps_json_get(object, "mixture");
    const char *name = cps_json_key(object);
    snprintf(where, sizeof where, "data.%s", name);
    *stream = (cps_stream_options){.set_count = 1};
    if (mixture) {
        CPS_TRY(cps_options_parse(cps_mixture_rows, object, where, also, arena, stream));
        stream->set_count = cps_json_count(mixture);
    }
    stream->name = cps_arena_strdup(arena, name);
    stream->sets = cps_arena_alloc_zero(arena, (size_t)stream->set_count * sizeof *stream->sets);
    if (!stream->name || !stream->sets) {
        return CPS_ERR_UNAVAILABLE;
    }
    if (!mixture) {
        return cps_shards_options_parse(object, where, arena, &stream->sets[0]);
    }
    const cps_json *set = cps_json_first(mixture);
    for (int64_t i = 0; i < stream->set_count; i++, set = cps_json_next(set)) {
        snprintf(where, sizeof where, "data.%s[%lld]", name, (long long)i + 1);
        CPS_TRY(cps_shards_options_parse(set, where, arena, &stream->sets[i]));
    }
    return CPS_OK;
}

cps_status cps_streams_parse(const cps_json *data, cps_arena *arena,
                             cps_stream_options **streams_out, int64_t *count_out) {
    const int64_t count = cps_json_count(data);
    cps_stream_options *streams = cps_arena_alloc_zero(arena, (size_t)count * sizeof *streams);
    if (!streams) {
        return CPS_ERR_UNAVAILABLE;
    }
    const cps_json *object = cps_json_first(data);
    for (int64_t i = 0; i < count; i++, object = cps_json_next(object)) {
        /* Insertion by name: the order must not depend on how the JSON was written. */
        cps_stream_options stream;
        int64_t at = i;
        CPS_TRY(parse_stream(object, arena, &stream));
        for (; at > 0 && strcmp(streams[at - 1].name, stream.name) > 0; at--) {
            streams[at] = streams[at - 1];
        }
        streams[at] = stream;
    }
    *streams_out = streams;
    *count_out = count;
    return CPS_OK;
}

cps_status cps_tokenizer_options_parse(const cps_json *object, cps_arena *arena,
                                       cps_tokenizer_options *out) {
    cps_tokenizer_options options = {0};
    CPS_TRY(cps_options_parse(cps_tokenizer_rows, object, "tokenizer", NULL, arena, &options));
    options.path = options.merges ? options.merges : options.json;
    *out = options;
    return CPS_OK;
}
