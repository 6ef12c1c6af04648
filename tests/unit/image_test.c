/* Pictures: formats, damage, resampling against the plain formula, windows against whole pictures.
 */
#include "image/image.h"

#include "base/status.h"
#include "image/resize_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

#include <cmocka.h>

static uint32_t noise(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

/* A smooth picture with some grain: compresses well and is nowhere symmetric. */
static cps_image make_picture(int32_t width, int32_t height) {
    cps_image image = {.width = width, .height = height};
    image.pixels = malloc((size_t)width * (size_t)height * 3);
    assert_non_null(image.pixels);
    uint32_t state = 7;
    for (int32_t y = 0; y < height; ++y) {
        for (int32_t x = 0; x < width; ++x) {
            uint8_t *pixel = image.pixels + 3 * ((size_t)y * (size_t)width + (size_t)x);
            pixel[0] = (uint8_t)(127 + 100 * sin(0.11 * x + 0.05 * y) + noise(&state) % 16);
            pixel[1] = (uint8_t)(127 + 90 * cos(0.07 * y) + noise(&state) % 16);
            pixel[2] = (uint8_t)((x * 3 + y * 5 + (int32_t)(noise(&state) % 8)) & 255);
        }
    }
    return image;
}

static double mean_difference(const cps_image *a, const cps_image *b) {
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    const size_t count = (size_t)a->width * (size_t)a->height * 3;
    double sum = 0;
    for (size_t i = 0; i < count; ++i) {
        sum += abs((int)a->pixels[i] - (int)b->pixels[i]);
    }
    return sum / (double)count;
}

static void assert_same(const cps_image *a, const cps_image *b) {
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_memory_equal(a->pixels, b->pixels, (size_t)a->width * (size_t)a->height * 3);
}

static void encodes_and_decodes(void **state) {
    (void)state;
    cps_image image = make_picture(61, 43);
    uint8_t *bytes = NULL;
    size_t length = 0;
    cps_image back = {0};
    int32_t width = 0;
    int32_t height = 0;
    assert_int_equal(cps_image_encode_png(&image, &bytes, &length), CPS_OK);
    assert_int_equal(cps_image_sniff(bytes, length), CPS_IMAGE_PNG);
    assert_int_equal(cps_image_size(bytes, length, &width, &height), CPS_OK);
    assert_true(width == 61 && height == 43);
    assert_int_equal(cps_image_decode(bytes, length, 0, 0, &back), CPS_OK);
    assert_same(&image, &back);
    cps_image_free(&back);
    free(bytes);
    assert_int_equal(cps_image_encode_jpeg(&image, 95, &bytes, &length), CPS_OK);
    assert_int_equal(cps_image_sniff(bytes, length), CPS_IMAGE_JPEG);
    assert_int_equal(cps_image_size(bytes, length, &width, &height), CPS_OK);
    assert_true(width == 61 && height == 43);
    assert_int_equal(cps_image_decode(bytes, length, 0, 0, &back), CPS_OK);
    assert_true(mean_difference(&image, &back) < 12);
    free(bytes);
    cps_image_free(&back);
    assert_null(back.pixels);
    cps_image_free(&back);
    cps_image_free(NULL);
    assert_int_equal(cps_image_encode_jpeg(&image, 0, &bytes, &length), CPS_ERR_USAGE);
    cps_image_free(&image);
}

static void names_what_is_no_picture(void **state) {
    (void)state;
    cps_image image;
    int32_t side = 0;
    const char *html = "<html>404</html>";
    const uint8_t zeros[10] = {0};
    assert_int_equal(cps_image_decode(NULL, 0, 0, 0, &image), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "empty file");
    assert_int_equal(cps_image_decode((const uint8_t *)html, strlen(html), 0, 0, &image),
                     CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "not a JPEG or PNG (begins with '<html>404</h')");
    assert_int_equal(cps_image_size(zeros, 3, &side, &side), CPS_ERR_DATA);
    assert_string_equal(cps_fail_message(), "not a JPEG or PNG (begins with bytes 00 00 00)");
    assert_int_equal(cps_image_sniff(zeros, 10), CPS_IMAGE_UNKNOWN);
}

/* Every prefix of a file: the whole one decodes, and so it may without its last bytes; all else is
 * an error. */
static void check_prefixes(const uint8_t *bytes, size_t length, size_t step, size_t spare) {
    for (size_t cut = 0; cut < length; cut += step) {
        uint8_t *prefix = malloc(cut + 1); /* exact size: overreads are seen by the sanitizer */
        assert_non_null(prefix);
        memcpy(prefix, bytes, cut);
        cps_image image = {0};
        const cps_status status = cps_image_decode(prefix, cut, 0, 0, &image);
        if (cut + spare < length) {
            assert_int_equal(status, CPS_ERR_DATA);
        }
        cps_image_free(&image);
        free(prefix);
    }
}

/* Pictures as other programs may write them. */
typedef struct jpeg_kind {
    bool progressive, arithmetic, grey, cmyk;
    int restart_rows;
} jpeg_kind;

static void make_jpeg(const jpeg_kind *kind, int32_t width, int32_t height, uint8_t **bytes_out,
                      size_t *length_out) {
    struct jpeg_compress_struct codec;
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL;
    unsigned long length = 0;
    cps_image image = make_picture(width * 2, height);
    codec.err = jpeg_std_error(&errors);
    jpeg_create_compress(&codec);
    jpeg_mem_dest(&codec, &bytes, &length);
    codec.image_width = (JDIMENSION)width;
    codec.image_height = (JDIMENSION)height;
    codec.input_components = kind->grey ? 1 : (kind->cmyk ? 4 : 3);
    codec.in_color_space = kind->grey ? JCS_GRAYSCALE : (kind->cmyk ? JCS_CMYK : JCS_RGB);
    jpeg_set_defaults(&codec);
    codec.arith_code = kind->arithmetic;
    codec.restart_in_rows = kind->restart_rows;
    if (kind->progressive) {
        jpeg_simple_progression(&codec);
    }
    jpeg_start_compress(&codec, TRUE);
    while (codec.next_scanline < codec.image_height) {
        JSAMPROW row = image.pixels + (size_t)image.width * 3 * codec.next_scanline;
        jpeg_write_scanlines(&codec, &row, 1);
    }
    jpeg_finish_compress(&codec);
    jpeg_destroy_compress(&codec);
    cps_image_free(&image);
    *bytes_out = bytes;
    *length_out = length;
}

static void cut_jpegs_are_refused(void **state) {
    (void)state;
    const jpeg_kind kinds[] = {{0},
                               {.progressive = true},
                               {.arithmetic = true},
                               {.grey = true},
                               {.cmyk = true},
                               {.restart_rows = 1},
                               {.progressive = true, .arithmetic = true}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
        uint8_t *bytes = NULL;
        size_t length = 0;
        cps_image image = {0};
        make_jpeg(&kinds[i], 67, 45, &bytes, &length);
        assert_int_equal(cps_image_decode(bytes, length, 0, 0, &image), CPS_OK);
        assert_true(image.width == 67 && image.height == 45);
        cps_image_free(&image);
        check_prefixes(bytes, length, 1, 8);
        free(bytes);
    }
}

static void a_missing_end_marker_is_tolerated(void **state) {
    (void)state;
    uint8_t *bytes = NULL;
    size_t length = 0;
    cps_image whole = {0};
    cps_image image = {0};
    for (int progressive = 0; progressive < 2; ++progressive) {
        make_jpeg(&(jpeg_kind){.progressive = progressive}, 67, 45, &bytes, &length);
        assert_int_equal(cps_image_decode(bytes, length, 0, 0, &whole), CPS_OK);
        assert_int_equal(cps_image_decode(bytes, length - 2, 0, 0, &image), CPS_OK);
        assert_same(&whole, &image);
        cps_image_free(&image);
        cps_image_free(&whole);
        free(bytes);
    }
}

static void flipped_bytes_crash_nothing(void **state) {
    (void)state;
    const jpeg_kind kinds[] = {{0}, {.progressive = true}, {.arithmetic = true}, {.cmyk = true}};
    uint32_t random = 3;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
        uint8_t *bytes = NULL;
        size_t length = 0;
        make_jpeg(&kinds[i], 67, 45, &bytes, &length);
        for (int trial = 0; trial < 300; ++trial) {
            const size_t at = noise(&random) % length;
            const uint8_t kept = bytes[at];
            bytes[at] = (uint8_t)noise(&random);
            cps_image image = {0};
            (void)!cps_image_decode(bytes, length, 8, 8, &image);
            cps_image_free(&image);
            bytes[at] = kept;
        }
        free(bytes);
    }
}

