/* Evaluation preprocessing against what Pillow computed: vectors_preprocess FILE IMAGES_DIR. Cases,
 * NAME from `files`: orig_size_wh/NAME    width and height of IMAGES_DIR/NAME, exact mode/NAME L,
 * RGB or CMYK by the components of a JPEG, exact resized_wh/NAME, crop_left_top/NAME   from the
 * size, exact decoded/NAME         decoded here against decoded there: grey levels on average, and
 * /most at a single value u8_hwc/NAME          resize and crop of the stored decoded RGB: most grey
 * levels at any value u8_hwc/NAME/file     the same from IMAGES_DIR/NAME: grey levels on average
 *     f32_chw/NAME         normalisation of the stored u8_hwc
 */
#include "vectors.h"

#include "base/file.h"
#include "base/status.h"
#include "image/image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t max_file_bytes = (size_t)1 << 28;

/* Grey levels; the first two are what the vectors promise for equal input and for another decoder.
 */
static const double most_from_pixels = 1.0;
static const double mean_from_file = 0.5;
static const double most_decoded = 3.0;

typedef struct reference {
    cps_h5 *file;
    const char *images;
    char **names;
    int64_t count;
    int64_t size; /* of the crop; 0: no u8_hwc */
    bool has_floats;
    double mean[3], std[3];
} reference;

static double most(const uint8_t *a, const uint8_t *b, int64_t count) {
    int worst = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int difference = abs((int)a[i] - (int)b[i]);
        worst = difference > worst ? difference : worst;
    }
    return worst;
}

static double average(const uint8_t *a, const uint8_t *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
        sum += abs((int)a[i] - (int)b[i]);
    }
    return sum / (double)count;
}

