/* Draws the data set: records are numbered through the classes in turn, so every shard holds all of
 * them. A shard is a pure function of options and its number; who writes it does not matter. */
#include "shards/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/rng.h"
#include "comm/agree.h"
#include "shards/shard.h"
#include "shards/synth_plant.h"

enum { QUALITY = 90, MOST_CAPTIONS = CPS_PLANT_CAPTIONS, TEXT_FIELDS = 10 };

#define UNFINISHED "unfinished" /* the marker while the set is drawn */

#define ROW(field) offsetof(cps_synth_options, field)
const cps_option cps_synth_option_rows[] = {
    {.name = "classes",
     .kind = CPS_OPT_INTEGER,
     .default_text = "16",
     .minimum = 2,
     .maximum = 4096,
     .help = "species to tell apart",
     .offset = ROW(classes)},
    {.name = "train_per_class",
     .kind = CPS_OPT_INTEGER,
     .default_text = "100",
     .minimum = 1,
     .maximum = 100000,
     .help = "training images of each species",
     .offset = ROW(train_per_class)},
    {.name = "test_per_class",
     .kind = CPS_OPT_INTEGER,
     .default_text = "20",
     .minimum = 0,
     .maximum = 100000,
     .help = "test images of each species",
     .offset = ROW(test_per_class)},
    {.name = "captions",
     .kind = CPS_OPT_INTEGER,
     .default_text = "2",
     .minimum = 1,
     .maximum = 5,
     .help = "captions of each image",
     .offset = ROW(captions)},
    {.name = "size",
     .kind = CPS_OPT_INTEGER,
     .default_text = "96",
     .minimum = 32,
     .maximum = 512,
     .help = "pixels a side",
     .offset = ROW(size)},
    {.name = "shard_images",
     .kind = CPS_OPT_INTEGER,
     .default_text = "1000",
     .minimum = 1,
     .maximum = 1000000,
     .help = "records of a shard",
     .offset = ROW(shard_images)},
    {.name = "seed",
     .kind = CPS_OPT_INTEGER,
     .default_text = "0",
     .minimum = 0,
     .maximum = 9007199254740992.0,
     .help = "another flora for each number",
     .offset = ROW(seed)},
    {.name = "overwrite",
     .kind = CPS_OPT_BOOL,
     .default_text = "false",
     .help = "replace another drawn data set in the folder",
     .offset = ROW(overwrite)},
    {.name = NULL},
};
#undef ROW

typedef struct flora {
    const cps_synth_options *options;
    cps_plant *plants;
    const char **labels; /* [classes] */
    char made_by[160];   /* options as text: the same text, the same data set */
} flora;

static cps_status check(const cps_synth_options *options) {
    for (const cps_option *row = cps_synth_option_rows; row->name != NULL; row++) {
        if (row->kind != CPS_OPT_INTEGER) {
            continue;
        }
        int64_t value;
        memcpy(&value, (const char *)options + row->offset, sizeof value);
        if ((double)value < row->minimum || (double)value > row->maximum) {
            return cps_fail(CPS_ERR_USAGE, "%s is %lld; wanted %.0f to %.0f", row->name,
                            (long long)value, row->minimum, row->maximum);
        }
    }
    return CPS_OK;
}

static cps_status grow(const cps_synth_options *options, flora *out) {
    *out = (flora){.options = options};
    out->plants = calloc((size_t)options->classes, sizeof *out->plants);
    out->labels = calloc((size_t)options->classes, sizeof *out->labels);
    if (out->plants == NULL || out->labels == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for %lld species",
                        (long long)options->classes);
    }
    for (int64_t i = 0; i < options->classes; i++) {
        cps_plant_create((uint64_t)options->seed, i, &out->plants[i]);
        out->labels[i] = out->plants[i].common;
    }
    snprintf(out->made_by, sizeof out->made_by,
             "copse synth classes=%lld train=%lld test=%lld captions=%lld size=%lld shard=%lld "
             "seed=%lld",
             (long long)options->classes, (long long)options->train_per_class,
             (long long)options->test_per_class, (long long)options->captions,
             (long long)options->size, (long long)options->shard_images, (long long)options->seed);
    return CPS_OK;
}

