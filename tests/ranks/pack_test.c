/* Packing on the ranks that are there. Without an argument: sources of every kind, options,
 * resuming, errors. With a folder: packs the same sources there and leaves the shards, for
 * pack_bytes.sh to compare. */
#include "shards/pack.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/pool.h"
#include "comm/agree.h"
#include "image/image.h"
#include "shards/inspect.h"
#include "shards/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d: %s:%d: %s (%s)\n", cps_comm_rank(comm), __FILE__, __LINE__,  \
                    #condition, cps_fail_message());                                               \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static int failures;
static char folder[256];
static cps_comm *comm;

static char *in_folder(const char *name) {
    return cps_format("%s/%s", folder, name);
}

/* ---- sources: rank 0 writes them
 * ---------------------------------------------------------------------------------- */

static void write_text(const char *name, const char *text) {
    char *path = in_folder(name);
    char *above = cps_path_folder(path);
    CHECK(cps_dir_create(above) == CPS_OK);
    CHECK(cps_file_write_atomic(path, text, strlen(text)) == CPS_OK);
    free(above);
    free(path);
}

static void write_picture(const char *name, int seed, int32_t side, bool png) {
    uint8_t *pixels = malloc((size_t)side * (size_t)side * 3);
    CHECK(pixels != NULL);
    for (int32_t i = 0; i < side * side * 3; ++i) {
        pixels[i] = (uint8_t)(i * seed + i / 97);
    }
    const cps_image image = {.width = side, .height = side, .pixels = pixels};
    uint8_t *bytes = NULL;
    size_t length = 0;
    CHECK((png ? cps_image_encode_png(&image, &bytes, &length)
               : cps_image_encode_jpeg(&image, 85, &bytes, &length)) == CPS_OK);
    char *path = in_folder(name);
    char *above = cps_path_folder(path);
    CHECK(cps_dir_create(above) == CPS_OK);
    CHECK(cps_file_write_atomic(path, bytes, length) == CPS_OK);
    free(above);
    free(path);
    free(bytes);
    free(pixels);
}

static void write_table(void) {
    char *text = cps_format("file,caption,label,genus,common_name\n");
    for (int i = 0; i < 23; ++i) {
        char *name = cps_format("table/images/%02d.%s", i, i % 5 == 0 ? "png" : "jpg");
        write_picture(name, i + 2, 40 + i, i % 5 == 0);
        /* Two captions, the second in a row of its own; number 7 has none. */
        char *longer = cps_format(
            "%s./images/%02d.%s,%s,class %c,Quercus,\"oak, common\"\nimages/%02d.%s,%s,,Quercus,\n",
            text, i, i % 5 == 0 ? "png" : "jpg", i == 7 ? " " : "a leaf", 'c' - (char)(i % 3), i,
            i % 5 == 0 ? "png" : "jpg", i == 7 ? "" : "ein \"\"Blatt");
        free(text);
        free(name);
        text = longer;
    }
    for (char *c = text; *c != '\0'; ++c) { /* the doubled quotes above belong into quotes */
        if (strncmp(c, "ein \"\"Blatt", 11) == 0) {
            memcpy(c, "ein 'Blatt'", 11);
        }
    }
    write_text("table/all.csv", text);
    free(text);
    write_text("table/images/junk.jpg", "<html>gone</html>");
    write_text("table/images/empty.jpg", "");
    write_text("table/bad.csv", "file,caption\nimages/01.jpg,fine\nimages/junk.jpg,a page\n"
                                "images/empty.jpg,nothing\nimages/02.jpg,fine\n");
}

static void write_sources(void) {
    write_table();
    write_picture("classes/rust/a.jpg", 3, 30, false);
    write_picture("classes/rust/deep/b.JPG", 4, 30, false);
    write_picture("classes/healthy/c.png", 5, 30, true);
    write_text("classes/.hidden/x.jpg", "no");
    write_text("classes/README.md", "no picture");
    write_picture("pairs/one.jpg", 6, 30, false);
    write_text("pairs/one.txt", "\xef\xbb\xbf"
                                "first caption\r\n\r\nsecond caption\n");
    write_picture("pairs/sub/two.jpg", 7, 30, false);
}

/* ---- helpers
 * ------------------------------------------------------------------------------------------------------
 */

static cps_status pack(const char *out, const char *source, cps_pack_options options,
                       cps_pack_report *report) {
    char *out_path = in_folder(out);
    char *source_path = in_folder(source);
    const char *sources[1] = {source_path};
    options.out = out_path;
    options.sources = sources;
    options.source_count = 1;
    const cps_status status = cps_pack(comm, &options, report);
    free(source_path);
    free(out_path);
    return status;
}

