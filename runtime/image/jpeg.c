/* JPEG through libjpeg-turbo. Errors of the library leave by longjmp to the one setjmp of each
 * entry point; everything that must survive it lives in a `decoder` struct.
 *
 * What counts as damage. libjpeg goes on after most damage and fills in grey. Here a picture is
 * refused when data are missing (a scan ran out, a component or a progressive refinement never
 * came) or when the entropy coding broke. A missing end marker after complete scans, bytes between
 * segments and odd headers are tolerated: the picture is whole. */
#include "image/image_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

/* More scans than any real file has: each one costs a pass over all coefficients. */
enum { MAX_SCANS = 200 };

typedef struct decoder {
    struct jpeg_decompress_struct codec;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    char reason[JMSG_LENGTH_MAX];
    const char
        *damage; /* first sign that entropy-coded data are broken, NULL while there is none */
    int64_t damage_row;
    bool starved; /* a scan ended before its last block */
    bool ended;   /* the library asked for more bytes than there are */
    cps_image image;
    uint8_t *row; /* one row of CMYK */
} decoder;

static decoder *decoder_of(j_common_ptr codec) {
    return codec->client_data;
}

static _Noreturn void leave_with_error(j_common_ptr codec) {
    decoder *self = decoder_of(codec);
    if (codec->err->msg_code == JERR_IMAGE_TOO_BIG) {
        snprintf(self->reason, sizeof self->reason,
                 "too large: the header says %u x %u pixels, at most %d a side are decoded",
                 self->codec.image_width, self->codec.image_height, (int)CPS_IMAGE_MAX_SIDE);
        longjmp(self->escape, 1);
    }
    codec->err->format_message(codec, self->reason);
    if (self->reason[0] >= 'A' && self->reason[0] <= 'Z') {
        self->reason[0] = (char)(self->reason[0] - 'A' + 'a');
    }
    longjmp(self->escape, 1);
}

static _Noreturn void leave_with_reason(decoder *self, const char *reason) {
    snprintf(self->reason, sizeof self->reason, "%s", reason);
    longjmp(self->escape, 1);
}

static void judge_warning(j_common_ptr codec, int level) {
    if (level >= 0) {
        return; /* traces */
    }
    decoder *self = decoder_of(codec);
    const char *damage = NULL;
    switch (codec->err->msg_code) {
    case JWRN_HIT_MARKER:
        self->starved = true;
        damage = "corrupt: a scan ends early";
        break;
    case JWRN_HUFF_BAD_CODE:
        damage = "corrupt: bad Huffman code";
        break;
    case JWRN_ARITH_BAD_CODE:
        damage = "corrupt: bad arithmetic code";
        break;
    case JWRN_MUST_RESYNC:
        damage = "corrupt: a restart marker is missing";
        break;
    default:
        break; /* header oddities, bytes between segments */
    }
    if (damage != NULL && self->damage == NULL) {
        self->damage = damage;
        self->damage_row = self->codec.output_scanline;
    }
}

static void print_nothing(j_common_ptr codec) {
    (void)codec;
}

static void limit_scans(j_common_ptr codec) {
    decoder *self = decoder_of(codec);
    if (self->codec.input_scan_number > MAX_SCANS) {
        leave_with_reason(self, "more than 200 scans");
    }
}

/* ---- the source: bytes in memory
 * ---------------------------------------------------------------------------------- */

static void source_ready(j_decompress_ptr codec) {
    (void)codec;
}

/* Past the end the library gets end-of-image markers; whether the picture was whole is judged at
 * the end. */
static boolean source_fill(j_decompress_ptr codec) {
    static const JOCTET end_of_image[2] = {0xff, JPEG_EOI};
    decoder_of((j_common_ptr)codec)->ended = true;
    codec->src->next_input_byte = end_of_image;
    codec->src->bytes_in_buffer = sizeof end_of_image;
    return TRUE;
}

static void source_skip(j_decompress_ptr codec, long count) {
    if (count <= 0) {
        return;
    }
    struct jpeg_source_mgr *source = codec->src;
    if ((size_t)count > source->bytes_in_buffer) {
        source_fill(codec);
        return;
    }
    source->next_input_byte += count;
    source->bytes_in_buffer -= (size_t)count;
}

static void start(decoder *self, const uint8_t *bytes, size_t length) {
    self->codec.err = jpeg_std_error(&self->errors);
    self->codec.client_data = self;
    self->errors.error_exit = leave_with_error;
    self->errors.emit_message = judge_warning;
    self->errors.output_message = print_nothing;
    jpeg_create_decompress(&self->codec);
    self->codec.client_data = self; /* creation keeps it; said again because errors depend on it */
    self->source = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                            .bytes_in_buffer = length,
                                            .init_source = source_ready,
                                            .fill_input_buffer = source_fill,
                                            .skip_input_data = source_skip,
                                            .resync_to_restart = jpeg_resync_to_restart,
                                            .term_source = source_ready};
    self->codec.src = &self->source;
    self->progress.progress_monitor = limit_scans;
    self->codec.progress = &self->progress;
}

