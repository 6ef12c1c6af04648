/* Reading of datasets and attributes, converted to the type asked for. An integer that does not fit
 * there is an error: the library alone would clip it silently. */
#include "h5/h5.h"

#include "base/file.h"
#include "base/numeric.h"
#include "h5/h5_internal.h"

#include <stdlib.h>
#include <string.h>

/* Strings from strangers: one text, and all texts of a dataset. */
static const size_t max_text_bytes = (size_t)256 << 20;

static bool is_integer(cps_h5_type type) {
    return type == CPS_H5_I32 || type == CPS_H5_I64 || type == CPS_H5_U8 || type == CPS_H5_U64;
}

static bool is_float(cps_h5_type type) {
    return type == CPS_H5_F32 || type == CPS_H5_F64;
}

static const char *type_name(cps_h5_type type) {
    static const char *const names[] = {[CPS_H5_F32] = "32-bit floats",
                                        [CPS_H5_F64] = "floats",
                                        [CPS_H5_I32] = "32-bit integers",
                                        [CPS_H5_I64] = "integers",
                                        [CPS_H5_U8] = "bytes",
                                        [CPS_H5_U64] = "unsigned 64-bit integers",
                                        [CPS_H5_F16] = "16-bit floats",
                                        [CPS_H5_STRING] = "strings",
                                        [CPS_H5_OTHER] = "values of another type"};
    return names[type];
}

static cps_status check_type(const cps_h5 *file, const char *name, cps_h5_type stored,
                             cps_h5_type wanted) {
    const bool fits = is_integer(wanted)
                          ? is_integer(stored)
                          : is_float(wanted) && (is_integer(stored) || is_float(stored));
    if (!fits) {
        return cps_fail(CPS_ERR_DATA, "'%s': '%s' holds %s, %s are wanted", file->path, name,
                        type_name(stored), type_name(wanted));
    }
    return CPS_OK;
}

static H5T_conv_ret_t refuse_clipping(H5T_conv_except_t what, hid_t from, hid_t to, void *source,
                                      void *target, void *clipped) {
    (void)from;
    (void)source;
    (void)target;
    const bool out_of_range = what == H5T_CONV_EXCEPT_RANGE_HI || what == H5T_CONV_EXCEPT_RANGE_LOW;
    if (out_of_range && H5Tget_class(to) == H5T_INTEGER) {
        *(bool *)clipped = true;
        return H5T_CONV_ABORT;
    }
    return H5T_CONV_UNHANDLED;
}

/* H5Dread of the selected part into `values`. */
static cps_status transfer(cps_h5 *file, const char *name, hid_t dataset, cps_h5_type type,
                           hid_t memory_space, hid_t file_space, void *values) {
    bool clipped = false;
    const hid_t how = H5Pcreate(H5P_DATASET_XFER);
    if (how < 0 || H5Pset_type_conv_cb(how, refuse_clipping, &clipped) < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_INTERNAL, name, "cannot set up a transfer");
    }
    const herr_t read =
        H5Dread(dataset, cps_h5_memory_type(type), memory_space, file_space, how, values);
    cps_status status = CPS_OK;
    if (read < 0 && clipped) {
        status = cps_fail(CPS_ERR_DATA, "'%s': '%s' holds a number too large for %s", file->path,
                          name, type_name(type));
    } else if (read < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "cannot be read");
    }
    H5Pclose(how);
    return status;
}

static cps_status read_locked(cps_h5 *file, const char *name, cps_h5_type type, int64_t count,
                              void *values) {
    hid_t dataset = H5I_INVALID_HID;
    cps_h5_info info;
    CPS_TRY(cps_h5_open_dataset_locked(file, name, &dataset, &info));
    cps_status status = check_type(file, name, info.type, type);
    if (status == CPS_OK && info.count != count) {
        status = cps_fail(CPS_ERR_DATA, "'%s': '%s' holds %lld elements, %lld are wanted",
                          file->path, name, (long long)info.count, (long long)count);
    }
    if (status == CPS_OK && count > 0) {
        status = transfer(file, name, dataset, type, H5S_ALL, H5S_ALL, values);
    }
    H5Dclose(dataset);
    return status;
}

cps_status cps_h5_read(cps_h5 *file, const char *name, cps_h5_type type, int64_t count,
                       void *values_out) {
    cps_h5_lock();
    const cps_status status = read_locked(file, name, type, count, values_out);
    cps_h5_unlock();
    return status;
}

