/* Files, names and addresses. A name is walked link by link before the library may follow it: soft
 * and external links are refused, so that a file from a stranger cannot make us open another one.
 * Filter plugins are switched off for the same reason: no file may name code to be loaded. */
#include "h5/h5.h"

#include "base/file.h"
#include "base/numeric.h"
#include "h5/h5_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;

void cps_h5_lock(void) {
    pthread_mutex_lock(&library_lock);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void cps_h5_unlock(void) {
    pthread_mutex_unlock(&library_lock);
}

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *error, void *reason) {
    (void)depth;
    if (error->desc != NULL) {
        *(const char **)reason =
            error->desc; /* walked from the caller down: the last one is the cause */
    }
    return 0;
}

/* Of a failed read or write HDF5 says everything, addresses of memory included, on two lines: what
 * the system said of it is enough. */
static const char *shorten(const char *reason, int *length_out) {
    static const char said[] = "error message = '";
    const char *at = strstr(reason, said);
    reason = at == NULL ? reason : at + sizeof said - 1;
    *length_out = (int)strcspn(reason, at == NULL ? "\n" : "'\n");
    return reason;
}

cps_status cps_h5_fail_locked(const cps_h5 *file, cps_status code, const char *object,
                              const char *what) {
    const char *reason = NULL;
    int length = 0;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_innermost, &reason);
    const bool named = object != NULL && strcmp(object, "/") != 0;
    const char *shown = reason == NULL ? "" : shorten(reason, &length);
    cps_fail(code, "'%s'%s%s%s: %s%s%.*s%s", file->path, named ? ": '" : "", named ? object : "",
             named ? "'" : "", what, reason != NULL ? " (HDF5: " : "", length, shown,
             reason != NULL ? ")" : "");
    H5Eclear2(H5E_DEFAULT);
    return code;
}

/* ---- opening and closing
 * ------------------------------------------------------------------------------------------ */

static cps_h5 *new_handle(const char *path) {
    cps_h5 *file = malloc(sizeof *file);
    char *copy = cps_format("%s", path);
    if (file == NULL) {
        free(copy);
        return NULL;
    }
    *file = (cps_h5){.id = H5I_INVALID_HID, .path = copy};
    return file;
}

static void free_handle(cps_h5 *file) {
    if (file != NULL) {
        free(file->path);
        free(file);
    }
}

/* Access properties of every file: no lock is taken (parallel file systems refuse them, and shards
 * are read by many), closing a file closes what was left open in it, and small reads do not pull 64
 * KiB each. */
static hid_t new_access(void) {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 ||
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 ||
        H5Pset_sieve_buf_size(access, 4096) < 0 ||
        H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0) {
        return H5I_INVALID_HID;
    }
    return access;
}

static cps_status open_locked(cps_h5 *file) {
    H5PLset_loading_state(0); /* no filter is loaded because a file asks for it */
    const hid_t access = new_access();
    if (access < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_INTERNAL, NULL, "cannot set up file access");
    }
    file->id = H5Fopen(file->path, H5F_ACC_RDONLY, access);
    cps_status status = CPS_OK;
    if (file->id < 0) {
        status =
            cps_h5_fail_locked(file, CPS_ERR_DATA, NULL,
                               "not a readable HDF5 file: it is damaged, cut short or something "
                               "else; copy or make it again");
    }
    H5Pclose(access);
    return status;
}

/* A sentence about files that HDF5 would only call "unable to open". */
static cps_status check_regular_file(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "cannot open '%s': there is no such file; check the path", path);
    }
    if (!S_ISREG(info.st_mode)) {
        return cps_fail(CPS_ERR_DATA, "'%s' is a %s, not an HDF5 file", path,
                        S_ISDIR(info.st_mode) ? "folder" : "special file");
    }
    if (info.st_size == 0) {
        return cps_fail(CPS_ERR_DATA, "'%s' is empty (0 bytes), not an HDF5 file", path);
    }
    return CPS_OK;
}

static cps_status open_file(const char *path, bool strict, cps_h5 **file_out) {
    CPS_TRY(check_regular_file(path));
    cps_h5 *file = new_handle(path);
    if (file == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory opening '%s'", path);
    }
    cps_h5_lock();
    const cps_status status = open_locked(file);
    cps_h5_unlock();
    if (status != CPS_OK) {
        free_handle(file);
        return status;
    }
    file->strict = strict;
    *file_out = file;
    return CPS_OK;
}

