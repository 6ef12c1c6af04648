/* Golden vectors of BioCLIP: FILE holds numbers, JSON texts (without it the dataset `text_json` of
 * FILE, if there): vectors_bioclip FILE [JSON]. Cases are the paths of what is compared. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "bioclip.h"
#include "vectors.h"

static const size_t max_json_bytes = (size_t)256 << 20;

/* Groups of FILE and keys of JSON that a part compares (shell patterns): the rest is `skip`. */
static const char *const file_groups[] = {"text_json", NULL};
static const char *const json_keys[] = {"records",     "clean_name",         "strip_html",
                                        "class_index", "text_type_schedule", "treeoflife_200m",
                                        "upgrade",     "rank_aggregation",   NULL};

static bool is_handled(const char *const *patterns, const char *name) {
    for (; *patterns != NULL; patterns++) {
        if (cps_glob_match(*patterns, name)) {
            return true;
        }
    }
    return false;
}

static void skip_unknown(const char *const *patterns, const char *name) {
    if (!is_handled(patterns, name)) {
        vectors_skip(name, "this runner compares nothing of that name");
    }
}

static void need(cps_status status) {
    if (status != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
}

/* The dataset `text_json`: one string, or its bytes. */
static cps_json *read_embedded(cps_h5 *file) {
    cps_h5_info info;
    need(cps_h5_inspect(file, "text_json", &info));
    if (info.kind != CPS_H5_DATASET) {
        return NULL;
    }
    char **texts = NULL;
    void *bytes = NULL;
    int64_t count = 0;
    cps_json *json = NULL;
    if (info.type == CPS_H5_STRING) {
        need(cps_h5_read_strings(file, "text_json", &texts, &count));
        if (count != 1) {
            vectors_unusable("'text_json' holds %lld texts, one is wanted", (long long)count);
        }
        need(cps_json_parse(texts[0], strlen(texts[0]), "text_json", &json));
        cps_strings_destroy(texts, count);
    } else {
        need(cps_h5_read_alloc(file, "text_json", CPS_H5_U8, max_json_bytes, &bytes, &count));
        need(cps_json_parse(bytes, (size_t)count, "text_json", &json));
        free(bytes);
    }
    return json;
}

int main(int argc, char **argv) {
    cps_h5 *file = vectors_open(argc, argv, 1, 2, "FILE [JSON]");
    cps_json *json = NULL;
    if (argc == 3) {
        need(cps_json_read_file(argv[2], max_json_bytes, &json));
    } else {
        json = read_embedded(file);
    }
    if (json != NULL && !cps_json_is_object(json)) {
        vectors_unusable("the texts are no JSON object");
    }

    bioclip_text(json);
    bioclip_predict(json);

    char **groups = NULL;
    int64_t count = 0;
    need(cps_h5_list(file, "/", &groups, &count));
    for (int64_t i = 0; i < count; i++) {
        skip_unknown(file_groups, groups[i]);
    }
    cps_strings_destroy(groups, count);
    for (const cps_json *part = json != NULL ? cps_json_first(json) : NULL; part != NULL;
         part = cps_json_next(part)) {
        skip_unknown(json_keys, cps_json_key(part));
    }
    cps_json_destroy(json);
    need(cps_h5_close(file));
    return vectors_finish();
}