static void lying_sizes_take_no_memory(void **state) {
    (void)state;
    uint8_t *bytes = NULL;
    size_t length = 0;
    cps_image image = {0};
    make_jpeg(&(jpeg_kind){0}, 32, 32, &bytes, &length);
    for (size_t at = 2; at + 9 < length; ++at) {
        if (bytes[at] == 0xff && bytes[at + 1] == 0xc0) {
            memset(bytes + at + 5, 0xea, 4);
            break;
        }
    }
    assert_int_equal(cps_image_decode(bytes, length, 0, 0, &image), CPS_ERR_DATA);
    assert_non_null(strstr(cps_fail_message(), "60138 x 60138"));
    free(bytes);
}

static void the_decoder_shrinks_in_the_dct(void **state) {
    (void)state;
    cps_image image = make_picture(801, 403);
    uint8_t *bytes = NULL;
    size_t length = 0;
    cps_image small = {0};
    assert_int_equal(cps_image_encode_jpeg(&image, 90, &bytes, &length), CPS_OK);
    assert_int_equal(cps_image_decode(bytes, length, 100, 100, &small), CPS_OK);
    assert_true(small.width == 201 && small.height == 101);
    cps_image_free(&small);
    assert_int_equal(cps_image_decode(bytes, length, 100, 102, &small), CPS_OK);
    assert_true(small.width == 401 && small.height == 202);
    cps_image_free(&small);
    assert_int_equal(cps_image_decode(bytes, length, 1, 1, &small), CPS_OK);
    assert_true(small.width == 101 && small.height == 51);
    cps_image_free(&small);
    free(bytes);
    cps_image_free(&image);
}