cps_status cps_h5_open(const char *path, cps_h5 **file_out) {
    return open_file(path, false, file_out);
}

/* Byte 8 of an HDF5 file without user block is the version of its superblock. */
static cps_status check_superblock(const char *path) {
    unsigned char head[9] = {0};
    FILE *raw = fopen(path, "rb");
    if (raw == NULL) {
        return cps_fail(CPS_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    const size_t got = fread(head, 1, sizeof head, raw);
    fclose(raw);
    if (got != sizeof head || memcmp(head, "\x89HDF\r\n\x1a\n", 8) != 0) {
        return cps_fail(CPS_ERR_DATA, "'%s' is not an HDF5 file: copy or make it again", path);
    }
    if (head[8] < 2) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is an HDF5 file with superblock version %d, whose metadata carry no "
                        "checksums; version 2 or 3 is wanted (h5py: libver=('v108', 'v108'))",
                        path, head[8]);
    }
    return CPS_OK;
}

cps_status cps_h5_open_strict(const char *path, cps_h5 **file_out) {
    CPS_TRY(check_regular_file(path));
    CPS_TRY(check_superblock(path));
    return open_file(path, true, file_out);
}

static cps_status create_locked(cps_h5 *file) {
    const hid_t access = new_access();
    const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    /* The root group is an object of the file's creation list: no time stamps there either. */
    const bool ready = access >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0;
    if (ready) {
        file->id = H5Fcreate(file->path, H5F_ACC_TRUNC, creation, access);
    }
    cps_status status = CPS_OK;
    if (file->id < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, NULL,
                                    "cannot create the file: check that its folder exists, may be "
                                    "written and has space");
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    if (access >= 0) {
        H5Pclose(access);
    }
    return status;
}

cps_status cps_h5_create(const char *path, cps_h5 **file_out) {
    cps_h5 *file = new_handle(path);
    if (file == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory creating '%s'", path);
    }
    const bool is_new = access(path, F_OK) != 0;
    cps_h5_lock();
    const cps_status status = create_locked(file);
    cps_h5_unlock();
    if (status != CPS_OK) {
        if (is_new) {
            unlink(path); /* a full disk has room for its name */
        }
        free_handle(file);
        return status;
    }
    *file_out = file;
    return CPS_OK;
}

/* Lets what HDF5 still wants to write go to memory that is thrown away. */
static void divert_writes(hid_t file) {
    void *handle = NULL;
    const int memory = memfd_create("copse-failed-write", MFD_CLOEXEC);
    if (memory >= 0 && H5Fget_vfd_handle(file, H5P_DEFAULT, &handle) >= 0 && handle != NULL) {
        (void)!dup2(memory, *(const int *)handle);
    }
    if (memory >= 0) {
        close(memory);
    }
}

/* A close whose flush fails (disk full) leaves HDF5 1.10 with a half-freed file, and the process
 * crashes when the library ends. So it is flushed first, and after a failure closed over a file
 * that takes everything. */
static cps_status close_locked(cps_h5 *file) {
    static const char *const advice = "cannot finish writing: is the disk or quota full?";
    cps_status status = CPS_OK;
    if (H5Fflush(file->id, H5F_SCOPE_GLOBAL) < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, NULL, advice);
        divert_writes(file->id);
        /* The flush that failed left its list of what to write open, and closing asks for it to be
         * closed: another flush, whatever it says, does that. */
        (void)!(H5Fflush(file->id, H5F_SCOPE_GLOBAL) < 0);
    }
    if (H5Fclose(file->id) < 0 && status == CPS_OK) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, NULL, advice);
    }
    return status;
}

cps_status cps_h5_close(cps_h5 *file) {
    if (file == NULL) {
        return CPS_OK;
    }
    cps_h5_lock();
    const cps_status status = close_locked(file);
    cps_h5_unlock();
    free_handle(file);
    return status;
}

cps_status cps_h5_write_file(const char *path,
                             cps_status (*write)(cps_h5 *file, const void *context),
                             const void *context) {
    char *temporary = cps_file_temporary_name(path);
    cps_h5 *file = NULL;
    cps_status status = cps_h5_create(temporary, &file);
    if (status == CPS_OK) {
        const cps_status written = write(file, context);
        const cps_status closed = cps_h5_close(file);
        status = written != CPS_OK ? written : closed;
        if (status == CPS_OK) {
            status = cps_file_publish(temporary, path);
        } else {
            unlink(temporary);
        }
    }
    free(temporary);
    return status;
}

