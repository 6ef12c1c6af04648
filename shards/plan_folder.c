/* Folders become records. What a folder is shows from what lies in it: texts beside images
 * (name.jpg, name.txt) are captions; else the first folder on the way to an image is its class;
 * images at the top have neither. */
#include "shards/plan.h"

#include "base/file.h"
#include "base/text.h"
#include "shards/folder.h"

#include <stdlib.h>
#include <string.h>

static const size_t max_caption_bytes = (size_t)16 << 20;

/* Path of the text beside an image, malloc'ed. */
static char *caption_path(const char *source, const char *image) {
    const size_t stem = (size_t)(cps_name_ending(image) - image);
    return cps_format("%s/%.*stxt", source, (int)stem, image);
}

static bool has_caption_file(const char *source, const cps_folder *found) {
    if (found->texts == 0) {
        return false;
    }
    bool any = false;
    for (int64_t i = 0; !any && i < found->image_count; ++i) {
        char *path = caption_path(source, found->images[i]);
        any = cps_file_exists(path);
        free(path);
    }
    return any;
}

/* Each line is a caption. */
static cps_status add_captions(cps_plan *plan, int64_t record, const char *path) {
    char *text = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, max_caption_bytes, &text, &length));
    cps_status status = CPS_OK;
    if (!cps_utf8_is_valid(text, length) || memchr(text, '\0', length) != NULL) {
        status =
            cps_fail(CPS_ERR_DATA, "the caption file '%s' is not UTF-8 text: convert it", path);
    }
    char *rest = strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    for (char *line = strtok_r(rest, "\r\n", &rest); line != NULL && status == CPS_OK;
         line = strtok_r(NULL, "\r\n", &rest)) {
        status = cps_plan_add_text(plan, record, CPS_PLAN_CAPTION, line);
    }
    free(text);
    return status;
}

static cps_status set_class(cps_plan *plan, int64_t record, const char *image) {
    const char *slash = strchr(image, '/');
    if (slash == NULL) {
        return CPS_OK;
    }
    int64_t at = 0;
    char *name = cps_format("%.*s", (int)(slash - image), image);
    const cps_status status = cps_plan_intern(plan, name, &at);
    free(name);
    if (status == CPS_OK) {
        cps_plan_record_at(plan, record)->label_name = at;
    }
    return status;
}

static cps_status add_images(cps_plan *plan, const char *source, const cps_folder *found) {
    int64_t folder = 0;
    CPS_TRY(cps_plan_intern(plan, source, &folder));
    const bool pairs = has_caption_file(source, found);
    for (int64_t i = 0; i < found->image_count; ++i) {
        const char *image = found->images[i];
        int64_t record = 0;
        if (!cps_utf8_is_valid(image, strlen(image))) {
            return cps_fail(CPS_ERR_DATA, "'%s': the name of the file '%s' is not UTF-8: rename it",
                            source, image);
        }
        CPS_TRY(cps_plan_add_record(plan, folder, image, &record));
        if (!pairs) {
            CPS_TRY(set_class(plan, record, image));
            continue;
        }
        char *path = caption_path(source, image);
        const cps_status status = cps_file_exists(path) ? add_captions(plan, record, path) : CPS_OK;
        free(path);
        CPS_TRY(status);
    }
    return CPS_OK;
}

cps_status cps_plan_add_folder(cps_plan *plan, const char *path) {
    cps_folder found = {0};
    cps_status status = cps_folder_scan(path, &found);
    if (status == CPS_OK && found.image_count == 0) {
        status = cps_fail(CPS_ERR_USAGE,
                          "'%s' holds 0 images (%lld text and %lld other files): pictures end in "
                          ".jpg, .jpeg or .png",
                          path, (long long)found.texts, (long long)found.others);
    }
    if (status == CPS_OK) {
        status = add_images(plan, path, &found);
    }
    cps_folder_free(&found);
    return status;
}