/* A packing that must fail; rank 0's message must hold `text`. */
static void refuse(const char *out, const char *source, cps_pack_options options, cps_status code,
                   const char *text) {
    cps_pack_report report;
    const cps_status status = pack(out, source, options, &report);
    CHECK(status != CPS_OK);
    CHECK(cps_agreed_code(comm) == code);
    CHECK(strstr(cps_fail_message(), text) != NULL);
}

static cps_shard *open_shard(const char *name) {
    char *path = in_folder(name);
    cps_shard *shard = NULL;
    int64_t records = 0;
    CHECK(cps_shard_verify(path, &records) == CPS_OK);
    CHECK(cps_shard_open(path, &shard) == CPS_OK);
    free(path);
    return shard;
}

static const char *text_of(const cps_shard *shard, int64_t record, const char *field,
                           int64_t which) {
    const int64_t number = cps_shard_field(shard, field);
    CHECK(number >= 0 && which < cps_shard_text_count(shard, number, record));
    return cps_shard_text(shard, number, record, which);
}

/* ---- tests
 * --------------------------------------------------------------------------------------------------------
 */

static void packs_a_table(void) {
    cps_pack_report report;
    CHECK(pack("t", "table/all.csv", (cps_pack_options){.shard_images = 5}, &report) == CPS_OK);
    CHECK(report.records == 23 && report.train_records == 23 && report.val_records == 0);
    CHECK(report.captions == 44 && report.without_caption == 1);
    CHECK(report.classes == 3 && report.fields == 4 && report.bad == 0 && report.missing == 0);
    CHECK(report.shards_written == 5 && report.shards_kept == 0 && report.image_bytes > 0);
    cps_pack_report_free(&report);
    cps_shard *shard = open_shard("t-00001.h5");
    CHECK(cps_shard_count(shard) == 5);
    CHECK(strcmp(text_of(shard, 0, "file", 0), "images/05.png") == 0);
    CHECK(strcmp(text_of(shard, 0, "caption", 0), "a leaf") == 0);
    CHECK(strcmp(text_of(shard, 0, "caption", 1), "ein 'Blatt'") == 0);
    CHECK(cps_shard_text_count(shard, cps_shard_field(shard, "caption"), 2) == 0);
    CHECK(strcmp(text_of(shard, 0, "common_name", 0), "oak, common") == 0);
    CHECK(cps_shard_text_count(shard, cps_shard_field(shard, "genus"), 0) == 1);
    CHECK(strcmp(cps_shard_class_name(shard, 0), "class a") == 0);
    CHECK(cps_shard_label(shard, 0) == 0 && cps_shard_label(shard, 1) == 2);
    cps_shard_close(shard);
    shard = open_shard("t-00004.h5");
    CHECK(cps_shard_count(shard) == 3);
    cps_shard_close(shard);
}

static void goes_on_where_it_was(void) {
    cps_pack_report report;
    char *path = in_folder("t-00002.h5");
    cps_comm_barrier(comm, "before");
    if (cps_comm_rank(comm) == 0) {
        unlink(path);
    }
    cps_comm_barrier(comm, "removed");
    CHECK(pack("t", "table/all.csv", (cps_pack_options){.shard_images = 5}, &report) == CPS_OK);
    CHECK(report.shards_written == 1 && report.shards_kept == 4 && report.records == 23);
    cps_pack_report_free(&report);
    refuse("t", "table/all.csv", (cps_pack_options){.shard_images = 6}, CPS_ERR_USAGE,
           "from another packing");
    CHECK(pack("t", "table/all.csv", (cps_pack_options){.shard_images = 12, .overwrite = true},
               &report) == CPS_OK);
    CHECK(report.shards_written == 2 && report.shards_kept == 0);
    CHECK(!cps_file_exists(path)); /* the shards beyond the new ones are gone */
    cps_pack_report_free(&report);
    free(path);
}

static void keeps_bad_files_as_records(void) {
    cps_pack_report report;
    CHECK(pack("bad", "table/bad.csv", (cps_pack_options){.shard_images = 2}, &report) == CPS_OK);
    CHECK(report.records == 4 && report.bad == 2 && report.example_count == 2);
    CHECK(strcmp(report.examples[0], "images/junk.jpg: not a JPEG or PNG (begins with '<html>gone</"
                                     "')") == 0);
    CHECK(strcmp(report.examples[1], "images/empty.jpg: empty file") == 0);
    cps_pack_report_free(&report);
    cps_shard *shard = open_shard("bad-00001.h5");
    CHECK(strcmp(cps_shard_bad_reason(shard, 0), "empty file") == 0);
    CHECK(!cps_shard_has_labels(shard));
    cps_shard_close(shard);
    CHECK(pack("bad", "table/bad.csv", (cps_pack_options){.shard_images = 2}, &report) == CPS_OK);
    CHECK(report.shards_kept == 2 && report.bad == 2 && report.example_count == 2);
    cps_pack_report_free(&report);
}