static void cut_down(flora *grown) {
    free(grown->plants);
    free((void *)(uintptr_t)grown->labels);
}

/* ---- records
 * ------------------------------------------------------------------------------------------------------------
 */

static cps_draw_key record_key(const flora *grown, bool test, int64_t record) {
    return (cps_draw_key){.seed = (uint64_t)grown->options->seed,
                          .stream = test ? 1 : 0,
                          .position = (uint64_t)record,
                          .module = cps_name_key("synth")};
}

/* Captions of a record: the first phrasing drawn, the next ones in turn, so that all differ. */
static void caption(const flora *grown, bool test, int64_t record, const cps_plant_picture *picture,
                    int64_t which, char text[CPS_PLANT_CAPTION]) {
    const cps_draw_key key = record_key(grown, test, record);
    const uint64_t first = cps_draw_below(&key, 1000, CPS_PLANT_CAPTIONS);
    cps_plant_caption(&grown->plants[record % grown->options->classes], picture,
                      (int32_t)((first + (uint64_t)which) % CPS_PLANT_CAPTIONS), text);
}

static const char *const field_names[TEXT_FIELDS] = {"caption", "file",       "kingdom", "phylum",
                                                     "class",   "order",      "family",  "genus",
                                                     "species", "common_name"};

static cps_status append(const flora *grown, bool test, int64_t record, cps_shard_writer *writer) {
    const int64_t species = record % grown->options->classes;
    const cps_plant *plant = &grown->plants[species];
    const cps_draw_key key = record_key(grown, test, record);
    cps_plant_picture picture;
    cps_image image;
    CPS_TRY(cps_plant_draw(plant, &key, (int32_t)grown->options->size, &picture, &image));
    uint8_t *bytes = NULL;
    size_t length = 0;
    const cps_status encoded = cps_image_encode_jpeg(&image, QUALITY, &bytes, &length);
    cps_image_free(&image);
    CPS_TRY(encoded);
    char captions[MOST_CAPTIONS][CPS_PLANT_CAPTION], file[64];
    const char *caption_texts[MOST_CAPTIONS];
    for (int64_t c = 0; c < grown->options->captions; c++) {
        caption(grown, test, record, &picture, c, captions[c]);
        caption_texts[c] = captions[c];
    }
    snprintf(file, sizeof file, "%s/%07lld.jpg", test ? "test" : "train", (long long)record);
    const char *ranks[8];
    cps_record_text texts[TEXT_FIELDS] = {{"caption", grown->options->captions, caption_texts}};
    const char *file_text = file;
    texts[1] = (cps_record_text){"file", 1, &file_text};
    for (int32_t i = 0; i < 8; i++) {
        ranks[i] = i < 7 ? plant->ranks[i] : plant->common;
        texts[2 + i] = (cps_record_text){field_names[2 + i], 1, &ranks[i]};
    }
    const cps_record entry = {.sample_id = cps_hash64(bytes, length) ^ cps_hash64_text(file),
                              .image = bytes,
                              .image_bytes = length,
                              .label = (int32_t)species,
                              .text_field_count = TEXT_FIELDS,
                              .texts = texts};
    const cps_status status = cps_shard_writer_append(writer, &entry);
    free(bytes);
    return status;
}

/* ---- shards
 * ---------------------------------------------------------------------------------------------------------------
 */

static cps_status write_shard(const flora *grown, bool test, int64_t shard, int64_t total) {
    const cps_synth_options *options = grown->options;
    char *path =
        cps_format("%s/%s-%05lld.h5", options->folder, test ? "test" : "train", (long long)shard);
    cps_shard_writer *writer = NULL;
    cps_status status = cps_shard_writer_create(path, field_names, TEXT_FIELDS, grown->labels,
                                                options->classes, grown->made_by, &writer);
    free(path);
    CPS_TRY(status);
    const int64_t last = cps_min_i64((shard + 1) * options->shard_images, total);
    for (int64_t record = shard * options->shard_images; record < last && status == CPS_OK;
         record++) {
        status = append(grown, test, record, writer);
    }
    if (status != CPS_OK) {
        cps_shard_writer_abandon(writer);
        return status;
    }
    return cps_shard_writer_finish(writer);
}

