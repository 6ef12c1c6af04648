/* Golden vectors of BioCLIP: FILE holds numbers, JSON texts (without it the dataset `text_json` of
 * FILE, if there): vectors_bioclip FILE [JSON]. Cases are the paths of what is compared. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "arrays.h"
#include "bioclip.h"
#include "ranks.h"
#include "vectors.h"

static const size_t max_json_bytes = (size_t)256 << 20;

/* Keys of JSON that a part compares (shell patterns): the rest is `skip`. Of FILE, what no part
 * read through vectors.h (or named with vectors_know) is. */
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

/* The dataset `text_json`: one string, or its bytes. */
static cps_json *read_embedded(cps_h5 *file) {
    cps_h5_info info;
    vectors_need(cps_h5_inspect(file, "text_json", &info));
    if (info.kind != CPS_H5_DATASET) {
        return NULL;
    }
    void *bytes = NULL;
    int64_t count = 0;
    cps_json *json = NULL;
    vectors_know("text_json");
    if (info.type == CPS_H5_STRING) {
        char **texts = vectors_strings(file, "text_json", &count);
        if (count != 1) {
            vectors_unusable("'text_json' holds %lld texts, one is wanted", (long long)count);
        }
        vectors_need(cps_json_parse(texts[0], strlen(texts[0]), "text_json", &json));
        cps_strings_destroy(texts, count);
    } else {
        vectors_need(
            cps_h5_read_alloc(file, "text_json", CPS_H5_U8, max_json_bytes, &bytes, &count));
        vectors_need(cps_json_parse(bytes, (size_t)count, "text_json", &json));
        free(bytes);
    }
    return json;
}

int main(int argc, char **argv) {
    vectors_rank_main(argc, argv, bioclip_ranks);
    cps_h5 *file = vectors_open(argc, argv, 1, 2, "FILE [JSON]");
    cps_json *json = NULL;
    if (argc == 3) {
        vectors_need(cps_json_read_file(argv[2], max_json_bytes, &json));
    } else {
        json = read_embedded(file);
    }
    if (json != NULL && !cps_json_is_object(json)) {
        vectors_unusable("the texts are no JSON object");
    }

    bioclip_losses(file);
    bioclip_heads(file);
    bioclip_evaluation(file, json);
    bioclip_text(json);
    bioclip_predict(json);

    vectors_skip_unknown(file, "/");
    for (const cps_json *part = json != NULL ? cps_json_first(json) : NULL; part != NULL;
         part = cps_json_next(part)) {
        skip_unknown(json_keys, cps_json_key(part));
    }
    cps_json_destroy(json);
    vectors_need(cps_h5_close(file));
    return vectors_finish();
}