/* ---- PNG
 * ----------------------------------------------------------------------------------------------------------
 */

typedef struct sink {
    uint8_t bytes[1 << 16];
    size_t length;
} sink;

static void sink_bytes(png_structp png, png_bytep from, png_size_t count) {
    sink *to = png_get_io_ptr(png);
    assert_true(to->length + count <= sizeof to->bytes);
    memcpy(to->bytes + to->length, from, count);
    to->length += count;
}

static void sink_flush(png_structp png) {
    (void)png;
}

/* 5 x 3 pixels; the stored bytes of row y are y * 40 + i. */
static void make_png(int kind, int depth, bool interlaced, bool transparent, sink *to) {
    to->length = 0;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, to, sink_bytes, sink_flush);
    png_set_IHDR(png, info, 5, 3, depth, kind,
                 interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (kind == PNG_COLOR_TYPE_PALETTE) {
        png_color colours[256];
        for (int i = 0; i < 256; ++i) {
            colours[i] = (png_color){(png_byte)i, (png_byte)(255 - i), (png_byte)(i / 2)};
        }
        png_set_PLTE(png, info, colours, 1 << depth);
    }
    if (transparent) {
        const png_byte alpha[2] = {0, 128};
        const png_color_16 colour = {.gray = 1};
        png_set_tRNS(png, info, kind == PNG_COLOR_TYPE_PALETTE ? alpha : NULL,
                     kind == PNG_COLOR_TYPE_PALETTE ? 2 : 0, &colour);
    }
    png_write_info(png, info);
    uint8_t stored[3][64];
    for (int y = 0; y < 3; ++y) {
        for (int i = 0; i < 64; ++i) {
            stored[y][i] = (uint8_t)(y * 40 + i);
        }
    }
    png_bytep rows[3] = {stored[0], stored[1], stored[2]};
    png_write_image(png, rows);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
}

