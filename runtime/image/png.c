/* PNG through libpng, any colour type to RGB: grey repeated, palettes looked up, alpha dropped (not
 * blended), of 16 bits the upper 8. Errors leave by longjmp; what must survive it lives in a
 * struct. */
#include "image/image_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

/* A compressed text or profile chunk may not grow beyond this. */
static const png_alloc_size_t max_chunk_bytes = 8u << 20;

typedef struct decoder {
    png_structp png;
    png_infop info;
    const uint8_t *next;
    size_t left;
    bool ended;
    bool complete; /* all rows are there */
    int64_t rows_done, rows_all;
    char reason[160];
    cps_image image;
} decoder;

static void read_bytes(png_structp png, png_bytep to, png_size_t count) {
    decoder *self = png_get_io_ptr(png);
    if (count > self->left) {
        self->ended = true;
        png_error(png, "the data end early");
    }
    memcpy(to, self->next, count);
    self->next += count;
    self->left -= count;
}

static _Noreturn void leave_with_error(png_structp png, png_const_charp message) {
    decoder *self = png_get_error_ptr(png);
    snprintf(self->reason, sizeof self->reason, "%s", message);
    png_longjmp(png, 1);
}

static void say_nothing(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static cps_status start(decoder *self, const uint8_t *bytes, size_t length) {
    self->next = bytes;
    self->left = length;
    self->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, self, leave_with_error, say_nothing);
    self->info = self->png != NULL ? png_create_info_struct(self->png) : NULL;
    if (self->info == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to decode a PNG");
    }
    return CPS_OK;
}

static cps_status read_header(decoder *self) {
    png_set_read_fn(self->png, self, read_bytes);
    png_set_user_limits(self->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* ours follow */
    png_set_chunk_malloc_max(self->png, max_chunk_bytes);
    png_read_info(self->png, self->info);
    return cps_image_check_size(png_get_image_width(self->png, self->info),
                                png_get_image_height(self->png, self->info));
}

static cps_status fail_with_reason(const decoder *self) {
    if (self->ended) {
        return cps_fail(
            CPS_ERR_DATA, "truncated at %lld %%",
            (long long)(self->rows_all > 0 ? 100 * self->rows_done / self->rows_all : 0));
    }
    return cps_fail(CPS_ERR_DATA, "corrupt PNG: %s", self->reason);
}

cps_status cps_png_size(const uint8_t *bytes, size_t length, int32_t *width_out,
                        int32_t *height_out) {
    decoder self = {.png = NULL};
    cps_status status = start(&self, bytes, length);
    if (status == CPS_OK) {
        if (setjmp(png_jmpbuf(self.png)) != 0) {
            status = fail_with_reason(&self);
        } else {
            status = read_header(&self);
            if (status == CPS_OK) {
                *width_out = (int32_t)png_get_image_width(self.png, self.info);
                *height_out = (int32_t)png_get_image_height(self.png, self.info);
            }
        }
    }
    png_destroy_read_struct(&self.png, &self.info, NULL);
    return status;
}

/* Whatever is stored comes out as three bytes a pixel. */
static void ask_for_rgb(decoder *self) {
    const png_byte kind = png_get_color_type(self->png, self->info);
    if (kind == PNG_COLOR_TYPE_PALETTE) {
        png_set_palette_to_rgb(self->png);
    }
    if ((kind & PNG_COLOR_MASK_COLOR) == 0) {
        png_set_expand_gray_1_2_4_to_8(self->png);
        png_set_gray_to_rgb(self->png);
    }
    png_set_strip_16(self->png);
    png_set_strip_alpha(self->png);
}

static cps_status decode(decoder *self) {
    CPS_TRY(read_header(self));
    ask_for_rgb(self);
    const int passes = png_set_interlace_handling(self->png);
    png_read_update_info(self->png, self->info);
    const int32_t width = (int32_t)png_get_image_width(self->png, self->info);
    const int32_t height = (int32_t)png_get_image_height(self->png, self->info);
    if (png_get_rowbytes(self->png, self->info) != (size_t)width * 3) {
        return cps_fail(CPS_ERR_DATA, "unsupported PNG colour type %d",
                        png_get_color_type(self->png, self->info));
    }
    CPS_TRY(cps_image_allocate(width, height, &self->image));
    if (passes > 1) { /* interlaced rows are combined with what is there */
        memset(self->image.pixels, 0, (size_t)width * (size_t)height * 3);
    }
    self->rows_all = (int64_t)height * passes;
    for (int pass = 0; pass < passes; ++pass) {
        for (int32_t y = 0; y < height; ++y) {
            png_read_row(self->png, self->image.pixels + (size_t)y * (size_t)width * 3, NULL);
            self->rows_done += 1;
        }
    }
    self->complete = true;
    png_read_end(self->png, NULL); /* checksum of the last data chunk */
    return CPS_OK;
}

cps_status cps_png_decode(const uint8_t *bytes, size_t length, cps_image *image_out) {
    decoder self = {.png = NULL};
    cps_status status = start(&self, bytes, length);
    if (status == CPS_OK) {
        if (setjmp(png_jmpbuf(self.png)) == 0) {
            status = decode(&self);
        } else if (!(self.complete && self.ended)) { /* a missing end chunk harms nothing */
            status = fail_with_reason(&self);
        }
    }
    png_destroy_read_struct(&self.png, &self.info, NULL);
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
    png_structp png;
    png_infop info;
    uint8_t *bytes;
    size_t length, room;
    char reason[160];
} encoder;

static void append_bytes(png_structp png, png_bytep from, png_size_t count) {
    encoder *self = png_get_io_ptr(png);
    if (count > self->room - self->length) {
        const size_t room = 2 * (self->length + count);
        uint8_t *bytes = realloc(self->bytes, room);
        if (bytes == NULL) {
            png_error(png, "out of memory");
        }
        self->bytes = bytes;
        self->room = room;
    }
    memcpy(self->bytes + self->length, from, count);
    self->length += count;
}

static void flush_nothing(png_structp png) {
    (void)png;
}

static _Noreturn void leave_encoder(png_structp png, png_const_charp message) {
    encoder *self = png_get_error_ptr(png);
    snprintf(self->reason, sizeof self->reason, "%s", message);
    png_longjmp(png, 1);
}

static cps_status encode(encoder *self, const cps_image *image) {
    if (setjmp(png_jmpbuf(self->png)) != 0) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "cannot encode %d x %d pixels as PNG: %s",
                        image->width, image->height, self->reason);
    }
    png_set_write_fn(self->png, self, append_bytes, flush_nothing);
    png_set_IHDR(self->png, self->info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(self->png, self->info);
    for (int32_t y = 0; y < image->height; ++y) {
        png_write_row(self->png, image->pixels + (size_t)y * (size_t)image->width * 3);
    }
    png_write_end(self->png, NULL);
    return CPS_OK;
}

cps_status cps_image_encode_png(const cps_image *image, uint8_t **bytes_out, size_t *length_out) {
    encoder self = {.png = NULL};
    cps_status status = CPS_OK;
    self.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &self, leave_encoder, say_nothing);
    self.info = self.png != NULL ? png_create_info_struct(self.png) : NULL;
    if (self.info == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "no memory to encode a PNG");
    } else {
        status = encode(&self, image);
    }
    png_destroy_write_struct(&self.png, &self.info);
    if (status != CPS_OK) {
        free(self.bytes);
        return status;
    }
    *bytes_out = self.bytes;
    *length_out = self.length;
    return CPS_OK;
}
