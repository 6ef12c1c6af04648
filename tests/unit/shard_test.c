/* Shards: what goes in comes out, equal records give equal bytes, every flipped byte that carries
 * something is noticed. */
#include "shards/shard.h"

#include "base/file.h"
#include "base/hash.h"
#include "h5/h5.h"
#include "image/image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static char *in_folder(const char *name) {
    return cps_format("%s/%s", folder, name);
}

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cps-shard-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
    (void)state;
    char *command = cps_format("rm -rf '%s'", folder);
    const int rc = system(command);
    free(command);
    return rc;
}

static const char *const field_names[] = {"caption", "genus", "Blattform \xc3\xa4"};
static const char *const class_names[] = {"healthy", "rust"};

static void encode_picture(int seed, uint8_t **bytes_out, size_t *length_out) {
    uint8_t pixels[16 * 16 * 3];
    for (int i = 0; i < 16 * 16 * 3; ++i) {
        pixels[i] = (uint8_t)(i * 7 + seed * 31);
    }
    const cps_image image = {.width = 16, .height = 16, .pixels = pixels};
    assert_int_equal(cps_image_encode_jpeg(&image, 80, bytes_out, length_out), CPS_OK);
}

/* Five records: two captions, no caption, a bad one with bytes, a bad one without, one without
 * label. */
static cps_status write_records(const char *path) {
    cps_shard_writer *writer = NULL;
    assert_int_equal(
        cps_shard_writer_create(path, field_names, 3, class_names, 2, "a test", &writer), CPS_OK);
    for (int i = 0; i < 5; ++i) {
        uint8_t *bytes = NULL;
        size_t length = 0;
        encode_picture(i, &bytes, &length);
        const char *const captions[] = {"a leaf", "ein Blatt f\xc3\xbcr sich", ""};
        const char *const genus[] = {"Quercus"};
        const cps_record_text texts[] = {
            {.field = "caption", .count = i == 0 ? 3 : (i == 1 ? 0 : 1), .texts = captions},
            {.field = "genus", .count = i == 4, .texts = genus}};
        const cps_record record = {.sample_id = UINT64_MAX - (uint64_t)i,
                                   .image = (const uint8_t *)(i == 2 ? "junk" : (char *)bytes),
                                   .image_bytes = i == 2 ? 4 : (i == 3 ? 0 : length),
                                   .bad_reason = i == 2 ? "not a JPEG or PNG"
                                                        : (i == 3 ? "empty file" : NULL),
                                   .label = i == 4 ? -1 : i % 2,
                                   .text_field_count = 2,
                                   .texts = texts};
        assert_int_equal(cps_shard_writer_append(writer, &record), CPS_OK);
        free(bytes);
    }
    return cps_shard_writer_finish(writer);
}

