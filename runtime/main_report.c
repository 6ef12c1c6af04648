/* copse report: its flags, and the services that pages need besides others. The course is
 * lua/copse/commands/report.lua.
 *
 * Service "mistakes": what an evaluation's predictions say of one run, report/mistakes.h.
 *   request  { "path": predictions of an evaluation, "most": samples at most }
 *
 * Service "thumbnails": small pictures of records.
 *   request  { "side": 96, "quality": 80, "patterns": [globs of shards],
 *              "items": [{ "shard": path or name of a file, "record": N,
 *                          "sample_id": "16 hexadecimal digits" }...] }
 *   result   { "thumbnails": [{ "data": "data:image/jpeg;base64,...", "width", "height" }
 *                             or { "reason": ... }...] }
 * A picture is that of the first shard, `shard` itself or one of that name among the patterns,
 * whose record N has the sample id. One that is not there or cannot be read gives its reason; it is
 * never a failure. */
#include "main.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numeric.h"
#include "base/text.h"
#include "image/image.h"
#include "report/mistakes.h"
#include "shards/shard.h"

enum { MAX_ITEMS = 1000, MAX_SIDE = 512 };
const cps_flag cps_report_flags[] = {
    {"out", 'o', "FILE", "the page (default: report.html, or comparison.html, in the folder)"},
    {"pictures", 0, "N", "pictures on the page at most, 0 to 500 (default: 48)"},
    {NULL, 0, NULL, NULL},
};

cps_status cps_service_mistakes(const cps_json *request, cps_json **result_out) {
    const char *path = cps_json_get_string(request, "path", NULL);
    CPS_BUG_IF(path == NULL);
    return cps_mistakes(path, cps_json_get_integer(request, "most", 0), result_out);
}

static const char prefix[] = "data:image/jpeg;base64,";

/* Files that match any pattern; one that matches nothing adds nothing. */
typedef struct known_shards {
    cps_shard *open; /* from one item to the next: they are often of one shard */
    char ***paths;   /* [patterns][counts] */
    int64_t *counts;
    int64_t patterns;
} known_shards;

static void forget_shards(known_shards *known) {
    for (int64_t i = 0; i < known->patterns; i++) {
        cps_strings_destroy(known->paths[i], known->counts[i]);
    }
    free(known->paths);
    free(known->counts);
    cps_shard_close(known->open);
}

static cps_status find_shards(const cps_json *patterns, known_shards *known) {
    const int64_t count = cps_json_count(patterns);
    known->paths = cps_allocate_zero(count + 1, 1, sizeof *known->paths);
    known->counts = cps_allocate_zero(count + 1, 1, sizeof *known->counts);
    if (known->paths == NULL || known->counts == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the names of shards");
    }
    for (const cps_json *at = cps_json_first(patterns); at != NULL; at = cps_json_next(at)) {
        const int64_t i = known->patterns++;
        CPS_BUG_IF(cps_json_string(at) == NULL);
        if (cps_glob(cps_json_string(at), &known->paths[i], &known->counts[i]) != CPS_OK) {
            known->paths[i] = NULL;
            known->counts[i] = 0;
        }
    }
    return CPS_OK;
}

static cps_status open_path(cps_shard **open, const char *path) {
    if (*open != NULL && strcmp(cps_shard_path(*open), path) == 0) {
        return CPS_OK;
    }
    cps_shard_close(*open);
    *open = NULL;
    if (!cps_file_exists(path)) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "the shard '%s' is not there any more", path);
    }
    return cps_shard_open(path, open);
}