static void assert_pixel(const cps_image *image, int x, int y, int red, int green, int blue) {
    const uint8_t *pixel = image->pixels + 3 * (y * image->width + x);
    assert_int_equal(pixel[0], red);
    assert_int_equal(pixel[1], green);
    assert_int_equal(pixel[2], blue);
}

static void every_png_colour_type_becomes_rgb(void **state) {
    (void)state;
    sink *to = malloc(sizeof *to);
    assert_non_null(to);
    for (int interlaced = 0; interlaced < 2; ++interlaced) {
        for (int transparent = 0; transparent < 2; ++transparent) {
            cps_image image = {0};
            make_png(PNG_COLOR_TYPE_GRAY, 8, interlaced, transparent, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 2, 1, 42, 42, 42);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_GRAY, 16, interlaced, false, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 2, 1, 44, 44, 44);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_GRAY, 1, interlaced, false, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 2, 1, 255, 255, 255); /* bits of 40: 0010 1... */
            assert_pixel(&image, 3, 1, 0, 0, 0);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_PALETTE, 8, interlaced, transparent, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 4, 2, 84, 171, 42);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_GRAY_ALPHA, 8, interlaced, false, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 3, 0, 6, 6, 6);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_RGB, 16, interlaced, false, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 1, 1, 46, 48, 50);
            cps_image_free(&image);
            make_png(PNG_COLOR_TYPE_RGB_ALPHA, 8, interlaced, false, to);
            assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_OK);
            assert_pixel(&image, 4, 0, 16, 17, 18);
            cps_image_free(&image);
        }
    }
    free(to);
}

static void damaged_pngs_are_refused(void **state) {
    (void)state;
    sink *to = malloc(sizeof *to);
    assert_non_null(to);
    make_png(PNG_COLOR_TYPE_RGB, 8, false, false, to);
    check_prefixes(to->bytes, to->length, 1, 24); /* the end chunk and a chunk's checksum */
    for (size_t at = 8; at < to->length - 12; ++at) {
        cps_image image = {0};
        to->bytes[at] ^= 0x10;
        assert_int_equal(cps_image_decode(to->bytes, to->length, 0, 0, &image), CPS_ERR_DATA);
        to->bytes[at] ^= 0x10;
    }
    free(to);
}

/* ---- resize
 * -------------------------------------------------------------------------------------------------------
 */

