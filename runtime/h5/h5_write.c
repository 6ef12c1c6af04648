/* Writing. Everything is stored so that equal calls give equal bytes: no time stamps, little-endian
 * types whatever the machine, contiguous datasets without fill values, groups made one by one
 * (those that the library makes on its own carry the time). */
#include "h5/h5.h"

#include "base/file.h"
#include "base/numeric.h"
#include "h5/h5_internal.h"

#include <stdlib.h>
#include <string.h>

static hid_t stored_type(cps_h5_type type) {
    switch (type) {
    case CPS_H5_F32:
        return H5T_IEEE_F32LE;
    case CPS_H5_F64:
        return H5T_IEEE_F64LE;
    case CPS_H5_I32:
        return H5T_STD_I32LE;
    case CPS_H5_I64:
        return H5T_STD_I64LE;
    case CPS_H5_U8:
        return H5T_STD_U8LE;
    case CPS_H5_U64:
        return H5T_STD_U64LE;
    case CPS_H5_F16:
    case CPS_H5_STRING:
    case CPS_H5_OTHER:
        break;
    }
    return H5I_INVALID_HID;
}

static cps_status make_one_group(cps_h5 *file, const char *name) {
    const hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    hid_t group = H5I_INVALID_HID;
    if (creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0) {
        group = H5Gcreate2(file->id, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    cps_status status = CPS_OK;
    if (group < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, name, "cannot make the group");
    } else {
        H5Gclose(group);
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    return status;
}

/* Makes the groups above the last component of `name`; with `whole`, that one too. */
static cps_status make_groups(cps_h5 *file, const char *name, bool whole) {
    cps_status status = CPS_OK;
    char *path = cps_format("%s", name);
    char *end = path;
    while (status == CPS_OK) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        if (*path == '\0' || (*end == '\0' && !whole)) {
            break;
        }
        const char kept = *end;
        *end = '\0';
        cps_h5_info info;
        status = cps_h5_inspect_locked(file, path, &info);
        if (status == CPS_OK && info.kind == CPS_H5_DATASET) {
            status = cps_fail(CPS_ERR_INTERNAL, "'%s': '%s' is a dataset, a group is wanted",
                              file->path, path);
        } else if (status == CPS_OK && info.kind == CPS_H5_NONE) {
            status = make_one_group(file, path);
        }
        *end = kept;
        if (kept == '\0') {
            break;
        }
    }
    free(path);
    return status;
}

cps_status cps_h5_make_group(cps_h5 *file, const char *name) {
    cps_h5_lock();
    const cps_status status = make_groups(file, name, true);
    cps_h5_unlock();
    return status;
}

/* A contiguous dataset that is allocated at once and holds nothing until written. */
static cps_status create_contiguous(cps_h5 *file, const char *name, hid_t type, hid_t space,
                                    hid_t *dataset_out) {
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    hid_t dataset = H5I_INVALID_HID;
    if (space >= 0 && creation >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0) {
        dataset = H5Dcreate2(file->id, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    cps_status status = CPS_OK;
    if (dataset < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, name, "cannot make the dataset");
    } else {
        *dataset_out = dataset;
    }
    if (creation >= 0) {
        H5Pclose(creation);
    }
    return status;
}

static cps_status write_dataset(cps_h5 *file, const char *name, hid_t stored, hid_t in_memory,
                                int32_t rank, const hsize_t *shape, const void *values) {
    CPS_TRY(make_groups(file, name, false));
    const hid_t space = rank > 0 ? H5Screate_simple(rank, shape, NULL) : H5Screate(H5S_SCALAR);
    hid_t dataset = H5I_INVALID_HID;
    cps_status status = create_contiguous(file, name, stored, space, &dataset);
    if (status == CPS_OK) {
        const bool empty = H5Sget_simple_extent_npoints(space) == 0;
        if (values != NULL && !empty &&
            H5Dwrite(dataset, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
            status = cps_h5_fail_locked(file, CPS_ERR_IO, name,
                                        "cannot write: is the disk or quota full?");
        }
        if (H5Dclose(dataset) < 0 && status == CPS_OK) {
            status = cps_h5_fail_locked(file, CPS_ERR_IO, name,
                                        "cannot write: is the disk or quota full?");
        }
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    return status;
}

/* IEEE half precision, little-endian: 1 sign, 5 exponent, 10 fraction bits; as h5py knows it. */
static hid_t new_half_type(void) {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 && (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 ||
                      H5Tset_ebias(type, 15) < 0)) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

static cps_status write_halves(cps_h5 *file, const char *name, int32_t rank, const hsize_t *shape,
                               const void *values) {
    const hid_t type = new_half_type();
    if (type < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_INTERNAL, name, "cannot make a type of 16 bits");
    }
    const cps_status status = write_dataset(file, name, type, type, rank, shape, values);
    H5Tclose(type);
    return status;
}

cps_status cps_h5_write(cps_h5 *file, const char *name, cps_h5_type type, int32_t rank,
                        const int64_t *shape, const void *values) {
    CPS_BUG_IF(rank < 0 || rank > CPS_H5_MAX_RANK);
    CPS_BUG_IF(type == CPS_H5_STRING || type == CPS_H5_OTHER);
    hsize_t extent[CPS_H5_MAX_RANK] = {0};
    for (int32_t i = 0; i < rank; ++i) {
        CPS_BUG_IF(shape[i] < 0);
        extent[i] = (hsize_t)shape[i];
    }
    cps_h5_lock();
    const cps_status status = type == CPS_H5_F16
                                  ? write_halves(file, name, rank, extent, values)
                                  : write_dataset(file, name, stored_type(type),
                                                  cps_h5_memory_type(type), rank, extent, values);
    cps_h5_unlock();
    return status;
}

/* ---- strings
 * ------------------------------------------------------------------------------------------------------
 */

/* UTF-8 of `bytes` bytes, padded with NUL. Never of variable length: such strings lie in a heap
 * without checksums, where a flipped bit makes HDF5 1.10 loop forever. */
static hid_t new_text_type(size_t bytes) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && (H5Tset_size(type, bytes) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0 ||
                      H5Tset_strpad(type, H5T_STR_NULLPAD) < 0)) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

static cps_status write_strings_locked(cps_h5 *file, const char *name, const char *raw,
                                       size_t longest, int64_t count) {
    const hid_t type = new_text_type(longest);
    if (type < 0) {
        return cps_h5_fail_locked(file, CPS_ERR_INTERNAL, name, "cannot make a string type");
    }
    const hsize_t shape[1] = {(hsize_t)count};
    const cps_status status = write_dataset(file, name, type, type, 1, shape, raw);
    H5Tclose(type);
    return status;
}

cps_status cps_h5_write_strings(cps_h5 *file, const char *name, const char *const *strings,
                                int64_t count) {
    size_t longest = 1; /* HDF5 has no strings of length 0 */
    for (int64_t i = 0; i < count; ++i) {
        const size_t length = strlen(strings[i]);
        longest = length > longest ? length : longest;
    }
    size_t bytes = 0;
    if (!cps_mul_size(longest, (size_t)count, &bytes)) {
        return cps_fail(CPS_ERR_INTERNAL, "'%s': the strings of '%s' are too large", file->path,
                        name);
    }
    char *raw = calloc(bytes + 1, 1);
    if (raw == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "'%s': no memory for the %zu bytes of '%s'",
                        file->path, bytes, name);
    }
    for (int64_t i = 0; i < count; ++i) {
        memcpy(raw + (size_t)i * longest, strings[i], strlen(strings[i]));
    }
    cps_h5_lock();
    const cps_status status = write_strings_locked(file, name, raw, longest, count);
    cps_h5_unlock();
    free(raw);
    return status;
}

/* ---- attributes
 * ---------------------------------------------------------------------------------------------------
 */

/* Replaces an attribute that is there already. */
static cps_status write_attribute(cps_h5 *file, const char *object, const char *name, hid_t stored,
                                  hid_t in_memory, const void *value) {
    cps_h5_info info;
    CPS_TRY(cps_h5_inspect_locked(file, object, &info));
    if (info.kind == CPS_H5_NONE) {
        return cps_fail(CPS_ERR_INTERNAL, "'%s': there is no '%s' to carry attribute '%s'",
                        file->path, object, name);
    }
    if (H5Aexists_by_name(file->id, object, name, H5P_DEFAULT) > 0) {
        H5Adelete_by_name(file->id, object, name, H5P_DEFAULT);
    }
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate_by_name(file->id, object, name, stored, space, H5P_DEFAULT,
                                              H5P_DEFAULT, H5P_DEFAULT);
    const bool written = attribute >= 0 && H5Awrite(attribute, in_memory, value) >= 0;
    cps_status status = CPS_OK;
    if (!written) {
        status = cps_h5_fail_locked(file, CPS_ERR_IO, name, "cannot write the attribute");
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    return status;
}

cps_status cps_h5_write_number(cps_h5 *file, const char *object, const char *name, double value) {
    cps_h5_lock();
    const cps_status status =
        write_attribute(file, object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
    cps_h5_unlock();
    return status;
}

cps_status cps_h5_write_integer(cps_h5 *file, const char *object, const char *name, int64_t value) {
    cps_h5_lock();
    const cps_status status =
        write_attribute(file, object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
    cps_h5_unlock();
    return status;
}

cps_status cps_h5_write_text(cps_h5 *file, const char *object, const char *name, const char *text) {
    const size_t length = strlen(text);
    cps_h5_lock();
    const hid_t type = new_text_type(length > 0 ? length : 1);
    cps_status status = CPS_OK;
    if (type < 0) {
        status = cps_h5_fail_locked(file, CPS_ERR_INTERNAL, name, "cannot make a string type");
    } else {
        status = write_attribute(file, object, name, type, type, text);
        H5Tclose(type);
    }
    cps_h5_unlock();
    return status;
}