static cps_status read_selected(cps_h5 *file, const char *name, hid_t dataset, cps_h5_type type,
                                const cps_h5_info *info, int64_t first, int64_t rows,
                                void *values) {
    hsize_t start[CPS_H5_MAX_RANK] = {0};
    hsize_t extent[CPS_H5_MAX_RANK] = {0};
    for (int i = 0; i < info->rank; ++i) {
        extent[i] = (hsize_t)info->shape[i];
    }
    start[0] = (hsize_t)first;
    extent[0] = (hsize_t)rows;
    const hid_t from = H5Dget_space(dataset);
    const hid_t to = H5Screate_simple(info->rank, extent, NULL);
    cps_status status = CPS_OK;
    if (from < 0 || to < 0 ||
        H5Sselect_hyperslab(from, H5S_SELECT_SET, start, NULL, extent, NULL) < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "cannot select rows");
    } else {
        status = transfer(file, name, dataset, type, to, from, values);
    }
    if (to >= 0) {
        H5Sclose(to);
    }
    if (from >= 0) {
        H5Sclose(from);
    }
    return status;
}

static cps_status read_rows_locked(cps_h5 *file, const char *name, cps_h5_type type, int64_t first,
                                   int64_t rows, void *values) {
    hid_t dataset = H5I_INVALID_HID;
    cps_h5_info info;
    CPS_TRY(cps_h5_open_dataset_locked(file, name, &dataset, &info));
    cps_status status = check_type(file, name, info.type, type);
    const int64_t there = info.rank > 0 ? info.shape[0] : 0;
    if (status == CPS_OK && (first < 0 || rows < 0 || first > there || rows > there - first)) {
        status =
            cps_fail(CPS_ERR_DATA, "'%s': '%s' has %lld rows; %lld from row %lld on are wanted",
                     file->path, name, (long long)there, (long long)rows, (long long)first);
    }
    if (status == CPS_OK && rows > 0 && info.count > 0) {
        status = read_selected(file, name, dataset, type, &info, first, rows, values);
    }
    H5Dclose(dataset);
    return status;
}

cps_status cps_h5_read_rows(cps_h5 *file, const char *name, cps_h5_type type, int64_t first,
                            int64_t rows, void *values_out) {
    cps_h5_lock();
    const cps_status status = read_rows_locked(file, name, type, first, rows, values_out);
    cps_h5_unlock();
    return status;
}

cps_status cps_h5_read_alloc(cps_h5 *file, const char *name, cps_h5_type type, size_t max_bytes,
                             void **values_out, int64_t *count_out) {
    cps_h5_info info;
    CPS_TRY(cps_h5_inspect(file, name, &info));
    CPS_BUG_IF(type == CPS_H5_STRING || type == CPS_H5_OTHER || type == CPS_H5_F16);
    const size_t element_bytes =
        type == CPS_H5_U8 ? 1 : (type == CPS_H5_F32 || type == CPS_H5_I32 ? 4 : 8);
    size_t bytes = 0;
    if (!cps_mul_size((size_t)info.count, element_bytes, &bytes) || bytes > max_bytes) {
        return cps_fail(
            CPS_ERR_DATA,
            "'%s': '%s' declares %lld elements of %zu bytes, at most %zu bytes are read",
            file->path, name, (long long)info.count, element_bytes, max_bytes);
    }
    void *values = malloc(bytes > 0 ? bytes : 1);
    if (values == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "'%s': no memory for the %zu bytes of '%s'",
                        file->path, bytes, name);
    }
    const cps_status status = cps_h5_read(file, name, type, info.count, values);
    if (status != CPS_OK) {
        free(values);
        return status;
    }
    *values_out = values;
    *count_out = info.count;
    return CPS_OK;
}

/* ---- strings
 * ------------------------------------------------------------------------------------------------------
 */