static void what_goes_in_comes_out(void **state) {
    (void)state;
    char *path = in_folder("a.h5");
    assert_int_equal(write_records(path), CPS_OK);
    cps_shard *shard = NULL;
    assert_int_equal(cps_shard_open(path, &shard), CPS_OK);
    assert_string_equal(cps_shard_path(shard), path);
    assert_string_equal(cps_shard_made_by(shard), "a test");
    assert_int_equal(cps_shard_count(shard), 5);
    assert_true(cps_shard_sample_id(shard, 1) == UINT64_MAX - 1);
    assert_null(cps_shard_bad_reason(shard, 0));
    assert_string_equal(cps_shard_bad_reason(shard, 3), "empty file");
    assert_int_equal(cps_shard_image_bytes(shard, 2), 4);
    assert_int_equal(cps_shard_image_bytes(shard, 3), 0);

    const int64_t caption = cps_shard_field(shard, "caption");
    assert_true(caption >= 0);
    assert_int_equal(cps_shard_field(shard, "absent"), -1);
    assert_int_equal(cps_shard_field_count(shard), 3);
    assert_int_equal(cps_shard_text_count(shard, caption, 0), 2); /* the empty one is none */
    assert_int_equal(cps_shard_text_count(shard, caption, 1), 0);
    assert_string_equal(cps_shard_text(shard, caption, 0, 1), "ein Blatt f\xc3\xbcr sich");
    const int64_t genus = cps_shard_field(shard, "genus");
    assert_string_equal(cps_shard_text(shard, genus, 4, 0), "Quercus");
    assert_string_equal(cps_shard_field_name(shard, genus), "genus");
    const int64_t shape = cps_shard_field(shard, field_names[2]);
    assert_true(shape >= 0);
    assert_int_equal(cps_shard_text_count(shard, shape, 4), 0);

    assert_true(cps_shard_has_labels(shard));
    assert_int_equal(cps_shard_class_count(shard), 2);
    assert_string_equal(cps_shard_class_name(shard, 1), "rust");
    assert_int_equal(cps_shard_label(shard, 1), 1);
    assert_int_equal(cps_shard_label(shard, 4), -1);

    uint8_t *bytes = NULL;
    size_t length = 0;
    uint8_t back[8192];
    encode_picture(4, &bytes, &length);
    assert_int_equal(cps_shard_image_bytes(shard, 4), length);
    assert_int_equal(cps_shard_read_image(shard, 4, true, back), CPS_OK);
    assert_memory_equal(back, bytes, length);
    free(bytes);
    cps_shard_close(shard);
    cps_shard_close(NULL);
    int64_t records = 0;
    assert_int_equal(cps_shard_verify(path, &records), CPS_OK);
    assert_int_equal(records, 5);
    free(path);
}

static void a_shard_without_records_labels_or_fields(void **state) {
    (void)state;
    char *path = in_folder("none.h5");
    cps_shard_writer *writer = NULL;
    cps_shard *shard = NULL;
    assert_int_equal(cps_shard_writer_create(path, NULL, 0, NULL, 0, "", &writer), CPS_OK);
    assert_int_equal(cps_shard_writer_finish(writer), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_OK);
    assert_int_equal(cps_shard_count(shard), 0);
    assert_int_equal(cps_shard_field_count(shard), 0);
    assert_false(cps_shard_has_labels(shard));
    cps_shard_close(shard);
    free(path);
}

static void equal_records_give_equal_bytes(void **state) {
    (void)state;
    char *first = in_folder("first.h5");
    char *second = in_folder("a-longer-name.h5");
    char *a = NULL;
    char *b = NULL;
    size_t a_bytes = 0;
    size_t b_bytes = 0;
    assert_int_equal(write_records(first), CPS_OK);
    sleep(1);
    assert_int_equal(write_records(second), CPS_OK);
    assert_int_equal(cps_file_read(first, 1 << 20, &a, &a_bytes), CPS_OK);
    assert_int_equal(cps_file_read(second, 1 << 20, &b, &b_bytes), CPS_OK);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a, b, a_bytes);
    free(a);
    free(b);
    free(first);
    free(second);
}