const char *cps_h5_path(const cps_h5 *file) {
    return file->path;
}

/* ---- what stands at a name
 * ---------------------------------------------------------------------------------------- */

hid_t cps_h5_memory_type(cps_h5_type type) {
    switch (type) {
    case CPS_H5_F32:
        return H5T_NATIVE_FLOAT;
    case CPS_H5_F64:
        return H5T_NATIVE_DOUBLE;
    case CPS_H5_I32:
        return H5T_NATIVE_INT32;
    case CPS_H5_I64:
        return H5T_NATIVE_INT64;
    case CPS_H5_U8:
        return H5T_NATIVE_UINT8;
    case CPS_H5_U64:
        return H5T_NATIVE_UINT64;
    case CPS_H5_F16:
    case CPS_H5_STRING:
    case CPS_H5_OTHER:
        break;
    }
    return H5I_INVALID_HID;
}

static cps_h5_type nearest_type(hid_t type) {
    const size_t bytes = H5Tget_size(type);
    switch (H5Tget_class(type)) {
    case H5T_FLOAT:
        return bytes == 4 ? CPS_H5_F32 : CPS_H5_F64;
    case H5T_INTEGER:
        if (bytes == 1 && H5Tget_sign(type) == H5T_SGN_NONE) {
            return CPS_H5_U8;
        }
        if (bytes == 8 && H5Tget_sign(type) == H5T_SGN_NONE) {
            return CPS_H5_U64;
        }
        return bytes == 4 && H5Tget_sign(type) != H5T_SGN_NONE ? CPS_H5_I32 : CPS_H5_I64;
    case H5T_ENUM: /* h5py's bool */
        return CPS_H5_I64;
    case H5T_STRING:
        return CPS_H5_STRING;
    default:
        return CPS_H5_OTHER;
    }
}

/* Every component of `name` must be a hard link; *exists_out is false where one is absent. */
static cps_status walk_locked(cps_h5 *file, const char *name, bool *exists_out) {
    cps_status status = CPS_OK;
    *exists_out = true;
    char *path = cps_format("%s", name);
    for (char *end = path; *end != '\0' && *exists_out && status == CPS_OK;) {
        end += strspn(end, "/");
        if (*end == '\0') {
            break; /* "/" or a trailing slash: the group itself */
        }
        end += strcspn(end, "/");
        const char kept = *end;
        *end = '\0';
        H5L_info_t link;
        if (H5Lexists(file->id, path, H5P_DEFAULT) <= 0) {
            *exists_out = false;
        } else if (H5Lget_info(file->id, path, &link, H5P_DEFAULT) < 0) {
            status = cps_h5_fail_locked(file, CPS_ERR_DATA, path, "unreadable link");
        } else if (link.type != H5L_TYPE_HARD) {
            status = cps_h5_fail_locked(
                file, CPS_ERR_DATA, path,
                "is a soft or external link; links are not followed, store the object itself");
        } else {
            H5O_info_t info;
            const bool last = kept == '\0';
            if (!last &&
                (H5Oget_info_by_name2(file->id, path, &info, H5O_INFO_BASIC, H5P_DEFAULT) < 0 ||
                 info.type != H5O_TYPE_GROUP)) {
                *exists_out = false; /* a dataset has nothing below it */
            }
        }
        *end = kept;
    }
    H5Eclear2(H5E_DEFAULT);
    free(path);
    return status;
}

static cps_status describe_space(cps_h5 *file, const char *name, hid_t space, cps_h5_info *info) {
    hsize_t shape[H5S_MAX_RANK];
    const int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 0 || H5Sget_simple_extent_dims(space, shape, NULL) < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable shape");
    }
    if (rank > CPS_H5_MAX_RANK) {
        return cps_fail(CPS_ERR_DATA, "'%s': '%s' has %d dimensions, at most %d are read",
                        file->path, name, rank, (int)CPS_H5_MAX_RANK);
    }
    info->rank = rank;
    info->count = H5Sget_simple_extent_type(space) == H5S_NULL ? 0 : 1;
    for (int i = 0; i < rank; ++i) {
        if (shape[i] > INT64_MAX / 16 ||
            !cps_mul_i64(info->count, (int64_t)shape[i], &info->count)) {
            return cps_fail(CPS_ERR_DATA,
                            "'%s': '%s' declares more elements than 64 bits count: the file is "
                            "damaged or lies",
                            file->path, name);
        }
        info->shape[i] = (int64_t)shape[i];
    }
    return CPS_OK;
}