static char *copy_text(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

/* Length of a fixed-length string of `bytes` bytes: up to the first NUL; padding blanks belong to
 * Fortran's. */
static size_t fixed_length(const char *text, size_t bytes, bool blank_padded) {
    size_t length = strnlen(text, bytes);
    while (blank_padded && length > 0 && text[length - 1] == ' ') {
        length -= 1;
    }
    return length;
}

/* One string type in memory, equal to that of the file but for the encoding's mark. */
static hid_t text_type(hid_t stored) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    const bool variable = H5Tis_variable_str(stored) > 0;
    if (type >= 0 && (H5Tset_size(type, variable ? H5T_VARIABLE : H5Tget_size(stored)) < 0 ||
                      H5Tset_cset(type, H5Tget_cset(stored)) < 0 ||
                      (!variable && H5Tset_strpad(type, H5Tget_strpad(stored)) < 0))) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

/* Turns `count` raw elements into malloc'ed strings; NULL when out of memory. */
static char **copy_strings(const char *raw, int64_t count, size_t element_bytes, bool variable,
                           bool blank_padded) {
    char **strings = calloc((size_t)count + 1, sizeof *strings);
    bool complete = strings != NULL;
    for (int64_t i = 0; complete && i < count; ++i) {
        if (variable) {
            const char *text = ((char *const *)(const void *)raw)[i];
            strings[i] = copy_text(text != NULL ? text : "", text != NULL ? strlen(text) : 0);
        } else {
            const char *text = raw + (size_t)i * element_bytes;
            strings[i] = copy_text(text, fixed_length(text, element_bytes, blank_padded));
        }
        complete = strings[i] != NULL;
    }
    if (!complete && strings != NULL) {
        cps_strings_destroy(strings, count);
        strings = NULL;
    }
    return strings;
}

typedef struct string_source {
    hid_t object; /* dataset or attribute */
    bool is_attribute;
    const char *name;
    int64_t count;
    hid_t space;
} string_source;

static cps_status read_strings_from(cps_h5 *file, const string_source *source, hid_t stored,
                                    char ***strings_out) {
    if (H5Tget_class(stored) != H5T_STRING) {
        return cps_fail(CPS_ERR_DATA, "'%s': '%s' holds no strings", file->path, source->name);
    }
    const bool variable = H5Tis_variable_str(stored) > 0;
    if (variable && file->strict) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': '%s' is a string of variable length, fixed length is wanted here "
                        "(h5py: numpy.bytes_)",
                        file->path, source->name);
    }
    const size_t element_bytes = variable ? sizeof(char *) : H5Tget_size(stored);
    size_t bytes = 0;
    if (!cps_mul_size((size_t)source->count, element_bytes, &bytes) || bytes > max_text_bytes) {
        return cps_fail(CPS_ERR_DATA, "'%s': '%s' declares %lld strings of %zu bytes: too large",
                        file->path, source->name, (long long)source->count, element_bytes);
    }
    const hid_t type = text_type(stored);
    char *raw = calloc(bytes + 1, 1);
    cps_status status = CPS_OK;
    if (type < 0 || raw == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "'%s': no memory for the strings of '%s'",
                          file->path, source->name);
    } else if (source->count > 0 &&
               (source->is_attribute
                    ? H5Aread(source->object, type, raw)
                    : H5Dread(source->object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, raw)) < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, source->name, "cannot be read");
    } else {
        char **strings = copy_strings(raw, source->count, element_bytes, variable,
                                      H5Tget_strpad(stored) == H5T_STR_SPACEPAD);
        if (variable && source->count > 0) {
            H5Dvlen_reclaim(type, source->space, H5P_DEFAULT, raw);
        }
        if (strings == NULL) {
            status = cps_fail(CPS_ERR_UNAVAILABLE, "'%s': no memory for the strings of '%s'",
                              file->path, source->name);
        } else {
            *strings_out = strings;
        }
    }
    free(raw);
    if (type >= 0) {
        H5Tclose(type);
    }
    return status;
}

