#include "data/pictures.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/text.h"
#include "comm/agree.h"
#include "shards/folder.h"

static const size_t max_file_bytes = (size_t)1 << 30;

/* ---- the list ---- */

void cps_picture_list_free(cps_picture_list *list) {
    cps_strings_destroy(list->paths, list->count);
    *list = (cps_picture_list){0};
}

/* Takes `path` over. */
static cps_status add(cps_picture_list *list, char *path) {
    if (list->count == list->room) {
        const int64_t room = 2 * list->room + 64;
        char **paths = realloc(list->paths, (size_t)room * sizeof *paths);
        if (paths == NULL) {
            free(path);
            return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for a list of %lld pictures",
                            (long long)room);
        }
        list->paths = paths;
        list->room = room;
    }
    list->paths[list->count++] = path;
    return CPS_OK;
}

static bool is_read(const char *name) {
    static const char *const endings[] = {"jpg", "jpeg", "jpe", "jfif", "png"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        if (strcasecmp(cps_name_ending(name), endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

static cps_status add_folder(cps_picture_list *list, const char *path) {
    cps_folder found = {0};
    const int64_t before = list->count;
    const size_t length = strlen(path);
    const char *between = path[length - 1] == '/' ? "" : "/";
    cps_status status = cps_folder_scan(path, &found);
    for (int64_t i = 0; i < found.image_count && status == CPS_OK; i++) {
        if (is_read(found.images[i])) {
            status = add(list, cps_format("%s%s%s", path, between, found.images[i]));
        } else {
            list->passed_over++;
        }
    }
    cps_folder_free(&found);
    if (status == CPS_OK && list->count == before) {
        status =
            cps_fail(CPS_ERR_USAGE,
                     "the folder '%s' holds no picture: they end in .jpg, .jpeg or .png", path);
    }
    return status;
}

cps_status cps_picture_list_add(cps_picture_list *list, const char *path) {
    if (*path != '\0' && cps_dir_exists(path)) {
        return add_folder(list, path);
    }
    return add(list, cps_format("%s", path));
}

cps_status cps_picture_list_read(cps_picture_list *list, FILE *lines, const char *name) {
    char *line = NULL;
    size_t room = 0;
    cps_status status = CPS_OK;
    errno = 0;
    for (ssize_t length; status == CPS_OK && (length = getline(&line, &room, lines)) >= 0;) {
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) {
            line[--length] = '\0';
        }
        if (length > 0) {
            status = add(list, cps_format("%s", line));
        }
    }
    free(line);
    if (status == CPS_OK && ferror(lines)) {
        status = cps_fail(CPS_ERR_IO, "%s cannot be read: %s", name, strerror(errno));
    }
    return status;
}

/* The paths one behind the other, each with its NUL. */
static char *join(const cps_picture_list *list, size_t *length_out) {
    size_t length = 0;
    for (int64_t i = 0; i < list->count; i++) {
        length += strlen(list->paths[i]) + 1;
    }
    char *text = malloc(length + 1);
    size_t at = 0;
    for (int64_t i = 0; i < list->count && text != NULL; i++) {
        const size_t bytes = strlen(list->paths[i]) + 1;
        memcpy(text + at, list->paths[i], bytes);
        at += bytes;
    }
    *length_out = length;
    return text;
}

static cps_status split(cps_picture_list *list, const char *text, size_t length) {
    cps_status status = CPS_OK;
    for (size_t at = 0; at < length && status == CPS_OK; at += strlen(text + at) + 1) {
        status = add(list, cps_format("%s", text + at));
    }
    return status;
}

cps_status cps_picture_list_share(cps_picture_list *list, cps_comm *comm) {
    const bool root = cps_comm_rank(comm) == 0;
    size_t length = 0;
    void *text = root ? join(list, &length) : NULL;
    cps_status status = root && text == NULL
                            ? cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the pictures' names")
                            : CPS_OK;
    CPS_TRY(cps_agree(comm, "list of pictures", status));
    cps_comm_broadcast_alloc(comm, "list of pictures", &text, &length, 0);
    status = root ? CPS_OK : split(list, text, length);
    free(text);
    return cps_agree(comm, "list of pictures", status);
}

/* ---- reading ---- */

typedef struct reading {
    const char *const *paths;
    const cps_recipe *recipe;
    cps_real *planes;
    char (*reasons)[CPS_PICTURE_REASON];
} reading;

static cps_status apply(const cps_recipe *recipe, cps_picture *picture, cps_real *planes) {
    const cps_draw_key no_draws = {.seed = 0};
    const size_t pixels = (size_t)recipe->size * (size_t)recipe->size;
    uint8_t *rgb = malloc(3 * pixels);
    if (rgb == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory");
    }
    const cps_image image = {.width = recipe->size, .height = recipe->size, .pixels = rgb};
    const cps_status status = cps_recipe_apply(recipe, picture, &no_draws, rgb);
    if (status == CPS_OK) {
        cps_image_normalize(&image, false, recipe->mean, recipe->std, planes);
    }
    free(rgb);
    return status;
}

static cps_status read_one(const char *path, const cps_recipe *recipe, cps_real *planes) {
    char *bytes = NULL;
    size_t length = 0;
    if (!cps_utf8_is_valid(path, strlen(path))) {
        return cps_fail(CPS_ERR_DATA, "its name is not UTF-8: rename it");
    }
    CPS_TRY(cps_file_read(path, max_file_bytes, &bytes, &length));
    cps_picture picture = {.bytes = NULL};
    cps_status status = cps_picture_open(&picture, (const uint8_t *)bytes, length);
    if (status == CPS_OK) {
        status = apply(recipe, &picture, planes);
    }
    cps_picture_close(&picture);
    free(bytes);
    return status;
}

static void read_body(void *context, int64_t index) {
    const reading *work = context;
    const size_t side = (size_t)work->recipe->size, elements = 3 * side * side;
    cps_real *planes = work->planes + (size_t)index * elements;
    char *reason = work->reasons[index];
    reason[0] = '\0';
    if (read_one(work->paths[index], work->recipe, planes) != CPS_OK) {
        snprintf(reason, CPS_PICTURE_REASON, "%s", cps_fail_message());
        cps_fail_clear();
        memset(planes, 0, elements * sizeof *planes);
    }
}

void cps_pictures_read(const char *const *paths, int64_t count, const cps_recipe *recipe,
                       cps_real *planes_out, char (*reasons_out)[CPS_PICTURE_REASON]) {
    CPS_BUG_IF(recipe->kind != CPS_RECIPE_EVALUATION);
    reading work = {paths, recipe, planes_out, reasons_out};
    cps_parallel(count, read_body, &work);
}