static cps_status describe_dataset(cps_h5 *file, const char *name, hid_t dataset,
                                   cps_h5_info *info_out) {
    cps_h5_info info = {.kind = CPS_H5_DATASET};
    const hid_t type = H5Dget_type(dataset);
    const hid_t space = H5Dget_space(dataset);
    cps_status status = CPS_OK;
    if (type < 0 || space < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable type or shape");
    } else {
        info.type = nearest_type(type);
        status = describe_space(file, name, space, &info);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (type >= 0) {
        H5Tclose(type);
    }
    if (status == CPS_OK) {
        *info_out = info;
    }
    return status;
}

cps_status cps_h5_inspect_locked(cps_h5 *file, const char *name, cps_h5_info *info_out) {
    bool exists = false;
    CPS_TRY(walk_locked(file, name, &exists));
    if (!exists) {
        *info_out = (cps_h5_info){.kind = CPS_H5_NONE, .type = CPS_H5_OTHER};
        return CPS_OK;
    }
    H5O_info_t object;
    if (H5Oget_info_by_name2(file->id, name, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable object");
    }
    if (object.type == H5O_TYPE_GROUP) {
        *info_out = (cps_h5_info){.kind = CPS_H5_GROUP, .type = CPS_H5_OTHER};
        return CPS_OK;
    }
    if (object.type != H5O_TYPE_DATASET) {
        *info_out = (cps_h5_info){.kind = CPS_H5_NONE, .type = CPS_H5_OTHER};
        return CPS_OK;
    }
    const hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (dataset < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable dataset");
    }
    const cps_status status = describe_dataset(file, name, dataset, info_out);
    H5Dclose(dataset);
    return status;
}

cps_status cps_h5_inspect(cps_h5 *file, const char *name, cps_h5_info *info_out) {
    cps_h5_lock();
    const cps_status status = cps_h5_inspect_locked(file, name, info_out);
    cps_h5_unlock();
    return status;
}

bool cps_h5_has(cps_h5 *file, const char *name) {
    cps_h5_info info;
    return cps_h5_inspect(file, name, &info) == CPS_OK && info.kind != CPS_H5_NONE;
}

/* Values outside of the file (external storage, virtual datasets) could be anything on this
 * machine. */
static cps_status check_storage(cps_h5 *file, const char *name, hid_t dataset) {
    const hid_t creation = H5Dget_create_plist(dataset);
    if (creation < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable layout");
    }
    const bool elsewhere =
        H5Pget_layout(creation) == H5D_VIRTUAL || H5Pget_external_count(creation) > 0;
    H5Pclose(creation);
    if (elsewhere) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': '%s' keeps its values in another file, which is not followed: store "
                        "them in this one",
                        file->path, name);
    }
    return CPS_OK;
}

cps_status cps_h5_open_dataset_locked(cps_h5 *file, const char *name, hid_t *dataset_out,
                                      cps_h5_info *info_out) {
    CPS_TRY(cps_h5_inspect_locked(file, name, info_out));
    if (info_out->kind != CPS_H5_DATASET) {
        return cps_fail(CPS_ERR_DATA, "'%s': %s '%s', a dataset is wanted", file->path,
                        info_out->kind == CPS_H5_GROUP ? "there is a group at" : "there is no",
                        name);
    }
    const hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (dataset < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable dataset");
    }
    const cps_status status = check_storage(file, name, dataset);
    if (status != CPS_OK) {
        H5Dclose(dataset);
        return status;
    }
    *dataset_out = dataset;
    return CPS_OK;
}

/* ---- lists of names
 * -----------------------------------------------------------------------------------------------
 */

typedef struct name_list {
    char **names;
    int64_t count, room;
} name_list;

static herr_t add_name(name_list *list, const char *name) {
    if (list->count == list->room) {
        const int64_t room = list->room == 0 ? 16 : 2 * list->room;
        char **names = realloc(list->names, (size_t)room * sizeof *names);
        if (names == NULL) {
            return -1;
        }
        list->names = names;
        list->room = room;
    }
    list->names[list->count++] = cps_format("%s", name);
    return 0;
}

static herr_t add_link(hid_t group, const char *name, const H5L_info_t *info, void *list) {
    (void)group;
    (void)info;
    return add_name(list, name);
}