static cps_status read_strings_locked(cps_h5 *file, const char *name, char ***strings_out,
                                      int64_t *count_out) {
    hid_t dataset = H5I_INVALID_HID;
    cps_h5_info info;
    CPS_TRY(cps_h5_open_dataset_locked(file, name, &dataset, &info));
    const hid_t stored = H5Dget_type(dataset);
    const hid_t space = H5Dget_space(dataset);
    cps_status status = CPS_OK;
    if (stored < 0 || space < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable type");
    } else {
        const string_source source = {
            .object = dataset, .name = name, .count = info.count, .space = space};
        status = read_strings_from(file, &source, stored, strings_out);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (stored >= 0) {
        H5Tclose(stored);
    }
    H5Dclose(dataset);
    if (status == CPS_OK) {
        *count_out = info.count;
    }
    return status;
}

cps_status cps_h5_read_strings(cps_h5 *file, const char *name, char ***strings_out,
                               int64_t *count_out) {
    cps_h5_lock();
    const cps_status status = read_strings_locked(file, name, strings_out, count_out);
    cps_h5_unlock();
    return status;
}

/* ---- attributes
 * ---------------------------------------------------------------------------------------------------
 */

static bool has_attribute_locked(cps_h5 *file, const char *object, const char *name) {
    cps_h5_info info;
    if (cps_h5_inspect_locked(file, object, &info) != CPS_OK || info.kind == CPS_H5_NONE) {
        return false;
    }
    const bool there = H5Aexists_by_name(file->id, object, name, H5P_DEFAULT) > 0;
    H5Eclear2(H5E_DEFAULT);
    return there;
}

bool cps_h5_has_attribute(cps_h5 *file, const char *object, const char *name) {
    cps_h5_lock();
    const bool there = has_attribute_locked(file, object, name);
    cps_h5_unlock();
    return there;
}

static cps_status open_attribute(cps_h5 *file, const char *object, const char *name,
                                 hid_t *attribute_out) {
    if (!has_attribute_locked(file, object, name)) {
        return cps_fail(CPS_ERR_DATA, "'%s': '%s' has no attribute '%s'", file->path, object, name);
    }
    const hid_t attribute = H5Aopen_by_name(file->id, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable attribute");
    }
    *attribute_out = attribute;
    return CPS_OK;
}

/* Reads exactly `count` numbers into memory of `type`; whole numbers only when the type is an
 * integer. */
static cps_status read_numbers_locked(cps_h5 *file, const char *object, const char *name,
                                      hid_t type, int64_t count, void *values_out) {
    hid_t attribute = H5I_INVALID_HID;
    CPS_TRY(open_attribute(file, object, name, &attribute));
    const hid_t stored = H5Aget_type(attribute);
    const hid_t space = H5Aget_space(attribute);
    const H5T_class_t class = stored >= 0 ? H5Tget_class(stored) : H5T_NO_CLASS;
    const bool whole = class == H5T_INTEGER || class == H5T_ENUM;
    const bool wants_whole = H5Tget_class(type) == H5T_INTEGER;
    const hssize_t there = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
    cps_status status = CPS_OK;
    if (!whole && (wants_whole || class != H5T_FLOAT)) {
        status = cps_fail(CPS_ERR_DATA, "'%s': attribute '%s' of '%s' is no %s", file->path, name,
                          object, wants_whole ? "integer" : "number");
    } else if (there != count) {
        status = cps_fail(CPS_ERR_DATA,
                          "'%s': attribute '%s' of '%s' holds %lld values, %lld are wanted",
                          file->path, name, object, (long long)there, (long long)count);
    } else if (wants_whole && H5Tget_sign(stored) == H5T_SGN_NONE && H5Tget_size(stored) >= 8) {
        status = cps_fail(CPS_ERR_DATA,
                          "'%s': attribute '%s' of '%s' is unsigned with 64 bits, a signed integer "
                          "is wanted",
                          file->path, name, object);
    } else if (H5Aread(attribute, type, values_out) < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "unreadable attribute");
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (stored >= 0) {
        H5Tclose(stored);
    }
    H5Aclose(attribute);
    return status;
}

cps_status cps_h5_read_numbers(cps_h5 *file, const char *object, const char *name, int64_t count,
                               double *values_out) {
    cps_h5_lock();
    const cps_status status =
        read_numbers_locked(file, object, name, H5T_NATIVE_DOUBLE, count, values_out);
    cps_h5_unlock();
    return status;
}

cps_status cps_h5_read_number(cps_h5 *file, const char *object, const char *name,
                              double *value_out) {
    return cps_h5_read_numbers(file, object, name, 1, value_out);
}

cps_status cps_h5_read_integer(cps_h5 *file, const char *object, const char *name,
                               int64_t *value_out) {
    cps_h5_lock();
    const cps_status status =
        read_numbers_locked(file, object, name, H5T_NATIVE_INT64, 1, value_out);
    cps_h5_unlock();
    return status;
}

static cps_status read_text_locked(cps_h5 *file, const char *object, const char *name,
                                   char **text_out) {
    hid_t attribute = H5I_INVALID_HID;
    CPS_TRY(open_attribute(file, object, name, &attribute));
    const hid_t stored = H5Aget_type(attribute);
    const hid_t space = H5Aget_space(attribute);
    char **strings = NULL;
    cps_status status = CPS_OK;
    if (stored < 0 || space < 0 || H5Sget_simple_extent_npoints(space) != 1) {
        status = cps_h5_fail_locked(file, CPS_ERR_DATA, name, "is not one text");
    } else {
        const string_source source = {
            .object = attribute, .is_attribute = true, .name = name, .count = 1, .space = space};
        status = read_strings_from(file, &source, stored, &strings);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (stored >= 0) {
        H5Tclose(stored);
    }
    H5Aclose(attribute);
    if (status == CPS_OK) {
        *text_out = strings[0];
        free(strings);
    }
    return status;
}

cps_status cps_h5_read_text(cps_h5 *file, const char *object, const char *name, char **text_out) {
    cps_h5_lock();
    const cps_status status = read_text_locked(file, object, name, text_out);
    cps_h5_unlock();
    return status;
}