/* Reads up to the first scan; DATA when the size is out of bounds. */
static cps_status read_header(decoder *self) {
    jpeg_read_header(&self->codec, TRUE);
    return cps_image_check_size(self->codec.image_width, self->codec.image_height);
}

static cps_status fail_with_reason(const decoder *self) {
    if (self->ended) {
        return cps_fail(CPS_ERR_DATA, "truncated before the picture is complete (%s)",
                        self->reason);
    }
    return cps_fail(CPS_ERR_DATA, "%s", self->reason);
}

cps_status cps_jpeg_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                         int32_t *height_out) {
    decoder self = {.damage = NULL};
    cps_status status = CPS_OK;
    if (setjmp(self.escape) != 0) {
        status = fail_with_reason(&self);
    } else {
        start(&self, bytes, length);
        status = read_header(&self);
        if (status == CPS_OK) {
            *width_out = (int32_t)self.codec.image_width;
            *height_out = (int32_t)self.codec.image_height;
        }
    }
    jpeg_destroy_decompress(&self.codec);
    return status;
}

/* ---- decoding
 * -----------------------------------------------------------------------------------------------------
 */

static int32_t scaled(JDIMENSION size, int32_t divisor) {
    return ((int32_t)size + divisor - 1) / divisor;
}

/* The largest of 1, 2, 4, 8 by which the inverse DCT may shrink the picture. */
static unsigned choose_divisor(const decoder *self, int32_t min_width, int32_t min_height) {
    int32_t divisor = 1;
    if (min_width > 0 && min_height > 0) {
        while (divisor < 8 && scaled(self->codec.image_width, 2 * divisor) >= min_width &&
               scaled(self->codec.image_height, 2 * divisor) >= min_height) {
            divisor *= 2;
        }
    }
    return (unsigned)divisor;
}

static bool choose_colours(decoder *self) {
    switch (self->codec.jpeg_color_space) {
    case JCS_GRAYSCALE:
    case JCS_RGB:
    case JCS_YCbCr:
        self->codec.out_color_space = JCS_RGB;
        return true;
    case JCS_CMYK:
    case JCS_YCCK:
        self->codec.out_color_space = JCS_CMYK;
        return true;
    default:
        return false;
    }
}

/* Adobe stores 255 - ink. Plain mixture without a colour profile, as the reference's reader does:
 * level = (255 - K) - round(C * (255 - K) / 255). */
static void convert_cmyk(const uint8_t *from, JDIMENSION width, uint8_t *to) {
    for (JDIMENSION x = 0; x < width; ++x) {
        const unsigned light = from[4 * x + 3]; /* 255 - K */
        for (unsigned c = 0; c < 3; ++c) {
            const unsigned product = (255u - from[4 * x + c]) * light + 128u;
            const unsigned ink = ((product >> 8) + product) >> 8; /* /255, rounded */
            to[3 * x + c] = (uint8_t)(light - ink);
        }
    }
}

static void read_rows(decoder *self) {
    const size_t row_bytes = (size_t)self->codec.output_width * 3;
    while (self->codec.output_scanline < self->codec.output_height) {
        uint8_t *row = self->image.pixels + row_bytes * self->codec.output_scanline;
        if (self->row != NULL) {
            JSAMPROW rows[1] = {self->row};
            jpeg_read_scanlines(&self->codec, rows, 1);
            convert_cmyk(self->row, self->codec.output_width, row);
            continue;
        }
        JSAMPROW rows[4];
        const JDIMENSION left = self->codec.output_height - self->codec.output_scanline;
        const JDIMENSION count = left < 4 ? left : 4;
        for (JDIMENSION i = 0; i < count; ++i) {
            rows[i] = row + row_bytes * i;
        }
        jpeg_read_scanlines(&self->codec, rows, count);
    }
}

/* Did every component appear, and every coefficient of a progressive picture come to its last bit?
 */
static bool is_complete(const decoder *self) {
    for (int c = 0; c < self->codec.num_components; ++c) {
        if (self->codec.comp_info[c].quant_table == NULL) {
            return false;
        }
        if (self->codec.progressive_mode && self->codec.coef_bits != NULL) {
            for (int k = 0; k < DCTSIZE2; ++k) {
                if (self->codec.coef_bits[c][k] != 0) {
                    return false;
                }
            }
        }
    }
    return true;
}

