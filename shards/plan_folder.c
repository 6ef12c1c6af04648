/* Folders become records. What a folder is shows from what lies in it: texts beside images
 * (name.jpg, name.txt) are captions; else the first folder on the way to an image is its class;
 * images at the top have neither. Names beginning with a dot are passed over. */
#include "shards/plan.h"

#include "base/file.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 32 };
static const size_t max_caption_bytes = (size_t)16 << 20;

typedef struct path_list {
    char **paths; /* relative to the source */
    int64_t count, room;
} path_list;

typedef struct scan {
    const char *source;
    path_list images;
    int64_t others; /* files that are neither image nor text */
    int64_t texts;
} scan;

static cps_status add_path(path_list *list, const char *path) {
    if (list->count == list->room) {
        const int64_t room = list->room == 0 ? 1024 : 2 * list->room;
        char **paths = realloc(list->paths, (size_t)room * sizeof *paths);
        if (paths == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a list of %lld files",
                            (long long)room);
        }
        list->paths = paths;
        list->room = room;
    }
    list->paths[list->count++] = cps_format("%s", path);
    return CPS_OK;
}

/* The ending without its dot; "" if there is none. */
static const char *ending(const char *name) {
    const char *dot = strrchr(name, '.');
    const char *slash = strrchr(name, '/');
    return dot != NULL && (slash == NULL || dot > slash) ? dot + 1 : "";
}

/* Endings of pictures, also of kinds that are not read: those become records with a reason instead
 * of being lost. */
static bool is_image_name(const char *name) {
    static const char *const endings[] = {"jpg",  "jpeg", "jpe", "jfif", "png",
                                          "webp", "gif",  "bmp", "tif",  "tiff"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; ++i) {
        if (strcasecmp(ending(name), endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

static cps_status scan_folder(scan *found, const char *relative, int depth);

static cps_status take_entry(scan *found, const char *relative, int depth) {
    struct stat info;
    char *path = cps_path_join(found->source, relative);
    const int rc = stat(path, &info);
    free(path);
    if (rc != 0) {
        return CPS_OK; /* a dangling link */
    }
    if (S_ISDIR(info.st_mode)) {
        return scan_folder(found, relative, depth + 1);
    }
    if (is_image_name(relative)) {
        return add_path(&found->images, relative);
    }
    if (strcasecmp(ending(relative), "txt") == 0) {
        found->texts += 1;
    } else {
        found->others += 1;
    }
    return CPS_OK;
}

static cps_status scan_folder(scan *found, const char *relative, int depth) {
    char *path = *relative != '\0' ? cps_path_join(found->source, relative)
                                   : cps_format("%s", found->source);
    if (depth > MAX_DEPTH) {
        const cps_status status = cps_fail(CPS_ERR_USAGE,
                                           "'%s' lies more than %d folders deep: is there a link "
                                           "that leads back?",
                                           path, (int)MAX_DEPTH);
        free(path);
        return status;
    }
    DIR *folder = opendir(path);
    cps_status status = CPS_OK;
    if (folder == NULL) {
        status = cps_fail(CPS_ERR_IO, "cannot list the folder '%s': %s", path, strerror(errno));
    } else {
        for (const struct dirent *entry = readdir(folder); entry != NULL && status == CPS_OK;
             entry = readdir(folder)) {
            if (entry->d_name[0] != '.') {
                char *name = *relative != '\0' ? cps_format("%s/%s", relative, entry->d_name)
                                               : cps_format("%s", entry->d_name);
                status = take_entry(found, name, depth);
                free(name);
            }
        }
        closedir(folder);
    }
    free(path);
    return status;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Path of the text beside an image, malloc'ed. */
static char *caption_path(const char *source, const char *image) {
    const size_t stem = (size_t)(ending(image) - image);
    return cps_format("%s/%.*stxt", source, (int)stem, image);
}

static bool has_caption_file(const scan *found) {
    if (found->texts == 0) {
        return false;
    }
    bool any = false;
    for (int64_t i = 0; !any && i < found->images.count; ++i) {
        char *path = caption_path(found->source, found->images.paths[i]);
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

static cps_status add_images(cps_plan *plan, const scan *found) {
    int64_t folder = 0;
    CPS_TRY(cps_plan_intern(plan, found->source, &folder));
    const bool pairs = has_caption_file(found);
    for (int64_t i = 0; i < found->images.count; ++i) {
        const char *image = found->images.paths[i];
        int64_t record = 0;
        if (!cps_utf8_is_valid(image, strlen(image))) {
            return cps_fail(CPS_ERR_DATA, "'%s': the name of the file '%s' is not UTF-8: rename it",
                            found->source, image);
        }
        CPS_TRY(cps_plan_add_record(plan, folder, image, &record));
        if (!pairs) {
            CPS_TRY(set_class(plan, record, image));
            continue;
        }
        char *path = caption_path(found->source, image);
        const cps_status status = cps_file_exists(path) ? add_captions(plan, record, path) : CPS_OK;
        free(path);
        CPS_TRY(status);
    }
    return CPS_OK;
}

cps_status cps_plan_add_folder(cps_plan *plan, const char *path) {
    scan found = {.source = path};
    cps_status status = scan_folder(&found, "", 0);
    if (status == CPS_OK && found.images.count == 0) {
        status = cps_fail(CPS_ERR_USAGE,
                          "'%s' holds 0 images (%lld text and %lld other files): pictures end in "
                          ".jpg, .jpeg or .png",
                          path, (long long)found.texts, (long long)found.others);
    }
    if (status == CPS_OK) {
        qsort(found.images.paths, (size_t)found.images.count, sizeof *found.images.paths, by_bytes);
        status = add_images(plan, &found);
    }
    cps_strings_destroy(found.images.paths, found.images.count);
    return status;
}
