/* Folders become records. What a folder is shows from what lies in it: texts beside images
 * (name.jpg, name.txt) are captions; else the first folder on the way to an image is its class;
 * images at the top have neither. Class folders named as those of iNaturalist 2021 give the ranks
 * as well. */
#include "shards/plan.h"

#include "base/file.h"
#include "base/text.h"
#include "shards/folder.h"
#include "shards/taxon.h"

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

/* The class folder of an image, malloc'ed; NULL at the top. */
static char *class_folder(const char *image) {
    const char *slash = strchr(image, '/');
    return slash != NULL ? cps_format("%.*s", (int)(slash - image), image) : NULL;
}

static cps_status set_label(cps_plan *plan, int64_t record, const char *label) {
    int64_t at = 0;
    CPS_TRY(cps_plan_intern(plan, label, &at));
    cps_plan_record_at(plan, record)->label_name = at;
    return CPS_OK;
}

/* ---- iNaturalist 2021
 * ---------------------------------------------------------------------------------------------- */

/* Cuts NNNNN_Kingdom_Phylum_Class_Order_Family_Genus_species in place; ranks may be empty, genus
 * and species not. */
static bool cut_inat21(char *name, char *ranks[CPS_TAXON_RANKS]) {
    const size_t digits = strspn(name, "0123456789");
    if (digits != 5 || name[digits] != '_') {
        return false;
    }
    char *at = name + digits;
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        if (at == NULL) {
            return false;
        }
        *at = '\0';
        ranks[k] = at + 1;
        at = strchr(ranks[k], '_');
    }
    return at == NULL && *ranks[CPS_TAXON_GENUS] != '\0' && *ranks[CPS_TAXON_SPECIES] != '\0';
}

/* One class folder after another, sorted as the images are. */
typedef struct folder_walk {
    const cps_folder *found;
    int64_t next;
    char *name; /* malloc'ed */
} folder_walk;

static bool next_folder(folder_walk *walk) {
    while (walk->next < walk->found->image_count) {
        char *name = class_folder(walk->found->images[walk->next++]);
        if (name != NULL && (walk->name == NULL || strcmp(name, walk->name) != 0)) {
            free(walk->name);
            walk->name = name;
            return true;
        }
        free(name);
    }
    free(walk->name);
    walk->name = NULL;
    return false;
}

/* How many class folders there are, how many of them are named as iNat21's, and the first that is
 * not (malloc'ed, NULL: none). */
static void count_inat21(const cps_folder *found, int64_t *folders_out, int64_t *inat21_out,
                         char **other_out) {
    char *ranks[CPS_TAXON_RANKS];
    *folders_out = *inat21_out = 0;
    *other_out = NULL;
    for (folder_walk walk = {.found = found}; next_folder(&walk);) {
        char *copy = cps_format("%s", walk.name);
        const bool named = cut_inat21(copy, ranks);
        free(copy);
        *folders_out += 1;
        *inat21_out += named;
        if (!named && *other_out == NULL) {
            *other_out = cps_format("%s", walk.name);
        }
    }
}

static cps_status choose_naming(const char *source, const cps_folder *found,
                                cps_plan_folders wanted, bool *inat21_out, int64_t *count_out) {
    int64_t folders = 0;
    int64_t named = 0;
    char *other = NULL;
    cps_status status = CPS_OK;
    count_inat21(found, &folders, &named, &other);
    if (wanted == CPS_FOLDERS_INAT21 && named == 0) {
        status = cps_fail(CPS_ERR_USAGE,
                          "'%s': no class folder is named "
                          "NNNNN_Kingdom_Phylum_Class_Order_Family_Genus_species: name the folder "
                          "right above them, or say --folders plain",
                          source);
    } else if (wanted == CPS_FOLDERS_INAT21 && named < folders) {
        status = cps_fail(CPS_ERR_USAGE,
                          "'%s': %lld of %lld class folders are named NNNNN_Kingdom_..._species, "
                          "but not '%s': correct it, or say --folders plain",
                          source, (long long)named, (long long)folders, other);
    }
    free(other);
    *inat21_out = wanted != CPS_FOLDERS_PLAIN && folders > 0 && named == folders;
    *count_out = *inat21_out ? folders : 0;
    return status;
}

static cps_status set_inat21(cps_plan *plan, int64_t record, char *name) {
    char *ranks[CPS_TAXON_RANKS];
    if (!cut_inat21(name, ranks)) {
        return cps_fail(CPS_ERR_INTERNAL, "a class folder changed its name while it was read");
    }
    for (int32_t k = 0; k < CPS_TAXON_RANKS; ++k) {
        int32_t field = 0;
        CPS_TRY(cps_plan_add_field(plan, cps_taxon_rank_names[k], &field));
        CPS_TRY(cps_plan_add_text(plan, record, field, ranks[k]));
    }
    char *label = cps_format("%s %s", ranks[CPS_TAXON_GENUS], ranks[CPS_TAXON_SPECIES]);
    const cps_status status = set_label(plan, record, label);
    free(label);
    return status;
}

/* ---- the whole
 * ---------------------------------------------------------------------------------------------- */

static cps_status set_class(cps_plan *plan, int64_t record, const char *image, bool inat21) {
    char *name = class_folder(image);
    if (name == NULL) {
        return CPS_OK;
    }
    const cps_status status =
        inat21 ? set_inat21(plan, record, name) : set_label(plan, record, name);
    free(name);
    return status;
}

static cps_status add_images(cps_plan *plan, const char *source, const cps_folder *found,
                             bool inat21) {
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
        if (!pairs || inat21) {
            CPS_TRY(set_class(plan, record, image, inat21));
        }
        if (pairs) {
            char *path = caption_path(source, image);
            const cps_status status =
                cps_file_exists(path) ? add_captions(plan, record, path) : CPS_OK;
            free(path);
            CPS_TRY(status);
        }
    }
    return CPS_OK;
}

cps_status cps_plan_add_folder(cps_plan *plan, const char *path, cps_plan_folders folders,
                               int64_t *inat21_out) {
    cps_folder found = {0};
    bool inat21 = false;
    int64_t named = 0;
    cps_status status = cps_folder_scan(path, &found);
    if (status == CPS_OK && found.image_count == 0) {
        status = cps_fail(CPS_ERR_USAGE,
                          "'%s' holds 0 images (%lld text and %lld other files): pictures end in "
                          ".jpg, .jpeg or .png",
                          path, (long long)found.texts, (long long)found.others);
    }
    if (status == CPS_OK) {
        status = choose_naming(path, &found, folders, &inat21, &named);
    }
    if (status == CPS_OK) {
        status = add_images(plan, path, &found, inat21);
    }
    if (status == CPS_OK) {
        *inat21_out = named;
    }
    cps_folder_free(&found);
    return status;
}