static cps_status write_set(cps_comm *comm, const flora *grown, bool test, int64_t total,
                            int64_t before, int64_t all) {
    const cps_synth_options *options = grown->options;
    const int64_t shards = cps_ceil_div(total, options->shard_images);
    cps_status status = CPS_OK;
    for (int64_t shard = cps_comm_rank(comm); shard < shards && status == CPS_OK;
         shard += cps_comm_size(comm)) {
        status = write_shard(grown, test, shard, total);
        if (options->progress != NULL && cps_comm_rank(comm) == 0) {
            options->progress(
                options->progress_context,
                before + cps_min_i64((shard + cps_comm_size(comm)) * options->shard_images, total),
                all);
        }
    }
    return cps_agree(comm, "drawing plants", status);
}

/* ---- texts and the marker
 * -----------------------------------------------------------------------------------------------------
 */

/* Drawing decides what a caption says, so the list is made from the finished shards. */
static cps_status list_captions(const flora *grown, int64_t total, char **text_out,
                                size_t *length_out) {
    const cps_synth_options *options = grown->options;
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    if (memory == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the captions");
    }
    cps_status status = CPS_OK;
    for (int64_t shard = 0; shard < cps_ceil_div(total, options->shard_images) && status == CPS_OK;
         shard++) {
        char *path = cps_format("%s/train-%05lld.h5", options->folder, (long long)shard);
        cps_shard *open = NULL;
        status = cps_shard_open(path, &open);
        free(path);
        for (int64_t record = 0; status == CPS_OK && record < cps_shard_count(open); record++) {
            const int64_t field = cps_shard_field(open, "caption");
            for (int64_t c = 0; c < cps_shard_text_count(open, field, record); c++) {
                fprintf(memory, "%s\n", cps_shard_text(open, field, record, c));
            }
        }
        cps_shard_close(open);
    }
    fclose(memory);
    if (status != CPS_OK) {
        free(text);
        return status;
    }
    *text_out = text;
    *length_out = length;
    return CPS_OK;
}

static cps_status write_text(const cps_synth_options *options, const char *name, const char *text,
                             size_t length) {
    char *path = cps_format("%s/%s", options->folder, name);
    const cps_status status = cps_file_write_atomic(path, text, length);
    free(path);
    return status;
}

static cps_status write_texts(const flora *grown, int64_t total) {
    char *captions = NULL, *classes = NULL;
    size_t captions_length = 0, classes_length = 0;
    CPS_TRY(list_captions(grown, total, &captions, &captions_length));
    FILE *memory = open_memstream(&classes, &classes_length);
    for (int64_t i = 0; memory != NULL && i < grown->options->classes; i++) {
        fprintf(memory, "%s\n", grown->labels[i]);
    }
    if (memory != NULL) {
        fclose(memory);
    }
    cps_status status = memory == NULL
                            ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the class names")
                            : CPS_OK;
    status = status != CPS_OK
                 ? status
                 : write_text(grown->options, "captions.txt", captions, captions_length);
    status = status != CPS_OK ? status
                              : write_text(grown->options, "classes.txt", classes, classes_length);
    status = status != CPS_OK
                 ? status
                 : write_text(grown->options, "synth.txt", grown->made_by, strlen(grown->made_by));
    free(captions);
    free(classes);
    return status;
}

/* Files of a drawn data set, and the tokenizer that the quickstart makes beside them. */
static const char *const own_files[] = {"train-*.h5", "test-*.h5", "synth.txt", "tokenizer.txt",
                                        NULL};

static bool holds(const cps_synth_options *options, const char *name) {
    char *pattern = cps_format("%s/%s", options->folder, name);
    char **paths = NULL;
    int64_t count = 0;
    const bool any = cps_glob(pattern, &paths, &count) == CPS_OK;
    if (any) {
        cps_strings_destroy(paths, count);
    } else {
        cps_fail_clear();
    }
    free(pattern);
    return any;
}