/* Is record `record` of the open shard the sample that the item names? */
static cps_status check_sample(const cps_shard *shard, int64_t record, const char *sample_id) {
    char found[17] = "";
    if (record >= 0 && record < cps_shard_count(shard)) {
        snprintf(found, sizeof found, "%016" PRIx64, cps_shard_sample_id(shard, record));
    }
    if (strcmp(found, sample_id) != 0) {
        return cps_fail(CPS_ERR_DATA, "record %lld of '%s' is another sample by now",
                        (long long)record, cps_shard_path(shard));
    }
    return CPS_OK;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static cps_status open_sample(known_shards *known, const char *path, int64_t record,
                              const char *sample_id) {
    CPS_TRY(open_path(&known->open, path));
    return check_sample(known->open, record, sample_id);
}

/* Opens the shard that has the item's sample. The failure is that of the last candidate. */
static cps_status find_sample(known_shards *known, const cps_json *item, int64_t record) {
    const char *name = cps_json_get_string(item, "shard", "");
    const char *sample_id = cps_json_get_string(item, "sample_id", "");
    cps_status status = strchr(name, '/') != NULL
                            ? open_sample(known, name, record, sample_id)
                            : cps_fail(CPS_ERR_UNAVAILABLE, "no shard is known to hold it");
    for (int64_t i = 0; status != CPS_OK && i < known->patterns; i++) {
        for (int64_t k = 0; status != CPS_OK && k < known->counts[i]; k++) {
            if (strcmp(base_name(known->paths[i][k]), base_name(name)) == 0) {
                status = open_sample(known, known->paths[i][k], record, sample_id);
            }
        }
    }
    return status;
}

/* Longer side at most `side`; smaller pictures stay as they are. */
static cps_status shrink(const uint8_t *bytes, size_t length, int32_t side, cps_image *out) {
    int32_t width = 0, height = 0;
    CPS_TRY(cps_image_size(bytes, length, &width, &height));
    const int32_t longer = width > height ? width : height;
    const double scale = longer > side ? (double)side / longer : 1.0;
    const int32_t to_width =
        (int32_t)(width * scale + 0.5) > 0 ? (int32_t)(width * scale + 0.5) : 1;
    const int32_t to_height =
        (int32_t)(height * scale + 0.5) > 0 ? (int32_t)(height * scale + 0.5) : 1;
    cps_image whole = {0};
    CPS_TRY(cps_image_decode(bytes, length, to_width, to_height, &whole));
    const cps_status status = cps_image_resize(&whole, 0, 0, whole.width, whole.height, to_width,
                                               to_height, CPS_BICUBIC, out);
    cps_image_free(&whole);
    return status;
}

static void add_picture(const cps_image *image, const uint8_t *jpeg, size_t length,
                        cps_json *thumbnail) {
    const size_t room = sizeof prefix + CPS_BASE64_BYTES(length);
    char *text = cps_allocate_zero((int64_t)room, 1, 1);
    if (text == NULL) {
        cps_json_add_string(thumbnail, "reason", "out of memory");
        return;
    }
    memcpy(text, prefix, sizeof prefix - 1);
    cps_base64(jpeg, length, text + sizeof prefix - 1);
    cps_json_add_string(thumbnail, "data", text);
    cps_json_add_number(thumbnail, "width", image->width);
    cps_json_add_number(thumbnail, "height", image->height);
    free(text);
}

static cps_status read_bytes(const cps_shard *shard, int64_t record, uint8_t **bytes_out,
                             size_t *length_out) {
    const char *bad = cps_shard_bad_reason(shard, record);
    if (bad != NULL) {
        return cps_fail(CPS_ERR_DATA, "%s", bad);
    }
    const int64_t length = cps_shard_image_bytes(shard, record);
    uint8_t *bytes = cps_allocate_zero(length > 0 ? length : 1, 1, 1);
    if (bytes == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a picture of %lld bytes",
                        (long long)length);
    }
    const cps_status status = cps_shard_read_image(shard, record, true, bytes);
    if (status != CPS_OK) {
        free(bytes);
        return status;
    }
    *bytes_out = bytes;
    *length_out = (size_t)length;
    return CPS_OK;
}

static cps_status add_item(known_shards *known, const cps_json *item, int32_t side, int32_t quality,
                           cps_json *thumbnail) {
    const int64_t record = cps_json_get_integer(item, "record", -1);
    uint8_t *bytes = NULL, *jpeg = NULL;
    size_t length = 0, jpeg_length = 0;
    CPS_TRY(find_sample(known, item, record));
    CPS_TRY(read_bytes(known->open, record, &bytes, &length));
    cps_image small = {0};
    cps_status status = shrink(bytes, length, side, &small);
    if (status == CPS_OK) {
        status = cps_image_encode_jpeg(&small, quality, &jpeg, &jpeg_length);
    }
    if (status == CPS_OK) {
        add_picture(&small, jpeg, jpeg_length, thumbnail);
    }
    free(jpeg);
    cps_image_free(&small);
    free(bytes);
    return status;
}

cps_status cps_service_thumbnails(const cps_json *request, cps_json **result_out) {
    const cps_json *items = cps_json_get(request, "items");
    const int64_t side = cps_json_get_integer(request, "side", 96);
    const int64_t quality = cps_json_get_integer(request, "quality", 80);
    CPS_BUG_IF(side < 1 || side > MAX_SIDE || quality < 1 || quality > 100 ||
               cps_json_count(items) > MAX_ITEMS);
    known_shards known = {.patterns = 0};
    cps_status status = find_shards(cps_json_get(request, "patterns"), &known);
    cps_json *result = cps_json_new_object();
    cps_json *thumbnails = cps_json_add_array(result, "thumbnails");
    for (const cps_json *item = cps_json_first(items); item != NULL && status == CPS_OK;
         item = cps_json_next(item)) {
        cps_json *thumbnail = cps_json_add_object(thumbnails, NULL);
        if (add_item(&known, item, (int32_t)side, (int32_t)quality, thumbnail) != CPS_OK) {
            cps_json_add_string(thumbnail, "reason", cps_fail_message());
        }
    }
    forget_shards(&known);
    if (status != CPS_OK) {
        cps_json_destroy(result);
        return status;
    }
    *result_out = result;
    return CPS_OK;
}