static herr_t add_attribute(hid_t object, const char *name, const H5A_info_t *info, void *list) {
    (void)object;
    (void)info;
    return add_name(list, name);
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static cps_status finish_list(cps_h5 *file, const char *object, herr_t walked, name_list *list,
                              char ***names_out, int64_t *count_out) {
    if (walked < 0) {
        cps_strings_destroy(list->names, list->count);
        return cps_h5_fail_locked(file, CPS_ERR_DATA, object, "unreadable list of names");
    }
    if (list->count > 1) {
        qsort(list->names, (size_t)list->count, sizeof *list->names, by_bytes);
    }
    *names_out = list->names;
    *count_out = list->count;
    return CPS_OK;
}

static cps_status list_locked(cps_h5 *file, const char *group, char ***names_out,
                              int64_t *count_out) {
    cps_h5_info info;
    CPS_TRY(cps_h5_inspect_locked(file, group, &info));
    if (info.kind != CPS_H5_GROUP) {
        return cps_fail(CPS_ERR_DATA, "'%s': there is no group '%s'", file->path, group);
    }
    name_list list = {0};
    const herr_t walked = H5Literate_by_name(file->id, group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL,
                                             add_link, &list, H5P_DEFAULT);
    return finish_list(file, group, walked, &list, names_out, count_out);
}

cps_status cps_h5_list(cps_h5 *file, const char *group, char ***names_out, int64_t *count_out) {
    cps_h5_lock();
    const cps_status status = list_locked(file, group, names_out, count_out);
    cps_h5_unlock();
    return status;
}

static cps_status list_attributes_locked(cps_h5 *file, const char *object, char ***names_out,
                                         int64_t *count_out) {
    cps_h5_info info;
    CPS_TRY(cps_h5_inspect_locked(file, object, &info));
    if (info.kind == CPS_H5_NONE) {
        return cps_fail(CPS_ERR_DATA, "'%s': there is no '%s'", file->path, object);
    }
    name_list list = {0};
    const herr_t walked = H5Aiterate_by_name(file->id, object, H5_INDEX_NAME, H5_ITER_NATIVE, NULL,
                                             add_attribute, &list, H5P_DEFAULT);
    return finish_list(file, object, walked, &list, names_out, count_out);
}

cps_status cps_h5_list_attributes(cps_h5 *file, const char *object, char ***names_out,
                                  int64_t *count_out) {
    cps_h5_lock();
    const cps_status status = list_attributes_locked(file, object, names_out, count_out);
    cps_h5_unlock();
    return status;
}

/* ---- addresses
 * ----------------------------------------------------------------------------------------------------
 */

static cps_status address_of(cps_h5 *file, const char *name, hid_t dataset, const cps_h5_info *info,
                             int64_t *address_out, size_t *bytes_out) {
    const hid_t creation = H5Dget_create_plist(dataset);
    const bool plain = creation >= 0 && H5Pget_layout(creation) == H5D_CONTIGUOUS &&
                       H5Pget_nfilters(creation) == 0;
    if (creation >= 0) {
        H5Pclose(creation);
    }
    const haddr_t address = plain ? H5Dget_offset(dataset) : HADDR_UNDEF;
    const hsize_t bytes = H5Dget_storage_size(dataset);
    const hid_t type = H5Dget_type(dataset);
    size_t wanted = 0;
    const bool sized = type >= 0 && cps_mul_size(H5Tget_size(type), (size_t)info->count, &wanted);
    if (type >= 0) {
        H5Tclose(type);
    }
    if (plain && sized && wanted == 0) { /* nothing is stored, and nothing will be read */
        *address_out = 0;
        *bytes_out = 0;
        return CPS_OK;
    }
    if (address == HADDR_UNDEF || address > INT64_MAX || !sized || bytes != wanted ||
        bytes > INT64_MAX - address) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name,
                                  "is not contiguous, unfiltered and allocated: its values have no "
                                  "address in the file");
    }
    *address_out = (int64_t)address;
    *bytes_out = (size_t)bytes;
    return CPS_OK;
}

cps_status cps_h5_address(cps_h5 *file, const char *name, int64_t *address_out, size_t *bytes_out) {
    cps_h5_lock();
    hid_t dataset = H5I_INVALID_HID;
    cps_h5_info info;
    cps_status status = cps_h5_open_dataset_locked(file, name, &dataset, &info);
    if (status == CPS_OK) {
        status = address_of(file, name, dataset, &info, address_out, bytes_out);
        H5Dclose(dataset);
    }
    cps_h5_unlock();
    return status;
}
