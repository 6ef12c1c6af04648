#include "shards/folder.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 32 };

static cps_status add_path(cps_folder *found, const char *path) {
    if (found->image_count == found->room) {
        const int64_t room = found->room == 0 ? 1024 : 2 * found->room;
        char **paths = realloc(found->images, (size_t)room * sizeof *paths);
        if (paths == NULL) {
            return cps_fail(CPS_ERR_UNAVAILABLE, "no memory for a list of %lld files",
                            (long long)room);
        }
        found->images = paths;
        found->room = room;
    }
    found->images[found->image_count++] = cps_format("%s", path);
    return CPS_OK;
}

const char *cps_name_ending(const char *name) {
    const char *dot = strrchr(name, '.');
    const char *slash = strrchr(name, '/');
    return dot != NULL && (slash == NULL || dot > slash) ? dot + 1 : "";
}

bool cps_is_image_name(const char *name) {
    static const char *const endings[] = {"jpg",  "jpeg", "jpe", "jfif", "png",
                                          "webp", "gif",  "bmp", "tif",  "tiff"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; ++i) {
        if (strcasecmp(cps_name_ending(name), endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

static cps_status scan_folder(const char *top, cps_folder *found, const char *relative, int depth);

static cps_status take_entry(const char *top, cps_folder *found, const char *relative, int depth) {
    struct stat info;
    char *path = cps_path_join(top, relative);
    const int rc = stat(path, &info);
    free(path);
    if (rc != 0) {
        return CPS_OK; /* a dangling link */
    }
    if (S_ISDIR(info.st_mode)) {
        return scan_folder(top, found, relative, depth + 1);
    }
    if (cps_is_image_name(relative)) {
        return add_path(found, relative);
    }
    if (strcasecmp(cps_name_ending(relative), "txt") == 0) {
        found->texts += 1;
    } else {
        found->others += 1;
    }
    return CPS_OK;
}

static cps_status scan_folder(const char *top, cps_folder *found, const char *relative, int depth) {
    char *path = *relative != '\0' ? cps_path_join(top, relative) : cps_format("%s", top);
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
                status = take_entry(top, found, name, depth);
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

cps_status cps_folder_scan(const char *path, cps_folder *folder_out) {
    *folder_out = (cps_folder){0};
    const cps_status status = scan_folder(path, folder_out, "", 0);
    if (status == CPS_OK && folder_out->image_count > 0) {
        qsort(folder_out->images, (size_t)folder_out->image_count, sizeof *folder_out->images,
              by_bytes);
    }
    return status;
}

void cps_folder_free(cps_folder *folder) {
    cps_strings_destroy(folder->images, folder->image_count);
    *folder = (cps_folder){0};
}