static void wrong_records_are_refused(void **state) {
    (void)state;
    char *path = in_folder("refused.h5");
    cps_shard_writer *writer = NULL;
    const char *const twice[] = {"caption", "caption"};
    const char *const slash[] = {"a/b"};
    const char *const bad_class[] = {"\xff"};
    assert_int_equal(cps_shard_writer_create(path, twice, 2, NULL, 0, "", &writer), CPS_ERR_USAGE);
    assert_int_equal(cps_shard_writer_create(path, slash, 1, NULL, 0, "", &writer), CPS_ERR_USAGE);
    assert_int_equal(cps_shard_writer_create(path, NULL, 0, bad_class, 1, "", &writer),
                     CPS_ERR_DATA);
    assert_int_equal(cps_shard_writer_create("/nowhere/a.h5", NULL, 0, NULL, 0, "", &writer),
                     CPS_ERR_IO);
    assert_null(writer);
    assert_int_equal(cps_shard_writer_create(path, field_names, 3, class_names, 2, "", &writer),
                     CPS_OK);
    const char *const latin1[] = {"f\xfcr"};
    const cps_record_text texts[] = {{.field = "caption", .count = 1, .texts = latin1}};
    const cps_record_text unknown[] = {{.field = "family", .count = 1, .texts = latin1}};
    cps_record record = {.image = (const uint8_t *)"x", .image_bytes = 1, .label = 2};
    assert_int_not_equal(cps_shard_writer_append(writer, &record), CPS_OK);
    record.label = -1;
    record.image_bytes = 0;
    assert_int_not_equal(cps_shard_writer_append(writer, &record), CPS_OK);
    record.image_bytes = 1;
    record.text_field_count = 1;
    record.texts = unknown;
    assert_int_not_equal(cps_shard_writer_append(writer, &record), CPS_OK);
    record.texts = texts;
    assert_int_equal(cps_shard_writer_append(writer, &record), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "UTF-8"));
    cps_shard_writer_abandon(writer);
    cps_shard_writer_abandon(NULL);
    assert_false(cps_file_exists(path));
    free(path);
}

static void write_raw(const char *path, const char *bytes, size_t length) {
    FILE *raw = fopen(path, "wb");
    assert_non_null(raw);
    assert_int_equal(fwrite(bytes, 1, length, raw), length);
    assert_int_equal(fclose(raw), 0);
}

/* Reads everything through the library and makes one number of it. */
static uint64_t everything(const cps_shard *shard) {
    uint64_t sum = cps_shard_digest(shard);
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        uint8_t bytes[8192];
        assert_true(cps_shard_image_bytes(shard, i) <= (int64_t)sizeof bytes);
        if (cps_shard_read_image(shard, i, true, bytes) != CPS_OK) {
            return 0;
        }
        sum = sum * 31 + cps_shard_sample_id(shard, i) + (uint64_t)cps_shard_label(shard, i);
    }
    return sum;
}

static void every_flipped_byte_is_noticed_or_harmless(void **state) {
    (void)state;
    char *path = in_folder("good.h5");
    char *damaged = in_folder("damaged.h5");
    char *bytes = NULL;
    size_t length = 0;
    cps_shard *shard = NULL;
    assert_int_equal(write_records(path), CPS_OK);
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_OK);
    const uint64_t whole = everything(shard);
    cps_shard_close(shard);
    size_t noticed = 0;
    size_t tried = 0;
    for (size_t at = 0; at < length; at += 11) {
        bytes[at] = (char)(bytes[at] ^ 0x41);
        write_raw(damaged, bytes, length);
        bytes[at] = (char)(bytes[at] ^ 0x41);
        int64_t records = 0;
        tried += 1;
        if (cps_shard_verify(damaged, &records) != CPS_OK) {
            noticed += 1;
            continue;
        }
        assert_int_equal(cps_shard_open(damaged, &shard), CPS_OK);
        assert_true(everything(shard) == whole); /* a byte that nobody reads */
        assert_string_equal(cps_shard_made_by(shard), "a test");
        cps_shard_close(shard);
    }
    print_message("%zu of %zu flipped bytes refused, the others carry nothing\n", noticed, tried);
    assert_true(noticed > tried / 2);
    free(bytes);
    free(path);
    free(damaged);
}

static void cut_files_are_refused(void **state) {
    (void)state;
    char *path = in_folder("cut.h5");
    char *bytes = NULL;
    size_t length = 0;
    cps_shard *shard = NULL;
    assert_int_equal(write_records(path), CPS_OK);
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    for (size_t cut = 0; cut < length; cut += 97) {
        write_raw(path, bytes, cut);
        assert_int_equal(cps_shard_open(path, &shard), CPS_ERR_DATA);
    }
    write_raw(path, bytes, length - 1);
    assert_int_equal(cps_shard_open(path, &shard), CPS_ERR_DATA);
    free(bytes);
    free(path);
}