static void packs_folders(void) {
    cps_pack_report report;
    CHECK(pack("folder/", "classes", (cps_pack_options){0}, &report) == CPS_OK);
    CHECK(report.records == 3 && report.classes == 2 && report.captions == 0);
    cps_pack_report_free(&report);
    cps_shard *shard = open_shard("folder/data-00000.h5");
    CHECK(strcmp(cps_shard_class_name(shard, 0), "healthy") == 0);
    CHECK(cps_shard_label(shard, 0) == 0 && cps_shard_label(shard, 2) == 1);
    CHECK(strcmp(text_of(shard, 2, "file", 0), "rust/deep/b.JPG") == 0);
    cps_shard_close(shard);
    CHECK(pack("p.h5", "pairs", (cps_pack_options){0}, &report) == CPS_OK);
    CHECK(report.records == 2 && report.classes == 0 && report.captions == 2 &&
          report.without_caption == 1);
    cps_pack_report_free(&report);
    shard = open_shard("p-00000.h5");
    CHECK(strcmp(text_of(shard, 0, "caption", 1), "second caption") == 0);
    cps_shard_close(shard);
}

static void splits_by_seed(void) {
    cps_pack_report report;
    const cps_pack_options options = {.split = 0.2, .split_seed = 3};
    CHECK(pack("s", "table/all.csv", options, &report) == CPS_OK);
    CHECK(report.train_records == 18 && report.val_records == 5);
    cps_pack_report_free(&report);
    cps_shard *train = open_shard("s-train-00000.h5");
    cps_shard *val = open_shard("s-val-00000.h5");
    CHECK(cps_shard_count(train) == 18 && cps_shard_count(val) == 5);
    for (int64_t i = 0; i < 5; ++i) {
        for (int64_t k = 0; k < 18; ++k) {
            CHECK(cps_shard_sample_id(val, i) != cps_shard_sample_id(train, k));
        }
    }
    cps_shard_close(train);
    cps_shard_close(val);
}

static void reduces_when_asked(void) {
    cps_pack_report report;
    CHECK(pack("r", "table/all.csv", (cps_pack_options){.resize = 50, .quality = 70}, &report) ==
          CPS_OK);
    cps_pack_report_free(&report);
    cps_shard *shard = open_shard("r-00000.h5");
    for (int64_t i = 0; i < 23; ++i) {
        uint8_t *bytes = malloc((size_t)cps_shard_image_bytes(shard, i));
        int32_t width = 0;
        int32_t height = 0;
        CHECK(cps_shard_read_image(shard, i, true, bytes) == CPS_OK);
        CHECK(cps_image_sniff(bytes, 8) == CPS_IMAGE_JPEG);
        CHECK(cps_image_size(bytes, (size_t)cps_shard_image_bytes(shard, i), &width, &height) ==
              CPS_OK);
        CHECK(width == (40 + i < 50 ? 40 + i : 50) && height == width);
        free(bytes);
    }
    cps_shard_close(shard);
}

static void orders_classes_by_file(void) {
    cps_pack_report report;
    char *good = in_folder("good.txt");
    char *few = in_folder("few.txt");
    if (cps_comm_rank(comm) == 0) {
        write_text("good.txt", "class c\n  class b \n\nclass a\nclass d\n");
        write_text("few.txt", "class c\nclass bb\nclass a\n");
    }
    cps_comm_barrier(comm, "classes");
    CHECK(pack("c", "table/all.csv", (cps_pack_options){.classes_file = good}, &report) == CPS_OK);
    CHECK(report.classes == 4);
    cps_pack_report_free(&report);
    cps_shard *shard = open_shard("c-00000.h5");
    CHECK(strcmp(cps_shard_class_name(shard, 0), "class c") == 0 && cps_shard_label(shard, 0) == 0);
    cps_shard_close(shard);
    refuse("c2", "table/all.csv", (cps_pack_options){.classes_file = few}, CPS_ERR_USAGE,
           "'class b'");
    free(few);
    free(good);
}

/* A shard as former packers made them: encoded anew, without a word of the sources. Records 01 and
 * 02 of the table under their own names, 03 under another. */