/* Called after the last row was read. */
static cps_status judge(const decoder *self) {
    const long long rows = self->damage != NULL ? self->damage_row : self->codec.output_height;
    const long long percent = 100 * rows / (long long)self->codec.output_height;
    if (self->ended && self->starved) {
        if (self->codec.progressive_mode) {
            return cps_fail(CPS_ERR_DATA, "truncated in scan %d", self->codec.input_scan_number);
        }
        return cps_fail(CPS_ERR_DATA, "truncated at %lld %%", percent);
    }
    if (self->damage != NULL) {
        return cps_fail(CPS_ERR_DATA, "%s (at %lld %%)", self->damage, percent);
    }
    if (!is_complete(self)) {
        return cps_fail(CPS_ERR_DATA, "truncated: scans are missing");
    }
    /* Arithmetic decoding gives no sign of missing data. */
    if (self->ended && self->codec.arith_code) {
        return cps_fail(CPS_ERR_DATA, "truncated: no end marker after arithmetic-coded data");
    }
    return CPS_OK;
}

/* The part that may leave by longjmp. */
static cps_status decode(decoder *self, int32_t min_width, int32_t min_height) {
    CPS_TRY(read_header(self));
    if (!choose_colours(self)) {
        return cps_fail(CPS_ERR_DATA, "unsupported: %d colour components of an unknown kind",
                        self->codec.num_components);
    }
    self->codec.scale_num = 1;
    self->codec.scale_denom = choose_divisor(self, min_width, min_height);
    jpeg_start_decompress(&self->codec);
    CPS_TRY(cps_image_allocate((int32_t)self->codec.output_width,
                               (int32_t)self->codec.output_height, &self->image));
    if (self->codec.out_color_space == JCS_CMYK) {
        self->row = malloc((size_t)self->codec.output_width * 4);
        if (self->row == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a row of %u pixels",
                            self->codec.output_width);
        }
    }
    read_rows(self);
    CPS_TRY(judge(self));
    return CPS_OK;
}

cps_status cps_jpeg_decode(const uint8_t *bytes, size_t length, int32_t min_width,
                           int32_t min_height, cps_image *image_out) {
    decoder self = {.damage = NULL};
    cps_status status = CPS_OK;
    if (setjmp(self.escape) != 0) {
        status = fail_with_reason(&self);
    } else {
        start(&self, bytes, length);
        status = decode(&self, min_width, min_height);
    }
    jpeg_destroy_decompress(&self.codec);
    free(self.row);
    if (status != CPS_OK) {
        cps_image_free(&self.image);
        return status;
    }
    *image_out = self.image;
    return CPS_OK;
}

/* ---- encoding
 * -----------------------------------------------------------------------------------------------------
 */

typedef struct encoder {
    struct jpeg_compress_struct codec;
    struct jpeg_error_mgr errors;
    jmp_buf escape;
    char reason[JMSG_LENGTH_MAX];
    unsigned char *bytes;
    unsigned long length;
} encoder;

static _Noreturn void leave_encoder(j_common_ptr codec) {
    encoder *self = codec->client_data;
    codec->err->format_message(codec, self->reason);
    longjmp(self->escape, 1);
}

static void encode(encoder *self, const cps_image *image, int32_t quality) {
    self->codec.err = jpeg_std_error(&self->errors);
    self->codec.client_data = self;
    self->errors.error_exit = leave_encoder;
    self->errors.output_message = print_nothing;
    jpeg_create_compress(&self->codec);
    self->codec.client_data = self;
    jpeg_mem_dest(&self->codec, &self->bytes, &self->length);
    self->codec.image_width = (JDIMENSION)image->width;
    self->codec.image_height = (JDIMENSION)image->height;
    self->codec.input_components = 3;
    self->codec.in_color_space = JCS_RGB;
    jpeg_set_defaults(&self->codec);
    jpeg_set_quality(&self->codec, quality, TRUE);
    jpeg_start_compress(&self->codec, TRUE);
    while (self->codec.next_scanline < self->codec.image_height) {
        JSAMPROW row = image->pixels + (size_t)image->width * 3 * self->codec.next_scanline;
        jpeg_write_scanlines(&self->codec, &row, 1);
    }
    jpeg_finish_compress(&self->codec);
}

cps_status cps_image_encode_jpeg(const cps_image *image, int32_t quality, uint8_t **bytes_out,
                                 size_t *length_out) {
    if (quality < 1 || quality > 100) {
        return cps_fail(CPS_ERR_USAGE, "JPEG quality %d is not between 1 and 100", quality);
    }
    encoder self = {.bytes = NULL};
    cps_status status = CPS_OK;
    if (setjmp(self.escape) != 0) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "cannot encode %d x %d pixels as JPEG: %s",
                          image->width, image->height, self.reason);
    } else {
        encode(&self, image, quality);
    }
    jpeg_destroy_compress(&self.codec);
    if (status != CPS_OK) {
        free(self.bytes);
        return status;
    }
    *bytes_out = self.bytes;
    *length_out = self.length;
    return CPS_OK;
}