static void other_files_are_named(void **state) {
    (void)state;
    char *path = in_folder("other.h5");
    cps_h5 *file = NULL;
    cps_shard *shard = NULL;
    assert_int_equal(cps_shard_open("/nowhere/a.h5", &shard), CPS_ERR_UNAVAILABLE);
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "no shard"));
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "format", "copse-shard"), CPS_OK);
    assert_int_equal(cps_h5_write_integer(file, "/", "version", 99), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "version 99"));
    assert_int_equal(cps_h5_create(path, &file), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "format", "copse-shard"), CPS_OK);
    assert_int_equal(cps_h5_write_integer(file, "/", "version", 1), CPS_OK);
    assert_int_equal(cps_h5_write_integer(file, "/", "count", INT64_MAX / 8), CPS_OK);
    assert_int_equal(cps_h5_write_text(file, "/", "made_by", "a liar"), CPS_OK);
    assert_int_equal(cps_h5_close(file), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "count"));
    free(path);
}

/* Two records; `source` is said of the second alone. */
static cps_shard *write_sources(const char *path, const char *made_by, uint64_t source) {
    cps_shard_writer *writer = NULL;
    cps_shard *shard = NULL;
    assert_int_equal(cps_shard_writer_create(path, NULL, 0, NULL, 0, made_by, &writer), CPS_OK);
    for (int i = 0; i < 2; ++i) {
        const cps_record record = {.image = (const uint8_t *)"picture",
                                   .image_bytes = 7,
                                   .bad_reason = "none",
                                   .source_checksum = i == 1 ? source : 0,
                                   .label = -1};
        assert_int_equal(cps_shard_writer_append(writer, &record), CPS_OK);
    }
    assert_int_equal(cps_shard_writer_finish(writer), CPS_OK);
    assert_int_equal(cps_shard_open(path, &shard), CPS_OK);
    return shard;
}

static void knows_what_pictures_were_made_of(void **state) {
    (void)state;
    const uint64_t stored = cps_hash64("picture", 7);
    char *path = in_folder("source.h5");
    cps_shard *shard = write_sources(path, "resized, quality 90", 77);
    assert_true(cps_shard_knows_sources(shard));
    assert_true(cps_shard_source_checksum(shard, 0) == stored);
    assert_true(cps_shard_source_checksum(shard, 1) == 77);
    const uint64_t digest = cps_shard_digest(shard);
    cps_shard_close(shard);
    shard = write_sources(path, "resized, quality 90", 0); /* as former packers did */
    assert_false(cps_shard_knows_sources(shard));
    assert_true(cps_shard_source_checksum(shard, 1) == stored);
    assert_true(cps_shard_digest(shard) == digest); /* no part of the index */
    cps_shard_close(shard);
    shard = write_sources(path, "as they came", 0);
    assert_true(cps_shard_knows_sources(shard));
    cps_shard_close(shard);
    free(path);
}

static void verify_finds_an_unmarked_bad_image(void **state) {
    (void)state;
    char *path = in_folder("unmarked.h5");
    cps_shard_writer *writer = NULL;
    int64_t records = 0;
    assert_int_equal(cps_shard_writer_create(path, NULL, 0, NULL, 0, "", &writer), CPS_OK);
    const cps_record record = {.image = (const uint8_t *)"<html>", .image_bytes = 6, .label = -1};
    assert_int_equal(cps_shard_writer_append(writer, &record), CPS_OK);
    assert_int_equal(cps_shard_writer_finish(writer), CPS_OK);
    assert_int_equal(cps_shard_verify(path, &records), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "record 0"));
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(a_shard_without_records_labels_or_fields),
        cmocka_unit_test(equal_records_give_equal_bytes),
        cmocka_unit_test(wrong_records_are_refused),
        cmocka_unit_test(every_flipped_byte_is_noticed_or_harmless),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(verify_finds_an_unmarked_bad_image),
        cmocka_unit_test(knows_what_pictures_were_made_of),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