static double weight(cps_filter filter, double x) {
    x = fabs(x);
    if (filter == CPS_BILINEAR) {
        return x < 1 ? 1 - x : 0;
    }
    if (x < 1) {
        return 1.5 * x * x * x - 2.5 * x * x + 1;
    }
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

/* The plain formula in double along one axis of a plane of doubles, rounded to bytes as the two
 * passes do. */
static void plain_axis(const double *in, int32_t lines, int32_t in_size, size_t in_step,
                       size_t line_step, double start, double extent, int32_t out_size,
                       cps_filter filter, double *out, size_t out_step, size_t out_line_step) {
    const double scale = extent / out_size;
    const double stretch = scale > 1 ? scale : 1;
    for (int32_t line = 0; line < lines; ++line) {
        for (int32_t i = 0; i < out_size; ++i) {
            const double centre = start + (i + 0.5) * scale;
            double sum = 0;
            double total = 0;
            for (int32_t k = 0; k < in_size; ++k) {
                const double w = weight(filter, (k + 0.5 - centre) / stretch);
                sum += w * in[(size_t)line * line_step + (size_t)k * in_step];
                total += w;
            }
            const double value = floor(sum / total + 0.5);
            out[(size_t)line * out_line_step + (size_t)i * out_step] =
                value < 0 ? 0 : (value > 255 ? 255 : value);
        }
    }
}

static void compare_with_formula(int32_t width, int32_t height, const double box[4],
                                 int32_t out_width, int32_t out_height, cps_filter filter) {
    cps_image image = make_picture(width, height);
    cps_image got = {0};
    assert_int_equal(cps_image_resize(&image, box[0], box[1], box[2], box[3], out_width, out_height,
                                      filter, &got),
                     CPS_OK);
    double *plane = malloc((size_t)width * (size_t)height * sizeof *plane);
    double *middle = malloc((size_t)out_width * (size_t)height * sizeof *middle);
    double *final = malloc((size_t)out_width * (size_t)out_height * sizeof *final);
    for (int c = 0; c < 3; ++c) {
        for (size_t i = 0; i < (size_t)width * (size_t)height; ++i) {
            plane[i] = image.pixels[3 * i + (size_t)c];
        }
        plain_axis(plane, height, width, 1, (size_t)width, box[0], box[2], out_width, filter,
                   middle, 1, (size_t)out_width);
        plain_axis(middle, out_width, height, (size_t)out_width, 1, box[1], box[3], out_height,
                   filter, final, (size_t)out_width, 1);
        for (size_t i = 0; i < (size_t)out_width * (size_t)out_height; ++i) {
            assert_true(fabs(final[i] - got.pixels[3 * i + (size_t)c]) <= 1);
        }
    }
    free(plane);
    free(middle);
    free(final);
    cps_image_free(&got);
    cps_image_free(&image);
}

static void resize_follows_the_formula(void **state) {
    (void)state;
    for (int filter = 0; filter < 2; ++filter) {
        const cps_filter f = filter == 0 ? CPS_BILINEAR : CPS_BICUBIC;
        compare_with_formula(97, 61, (const double[]){0, 0, 97, 61}, 32, 32, f);
        compare_with_formula(20, 31, (const double[]){0, 0, 20, 31}, 57, 43, f);
        compare_with_formula(97, 61, (const double[]){10.25, 3.5, 50.5, 40.75}, 33, 17, f);
        compare_with_formula(1, 37, (const double[]){0, 0, 1, 37}, 24, 24, f);
        compare_with_formula(300, 2, (const double[]){0, 0, 300, 2}, 5, 9, f);
        compare_with_formula(1, 1, (const double[]){0, 0, 1, 1}, 7, 3, f);
        compare_with_formula(40, 40, (const double[]){39.5, 39.5, 0.5, 0.5}, 4, 4, f);
        compare_with_formula(64, 48, (const double[]){0, 0, 64, 48}, 1, 1, f);
        compare_with_formula(64, 48, (const double[]){0, 0, 64, 48}, 64, 48, f);
        compare_with_formula(64, 48, (const double[]){0, 8, 64, 24}, 64, 24, f);
        compare_with_formula(64, 48, (const double[]){5, 0, 40, 48}, 40, 48, f);
    }
}

/* Random taps over random pixels: every kind of kernel gives the bits of the portable one and stays
 * in its bounds. */
static void kernels_agree(void **state) {
    (void)state;
    enum { WIDTH = 37, HEIGHT = 11, OUTPUTS = 19, STRIDE = 8 };
    uint32_t random = 5;
    uint8_t from[3 * WIDTH * HEIGHT + CPS_RESIZE_SLACK];
    int32_t first[OUTPUTS];
    int32_t count[OUTPUTS];
    int16_t high[OUTPUTS * STRIDE] = {0};
    int16_t low[OUTPUTS * STRIDE] = {0};
    for (size_t i = 0; i < sizeof from; ++i) {
        from[i] = (uint8_t)noise(&random);
    }
    for (int32_t i = 0; i < OUTPUTS; ++i) {
        count[i] = 1 + (int32_t)(noise(&random) % 7);
        first[i] = (int32_t)(noise(&random) % (uint32_t)(WIDTH - count[i] + 1));
        for (int32_t k = 0; k < count[i]; ++k) {
            high[i * STRIDE + k] = (int16_t)(noise(&random) % 1400 - 300);
            low[i * STRIDE + k] = (int16_t)(noise(&random) % 2048);
        }
    }
    const cps_taps axis = {.outputs = OUTPUTS,
                           .stride = STRIDE,
                           .first = first,
                           .count = count,
                           .high = high,
                           .low = low};
    const cps_resize_kernels *portable = cps_resize_kernels_of(CPS_RESIZE_PORTABLE);
    for (int which = CPS_RESIZE_SSSE3; which <= CPS_RESIZE_AVX2; ++which) {
        const cps_resize_kernels *kernels = cps_resize_kernels_of(which);
        if (kernels == NULL) {
            print_message("this CPU lacks kind %d\n", which);
            continue;
        }
        for (int32_t rows = 0; rows <= HEIGHT; ++rows) {
            uint8_t want[3 * OUTPUTS * HEIGHT];
            uint8_t got[3 * OUTPUTS * HEIGHT];
            memset(want, 77, sizeof want);
            memset(got, 77, sizeof got);
            portable->rows(from, 3 * WIDTH, rows, &axis, want, 3 * OUTPUTS);
            kernels->rows(from, 3 * WIDTH, rows, &axis, got, 3 * OUTPUTS);
            assert_memory_equal(want, got, sizeof want);
        }
        for (int32_t i = 0; i < OUTPUTS; ++i) {
            uint8_t want[3 * WIDTH];
            uint8_t got[3 * WIDTH + CPS_RESIZE_SLACK];
            const int16_t *h = high + (ptrdiff_t)i * STRIDE;
            const int16_t *l = low + (ptrdiff_t)i * STRIDE;
            portable->column(from, 3 * WIDTH, h, l, count[i], 3 * WIDTH, want);
            kernels->column(from, 3 * WIDTH, h, l, count[i], 3 * WIDTH, got);
            assert_memory_equal(want, got, sizeof want);
        }
    }
    assert_non_null(cps_resize_kernels_of(CPS_RESIZE_BEST));
}

static void equal_size_copies(void **state) {
    (void)state;
    cps_image image = make_picture(31, 17);
    cps_image copy = {0};
    assert_int_equal(cps_image_resize(&image, 0, 0, 31, 17, 31, 17, CPS_BICUBIC, &copy), CPS_OK);
    assert_same(&image, &copy);
    cps_image_free(&copy);
    cps_image_free(&image);
}

static void evaluation_is_resize_and_crop(void **state) {
    (void)state;
    const int32_t sizes[][2] = {{90, 61}, {61, 90}, {64, 64}, {33, 200}, {200, 33}, {32, 47}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
        cps_image image = make_picture(sizes[i][0], sizes[i][1]);
        cps_image whole = {0};
        cps_image got = {0};
        cps_evaluation_plan plan;
        assert_int_equal(cps_image_plan_evaluation(image.width, image.height, 32, false, &plan),
                         CPS_OK);
        assert_int_equal(cps_image_resize(&image, 0, 0, image.width, image.height,
                                          plan.resized_width, plan.resized_height, CPS_BICUBIC,
                                          &whole),
                         CPS_OK);
        assert_int_equal(cps_image_evaluation(&image, 32, false, CPS_BICUBIC, &got), CPS_OK);
        assert_true(got.width == 32 && got.height == 32);
        for (int32_t y = 0; y < 32; ++y) {
            assert_memory_equal(got.pixels + (size_t)y * 96,
                                whole.pixels + 3 * ((size_t)(y + plan.top) * (size_t)whole.width +
                                                    (size_t)plan.left),
                                96);
        }
        cps_image_free(&got);
        cps_image_free(&whole);
        assert_int_equal(cps_image_evaluation(&image, 32, true, CPS_BILINEAR, &got), CPS_OK);
        assert_true(got.width == 32 && got.height == 32);
        cps_image_free(&got);
        cps_image_free(&image);
    }
}

static void halves_of_the_crop_go_to_even(void **state) {
    (void)state;
    cps_evaluation_plan plan;
    assert_int_equal(cps_image_plan_evaluation(227, 224, 224, false, &plan), CPS_OK);
    assert_true(plan.resized_width == 227 && plan.left == 2 && plan.top == 0); /* 1.5 */
    assert_int_equal(cps_image_plan_evaluation(224, 225, 224, false, &plan), CPS_OK);
    assert_true(plan.resized_height == 225 && plan.top == 0); /* 0.5 */
    assert_int_equal(cps_image_plan_evaluation(300, 200, 224, false, &plan), CPS_OK);
    assert_true(plan.resized_width == 336 && plan.resized_height == 224);
    assert_int_equal(cps_image_plan_evaluation(1, 65500, 224, false, &plan), CPS_OK);
    assert_int_equal(plan.resized_height, 14672000);
    assert_int_equal(cps_image_plan_evaluation(0, 5, 224, false, &plan), CPS_ERR_DATA);
    assert_int_equal(cps_image_plan_evaluation(5, 5, 0, false, &plan), CPS_ERR_DATA);
}

static void extreme_shapes_stay_small(void **state) {
    (void)state;
    cps_image tall = make_picture(1, 65500);
    cps_image wide = make_picture(60000, 2);
    cps_image got = {0};
    assert_int_equal(cps_image_evaluation(&tall, 224, false, CPS_BICUBIC, &got), CPS_OK);
    cps_image_free(&got);
    assert_int_equal(cps_image_evaluation(&wide, 224, false, CPS_BICUBIC, &got), CPS_OK);
    cps_image_free(&got);
    assert_int_equal(cps_image_evaluation(&tall, 224, true, CPS_BICUBIC, &got), CPS_OK);
    cps_image_free(&got);
    cps_image_free(&tall);
    cps_image_free(&wide);
}

static void regions_outside_are_refused(void **state) {
    (void)state;
    cps_image image = make_picture(10, 10);
    cps_image out = {0};
    assert_int_not_equal(cps_image_resize(&image, -1, 0, 5, 5, 4, 4, CPS_BICUBIC, &out), CPS_OK);
    assert_int_not_equal(cps_image_resize(&image, 6, 0, 5, 5, 4, 4, CPS_BICUBIC, &out), CPS_OK);
    assert_int_not_equal(cps_image_resize(&image, 0, 0, 0, 5, 4, 4, CPS_BICUBIC, &out), CPS_OK);
    assert_int_not_equal(cps_image_resize(&image, (double)NAN, 0, 5, 5, 4, 4, CPS_BICUBIC, &out),
                         CPS_OK);
    assert_int_not_equal(cps_image_resize(&image, 0, 0, 5, 5, 0, 4, CPS_BICUBIC, &out), CPS_OK);
    assert_null(out.pixels);
    cps_image_free(&image);
}

static void normalises_and_flips(void **state) {
    (void)state;
    uint8_t pixels[2 * 2 * 3] = {0, 51, 255, 102, 51, 0, 1, 2, 3, 4, 5, 6};
    const cps_image image = {.width = 2, .height = 2, .pixels = pixels};
    const double mean[3] = {0.5, 0.2, 0.0};
    const double std[3] = {0.25, 0.5, 2.0};
    cps_real planes[12];
    cps_image_normalize(&image, false, mean, std, planes);
    assert_true(fabs((double)planes[0] + 2.0) < 1e-6);
    assert_true(fabs((double)planes[1] + 0.4) < 1e-6);
    assert_true(fabs((double)planes[4]) < 1e-6);
    assert_true(fabs((double)planes[8] - 0.5) < 1e-6);
    cps_real flipped[12];
    cps_image_normalize(&image, true, mean, std, flipped);
    assert_true(flipped[0] == planes[1] && flipped[1] == planes[0] && flipped[10] == planes[11]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_and_decodes),
        cmocka_unit_test(names_what_is_no_picture),
        cmocka_unit_test(cut_jpegs_are_refused),
        cmocka_unit_test(a_missing_end_marker_is_tolerated),
        cmocka_unit_test(flipped_bytes_crash_nothing),
        cmocka_unit_test(lying_sizes_take_no_memory),
        cmocka_unit_test(the_decoder_shrinks_in_the_dct),
        cmocka_unit_test(every_png_colour_type_becomes_rgb),
        cmocka_unit_test(damaged_pngs_are_refused),
        cmocka_unit_test(resize_follows_the_formula),
        cmocka_unit_test(kernels_agree),
        cmocka_unit_test(equal_size_copies),
        cmocka_unit_test(evaluation_is_resize_and_crop),
        cmocka_unit_test(halves_of_the_crop_go_to_even),
        cmocka_unit_test(extreme_shapes_stay_small),
        cmocka_unit_test(regions_outside_are_refused),
        cmocka_unit_test(normalises_and_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