static void write_former_shard(const char *path) {
    static const char *const files[][2] = {{"images/01.jpg", "images/01.jpg"},
                                           {"images/02.jpg", "images/02.jpg"},
                                           {"images/03.jpg", "renamed.jpg"}};
    cps_shard_writer *writer = NULL;
    CHECK(cps_shard_writer_create(path, NULL, 0, NULL, 0, "copse pack: resized to 20, quality 90",
                                  &writer) == CPS_OK);
    for (int i = 0; i < 3; ++i) {
        char *name = cps_format("table/%s", files[i][0]);
        char *source = in_folder(name);
        char *bytes = NULL;
        size_t length = 0;
        CHECK(cps_file_read(source, 1 << 20, &bytes, &length) == CPS_OK);
        cps_hash *hash = cps_hash_create();
        cps_hash_add(hash, files[i][1], strlen(files[i][1]) + 1);
        cps_hash_add(hash, bytes, length);
        const cps_record record = {.sample_id = cps_hash_value(hash),
                                   .image = (const uint8_t *)"small",
                                   .image_bytes = 5,
                                   .bad_reason = "not looked at",
                                   .label = -1};
        CHECK(cps_shard_writer_append(writer, &record) == CPS_OK);
        cps_hash_destroy(hash);
        free(bytes);
        free(source);
        free(name);
    }
    CHECK(cps_shard_writer_finish(writer) == CPS_OK);
}

static void excludes_by_identity_what_is_all_that_is_known(void) {
    cps_pack_report report;
    char *path = in_folder("former.h5");
    if (cps_comm_rank(comm) == 0) {
        write_former_shard(path);
    }
    cps_comm_barrier(comm, "former");
    const char *exclude[] = {path};
    CHECK(pack("x", "table/all.csv", (cps_pack_options){.exclude = exclude, .exclude_count = 1},
               &report) == CPS_OK);
    CHECK(report.records == 21 && report.excluded == 2 && report.excluded_unknown == 3);
    cps_pack_report_free(&report);
    free(path);
}

static void errors_are_clear(void) {
    if (cps_comm_rank(comm) == 0) {
        write_text("table/none.csv", "");
        write_text("table/header.csv", "file,caption\n");
        write_text("table/text.csv", "file,captions,label\nimages/01.jpg,x,y\n");
        write_text("table/image.csv", "image,caption\nimages/01.jpg,x\n");
        write_text("table/lost.csv", "file,caption\nimages/01.jpg,x\nimages/gone.jpg,x\n"
                                     "images/lost.jpg,y\n");
        write_text("table/two.csv", "file,caption,label\nimages/01.jpg,x,a\nimages/01.jpg,y,b\n");
        write_text("table/unnamed.csv", "file,caption\n,x\n");
        write_text("nothing/notes.txt", "no pictures here");
    }
    cps_comm_barrier(comm, "tables");
    const cps_pack_options plain = {0};
    refuse("e", "absent.csv", plain, CPS_ERR_UNAVAILABLE, "there is no file or folder");
    refuse("e", "table/none.csv", plain, CPS_ERR_USAGE, "is empty");
    refuse("e", "table/header.csv", plain, CPS_ERR_USAGE, "no rows");
    refuse(
        "e", "table/text.csv", plain, CPS_ERR_USAGE,
        "there is no caption column 'caption' (did you mean 'captions'?); the columns are: file, "
        "captions, label");
    refuse("e", "table/image.csv", plain, CPS_ERR_USAGE, "there is no file column 'file'");
    refuse("e", "table/lost.csv", plain, CPS_ERR_UNAVAILABLE, "images/gone.jpg");
    refuse("e", "table/two.csv", plain, CPS_ERR_USAGE, "two.csv:3: 'images/01.jpg' has label 'b'");
    refuse("e", "table/unnamed.csv", plain, CPS_ERR_USAGE, "unnamed.csv:2: this row names no file");
    refuse("e", "nothing", plain, CPS_ERR_USAGE, "0 images");
    refuse("e", "table/all.csv", (cps_pack_options){.split = 1}, CPS_ERR_USAGE, "split");
    refuse("e", "table/all.csv", (cps_pack_options){.quality = 101}, CPS_ERR_USAGE, "quality");
    refuse("e", "table/all.csv", (cps_pack_options){.label_column = "lable"}, CPS_ERR_USAGE,
           "did you mean 'label'?");
    cps_pack_report report;
    CHECK(pack("lost", "table/lost.csv", (cps_pack_options){.allow_missing = true}, &report) ==
          CPS_OK);
    CHECK(report.records == 1 && report.missing == 2);
    cps_pack_report_free(&report);
    CHECK(pack("text", "table/text.csv",
               (cps_pack_options){.caption_column = "captions", .label_column = ""},
               &report) == CPS_OK);
    CHECK(report.captions == 1 && report.classes == 0 && report.fields == 3);
    cps_pack_report_free(&report);
}