static void load_reference(reference *data, cps_h5 *file, const char *images) {
    *data = (reference){.file = file, .images = images};
    cps_h5_info info;
    if (cps_h5_read_strings(file, "files", &data->names, &data->count) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    if (cps_h5_inspect(file, "u8_hwc", &info) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    if (info.kind == CPS_H5_DATASET) {
        if (info.rank != 4 || info.shape[0] != data->count || info.shape[1] != info.shape[2] ||
            info.shape[1] < 1 || info.shape[1] > 4096 || info.shape[3] != 3) {
            vectors_unusable("u8_hwc: its shape is not [%lld files, size, size, 3]",
                             (long long)data->count);
        }
        data->size = info.shape[1];
    }
    if (cps_h5_inspect(file, "f32_chw", &info) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    data->has_floats = info.kind == CPS_H5_DATASET;
    if (data->has_floats && (info.rank != 4 || info.shape[0] != data->count || info.shape[1] != 3 ||
                             info.shape[2] != data->size || info.shape[3] != data->size)) {
        vectors_unusable("f32_chw: its shape does not fit that of u8_hwc");
    }
    if (data->has_floats && (cps_h5_read_numbers(file, "/", "mean", 3, data->mean) != CPS_OK ||
                             cps_h5_read_numbers(file, "/", "std", 3, data->std) != CPS_OK)) {
        vectors_unusable("%s", cps_fail_message());
    }
}

/* Two integers of row `row` of dataset `name`, against ours. */
static void compare_pair(const reference *data, const char *name, int64_t row, int64_t first,
                         int64_t second) {
    if (!cps_h5_has(data->file, name)) {
        return;
    }
    char *label = cps_format("%s/%s", name, data->names[row]);
    int64_t want[2];
    if (cps_h5_read_rows(data->file, name, CPS_H5_I64, row, 1, want) != CPS_OK) {
        vectors_broken(label, 0, "%s", cps_fail_message());
    } else {
        vectors_compare_i64(label, (const int64_t[]){first, second}, want, 2);
    }
    free(label);
}

static void compare_sizes(const reference *data, int64_t row, const cps_image *image) {
    compare_pair(data, "orig_size_wh", row, image->width, image->height);
    cps_evaluation_plan plan;
    if (data->size == 0) {
        return;
    }
    if (cps_image_plan_evaluation(image->width, image->height, (int32_t)data->size, false, &plan) !=
        CPS_OK) {
        vectors_broken(data->names[row], 0, "%s", cps_fail_message());
        return;
    }
    compare_pair(data, "resized_wh", row, plan.resized_width, plan.resized_height);
    compare_pair(data, "crop_left_top", row, plan.left, plan.top);
}

/* Pillow's name for the number of components in a JPEG's frame header; NULL if there is none. */
static const char *jpeg_mode(const uint8_t *bytes, size_t length) {
    for (size_t at = 2; at + 10 < length && bytes[at] == 0xff;) {
        const uint8_t marker = bytes[at + 1];
        const bool frame =
            marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
        if (frame) {
            const uint8_t components = bytes[at + 9];
            return components == 1 ? "L" : (components == 3 ? "RGB" : "CMYK");
        }
        at += marker == 0xff ? 1 : 2 + (size_t)bytes[at + 2] * 256 + bytes[at + 3];
    }
    return NULL;
}

static void compare_mode(const reference *data, int64_t row, const uint8_t *bytes, size_t length) {
    char **modes = NULL;
    int64_t count = 0;
    const char *mode = jpeg_mode(bytes, length);
    if (mode == NULL || !cps_h5_has(data->file, "mode")) {
        return;
    }
    char *label = cps_format("mode/%s", data->names[row]);
    if (cps_h5_read_strings(data->file, "mode", &modes, &count) != CPS_OK || count != data->count) {
        vectors_broken(label, 0, "%s", cps_fail_message());
    } else {
        vectors_compare_text(label, mode, modes[row]);
    }
    cps_strings_destroy(modes, modes != NULL ? count : 0);
    free(label);
}

/* The stored decoded picture of a file; false if it has none. */
static bool stored_picture(const reference *data, const char *name, cps_image *image_out) {
    char *path = cps_format("decoded/%s", name);
    cps_h5_info info;
    void *pixels = NULL;
    int64_t count = 0;
    const bool there =
        cps_h5_inspect(data->file, path, &info) == CPS_OK && info.kind == CPS_H5_DATASET &&
        info.rank == 3 && info.shape[2] == 3 && info.shape[0] <= CPS_IMAGE_MAX_SIDE &&
        info.shape[1] <= CPS_IMAGE_MAX_SIDE &&
        cps_h5_read_alloc(data->file, path, CPS_H5_U8, (size_t)CPS_IMAGE_MAX_PIXELS * 3, &pixels,
                          &count) == CPS_OK;
    if (there) {
        *image_out = (cps_image){
            .width = (int32_t)info.shape[1], .height = (int32_t)info.shape[0], .pixels = pixels};
    } else if (cps_h5_has(data->file, path)) {
        vectors_broken(path, most_from_pixels, "not a readable [height, width, 3] picture");
    }
    free(path);
    return there;
}

static void compare_decoded(const char *name, const cps_image *ours, const cps_image *stored) {
    char *label = cps_format("decoded/%s", name);
    char *label_most = cps_format("decoded/%s/most", name);
    if (ours->width != stored->width || ours->height != stored->height) {
        vectors_broken(label, mean_from_file, "decoded as %d x %d, stored as %d x %d", ours->width,
                       ours->height, stored->width, stored->height);
    } else {
        const int64_t count = (int64_t)ours->width * ours->height * 3;
        vectors_judge(label, average(ours->pixels, stored->pixels, count), mean_from_file);
        vectors_judge(label_most, most(ours->pixels, stored->pixels, count), most_decoded);
    }
    free(label_most);
    free(label);
}

typedef double difference(const uint8_t *a, const uint8_t *b, int64_t count);

static void compare_evaluation(const reference *data, const char *label, const cps_image *image,
                               const uint8_t *want, difference *measure, double tolerance) {
    cps_image got = {0};
    if (cps_image_evaluation(image, (int32_t)data->size, false, CPS_BICUBIC, &got) != CPS_OK) {
        vectors_broken(label, tolerance, "%s", cps_fail_message());
        return;
    }
    vectors_judge(label, measure(got.pixels, want, 3 * data->size * data->size), tolerance);
    cps_image_free(&got);
}

static void compare_floats(const reference *data, int64_t row, uint8_t *pixels) {
    const int64_t count = 3 * data->size * data->size;
    const double tolerance = vectors_tolerance(1e-6, 1e-6); /* the file holds 32-bit floats */
    char *label = cps_format("f32_chw/%s", data->names[row]);
    cps_real *got = malloc((size_t)count * sizeof *got);
    double *want = malloc((size_t)count * sizeof *want);
    if (got == NULL || want == NULL ||
        cps_h5_read_rows(data->file, "f32_chw", CPS_H5_F64, row, 1, want) != CPS_OK) {
        vectors_broken(label, tolerance, "%s", cps_fail_message());
    } else {
        const cps_image image = {
            .width = (int32_t)data->size, .height = (int32_t)data->size, .pixels = pixels};
        cps_image_normalize(&image, false, data->mean, data->std, got);
        vectors_compare_real(label, got, want, count, tolerance);
    }
    free(want);
    free(got);
    free(label);
}

/* Everything that the file says about picture `row`; `file_image` is empty where IMAGES_DIR's could
 * not be decoded. */
static void compare_outputs(const reference *data, int64_t row, const cps_image *file_image) {
    const char *name = data->names[row];
    uint8_t *want = malloc((size_t)(3 * data->size * data->size) + 1);
    char *label = cps_format("u8_hwc/%s", name);
    char *label_file = cps_format("u8_hwc/%s/file", name);
    const bool has_pixels =
        data->size > 0 && want != NULL &&
        cps_h5_read_rows(data->file, "u8_hwc", CPS_H5_U8, row, 1, want) == CPS_OK;
    if (data->size > 0 && !has_pixels) {
        vectors_broken(label, most_from_pixels, "%s", cps_fail_message());
    }
    cps_image stored = {0};
    if (stored_picture(data, name, &stored)) {
        if (file_image->pixels != NULL) {
            compare_decoded(name, file_image, &stored);
        }
        if (has_pixels) {
            compare_evaluation(data, label, &stored, want, most, most_from_pixels);
        }
        cps_image_free(&stored);
    }
    if (has_pixels && file_image->pixels != NULL) {
        compare_evaluation(data, label_file, file_image, want, average, mean_from_file);
    }
    if (has_pixels && data->has_floats) {
        compare_floats(data, row, want);
    }
    free(label_file);
    free(label);
    free(want);
}

static void compare_picture(const reference *data, int64_t row) {
    char *path = cps_path_join(data->images, data->names[row]);
    char *bytes = NULL;
    size_t length = 0;
    cps_image image = {0};
    if (cps_file_read(path, max_file_bytes, &bytes, &length) != CPS_OK ||
        cps_image_decode((const uint8_t *)bytes, length, 0, 0, &image) != CPS_OK) {
        vectors_broken(data->names[row], mean_from_file, "%s: %s", path, cps_fail_message());
    } else {
        compare_sizes(data, row, &image);
        compare_mode(data, row, (const uint8_t *)bytes, length);
    }
    compare_outputs(data, row, &image);
    cps_image_free(&image);
    free(bytes);
    free(path);
}

static void skip_unknown(const reference *data) {
    static const char *const known[] = {"files",         "mode",   "orig_size_wh", "resized_wh",
                                        "crop_left_top", "u8_hwc", "f32_chw",      "decoded"};
    char **names = NULL;
    int64_t count = 0;
    if (cps_h5_list(data->file, "/", &names, &count) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    for (int64_t i = 0; i < count; ++i) {
        bool found = false;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; ++k) {
            found = found || strcmp(known[k], names[i]) == 0;
        }
        if (!found) {
            vectors_skip(names[i], "this runner does not know it");
        }
    }
    cps_strings_destroy(names, count);
}

int main(int argc, char **argv) {
    cps_h5 *file = vectors_open(argc, argv, 2, 2, "FILE IMAGES_DIR");
    if (!cps_dir_exists(argv[2])) {
        vectors_unusable("there is no folder '%s'", argv[2]);
    }
    reference data;
    load_reference(&data, file, argv[2]);
    for (int64_t row = 0; row < data.count; ++row) {
        compare_picture(&data, row);
    }
    skip_unknown(&data);
    cps_strings_destroy(data.names, data.count);
    (void)!cps_h5_close(file);
    return vectors_finish();
}