/* Shards that no marker tells to be ours are somebody's data. */
static cps_status look_unmarked(const cps_synth_options *options) {
    if (!options->overwrite && (holds(options, own_files[0]) || holds(options, own_files[1]))) {
        return cps_fail(CPS_ERR_USAGE,
                        "'%s' holds shards (train-*.h5 or test-*.h5) that 'copse synth' did not "
                        "draw: choose another folder, or --overwrite to delete them",
                        options->folder);
    }
    return CPS_OK;
}

/* *there_out: this very data set is in the folder already. Rank 0. */
static cps_status look(const flora *grown, bool *there_out) {
    const cps_synth_options *options = grown->options;
    char *marker = cps_format("%s/synth.txt", options->folder);
    char *text = NULL;
    size_t length = 0;
    *there_out = false;
    cps_status status = cps_dir_create(options->folder);
    if (status == CPS_OK && cps_file_exists(marker)) {
        status = cps_file_read(marker, 4096, &text, &length);
        *there_out = status == CPS_OK && strcmp(text, grown->made_by) == 0;
        const bool left = status == CPS_OK && strncmp(text, UNFINISHED, strlen(UNFINISHED)) == 0;
        if (status == CPS_OK && !*there_out && !left && !options->overwrite) {
            status = cps_fail(
                CPS_ERR_USAGE,
                "'%s' holds another drawn data set (%s): choose another folder, or --overwrite",
                options->folder, text);
        }
    } else if (status == CPS_OK) {
        status = look_unmarked(options);
    }
    free(text);
    free(marker);
    return status;
}

static cps_status remove_all(const char *pattern) {
    char **paths = NULL;
    int64_t count = 0;
    if (cps_glob(pattern, &paths, &count) != CPS_OK) {
        cps_fail_clear(); /* none */
        return CPS_OK;
    }
    cps_status status = CPS_OK;
    for (int64_t p = 0; p < count && status == CPS_OK; p++) {
        if (remove(paths[p]) != 0) {
            status = cps_fail(CPS_ERR_IO, "'%s' of the older data set cannot be deleted: %s",
                              paths[p], strerror(errno));
        }
    }
    cps_strings_destroy(paths, count);
    return status;
}

/* Older files go; what is drawn is marked as ours from the begin, so that a killed drawing can be
 * begun again. Rank 0. */
static cps_status clear(const flora *grown) {
    cps_status status = CPS_OK;
    for (size_t i = 0; own_files[i] != NULL && status == CPS_OK; i++) {
        char *pattern = cps_format("%s/%s", grown->options->folder, own_files[i]);
        status = remove_all(pattern);
        free(pattern);
    }
    return status != CPS_OK
               ? status
               : write_text(grown->options, "synth.txt", UNFINISHED, strlen(UNFINISHED));
}

static cps_status draw(cps_comm *comm, const flora *grown, int64_t train, int64_t test) {
    bool there = false;
    const bool first = cps_comm_rank(comm) == 0;
    cps_status status = first ? look(grown, &there) : CPS_OK;
    CPS_TRY(cps_agree(comm, "folder of the data set", status));
    if (cps_agree_any(comm, "folder of the data set", there)) {
        return CPS_OK;
    }
    CPS_TRY(cps_agree(comm, "folder of the data set", first ? clear(grown) : CPS_OK));
    CPS_TRY(write_set(comm, grown, false, train, 0, train + test));
    CPS_TRY(write_set(comm, grown, true, test, train, train + test));
    return cps_agree(comm, "texts of the data set", first ? write_texts(grown, train) : CPS_OK);
}

cps_status cps_synth(cps_comm *comm, const cps_synth_options *options,
                     cps_synth_report *report_out) {
    CPS_TRY(cps_agree(comm, "options of the data set", check(options)));
    flora grown;
    cps_status status = cps_agree(comm, "species", grow(options, &grown));
    const int64_t train = options->classes * options->train_per_class,
                  test = options->classes * options->test_per_class;
    status = status != CPS_OK ? status : draw(comm, &grown, train, test);
    cut_down(&grown);
    CPS_TRY(status);
    *report_out = (cps_synth_report){train, test, cps_ceil_div(train, options->shard_images),
                                     cps_ceil_div(test, options->shard_images)};
    return CPS_OK;
}