static void inspects_what_it_packed(void) {
    if (cps_comm_rank(comm) != 0) {
        return;
    }
    char *first = in_folder("t-00000.h5");
    char *second = in_folder("t-00001.h5");
    char *sample = in_folder("sample");
    char *table = in_folder("written");
    const char *const paths[] = {first, second};
    cps_json *facts = NULL;
    CHECK(cps_inspect(paths, 2, &facts) == CPS_OK);
    CHECK(cps_json_get_integer(facts, "records", 0) == 23);
    CHECK(cps_json_count(cps_json_get(facts, "fields")) == 4);
    CHECK(cps_json_get_integer(cps_json_get(facts, "labels"), "classes", 0) == 3);
    CHECK(cps_json_get_integer(cps_json_get(facts, "formats"), "png", 0) == 5);
    CHECK(cps_json_get_integer(cps_json_get(facts, "sides"), "median", 0) == 51);
    char *text = cps_inspect_text(facts);
    CHECK(strstr(text, "2 shards, 23 records") != NULL && strstr(text, "class b") != NULL);
    free(text);
    cps_json_destroy(facts);
    char *image = NULL;
    CHECK(cps_inspect_sample(first, 3, sample, &image) == CPS_OK);
    CHECK(cps_file_exists(image));
    free(image);
    CHECK(cps_inspect_sample(first, 99, sample, NULL) == CPS_ERR_USAGE);
    int64_t written = 0;
    CHECK(cps_inspect_table(first, 9, table, &written) == CPS_OK && written == 9);
    free(first);
    free(second);
    free(sample);
    free(table);
}

/* What was written out can be packed again, quotes and all. */
static void packs_what_it_wrote_out(void) {
    cps_pack_report report;
    cps_comm_barrier(comm, "written");
    CHECK(pack("again", "written/captions.csv", (cps_pack_options){0}, &report) == CPS_OK);
    CHECK(report.records == 9 && report.captions == 16 && report.without_caption == 1);
    cps_pack_report_free(&report);
}

static void pack_for_comparison(const char *target) {
    snprintf(folder, sizeof folder, "%s", target);
    if (cps_comm_rank(comm) == 0) {
        write_sources();
    }
    cps_comm_barrier(comm, "sources");
    cps_pack_report report;
    CHECK(pack("a", "table/all.csv",
               (cps_pack_options){.shard_images = 3, .split = 0.3, .resize = 45},
               &report) == CPS_OK);
    cps_pack_report_free(&report);
    CHECK(pack("b", "table/bad.csv", (cps_pack_options){.shard_images = 1}, &report) == CPS_OK);
    cps_pack_report_free(&report);
}

static void run_all(void) {
    if (cps_comm_rank(comm) == 0) {
        strcpy(folder, "/tmp/cps-pack-XXXXXX");
        CHECK(mkdtemp(folder) != NULL);
        write_sources();
    }
    cps_comm_broadcast(comm, "folder", folder, sizeof folder, 0);
    packs_a_table();
    goes_on_where_it_was();
    keeps_bad_files_as_records();
    packs_folders();
    splits_by_seed();
    reduces_when_asked();
    orders_classes_by_file();
    excludes_by_identity_what_is_all_that_is_known();
    errors_are_clear();
    inspects_what_it_packed();
    packs_what_it_wrote_out();
    cps_comm_barrier(comm, "done");
    if (cps_comm_rank(comm) == 0) {
        char *command = cps_format("rm -rf '%s'", folder);
        CHECK(system(command) == 0);
        free(command);
    }
}

int main(int argc, char **argv) {
    if (cps_comm_start(&argc, &argv, &comm) != CPS_OK || cps_pool_start(2) != CPS_OK) {
        return 1;
    }
    if (argc > 1) {
        pack_for_comparison(argv[1]);
    } else {
        run_all();
    }
    const bool failed = cps_agree_any(comm, "result", failures > 0);
    if (cps_comm_rank(comm) == 0 && argc == 1) {
        printf("%d passed, %d failed, 0 skipped\n", failed ? 0 : 1, failed ? 1 : 0);
    }
    cps_pool_stop();
    cps_comm_end(comm);
    return failed;
}
